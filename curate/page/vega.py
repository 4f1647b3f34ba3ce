"""The scripts that draw the charts: those of Vega, Vega-Lite and Vega-Embed, as one."""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

from curate import storage
from curate.errors import StorageError


@cache
def bundle() -> str:
    """The script, for an HTML page.

    To put it together takes a second and a half, so it is kept in the user's cache folder, under
    the versions that it was made with.
    """
    import altair

    vega_lite = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    name = f"vega-lite-{vega_lite}-vl-convert-{version('vl-convert-python')}.js"
    folder = _cache_folder()
    if folder is None:
        return _made(vega_lite)
    script = _kept(folder / name)
    if script is None:
        script = _made(vega_lite)
        # A home that cannot be written to: the next process makes it again.
        with contextlib.suppress(StorageError):
            storage.commit(str(folder / name), f"{_digest(script)}\n{script}".encode())
    return script


def _cache_folder() -> Path | None:
    """The user's; None for one who has no home, as in some containers."""
    try:
        folder = Path(platformdirs.user_cache_dir("curate"))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _made(vega_lite: str) -> str:
    import vl_convert

    script = vl_convert.javascript_bundle(None, vega_lite)  # type: ignore[arg-type]  # its stub
    assert "</script" not in script.lower()
    return script


def _kept(file: Path) -> str | None:
    """The script of a file of the cache; None where it is not there or not what was written."""
    try:
        digest, _, script = file.read_bytes().decode().partition("\n")
    except (OSError, ValueError):
        return None
    return script if digest == _digest(script) else None


def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()
