"""Arrays that lie beside a metadata file: DataComp's `.npz`, clip-retrieval's embedding folders."""

from __future__ import annotations

import io
import math
import re
import threading
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np

from curate import storage
from curate.errors import ConfigError

_RETRIEVAL = re.compile(r"(.*/)?metadata/metadata_(\d+)\.parquet")
_FOLDERS = ("img_emb", "text_emb")  # of clip-retrieval, beside `metadata`


@dataclass(frozen=True)
class ArrayFile:
    """One [N, D] array of a file: a member of an `.npz`, or an `.npy` alone."""

    url: str
    member: str  # of the `.npz`; "" for an `.npy`
    rows: int
    width: int


def files_beside(metadata: str) -> list[str]:
    """Files that would hold the arrays of a metadata file; those that exist are for `arrays_of`."""
    found = _RETRIEVAL.fullmatch(metadata)
    if found is None:
        return [metadata.removesuffix(".parquet") + ".npz"]
    root, number = found[1] or "", found[2]
    return [f"{root}{folder}/{folder}_{number}.npy" for folder in _FOLDERS]


def file_for(metadata: str, name: str) -> str:
    """The file beside a metadata file that would hold an array of that name."""
    found = files_beside(metadata)
    return next((url for url in found if url.rsplit("/", 1)[-1].startswith(f"{name}_")), found[0])


def arrays_of(url: str) -> dict[str, ArrayFile]:
    """{name: array} of an `.npz` or `.npy`, from the headers alone.

    Raises:
        ConfigError: the file is damaged, or an array is not one of [N, D] numbers.
    """
    with storage.opened(url) as handle:
        if not url.endswith(".npz"):
            name = url.rsplit("/", 1)[-1].rsplit("_", 1)[0]
            return {name: _described(url, "", handle)}
        try:
            archive = zipfile.ZipFile(handle)
        except (zipfile.BadZipFile, EOFError) as error:
            raise _damaged(url, error) from None
        found = {}
        for member in archive.namelist():
            with archive.open(member) as inner:
                found[member.removesuffix(".npy")] = _described(url, member, inner)
        return found


def _described(url: str, member: str, handle: IO[bytes]) -> ArrayFile:
    shape, dtype = _header(url, handle)
    if not member:
        promised = handle.tell() + math.prod(shape) * dtype.itemsize
        there = storage.entry(url).bytes
        if there < promised:
            raise ConfigError(
                f"{url} is damaged: its header promises {promised} bytes, it has {there}; fetch "
                "the file again"
            )
    return ArrayFile(url, member, shape[0], shape[1] if len(shape) == 2 else 1)


def _header(url: str, handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(handle)
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(url, error) from None
    if by_column or dtype.kind not in "fiu" or len(shape) not in (1, 2):
        raise ConfigError(
            f"{url} holds {dtype} of shape {shape}; embeddings are numbers, [N, D]. Write "
            "`arrays: none` into the pool to go without"
        )
    return shape, dtype


def _damaged(url: str, error: Exception) -> ConfigError:
    return ConfigError(f"{url} is damaged: {error}; fetch the file again")


def read_array(array: ArrayFile, first: int, rows: int) -> np.ndarray:
    """[rows, D] of an array, float16 or float32 as stored.

    A compressed member can only be read from its beginning: reading on from where the last call of
    this thread ended costs nothing extra.
    """
    if not array.member and storage.is_local(array.url):
        found = np.array(storage.read_array(array.url)[first : first + rows])
        return found.reshape(len(found), -1)
    version = storage.entry(array.url).version
    return _stream(array, version, threading.get_ident()).read(first, rows)


@lru_cache(maxsize=8)
def _stream(array: ArrayFile, version: str, thread: int) -> _Stream:
    del version, thread  # another file, or another reader, is another stream
    return _Stream(array)


class _Stream:
    """An array read from front to back, opened again where an earlier row is asked for."""

    def __init__(self, array: ArrayFile) -> None:
        self._array = array
        self._at = -1  # the next row; -1 where nothing is open
        self._handle: IO[bytes] = io.BytesIO()
        self._dtype: np.dtype[Any] = np.dtype(np.float16)

    def _open(self) -> None:
        if storage.is_local(self._array.url):
            raw: IO[bytes] = storage.local_path(self._array.url).open("rb")
        else:
            system, path = storage.file_system(self._array.url)
            raw = system.open(path, "rb")
        # The handle lives as long as this stream, which is let go by the cache.
        self._handle = raw
        if self._array.member:
            self._handle = zipfile.ZipFile(raw).open(self._array.member)  # noqa: SIM115 - as above
        _, self._dtype = _header(self._array.url, self._handle)
        self._at = 0

    def read(self, first: int, rows: int) -> np.ndarray:
        if self._at < 0 or first < self._at:
            self._open()
        row_bytes = self._dtype.itemsize * self._array.width
        try:
            self._skip((first - self._at) * row_bytes)
            body = self._handle.read(rows * row_bytes)
        except (zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise _damaged(self._array.url, error) from None
        self._at = first + rows
        if len(body) != rows * row_bytes:
            raise ConfigError(
                f"{self._array.url}: {self._array.member or 'the array'} ends before row "
                f"{first + rows}; fetch the file again"
            )
        return np.frombuffer(body, dtype=self._dtype).reshape(rows, -1)

    def _skip(self, count: int) -> None:
        while count > 0:
            passed = self._handle.read(min(count, 16 << 20))
            if not passed:
                raise EOFError("it ends early")
            count -= len(passed)
