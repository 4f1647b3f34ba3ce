"""Rows that share a uid, brought together: samples that ask, and tables that answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import chance, storage
from curate.parquet import write_parquet
from curate.sample import UID, format_uids
from curate.shuffle import Exchange

PARTITION_BYTES = 128 << 20  # of both sides: sorting them takes four times that
ASK = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("address", "<u8")])
# Columns of ours; no field of a step can have such a name.
KEYS = {"f0": "#f0", "f1": "#f1"}  # {half of a uid: where a table has it}
TEXT = "#text"  # the column that says what was hashed to that uid, where it is no uid
ROW = "#row"  # of the block, in an answer
_EXAMPLES = 3
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class FrameExchange:
    """One leg of a shuffle of frames of any types: Arrow files with a record batch a reader."""

    folder: str
    writers: int
    readers: int

    def _url(self, writer: int) -> str:
        return storage.join(self.folder, f"from-{writer:06d}.arrow")

    def write(self, writer: int, frame: pl.DataFrame, reader: np.ndarray) -> None:
        """Commit one writer's [N] rows, [N] of them for each reader; each keeps their order."""
        import pyarrow as pa

        order, offsets = _by_reader(reader, self.readers)
        table = frame[order].rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        whole = table.combine_chunks().to_batches()
        batch = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=table.schema)
        with (
            storage.committing(self._url(writer)) as handle,
            pa.ipc.new_file(handle, table.schema) as out,
        ):
            for start, stop in pairwise(offsets):
                out.write_batch(batch.slice(start, stop - start))

    def read(self, reader: int) -> pl.DataFrame:
        """All rows for one reader, in order of writer."""
        return pl.concat([self._read(writer, reader) for writer in range(self.writers)])

    def _read(self, writer: int, reader: int) -> pl.DataFrame:
        import pyarrow as pa

        url = self._url(writer)
        if storage.is_local(url):
            with pa.memory_map(str(storage.local_path(url))) as mapped:
                return _frame(pa.ipc.open_file(mapped).get_batch(reader))
        with storage.opened(url) as handle:
            return _frame(pa.ipc.open_file(handle).get_batch(reader))

    def remove(self) -> None:
        """Delete the files."""
        storage.remove(self.folder)


def _frame(batch: Any) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame), batch.schema
    return frame


def _by_reader(reader: np.ndarray, readers: int) -> tuple[np.ndarray, list[int]]:
    """[N] rows in order of their reader, and the [readers + 1] bounds of each one's."""
    small = reader.astype(np.uint16 if readers <= 1 << 16 else np.uint32)  # a radix sort
    counts = np.bincount(small, minlength=readers)
    return np.argsort(small, kind="stable"), [0, *np.cumsum(counts).tolist()]


@dataclass(frozen=True)
class Settled:
    """What a join came to; sums over partitions."""

    found: int = 0  # samples that have a row of the table
    missing: int = 0  # samples that have none
    repeated: int = 0  # rows of the table whose uid an earlier one has
    conflicting: int = 0  # uids of which a later row says something else than the first
    unused: int = 0  # rows of the table whose uid no sample has
    without: tuple[int, ...] = ()  # addresses of the first samples that have no row
    conflict: tuple[str, str, str] | None = None  # of the smallest such uid: it, and what two say

    def plus(self, other: Settled) -> Settled:
        """Both in one, in any order."""
        conflicts = [one for one in (self.conflict, other.conflict) if one is not None]
        return Settled(
            found=self.found + other.found,
            missing=self.missing + other.missing,
            repeated=self.repeated + other.repeated,
            conflicting=self.conflicting + other.conflicting,
            unused=self.unused + other.unused,
            without=tuple(sorted((*self.without, *other.without))[:_EXAMPLES]),
            conflict=min(conflicts, default=None),
        )


