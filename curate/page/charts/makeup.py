"""Pool beside subset: bars of values, the distribution of a number, scores of groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

Chart = alt.LayerChart | alt.FacetChart

_SIDES = alt.Scale(domain=["pool", "subset"], range=["var(--soft)", "var(--kept)"])
_ROW_PX = 30  # of a value, with its two bars
_GROUP_PX = 24  # of a group
_PLOT_PX = 130
_ONE_VALUE = 1e-9  # half the width of the only bin, as a share of the value


def bars_chart(words: dict[str, Any]) -> Chart | None:
    """The share of each value in pool and subset; None without one."""
    bars = [
        {"value": value["name"], "side": side, "samples": value[key], "share": value[key] / whole}
        for value in words["drawn"]
        for side, key, whole in (
            ("pool", "pool", words["rows"]),
            ("subset", "kept", words["kept"]),
        )
        if whole
    ]
    if not bars:
        return None
    names = [value["name"] for value in words["drawn"]]
    chart = (
        alt.Chart(alt.InlineData(values=bars))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("share:Q", title=None, axis=alt.Axis(format="%", tickCount=4)),
            y=alt.Y("value:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False)),
            yOffset=alt.YOffset("side:N", sort=["pool", "subset"]),
            color=alt.Color("side:N", scale=_SIDES, legend=None),
            tooltip=[
                alt.Tooltip("value:N"),
                alt.Tooltip("side:N"),
                alt.Tooltip("samples:Q", format=","),
                alt.Tooltip("share:Q", format=".2%"),
            ],
        )
    )
    return alt.layer(chart).properties(width="container", height=_ROW_PX * len(names))


def distribution_chart(numbers: dict[str, Any]) -> Chart | None:
    """The share of each bin in pool (filled) and subset (a line); None where nobody has a value."""
    edges = _drawn_edges(numbers["edges"], numbers["scale"])
    whole = {side: sum(numbers[f"{side}_bins"]) for side in ("pool", "kept")}
    if len(edges) < 2 or not whole["pool"]:
        return None
    bins = []
    for place, (low, high) in enumerate(pairwise(edges)):
        pool, kept = numbers["pool_bins"][place], numbers["kept_bins"][place]
        said = f"{numbers['edges'][place]:.6g} to {numbers['edges'][place + 1]:.6g}"
        both = {"pool": pool / whole["pool"], "subset": kept / max(whole["kept"], 1)}
        bins.append({"from": low, "to": high, "range": said, **both})
    flat: dict[str, Any] = {"zero": False} if numbers["scale"] == "linear" else {}
    x: dict[str, Any] = {
        "title": numbers["unit"] or None,
        "scale": alt.Scale(type=numbers["scale"], nice=False, **flat),
        "axis": alt.Axis(tickCount=6, grid=False),
    }
    share = alt.Axis(format="%", tickCount=3)
    tooltip = [
        alt.Tooltip("range:N", title=numbers["unit"] or "value"),
        alt.Tooltip("pool:Q", format=".2%"),
        alt.Tooltip("subset:Q", format=".2%"),
    ]
    base = alt.Chart(alt.InlineData(values=bins)).encode(
        x=alt.X("from:Q", bin="binned", **x), x2="to:Q", tooltip=tooltip
    )
    filled = base.mark_bar(color="var(--soft)", opacity=0.4, binSpacing=0).encode(
        y=alt.Y("pool:Q", title=None, axis=share)
    )
    layers = [filled]
    if whole["kept"]:
        ends = [{"from": one["from"], "subset": one["subset"]} for one in bins]
        ends.append({"from": edges[-1], "subset": bins[-1]["subset"]})
        line = alt.Chart(alt.InlineData(values=ends)).mark_line(
            interpolate="step-after", strokeWidth=2, color="var(--kept)"
        )
        layers.append(
            line.encode(x=alt.X("from:Q", **x), y=alt.Y("subset:Q", title=None, axis=share))
        )
    return alt.layer(*layers).properties(width="container", height=_PLOT_PX)


def _drawn_edges(edges: Sequence[float], scale: str) -> list[float]:
    """Edges that an axis can have: a logarithm has no 0, and one value has no width."""
    if len(edges) == 2 and edges[0] == edges[1]:
        half = max(abs(edges[0]) * _ONE_VALUE, _ONE_VALUE)
        return [edges[0] - half, edges[0] + half]
    if scale == "log" and edges and edges[0] == 0:
        return [edges[1] / 2, *edges[1:]]
    return list(edges)


def scores_chart(scores: dict[str, Any]) -> Chart | None:
    """Mean and deviation of the scores of each group; None without one."""
    groups = [
        {
            "group": group["name"],
            "mean": group["mean"],
            "low": group["mean"] - group["deviation"],
            "high": group["mean"] + group["deviation"],
            "rows": group["rows"],
            "kept": group["kept"] / group["rows"],
        }
        for group in scores["drawn"]
    ]
    if not groups:
        return None
    names = [group["name"] for group in scores["drawn"]]
    base = alt.Chart(alt.InlineData(values=groups)).encode(
        y=alt.Y("group:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False)),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("mean:Q", format=".4g"),
            alt.Tooltip("low:Q", title="mean - deviation", format=".4g"),
            alt.Tooltip("high:Q", title="mean + deviation", format=".4g"),
            alt.Tooltip("rows:Q", title="samples", format=","),
            alt.Tooltip("kept:Q", title="in the subset", format=".1%"),
        ],
    )
    scale = alt.Scale(zero=False)
    spread = base.mark_rule(strokeWidth=2, opacity=0.45, color="var(--kept)").encode(
        x=alt.X("low:Q", title=scores["score"], scale=scale), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1, color="var(--kept)").encode(
        x=alt.X("mean:Q", title=scores["score"], scale=scale)
    )
    return alt.layer(spread, dots).properties(width="container", height=_GROUP_PX * len(names))


def failures_chart(downloads: dict[str, Any]) -> Chart | None:
    """URLs by what became of them; None where all came."""
    bars = [
        {"kind": kind, "urls": rows, "share": rows / downloads["asked"]}
        for kind, rows in downloads["drawn"]
    ]
    if not bars:
        return None
    names = [bar["kind"] for bar in bars]
    chart = (
        alt.Chart(alt.InlineData(values=bars))
        .mark_bar(cornerRadiusEnd=2, color="var(--removed)")
        .encode(
            x=alt.X("urls:Q", title="URLs", axis=alt.Axis(tickCount=4)),
            y=alt.Y("kind:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False)),
            tooltip=[
                alt.Tooltip("kind:N"),
                alt.Tooltip("urls:Q", title="URLs", format=","),
                alt.Tooltip("share:Q", title="of all asked for", format=".2%"),
            ],
        )
    )
    return alt.layer(chart).properties(width="container", height=_GROUP_PX * len(names))
