"""diff.json -> the page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import Place
from curate.page.charts.diff import lean_chart, mirror_chart
from curate.page.document import document
from curate.page.texts import many

Json = dict[str, Any]

_OTHER = {"a": "b", "b": "a"}
_GROUPS = {
    "only_a": "what only A kept",
    "only_b": "what only B kept",
    "kept_a": "all that A kept",
    "kept_b": "all that B kept",
}


def render(report: Json, pictures: Mapping[str, Mapping[Place, str]]) -> str:
    """The page; its numbers come from diff.json alone.

    Args:
        report: As in diff.json.
        pictures: {`a` or `b`: {(shard, row): data URI of a small picture}}.
    """
    given = {
        "report": report,
        "sets": report["sets"],
        "pictures": pictures,
        "notes": notes(report),
        "widths": widths(report["sets"]),
        "steps": [_step(step, report) for step in report["steps"]],
        "galleries": [_gallery(gallery, pictures) for gallery in report["galleries"]],
        "leanings": [_leaning(one) for one in _leanings(report)],
        "other": _OTHER,
        "mirror_chart": mirror_chart,
        "lean_chart": lean_chart,
        "size_of": size_of,
    }
    return document("diff.html.j2", given)


def notes(report: Json) -> list[str]:
    """What a reader must know first."""
    found = [*_about_sets(report)]
    if report["pool"] == "other":
        found.append(
            "The two runs began with different rows: samples are matched by uid, and what became "
            "of those that the other run never saw is said as “not in its pool”."
        )
    if report["pool"] == "unknown":
        kinds = [report[letter]["kind"] for letter in ("a", "b")]
        if kinds == ["subset", "subset"]:
            found.append(
                "Both sides are subset files, which hold uids alone: they are counted, and nothing "
                "can be said of captions, pictures and reasons. Give the work folder of a run on "
                "one side to see those samples that its pool has."
            )
        else:
            letter, run = ("A", "B") if kinds[0] == "subset" else ("B", "A")
            found.append(
                f"{letter} is a subset file, which holds uids alone: its samples are looked up in "
                f"the pool of {run}, where columns have values only as far as {run} scored them."
            )
    return found


def _about_sets(report: Json) -> list[str]:
    sets = report["sets"]
    uids = [report[letter]["uids"] for letter in ("a", "b")]
    found = [f"{letter} kept nothing." for letter, n in zip("AB", uids, strict=True) if not n]
    only = sets["uids_only_a"] + sets["uids_only_b"]
    if not any(uids):
        return found
    if not only:
        other = sets["uids_with_other_copies"]
        same = "A and B kept the same samples"
        found.append(f"{same}, {many(other, 'of them')} in other numbers." if other else f"{same}.")
    elif not sets["uids_in_both"] and all(uids):
        found.append("A and B have no sample in common.")
    return found


def widths(sets: Json) -> list[tuple[str, float, int, str]]:
    """(class, width in %, uids, words) of each part of the bar of both sets."""
    parts = (
        ("side-a", sets["uids_only_a"], "only A"),
        ("side-both", sets["uids_in_both"], "both"),
        ("side-b", sets["uids_only_b"], "only B"),
    )
    whole = sum(uids for _, uids, _ in parts)
    return [(name, 100 * uids / whole, uids, words) for name, uids, words in parts if uids]


def _step(step: Json, report: Json) -> Json:
    sides = []
    for letter in ("a", "b"):
        own, rows = step[letter], report[letter]["pool_rows"]
        width = 100 * own["kept"] / rows if own is not None and rows else 0.0
        gone = 100 * (own["removed"] + own["lost"]) / rows if own is not None and rows else 0.0
        sides.append({"letter": letter, "own": own, "width": width, "gone": gone, "rows": rows})
    present = [side["own"] for side in sides if side["own"] is not None]
    quiet = all(not own["removed"] and not own["lost"] for own in present)
    return {**step, "sides": sides, "quiet": quiet}


def _gallery(gallery: Json, pictures: Mapping[str, Mapping[Place, str]]) -> Json:
    own = pictures.get(gallery["of"], {})
    samples = [
        {**sample, "picture": own.get((sample["shard"], sample["row"]))}
        for sample in gallery["samples"]
    ]
    pictured = any(sample["tar"] is not None for sample in samples)
    return {**gallery, "samples": samples, "pictured": pictured}


def _leanings(report: Json) -> list[Json]:
    return [*([report["words"]] if report["words"] is not None else []), *report["concepts"]]


def _leaning(one: Json) -> Json:
    groups = [_GROUPS[group] for group in one["groups"]]
    noun = "entry" if one["step"] else "word"
    return {**one, "who": groups, "noun": noun, "nouns": "entries" if one["step"] else "words"}


def size_of(d: Json | None) -> str:
    """How large Cohen (1988) would call a difference, in words."""
    if d is None:
        return ""
    value = abs(d["value"])
    limits = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))
    return next((word for limit, word in limits if value < limit), "large")
