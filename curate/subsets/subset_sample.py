"""A random part of a subset: by a hash of the uid, so that neither order nor a file decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from functools import partial

import numpy as np

from curate import chance
from curate.errors import ConfigError
from curate.sample import UID, make_uids
from curate.subsets.algebra import grouped
from curate.subsets.sorted_files import Piece, RowFile, aligned, in_order
from curate.subsets.subset import gather
from curate.subsets.subset_file import Sequential

NAME = "subset sample"  # the name that the hash is given, as a step gives its own
_HASHED = 1 << 15  # rows hashed at once: what is in between stays in the cache
_MARGIN = 8  # standard deviations by which the expected threshold may be wrong

_BINS = 1 << 16

Drawn = tuple[int, int, int, int]  # (value, f0, f1, copy) of the last row that is drawn
CANDIDATE = np.dtype([("value", "<u8"), ("f0", "<u8"), ("f1", "<u8"), ("copy", "<i8")])


def rows_of(fraction: str, rows: int) -> int:
    """floor(fraction * rows), the fraction being the decimal as written, in [0, 1]."""
    try:
        share = Decimal(fraction)
    except ArithmeticError:
        raise ConfigError(f"--fraction {fraction} is not a number") from None
    if not share.is_finite() or not 0 <= share <= 1:
        raise ConfigError(f"--fraction {fraction} is not between 0 and 1")
    return int((share * rows).to_integral_value(ROUND_FLOOR))


def sample(file: RowFile, count: int, seed: int) -> Sequential:
    """Exactly `count` rows of a sorted subset, those with the smallest hash.

    The hash is of (seed, uid, number of the copy), so copies of one uid are drawn one by one. A
    larger count of the same file draws the same rows and more. Ties: smaller uid, earlier copy.
    """
    if count > file.rows:
        raise ConfigError(f"{file.url} has {file.rows:,} rows, of which {count:,} cannot be drawn")
    if not count:
        return Sequential(lambda: iter(()), lambda: 0)
    last = _last_drawn(file, count, seed)
    return Sequential(lambda: in_order(partial(_drawn, seed, last), aligned([file])), lambda: count)


@dataclass(frozen=True)
class _Hashed:
    """The rows of a chunk."""

    uids: np.ndarray  # [N] UID
    copy: np.ndarray  # [N] int64, number of the copy
    value: np.ndarray  # [N] uint64

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """[C] CANDIDATE of [N] bool."""
        found = np.empty(int(chosen.sum()), dtype=CANDIDATE)
        uids = self.uids[chosen]
        found["value"], found["copy"] = self.value[chosen], self.copy[chosen]
        found["f0"], found["f1"] = uids["f0"], uids["f1"]
        return found


def _hashed(seed: int, pieces: Sequence[Piece]) -> _Hashed:
    groups = grouped(pieces)
    uids, copy = groups.uids, np.zeros(len(groups.uids), dtype=np.int64)
    if groups.copies.max(initial=1) > 1:
        uids = np.repeat(uids.view("V16"), groups.copies).view(UID)
        begins = np.cumsum(groups.copies) - groups.copies
        copy = np.arange(len(uids)) - np.repeat(begins, groups.copies)
    value = np.empty(len(uids), dtype=np.uint64)
    for start in range(0, len(uids), _HASHED):
        part = slice(start, start + _HASHED)
        value[part] = chance.bits(seed, NAME, uids[part])
    again = np.flatnonzero(copy)
    own = make_uids(value[again], copy[again].astype(np.uint64))
    value[again] = chance.bits(seed, NAME, own, "copy")
    return _Hashed(uids, copy, value)


def _drawn(seed: int, last: Drawn, pieces: Sequence[Piece]) -> np.ndarray:
    hashed = _hashed(seed, pieces)
    chosen = hashed.value < np.uint64(last[0])
    equal = hashed.value == np.uint64(last[0])
    chosen[equal] = [tuple(row) <= last for row in hashed.rows(equal).tolist()]
    return gather(hashed.uids, np.flatnonzero(chosen))


@dataclass(frozen=True)
class _Scan:
    """What one pass finds: who is below a window of hashes, and who is in it."""

    below: int
    inside: np.ndarray  # [C] CANDIDATE
    bins: np.ndarray  # [_BINS] rows by the upper 16 bits of their hash


def _last_drawn(file: RowFile, count: int, seed: int) -> Drawn:
    """The row with the `count`-th smallest hash, exactly.

    One pass looks only at rows near where it must be, as hashes are uniform. Should it not be
    there, that pass has counted in which bin it is, and a second one looks at that.
    """
    low, high = _window(count, file.rows)
    while True:
        scan = _total(in_order(partial(_scanned, seed, low, high), aligned([file])))
        place = count - 1 - scan.below
        if 0 <= place < len(scan.inside):
            value, f0, f1, copy = np.sort(scan.inside, order=CANDIDATE.names)[place].tolist()
            return value, f0, f1, copy
        number = int(np.searchsorted(np.cumsum(scan.bins), count))
        low, high = number << 48, (number + 1) << 48


def _total(scans: Iterator[_Scan]) -> _Scan:
    below, inside, bins = 0, [], np.zeros(_BINS, dtype=np.int64)
    for scan in scans:
        below += scan.below
        inside.append(scan.inside)
        bins += scan.bins
    return _Scan(below, np.concatenate(inside), bins)


def _window(count: int, rows: int) -> tuple[int, int]:
    """Hashes [low, high) among which the `count`-th smallest of `rows` is, but by a miracle."""
    share = count / rows
    margin = (_MARGIN * math.sqrt(rows * share * (1 - share)) + 1000) / rows
    low, high = share - margin, share + margin
    return int(max(0.0, low) * 2**64), 2**64 if high >= 1 else int(high * 2**64)


def _scanned(seed: int, low: int, high: int, pieces: Sequence[Piece]) -> _Scan:
    hashed = _hashed(seed, pieces)
    below = hashed.value < np.uint64(low)
    inside = ~below if high == 2**64 else (hashed.value < np.uint64(high)) & ~below
    bins = np.bincount((hashed.value >> np.uint64(48)).view(np.int64), minlength=_BINS)
    return _Scan(int(below.sum()), hashed.rows(inside), bins)
