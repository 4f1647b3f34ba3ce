"""The pool: what a run starts from, as shards and blocks that never change once read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.columns import Column, Registry, Store, pool_folder, read_parquet, write_parquet
from curate.errors import ConfigError, InputChanged, RecipeChanged, StorageError
from curate.intake import read_file
from curate.runner import Runner
from curate.schema import Config, Source
from curate.step import differences, fingerprint

_REMEDY = (
    "Put the files back as they were, or start again in another `work:` folder; "
    "a pool may only grow."
)
UNIT_ROWS = 10_000  # consecutive shards of a block that one task takes, unless one alone has more


@dataclass(frozen=True)
class Shard:
    """A fixed run of samples: the unit of work and retry."""

    number: int  # in the pool, from 0
    source: str
    url: str  # the tar, or the URL list that it is a slice of
    first: int  # its first row in that file
    rows: int
    offset: int  # its first row in its block


@dataclass(frozen=True)
class Unit:
    """Consecutive shards of one block that one task takes."""

    number: int  # that of its first shard
    block: int
    shards: tuple[Shard, ...]

    @property
    def start(self) -> int:
        """First row of the block."""
        return self.shards[0].offset

    @property
    def stop(self) -> int:
        """One past the last row of the block."""
        return self.shards[-1].offset + self.shards[-1].rows


@dataclass(frozen=True)
class Pool:
    """The shard table, in order; a row a shard."""

    table: pl.DataFrame
    columns: dict[str, Column]

    @property
    def rows(self) -> int:
        """Rows in all."""
        return int(self.table["rows"].sum())

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.table["block"].max()) + 1 if self.table.height else 0  # type: ignore[arg-type]  # a column of ints

    def block_rows(self) -> np.ndarray:
        """[blocks] rows of each block."""
        blocks = self.table["block"].to_numpy()
        return np.bincount(
            blocks, weights=self.table["rows"].to_numpy(), minlength=self.blocks
        ).astype(int)

    def units(self) -> Iterator[Unit]:
        """Every unit, in order, made one by one."""
        waiting: list[Shard] = []
        block, rows = 0, 0
        for record in self.table.iter_rows(named=True):
            if record["rows"] == 0:
                continue
            if waiting and (record["block"] != block or rows + record["rows"] > UNIT_ROWS):
                yield Unit(waiting[0].number, block, tuple(waiting))
                waiting, rows = [], 0
            block = record["block"]
            rows += record["rows"]
            fields = ("number", "source", "url", "first", "rows", "offset")
            waiting.append(Shard(**{name: record[name] for name in fields}))
        if waiting:
            yield Unit(waiting[0].number, block, tuple(waiting))

    def fingerprint(self) -> str:
        """Changes when a file is added; a file that is altered or gone is refused before."""
        files = self.table.select("source", "url", "bytes", "rows").rows()
        return fingerprint([list(row) for row in files])

    def damaged(self) -> list[dict[str, str]]:
        """Shards that could not be read whole, with what was wrong."""
        found = self.table.filter(pl.col("damage").is_not_null())
        return found.select("url", "damage").to_dicts()


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


def expand(pattern: str) -> list[str]:
    """Files that a path, glob or brace pattern names, sorted within each brace alternative."""
    if re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", pattern):
        from braceexpand import braceexpand

        alternatives = list(braceexpand(pattern))
    else:
        alternatives = [pattern]
    found: list[str] = []
    for alternative in alternatives:
        if any(character in alternative for character in "*?["):
            found += storage.glob(alternative)
        else:
            found.append(alternative)
    return found


def list_files(source: Source) -> list[storage.Entry]:
    """Every file of a source with its size and version; errors name what is not there."""
    urls: list[str] = []
    for pattern in source.patterns():
        found = expand(pattern)
        if not found:
            raise ConfigError(f"pool {source.name}: nothing matches {pattern}")
        urls += found
    repeated = len(urls) - len(set(urls))
    if repeated:
        raise ConfigError(f"pool {source.name}: {repeated} files are named more than once")
    return storage.entries(urls)


Accept = Callable[[Registry], object]  # raises where a pipeline cannot run on these columns


def read_pool(config: Config, work: str, runner: Runner, accept: Accept) -> Pool:
    """The pool of a run: what was read before, and every file that is new since then.

    Args:
        config: Its sources.
        work: The work folder.
        runner: Reads the files.
        accept: Asked before anything new becomes part of the pool, for a pool never shrinks.

    Raises:
        InputChanged: a file read before is gone, or is not what it was.
        RecipeChanged: a source is to be read in another way than it was.
    """
    table = load_table(work)
    reading = _reading(config)
    _refuse_other_reading(work, reading)
    try:
        listed = {(s.name, entry.url): entry for s in config.pool for entry in list_files(s)}
    except StorageError as error:
        if not table.height:
            raise
        raise InputChanged(
            f"the pool changed under this work folder: {error}\n{_REMEDY}"
        ) from error
    _refuse_changes(table, listed)
    known = set(table.select("source", "url").unique().rows()) if table.height else set()
    fresh = [place for place in listed if place not in known]
    if fresh:
        added = [(name, listed[name, url]) for name, url in fresh]
        table, dtypes = _append(config, work, runner, table, added)
        accept(_as_columns(dtypes))
        # The table is the proof: it comes last.
        storage.commit_json(storage.join(pool_folder(work), "reading.json"), reading)
        storage.commit_json(storage.join(pool_folder(work), "columns.json"), dtypes)
        write_parquet(_table_url(work), table)
    storage.remove(storage.join(pool_folder(work), "parts"))
    return Pool(table, pool_columns(work))


def _table_url(work: str) -> str:
    return storage.join(pool_folder(work), "blocks.parquet")


def load_table(work: str) -> pl.DataFrame:
    """The shard table as last committed; no rows where the pool was never read."""
    url = _table_url(work)
    return read_parquet(url) if storage.exists(url) else pl.DataFrame(schema=SCHEMA)


def table_version(work: str) -> tuple[str, str]:
    """(work folder, version of its shard table): what a worker may remember a table by."""
    return work, storage.entry(_table_url(work)).version


def pool_columns(work: str) -> dict[str, Column]:
    """{name: column} of the pool's own columns."""
    url = storage.join(pool_folder(work), "columns.json")
    return _as_columns(storage.read_json(url) if storage.exists(url) else {})


