"""Where the bars, ticks and threshold lines of a histogram stand, in percent of the drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """The kept or the removed part of a bin; y counts from the top."""

    x: float
    y: float
    width: float
    height: float
    side: str  # kept, removed
    about: str


@dataclass(frozen=True)
class Mark:
    """A place on the axis, and what is written there."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """All that is drawn of one histogram."""

    bars: tuple[Bar, ...]
    ticks: tuple[Mark, ...]
    thresholds: tuple[Mark, ...]
    tallest: int  # samples of the fullest bin


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of the width: the width itself may overflow."""
        return self.high / 2 - self.low / 2

    def place(self, value: float) -> float:
        """Percent of the width, at most 100."""
        share = (value / 2 - self.low / 2) / self.half
        return round(100 * min(max(share, 0.0), 1.0), 3)


def chart(histogram: dict[str, Any]) -> Chart | None:
    """The drawing of a histogram; None where nobody has a score."""
    if histogram["low"] is None:
        return None
    bins = _Axis(histogram["low"], histogram["high"])
    if bins.low == bins.high:  # one value: a thin bar in the middle
        margin = max(abs(bins.low) * 0.05, 0.5)
        bins = _Axis(bins.low - margin, bins.high + margin)
    thresholds = {k: v for k, v in histogram["thresholds"].items() if not isinstance(v, str)}
    along = bins
    for value in thresholds.values():  # the axis reaches to a threshold that is near
        if abs(value / 2 - bins.low / 2) < 2 * bins.half:
            along = _Axis(min(along.low, value), max(along.high, value))
    bars, tallest = _bars(histogram, bins, along)
    marks = [Mark(along.place(v), _label(reason, v, along)) for reason, v in thresholds.items()]
    ticks = [Mark(along.place(tick), f"{tick:.4g}") for tick in _ticks(along)]
    return Chart(tuple(bars), tuple(ticks), tuple(sorted(marks, key=_order)), tallest)


def _order(mark: Mark) -> tuple[float, str]:
    return mark.x, mark.label


def _label(reason: str, value: float, along: _Axis) -> str:
    """A threshold far outside the scores stands at the edge, with an arrow."""
    before = "← " if value < along.low else ""
    after = " →" if value > along.high else ""
    return f"{reason} {before}{value:.4g}{after}"


def _ticks(along: _Axis) -> list[float]:
    """Three to five round numbers within the axis."""
    if not 1e-300 < along.half < 1e300:
        return [along.low, along.high]
    magnitude = 10.0 ** math.floor(math.log10(along.half))
    for step in (magnitude, magnitude / 2, magnitude / 5, magnitude / 10):
        first, last = math.ceil(along.low / step), math.floor(along.high / step)
        if last - first >= 2:
            stride = 1 + (last - first) // 5
            return [n * step for n in range(first, last + 1) if n % stride == 0]
    return [along.low, along.high]


def _bars(histogram: dict[str, Any], bins: _Axis, along: _Axis) -> tuple[list[Bar], int]:
    """Kept samples at the bottom of each bin, removed ones on top of them; the fullest bin."""
    kept, removed = list(histogram["kept"]), list(histogram["removed"])
    if histogram["low"] == histogram["high"]:
        kept, removed = ([0] * 10 + [side[0]] + [0] * 10 for side in (kept, removed))
    edges = [bins.low + 2 * bins.half * (n / len(kept)) for n in range(len(kept) + 1)]
    tallest = max(a + b for a, b in zip(kept, removed, strict=True)) or 1
    bars = []
    for n, rows in enumerate(zip(kept, removed, strict=True)):
        left, right = along.place(edges[n]), along.place(edges[n + 1])
        about = f"{edges[n]:.4g} to {edges[n + 1]:.4g}: {rows[0]:,} kept, {rows[1]:,} removed"
        below = 0.0
        for side, count in zip(("kept", "removed"), rows, strict=True):
            height = 100 * count / tallest
            if count:
                top = round(100 - below - height, 3)
                bars.append(Bar(left, top, round(right - left, 3), round(height, 3), side, about))
            below += height
    return bars, tallest
