"""Bytes, JSON and arrays out of files. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from curate.storage.places import file_system, is_local, local_path, named


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """A file open for reading; StorageError names it where it cannot be."""
    with named(url, "read"):
        if is_local(url):
            handle: IO[bytes] = local_path(url).open("rb")
        else:
            system, path = file_system(url)
            handle = system.open(path, "rb")
    with handle:
        yield handle


def read(url: str) -> bytes:
    """The whole of a file."""
    with opened(url) as handle:
        return handle.read()


def sha256(url: str) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with opened(url) as handle:
        while piece := handle.read(8 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(url: str) -> Any:
    """The value of a JSON file."""
    return json.loads(read(url))


def _mapped(path: Path) -> np.ndarray:
    """A local array, mapped. Nothing is unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]  # numpy says Any
    except SystemError:
        # CPython gh-106905: parsing the header fails now and then where a finaliser parses
        # something at that very moment ("AST constructor recursion depth mismatch").
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]  # numpy says Any


def read_array(url: str) -> np.ndarray:
    """One `.npy` array; a local one is mapped, not read. Nothing is unpickled."""
    if is_local(url):
        with named(url, "read"):
            return _mapped(local_path(url))
    return np.load(io.BytesIO(read(url)), allow_pickle=False)  # type: ignore[no-any-return]  # numpy says Any


def read_rows(url: str, start: int, stop: int) -> np.ndarray:
    """Rows start to stop of a one-dimensional `.npy`, reading no more than those."""
    if is_local(url):
        return np.array(read_array(url)[start:stop])
    with opened(url) as handle:
        version = np.lib.format.read_magic(handle)
        header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        _, _, dtype = header(handle)
        handle.seek(handle.tell() + start * dtype.itemsize)
        return np.frombuffer(handle.read((stop - start) * dtype.itemsize), dtype=dtype)
