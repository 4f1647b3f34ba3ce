"""What a page says of the samples that it shows: by chance, by tenths of scores, as duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import Place
from curate.page.texts import many

TENTHS = 10
OPEN_GROUPS = 12  # of a filter of duplicates; the rest is folded
_RANGE = "-"  # in the name of a bin of sizes


def shown(gallery: Mapping[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    """A gallery of report.json with its pictures.

    Each sample gets `picture`: a data URI, "" where the page had no room for it, or None where
    there is none. `pictured` says whether any could have one: before a download nobody has, and a
    list of captions then reads better than blank cards.
    """
    samples = [_with_picture(sample, pictures) for sample in gallery["samples"]]
    return {**gallery, "samples": samples, "pictured": _pictured(samples)}


def _with_picture(sample: Mapping[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    return {**sample, "picture": pictures.get((sample["shard"], sample["row"]))}


def _pictured(samples: list[dict[str, Any]]) -> bool:
    return any(sample["tar"] is not None for sample in samples)


def left_out(pictures: Mapping[Place, str]) -> int:
    """How many samples have a picture that the page had no room for."""
    return sum(not uri for uri in pictures.values())


def kept_by_run(report: dict[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any] | None:
    """Some of those that the whole run kept; None where it kept nobody."""
    own = (gallery for gallery in report["examples"] if gallery["step"] is None)
    return next((shown(gallery, pictures) for gallery in own), None)


def scores(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """Each score of which tenths are shown: `step`, `filter`, `score`, and `tenths` from low.

    A tenth goes `until` the one before the next that has any samples.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for gallery in report["examples"]:
        if gallery["chosen"] != "decile":
            continue
        place = (gallery["step"], gallery["score"])
        about = {name: gallery[name] for name in ("step", "filter", "score")}
        found.setdefault(place, {**about, "tenths": []})["tenths"].append(shown(gallery, pictures))
    for each in found.values():
        firsts = [tenth["decile"] for tenth in each["tenths"]]
        for tenth, after in zip(each["tenths"], [*firsts[1:], TENTHS + 1], strict=True):
            tenth["until"] = after - 1  # equal scores are all in the first of theirs
        each["pictured"] = any(tenth["pictured"] for tenth in each["tenths"])
    # What says how near the nearest other is tells less of a picture than any other score.
    last = {own["step"] for own in report["duplicates"]}
    return sorted(found.values(), key=lambda each: each["step"] in last)


def duplicates(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """Each filter of duplicates; `first` and `rest` are its largest groups."""
    found = []
    for own in report["duplicates"]:
        groups = [_group(group, own["unit"], pictures) for group in own["largest"]]
        found.append(
            {
                **own,
                "bins": [_bin(name, groups) for name, groups in own["sizes"].items()],
                "first": groups[:OPEN_GROUPS],
                "rest": groups[OPEN_GROUPS:],
            }
        )
        found[-1]["bins"].sort(key=lambda each: each["low"])
    return found


def _bin(name: str, groups: int) -> dict[str, Any]:
    low, _, high = name.partition(_RANGE)
    return {"low": int(low), "high": int(high or low), "groups": groups}


def _group(
    group: dict[str, Any], unit: str | None, pictures: Mapping[Place, str]
) -> dict[str, Any]:
    removed = [
        {**_with_picture(sample, pictures), "alike": _alike(value, unit)}
        for sample, value in zip(group["removed"], group["similarity"], strict=True)
    ]
    kept = None if group["kept"] is None else _with_picture(group["kept"], pictures)
    samples = removed + ([kept] if kept is not None else [])
    more = group["size"] - 1 - len(removed)
    return {**group, "kept": kept, "removed": removed, "more": more, "pictured": _pictured(samples)}


def _alike(value: float | None, unit: str | None) -> str | None:
    """A likeness in short: `0.9731`, a cosine; `3 bits`."""
    if value is None:
        return None
    return many(round(value), "bit") if unit == "bits" else f"{value:.4f}"
