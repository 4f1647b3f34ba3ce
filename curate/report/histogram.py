"""How what decides is distributed among the samples that reached a filter.

Scores take two passes: for their range, and for the bins. What a filter measures takes long to
make; whole numbers, as most of it is, are counted value by value at the first pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from curate import fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.facts import Deciding, Extent, Facts, looks, plain, stops
from curate.report.measured import Measured, scores
from curate.runner import Runner, fold

BINS = 200
_INFINITE, _UNSCORED = BINS, BINS + 1  # what is counted beside the bins
_PLACES = 2 * (BINS + 2)  # of those kept, then of those removed
_WIDEST = 1 << 17  # whole numbers that are counted one by one, at most
_PIECE = 32_768  # rows whose bins are found at once: what stays in a processor's own memory


@dataclass(frozen=True)
class Curve:
    """One distribution: what a filter decides by, at its step."""

    index: int  # of the step
    of: Deciding


def draw(facts: Facts, runner: Runner, extent: Extent) -> list[dict[str, Any]]:
    """A histogram for each score of each filter, split into what its step kept and removed.

    A brief report has those of columns; what filters measure (the words of a caption) is measured
    anew for a whole one.

    The kept and removed counts of the bins, of infinite scores and of unscored rows add up to the
    rows that reached the step. The last bin includes its upper edge; where `low` equals `high`, all
    are in the first.
    """
    found = [
        (look, deciding)
        for look in looks(facts)
        for deciding in (look.deciding if extent == "whole" else look.scores)
    ]
    curves = [Curve(look.index, deciding) for look, deciding in found]
    if not curves:
        return []
    spans, given = facts.spans(), (facts.plan, facts.after, curves)
    first = fold(runner.map(partial(_first, *given), spans, "report"), _First.plus)
    if first is None:  # a pool without rows
        first = _First(_no_range(curves), {})
    ranges = list(map(tuple, first.ranges.tolist()))
    left = {n: ends for n, ends in enumerate(ranges) if first.tables.get(n) is None}
    work = partial(_counts, *given, left)
    counts = fold(runner.map(work, spans if left else [], "report"), np.add)
    if counts is None:
        counts = _no_counts(curves)
    drawn = [
        _of_bins(ends, sides) if table is None else table.drawn()
        for ends, sides, table in zip(
            ranges, counts, map(first.tables.get, range(len(curves))), strict=True
        )
    ]
    return [
        {
            "step": look.step,
            "filter": look.filter,
            "column": deciding.name,
            "thresholds": {reason: plain(n) for reason, n in deciding.thresholds.items()},
            "keeps": deciding.keeps,
            "alone": deciding.alone,
            "low": float(low) if low <= high else None,
            "high": float(high) if low <= high else None,
            **bins,
        }
        for (look, deciding), (low, high), bins in zip(found, ranges, drawn, strict=True)
    ]


def _of_bins(ends: tuple[float, ...], sides: np.ndarray) -> dict[str, Any]:
    """The fields of a histogram that has BINS bins between the lowest and the highest value."""
    return {
        "whole": False,
        "ends": list(ends) if ends[0] <= ends[1] else None,
        "kept": sides[0][:BINS].tolist(),
        "removed": sides[1][:BINS].tolist(),
        **_beside(sides[:, BINS:]),
    }


def _beside(counts: np.ndarray) -> dict[str, Any]:
    names = ("infinite", "unscored")
    return {
        name: {"kept": int(kept), "removed": int(removed)}
        for name, (kept, removed) in zip(names, counts.T, strict=True)
    }


def _no_range(curves: list[Curve]) -> np.ndarray:
    return np.tile([np.inf, -np.inf], (len(curves), 1))


def _no_counts(curves: list[Curve]) -> np.ndarray:
    return np.zeros((len(curves), 2, BINS + 2), dtype=np.int64)


@dataclass(frozen=True)
class _Table:
    """How often each whole number from `low` on came, among those kept and those removed."""

    low: int
    counts: np.ndarray  # [2, W] int64, kept and removed
    beside: np.ndarray  # [2, 2] int64: infinite ones, and rows without a value

    def plus(self, other: _Table) -> _Table | None:
        """Both; None where their numbers lie too far apart."""
        if not self.counts.shape[1] or not other.counts.shape[1]:
            long = max(self, other, key=lambda one: one.counts.shape[1])
            return _Table(long.low, long.counts, self.beside + other.beside)
        low = min(self.low, other.low)
        width = max(one.low + one.counts.shape[1] for one in (self, other)) - low
        if width > _WIDEST:
            return None
        counts = np.zeros((2, width), dtype=np.int64)
        for one in (self, other):
            counts[:, one.low - low : one.low - low + one.counts.shape[1]] += one.counts
        return _Table(low, counts, self.beside + other.beside)

    def drawn(self) -> dict[str, Any]:
        """The fields of a histogram whose bins hold as many whole numbers each."""
        there = self.counts.shape[1]
        if not there:
            empty = np.zeros((2, BINS + 2), dtype=np.int64)
            empty[:, BINS:] = self.beside
            return {**_of_bins((np.inf, -np.inf), empty), "whole": True}
        width = -(-there // BINS)
        bins = -(-there // width)
        filled = np.zeros((2, bins * width), dtype=np.int64)
        filled[:, :there] = self.counts
        kept, removed = filled.reshape(2, bins, width).sum(axis=2).tolist()
        return {
            "whole": True,
            "ends": [self.low - 0.5, self.low - 0.5 + bins * width],
            "kept": kept,
            "removed": removed,
            **_beside(self.beside),
        }


def _table(values: np.ndarray, removed: np.ndarray) -> _Table | None:
    """The table of [K] values, of whom some [K] bool are removed; None where it would not do."""
    finite = np.isfinite(values)
    beside = np.array(
        [
            [np.count_nonzero(np.isinf(values) & side), np.count_nonzero(np.isnan(values) & side)]
            for side in (~removed, removed)
        ]
    )
    numbers, out = (values, removed) if finite.all() else (values[finite], removed[finite])
    if not len(numbers):
        return _Table(0, np.zeros((2, 0), dtype=np.int64), beside)
    low, high = numbers.min(), numbers.max()
    if high / 2 - low / 2 >= _WIDEST / 2 or (np.rint(numbers) != numbers).any():
        return None
    width = int(high - low) + 1
    places = (numbers - low).astype(np.int64) + width * out
    counts = np.bincount(places, minlength=2 * width).reshape(2, width)
    return _Table(int(low), counts, beside)


@dataclass(frozen=True)
class _First:
    """What the first pass finds."""

    ranges: np.ndarray  # [C, 2] lowest and highest finite value
    tables: dict[int, _Table | None]  # of the curves of what filters measure

    def plus(self, other: _First) -> _First:
        """Of both."""
        low = np.minimum(self.ranges, other.ranges)[:, 0]
        high = np.maximum(self.ranges, other.ranges)[:, 1]
        tables = {}
        for number, own in self.tables.items():
            theirs = other.tables[number]
            tables[number] = None if own is None or theirs is None else own.plus(theirs)
        return _First(np.stack([low, high], axis=1), tables)


def _first(plan: Compiled, after: str, curves: list[Curve], span: Span) -> _First:
    """Ranges and tables of the rows of a block that reached each step."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    measured = Measured(plan, span)
    ranges, tables = _no_range(curves), {}
    for number, (curve, came) in enumerate(_with_those_who_came(curves, stopped)):
        values = _values(plan, curve, span, came, measured)
        known = values[np.isfinite(values)]
        if len(known):
            ranges[number] = known.min(), known.max()
        if curve.of.value is not None:
            tables[number] = _table(values, stopped[came] == curve.index)
    return _First(ranges, tables)


