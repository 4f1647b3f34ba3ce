"""Files of 64-bit hashes that one field names: `.npy` of uint64, or parquet with a column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from curate import storage
from curate.errors import ConfigError
from curate.features._given.array_files import Part, identity, is_many, listed, within

ENDINGS = (".npy", ".parquet")


@dataclass(frozen=True)
class HashFiles:
    """What a user gave: files, folders or patterns of them."""

    given: tuple[str, ...]
    key: str  # the column of a parquet: uint64, or 16 hex digits as text

    def problems(self, field: str) -> list[str]:
        """What is wrong, as far as can be told without reading the files."""
        found = []
        for one in self.given:
            files = self._files(one)
            if not files:
                found.append(f"{field}: no file of {', '.join(ENDINGS)} is {one}")
            elif files == [one] and not one.endswith(ENDINGS):
                found.append(f"{field}: {one} is none of {', '.join(ENDINGS)}: hashes are needed")
            elif files == [one] and not storage.exists(one):
                found.append(f"{field}: there is no file {one}")
        return found

    def recipe(self) -> list[dict[str, str | int]]:
        """Name and SHA-256 of each that was given; of many files their number and one SHA-256."""
        return [
            identity(one, [(within(one, file), file) for file in self._files(one)])
            for one in self.given
        ]

    def mirrored(self) -> HashFiles | None:
        """The hashes of the mirrored pictures, where a step's files have them too."""
        files = [file for one in self.given for file in self._files(one)]
        name = f"{self.key}_mirrored"
        if not all(file.endswith(".parquet") and name in _columns(file) for file in files):
            return None
        return HashFiles(tuple(files), name)

    def count(self) -> int:
        """Hashes in all files."""
        return sum(len(part.values) for part in self.read())

    def read(self) -> Iterator[Part]:
        """The hashes file by file, [N] uint64 each, without samples that have none."""
        for one in self.given:
            for file in self._files(one):
                rows, values = self._hashes(file)
                yield Part(within(one, file), file, rows, values)

    def _files(self, one: str) -> list[str]:
        if not is_many(one):
            return [one]
        return [file for file in listed(one) if file.endswith(ENDINGS)]

    def _hashes(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        if file.endswith(".npy"):
            return _from_npy(file)
        try:
            with storage.opened(file) as handle:
                column = pl.read_parquet(handle, columns=[self.key]).to_series()
        except (PolarsError, OSError) as error:
            raise ConfigError(f"{file} has no readable column {self.key!r}: {error}") from None
        if column.dtype == pl.String:
            column = _from_hex(file, column)
        if column.dtype != pl.UInt64:
            raise ConfigError(
                f"{self.key} of {file} is {column.dtype}: uint64, or 16 hex digits, are needed"
            )
        known = column.is_not_null()
        return known.arg_true().to_numpy(), column.drop_nulls().to_numpy()


def _columns(file: str) -> list[str]:
    with storage.opened(file) as handle:
        return list(pl.read_parquet_schema(handle))


def _from_npy(file: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        array = storage.read_array(file)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{file} is not a .npy array: {error}") from None
    if array.ndim != 1 or array.dtype != np.uint64:
        raise ConfigError(
            f"{file} holds {array.dtype} of shape {array.shape}: [N] uint64 hashes are needed"
        )
    return np.arange(len(array)), array


def _from_hex(file: str, column: pl.Series) -> pl.Series:
    wrong = column.drop_nulls().filter(~column.drop_nulls().str.contains("^[0-9a-fA-F]{16}$"))
    if len(wrong):
        raise ConfigError(f"{column.name} of {file} has {wrong[0]!r}: 16 hex digits are needed")
    halves = (column.str.slice(place, 8).str.to_integer(base=16) for place in (0, 8))
    high, low = (half.cast(pl.UInt64) for half in halves)
    return high * 2**32 + low
