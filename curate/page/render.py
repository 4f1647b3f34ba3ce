"""report.json -> the page of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from curate.page.charts.scores import curve_chart, histogram_chart
from curate.page.document import document
from curate.page.texts import many

REASONS = 200  # rows of the tables of reasons and of damaged shards

Place = tuple[int, int]  # shard of the pool, row of the shard


def render(
    report: dict[str, Any],
    pictures: Mapping[Place, str],
    timing: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page; its numbers come from report.json alone, but for times and rates.

    Args:
        report: As in report.json.
        pictures: {(shard, row): data URI of a small picture}.
        timing: As in timing.json; without it the page has no times.
    """
    given = {
        "report": report,
        "totals": report["totals"],
        "timing": list(timing),
        "pictures": pictures,
        "notes": notes(report),
        "funnel": funnel(report),
        "reasons": reasons(report),
        "sections": sections(report, pictures),
        "most_reasons": REASONS,
        "histogram_chart": histogram_chart,
        "curve_chart": curve_chart,
    }
    return document("report.html.j2", given)


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know first: what is missing, and what was lost."""
    totals, steps, pool = report["totals"], report["steps"], report["pool"]
    found = []
    if totals["rows"] == 0:
        found.append("The pool has no rows, so there is nothing to keep or to remove.")
    elif totals["kept"] == 0:
        last = next((step["name"] for step in steps if not step["kept"]), None)
        why = f"the last ones went at step “{last}”" if totals["usable"] else "no row was usable"
        found.append(f"Nothing was kept: {why}.")
    elif totals["kept"] == totals["rows"]:
        found.append("Everything was kept: no step removed a sample.")
    if totals["lost"]:
        found.append(
            f"Lost to failed work of our own, not by a filter: {many(totals['lost'], 'sample')}. "
            "The same command again retries them."
        )
    if pool["damaged"]:
        found.append(
            f"Damaged: {many(len(pool['damaged']), 'shard')}, listed below. What could not be read "
            "of them is not counted here."
        )
    if not any(step["role"] == "filter" for step in steps):
        found.append("This pipeline has no filter.")
    given = any(source["kind"].endswith("shards") for source in pool["sources"])
    if not given and not any(step["role"] == "download" for step in steps):
        found.append("There are no pictures: the pool has none, and no step downloads them.")
    return found


def funnel(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the pool and for each step: counts, reasons, and the widths of its bar in %."""
    rows = report["totals"]["rows"]
    pool = {
        "name": "pool",
        "kind": many(report["pool"]["shards"], "shard"),
        "role": "pool",
        "in": rows,
        "kept": report["totals"]["usable"],
        "removed": report["pool"]["unusable"],
        "lost": {},
        "copies": report["totals"]["usable"],
    }
    found = []
    for step in [pool, *report["steps"]]:
        removed, lost = sum(step["removed"].values()), sum(step["lost"].values())
        widths = [
            (name, 100 * part / rows)
            for name, part in (("kept", step["kept"]), ("removed", removed), ("lost", lost))
            if part
        ]
        found.append({**step, "removed_rows": removed, "lost_rows": lost, "widths": widths})
    return found


def reasons(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reason of every step, the commonest first."""
    found = [
        {"step": step["name"], "reason": reason, "rows": rows, "fate": fate, "in": step["in"]}
        for step in funnel(report)
        for fate in ("removed", "lost")
        for reason, rows in step[fate].items()
    ]
    return sorted(found, key=lambda one: (-one["rows"], one["step"], one["fate"], one["reason"]))


def sections(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """A section for each filter step: its histograms, and its galleries in pairs."""
    found = []
    for step in report["steps"]:
        if step["role"] != "filter":
            continue
        own = [g for g in report["examples"] if g["step"] == step["name"]]
        found.append(
            {
                "step": step,
                "settings": _settings(step["recipe"]),
                "histograms": [h for h in report["histograms"] if h["step"] == step["name"]],
                "galleries": [_gallery(gallery, pictures) for gallery in own],
            }
        )
    return found


def _settings(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What the pipeline file says of a step, in short."""
    told = {k: v for k, v in recipe.items() if k not in ("kind", "name", "version", "steps")}
    return [
        (key, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        for key, value in sorted(told.items())
        if value not in (None, [], "") and not key.startswith(("resolved.", "plugin_"))
    ]


def _gallery(gallery: dict[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    samples = [
        {**sample, "picture": pictures.get((sample["shard"], sample["row"]))}
        for sample in gallery["samples"]
    ]
    # Before a download nobody has a picture: a list of captions then reads better than blank cards.
    expected = any(sample["tar"] is not None for sample in samples)
    return {**gallery, "samples": samples, "pictured": expected}
