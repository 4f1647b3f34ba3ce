"""Columns of words: which values the samples that each side kept have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import columns
from curate.comparison.blocks import Block
from curate.comparison.sides import LETTERS
from curate.report.frequent import (
    Clean,
    Frequent,
    Levels,
    Tally,
    frequent,
    fullest,
    merge_named,
    named,
    tally,
)
from curate.report.makeup.columns import domains, host_parts
from filters import column

SHOWN = 20  # values of a column
DOMAIN = "domain"  # made from the URL
_LEVELS = Levels(2, 1)  # A, then B

Json = dict[str, Any]


@dataclass(frozen=True)
class Tallied:
    """The first look at columns of words: counts of each value, or of the buckets of hashes."""

    columns: tuple[str, ...]

    def look(self, block: Block) -> list[Tally]:
        return [tally(*_values(block, name), _LEVELS, _clean(name)) for name in self.columns]

    def merge(self, left: list[Tally], right: list[Tally]) -> list[Tally]:
        return [one.plus(other) for one, other in zip(left, right, strict=True)]

    def nothing(self) -> list[Tally]:
        none = pl.Series([], dtype=pl.String), np.zeros(0, dtype=np.int64)
        return [tally(*none, _LEVELS) for _ in self.columns]


@dataclass(frozen=True)
class Named:
    """The second look, at columns of more values than are held: those of the fullest buckets."""

    chosen: tuple[tuple[str, np.ndarray], ...]

    def look(self, block: Block) -> list[pl.DataFrame]:
        return [named(*_values(block, name), chosen, _clean(name)) for name, chosen in self.chosen]

    def merge(self, left: list[pl.DataFrame], right: list[pl.DataFrame]) -> list[pl.DataFrame]:
        return [merge_named(one, other) for one, other in zip(left, right, strict=True)]

    def nothing(self) -> list[pl.DataFrame]:
        return []


def _values(block: Block, name: str) -> tuple[pl.Series, np.ndarray]:
    """The values of the samples that each side kept, and to which side each belongs."""
    plan, span = block.view.plan, block.span
    source = "url" if name == DOMAIN else name
    frame = columns.load(plan.work, plan.registries[-1], [source], span)
    values = frame.select(column(source)).to_series().cast(pl.String)
    parts, levels = [], []
    for letter in block.view.of:
        rows = np.flatnonzero(block.members.kept[letter])
        parts.append(values.gather(pl.Series(rows)))
        levels.append(np.full(len(rows), LETTERS.index(letter)))
    own = pl.concat(parts)
    return host_parts(own) if name == DOMAIN else own, np.concatenate(levels)


def _clean(name: str) -> Clean | None:
    return domains if name == DOMAIN else None


def second_look(names: Sequence[str], tallies: Sequence[Tally]) -> tuple[list[Tally], Named]:
    """The counts, each value once, and the look at those columns that need another."""
    settled = [each.settled() for each in tallies]
    many = zip(names, settled, strict=True)
    chosen = tuple((name, fullest(one)) for name, one in many if one.buckets is not None)
    return settled, Named(chosen)


def shares(
    names: Sequence[str], settled: Sequence[Tally], again: Named, found: Sequence[pl.DataFrame]
) -> list[Json]:
    """The section of each column; none where a side has no sample to look at."""
    counted = dict(zip((name for name, _ in again.chosen), found, strict=False))
    return [
        _section(name, frequent(one, counted.get(name)))
        for name, one in zip(names, settled, strict=True)
        if one.totals.all() and (one.buckets is None or name in counted)
    ]


def _section(name: str, found: Frequent) -> Json:
    a, b = found.totals
    values: list[Json] = [
        {"value": value, "a": of_a, "b": of_b, "difference": _share(of_a, a) - _share(of_b, b)}
        for value, (of_a, of_b) in found.values
    ]
    values.sort(key=lambda one: (-abs(one["difference"]), one["value"] is None, one["value"] or ""))
    shown = values[:SHOWN]
    rest = [total - sum(one[side] for one in shown) for side, total in (("a", a), ("b", b))]
    return {
        "column": name,
        "exact": found.exact,
        "a": a,
        "b": b,
        "values": shown,
        "rest": rest,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
