"""The funnel: what each step got, kept, removed and lost, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import clock
from curate.page.texts import many, points


def funnel(report: dict[str, Any], timing: Mapping[str, Any]) -> list[dict[str, Any]]:
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
    times = clock.steps(timing)
    found = []
    for number, step in enumerate([pool, *report["steps"]]):
        removed, lost = sum(step["removed"].values()), sum(step["lost"].values())
        sides = (("kept", step["kept"]), ("removed", removed), ("lost", lost))
        found.append(
            {
                **step,
                "number": number,
                "removed_rows": removed,
                "lost_rows": lost,
                "widths": [(side, 100 * part / rows) for side, part in sides if part],
                "time": times.get(step["name"]),
                "published": _published(step, rows),
            }
        )
    return found


def _published(step: Mapping[str, Any], rows: int) -> dict[str, Any] | None:
    """What a paper says that the step leaves of the pool, and how far ours is from it."""
    told = step.get("published")
    if not told:
        return None
    return {**told, "change": points(step["kept"] / rows - told["share"]) if rows else "-"}


def reasons(funnel: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every reason of every step, the commonest first."""
    found = [
        {"step": step["name"], "reason": reason, "rows": rows, "fate": fate, "in": step["in"]}
        for step in funnel
        for fate in ("removed", "lost")
        for reason, rows in step[fate].items()
    ]
    return sorted(found, key=lambda one: (-one["rows"], one["step"], one["fate"], one["reason"]))
