"""The pool: what a run starts from, as shards and blocks that never change once read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.columns import Column, Registry
from curate.errors import InputChanged, RecipeChanged, StorageError
from curate.pipeline_file.schema import METADATA_ROWS, Config
from curate.pools import metadata, pictures
from curate.pools.absorb import absorb
from curate.pools.pool_files import (
    REMEDY,
    list_arrays,
    list_files,
    refuse_changes,
    refuse_other_arrays,
)
from curate.pools.shard_table import (
    columns_file,
    load_table,
    pool_folder,
    reading_file,
    save_table,
)
from curate.runner import Runner
from curate.step import differences, fingerprint

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
    part: int  # of the pool's parts, from 0, its first
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

    def parts(self) -> Iterator[Unit]:
        """Itself in runs of at most METADATA_ROWS rows, or a shard: what is in memory at once.

        All have its own number, under which their values are stored.
        """
        part, own, rows = self.part, list[Shard](), 0
        for shard in self.shards:
            if own and rows + shard.rows > METADATA_ROWS:
                yield Unit(self.number, part, self.block, tuple(own))
                part, own, rows = part + 1, [], 0
            own.append(shard)
            rows += shard.rows
        yield Unit(self.number, part, self.block, tuple(own))


@dataclass(frozen=True)
class Pool:
    """The shard table, in order; a row a shard."""

    table: pl.DataFrame
    columns: dict[str, Column]
    pictures: Mapping[str, Any] = field(default_factory=dict)  # of metadata: what was found

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
        block, rows, part = 0, 0, 0
        for record in self.table.iter_rows(named=True):
            if record["rows"] == 0:
                continue
            # Looking at pictures takes longer than reading arrays from their beginning again.
            together = not self.pictures and _same_metadata(waiting, record)
            fits = rows + record["rows"] <= UNIT_ROWS or together
            if waiting and (record["block"] != block or not fits):
                unit = Unit(waiting[0].number, part, block, tuple(waiting))
                yield unit
                waiting, rows, part = [], 0, part + sum(1 for _ in unit.parts())
            block = record["block"]
            rows += record["rows"]
            fields = ("number", "source", "url", "first", "rows", "offset")
            waiting.append(Shard(**{name: record[name] for name in fields}))
        if waiting:
            yield Unit(waiting[0].number, part, block, tuple(waiting))

    def fingerprint(self) -> str:
        """Changes when a file is added; a file that is altered or gone is refused before."""
        files = self.table.select("source", "url", "bytes", "rows").rows()
        pictures = [self.pictures["of"]] if self.pictures else []
        return fingerprint([*(list(row) for row in files), *pictures])

    def damaged(self) -> list[dict[str, str]]:
        """Shards that could not be read whole, with what was wrong."""
        found = self.table.filter(pl.col("damage").is_not_null())
        return [*found.select("url", "damage").to_dicts(), *self.pictures.get("damaged", [])]


def _same_metadata(waiting: Sequence[Shard], record: dict[str, Any]) -> bool:
    """Whether a shard goes on where the last one of a metadata file ended.

    The arrays beside such a file can only be read from their beginning: one task reads them all.
    """
    if not waiting or waiting[-1].rows != METADATA_ROWS:
        return False
    return bool(waiting[-1].url == record["url"])


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
        tars = pictures.listed(config)
    except StorageError as error:
        if not table.height:
            raise
        raise InputChanged(f"the pool changed under this work folder: {error}\n{REMEDY}") from error
    refuse_changes(table, listed)
    pictures.refuse_other_tars(work, tars)
    arrays = list_arrays(config.pool)
    refuse_other_arrays(_arrays_before(work), arrays)
    known = set(table.select("source", "url").unique().rows()) if table.height else set()
    fresh = [place for place in listed if place not in known]
    made = pictures.COLUMNS if tars else {}
    if fresh or arrays != _arrays_before(work) or not made.keys() <= pool_columns(work).keys():
        added = [(name, listed[name, url]) for name, url in fresh]
        table, dtypes = absorb(config, work, runner, table, added)
        sources = {source.name: source for source in config.pool}
        names = []  # rows of other sources would have no arrays
        if all(source.metadata is not None for source in config.pool):
            names = metadata.arrays_in_all([(sources[name], url) for name, url in listed])
        dtypes |= {**dict.fromkeys(names, metadata.ARRAY), **made}
        accept(_as_columns(dtypes))
        # The table is the proof: it comes last.
        storage.commit_json(reading_file(work), reading)
        storage.commit_json(columns_file(work), dtypes)
        storage.commit_json(_arrays_file(work), arrays)
        save_table(work, table)
    storage.remove(storage.join(pool_folder(work), "parts"))
    return Pool(table, pool_columns(work), pictures.index(work, runner, table, tars))


def _arrays_file(work: str) -> str:
    return storage.join(pool_folder(work), "arrays.json")


def same_arrays(work: str, config: Config) -> bool:
    """Whether the arrays beside the metadata are those that were there when the pool was read."""
    return list_arrays(config.pool) == _arrays_before(work)


def _arrays_before(work: str) -> dict[str, str]:
    """{array file: version} as of when the pool was read."""
    url = _arrays_file(work)
    return storage.read_json(url) if storage.exists(url) else {}


def pool_columns(work: str) -> dict[str, Column]:
    """{name: column} of the pool's own columns."""
    url = columns_file(work)
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
        if source.metadata is not None:
            fields |= {"kind": "metadata", "short_uids": source.short_uids, "arrays": source.arrays}
        found[f"pool.{source.name}"] = fields
    return found


def _refuse_other_reading(work: str, reading: dict[str, Any]) -> None:
    url = reading_file(work)
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
