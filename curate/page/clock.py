"""timing.json -> how long a run took, at which rates, on how many GPU-hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page.texts import duration


def steps(timing: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{step: its `time`, `rate` and `gpu_hours`}, in words; empty where it has none.

    What scores or fetches is computed once and kept, so its cost is that of all runs of the work
    folder; of anything else, that of the run at hand.
    """
    here = {
        one["step"]: {"time": duration(one["ended"] - one["began"]), "rate": "", "gpu_hours": ""}
        for one in timing.get("steps", ())
        if one.get("ended") is not None
    }
    kept = {name: _cost(cost) for name, cost in timing.get("all_runs", {}).items()}
    return {**here, **kept}


def _cost(cost: Mapping[str, float]) -> dict[str, str]:
    seconds, hours = cost["wall_seconds"], cost.get("gpu_seconds", 0.0) / 3600
    return {
        "time": duration(seconds),
        "rate": f"{_rate(cost['rows'] / seconds)} rows/s" if seconds > 0 else "",
        "gpu_hours": _hours(hours) if hours else "",
    }


def _rate(rows_per_second: float) -> str:
    return f"{rows_per_second:,.0f}" if rows_per_second >= 10 else f"{rows_per_second:.2g}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def whole(timing: Mapping[str, Any]) -> dict[str, Any]:
    """`time` of the run at hand, `gpu_hours` of all runs, `versions`; empty without times."""
    ended = [one for one in timing.get("steps", ()) if one.get("ended") is not None]
    if not ended:
        return {}
    first, last = min(one["began"] for one in ended), max(one["ended"] for one in ended)
    seconds = sum(cost.get("gpu_seconds", 0.0) for cost in timing.get("all_runs", {}).values())
    return {
        "time": duration(last - first),
        "gpu_hours": _hours(seconds / 3600) if seconds else "",
        "versions": timing.get("versions", {}),
    }
