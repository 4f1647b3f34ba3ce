"""What is there: files and folders, sizes, versions, room to write."""

from __future__ import annotations

import glob as local_glob
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import StorageError
from curate.storage.places import file_system, is_local, local_path, named

LIST_FROM = 16  # files of one folder from which listing it costs less than asking for each


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(url):
        return local_path(url).exists()
    system, path = file_system(url)
    with named(url, "read"):
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
    with named(url, "read"):
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
    with named(pattern, "listed"):
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
    with named(folder, "listed"):
        try:
            with os.scandir(local_path(folder)) as found:
                return [each for each in found if not each.name.startswith(".")]
        except FileNotFoundError:
            return []


def _listed(folder: str) -> list[dict[str, Any]]:
    system, path = file_system(folder)
    with named(folder, "listed"):
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