def _as_columns(dtypes: dict[str, str]) -> dict[str, Column]:
    made = {"uid": "String"} if dtypes else {}  # of its two halves, when read
    return {name: Column("pool", name, dtype) for name, dtype in {**dtypes, **made}.items()}


def _reading(config: Config) -> dict[str, Any]:
    """How the sources are read, as far as rows and their order depend on it."""
    found: dict[str, Any] = {"rows_per_block": config.rows_per_block}
    for source in config.pool:
        fields: dict[str, Any] = {"columns": source.columns}
        if source.urls is not None:
            fields |= {"order": source.order, "rows_per_shard": source.rows_per_shard}
        found[f"pool.{source.name}"] = fields
    return found


def _refuse_other_reading(work: str, reading: dict[str, Any]) -> None:
    url = storage.join(pool_folder(work), "reading.json")
    if not storage.exists(url):
        return
    before = storage.read_json(url)
    changed = differences(before, {**before, **reading})
    changed = [line for line in changed if line.split(":")[0] not in reading.keys() - before.keys()]
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise RecipeChanged(
            f"the pool of {work} was read in another way:\n{listed}\n"
            "Put it back as it was, or start again in another `work:` folder."
        )


def _refuse_changes(table: pl.DataFrame, listed: dict[tuple[str, str], storage.Entry]) -> None:
    problems = []
    for record in table.unique(["source", "url"], maintain_order=True).iter_rows(named=True):
        now = listed.get((record["source"], record["url"]))
        if now is None:
            problems.append(f"{record['url']} was in the pool and is not there any more")
        elif now.bytes != record["bytes"]:
            problems.append(f"{record['url']} had {record['bytes']} bytes and has {now.bytes}")
        elif now.version != record["version"]:
            problems.append(f"{record['url']} was modified since the pool was read")
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems[:20])
        raise InputChanged(
            f"the pool changed under this work folder ({len(problems)} files):\n{listing}\n"
            f"{_REMEDY}"
        )


