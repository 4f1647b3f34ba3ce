"""Concepts before and after: how often each occurs by rank, which chance it had, what the tail has.

Counts are drawn on logarithmic axes, on which there is no 0: entries that nobody has are left out.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from curate.page.charts.scores import EXTENT
from curate.page.texts import brief, visible

Chart = alt.LayerChart | alt.FacetChart

HEAD = 15  # entries with a pair of bars
_LABEL = 28  # characters of an entry at its bars; all of it is in the tooltip
_ROW_PX = 30
_FAINTEST = 0.25  # of the lines between the first and the last


def rank_chart(
    ranks: list[int], lines: list[dict[str, Any]], thresholds: list[float]
) -> Chart | None:
    """One line for each stage: samples of the entry at each rank, another entry on each line.

    None where nobody has an entry.

    Args:
        ranks: [R] from 1.
        lines: `name` and `samples` [R] of each stage, in order.
        thresholds: t of a balance, as horizontal rules.
    """
    points = [
        {"rank": rank, "samples": count, "after": line["name"], "order": order}
        for order, line in enumerate(lines)
        for rank, count in zip(ranks, line["samples"], strict=True)
        if count
    ]
    if not points:
        return None
    names = [line["name"] for line in lines]
    last = max(point["rank"] for point in points)
    layers: list[Any] = [_lines(points, names, last)]
    if thresholds:
        layers += _rules(thresholds, last)
    return alt.layer(*layers).properties(width="container", height=260)


def _lines(points: list[dict[str, Any]], names: list[str], last_rank: int) -> Chart:
    last = len(names) - 1
    colours = ["var(--soft)"] + ["var(--kept)"] * last
    # The first in grey, the last in full colour, and those between darker from step to step.
    strengths = [1.0, *(_FAINTEST + (1 - _FAINTEST) * n / last for n in range(1, last + 1))]
    legend = alt.Legend(title=None, symbolType="stroke", columns=3, symbolStrokeWidth=3)
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=_ranks(last_rank),
        y=alt.Y(
            "samples:Q",
            title="samples that have it",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(format="~s", tickCount=5, minExtent=EXTENT),
        ),
        color=alt.Color("after:O", scale=alt.Scale(domain=names, range=colours), legend=legend),
        opacity=alt.Opacity(
            "after:O", scale=alt.Scale(type="ordinal", domain=names, range=strengths), legend=legend
        ),
        tooltip=[
            alt.Tooltip("after:N"),
            alt.Tooltip("rank:Q", format=","),
            alt.Tooltip("samples:Q", format=","),
        ],
    )
    line = base.mark_line(strokeWidth=2)
    dots = base.mark_point(size=60, filled=True).encode(opacity=alt.value(0))
    return alt.layer(line, dots)


def _ranks(last: int) -> alt.X:
    """The same scale in every chart by rank, so that one may stand above the other."""
    return alt.X(
        "rank:Q",
        title="rank",
        scale=alt.Scale(type="log", domain=[1, max(last, 2)], nice=False),
        axis=alt.Axis(format="~s", tickCount=6),
    )


def _rules(thresholds: list[float], last: int) -> list[Any]:
    told = [{"t": t, "word": f"t = {t:,.6g}", "rank": max(last, 2)} for t in thresholds]
    base = alt.Chart(alt.InlineData(values=told)).encode(y="t:Q")
    rule = base.mark_rule(strokeDash=[4, 3], strokeWidth=1.5, color="var(--removed)")
    word = base.mark_text(align="right", baseline="bottom", dy=-3, fontWeight=600).encode(
        x="rank:Q", text="word:N"
    )
    return [rule, word]


def chances_chart(balance: dict[str, Any]) -> Chart | None:
    """The chance with which each entry keeps a sample, by rank; None where there is no entry."""
    ranks, chances = balance["p"]["ranks"], balance["p"]["chances"]
    if not ranks:
        return None
    points = [{"rank": r, "p": p} for r, p in zip(ranks, chances, strict=True)]
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=_ranks(ranks[-1]),
        y=alt.Y(
            "p:Q",
            title="chance p",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(tickCount=4, minExtent=EXTENT),
        ),
        tooltip=[alt.Tooltip("rank:Q", format=","), alt.Tooltip("p:Q", format=".4g")],
    )
    line = base.mark_line(strokeWidth=2, color="var(--removed)")
    dots = base.mark_point(size=60, filled=True, opacity=0)
    return alt.layer(line, dots).properties(width="container", height=110)


def head_chart(head: list[dict[str, Any]]) -> Chart | None:
    """Two bars for each of the most frequent entries: samples before, and after; None of none.

    Args:
        head: `entry`, and `samples` of which the first and the last count.
    """
    rows = [
        {
            "place": place,
            "label": f"{place}. {brief(visible(one['entry']), _LABEL)}",
            "entry": visible(one["entry"]),
            "side": side,
            "samples": one["samples"][at],
        }
        for place, one in enumerate(head[:HEAD], 1)
        for side, at in (("before", 0), ("after", -1))
    ]
    if not rows:
        return None
    sides = alt.Scale(domain=["before", "after"], range=["var(--soft)", "var(--kept)"])
    order = alt.EncodingSortField(field="place", op="min")
    bars = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("samples:Q", title="samples", axis=alt.Axis(format="~s", tickCount=5)),
            y=alt.Y("label:N", title=None, sort=order),
            yOffset=alt.YOffset("side:N", scale=alt.Scale(domain=["before", "after"])),
            color=alt.Color("side:N", scale=sides, legend=alt.Legend(title=None)),
            tooltip=[
                alt.Tooltip("entry:N"),
                alt.Tooltip("side:N"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    return alt.layer(bars).properties(width="container", height=_ROW_PX * min(HEAD, len(head)))


def tail_chart(stages: list[dict[str, Any]]) -> Chart | None:
    """What the rarest fifth of the entries have, stage by stage; None where there is nothing.

    Args:
        stages: `after`, and `match_share` and `sample_share`, either None where it is of nothing.
    """
    whats = {"match_share": "matches", "sample_share": "samples"}
    points = [
        {"after": stage["after"], "place": place, "what": what, "share": stage[key]}
        for place, stage in enumerate(stages)
        for key, what in whats.items()
        if stage[key] is not None
    ]
    if not points:
        return None
    scale = alt.Scale(domain=list(whats.values()), range=["var(--kept)", "var(--removed)"])
    order = alt.EncodingSortField(field="place", op="min")
    base = alt.Chart(alt.InlineData(values=points)).encode(
        y=alt.Y("after:N", title=None, sort=order, scale=alt.Scale(type="point", padding=0.5)),
        x=alt.X(
            "share:Q",
            title="share that the tail has",
            scale=alt.Scale(zero=True),
            axis=alt.Axis(format=".1~%", tickCount=5),
        ),
        color=alt.Color("what:N", scale=scale, legend=alt.Legend(title=None)),
        tooltip=[
            alt.Tooltip("after:N"),
            alt.Tooltip("what:N", title="of all"),
            alt.Tooltip("share:Q", title="the tail has", format=".3~%"),
        ],
    )
    line = base.mark_line(strokeWidth=1.5).encode(order="place:Q")
    dots = base.mark_point(size=60, filled=True, opacity=1)
    return alt.layer(line, dots).properties(width="container", height=34 * len(stages) + 10)
