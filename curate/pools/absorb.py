"""New files become part of a pool: they are cut into shards, and the shards into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.columns import Store
from curate.parquet import read_parquet, write_parquet
from curate.pipeline_file.schema import Config, Source
from curate.pools import metadata
from curate.pools.intake import PROBLEM, read_file
from curate.pools.shard_table import SCHEMA, columns_file, pool_folder
from curate.runner import Runner
from curate.sample import UID

Fresh = Sequence[tuple[str, storage.Entry]]  # (source, file)
_Piece = tuple[int, int, int]  # file, its first row, rows
_Read = tuple[int, int, str | None, dict[str, str]]  # file, rows, damage, dtypes


def absorb(
    config: Config, work: str, runner: Runner, table: pl.DataFrame, fresh: Fresh
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The shard table with the new files, and the dtypes of all columns; blocks are written."""
    sources = {source.name: source for source in config.pool}
    parts = storage.join(pool_folder(work), "parts")
    jobs = [(number, sources[name], entry.url) for number, (name, entry) in enumerate(fresh)]
    read: dict[int, _Read] = {}
    for one in runner.map(partial(_read_part, parts), jobs, "pool"):
        read[one[0]] = one
    records, pieces = _cut(config, table, fresh, read)
    dtypes = _unified([kinds for _, _, _, kinds in read.values()], _dtypes_before(work))
    todo = [
        (block, sources[fresh[found[0][0]][0]], [(fresh[f][1].url, f, a, n) for f, a, n in found])
        for block, found in pieces.items()
    ]
    for _ in runner.map(partial(_write_block, work, parts, dtypes), todo, "pool"):
        pass
    return pl.concat([table, pl.DataFrame(records, schema=SCHEMA, orient="row")]), dtypes


def _dtypes_before(work: str) -> dict[str, str]:
    url = columns_file(work)
    return storage.read_json(url) if storage.exists(url) else {}


def _cut(
    config: Config, table: pl.DataFrame, fresh: Fresh, read: Mapping[int, _Read]
) -> tuple[list[tuple[Any, ...]], dict[int, list[_Piece]]]:
    """(rows of the shard table, {block: its pieces}): new files begin a new block."""
    sources = {source.name: source for source in config.pool}
    block = int(table["block"].max()) + 1 if table.height else 0  # type: ignore[arg-type]  # a column of ints
    number, filled, in_place = table.height, 0, False
    records: list[tuple[Any, ...]] = []
    pieces: dict[int, list[_Piece]] = {}
    for file, (name, entry) in enumerate(fresh):
        _, count, damage, _ = read[file]
        stays = sources[name].metadata is not None
        for first, size in _slices(count, sources[name]):
            if filled and (filled + size > config.rows_per_block or stays != in_place):
                block, filled = block + 1, 0
            in_place = stays  # a block's columns are all copied, or all stay where they are
            pieces.setdefault(block, []).append((file, first, size))
            about = (entry.url, entry.bytes, entry.version)
            records.append((number, name, *about, first, size, block, filled, damage))
            filled += size
            number += 1
    return records, pieces


def _slices(rows: int, source: Source) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each shard of a file; an empty file has one of 0 rows."""
    step = source.shard_rows or max(rows, 1)
    for first in range(0, max(rows, 1), step):
        yield first, min(step, rows - first)


_WHOLE = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32"}


def _unified(found: Sequence[dict[str, str]], before: dict[str, str]) -> dict[str, str]:
    """One dtype for each column: that of all files, or one that can hold what they all have."""
    kinds = {name: {dtype} for name, dtype in before.items()}
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


def _read_part(parts: str, job: tuple[int, Source, str]) -> _Read:
    number, source, url = job
    if source.metadata is not None:
        kinds = {"uid_hi": "UInt64", "uid_lo": "UInt64", **metadata.dtypes_of(source, url)}
        return number, metadata.rows_of(source, url), None, {**kinds, PROBLEM: "String"}
    intake = read_file(source, url)
    if intake.frame.height:
        write_parquet(storage.join(parts, f"{number:07d}.parquet"), intake.frame)
    kinds = {name: str(dtype) for name, dtype in intake.frame.schema.items()}
    return number, intake.frame.height, intake.damage, kinds if intake.frame.height else {}


def _write_block(
    work: str,
    parts: str,
    dtypes: dict[str, str],
    job: tuple[int, Source, list[tuple[str, int, int, int]]],
) -> None:
    block, source, pieces = job
    file = Store(pool_folder(work)).block_file(block)
    if source.metadata is not None:
        # What the files have stays there; 128 bits of a uid are read a hundred times faster so.
        write_parquet(file, _uids(source, pieces), "uncompressed")
        return
    frames, last, whole = [], -1, pl.DataFrame()
    for _, number, first, rows in pieces:
        if rows == 0:
            continue
        if number != last:
            whole = _typed(read_parquet(storage.join(parts, f"{number:07d}.parquet")), dtypes)
            last = number
        frames.append(whole[first : first + rows])
    frame = pl.concat(frames) if frames else _typed(pl.DataFrame(), dtypes)
    write_parquet(file, frame)


def _uids(source: Source, pieces: Sequence[tuple[str, int, int, int]]) -> pl.DataFrame:
    runs: list[tuple[str, int, int]] = []  # (file, first row, rows), neighbours joined
    for url, _, first, rows in pieces:
        if runs and runs[-1][0] == url:
            runs[-1] = (url, runs[-1][1], runs[-1][2] + rows)
        else:
            runs.append((url, first, rows))
    empty = np.empty(0, dtype=UID)
    found = [metadata.uids_of(source, url, first, rows) for url, first, rows in runs if rows]
    uids = np.concatenate([empty, *found])
    return pl.DataFrame({"uid_hi": uids["f0"], "uid_lo": uids["f1"]})


def _typed(frame: pl.DataFrame, dtypes: dict[str, str]) -> pl.DataFrame:
    columns = []
    for name, dtype in dtypes.items():
        if dtype == metadata.ARRAY:
            continue
        column = pl.col(name) if name in frame.columns else pl.lit(None).alias(name)
        columns.append(column.cast(getattr(pl, dtype, pl.String), strict=False))
    return frame.select(columns)
