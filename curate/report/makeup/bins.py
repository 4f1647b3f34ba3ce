"""Bins of a number: fixed ones for sizes and lengths, ones of its range for any other."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np

BINS = 40  # between the least and the greatest value of a number whose bins are of its range
_COARSE = 8  # parts that such a range is cut into where changes are looked for
_WIDE = 1000  # times: a wider range of positive numbers has bins by octave


@dataclass(frozen=True)
class Grid:
    """Bins of a number: [edge, next edge), the last one with its upper edge."""

    edges: tuple[float, ...]  # ascending, at least 2, or none at all
    coarse: tuple[float, ...]  # those at which a part begins or ends that changes are looked for in
    scale: Literal["linear", "log"]
    whole: bool = False  # whether the number is a whole one

    @property
    def bins(self) -> int:
        """How many."""
        return max(len(self.edges) - 1, 0)

    def places(self, values: np.ndarray) -> np.ndarray:
        """[N] bin of each of [N] float64, those beyond an end in the bin at that end."""
        inner = np.array(self.edges[1:-1])
        return np.asarray(np.searchsorted(inner, values, side="right"))

    def said(self, low: float, high: float) -> str:
        """The numbers between two edges, for people."""
        if self.whole:
            last = int(high) - 1
            return f"{int(low):,}" if last <= int(low) else f"{int(low):,} to {last:,}"
        return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"


def _power(power: int) -> float:
    """2**power, or the greatest number that there is."""
    return math.ldexp(1.0, power) if power < sys.float_info.max_exp else sys.float_info.max


def _octaves(low: int, high: int, parts: int) -> list[float]:
    """2**low to 2**high, each octave in so many even parts: exact numbers on any machine."""
    steps = [
        math.ldexp(1 + part / parts, power) for power in range(low, high) for part in range(parts)
    ]
    return [*steps, _power(high)]


_WHOLE = tuple(edge for edge in [0.0, *_octaves(0, 40, 4)] if edge == int(edge))
LENGTHS = Grid(_WHOLE, (0.0, *_octaves(0, 40, 1)), "log", whole=True)
ASPECTS = Grid(
    (
        *(1 + n / 10 for n in range(10)),
        *(2 + n / 4 for n in range(4)),
        *(3 + n / 2 for n in range(4)),
        *(5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0),
        *_octaves(5, 32, 1),
    ),
    (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, *_octaves(5, 32, 1)),
    "log",
)
NOTHING = Grid((), (), "linear")


def grid_of(low: float, high: float, *, whole: bool) -> Grid:
    """Bins of numbers from `low` to `high`, both finite; NOTHING where `low` is above `high`."""
    if low > high:
        return NOTHING
    if whole and low >= 0 and high >= _WIDE:
        return LENGTHS
    if whole and high - low < BINS:
        edges = tuple(low + n for n in range(int(high - low) + 2))
        return Grid(edges, _every(edges), "linear", whole=True)
    if low > 0 and high / low >= _WIDE:
        return _log_grid(low, high)
    steps = [low * (1 - n / BINS) + high * (n / BINS) for n in range(BINS + 1)]
    edges = tuple(np.unique(steps).tolist()) if low < high else (low, high)
    return Grid(edges, _every(edges), "linear")


def _log_grid(low: float, high: float) -> Grid:
    """Bins of an octave each; of a quarter where there are few, of several where there are many."""
    first, last = math.frexp(low)[1] - 1, math.frexp(high)[1]
    if last - first <= BINS:
        edges, coarse = _octaves(first, last, 4 if last - first <= BINS / 4 else 1), 1
    else:
        coarse = -(-(last - first) // BINS)
        edges = [_power(power) for power in range(first, last + coarse, coarse)]
    every = [_power(power) for power in range(first, last + coarse, coarse)]
    return Grid(tuple(dict.fromkeys(edges)), tuple(edge for edge in every if edge in edges), "log")


def _every(edges: tuple[float, ...]) -> tuple[float, ...]:
    width = max(1, -(-(len(edges) - 1) // _COARSE))
    return tuple(dict.fromkeys((*edges[:-1:width], edges[-1])))


@dataclass(frozen=True, eq=False)
class Binned:
    """How a number is distributed at each of L levels."""

    counts: np.ndarray  # [B, L] int64
    missing: np.ndarray  # [L] int64: rows without a finite number

    def plus(self, other: Binned) -> Binned:
        """Both in one."""
        return Binned(self.counts + other.counts, self.missing + other.missing)


def binned(values: np.ndarray, level: np.ndarray, grid: Grid, levels: int) -> Binned:
    """What [N] float64 add, at their [N] levels; NaN and infinite ones are missing."""
    there = np.isfinite(values)
    missing = np.bincount(level[~there], minlength=levels)
    if not grid.bins:
        return Binned(np.zeros((0, levels), dtype=np.int64), missing)
    if not there.all():
        values, level = values[there], level[there]
    places = grid.places(values) * levels + level
    counts = np.bincount(places, minlength=grid.bins * levels).reshape(-1, levels)
    return Binned(counts, missing)


def trimmed(found: Binned, grid: Grid) -> tuple[Binned, Grid]:
    """Without the empty bins at both ends; without any bin where all are empty."""
    used = np.flatnonzero(found.counts.any(axis=1))
    if not len(used):
        empty = np.zeros((0, len(found.missing)), dtype=np.int64)
        return Binned(empty, found.missing), Grid((), (), grid.scale, grid.whole)
    first, stop = int(used[0]), int(used[-1]) + 1
    edges = grid.edges[first : stop + 1]
    inside = tuple(edge for edge in grid.coarse if edges[0] < edge < edges[-1])
    coarse = tuple(dict.fromkeys((edges[0], *inside, edges[-1])))
    kept = Grid(edges, coarse, grid.scale, grid.whole)
    return Binned(found.counts[first:stop], found.missing), kept
