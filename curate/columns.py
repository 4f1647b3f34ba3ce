"""Columns on disk: scalars per block (parquet), arrays per shard (.npy), parts appended."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from curate import storage
from curate.parquet import read_parquet, read_slice, scan_parquet, write_parquet
from curate.pools import metadata, shard_table
from curate.pools.metadata import ARRAY
from curate.pools.shard_table import pool_folder
from curate.sample import PICTURE_TAR, format_uids, make_uids
from filters import structured

_SMALL = 131_072  # rows; of a larger part the whole file is read as fast
ROW = "row"  # row of the block, uint32; the key of every scalar file


@dataclass(frozen=True)
class Column:
    """Where a named column lives."""

    store: str  # "pool", or the step that made it
    field: str  # its name in that store's files
    dtype: str  # as polars prints it


Registry = Mapping[str, Column]  # {full name: where}


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

    def read_there(self, span: Span, fields: list[str]) -> pl.DataFrame | None:
        """`row` and fields of a small part of a block, without the rest of it.

        None where it is no small part, or where not every row up to its end is stored.
        """
        url = self.block_file(span.block)
        if not 0 < len(span) <= _SMALL or self._part_files(span.block, span.unit):
            return None
        if not storage.exists(url):
            return None
        found = read_slice(url, [ROW, *fields], span.start, len(span))
        if found.height < len(span):
            return None
        # Rows ascend: where the last is at its own place, so are all before it.
        return found if found[ROW][-1] == span.stop - 1 else None

    def rows(self, block: int, unit: int | None = None) -> np.ndarray:
        """[K] uint32: the rows of a block that are stored, sorted."""
        return self.read(block, [], unit)[ROW].to_numpy()

    def compact(self, block: int) -> None:
        """Merge a block's parts into its one file; nothing happens where there are none."""
        files = self._part_files(block, None)
        if not files:
            return
        whole = self.block_file(block)
        if storage.exists(whole):
            files.insert(0, whole)
        if len(files) == 1:  # the block was one unit: nothing is to be merged
            storage.move(files[0], whole)
        else:
            write_parquet(whole, _merged([read_parquet(file) for file in files]))
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

    def read_arrays(self, shard: int, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """([K] rows of the shard, [K, D] float16) of each part of a shard's array."""
        folder = storage.join(self.folder, f"{shard // 1000:03d}")
        ending = ".rows.npy"
        for file in storage.names(folder):
            if file.startswith(f"{shard:05d}-") and file.endswith(ending):
                stem = storage.join(folder, file.removesuffix(ending))
                array = f"{stem}.{name}.npy"
                if storage.exists(array):  # else its writer was killed in between
                    yield storage.read_array(stem + ending), storage.read_array(array)


def _merged(frames: list[pl.DataFrame]) -> pl.DataFrame:
    merged = pl.concat(frames, how="vertical_relaxed")
    rows = merged[ROW].to_numpy()
    if (rows[1:] > rows[:-1]).all():  # nearly always: each unit's part once, in order
        return merged
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


def store(work: str, name: str) -> Store:
    """The columns of a step."""
    return Store(pool_folder(work) if name == "pool" else storage.join(work, "features", name))


def artefact_folder(work: str, name: str) -> str:
    """Where what a feature learnt, or keeps for later steps, is."""
    return storage.join(store(work, name).folder, "artefact")


def load(work: str, registry: Registry, names: Iterable[str], span: Span) -> pl.DataFrame:
    """[len(span)] rows of the named columns, null where a sample has no value; NaN is null.

    A feature's columns become fields of one struct column, so that `clip.similarity` is SQL. Arrays
    are columns of dtype `pl.Array(pl.Float16 or pl.Float32, D)`.
    """
    by_store: dict[str, list[str]] = {}
    series: dict[str, pl.Series] = {}
    for name in dict.fromkeys(names):
        column = registry[name]
        if column.dtype == ARRAY:
            series[name] = pl.Series(name, load_array(work, column, span))
        else:
            by_store.setdefault(column.store, []).append(name)
    for owner, owned in by_store.items():
        frame = _aligned(work, owner, [registry[name].field for name in owned], span)
        for name in owned:
            series[name] = _typed(frame[registry[name].field], registry[name].dtype)
    return structured(series, len(span))


def load_array(work: str, column: Column, span: Span) -> np.ndarray:
    """[len(span), D] of an array column, in its own precision; NaN where a row has none."""
    if column.store == "pool":
        pieces = shard_table.pieces(work, span.block, span.start, span.stop)
        assert sum(piece.rows for piece in pieces) == len(span), (column, span)
        found_in = [metadata.read_array(piece, column.field) for piece in pieces]
        return found_in[0] if len(found_in) == 1 else np.concatenate(found_in)
    table = shard_table.shards(*shard_table.table_version(work)).filter(
        (pl.col("block") == span.block)
        & (pl.col("offset") < span.stop)
        & (pl.col("offset") + pl.col("rows") > span.start)
    )
    owner = store(work, column.store)
    found: np.ndarray | None = None
    for number, offset in table.select("number", "offset").iter_rows():
        for rows, array in owner.read_arrays(number, column.field):
            if found is None:
                found = np.full((len(span), array.shape[1]), np.nan, dtype=np.float16)
            place = rows.astype(np.int64) + offset - span.start
            inside = (place >= 0) & (place < len(span))
            found[place[inside]] = array[inside]
    return found if found is not None else np.full((len(span), 1), np.nan, dtype=np.float16)


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
    own = store(work, owner)
    there = own.read_there(span, fields)
    if there is not None:
        return there
    found = own.read(span.block, fields, span.unit)
    index = pl.DataFrame({ROW: np.arange(span.start, span.stop, dtype=np.uint32)})
    whole = 0 < found.height == len(span) and span.start == 0
    if whole and found[ROW][-1] == span.stop - 1:
        return found  # every row is there, in order: no join
    return index.join(found, on=ROW, how="left", maintain_order="left")


def read_pool(work: str, fields: list[str], span: Span) -> pl.DataFrame:
    """Pool columns of a span, `uid` in hex; null where a file or an older block has none."""
    if "uid" in fields:
        rest = read_pool(work, [name for name in fields if name != "uid"], span)
        texts = pl.Series("uid", format_uids(uids(work, span)), dtype=pl.String)
        return (rest.with_columns(texts) if rest.width else texts.to_frame()).select(fields)
    if not fields:
        return pl.DataFrame()
    found = {column.name: column for column in _copied(work, fields, span)}
    found |= {column.name: column for column in _pictured(work, set(fields) - found.keys(), span)}
    absent = [name for name in fields if name not in found]
    if absent:
        found |= {column.name: column for column in _in_place(work, absent, span)}
    nothing = pl.Series([None], dtype=pl.Null).new_from_index(0, len(span))
    return pl.DataFrame([found.get(name, nothing.alias(name)) for name in fields])


def _copied(work: str, fields: list[str], span: Span) -> list[pl.Series]:
    """Those of the fields that a block's own file has."""
    url = Store(pool_folder(work)).block_file(span.block)
    if storage.is_local(url):
        lazy = scan_parquet(url)
        there = set(lazy.collect_schema().names())
        if not there & set(fields):
            return []
        frame = lazy.select([name for name in fields if name in there])
        return frame.slice(span.start, len(span)).collect().get_columns()
    whole = read_parquet(url)
    wanted = [name for name in fields if name in whole.columns]
    return whole.select(wanted)[span.start : span.stop].get_columns()


PICTURED = ("key", PICTURE_TAR, "pool_problem")  # what the index of pictures says of metadata


def _pictured(work: str, fields: Collection[str], span: Span) -> list[pl.Series]:
    """Those of the fields that are known from the pictures beside a block's metadata."""
    names = [name for name in PICTURED if name in fields]
    url = shard_table.picture_block(work, span.block)
    if not names or not storage.exists(url):
        return []
    return read_slice(url, names, span.start, len(span)).get_columns()


def _in_place(work: str, fields: list[str], span: Span) -> list[pl.Series]:
    """Those of the fields that some of a block's metadata files have."""
    pieces = shard_table.pieces(work, span.block, span.start, span.stop)
    frames = [(piece, metadata.read(piece, fields)) for piece in pieces]
    found = []
    for name in dict.fromkeys(name for _, frame in frames for name in frame.columns):
        parts = [
            frame.select(name)
            if name in frame.columns
            else pl.Series(name, [None], dtype=pl.Null).new_from_index(0, piece.rows).to_frame()
            for piece, frame in frames
        ]
        found.append(_stacked(parts).to_series())
    return found


def _stacked(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """One column of several files; as text where they disagree on what it is."""
    if len(parts) == 1:
        return parts[0]
    try:
        return pl.concat(parts, how="vertical_relaxed")
    except pl.exceptions.SchemaError:
        return pl.concat([part.select(pl.all().cast(pl.String)) for part in parts])


def uid_halves(work: str, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """[len(span)] uint64 twice: the upper and lower halves of the uids of a span of the pool."""
    halves = read_pool(work, ["uid_hi", "uid_lo"], span)
    return halves["uid_hi"].to_numpy(), halves["uid_lo"].to_numpy()


def uids(work: str, span: Span) -> np.ndarray:
    """[len(span)] UID of a span of the pool."""
    return make_uids(*uid_halves(work, span))
