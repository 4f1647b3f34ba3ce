"""Columns on disk: scalars per block (parquet), arrays per shard (.npy), parts appended."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from curate import storage
from curate.sample import format_uids, make_uids
from filters import structured

ROW = "row"  # row of the block, uint32; the key of every scalar file


@dataclass(frozen=True)
class Column:
    """Where a named column lives."""

    store: str  # "pool", or the step that made it
    field: str  # its name in that store's files
    dtype: str  # as polars prints it


Registry = Mapping[str, Column]  # {full name: where}


def write_parquet(url: str, frame: pl.DataFrame) -> None:
    """Commit a frame: the same frame gives the same bytes."""
    # Not straight to the file: polars would turn a full disk into an error of its own.
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=131_072
    )
    storage.commit(url, buffer.getbuffer())


def scan_parquet(url: str) -> pl.LazyFrame:
    """A local parquet file of which some will be read; StorageError where there is none."""
    path = storage.local_path(url)
    if not path.exists():
        storage.entry(url)  # raises the error that names it
    return pl.scan_parquet(path, glob=False)


def read_parquet(url: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A frame, or some columns of it; StorageError where the file cannot be read."""
    if storage.is_local(url):
        path = storage.local_path(url)
        if not path.exists():
            storage.entry(url)  # raises the error that names it
        return pl.read_parquet(path, columns=columns, glob=False)
    with storage.opened(url) as handle:
        return pl.read_parquet(handle, columns=columns)


