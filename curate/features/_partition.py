"""Random partitions of samples into batches of equal size: by hash, so that order decides nothing.

Embeddings are moved once, not once for every partition. A sample belongs, by a hash of its uid, to
one group; a group is a random part of all samples, small enough for memory. Each round then deals
the samples of a group anew, by another hash, to the batches of that group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from curate import chance
from filters import Batch

BATCHES_PER_GROUP = 8  # at most: 0.8 GB of a ViT-L/14's float16 embeddings of image and text


@dataclass(frozen=True)
class Partition:
    """How so many samples are dealt to batches of about the size that is wanted."""

    batches: int  # of one round
    groups: int

    @staticmethod
    def of(samples: int, batch: int) -> Partition:
        """The partition whose batches come nearest to a size (half a batch to the even number)."""
        batches = max(1, round(samples / batch))
        return Partition(batches, -(-batches // BATCHES_PER_GROUP))

    def group(self, uniform: np.ndarray) -> np.ndarray:
        """[N] int64: the group of each sample, of [N] float64 in [0, 1)."""
        return (uniform * self.batches).astype(np.int64) * self.groups // self.batches

    def batches_in(self, group: int) -> int:
        """Batches that a group has in each round: their sizes are equal in expectation."""
        first, after = (-(-number * self.batches // self.groups) for number in (group, group + 1))
        return after - first


def sample_ids(batch: Batch) -> np.ndarray:
    """[N] UID that stand for the samples of a batch in every hash of later rounds.

    They hold the run's seed and the step's name besides the uid.
    """
    ids = batch.uids.copy()
    ids["f0"] ^= (batch.uniform("sample") * 2.0**53).astype(np.uint64)
    return ids


def dealt(
    ids: np.ndarray, addresses: np.ndarray, rounds: int, batches: int
) -> Iterator[Sequence[np.ndarray]]:
    """For every round, the rows of each batch: a partition of [N], sizes differ by at most one.

    Samples that share a uid are told apart by the order of their addresses, and dealt alone.
    """
    order = np.lexsort((addresses, ids["f1"], ids["f0"]))
    ordered = ids[order]
    again = np.zeros(len(ids), dtype=bool)
    again[1:] = ordered[1:] == ordered[:-1]
    places = np.arange(len(ids))
    copy = places - np.maximum.accumulate(np.where(again, 0, places))  # 0 for the first of a uid
    ordered["f1"] += copy.astype(np.uint64)
    for number in range(rounds):
        draws = chance.bits(0, "round", ordered, salt=str(number))
        dealing = order[np.lexsort((ordered["f1"], ordered["f0"], draws))]
        yield np.array_split(dealing, batches)
