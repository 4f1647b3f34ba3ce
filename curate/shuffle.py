"""Bring rows that share a key together, from all blocks, and send what was decided back.

A map task sorts the records of one block by partition into one file with an offset index; a reduce
task reads its slice of every such file. Memory is bounded by one block, or one partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate import storage

PARTITION_BYTES = 512 << 20
_BYTES_AT_ONCE = 32 << 20  # of large records, while they are written in the order of their readers

Make = Callable[[np.ndarray], np.ndarray]  # of [M] places: [M] records


@dataclass(frozen=True)
class Exchange:
    """One leg of a shuffle: many writers, many readers, files between them."""

    folder: str
    writers: int
    readers: int

    def _stem(self, writer: int) -> str:
        return storage.join(self.folder, f"from-{writer:05d}")

    def write(self, writer: int, records: np.ndarray, reader: np.ndarray) -> None:
        """Commit one writer's [N] structured records, [N] of them for each reader."""
        order = np.argsort(reader, kind="stable")
        offsets = np.searchsorted(reader[order], np.arange(self.readers + 1))
        storage.commit_array(f"{self._stem(writer)}.npy", records[order])
        storage.commit_array(f"{self._stem(writer)}.offsets.npy", offsets.astype(np.int64))

    def write_made(self, writer: int, dtype: np.dtype[Any], reader: np.ndarray, make: Make) -> None:
        """As `write`, of records so large that no two copies of them are to be in memory.

        Args:
            writer: Who writes.
            dtype: Of the records.
            reader: [N] their readers.
            make: Gives the records of some [M] of these N.
        """
        order = np.argsort(reader, kind="stable")
        offsets = np.searchsorted(reader[order], np.arange(self.readers + 1))
        step = max(1, _BYTES_AT_ONCE // dtype.itemsize)
        header = {"descr": dtype.descr, "fortran_order": False, "shape": (len(order),)}
        with storage.committing(f"{self._stem(writer)}.npy") as handle:
            np.lib.format.write_array_header_2_0(handle, header)
            for start in range(0, len(order), step):
                handle.write(make(order[start : start + step]).view(np.uint8).data)
        storage.commit_array(f"{self._stem(writer)}.offsets.npy", offsets.astype(np.int64))

    def written(self, writer: int) -> bool:
        """Whether this writer has committed: a task that is repeated need not do so again."""
        return storage.exists(f"{self._stem(writer)}.offsets.npy")

    def read(self, reader: int) -> np.ndarray:
        """All records for one reader, in order of writer."""
        slices = [self._slice(writer, reader) for writer in range(self.writers)]
        pieces = self._pieces(slices)
        first = next(pieces)
        records = np.empty(sum(stop - start for start, stop in slices), dtype=first.dtype)
        records[: len(first)] = first
        filled = len(first)
        for piece in pieces:
            records[filled : filled + len(piece)] = piece
            filled += len(piece)
        return records

    def pieces(self, reader: int) -> Iterator[np.ndarray]:
        """The records for one reader, in order of writer, from one writer at a time."""
        return self._pieces([self._slice(writer, reader) for writer in range(self.writers)])

    def _slice(self, writer: int, reader: int) -> tuple[int, int]:
        offsets = storage.read_rows(f"{self._stem(writer)}.offsets.npy", reader, reader + 2)
        return int(offsets[0]), int(offsets[1])

    def _pieces(self, slices: list[tuple[int, int]]) -> Iterator[np.ndarray]:
        for writer, (start, stop) in enumerate(slices):
            yield storage.read_rows(f"{self._stem(writer)}.npy", start, stop)

    def remove(self) -> None:
        """Delete the files."""
        storage.remove(self.folder)


def partitions(rows: int, bytes_per_row: int) -> int:
    """How many readers bound each one's memory."""
    return max(1, -(-rows * bytes_per_row // PARTITION_BYTES))


# A sample on its way to its group, and the decision on its way back.
MEMBER = np.dtype(
    [("key", "<u8", 2), ("worse", "<u8"), ("f0", "<u8"), ("f1", "<u8"), ("address", "<u8")]
)
DECISION = np.dtype(
    [("address", "<u8"), ("copies", "<u4"), ("first_f0", "<u8"), ("first_f1", "<u8")]
)

Keep = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # of key, rank and size: copies


def decide_groups(members: np.ndarray, keep: Keep) -> np.ndarray:
    """[N] DECISION of [N] MEMBER: each group ordered by (worse, uid, address), then kept by rank.

    The result does not depend on the order of the members.
    """
    keys = members["key"]
    order = np.lexsort(
        (members["address"], members["f1"], members["f0"], members["worse"], keys[:, 1], keys[:, 0])
    )
    ordered = members[order]
    keys = ordered["key"]
    starts = np.ones(len(ordered), dtype=bool)
    starts[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
    group = np.cumsum(starts) - 1
    size = np.bincount(group)[group] if len(ordered) else group
    decisions = np.empty(len(ordered), dtype=DECISION)
    decisions["address"] = ordered["address"]
    decisions["copies"] = keep(keys[:, 0], np.arange(len(ordered)) - first, size)
    decisions["first_f0"] = ordered["f0"][first]
    decisions["first_f1"] = ordered["f1"][first]
    return decisions
