"""Where embeddings lie while pairs are looked for: partitions of whole clusters, and tasks on them.

A sample travels to the partition of its nearest cluster and to that of its second nearest, once
where they are the same. A cluster that is too large for one task is split by a hash of the
embeddings at length 1, so that equal ones stay together; its parts are partitions of their own, and
every two of them are a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate import storage
from curate.shuffle import PARTITION_BYTES, Exchange
from filters import Batch, column

NO_CLUSTER = 2**32 - 1  # the second nearest where there is but one
CHUNK_BYTES = 128 << 20  # of a cluster's embeddings in float32: a larger one is split
_SMALLEST = 32 << 20  # bytes of a partition, where there are more samples than that
_PARTITIONS = 16  # at least, where each has that many bytes

# Of a cluster: its members by nearest or second nearest, its first partition, and how many it has.
CLUSTER = np.dtype([("members", "<u8"), ("partition", "<u4"), ("chunks", "<u4")])

HEAD = [
    ("address", "<u8"),
    ("f0", "<u8"),
    ("f1", "<u8"),
    ("draw", "<f8"),  # a random number in [0, 1)
    ("cluster", "<u4"),
    ("second", "<u4"),
]


def record(width: int, dtype: str) -> np.dtype[Any]:
    """A sample on its way to its clusters."""
    return np.dtype([*HEAD, ("vector", dtype, (width,))])


Senders = tuple[int, int]  # how many tasks send samples, and rows that each takes, about


@dataclass(frozen=True)
class Task:
    """The pairs of one partition, or those between two parts of one cluster."""

    number: int
    left: int
    right: int


@dataclass(frozen=True)
class Layout:
    """How all samples are spread."""

    folder: str
    clusters: np.ndarray  # [K] CLUSTER
    samples: int
    width: int
    dtype: str  # of the embeddings
    writers: int  # tasks that send samples
    rows: int  # that each takes, about

    @staticmethod
    def planned(
        folder: str, members: np.ndarray, samples: int, vector: np.dtype[Any], senders: Senders
    ) -> Layout:
        """The layout of [K] clusters with so many members each."""
        width, dtype = vector.shape[0], vector.base.str
        clusters = np.zeros(len(members), dtype=CLUSTER)
        clusters["members"], clusters["chunks"] = members, 1
        each = record(width, dtype).itemsize
        target = max(_SMALLEST, min(PARTITION_BYTES, int(members.sum()) * each // _PARTITIONS))
        chunk = max(1, CHUNK_BYTES // (4 * width))
        partition, filled = 0, 0
        for number, count in enumerate(members.tolist()):
            if count > chunk or filled + count * each > target:
                partition, filled = partition + bool(filled), 0
            clusters["partition"][number] = partition
            if count > chunk:
                clusters["chunks"][number] = -(-count // chunk)
                partition += -(-count // chunk)
            else:
                filled += count * each
        return Layout(folder, clusters, samples, width, dtype, *senders)

    def save(self) -> None:
        """Commit it; the JSON is written last."""
        storage.commit_array(storage.join(self.folder, "clusters.npy"), self.clusters)
        said = {"samples": self.samples, "width": self.width, "dtype": self.dtype}
        sent = {"writers": self.writers, "rows": self.rows}
        storage.commit_json(_file(self.folder), {**said, **sent})

    @staticmethod
    def load(folder: str) -> Layout | None:
        """The layout that was saved in a folder, if any."""
        if not storage.exists(_file(folder)):
            return None
        clusters = storage.read_array(storage.join(folder, "clusters.npy"))
        return Layout(folder, clusters, **storage.read_json(_file(folder)))

    @property
    def record(self) -> np.dtype[Any]:
        """What travels."""
        return record(self.width, self.dtype)

    @property
    def partitions(self) -> int:
        """Partitions in all."""
        return int((self.clusters["partition"] + self.clusters["chunks"]).max(initial=1))

    @property
    def members(self) -> Exchange:
        """The way to the partitions."""
        folder = storage.join(self.folder, "shuffle")
        return Exchange(folder, self.writers, self.partitions)

    def partition(self, cluster: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """[N] int64: partitions of samples in [N] clusters, with [N] uint64 hashes."""
        own = self.clusters[cluster]
        return np.asarray(own["partition"] + hashes % own["chunks"], dtype=np.int64)

    def split(self, cluster: np.ndarray) -> np.ndarray:
        """[N] bool: clusters that are in several parts."""
        return np.asarray(self.clusters["chunks"][cluster] > 1)

    def inside(self, partition: int) -> np.ndarray:
        """The clusters of a partition, ascending."""
        first = self.clusters["partition"]
        there = (first <= partition) & (partition < first + self.clusters["chunks"])
        return np.flatnonzero(there & (self.clusters["members"] > 0))

    def tasks(self) -> Iterator[Task]:
        """All tasks; together they have every pair of members of a cluster once."""
        starts = self.clusters[self.clusters["chunks"] > 1]
        chunks = {int(one["partition"]): int(one["chunks"]) for one in starts}
        partition, number = 0, 0
        while partition < self.partitions:
            after = partition + chunks.get(partition, 1)
            for left in range(partition, after):
                for right in range(left, after):
                    yield Task(number, left, right)
                    number += 1
            partition = after


def fitted_file(folder: str, part: int) -> str:
    """Where the addresses of those samples of a part are that take part, ascending."""
    return storage.join(folder, "fitted", f"part-{part:06d}.npy")


def fitted(folder: str, part: int) -> np.ndarray:
    """[M] uint64 addresses of those samples of a part that took part; [0] of a new part."""
    url = fitted_file(folder, part)
    known = storage.exists(url)
    return np.asarray(storage.read_array(url)) if known else np.empty(0, dtype=np.uint64)


def numbers(batch: Batch, within: str | None) -> tuple[np.ndarray, np.ndarray]:
    """[N] uint32 each: nearest and second nearest clusters of a batch; NO_CLUSTER for none."""
    if within is None:
        none = np.full(batch.frame.height, NO_CLUSTER, dtype=np.uint32)
        return np.zeros_like(none), none
    found = []
    for end in ("cluster", "second"):
        given = batch.frame.select(column(f"{within}.{end}")).to_series()
        found.append(given.fill_null(NO_CLUSTER).to_numpy().astype(np.uint32))
    nearest, second = found
    return nearest, np.where(second == nearest, np.uint32(NO_CLUSTER), second)


def _file(folder: str) -> str:
    return storage.join(folder, "layout.json")


def opened(folder: str) -> Layout:
    """The layout of a folder in which it was saved."""
    layout = Layout.load(folder)
    assert layout is not None, folder
    return layout


def gathered(pieces: Sequence[np.ndarray], rows: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`out`, filled with some [M] rows of all [N, D] pieces together; no copy of all is made."""
    lasts = np.cumsum([len(piece) for piece in pieces])
    owner = np.searchsorted(lasts, rows, side="right")
    for number in np.unique(owner).tolist():
        here = np.flatnonzero(owner == number)
        out[here] = pieces[number][rows[here] - (lasts[number] - len(pieces[number]))]
    return out
