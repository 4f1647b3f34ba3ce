"""What the section of losses shows, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import Place


def losses(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """Each kind of loss, its examples as a gallery."""
    return [_loss(loss, pictures) for loss in report["losses"]]


def _loss(loss: dict[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    samples = [
        {**sample, "score": None, "picture": pictures.get((sample["shard"], sample["row"]))}
        for sample in loss["examples"]
    ]
    pictured = any(sample["picture"] for sample in samples)
    gallery = {"samples": samples, "pictured": pictured, "score": None, "side": "removed"}
    return {**loss, "gallery": {**gallery, "step": loss["step"]}}
