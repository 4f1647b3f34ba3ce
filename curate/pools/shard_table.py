"""The pool's shards on disk: which file and rows each is, and in which block it lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from curate import storage
from curate.parquet import read_parquet, write_parquet

SCHEMA: dict[str, Any] = {
    "number": pl.UInt32,
    "source": pl.String,
    "url": pl.String,
    "bytes": pl.Int64,
    "version": pl.String,
    "first": pl.Int64,
    "rows": pl.Int64,
    "block": pl.UInt32,
    "offset": pl.Int64,
    "damage": pl.String,
}


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a block that are consecutive rows of one metadata file."""

    url: str
    first: int  # row of the file
    rows: int
    start: int  # row of the block
    names: tuple[tuple[str, str], ...]  # (our name, their name) where the user said so


def pool_folder(work: str) -> str:
    """Where the pool's own columns live."""
    return storage.join(work, "pool")


def pictures_folder(work: str) -> str:
    """Where the pictures of metadata are: the index from rows to tars."""
    return storage.join(pool_folder(work), "pictures")


def picture_block(work: str, block: int) -> str:
    """The tar and key of each row of a block of metadata."""
    return storage.join(pictures_folder(work), f"block-{block:04d}.parquet")


def _url(work: str) -> str:
    return storage.join(pool_folder(work), "blocks.parquet")


def load_table(work: str) -> pl.DataFrame:
    """The shard table as last committed; no rows where the pool was never read."""
    url = _url(work)
    return read_parquet(url) if storage.exists(url) else pl.DataFrame(schema=SCHEMA)


def save_table(work: str, table: pl.DataFrame) -> None:
    """Commit the table: the proof of a pool that was read."""
    write_parquet(_url(work), table)


def table_version(work: str) -> tuple[str, str]:
    """(work folder, version of its shard table): what a worker may remember a table by."""
    return work, storage.entry(_url(work)).version


def reading_file(work: str) -> str:
    """How the sources were read, by `pool.<source>`."""
    return storage.join(pool_folder(work), "reading.json")


def columns_file(work: str) -> str:
    """{our name: dtype} of the pool's own columns."""
    return storage.join(pool_folder(work), "columns.json")


@lru_cache(maxsize=2)
def shards(work: str, version: str) -> pl.DataFrame:
    """The table, read once by a worker: at a million shards too much for every task."""
    del version  # another version is another table
    return load_table(work)


@lru_cache(maxsize=2)
def _in_place(work: str, version: str) -> dict[int, list[Piece]]:
    """{block: its pieces} of every block whose columns stay in their files."""
    reading = storage.read_json(reading_file(work))
    names = {
        source.removeprefix("pool."): tuple(sorted(how["columns"].items()))
        for source, how in reading.items()
        if isinstance(how, dict) and how.get("kind") == "metadata"
    }
    found: dict[int, list[Piece]] = {}
    table = shards(work, version).filter(pl.col("source").is_in(list(names)) & (pl.col("rows") > 0))
    columns = ("block", "source", "url", "first", "rows", "offset")
    for block, source, url, first, rows, offset in table.select(columns).iter_rows():
        pieces = found.setdefault(block, [])
        if pieces and pieces[-1].url == url and pieces[-1].first + pieces[-1].rows == first:
            last = pieces.pop()
            pieces.append(Piece(url, last.first, last.rows + rows, last.start, last.names))
        else:
            pieces.append(Piece(url, first, rows, offset, names[source]))
    return found


def pieces(work: str, block: int, start: int, stop: int) -> list[Piece]:
    """Where rows start to stop of a block lie; [] for a block whose columns were copied."""
    if not storage.exists(_url(work)):
        return []
    found = _in_place(*table_version(work)).get(block, [])
    cut = []
    for piece in found:
        low, high = max(start, piece.start), min(stop, piece.start + piece.rows)
        if low < high:
            first = piece.first + low - piece.start
            cut.append(Piece(piece.url, first, high - low, low, piece.names))
    return cut