def _append(
    config: Config,
    work: str,
    runner: Runner,
    table: pl.DataFrame,
    fresh: Sequence[tuple[str, storage.Entry]],
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The shard table with the new files, and the dtypes of all columns; blocks are written."""
    sources = {source.name: source for source in config.pool}
    parts = storage.join(pool_folder(work), "parts")
    jobs = [(number, sources[name], entry.url) for number, (name, entry) in enumerate(fresh)]
    rows: dict[int, tuple[int, str | None, dict[str, str]]] = {}
    for file, count, damage, kinds in runner.map(partial(_read_part, parts), jobs, "pool"):
        rows[file] = (count, damage, kinds)
    records, block, filled = [], int(table["block"].max()) + 1 if table.height else 0, 0  # type: ignore[arg-type]  # a column of ints
    number = table.height
    pieces: dict[int, list[tuple[int, int, int]]] = {}  # block -> (file, first row, rows)
    for file, (name, entry) in enumerate(fresh):
        count, damage, _ = rows[file]
        for first, size in _slices(count, sources[name]):
            if filled and filled + size > config.rows_per_block:
                block, filled = block + 1, 0
            pieces.setdefault(block, []).append((file, first, size))
            records.append(
                (
                    number,
                    name,
                    entry.url,
                    entry.bytes,
                    entry.version,
                    first,
                    size,
                    block,
                    filled,
                    damage,
                )
            )
            filled += size
            number += 1
    before = {name: column for name, column in pool_columns(work).items() if name != "uid"}
    dtypes = _unified([kinds for _, _, kinds in rows.values()], before)
    for _ in runner.map(partial(_write_block, work, parts, dtypes), list(pieces.items()), "pool"):
        pass
    return pl.concat([table, pl.DataFrame(records, schema=SCHEMA, orient="row")]), dtypes


def _slices(rows: int, source: Source) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each shard of a file: a tar is one; an empty file has one of 0 rows."""
    step = source.rows_per_shard if source.urls is not None else max(rows, 1)
    for first in range(0, max(rows, 1), step):
        yield first, min(step, rows - first)


_WHOLE = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32"}


def _unified(found: Sequence[dict[str, str]], before: dict[str, Column]) -> dict[str, str]:
    """One dtype for each column: that of all files, or one that can hold what they all have."""
    kinds = {name: {column.dtype} for name, column in before.items()}
    for one in found:
        for name, dtype in one.items():
            kinds.setdefault(name, set()).add(dtype)
    return {name: _common(kinds[name]) for name in sorted(kinds)}


def _common(kinds: set[str]) -> str:
    kinds = kinds - {"Null"}
    if kinds <= _WHOLE and len(kinds) > 1:
        return "Int64"
    if kinds <= _WHOLE | {"Float32", "Float64"} and len(kinds) > 1:
        return "Float64"
    only = next(iter(kinds), "Null")
    return only if len(kinds) < 2 and hasattr(pl, only) else "String"


def _read_part(
    parts: str, job: tuple[int, Source, str]
) -> tuple[int, int, str | None, dict[str, str]]:
    number, source, url = job
    intake = read_file(source, url)
    if intake.frame.height:
        write_parquet(storage.join(parts, f"{number:07d}.parquet"), intake.frame)
    kinds = {name: str(dtype) for name, dtype in intake.frame.schema.items()}
    return number, intake.frame.height, intake.damage, kinds if intake.frame.height else {}


def _write_block(
    work: str, parts: str, dtypes: dict[str, str], job: tuple[int, list[tuple[int, int, int]]]
) -> None:
    block, pieces = job
    frames, last, whole = [], -1, pl.DataFrame()
    for file, first, rows in pieces:
        if rows == 0:
            continue
        if file != last:
            whole = _typed(read_parquet(storage.join(parts, f"{file:07d}.parquet")), dtypes)
            last = file
        frames.append(whole[first : first + rows])
    frame = pl.concat(frames) if frames else _typed(pl.DataFrame(), dtypes)
    write_parquet(Store(pool_folder(work)).block_file(block), frame)


def _typed(frame: pl.DataFrame, dtypes: dict[str, str]) -> pl.DataFrame:
    columns = []
    for name, dtype in dtypes.items():
        column = pl.col(name) if name in frame.columns else pl.lit(None).alias(name)
        columns.append(column.cast(getattr(pl, dtype, pl.String), strict=False))
    return frame.select(columns)
