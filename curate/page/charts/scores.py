"""The scores that reached a filter, with its thresholds, and what other thresholds would keep."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import altair as alt

SIDES_OF = ("kept", "removed")
SIDES = alt.Scale(domain=list(SIDES_OF), range=["var(--kept)", "var(--removed)"])
EXTENT = 44  # px left of the scores, in both charts: so one stands above the other
_TIGHT = alt.Scale(nice=False, zero=False)
BARS = 50  # of a histogram, whose bins in report.json are finer
_ONE_VALUE = 1e-9  # half the width of the only bin, as a share of the value


def histogram_chart(histogram: dict[str, Any]) -> alt.LayerChart | alt.FacetChart | None:
    """Kept and removed samples by score, stacked; None where nobody has a score."""
    if histogram["low"] is None:
        return None
    bars = (
        alt.Chart(alt.InlineData(values=_stacked(histogram)))
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X(
                "from:Q",
                title=histogram["column"],
                bin="binned",
                scale=_TIGHT,
            ),
            x2="to:Q",
            y=alt.Y(
                "samples:Q",
                title="samples",
                stack=True,
                axis=alt.Axis(format="~s", minExtent=EXTENT),
            ),
            color=alt.Color("side:N", scale=SIDES, legend=None),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("range:N", title="score"),
                alt.Tooltip("side:N"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    layers = (bars, *_rules(histogram), *_words(histogram))
    return alt.layer(*layers).properties(width="container", height=170)


def bars_of(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    """The histogram in BARS bars; none where nobody has a score.

    `from`, `to`, `kept` and `removed` there, and `stay`: how many a threshold there would keep, at
    `from` where high scores stay, and at `to` where low ones do. `first` and `last` are the same
    edges, but of whole numbers those between them.
    """
    if histogram["low"] is None:
        return []
    edges, bins = edges_of(histogram), len(histogram["kept"])
    width = max(1, bins // BARS)
    stay = [rows for _, rows in curve_of(histogram)]
    return [
        {
            "from": edges[first],
            "to": edges[min(first + width, bins)],
            "first": math.ceil(edges[first]) if histogram["whole"] else edges[first],
            "last": _last(histogram, edges[min(first + width, bins)]),
            "stay": stay[min(first + width, bins) if histogram["keeps"] == "low" else first],
            **{side: sum(histogram[side][first : first + width]) for side in SIDES_OF},
        }
        for first in range(0, bins, width)
    ]


def _last(histogram: dict[str, Any], edge: float) -> float:
    """What stands for the upper edge of a bar."""
    if not histogram["whole"]:
        return edge
    return float(min(math.floor(edge), histogram["high"]))  # the last bin may be filled in part


def _range(bar: dict[str, Any]) -> str:
    if bar["first"] == bar["last"]:
        return f"{bar['first']:.6g}"
    return f"{bar['first']:.4g} to {bar['last']:.4g}"


def _stacked(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "from": bar["from"],
            "to": bar["to"],
            "side": side,
            "samples": bar[side],
            "range": _range(bar),
            "order": order,
        }
        for order, side in enumerate(SIDES_OF)
        for bar in bars_of(histogram)
        if bar[side]
    ]


def edges_of(histogram: dict[str, Any]) -> list[float]:
    """The edges of the bins; an only value gets a bin around it."""
    (low, high), bins = histogram["ends"], len(histogram["kept"])
    if low == high:
        half = max(abs(low) * _ONE_VALUE, _ONE_VALUE)
        return [low - half, *([low + half] * bins)]
    return [low * (1 - n / bins) + high * (n / bins) for n in range(bins + 1)]


def _thresholds(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that lie among the scores."""
    low, high = histogram["low"], histogram["high"]
    return [
        {"threshold": value, "reason": f"{reason} {value:.4g}", "upper": value - low > high - value}
        for reason, value in histogram["thresholds"].items()
        if not isinstance(value, str) and low <= value <= high
    ]


def _rules(histogram: dict[str, Any]) -> list[alt.LayerChart | alt.FacetChart]:
    """A line at each threshold."""
    inside = _thresholds(histogram)
    if not inside:
        return []
    base = alt.Chart(alt.InlineData(values=inside)).encode(
        x="threshold:Q", tooltip=[alt.Tooltip("reason:N", title="threshold")]
    )
    return [alt.layer(base.mark_rule(strokeDash=[4, 3], strokeWidth=1.5))]


def _words(histogram: dict[str, Any]) -> list[alt.LayerChart | alt.FacetChart]:
    """A word at each threshold, where there is more room: left of one in the upper half."""
    found: list[alt.LayerChart | alt.FacetChart] = []
    aligned: tuple[Literal["left", "right"], ...] = ("left", "right")
    for upper, align in enumerate(aligned):
        half = [one for one in _thresholds(histogram) if one["upper"] == bool(upper)]
        if half:
            base = alt.Chart(alt.InlineData(values=half)).encode(x="threshold:Q", text="reason:N")
            dx = -4 if upper else 4
            word = base.mark_text(align=align, baseline="top", dx=dx, y=2, fontWeight=600)
            found.append(alt.layer(word))
    return found


def curve_of(histogram: dict[str, Any]) -> list[tuple[float, int]]:
    """(threshold, samples that it would keep) at each edge of a bin, exact.

    Those whose score is at least that; or less than that, for a filter that keeps low scores.
    """
    both = [a + b for a, b in zip(histogram["kept"], histogram["removed"], strict=True)]
    if histogram["keeps"] == "low":
        return list(zip(edges_of(histogram), [0, *itertools.accumulate(both)], strict=True))
    above = [*itertools.accumulate(reversed(both))]
    return list(zip(edges_of(histogram), [*reversed(above), 0], strict=True))


def curve_chart(histogram: dict[str, Any]) -> alt.LayerChart | alt.FacetChart | None:
    """The share of scored samples that another threshold would keep, or let pass to other rules.

    None where nobody has a score, or no single threshold decides who stays.
    """
    if histogram["low"] is None or histogram["keeps"] is None:
        return None
    curve = curve_of(histogram)
    whole = max(rows for _, rows in curve)
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
                title="would stay" if histogram["alone"] else "would pass",
                axis=alt.Axis(format="%", tickCount=4, minExtent=EXTENT),
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
