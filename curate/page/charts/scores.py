"""The scores that reached a filter, with its thresholds, and what other thresholds would keep."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt

SIDES = alt.Scale(domain=["kept", "removed"], range=["var(--kept)", "var(--removed)"])
_TIGHT = alt.Scale(nice=False, zero=False)
BARS = 50  # of a histogram, whose bins in report.json are finer
_ONE_VALUE = 1e-9  # half the width of the only bin, as a share of the value


def histogram_chart(histogram: dict[str, Any]) -> alt.LayerChart | alt.FacetChart | None:
    """Kept and removed samples by score, stacked; None where nobody has a score."""
    if histogram["low"] is None:
        return None
    bars = (
        alt.Chart(alt.InlineData(values=_bars(histogram)))
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X(
                "from:Q",
                title=histogram["column"],
                bin="binned",
                scale=_TIGHT,
            ),
            x2="to:Q",
            y=alt.Y("samples:Q", title="samples", stack=True),
            color=alt.Color("side:N", scale=SIDES, legend=None),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("range:N", title="score"),
                alt.Tooltip("side:N"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    return alt.layer(bars, *_rules(histogram)).properties(width="container", height=170)


def _bars(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    edges = edges_of(histogram)
    width = max(1, len(histogram["kept"]) // BARS)
    found = []
    for order, side in enumerate(("kept", "removed")):
        for first in range(0, len(histogram[side]), width):
            low, high = edges[first], edges[min(first + width, len(edges) - 1)]
            rows = sum(histogram[side][first : first + width])
            if rows:
                about = f"{low:.4g} to {high:.4g}"
                bar = {"from": low, "to": high, "side": side, "samples": rows}
                found.append({**bar, "range": about, "order": order})
    return found


def edges_of(histogram: dict[str, Any]) -> list[float]:
    """The edges of the bins; an only value gets a bin around it."""
    low, high, bins = histogram["low"], histogram["high"], len(histogram["kept"])
    if low == high:
        half = max(abs(low) * _ONE_VALUE, _ONE_VALUE)
        return [low - half, *([low + half] * bins)]
    return [low * (1 - n / bins) + high * (n / bins) for n in range(bins + 1)]


def _rules(histogram: dict[str, Any]) -> list[alt.LayerChart | alt.FacetChart]:
    """A line and a word for each threshold that lies among the scores."""
    inside = [
        {"threshold": value, "reason": f"{reason} {value:.4g}"}
        for reason, value in histogram["thresholds"].items()
        if not isinstance(value, str) and histogram["low"] <= value <= histogram["high"]
    ]
    if not inside:
        return []
    base = alt.Chart(alt.InlineData(values=inside)).encode(
        x="threshold:Q", tooltip=[alt.Tooltip("reason:N", title="threshold")]
    )
    rule = base.mark_rule(strokeDash=[4, 3], strokeWidth=1.5)
    word = base.mark_text(align="left", baseline="top", dx=4, y=2, fontWeight=600).encode(
        text="reason:N"
    )
    return [alt.layer(rule, word)]


def curve_of(histogram: dict[str, Any]) -> list[tuple[float, int]]:
    """(threshold, samples whose score is at least that) at each edge of a bin, exact."""
    both = [a + b for a, b in zip(histogram["kept"], histogram["removed"], strict=True)]
    above = [*itertools.accumulate(reversed(both))]
    return list(zip(edges_of(histogram), [*reversed(above), 0], strict=True))


def curve_chart(histogram: dict[str, Any]) -> alt.LayerChart | alt.FacetChart | None:
    """The share of scored samples that a threshold `at_least` would keep; None as above."""
    if histogram["low"] is None:
        return None
    curve = curve_of(histogram)
    whole = curve[0][1]
    points = [{"threshold": x, "samples": n, "share": n / whole} for x, n in curve]
    line = (
        alt.Chart(alt.InlineData(values=points))
        .mark_line(interpolate="linear", strokeWidth=2)
        .encode(
            x=alt.X(
                "threshold:Q",
                title="if the threshold were here",
                scale=_TIGHT,
            ),
            y=alt.Y(
                "share:Q",
                title="would stay",
                axis=alt.Axis(format="%", tickCount=4),
                scale=alt.Scale(domain=[0, 1]),
            ),
            tooltip=[
                alt.Tooltip("threshold:Q", format=".4g"),
                alt.Tooltip("share:Q", format=".1%"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    hover = line.mark_point(size=80, opacity=0, filled=True)
    return alt.layer(line, hover, *_rules(histogram)).properties(width="container", height=110)