def partitions(asked: int, offered: int, bytes_per_row: int) -> int:
    """How many partitions bound each one's memory.

    Args:
        asked: Samples.
        offered: Rows of the table.
        bytes_per_row: Of the table, without uids.
    """
    total = asked * ASK.itemsize + offered * (UID.itemsize + bytes_per_row)
    return min(max(1, -(-total // PARTITION_BYTES)), 1 << 16)


@dataclass(frozen=True)
class Join:
    """A join by uid: every writer sends its rows to the partitions, which answer block by block.

    A sample gets the values of the first row, by (writer, position), that has its uid. Nothing
    depends on the order in which tasks are done, and each may be repeated.
    """

    folder: str
    askers: int
    offerers: int
    partitions: int
    blocks: int = 0  # readers of the answers, which are known once everybody asked
    unused: Literal["count", "keep"] = "count"  # rows that no sample asked for

    @property
    def _asked(self) -> Exchange:
        return Exchange(storage.join(self.folder, "asked"), self.askers, self.partitions)

    @property
    def _offered(self) -> FrameExchange:
        return FrameExchange(storage.join(self.folder, "offered"), self.offerers, self.partitions)

    @property
    def _answers(self) -> FrameExchange:
        return FrameExchange(storage.join(self.folder, "answers"), self.partitions, self.blocks)

    def _partition(self, uids: np.ndarray) -> np.ndarray:
        # Hashed, for uids may be small numbers.
        return (chance.bits(0, "join", uids) % np.uint64(self.partitions)).astype(np.int64)

    def ask(self, asker: int, uids: np.ndarray, addresses: np.ndarray) -> int:
        """Send one task's [N] samples, and give how many blocks they need: the last one's, plus 1.

        Args:
            asker: Which task, from 0.
            uids: [N] UID.
            addresses: [N] uint64, the block in the upper 32 bits and the row in the lower.
        """
        asks = np.empty(len(uids), dtype=ASK)
        asks["f0"], asks["f1"], asks["address"] = uids["f0"], uids["f1"], addresses
        self._asked.write(asker, asks, self._partition(uids).astype(np.uint16))
        return int(addresses.max() >> _HALF) + 1 if len(addresses) else 0

    def offer(self, offerer: int, uids: np.ndarray, values: pl.DataFrame) -> None:
        """Send one task's [N] rows of the table, of the same types as every other task's."""
        halves = [pl.Series(name, uids[half], dtype=pl.UInt64) for half, name in KEYS.items()]
        frame = pl.DataFrame([*halves, *values.get_columns()])
        self._offered.write(offerer, frame, self._partition(uids))

    def settle(self, partition: int) -> Settled:
        """Answer the samples of one partition, which have a row each in `answers` if found."""
        asked = np.concatenate([np.empty(0, dtype=ASK), *self._asked.pieces(partition)])
        offered = self._offered.read(partition)
        values = offered.drop(KEYS.values())
        uids = _uids(offered)
        first, leader = match(uids, asked)
        found = np.flatnonzero(first >= 0)
        places = asked["address"][found]
        answers = values.drop(TEXT, strict=False)[first[found]]
        rows = pl.Series(ROW, (places & _LOW).astype(np.uint32))
        self._answers.write(
            partition,
            pl.DataFrame([rows, *answers.get_columns()]),
            (places >> _HALF).astype(np.int64),
        )
        used = np.zeros(len(uids), dtype=bool)
        used[first[found]] = True
        unused = np.flatnonzero(~used[leader])
        if self.unused == "keep":
            write_parquet(self.unused_file(partition), offered[unused])
        missing = np.sort(asked["address"][first < 0])
        conflicting, conflict = _conflicts(uids, values, leader)
        return Settled(
            found=len(found),
            missing=len(missing),
            repeated=int((leader != np.arange(len(leader))).sum()),
            conflicting=conflicting,
            unused=len(unused),
            without=tuple(missing[:_EXAMPLES].tolist()),
            conflict=conflict,
        )

    def unused_file(self, partition: int) -> str:
        """The rows of a partition that no sample asked for, in order, where they are kept."""
        return storage.join(self.folder, "unused", f"{partition:05d}.parquet")

    def answers(self, block: int) -> pl.DataFrame:
        """Every sample of a block that was found: ROW, ascending, and the values."""
        return self._answers.read(block).sort(ROW)

    def with_blocks(self, blocks: int) -> Join:
        """The same, once it is known how many blocks asked."""
        return replace(self, blocks=blocks)

    def clear(self) -> None:
        """Delete what was sent, but for the answers."""
        for sent in (self._asked, self._offered):
            sent.remove()


def _uids(offered: pl.DataFrame) -> np.ndarray:
    uids = np.empty(offered.height, dtype=UID)
    for half, name in KEYS.items():
        uids[half] = offered[name].to_numpy()
    return uids


def match(offered: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each uid is offered first.

    Args:
        offered: [T] rows with fields f0 and f1.
        asked: [A] rows with fields f0 and f1.

    Returns:
        [A] int64, the first of `offered` with that uid, -1 where there is none; and the same for
        [T] `offered` themselves.
    """
    firsts = _keys(offered).with_row_index("first").group_by(list(KEYS)).agg(pl.col("first").min())
    leader = np.arange(len(offered), dtype=np.int64)
    if firsts.height < len(offered):
        leader = _looked_up(offered, firsts)
    return _looked_up(asked, firsts), leader


def _keys(rows: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({name: np.ascontiguousarray(rows[name]) for name in KEYS})


def _looked_up(rows: np.ndarray, firsts: pl.DataFrame) -> np.ndarray:
    found = _keys(rows).join(firsts, on=list(KEYS), how="left", maintain_order="left")["first"]
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _conflicts(
    uids: np.ndarray, values: pl.DataFrame, leader: np.ndarray
) -> tuple[int, tuple[str, str, str] | None]:
    """How many uids have rows that differ, and (uid, its first row, another) of the smallest."""
    repeats = np.flatnonzero(leader != np.arange(len(leader)))
    said = values.drop(TEXT, strict=False)
    if not len(repeats) or not said.width:
        return 0, None
    first, later = said[leader[repeats]], said[repeats]
    differs = [first[name].ne_missing(later[name]).to_numpy() for name in said.columns]
    rows = repeats[np.logical_or.reduce(differs)]
    if not len(rows):
        return 0, None
    smallest = rows[np.lexsort((rows, uids["f1"][rows], uids["f0"][rows]))[0]]
    label = format_uids(uids[smallest : smallest + 1])[0]
    if TEXT in values.columns:
        label = str(values[TEXT][int(smallest)])
    pair = [said[int(row)].write_ndjson().strip() for row in (leader[smallest], smallest)]
    return len(np.unique(leader[rows])), (label, pair[0], pair[1])
