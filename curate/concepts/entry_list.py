"""A list of entries: the words and phrases whose concepts are counted (MetaCLIP's "metadata")."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError, first_line
from curate.parquet import write_parquet

Source = Literal["number", "wordnet", "unigram", "bigram", "title", "given"]
SOURCES: tuple[Source, ...] = get_args(Source)
COLUMNS = {
    "entry": pl.String,
    "source": pl.String,
    "language": pl.String,
    "rank": pl.UInt32,
}
_SHOWN = 60  # characters of an entry in a message


@dataclass(frozen=True, eq=False)
class EntryList:
    """E entries in order; an entry's id is its row. Within a language each stands once."""

    entries: pl.Series  # [E] String; never blank
    source: pl.Series  # [E] String, one of SOURCES
    language: pl.Series  # [E] String; wiki code such as en, zh_yue; "" in a list without languages
    rank: pl.Series  # [E] UInt32; place within source and language, 0 first

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of entries and languages in order; sources and ranks don't count."""
        whole = hashlib.sha256()
        for column in (self.entries, self.language):
            lengths = column.str.len_bytes().to_numpy().astype("<u8")
            whole.update(np.uint64(len(column)).tobytes())
            whole.update(lengths.tobytes())
            whole.update("".join(column.to_list()).encode())
        return whole.hexdigest()

    def frame(self) -> pl.DataFrame:
        """The list as its parquet file has it."""
        columns = (self.entries, self.source, self.language, self.rank)
        named = zip(COLUMNS.items(), columns, strict=True)
        return pl.DataFrame([column.cast(dtype).alias(name) for (name, dtype), column in named])


def of_frame(frame: pl.DataFrame) -> EntryList:
    """The list in a frame with COLUMNS."""
    return EntryList(*(frame[name] for name in COLUMNS))


def write_entries(url: str, entries: EntryList) -> None:
    """Commit a list as parquet: the same list gives the same bytes."""
    write_parquet(url, entries.frame())


def read_entries(path: str) -> EntryList:
    """Read a list, whatever wrote it, and check it.

    It is taken for parquet if it begins as parquet does: a column `entry`, and `language`,
    `source` and `rank` where there are any (others are left alone). A name that ends in `.json`
    says JSON: MetaCLIP's `metadata.json`, a list of strings. Anything else is text, one entry per
    line. Entries are taken as they are: blanks around them count when they are matched.

    Args:
        path: A path, or a URL that fsspec opens.

    Raises:
        ConfigError: No entries, one that is blank or repeated within its language, text that is
            not UTF-8, or columns of another kind; it names the row, counted from 1.
        StorageError: The file cannot be read.
    """
    data = storage.read(path)
    if data[:4] == b"PAR1":
        return _checked(path, "row", _parquet_frame(path, data))
    if path.endswith(".json"):
        return _checked(path, "item", _plain_frame(_json_items(path, data)))
    return _checked(path, "line", _plain_frame(_lines(path, data)))


def decoded(path: str, data: bytes) -> str:
    """The text of a file, which must be UTF-8; ConfigError names the first line that is not.

    The mark that some editors write at the front is left out.
    """
    if data[:2] == b"\x1f\x8b":
        raise ConfigError(f"{path} is compressed: unpack it first, with gunzip")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error.start) from None
    zero = data.find(b"\0")  # letters of ASCII in UTF-16 have one each
    if zero >= 0:
        raise _not_utf8(path, data, zero)
    return text


def _not_utf8(path: str, data: bytes, position: int) -> ConfigError:
    found = f"the byte 0x{data[position]:02x}"
    line = data.count(b"\n", 0, position) + 1
    return ConfigError(
        f"{path}:{line}: not UTF-8 ({found}): convert the file, with `iconv -t UTF-8`, say"
    )


def _lines(path: str, data: bytes) -> list[str]:
    """The lines of a text; what follows the last line feed is a line only if there is any."""
    lines = [line.removesuffix("\r") for line in decoded(path, data).split("\n")]
    return lines if lines[-1] else lines[:-1]


def _json_items(path: str, data: bytes) -> list[str]:
    try:
        found = json.loads(decoded(path, data))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(found, list):
        raise ConfigError(f"{path}: not a JSON list of strings, but {type(found).__name__}")
    for row, item in enumerate(found, start=1):
        if not isinstance(item, str):
            raise ConfigError(f"{path}: item {row} is not a string: {_short(item)}")
        if not item.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item):
            raise ConfigError(f"{path}: item {row} has half of a surrogate pair: {_short(item)}")
    return found


