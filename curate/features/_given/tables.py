"""Tables of columns made elsewhere: which files, of which types, and their rows in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curate import storage
from curate.errors import ConfigError, InputChanged, did_you_mean, first_line
from curate.features import Dtype, Rows
from curate.parquet import head, read_slice
from curate.pools import foreign
from curate.pools.pool_files import expand

FORMATS = (".parquet", ".csv", ".tsv")
_ROWS_AT_ONCE = 1_000_000  # of the tables, in one task
KEY = "#key"  # the column of a table that samples are found by
_FILES_AT_ONCE = 64  # in one task, however few rows they have
_DTYPES: dict[str, Dtype] = {
    **dict.fromkeys(
        ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"), "int64"
    ),
    **dict.fromkeys(("Float16", "Float32"), "float32"),
    **dict.fromkeys(("Float64", "Decimal"), "float64"),
    "Boolean": "bool",
}
POLARS: dict[str, Any] = {
    "int64": pl.Int64, "float32": pl.Float32, "float64": pl.Float64, "bool": pl.Boolean,
    "string": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How a table is read: what every task knows."""

    key: str  # their name
    by: str  # ours
    take: tuple[tuple[str, str, Dtype], ...]  # (our name, their name, dtype)


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of one file of a table."""

    file: storage.Entry
    first: int
    rows: int | None  # None: all, of a file that can only be read from front to back


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def files_of(pattern: str) -> list[str]:
    if pattern.endswith(FORMATS) or any(character in pattern for character in "*?[{"):
        return expand(pattern)
    inside = [name for name in storage.names(pattern) if name.endswith(FORMATS)]
    return [storage.join(pattern, name) for name in inside]


def schema_of(url: str, key: str) -> dict[str, Any]:
    if url.endswith(".parquet"):
        return head(url)[0]
    return dict(_read_csv(url, {key: pl.String}, rows=1000).schema)


def dtype_of(dtype: Any) -> Dtype:
    """A column's type here; what is no number or truth is text."""
    name = "Decimal" if isinstance(dtype, pl.Decimal) else str(dtype)
    return _DTYPES.get(name, "string")


def widest(kinds: set[Dtype]) -> Dtype:
    if len(kinds) == 1:
        return next(iter(kinds))
    if not kinds or "string" in kinds:
        return "string"
    return "float32" if kinds == {"float32", "bool"} else "float64"


def _read_csv(
    url: str, types: dict[str, Any], rows: int | None = None, names: Sequence[str] | None = None
) -> pl.DataFrame:
    """A CSV in which a number may have decimals further down."""
    place = storage.local_path(url) if storage.is_local(url) else storage.read(url)
    separator = "\t" if url.endswith(".tsv") else ","
    try:
        frame = pl.read_csv(
            place, separator=separator, n_rows=rows, columns=names, schema_overrides=types
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{url} cannot be read: {first_line(error)}") from None
    whole = [name for name, dtype in frame.schema.items() if dtype.is_integer()]
    return frame.cast(dict.fromkeys(whole, pl.Float64))


def slices_of(files: Sequence[storage.Entry], rows: Rows) -> Iterator[Slice]:
    """The rows of all files, in order."""
    many = [files[i : i + _FILES_AT_ONCE] for i in range(0, len(files), _FILES_AT_ONCE)]
    counted = dict(pair for found in rows.each(_count, many) for pair in found)
    for file in files:
        count = counted[file.url]
        if count is None:
            yield Slice(file, 0, None)
            continue
        for first in range(0, count, _ROWS_AT_ONCE):
            yield Slice(file, first, min(_ROWS_AT_ONCE, count - first))


def _count(files: Sequence[storage.Entry]) -> list[tuple[str, int | None]]:
    return [(f.url, head(f.url)[1] if f.url.endswith(".parquet") else None) for f in files]


def grouped(slices: Iterable[Slice]) -> Iterator[list[Slice]]:
    """Slices for one task each: small files together."""
    waiting: list[Slice] = []
    rows = 0
    for one in slices:
        more = one.rows or _ROWS_AT_ONCE
        if waiting and (rows + more > _ROWS_AT_ONCE or len(waiting) == _FILES_AT_ONCE):
            yield waiting
            waiting, rows = [], 0
        waiting.append(one)
        rows += more
    if waiting:
        yield waiting


def nothing(reading: Reading) -> pl.DataFrame:
    """No rows of a table."""
    own = {ours: POLARS[dtype] for ours, _, dtype in reading.take}
    return pl.DataFrame(schema={KEY: pl.String, **own})


def read_slice_of(one: Slice, reading: Reading) -> pl.DataFrame:
    """`key` and our columns of some rows of a file; NaN is null.

    Raises:
        InputChanged: the file is not the one that was listed.
        ConfigError: it lacks a column, or holds values of another type than other files do.
    """
    url = one.file.url
    if storage.entry(url) != one.file:
        raise InputChanged(f"{url} changed while the tables were joined; run the same again")
    names = list(dict.fromkeys([reading.key, *(theirs for _, theirs, _ in reading.take)]))
    frame = _read(one, names, reading)
    converted = foreign.converted(frame.select(pl.col(names).name.prefix("_")), url)
    columns = [_key_column(frame[reading.key], reading)]
    for ours, theirs, dtype in reading.take:
        columns.append(
            _cast(converted[f"_{theirs}"], dtype, f"{url}: column {theirs!r}").alias(ours)
        )
    return pl.DataFrame(columns)


def _key_column(given: pl.Series, reading: Reading) -> pl.Series:
    if reading.by == "uid" and given.dtype == pl.Binary:
        return given.bin.encode("hex").alias(KEY) if given.bin.size().max() == 16 else (
            given.cast(pl.String, strict=False).alias(KEY))  # fmt: skip
    texts = given.cast(pl.String)
    return texts.set(texts == "", None).alias(KEY)


def _read(one: Slice, names: list[str], reading: Reading) -> pl.DataFrame:
    url = one.file.url
    if one.rows is not None:
        schema = head(url)[0]
        for name in names:
            if name not in schema:
                raise ConfigError(did_you_mean(name, list(schema), f"{url} has no column"))
        return read_slice(url, names, one.first, one.rows)
    types = {theirs: POLARS[dtype] for _, theirs, dtype in reading.take}
    return _read_csv(url, {**types, reading.key: pl.String}, names=names)


def _cast(values: pl.Series, dtype: Dtype, where: str) -> pl.Series:
    wanted = POLARS[dtype]
    if values.dtype.is_float():
        values = values.fill_nan(None)
    made = values.cast(wanted, strict=False)
    lost = made.is_null() & values.is_not_null()
    if wanted.is_integer() and values.dtype.is_float():
        lost |= (values % 1 != 0).fill_null(value=False)
    if lost.any():
        row = int(lost.arg_true()[0])
        raise ConfigError(
            f"{where} holds {values[row]!r} ({values.dtype}), and {dtype} in other files: store it "
            "as one type in all of them"
        )
    return made
