"""Where files are: paths and URLs, the file systems behind them, errors that name them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from curate.errors import StorageError


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


@contextmanager
def named(url: str, verb: str) -> Iterator[None]:
    """Errors of files and stores become a StorageError that names the URL."""
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
