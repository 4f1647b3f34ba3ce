"""What sets two sides apart: numbers mirrored, and words with their intervals."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from curate.page.texts import brief, visible

Chart = alt.LayerChart | alt.FacetChart

ROW_PX = 19  # height of a word
_MANY = 2_000  # samples of a side from which each bin is a bar
_FEWER = 2  # bins of a bar where there are fewer
_COMMON = 0.45  # how strong what both kept is drawn
_COLOURS = alt.Scale(
    domain=["only A", "only B", "both"], range=["var(--kept)", "var(--removed)", "var(--soft)"]
)


def mirror_chart(found: dict[str, Any]) -> Chart | None:
    """Shares of the samples of A upwards and of B downwards, by bin; None without a value.

    What both kept stands at the middle line, what one side alone kept on top of it.
    """
    bars = [*_bars(found, "a"), *_bars(found, "b")]
    if not bars:
        return None
    scale = alt.Scale(type="log", nice=False)
    if found["scale"] == "linear":
        scale = alt.Scale(nice=len(found["edges"]) == 2, zero=False)
    chart = (
        alt.Chart(alt.InlineData(values=bars))
        .mark_rect()
        .encode(
            x=alt.X("from:Q", title=found["column"], scale=scale, axis=alt.Axis(tickCount=6)),
            x2="to:Q",
            y=alt.Y(
                "start:Q",
                title="B below, A above",
                axis=alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5),
            ),
            y2="end:Q",
            color=alt.Color("part:N", scale=_COLOURS, legend=None),
            opacity=alt.Opacity("strength:Q", scale=None),
            tooltip=[
                alt.Tooltip("range:N", title="value"),
                alt.Tooltip("side:N", title="kept by"),
                alt.Tooltip("part:N", title="of these"),
                alt.Tooltip("samples:Q", format=","),
                alt.Tooltip("share:Q", title="of the side", format=".2%"),
            ],
        )
    )
    middle = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule().encode(y="zero:Q")
    return alt.layer(chart, middle).properties(width="container", height=190)


def _bars(found: dict[str, Any], letter: str) -> list[dict[str, Any]]:
    side, edges = found[letter], found["edges"]
    if not side["count"]:
        return []
    up = 1 if letter == "a" else -1
    # Of few samples, bars as fine as the bins would show nothing but chance.
    wide = 1 if min(found[one]["count"] for one in ("a", "b")) >= _MANY else _FEWER
    bars = []
    for place in range(0, len(edges) - 1, wide):
        stop = min(place + wide, len(edges) - 1)
        both, only = (sum(side[part][place:stop]) for part in ("both", "only"))
        about = f"{edges[place]:.4g} to {edges[stop]:.4g}"
        begin = 0.0
        for part, samples in (("both", both), (f"only {letter.upper()}", only)):
            share = samples / side["count"]
            if samples:
                own = {"part": part, "samples": samples, "share": share, "range": about}
                own["strength"] = _COMMON if part == "both" else 1.0
                ends = {"start": up * begin, "end": up * (begin + share)}
                span = {"from": edges[place], "to": edges[stop], "side": letter.upper()}
                bars.append({**own, **ends, **span})
            begin += share
    return bars


def lean_chart(words: list[dict[str, Any]], colour: str) -> Chart | None:
    """Odds ratios of words on a logarithmic scale, with their intervals; None without a word.

    Args:
        words: As `more_in_a` or `more_in_b` of diff.json.
        colour: `var(--kept)`, say.
    """
    if not words:
        return None
    rows = [_row(word) for word in words]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y(
            "word:N",
            sort=[row["word"] for row in rows],
            axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=130, labelPadding=6),
        ),
        tooltip=[
            alt.Tooltip("word:N"),
            alt.Tooltip("a:Q", title="captions of A", format=","),
            alt.Tooltip("b:Q", title="captions of B", format=","),
            alt.Tooltip("odds:Q", title="odds ratio", format=".3g"),
            alt.Tooltip("low:Q", title="at least", format=".3g"),
            alt.Tooltip("high:Q", title="at most", format=".3g"),
        ],
    )
    x = alt.X(
        "low:Q",
        title="times the odds of the other side",
        scale=alt.Scale(type="log", nice=False, domainMin=1),
        axis=alt.Axis(tickCount=5, format="~g", orient="top"),
    )
    rule = base.mark_rule(strokeWidth=2, color=colour, opacity=0.55).encode(x=x, x2="high:Q")
    point = base.mark_point(filled=True, size=55, opacity=1, color=colour).encode(
        x=alt.X("odds:Q"),
        shape=alt.Shape(
            "sure:N",
            scale=alt.Scale(domain=["yes", "no"], range=["circle", "diamond"]),
            legend=None,
        ),
    )
    return alt.layer(rule, point).properties(width="container", height=ROW_PX * len(rows))


def _row(word: dict[str, Any]) -> dict[str, Any]:
    """A word with its odds ratio turned so that it is above 1."""
    ends = sorted(abs(word["log_odds"][key]) for key in ("low", "high"))
    odds = {"odds": abs(word["log_odds"]["value"]), "low": ends[0], "high": ends[1]}
    return {
        "word": brief(visible(word["word"]), 60),
        "a": word["a"],
        "b": word["b"],
        "sure": "yes" if word["sure"] else "no",
        **{name: math.exp(min(value, 700.0)) for name, value in odds.items()},
    }
