"""Clusters by size and by what was kept of them."""

from __future__ import annotations

from typing import Any

import altair as alt

from curate.page.charts.scores import EXTENT, SIDES, SIDES_OF

Chart = alt.LayerChart | alt.FacetChart

_BARS = 60  # clusters up to which each has a bar of its own
_TOOLTIP = [
    alt.Tooltip("rank:Q", format=","),
    alt.Tooltip("samples:Q", title="samples", format=","),
    alt.Tooltip("kept:Q", format=","),
    alt.Tooltip("share:Q", title="kept share", format=".1%"),
]


def sizes_chart(own: dict[str, Any]) -> Chart | None:
    """Samples of the clusters by rank of size, and who is left of them; None without clusters."""
    ranks = own["ranks"]
    if not ranks:
        return None
    found = zip(ranks, own["sizes"], own["kept"], strict=True)
    points = [{"rank": r, "samples": s, "kept": k, "share": k / s} for r, s, k in found]
    chart = _bars(points) if ranks[-1] <= _BARS else _curve(points)
    return chart.properties(width="container", height=190)


def _bars(points: list[dict[str, Any]]) -> Chart:
    """A bar for each: kept and removed, one on the other."""
    each = [
        {**point, "side": side, "order": order, "part": part}
        for point in points
        for order, side in enumerate(SIDES_OF)
        if (part := point["kept"] if side == "kept" else point["samples"] - point["kept"])
    ]
    bars = (
        alt.Chart(alt.InlineData(values=each))
        .mark_bar()
        .encode(
            x=alt.X("rank:O", title="clusters, largest first", axis=None),
            y=alt.Y(
                "part:Q",
                title="samples",
                stack=True,
                axis=alt.Axis(format="~s", minExtent=EXTENT),
            ),
            color=alt.Color("side:N", scale=SIDES, legend=None),
            order=alt.Order("order:Q"),
            tooltip=_TOOLTIP,
        )
    )
    return alt.layer(bars)


def _curve(points: list[dict[str, Any]]) -> Chart:
    """Both axes logarithmic: a line of sizes, and a dot for what is left of each."""
    x = alt.X(
        "rank:Q",
        title="rank by size",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(format="~s", tickCount=5),
    )
    axis = alt.Axis(format="~s", minExtent=EXTENT, tickCount=5)
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x, tooltip=_TOOLTIP)
    line = base.mark_line(strokeWidth=2, color="var(--soft)").encode(
        y=alt.Y("samples:Q", title="samples", scale=alt.Scale(type="log"), axis=axis)
    )
    hover = line.mark_point(size=60, opacity=0, filled=True)
    left = [point for point in points if point["kept"]]  # a logarithm has no place for 0
    dots = (
        alt.Chart(alt.InlineData(values=left))
        .mark_point(size=16, filled=True, opacity=0.8, color="var(--kept)")
        .encode(x=x, y=alt.Y("kept:Q"), tooltip=_TOOLTIP)
    )
    return alt.layer(line, hover, dots)


def shares_chart(shares: list[dict[str, Any]]) -> Chart | None:
    """How many clusters kept which share; None where none is large enough to tell."""
    if not any(one["clusters"] for one in shares):
        return None
    bars = (
        alt.Chart(alt.InlineData(values=[one for one in shares if one["clusters"]]))
        .mark_bar(binSpacing=2, color="var(--kept)")
        .encode(
            x=alt.X(
                "from:Q",
                title="kept share of the cluster, %",
                bin="binned",
                scale=alt.Scale(domain=[0, 100]),
                axis=alt.Axis(tickCount=5),
            ),
            x2="to:Q",
            y=alt.Y("clusters:Q", title="clusters", axis=alt.Axis(tickMinStep=1, minExtent=EXTENT)),
            tooltip=[
                alt.Tooltip("from:Q", title="from %"),
                alt.Tooltip("to:Q", title="to %"),
                alt.Tooltip("clusters:Q", format=","),
            ],
        )
    )
    return alt.layer(bars).properties(width="container", height=190)
