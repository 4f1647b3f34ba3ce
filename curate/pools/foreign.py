"""Tables of strangers -> our names and types: what filters can compare, whoever wrote the file."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from curate.errors import ConfigError
from curate.sample import UID, parse_uids, uid_of

TEXT = ("key", "url", "caption", "sha256")
SIZES = ("width", "height", "original_width", "original_height")


def converted(frame: pl.DataFrame, url: str) -> pl.DataFrame:
    """A frame of our names with every column as text, a number or a time; `uid` is left alone.

    Raises:
        ConfigError: a column that must be text is not; the message names `url`.
    """
    for name in TEXT:
        if name in frame.columns:
            frame = frame.with_columns(_as_text(frame, name, url))
    for name in SIZES:
        # A table with holes has its sizes as floats; 600.03 pixels are no 600.
        if name in frame.columns and not frame.schema[name].is_float():
            frame = frame.with_columns(pl.col(name).cast(pl.Int64, strict=False))
    return frame.with_columns(_plain(frame))


def dtypes(schema: Mapping[str, Any]) -> dict[str, str]:
    """{our name: dtype} that `converted` gives a frame of that schema."""
    cast = dict.fromkeys(TEXT, "String")
    cast |= {n: "Int64" for n in SIZES if n in schema and not schema[n].is_float()}
    return {name: cast.get(name) or _plain_dtype(dtype) for name, dtype in schema.items()}


def _plain_dtype(dtype: Any) -> str:
    if dtype.is_nested() or dtype in (pl.Binary, pl.Categorical, pl.Enum):
        return "String"
    if isinstance(dtype, pl.Decimal):
        return "Float64" if dtype.scale else "String"
    return "Int64" if dtype == pl.Duration else str(dtype)


def _as_text(frame: pl.DataFrame, name: str, url: str) -> pl.Expr:
    dtype = frame.schema[name]
    texts = (pl.String, pl.Null, pl.Binary, pl.Categorical, pl.Enum)
    if name == "url" and dtype not in texts:
        raise ConfigError(
            f"{url}: column `url` holds {dtype}, not text; name another with `columns:`"
        )
    if dtype == pl.Binary:  # what is no UTF-8 becomes U+FFFD, as in a tar
        return _each(frame[name], lambda body: body.decode(errors="replace"))
    if dtype.is_nested():
        raise ConfigError(
            f"{url}: column {name!r} holds {dtype}, not text; name another with `columns:`"
        )
    return pl.col(name).cast(pl.String)


def _plain(frame: pl.DataFrame) -> list[pl.Expr]:
    """Columns of strangers as numbers, times and text, which filters can compare."""
    found = []
    for name, dtype in frame.schema.items():
        column = pl.col(name)
        if name == "uid":
            continue
        if dtype.is_nested():
            found.append(_each(frame[name], _json))
        elif dtype == pl.Binary:
            found.append(_each(frame[name], _text_or_hex))
        elif isinstance(dtype, pl.Decimal):
            found.append(column.cast(pl.Float64 if dtype.scale else pl.String))
        elif dtype == pl.Duration:
            found.append(column.cast(pl.Int64))
        elif dtype in (pl.Categorical, pl.Enum):
            found.append(column.cast(pl.String))
    return found


def _each(values: pl.Series, to_text: Callable[[Any], str]) -> pl.Expr:
    """A column as text. Here, not by polars: its threads would wait for the interpreter, and the
    thread that has it may wait for them."""
    found = [None if value is None else to_text(value) for value in values.to_list()]
    return pl.lit(pl.Series(values.name, found, dtype=pl.String))


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _text_or_hex(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.hex()


def uid_array(frame: pl.DataFrame, url: str) -> np.ndarray:
    """[N] UID: given ones, else md5 of caption and URL (the file and key where there is no URL).

    Raises:
        ConfigError: one is not 1 to 32 hex digits; the message names its row.
    """
    given = _uid_texts(frame["uid"]) if "uid" in frame.columns else None
    if given is not None and not given.null_count():
        return _parsed(given, url)
    made = pl.Series(_made_uids(frame, url), dtype=pl.String)
    if given is not None:
        made = given.zip_with(given.is_not_null(), made)
    return _parsed(made, url)


def _made_uids(frame: pl.DataFrame, url: str) -> list[str]:
    nothing = [None] * frame.height
    captions = frame["caption"].to_list() if "caption" in frame.columns else nothing
    where = frame["url"].to_list() if "url" in frame.columns else nothing
    if "key" in frame.columns:
        place = url.rsplit("/", 1)[-1]
        keys = frame["key"].to_list()
        where = [
            w if w is not None else f"{place}/{key}" for w, key in zip(where, keys, strict=True)
        ]
    return [uid_of(caption, place) for caption, place in zip(captions, where, strict=True)]


def _parsed(texts: pl.Series, url: str) -> np.ndarray:
    if bool((texts.str.len_bytes() == 32).all()):
        try:  # DataComp's own: 50 ns each
            raw = binascii.unhexlify(texts.str.join("").item() if len(texts) else "")
            if len(raw) == 16 * len(texts):
                return np.frombuffer(raw, dtype=">u8").astype("<u8").view(UID)
        except (binascii.Error, ValueError):
            pass  # not hex: said below, with its row
    try:
        return parse_uids(texts.to_list())
    except ValueError as error:
        wrong = ~texts.str.contains(r"^[0-9a-fA-F]{1,32}$").fill_null(value=False)
        remedy = "another column can be named with `columns: {uid: its_name}`"
        raise ConfigError(f"{url}, row {wrong.arg_true()[0]}: {error}; {remedy}") from None


def _uid_texts(given: pl.Series) -> pl.Series:
    """Uids as hex: text, text or 16 raw bytes in a binary column, or numbers that are whole."""
    if given.dtype == pl.Binary:
        bodies = given.drop_nulls().to_list()
        text = all(body.isascii() for body in bodies)
        texts = [b if b is None else b.decode() if text else b.hex() for b in given.to_list()]
        return pl.Series(texts, dtype=pl.String)
    if given.dtype.is_float() and bool(((given % 1) == 0).all()):
        given = given.cast(pl.Int64)
    found = given.cast(pl.String)
    return found.set(found == "", None)
