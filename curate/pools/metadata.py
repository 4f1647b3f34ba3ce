"""Metadata files read where they lie: DataComp's parquet, and the arrays beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError, did_you_mean
from curate.parquet import head, read_slice
from curate.pipeline_file.schema import Source
from curate.pools import foreign, npz
from curate.pools.shard_table import Piece
from curate.sample import canonical_names

# Columns that say nothing of a sample before its picture was fetched.
IGNORED = ("key", "status", "error_message")
ARRAY = "Array"  # the dtype of an array column, as a registry has it


@dataclass(frozen=True)
class File:
    """What is known of a metadata file from its head."""

    rows: int
    dtypes: Mapping[str, str]  # {our name: dtype}
    names: Mapping[str, str]  # {our name: their name}


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
    arrays = _arrays(url, _overrides(source)) if source.arrays == "auto" else {}
    return {**found.dtypes, **dict.fromkeys(arrays, ARRAY)}


def dtypes_of(source: Source, url: str) -> dict[str, str]:
    """{our column name: dtype} of a file, without arrays."""
    return dict(look(url, _overrides(source)).dtypes)


def rows_of(source: Source, url: str) -> int:
    """Rows of a file."""
    return look(url, _overrides(source)).rows


def arrays_in_all(files: Sequence[tuple[Source, str]]) -> list[str]:
    """Names of the arrays that every file that has rows has beside it.

    Raises:
        ConfigError: some files have arrays that others lack, or that are wider than others'.
    """
    files = [(source, url) for source, url in files if rows_of(source, url)] or list(files)
    have: dict[str, dict[str, int]] = {}  # {array: {file: its width}}
    for source, url in files:
        arrays = _arrays(url, _overrides(source)) if source.arrays == "auto" else {}
        for name, array in arrays.items():
            have.setdefault(name, {})[url] = array.width
    for name, urls in have.items():
        first, *others = urls
        other = next((url for url in others if urls[url] != urls[first]), None)
        if other is not None:
            raise ConfigError(
                f"{name} has {urls[first]} numbers a row beside {first}, and {urls[other]} beside "
                f"{other}: these are embeddings of different models; make a pool of each"
            )
        lacking = sorted({url for source, url in files if source.arrays == "auto"} - urls.keys())
        if lacking:
            beside = npz.file_for(lacking[0], name)
            raise ConfigError(
                f"{len(lacking)} of {len(files)} metadata files have no array {name!r} beside "
                f"them, as the others have: {beside} for one is missing. Fetch it, or write "
                "`arrays: none` into the pool to go without"
            )
    return [name for name, urls in have.items() if len(urls) == len(files)]


def _overrides(source: Source) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(source.columns.items()))


def look(url: str, overrides: tuple[tuple[str, str], ...]) -> File:
    """What the head of a file says; remembered until the file changes.

    Raises:
        ConfigError: the file is damaged, or lacks a column that was named.
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
    return File(rows, dtypes, names)


def _arrays(url: str, overrides: tuple[tuple[str, str], ...]) -> Mapping[str, npz.ArrayFile]:
    """The arrays beside a file that have no column's name; remembered until they change.

    Raises:
        ConfigError: an array is damaged, or has another number of rows.
    """
    beside = [place for place in npz.files_beside(url) if storage.exists(place)]
    versions = tuple((place, storage.entry(place).version) for place in beside)
    found = look(url, overrides)
    arrays = _arrays_of(url, found.rows, versions)
    return {name: array for name, array in arrays.items() if name not in found.names}


@lru_cache(maxsize=1024)
def _arrays_of(
    url: str, rows: int, versions: tuple[tuple[str, str], ...]
) -> dict[str, npz.ArrayFile]:
    arrays: dict[str, npz.ArrayFile] = {}
    for beside, _ in versions:
        arrays |= npz.arrays_of(beside)
    for name, array in arrays.items():
        if array.rows != rows:
            raise ConfigError(
                f"{array.url}: {name} has {array.rows} rows, and {url} has {rows}: row i of one "
                "must be row i of the other; fetch both again"
            )
    return arrays


def uids_of(source: Source, url: str, first: int, rows: int) -> np.ndarray:
    """[rows] UID; md5 of caption and URL where a file, or a row, has none."""
    found = look(url, _overrides(source))
    wanted = [found.names[name] for name in ("uid",) if name in found.names]
    frame = _renamed(read_slice(url, wanted, first, rows), found) if wanted else None
    if frame is None or _lacks_some(frame["uid"]):
        wanted += [found.names[name] for name in ("caption", "url") if name in found.names]
        frame = _renamed(read_slice(url, wanted, first, rows), found)
    if source.short_uids == "cut" and "uid" in frame.columns:
        frame = frame.with_columns(_cut(pl.col("uid")))
    try:
        return foreign.uid_array(frame, url)
    except ConfigError as error:
        shift = f" (counted from row {first})" if first else ""
        raise ConfigError(f"{error}{shift}") from None


def _lacks_some(given: pl.Series) -> bool:
    """Whether a row has no uid; an empty text is none."""
    empty = given.dtype == pl.String and bool((given == "").any())
    return empty or given.null_count() > 0


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
    array = _arrays(piece.url, piece.names).get(name)
    if array is None:
        raise ConfigError(f"{piece.url} has no array {name!r} beside it any more")
    return npz.read_array(array, piece.first, piece.rows)