@dataclass(frozen=True)
class Store:
    """The columns of one step in one work folder."""

    folder: str

    def block_file(self, block: int) -> str:
        """The compacted scalars of a block."""
        return storage.join(self.folder, f"block-{block:04d}.parquet")

    def part_folder(self, block: int) -> str:
        """Where the parts of a block wait to be compacted."""
        return storage.join(self.folder, "parts", f"{block:04d}")

    def write_part(self, block: int, unit: int, frame: pl.DataFrame) -> None:
        """Add rows: `row` and every scalar field, for one unit. The file is the proof of them."""
        folder = self.part_folder(block)
        taken = sum(name.startswith(f"{unit:07d}-") for name in storage.names(folder))
        write_parquet(storage.join(folder, f"{unit:07d}-{taken:03d}.parquet"), frame)

    def _part_files(self, block: int, unit: int | None) -> list[str]:
        folder = self.part_folder(block)
        wanted = "" if unit is None else f"{unit:07d}-"
        return [
            storage.join(folder, name)
            for name in storage.names(folder)
            if name.startswith(wanted) and name.endswith(".parquet")
        ]

    def read(self, block: int, fields: Iterable[str], unit: int | None = None) -> pl.DataFrame:
        """`row` and fields of the rows that are stored, sorted by row; the last part wins.

        Args:
            block: Which block.
            fields: Names of scalar fields.
            unit: Only the parts of this unit, besides what is compacted.
        """
        columns = [ROW, *fields]
        files = self._part_files(block, unit)
        if storage.exists(self.block_file(block)):
            files.insert(0, self.block_file(block))
        if not files:
            return pl.DataFrame(
                schema={name: pl.UInt32 if name == ROW else pl.Null for name in columns}
            )
        frames = [read_parquet(file, columns) for file in files]
        if len(frames) == 1:
            return frames[0]
        return _merged(frames)

    def rows(self, block: int, unit: int | None = None) -> np.ndarray:
        """[K] uint32: the rows of a block that are stored, sorted."""
        return self.read(block, [], unit)[ROW].to_numpy()

    def compact(self, block: int) -> None:
        """Merge a block's parts into its one file; nothing happens where there are none."""
        files = self._part_files(block, None)
        if not files:
            return
        if storage.exists(self.block_file(block)):
            files.insert(0, self.block_file(block))
        write_parquet(self.block_file(block), _merged([read_parquet(file) for file in files]))
        storage.remove(self.part_folder(block))

    def array_stem(self, shard: int, rows: np.ndarray) -> str:
        """The name of a shard's arrays, of the rows in them: the same work has the same name."""
        digest = hashlib.sha256(np.ascontiguousarray(rows, dtype="<u4").tobytes()).hexdigest()[:10]
        return storage.join(self.folder, f"{shard // 1000:03d}", f"{shard:05d}-{digest}")

    def write_arrays(self, shard: int, rows: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Commit a shard's arrays, [K, D] float16 each, with their [K] rows of the shard."""
        stem = self.array_stem(shard, rows)
        storage.commit_array(f"{stem}.rows.npy", rows.astype(np.uint32))
        for name, array in arrays.items():
            storage.commit_array(f"{stem}.{name}.npy", array.astype(np.float16))


def _merged(frames: list[pl.DataFrame]) -> pl.DataFrame:
    merged = pl.concat(frames, how="vertical_relaxed")
    return merged.unique(ROW, keep="last", maintain_order=True).sort(ROW)


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a block: a unit, or all of it."""

    block: int
    start: int
    stop: int
    unit: int | None = None  # whose uncompacted parts count; None: everybody's

    def __len__(self) -> int:
        return self.stop - self.start


def pool_folder(work: str) -> str:
    """Where the pool's own columns live."""
    return storage.join(work, "pool")


def store(work: str, name: str) -> Store:
    """The columns of a step."""
    return Store(pool_folder(work) if name == "pool" else storage.join(work, "features", name))


def load(work: str, registry: Registry, names: Iterable[str], span: Span) -> pl.DataFrame:
    """[len(span)] rows of the named columns, null where a sample has no value; NaN is null.

    A feature's columns become fields of one struct column, so that `clip.similarity` is SQL.
    """
    by_store: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_store.setdefault(registry[name].store, []).append(name)
    series: dict[str, pl.Series] = {}
    for owner, owned in by_store.items():
        frame = _aligned(work, owner, [registry[name].field for name in owned], span)
        for name in owned:
            series[name] = _typed(frame[registry[name].field], registry[name].dtype)
    return structured(series, len(span))


def _typed(values: pl.Series, dtype: str) -> pl.Series:
    """Values as what the registry says they are: nothing stored has no type, and an older block of
    a pool that grew may have a narrower one. NaN is null."""
    wanted = getattr(pl, dtype, None) if dtype else None
    if wanted is not None and values.dtype != wanted:
        values = values.cast(wanted)
    return values.fill_nan(None) if values.dtype.is_float() else values


def _aligned(work: str, owner: str, fields: list[str], span: Span) -> pl.DataFrame:
    fields = list(dict.fromkeys(fields))
    if owner == "pool":
        return read_pool(work, fields, span)
    found = store(work, owner).read(span.block, fields, span.unit)
    index = pl.DataFrame({ROW: np.arange(span.start, span.stop, dtype=np.uint32)})
    whole = 0 < found.height == len(span) and span.start == 0
    if whole and found[ROW][-1] == span.stop - 1:
        return found  # every row is there, in order: no join
    return index.join(found, on=ROW, how="left", maintain_order="left")


def read_pool(work: str, fields: list[str], span: Span) -> pl.DataFrame:
    """Pool columns of a span, `uid` in hex; null where an older block has no such column."""
    if "uid" in fields:
        rest = read_pool(work, [name for name in fields if name != "uid"], span)
        texts = pl.Series("uid", format_uids(uids(work, span)), dtype=pl.String)
        return (rest.with_columns(texts) if rest.width else texts.to_frame()).select(fields)
    if not fields:
        return pl.DataFrame()
    url = Store(pool_folder(work)).block_file(span.block)
    if storage.is_local(url):
        lazy = scan_parquet(url)
        there = lazy.collect_schema().names()
        frame = lazy.select([name for name in fields if name in there] or pl.len()).slice(
            span.start, len(span)
        )
        found = frame.collect() if any(name in there for name in fields) else None
    else:
        whole = read_parquet(url)
        there = whole.columns
        found = whole.select([name for name in fields if name in there])[span.start : span.stop]
    if found is None:
        return pl.DataFrame({name: pl.Series([None] * len(span)) for name in fields})
    missing = [pl.lit(None).alias(name) for name in fields if name not in there]
    return found.with_columns(missing).select(fields)


def uids(work: str, span: Span) -> np.ndarray:
    """[len(span)] UID of a span of the pool."""
    halves = read_pool(work, ["uid_hi", "uid_lo"], span)
    return make_uids(halves["uid_hi"].to_numpy(), halves["uid_lo"].to_numpy())
