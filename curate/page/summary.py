"""The first screen of a report: what came of the run, what is wrong, and what made it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from curate.page.texts import count, many, share

SAMPLES_SEEN = {"small": "12.8 M", "medium": "128 M", "large": "1.28 G", "xlarge": "12.8 G"}
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Note:
    """Something that a reader must know before the numbers."""

    text: str
    weight: Literal["problem", "remark"]


def notes(report: dict[str, Any]) -> list[Note]:
    """What is missing, and what was lost: problems first."""
    return [
        *(Note(text, "problem") for text in _problems(report)),
        *(Note(text, "remark") for text in _remarks(report)),
    ]


def _problems(report: dict[str, Any]) -> Iterator[str]:
    totals, pool = report["totals"], report["pool"]
    if report["unfinished"]:
        reached = report["unfinished"]["reached"]
        names = ", ".join(f"“{name}”" for name in not_reached(report)) or "ledger and subset"
        decided = f"it decided up to “{reached}”" if reached else "it decided nothing"
        yield (
            f"This run did not finish: {decided}. Not reached: {names}. What is called kept here "
            "is what is still in."
        )
    if totals["rows"] == 0:
        yield "The pool has no rows, so there is nothing to keep or to remove."
    elif totals["kept"] == 0:
        last = next((step["name"] for step in report["steps"] if not step["kept"]), None)
        why = f"the last ones went at step “{last}”" if totals["usable"] else "no row was usable"
        yield f"Nothing was kept: {why}."
    if totals["lost"]:
        yield (
            f"Lost to failed work of our own, not by a filter: {many(totals['lost'], 'sample')}. "
            "The same command again retries them."
        )
    if pool["damaged"]:
        yield (
            f"Damaged: {many(len(pool['damaged']), 'shard')}, listed below. What could not be read "
            "of them is not counted here."
        )


def _remarks(report: dict[str, Any]) -> Iterator[str]:
    totals, steps = report["totals"], report["steps"]
    if report["extent"] == "brief":
        yield "This report is brief: `curate report WORK` adds pictures, and who is in it."
    if totals["rows"] and totals["kept"] == totals["rows"]:
        yield "Everything was kept: no step removed a sample."
    if not any(step["role"] == "filter" for step in steps):
        yield "This pipeline has no filter."
    given = any(source["kind"].endswith("shards") for source in report["pool"]["sources"])
    if not given and not any(step["role"] == "download" for step in steps):
        yield "There are no pictures: the pool has none, and no step downloads them."


def not_reached(report: dict[str, Any]) -> list[str]:
    """Names of the steps that an unfinished run did not come to."""
    return list(report["unfinished"]["not_reached"]) if report["unfinished"] else []


def headline(report: dict[str, Any]) -> str:
    """The step that cost most, in a sentence; empty where nothing was removed."""
    cuts = [(sum(step["removed"].values()), step["name"]) for step in report["steps"]]
    rows, name = max(cuts, key=lambda cut: cut[0], default=(0, ""))
    if not rows:
        return ""
    pool = report["totals"]["rows"]
    return f"The largest cut is “{name}”, which removed {count(rows)} ({share(rows, pool)})."


def tiles(report: dict[str, Any]) -> list[dict[str, str]]:
    """The totals, each with a word on what it is a share of."""
    totals = report["totals"]
    rows, kept, copies = totals["rows"], totals["kept"], totals["copies"]
    unusable = rows - totals["usable"]
    found = [
        ("rows", "In the pool", rows, f"{count(unusable)} of no use" if unusable else "all usable"),
        (
            "kept",
            "Still in" if report["unfinished"] else "Kept",
            kept,
            f"{share(kept, rows)} of the pool",
        ),
        ("removed", "Removed", totals["removed"], f"{share(totals['removed'], rows)} of the pool"),
        ("lost", "Lost", totals["lost"], share(totals["lost"], rows) if totals["lost"] else "none"),
        ("copies", "Copies", copies, f"{copies / kept:.3g} for each kept" if kept else "none"),
        ("unique_uids", "Different uids", totals["unique_uids"], _repeated(totals)),
    ]
    return [
        {"of": of, "label": label, "value": count(value), "note": note}
        for of, label, value, note in found
    ]


def _repeated(totals: dict[str, Any]) -> str:
    """How many of the copies kept have a uid that another one has."""
    if totals["unique_uids"] is None:
        return "once the run is done"
    if totals["copies"] == totals["unique_uids"]:
        return "none twice"
    return f"{count(totals['copies'] - totals['unique_uids'])} of the copies repeat one"


def epochs(report: dict[str, Any]) -> list[dict[str, str]]:
    """How often each of DataComp's budgets goes through the copies kept."""
    found = report["totals"]["epochs"]
    return [
        {"scale": scale, "seen": seen, "epochs": _times(found[scale])}
        for scale, seen in SAMPLES_SEEN.items()
    ]


def _times(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def models(report: dict[str, Any]) -> list[dict[str, str]]:
    """Every file that a step was made with, by the hash that its recipe has."""
    return [
        {"step": step["name"], "what": what, "digest": digest}
        for step in report["steps"]
        for what, digest in _digests(step["recipe"])
    ]


def _digests(recipe: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in sorted(recipe.items()):
        if isinstance(value, Mapping):
            yield from _digests(value, f"{path}{key}.")
        elif "sha256" in key and isinstance(value, str) and _DIGEST.fullmatch(value):
            yield f"{path}{key}".replace("_sha256", "").removesuffix(".sha256"), value


def agreement(report: dict[str, Any]) -> dict[str, Any] | None:
    """How many steps leave what was published for them; None where nothing was."""
    told = [step["published"] for step in report["steps"] if step.get("published")]
    if not told:
        return None
    return {
        "steps": len(told),
        "off": sum(one["off"] for one in told),
        "sources": sorted({one["source"] for one in told}),
    }
