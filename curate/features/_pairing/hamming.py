"""All pairs of 64-bit hashes within a Hamming distance, by sorting them on some bits at a time.

The bits are cut into radius + k bands. Two hashes that differ in at most `radius` bits are equal in
k bands at least, so sorting by each choice of k bands brings all such pairs together (G. Manku,
A. Jain, A. Das Sarma: Detecting near-duplicates for web crawling, WWW 2007, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np

BITS = 64
ALL = (1 << BITS) - 1
MATCH = np.dtype([("left", "<u4"), ("right", "<u4"), ("distance", "u1")])  # rows of two hashes

_AT_ONCE = 32_768  # comparisons: what they need stays in a core's cache
_SORT_NS, _COMPARE_NS = 80.0, 1.5  # for one hash, and one comparison; measured
_MOST_TABLES = 2_000
_MATCHES = 1 << 20  # that are handed on at a time, about
_TRIM = 4_000_000  # from which it is worth looking who has too many


@dataclass(frozen=True)
class Table:
    """One way to sort: pairs that are equal in all its bits, and in no choice of bands before it.

    So a pair is found by one table only.
    """

    mask: np.uint64
    before: tuple[np.uint64, ...] = ()  # each has bits in which the pair differs

    def first_for(self, difference: np.ndarray) -> np.ndarray:
        """[M] bool of [M] uint64, pairs XORed: which of them this table is the one to find."""
        found = (difference & self.mask) == 0
        for band in self.before:
            found &= (difference & band) != 0
        return np.asarray(found)


def bands(count: int, within: int = ALL) -> list[int]:
    """Masks that share out the set bits of `within`, in runs as equal as can be."""
    places = [1 << place for place in range(BITS) if within >> place & 1]
    cuts = [len(places) * number // max(1, count) for number in range(count + 1)]
    return [sum(places[start:stop]) for start, stop in pairwise(cuts)]


def tables(radius: int, count: int, band: int = 0, before: Sequence[int] = ()) -> list[Table]:
    """The tables that find all pairs of so many hashes, as many as take the least time.

    Args:
        radius: The largest distance.
        count: Hashes, of which about as many are equal in the bits of `band`, if that has any.
        band: Bits in which the pairs that are sought are equal.
        before: Bands in each of which they differ.
    """
    rest = ALL ^ band
    chosen = _bands_equal(radius, count, rest.bit_count())
    masks = bands(radius + chosen, rest)
    found = []
    for equal in combinations(range(radius + chosen), chosen):
        mask = sum(masks[number] for number in equal)
        differ = [masks[number] for number in range(max(equal, default=0)) if number not in equal]
        found.append(Table(np.uint64(band | mask), tuple(map(np.uint64, [*before, *differ]))))
    return found


def _bands_equal(radius: int, count: int, width: int) -> int:
    """How many bands, besides `radius` of them, of so many bits; 0 compares all with all."""

    def cost(more: int) -> float:
        bits = width * more / (radius + more) if more else 0
        return comb(radius + more, more) * (_SORT_NS + _COMPARE_NS * count / 2**bits)

    possible = range(1, width - radius + 1)
    few = (more for more in possible if comb(radius + more, more) <= _MOST_TABLES)
    return min([0, *few], key=cost)


@dataclass(frozen=True)
class Buckets:
    """Rows that are equal in a table's bits, side by side; the largest bucket first."""

    rows: np.ndarray  # [M] int64, of hashes that are not alone in their bucket
    sizes: np.ndarray  # [B] int64, descending

    @staticmethod
    def of(hashes: np.ndarray, table: Table, reach: int) -> Buckets:
        """The buckets of [N] hashes; in those larger than `reach`, rows ascend."""
        keys = hashes & table.mask
        order = np.argsort(keys) if table.mask else np.arange(len(hashes))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])[: len(keys)]
        sizes = np.diff(np.r_[starts, len(keys)])
        shared = np.flatnonzero(sizes > 1)
        largest = shared[np.argsort(-sizes[shared], kind="stable")]
        starts, sizes = starts[largest], sizes[largest]
        firsts = np.cumsum(sizes) - sizes
        rows = order[np.repeat(starts - firsts, sizes) + np.arange(sizes.sum())]
        for bucket in range(int((sizes > reach).sum())):
            # The sort above is not stable, so that it is fast.
            rows[firsts[bucket] : firsts[bucket] + sizes[bucket]].sort()
        return Buckets(rows, sizes)

    def left_out(self, reach: int) -> int:
        """Pairs farther apart in their bucket than `reach`."""
        beyond = (self.sizes - reach - 1).clip(min=0)
        return int((beyond * (beyond + 1) // 2).sum())


def matches(
    hashes: np.ndarray, radius: int, table: Table, buckets: Buckets, reach: int
) -> Iterator[np.ndarray]:
    """The pairs that a table finds, each once, as [M] MATCH, some at a time.

    Args:
        hashes: [N] uint64; N < 2**32.
        radius: The largest distance.
        table: One of `tables` for this radius.
        buckets: Of these hashes and this table.
        reach: Each is compared with so many that follow it in its bucket.
    """
    found, waiting = [np.empty(0, MATCH)], 0
    for place, step, distance in _near(hashes[buckets.rows], radius, table, _ends(buckets, reach)):
        one, other = buckets.rows[place], buckets.rows[place + step]
        told = np.empty(len(place), dtype=MATCH)
        told["left"], told["right"] = np.minimum(one, other), np.maximum(one, other)
        told["distance"] = distance
        found.append(told)
        waiting += len(told)
        if waiting >= _MATCHES:
            yield np.concatenate(found)
            found, waiting = found[:1], 0
    yield np.concatenate(found)


class Nearest:
    """Of matches that come bit by bit, those that are among the nearest of one of their sides.

    Of equally near ones the smaller row comes first, so that the order in which they come does not
    matter.
    """

    def __init__(self, hashes: int, limit: int) -> None:
        """Start without any.

        Args:
            hashes: Rows; fewer than 2**29. Distances are below 64.
            limit: Matches of each that are kept.
        """
        self._limit = limit
        self._farthest = np.full(hashes, 255, dtype=np.uint8)  # of each row's matches that matter
        self._found = [np.empty(0, dtype=MATCH)]
        self._waiting = 0
        self.seen = 0

    def add(self, found: np.ndarray) -> None:
        """Take [M] MATCH."""
        self.seen += len(found)
        ends = (self._farthest[found[end]] for end in ("left", "right"))
        near = found[found["distance"] <= np.maximum(*ends)]
        self._found.append(near)
        self._waiting += len(near)
        if self._waiting >= _TRIM:
            self.kept()

    def kept(self) -> np.ndarray:
        """[K] MATCH of all that came so far."""
        found = np.concatenate(self._found)
        ends = np.concatenate([found["left"], found["right"]])  # [2 M]
        if len(ends) and int(np.bincount(ends).max()) > self._limit:
            found = found[self._ranked(found, ends)]
        self._found, self._waiting = [found], 0
        return found

    def _ranked(self, found: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """[M] bool: who is among the nearest of a side."""
        bits = np.uint64(len(self._farthest).bit_length())
        key = ends.astype(np.uint64) << np.uint64(6)  # and one number of all three sorts fastest
        key |= np.tile(found["distance"], 2)
        key <<= bits
        key |= np.concatenate([found["right"], found["left"]])
        order = np.argsort(key)
        ends = ends[order]
        firsts = np.flatnonzero(np.r_[True, ends[1:] != ends[:-1]])
        sizes = np.diff(np.r_[firsts, len(ends)])
        rank = np.arange(len(ends)) - np.repeat(firsts, sizes)
        last = rank == self._limit - 1
        self._farthest[ends[last]] = found["distance"][order[last] % len(found)]
        kept = np.zeros(len(ends), dtype=bool)
        kept[order[rank < self._limit]] = True
        return np.asarray(kept[: len(found)] | kept[len(found) :])


def _ends(buckets: Buckets, reach: int) -> np.ndarray:
    """[S] int64: for each step, one past the last row that another of its bucket follows so far on.

    It is 0 for step 0, which compares nothing.
    """
    steps = np.arange(min(int(buckets.sizes[:1].sum()), reach + 1))
    larger = np.searchsorted(-buckets.sizes, -steps)  # buckets of more rows than that
    return np.asarray(np.r_[0, np.cumsum(buckets.sizes)][larger] - steps)


def _near(
    ordered: np.ndarray, radius: int, table: Table, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """([K] place, step, [K] distance) of [M] hashes and those that come `step` later.

    Slices of hashes in a row are compared: nothing is gathered, and all stays in the cache. Those
    of two buckets are sorted out once they are known to be near, which is seldom.
    """
    differ = np.empty(_AT_ONCE, dtype=np.uint64)
    distance, near = np.empty(_AT_ONCE, dtype=np.uint8), np.empty(_AT_ONCE, dtype=bool)
    for start in range(0, len(ordered), _AT_ONCE):
        for step in range(1, len(ends)):
            size = min(int(ends[step]) - start, _AT_ONCE)
            if size <= 0:
                break
            one, other = ordered[start : start + size], ordered[start + step : start + step + size]
            np.bitwise_xor(one, other, out=differ[:size])
            np.bitwise_count(differ[:size], out=distance[:size])
            hits = np.flatnonzero(np.less_equal(distance[:size], radius, out=near[:size]))
            if len(hits):
                hits = hits[table.first_for(differ[hits])]
                yield start + hits, step, distance[hits]
