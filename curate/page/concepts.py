"""What a page says of concepts and of named classes, derived from report.json."""

from __future__ import annotations

from typing import Any


def concept_sections(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each `concepts` step, with the lines of its curve, the rows of its table, and its t."""
    return [
        {**own, "lines": lines(own), "rows": stages(own), "thresholds": thresholds(own)}
        for own in report["concepts"]
    ]


def lines(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages that are drawn: the first, and those that changed what entries have."""
    found: list[dict[str, Any]] = []
    for stage, samples in zip(own["stages"], own["curve"]["samples"], strict=True):
        if not found or samples != found[-1]["samples"]:
            found.append({"name": stage["after"], "samples": samples})
    return found


def stages(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages, each with what the tail has of it."""
    tail = own["tail"]
    return [
        {
            **stage,
            "unmatched_of": stage["samples"] - stage["unscored"],
            "tail_hit": tail["hit"][place],
            "tail_matches": tail["matches"][place],
            "tail_samples": tail["samples"][place],
            "match_share": tail["match_share"][place],
            "sample_share": tail["sample_share"][place],
        }
        for place, stage in enumerate(own["stages"])
    ]


def thresholds(own: dict[str, Any]) -> list[float]:
    """t of the balances, each once, ascending; two of one whose t differs by language."""
    return sorted({t for balance in own["balances"] for t in balance["t"] if t is not None})


def class_section(report: dict[str, Any]) -> dict[str, Any] | None:
    """The named classes: `rows` are those that changed most, with shares of all samples."""
    own = report["classes"]
    if own is None:
        return None
    pool, kept = own["samples"]["before"], own["samples"]["after"]
    rows = [_moved(row, pool, kept) for row in own["shifted"]]
    sides = zip(("pool", "subset"), own["curve"]["samples"], strict=True)
    curve = [{"name": name, "samples": samples} for name, samples in sides]
    return {**own, "rows": rows, "lines": curve}


def _moved(row: dict[str, Any], pool: int, kept: int) -> dict[str, Any]:
    before = row["before"] / pool if pool else 0.0
    after = row["after"] / kept if kept else 0.0
    times = after / before if before else None
    return {**row, "share_before": before, "share_after": after, "times": times}
