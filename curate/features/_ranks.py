"""Exact ranks of numbers among millions: a sorted table of the distinct ones, each with its rank.

Numbers are compared as float32, so a table has no more rows than there are distinct float32 values
(some 20 million where all lie between 0.1 and 0.5), however many samples share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from curate import storage

# A number, as bits that ascend with it, and how many samples have it.
TALLY = np.dtype([("key", "<u4"), ("count", "<u8")])
AT_ONCE = 1 << 21  # rows of tallies that are worth merging
NO_TALLY = np.empty(0, dtype=TALLY)


def order(values: np.ndarray) -> np.ndarray:
    """[N] uint32 that ascend with [N] finite float64 as float32 has them; -0 is 0."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is its infinity
        bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    return np.where(bits & sign, ~bits, bits | sign)


def tally(values: np.ndarray) -> np.ndarray:
    """[M] TALLY of [N] finite float64, sorted."""
    keys, counts = np.unique(order(values), return_counts=True)
    tallied = np.empty(len(keys), dtype=TALLY)
    tallied["key"], tallied["count"] = keys, counts
    return tallied


def added(tallies: Sequence[np.ndarray]) -> np.ndarray:
    """[K] TALLY of all that some of them count."""
    every = np.concatenate([NO_TALLY, *tallies])
    every = every[np.argsort(every["key"])]
    starts = np.flatnonzero(np.append(True, every["key"][1:] != every["key"][:-1])[: len(every)])
    total = every[starts]
    if len(starts):
        total["count"] = np.add.reduceat(every["count"], starts)
    return total


def merged(tallies: Iterable[np.ndarray]) -> np.ndarray:
    """[K] TALLY of all that many of them count; memory is a few times the result."""
    total, waiting = NO_TALLY, [NO_TALLY]
    for one in tallies:
        waiting.append(one)
        if sum(map(len, waiting)) > max(AT_ONCE, len(total)):  # so that no row moves often
            total, waiting = added([total, *waiting]), []
    return added([total, *waiting])


@dataclass(frozen=True)
class Ranks:
    """The ranks of the numbers in a tally, 0 for the lowest and 1 for the highest of all samples.

    Samples that share a number share the mean of their ranks; a number that all share has 0.5.
    """

    keys: np.ndarray  # [K] uint32, ascending
    shares: np.ndarray  # [K] float64

    @staticmethod
    def of(tallied: np.ndarray) -> Ranks:
        """The ranks of the samples that a tally counts."""
        counts = tallied["count"].astype(np.int64)
        last = np.cumsum(counts)  # one past the last place of each number
        total = int(last[-1]) if len(last) else 0
        twice = 2 * last - counts - 1  # the first place and the last, added
        return Ranks(tallied["key"].copy(), twice / (2 * (total - 1)) if total > 1 else twice + 0.5)

    def share(self, values: np.ndarray) -> np.ndarray:
        """[N] float64 of [N] numbers; one that was not counted has the share of the next that was.

        That happens where what was learnt is kept for other samples (`when_changed: freeze`).
        """
        keys, place = np.unique(order(values), return_inverse=True)  # looked up in order: faster
        found = np.searchsorted(self.keys, keys)
        shares = np.append(self.shares, 1.0)  # above all that were counted
        return np.asarray(shares[found][place])

    def save(self, stem: str) -> None:
        """Commit the table as two files."""
        storage.commit_array(f"{stem}.keys.npy", self.keys)
        storage.commit_array(f"{stem}.shares.npy", self.shares)

    @staticmethod
    def load(stem: str) -> Ranks:
        """The table of two files; mapped where they are local."""
        return Ranks(
            storage.read_array(f"{stem}.keys.npy"), storage.read_array(f"{stem}.shares.npy")
        )
