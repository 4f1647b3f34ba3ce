"""Files that appear whole or not at all, on a disk or an object store."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from curate.storage.places import file_system, is_local, local_path, named

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # as `committing` names a file under way


@contextmanager
def committing(url: str) -> Iterator[IO[bytes]]:
    """A handle to write to; the file appears whole when the block ends, or not at all.

    Local files are written beside the final name, flushed to the disk and renamed; objects are
    uploaded by the store's own all-or-nothing put, which is abandoned where the block fails.
    """
    if not is_local(url):
        with _committing_object(url) as handle:
            yield handle
        return
    path = local_path(url)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with named(url, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = _NamedFile(temporary, url)
        with io.BufferedWriter(raw, buffer_size=1 << 20) as handle:
            yield handle
            handle.flush()
            raw.sync()
        with named(url, "written"):
            temporary.replace(path)
    finally:
        with named(url, "written"):
            temporary.unlink(missing_ok=True)


_EARLY = 4 << 20  # bytes


class _NamedFile(io.RawIOBase):
    """A new file whose every failure (a full disk, say) is a StorageError that names its URL.

    It keeps its descriptor to itself: numpy and polars would write to that past the error handling.
    """

    def __init__(self, path: Path, url: str) -> None:
        self._file = io.FileIO(path, "xb")
        self._url = url
        self._started = 0  # bytes that the kernel was told to write to the disk

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with named(self._url, "written"):
            return self._file.seek(offset, whence)

    def write(self, data: Any) -> int | None:
        with named(self._url, "written"):
            written = self._file.write(data)
            self._start_writing()
        return written

    def _start_writing(self) -> None:
        """Have the disk work while more is written, so that `sync` has little left to wait for."""
        end = self._file.tell()
        if end - self._started >= _EARLY and hasattr(os, "posix_fadvise"):
            # Linux begins to write dirty pages that are "not needed again", and keeps them.
            advice = (self._started, end - self._started, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self._file.fileno(), *advice)
            self._started = end

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        with named(self._url, "written"):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        super().close()
        self._file.close()


@contextmanager
def _committing_object(url: str) -> Iterator[IO[bytes]]:
    system, path = file_system(url)
    with named(url, "written"):
        handle = system.open(path, "wb", autocommit=False)
        done = False
        try:
            yield handle
            handle.close()
            handle.commit()
            done = True
        finally:
            if not done:
                _abandon(handle)


def _abandon(handle: Any) -> None:
    """Give an upload up for good: the finaliser of a file that is merely discarded would begin
    another one, in whatever runs then, and wait for a store that may be gone."""
    try:
        handle.discard()
    finally:
        handle.closed = True


def sweep(folder: str) -> None:
    """Remove what killed writers left directly in a local folder; nobody may be writing there."""
    if not is_local(folder) or not local_path(folder).is_dir():
        return  # an object store keeps no half of an object where it could be seen
    for path in local_path(folder).iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def commit(url: str, data: bytes | memoryview) -> None:
    """Write so that a reader sees the whole file or none of it."""
    if not is_local(url):
        system, path = file_system(url)
        with named(url, "written"):
            system.pipe_file(path, bytes(data))  # one request, where `committing` takes three
        return
    with committing(url) as handle:
        handle.write(data)


def commit_json(url: str, value: Any) -> None:
    """Write JSON, sorted and indented: the same value gives the same bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    commit(url, text.encode() + b"\n")


def commit_array(url: str, array: np.ndarray) -> None:
    """Write one array as `.npy`."""
    with committing(url) as handle:
        np.save(handle, array, allow_pickle=False)


def create(url: str, data: bytes) -> bool:
    """Write a file only if there is none; False where there is one already."""
    if is_local(url):
        path = local_path(url)
        with named(url, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            temporary.write_bytes(data)
            try:
                os.link(temporary, path)  # fails where the name is taken, unlike rename
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True
    system, place = file_system(url)
    with named(url, "written"):
        try:
            system.pipe_file(place, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "PreconditionFailed" in str(error) or "pre-conditions" in str(error):
                return False
            raise
    return True


def move(url: str, target: str) -> None:
    """Give a committed file another name, whether or not there is one of that name already."""
    if is_local(url):
        with named(target, "written"):
            local_path(target).parent.mkdir(parents=True, exist_ok=True)
            local_path(url).replace(local_path(target))
        return
    system, path = file_system(url)
    with named(target, "written"):
        system.cp_file(path, file_system(target)[1])  # `mv` takes `?` and `[` for patterns
        system.rm_file(path)


def remove(url: str) -> None:
    """Remove a file or a folder with all in it; nothing happens where there is none."""
    if is_local(url):
        path = local_path(url)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    system, place = file_system(url)
    if system.exists(place):
        system.rm(place, recursive=True)
