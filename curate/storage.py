"""Files, wherever they are: list, read, and commit all-or-nothing, on a disk or an object store."""

from __future__ import annotations

import glob as local_glob
import hashlib
import io
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from curate.errors import StorageError

LIST_FROM = 16  # files of one folder from which listing it costs less than asking for each


def is_local(url: str) -> bool:
    """Whether a path or URL is on this machine's file system."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local URL."""
    return Path(url.removeprefix("file://"))


@lru_cache(maxsize=32)
def _file_system(protocol: str) -> Any:
    import fsspec  # 0.1 s, and most runs stay on the local disk

    try:
        # A remembered listing would hide what other processes add to a folder.
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
        remedy = f"pip install 'curate[{extra}]'" if extra else "install its fsspec package"
        raise StorageError(
            f"{protocol}:// needs a package that is missing ({error}): {remedy}"
        ) from None
    except ValueError as error:
        raise StorageError(f"{protocol}:// is not a known kind of storage: {error}") from None


def file_system(url: str) -> tuple[Any, str]:
    """(fsspec file system, path within it) of a URL."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    system = _file_system(protocol)
    return system, system._strip_protocol(url)


def join(root: str, *parts: str) -> str:
    """A path below a root, for both folders and URLs."""
    return "/".join([root.rstrip("/"), *parts])


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(url):
        return local_path(url).exists()
    system, path = file_system(url)
    with _named(url, "read"):
        return bool(system.exists(path))


@dataclass(frozen=True)
class Entry:
    """One file as listed: enough to notice that it is not what it was."""

    url: str
    bytes: int
    version: str  # an object store's ETag, or a local file's modification time in ns


def entry(url: str) -> Entry:
    """Size and version of one file; StorageError where it cannot be opened."""
    if is_local(url):
        try:
            status = local_path(url).stat()
        except OSError as error:
            raise StorageError(f"{url} cannot be read: {error.strerror}") from None
        return Entry(url, status.st_size, str(status.st_mtime_ns))
    system, path = file_system(url)
    with _named(url, "read"):
        info = system.info(path)
    return Entry(url, int(info.get("size") or 0), _version(info))


def entries(urls: Sequence[str]) -> list[Entry]:
    """Size and version of many files, in order: a folder with many of them is listed once."""
    folders: dict[str, list[str]] = {}
    for url in urls:
        folders.setdefault(url.rpartition("/")[0], []).append(url)
    found: dict[str, Entry] = {}
    for folder, inside in folders.items():
        # A web server's listing is a page, and a local file is asked for as fast as listed.
        if len(inside) >= LIST_FROM and not is_local(folder) and not folder.startswith("http"):
            protocol = folder.split("://", 1)[0]
            for info in _listed(folder):
                url = f"{protocol}://{info['name']}"
                found[url] = Entry(url, int(info.get("size") or 0), _version(info))
    return [found[url] if url in found else entry(url) for url in urls]


# Names by which file systems tell one version of a file from another.
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime")


def _version(info: dict[str, Any]) -> str:
    found = (info.get(name) for name in _VERSIONS)
    return str(next((value for value in found if value is not None), ""))


def glob(pattern: str) -> list[str]:
    """Sorted URLs of the files that match; [] where none does."""
    if is_local(pattern):
        # Path.glob takes no absolute pattern.
        found = local_glob.glob(str(local_path(pattern)), recursive=True)  # noqa: PTH207
        return sorted(path for path in found if Path(path).is_file())
    system, path = file_system(pattern)
    protocol = pattern.split("://", 1)[0]
    with _named(pattern, "listed"):
        return sorted(f"{protocol}://{found}" for found in system.glob(path))


def names(folder: str) -> list[str]:
    """Sorted names of the files directly in a folder; [] where there is no such folder."""
    if is_local(folder):
        return sorted(e.name for e in _scanned(folder) if e.is_file())
    return sorted(i["name"].rsplit("/", 1)[-1] for i in _listed(folder) if i["type"] == "file")


def folders(folder: str) -> list[str]:
    """Sorted names of the folders directly in a folder; [] where there is no such folder."""
    if is_local(folder):
        return sorted(e.name for e in _scanned(folder) if e.is_dir())
    listed = (i["name"].rstrip("/") for i in _listed(folder) if i["type"] != "file")
    return sorted(name.rsplit("/", 1)[-1] for name in listed)


def _scanned(folder: str) -> list[os.DirEntry[str]]:
    """What is in a local folder, but for hidden files: those are commits under way."""
    with _named(folder, "listed"):
        try:
            with os.scandir(local_path(folder)) as found:
                return [each for each in found if not each.name.startswith(".")]
        except FileNotFoundError:
            return []


def _listed(folder: str) -> list[dict[str, Any]]:
    system, path = file_system(folder)
    with _named(folder, "listed"):
        try:
            return list(system.ls(path, detail=True))
        except FileNotFoundError:
            return []


def size(url: str) -> int:
    """Bytes of a file, or of all files below a folder."""
    if is_local(url):
        path = local_path(url)
        if path.is_file():
            return path.stat().st_size
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    system, place = file_system(url)
    return int(system.du(place))


def free_bytes(url: str) -> int | None:
    """Bytes free where a local path would be written; None for an object store."""
    if not is_local(url):
        return None
    path = local_path(url).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def unwritable(folder: str) -> str | None:
    """Why nothing can be written below a folder or URL, if asking tells; else None."""
    if is_local(folder):
        path = local_path(folder).absolute()
        if path.is_file():
            return f"{folder} is a file, not a folder"
        while not path.exists():
            path = path.parent
        return None if os.access(path, os.W_OK) else f"{path} cannot be written to by this user"
    try:
        names(folder)
    except StorageError as error:
        return f"{error}; are the credentials and the endpoint of this store set?"
    return None


@contextmanager
def _named(url: str, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"{url} cannot be {verb}: {reason}") from error
    except _clients_errors() as error:
        raise StorageError(f"{url} cannot be {verb}: {error}") from error


# What the packages behind an object store or a web server raise beside OSError.
_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),  # no credentials, no such region
    ("aiohttp", "ClientError"),  # a status of 400 and above
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
)


def _clients_errors() -> tuple[type[Exception], ...]:
    """The errors of those packages that are loaded: nothing is imported for their sake."""
    found = ((sys.modules.get(module), name) for module, name in _CLIENTS)
    return tuple(getattr(module, name) for module, name in found if hasattr(module, name))


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """A file open for reading; StorageError names it where it cannot be."""
    with _named(url, "read"):
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
        with _named(url, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = _NamedFile(temporary, url)
        with io.BufferedWriter(raw, buffer_size=1 << 20) as handle:
            yield handle
            handle.flush()
            raw.sync()
        with _named(url, "written"):
            temporary.replace(path)
    finally:
        with _named(url, "written"):
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
        with _named(self._url, "written"):
            return self._file.seek(offset, whence)

    def write(self, data: Any) -> int | None:
        with _named(self._url, "written"):
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
        with _named(self._url, "written"):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        super().close()
        self._file.close()


@contextmanager
def _committing_object(url: str) -> Iterator[IO[bytes]]:
    system, path = file_system(url)
    with _named(url, "written"):
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
        with _named(url, "written"):
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
        with _named(url, "read"):
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


def create(url: str, data: bytes) -> bool:
    """Write a file only if there is none; False where there is one already."""
    if is_local(url):
        path = local_path(url)
        with _named(url, "written"):
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
    with _named(url, "written"):
        try:
            system.pipe_file(place, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "PreconditionFailed" in str(error) or "pre-conditions" in str(error):
                return False
            raise
    return True


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
