"""A coin for every sample and each of its entries, and which entry keeps a sample at what t.

A sample is kept by entry e at threshold t where its coin u of that entry is below
p = min(1, t / count(e)), so where u * count(e) / t < 1. The least of these over its entries is the
sample's own threshold: raising t removes nobody, and another t tosses no new coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from filters import Batch, column
from filters._mixing import mixed

_STEPS = 100  # entries of a sample; of one that has more, they are looked at by themselves
AT_ONCE = 1 << 18  # pairs of sample and entry; their arrays fit the cache
NONE = np.iinfo(np.uint32).max  # stands for an entry where there is none

_SPREAD = np.uint64(0xBF58476D1CE4E5B9)  # odd: takes the bits drawn to the upper half as well
_UNIT = 2.0**-52  # so that the largest coin times a count is below the count, in float64


@dataclass(frozen=True)
class Matches:
    """The entries of N samples, one after the other."""

    lengths: np.ndarray  # [N] int64: how many each has
    ids: np.ndarray  # [M] uint32: of a sample, each once
    unscored: np.ndarray  # [N] bool: samples whose entries are not known


def matches(batch: Batch, columns: Sequence[str]) -> Matches:
    """The entries of a batch's samples in any of some columns of dtype List(UInt32)."""
    found = [batch.frame.select(column(name)).to_series() for name in columns]
    lists = found[0].cast(pl.List(pl.UInt32))  # where all are null, the column has no type
    if len(found) > 1:
        empty = pl.Series([[]], dtype=pl.List(pl.UInt32))
        each = [series.cast(pl.List(pl.UInt32)).fill_null(empty) for series in found]
        lists = pl.select(pl.concat_list(each).list.unique().list.sort()).to_series()
    unknown = np.logical_and.reduce([series.is_null().to_numpy() for series in found])
    return _flat(lists, unknown)


def drawn(batch: Batch, columns: Sequence[str]) -> Matches:
    """The entries of one column of each sample, drawn by uid hash among those that it has."""
    lists = [batch.frame.select(column(name)).to_series() for name in columns]
    there = np.stack([series.is_not_null().to_numpy() for series in lists])  # [S, N]
    wanted = (batch.uniform("text") * there.sum(axis=0)).astype(np.int64)
    place = np.argmax(there & (np.cumsum(there, axis=0) == wanted + 1), axis=0)  # [N]
    one = lists[0].cast(pl.List(pl.UInt32))
    for number, series in enumerate(lists[1:], 1):
        one = one.zip_with(pl.Series(place != number), series.cast(pl.List(pl.UInt32)))
    return _flat(one, one.is_null().to_numpy())


def _flat(lists: pl.Series, unscored: np.ndarray) -> Matches:
    return Matches(
        lists.list.len().fill_null(0).to_numpy().astype(np.int64),
        lists.drop_nulls().to_arrow().flatten().to_numpy(),
        unscored,
    )


def coins(bases: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """[M] float64 in [0, 1), 52 bits each, of [M] uint64 of samples and [M] uint64 of entries."""
    x = mixed(bases ^ codes)
    x >>= np.uint64(12)
    return np.asarray(x.astype(np.float64) * _UNIT)


def bases(batch: Batch) -> np.ndarray:
    """[N] uint64 that coins are made from, by (seed, step, uid)."""
    drawn = (batch.uniform("coin") * 2.0**53).astype(np.uint64)
    return (drawn << np.uint64(11)) * _SPREAD


def thresholds(
    own: Matches, base: np.ndarray, codes: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """([N] float64: the least coin * weight over a sample's entries, NaN where it has none;
    [N] uint32: the entry that has it, NONE where there is none; ties go to the smaller id).

    Args:
        own: The samples' entries.
        base: [N] uint64 of the samples, of `bases`.
        codes: [E] uint64, a hash of each entry's text.
        weights: [E] float64, count / t of each entry.
    """
    least = np.full(len(own.lengths), np.nan)
    entry = np.full(len(own.lengths), NONE, dtype=np.uint32)
    rows = np.flatnonzero(own.lengths)
    stops = np.cumsum(own.lengths)[rows]
    if not len(rows):
        return least, entry
    starts = stops - own.lengths[rows]
    cuts = np.searchsorted(starts, np.arange(0, int(stops[-1]) + AT_ONCE, AT_ONCE)).tolist()
    for first, last in pairwise(cuts):
        if first == last:
            continue
        some = rows[first:last]
        begin, end = int(starts[first]), int(stops[last - 1])
        ids = own.ids[begin:end]
        lengths = own.lengths[some]
        value = coins(np.repeat(base[some], lengths), codes[ids])
        value *= weights[ids]
        place = _least(value, starts[first:last] - begin, lengths)
        least[some], entry[some] = value[place], ids[place]
    return least, entry


def _least(value: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[K] where the least value of each of K runs is; the first of equal ones.

    All runs go one step at a time: ten times as fast as `reduceat` on runs of a few values.
    """
    order = np.argsort(-np.minimum(lengths, _STEPS + 1).astype(np.int8), kind="stable")
    longer = len(lengths) - np.cumsum(np.bincount(np.minimum(lengths, _STEPS + 1)))
    at = starts[order]  # [K] in order of length, the longest first
    best, low = at.copy(), value[at]
    for step in range(1, min(int(lengths.max(initial=0)), _STEPS)):
        count = int(longer[step])
        here = value[at[:count] + step]
        lower = here < low[:count]
        np.copyto(low[:count], here, where=lower)
        np.copyto(best[:count], at[:count] + step, where=lower)
    found = np.empty_like(best)
    found[order] = best
    for run in np.flatnonzero(lengths > _STEPS).tolist():
        found[run] = starts[run] + np.argmin(value[starts[run] : starts[run] + lengths[run]])
    return found