def _plain_frame(entries: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"entry": pl.Series(entries, dtype=pl.String)})


def _parquet_frame(path: str, data: bytes) -> pl.DataFrame:
    try:
        schema = pl.read_parquet_schema(io.BytesIO(data))
        if "entry" not in schema:
            raise ConfigError(
                f"{path}: a list of entries needs a column `entry`; it has {', '.join(schema)}"
            )
        columns = [name for name in COLUMNS if name in schema]
        frame = pl.read_parquet(io.BytesIO(data), columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = first_line(error)
        raise ConfigError(f"{path} cannot be read as parquet: {reason}; fetch it again") from None
    for name in columns:
        dtype = frame.schema[name]
        fits = dtype.is_integer() if name == "rank" else dtype in _TEXTS
        if not fits:
            wanted = "whole numbers" if name == "rank" else "strings"
            raise ConfigError(f"{path}: the column `{name}` must hold {wanted}, not {dtype}")
    return frame


_TEXTS = (pl.String, pl.Categorical, pl.Enum)


def _checked(path: str, unit: str, frame: pl.DataFrame) -> EntryList:
    """The list of a frame with `entry`, and the other columns where they are known."""
    if frame.is_empty():
        raise ConfigError(f"{path} holds no entries: name a list that does")
    frame = frame.with_columns(pl.col(name).cast(pl.String) for name in _texts_of(frame))
    frame = _completed(frame)
    for problem in _problems(path, unit, frame):
        raise ConfigError(problem)
    return of_frame(frame.select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()))


def _texts_of(frame: pl.DataFrame) -> list[str]:
    return [name for name in frame.columns if name != "rank"]


def _completed(frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns that a list of bare entries lacks."""
    absent = {"language": "", "source": "given"}
    frame = frame.with_columns(
        pl.lit(value).alias(name) for name, value in absent.items() if name not in frame.columns
    )
    if "rank" not in frame.columns:
        frame = frame.with_columns(pl.int_range(pl.len()).over("language", "source").alias("rank"))
    return frame


def _problems(path: str, unit: str, frame: pl.DataFrame) -> Iterator[str]:
    for name in ("source", "language", "rank"):
        if (row := _first(frame[name].is_null())) is not None:
            yield f"{_at(path, unit, row)}: no {name}"
    if (row := _first(~frame["source"].is_in(SOURCES))) is not None:
        found = frame["source"][row]
        known = ", ".join(SOURCES)
        yield f"{_at(path, unit, row)}: the source {found!r} is none of {known}"
    ranks = frame["rank"]
    if (row := _first((ranks < 0) | (ranks > 0xFFFF_FFFF))) is not None:
        yield f"{_at(path, unit, row)}: the rank {ranks[row]} is no uint32"
    if (row := _first(frame["entry"].str.strip_chars().fill_null("") == "")) is not None:
        yield f"{_at(path, unit, row)}: the entry is blank: remove it"
    yield from _repeated(path, unit, frame)


def _repeated(path: str, unit: str, frame: pl.DataFrame) -> Iterator[str]:
    again = frame.select(~pl.struct("entry", "language").is_first_distinct()).to_series()
    if (row := _first(again)) is None:
        return
    entry, language = frame["entry"][row], frame["language"][row]
    same = frame.select((pl.col("entry") == entry) & (pl.col("language") == language)).to_series()
    where = f" in the language {language!r}" if language else ""
    count = int(again.sum())
    repeats = "1 repeat" if count == 1 else f"{count:,} repeats"
    yield (
        f"{_at(path, unit, row)}: the entry {_short(entry)} stands in {unit} "
        f"{int(same.arg_true()[0]) + 1} already{where}: remove it ({repeats} in all)"
    )


def _at(path: str, unit: str, row: int) -> str:
    """Where a row is, counted from 1: lines in the form that editors know."""
    return f"{path}:{row + 1}" if unit == "line" else f"{path}: {unit} {row + 1}"


def _first(mask: pl.Series) -> int | None:
    """The first row that is true."""
    found = mask.arg_true()
    return int(found[0]) if len(found) else None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
