"""What the section of the filters by themselves shows, from report.json."""

from __future__ import annotations

from typing import Any

from curate.page.texts import share


def alone(report: dict[str, Any]) -> dict[str, Any] | None:
    """The section; None where no step is a filter."""
    probe = report["probe"]
    measured = {one["filter"]: one for one in probe["filters"]}
    filters = [step for step in report["steps"] if step["role"] == "filter"]
    if not filters:
        return None
    return {
        **probe,
        "interval": interval,
        "rows_of_table": [_row(step, measured.get(step["name"])) for step in filters],
        "unmeasured": _by_reason(probe["not_measured"]),
        "correlations": [one for one in probe["correlations"] if one["rho"] is not None],
    }


def interval(estimate: dict[str, Any]) -> str:
    """11.6 to 12.0 %."""
    return f"{share(estimate['low']).removesuffix(' %')} to {share(estimate['high'])}"


def _row(step: dict[str, Any], measured: dict[str, Any] | None) -> dict[str, Any]:
    """A filter in order, which is exact, and by itself, if that was measured."""
    removed = sum(step["removed"].values())
    return {"name": step["name"], "in": step["in"], "removed": removed, "measured": measured}


def _by_reason(unmeasured: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(why, names) of the filters that were not measured, in the order of the pipeline."""
    found: dict[str, list[str]] = {}
    for one in unmeasured:
        found.setdefault(one["why"], []).append(one["filter"])
    return list(found.items())
