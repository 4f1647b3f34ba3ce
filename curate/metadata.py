"""Metadata files read where they lie: DataComp's parquet, and the arrays beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from curate import foreign, npz, storage
from curate.errors import ConfigError, did_you_mean
from curate.parquet import head, read_slice
from curate.sample import canonical_names
from curate.schema import Source
from curate.shard_table import Piece

# Columns that say nothing of a sample before its picture was fetched.
IGNORED = ("key", "status", "error_message")
ARRAY = "Array"  # the dtype of an array column, as a registry has it


@dataclass(frozen=True)
class File:
    """What is known of a metadata file from the heads of it and its arrays."""

    rows: int
    dtypes: Mapping[str, str]  # {our name: dtype}, arrays included
    names: Mapping[str, str]  # {our name: their name}
    arrays: Mapping[str, npz.ArrayFile]


def files_of(patterns: Sequence[str]) -> list[str]:
    """Patterns of parquet files for paths that may name folders, clip-retrieval's among them."""
    found = []
    for pattern in patterns:
        if pattern.endswith(".parquet") or any(character in pattern for character in "*?[{"):
            found.append(pattern)
        elif "metadata" in storage.folders(pattern) and _is_retrieval(pattern):
            found.append(storage.join(pattern, "metadata", "metadata_*.parquet"))
        else:
            found.append(storage.join(pattern, "*.parquet"))
    return found


def _is_retrieval(folder: str) -> bool:
    return any(name in storage.folders(folder) for name in ("img_emb", "text_emb"))


def columns_of(source: Source, url: str) -> dict[str, str]:
    """{our column name: dtype} of a file and its arrays: what `check` knows before a run."""
    found = look(url, _overrides(source))
    arrays = found.arrays if source.arrays == "auto" else {}
    return {**found.dtypes, **dict.fromkeys(arrays, ARRAY)}


def dtypes_of(source: Source, url: str) -> dict[str, str]:
    """{our column name: dtype} of a file, without arrays."""
    return dict(look(url, _overrides(source)).dtypes)


def rows_of(source: Source, url: str) -> int:
    """Rows of a file."""
    return look(url, _overrides(source)).rows


def arrays_in_all(files: Sequence[tuple[Source, str]]) -> list[str]:
    """Names of the arrays that every file has beside it.

    Raises:
        ConfigError: some files have arrays that others lack.
    """
    have: dict[str, list[str]] = {}
    for source, url in files:
        arrays = look(url, _overrides(source)).arrays if source.arrays == "auto" else {}
        for name in arrays:
            have.setdefault(name, []).append(url)
    for name, urls in have.items():
        lacking = sorted({url for source, url in files if source.arrays == "auto"} - set(urls))
        if lacking:
            beside = npz.files_beside(lacking[0])[0]
            raise ConfigError(
                f"{len(lacking)} of {len(files)} metadata files have no array {name!r} beside "
                f"them, as the others have: {beside} for one is missing. Fetch it, or write "
                "`arrays: none` into the pool to go without"
            )
    return [name for name, urls in have.items() if len(urls) == len(files)]


def _overrides(source: Source) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(source.columns.items()))


def look(url: str, overrides: tuple[tuple[str, str], ...]) -> File:
    """What the heads of a file and its arrays say; remembered until the file changes.

    Raises:
        ConfigError: the file or an array is damaged, or their numbers of rows differ.
    """
    return _look(url, overrides, storage.entry(url).version)


@lru_cache(maxsize=1024)
def _look(url: str, overrides: tuple[tuple[str, str], ...], version: str) -> File:
    del version  # another version is another file
    schema, rows = head(url)
    for ours, theirs in overrides:
        if theirs not in schema:
            hint = did_you_mean(theirs, list(schema), f"{url} has no column")
            raise ConfigError(f"{hint} (the pool's `columns:` says it is our {ours!r})")
    names = {
        ours: theirs
        for theirs, ours in canonical_names(schema, dict(overrides)).items()
        if ours not in IGNORED
    }
    dtypes = foreign.dtypes({ours: schema[theirs] for ours, theirs in names.items()})
    dtypes.setdefault("caption", "String")
    arrays: dict[str, npz.ArrayFile] = {}
    for beside in npz.files_beside(url):
        if storage.exists(beside):
            arrays |= npz.arrays_of(beside)
    for name, array in arrays.items():
        if array.rows != rows:
            raise ConfigError(
                f"{array.url}: {name} has {array.rows} rows, and {url} has {rows}: row i of one "
                "must be row i of the other; fetch both again"
            )
    return File(rows, dtypes, names, {n: a for n, a in arrays.items() if n not in names})


def uids_of(source: Source, url: str, first: int, rows: int) -> np.ndarray:
    """[rows] UID; md5 of caption and URL where a file, or a row, has none."""
    found = look(url, _overrides(source))
    wanted = [found.names[name] for name in ("uid",) if name in found.names]
    frame = _renamed(read_slice(url, wanted, first, rows), found) if wanted else None
    if frame is None or frame["uid"].null_count():
        wanted += [found.names[name] for name in ("caption", "url") if name in found.names]
        frame = _renamed(read_slice(url, wanted, first, rows), found)
    if source.short_uids == "cut" and "uid" in frame.columns:
        frame = frame.with_columns(_cut(pl.col("uid")))
    try:
        return foreign.uid_array(frame, url)
    except ConfigError as error:
        shift = f" (counted from row {first})" if first else ""
        raise ConfigError(f"{error}{shift}") from None


def _cut(uid: pl.Expr) -> pl.Expr:
    """A short uid as `int(uid[:16], 16), int(uid[16:], 16)` reads it."""
    return uid.str.slice(0, 16).str.zfill(16) + uid.str.slice(16).str.zfill(16)


def _renamed(frame: pl.DataFrame, found: File) -> pl.DataFrame:
    ours = {theirs: ours for ours, theirs in found.names.items()}
    return frame.rename({name: ours[name] for name in frame.columns})


def read(piece: Piece, fields: Sequence[str]) -> pl.DataFrame:
    """[rows] of those fields that a file has, in our names and types."""
    found = look(piece.url, piece.names)
    there = [name for name in fields if name in found.names]
    if not there:
        return pl.DataFrame()
    theirs = [found.names[name] for name in there]
    frame = _renamed(read_slice(piece.url, theirs, piece.first, piece.rows), found)
    return foreign.converted(frame, piece.url)


def read_array(piece: Piece, name: str) -> np.ndarray:
    """[rows, D] of an array, as stored; not-finite values and all."""
    array = look(piece.url, piece.names).arrays.get(name)
    if array is None:
        raise ConfigError(f"{piece.url} has no array {name!r} beside it any more")
    return npz.read_array(array, piece.first, piece.rows)
