"""What a page says of each filter: its settings, its scores with thresholds, who went and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from curate.page import Place
from curate.page.charts.scores import bars_of, curve_of

SHARES = (0.1, 0.2, 0.3, 0.5)  # of the scored samples: which thresholds would keep them is said


def sections(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """A section for each filter step: its histograms, and its galleries in pairs."""
    found = []
    for number, step in enumerate(report["steps"], start=1):
        if step["role"] != "filter":
            continue
        own = [
            g
            for g in report["examples"]
            if g["step"] == step["name"] and g["chosen"] != "decile"  # those are with the pictures
        ]
        found.append(
            {
                "number": number,  # as in the funnel, whose first row is the pool
                "step": step,
                "settings": _settings(step["recipe"]),
                "histograms": [
                    {**h, "stays": _stays(h), "bars": bars_of(h)}
                    for h in report["histograms"]
                    if h["step"] == step["name"]
                ],
                "galleries": [_gallery(gallery, pictures) for gallery in own],
            }
        )
    return found


def _settings(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What the pipeline file says of a step, in short."""
    told = {k: v for k, v in recipe.items() if k not in ("kind", "name", "version", "steps")}
    return [
        (key, _setting(value))
        for key, value in sorted(told.items())
        if value not in (None, [], "") and not key.startswith(("resolved.", "plugin_"))
    ]


def _setting(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value, sort_keys=True)


def _stays(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    """For each of SHARES, the edge of a bin whose share is nearest; its count is exact.

    The higher edge where two are equally near. A share that no edge comes near (ties of many
    samples) is answered by the edge that there is, with what it would really keep.
    """
    if histogram["low"] is None or histogram["keeps"] is None:
        return []
    curve = curve_of(histogram)
    # At the last edge are those that have the highest score; at the first nobody is below.
    curve = curve[1:] if histogram["keeps"] == "low" else curve[:-1]
    whole = max(rows for _, rows in curve)
    found = []
    for share in SHARES:
        threshold, rows = min(curve, key=lambda at: (abs(at[1] / whole - share), -at[0]))
        if histogram["whole"]:
            threshold = (math.floor if histogram["keeps"] == "low" else math.ceil)(threshold)
        found.append({"wanted": share, "threshold": threshold, "rows": rows, "of": whole})
    return found


def _gallery(gallery: dict[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    samples = [
        {**sample, "picture": pictures.get((sample["shard"], sample["row"]))}
        for sample in gallery["samples"]
    ]
    # Before a download nobody has a picture: a list of captions then reads better than blank cards.
    expected = any(sample["tar"] is not None for sample in samples)
    return {**gallery, "samples": samples, "pictured": expected}