def _with_those_who_came(
    curves: list[Curve], stopped: np.ndarray
) -> Iterator[tuple[Curve, np.ndarray]]:
    """Each curve with the [K] rows that reached its step."""
    came: dict[int, np.ndarray] = {}
    for curve in curves:
        if curve.index not in came:
            came[curve.index] = np.flatnonzero(stopped >= curve.index)
        yield curve, came[curve.index]


def _values(
    plan: Compiled, curve: Curve, span: Span, came: np.ndarray, measured: Measured
) -> np.ndarray:
    """[K] float64 of the rows that came; NaN where one has none."""
    if curve.of.value is not None:
        return measured.of(curve.index, curve.of, came)
    found = scores(plan, curve.index, curve.of.name, span)
    return found if len(came) == len(span) else found[came]


def _counts(
    plan: Compiled,
    after: str,
    curves: list[Curve],
    ranges: dict[int, tuple[float, float]],
    span: Span,
) -> np.ndarray:
    """[C, 2, BINS + 2] int64 of curves with a range: rows by bin, infinite and unscored ones."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    measured = Measured(plan, span)
    found = _no_counts(curves)
    for number, (curve, came) in enumerate(_with_those_who_came(curves, stopped)):
        if number not in ranges:
            continue
        values = _values(plan, curve, span, came, measured)
        removed = stopped[came] == curve.index
        for first in range(0, len(values), _PIECE):
            piece = slice(first, first + _PIECE)
            places = _places(values[piece], *ranges[number]) + (BINS + 2) * removed[piece]
            found[number] += np.bincount(places, minlength=_PLACES).reshape(2, BINS + 2)
    return found


def _places(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """[N] bin of each value, or one of the places beside them."""
    width = high / 2 - low / 2  # halves, for the range itself may overflow
    with np.errstate(invalid="ignore", over="ignore"):
        share = (values / 2 - low / 2) / width if width > 0 else np.zeros(len(values))
        places = np.clip(share * BINS, 0, BINS - 1).astype(np.int64)
    finite = np.isfinite(values)
    if not finite.all():
        places[~finite] = np.where(np.isnan(values[~finite]), _UNSCORED, _INFINITE)
    return places
