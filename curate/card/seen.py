"""What a card tells of who is in the subset: lists and shares, from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from curate.report.schema import Numbers, Report, Shift, Value, Words

VALUES = 8  # of a column, the commonest in the subset
SHIFTS = 15


def kept_values(words: Words, *, complete: bool = True) -> list[Value] | None:
    """The values that samples of the subset have, the commonest first.

    None where others than those listed are there too, unless those listed are enough.
    """
    if complete and (words.rest[-1] or not words.exact):
        return None
    there = [value for value in words.values if value.reached[-1]]
    return sorted(there, key=lambda value: (-value.reached[-1], value.value or ""))


@dataclass(frozen=True)
class Counted:
    """One value, in pool and subset."""

    value: str | None
    before: int
    after: int
    pool: float  # share
    kept: float


@dataclass(frozen=True)
class Column:
    """The commonest values of a column."""

    name: str
    about: str
    since: str
    values: list[Counted]
    distinct: int | None
    others: Counted | None


def columns_seen(report: Report) -> Iterator[Column]:
    """Each column of words that says something: not one value for all."""
    for words in report.makeup.words:
        totals = [sum(value.reached[side] for value in words.values) + words.rest[side]
                  for side in (0, -1)]  # fmt: skip
        values = kept_values(words, complete=False) or []
        if len(words.values) < 2 and not words.rest[0]:
            continue
        shown = [_counted(value.value, value.reached, totals) for value in values[:VALUES]]
        left = [totals[n] - sum((one.before, one.after)[n] for one in shown) for n in (0, 1)]
        others = _counted(None, left, totals) if any(left) else None
        yield Column(words.column, words.about, words.since, shown, words.distinct, others)


def _counted(value: str | None, reached: Sequence[int], totals: Sequence[int]) -> Counted:
    shares = [reached[n] / totals[n] if totals[n] else 0.0 for n in (0, -1)]
    return Counted(value, reached[0], reached[-1], *shares)


@dataclass(frozen=True)
class Median:
    """Between which numbers half of the samples begins."""

    name: str
    about: str
    unit: str
    pool: tuple[float, float] | None
    kept: tuple[float, float] | None


def medians(report: Report) -> list[Median]:
    """The bins in which the medians of each number are."""
    return [
        Median(one.column, one.about, one.unit, _median(one, 0), _median(one, -1))
        for one in report.makeup.numbers
        if one.edges
    ]


def _median(numbers: Numbers, side: Literal[0, -1]) -> tuple[float, float] | None:
    counts = numbers.reached[side]
    half = sum(counts) / 2
    if not half:
        return None
    place = next(n for n, so_far in enumerate(accumulate(counts)) if so_far >= half)
    return numbers.edges[place], numbers.edges[place + 1]


def largest_shifts(report: Report) -> list[Shift]:
    """The values whose share changed most."""
    return report.makeup.shifts[:SHIFTS]
