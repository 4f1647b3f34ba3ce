"""Arrays that others published, as `.npy` or PyTorch's `.pt`: known by SHA-256, never unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from pickle import UnpicklingError
from typing import Any

import numpy as np

from curate import storage
from curate.errors import ConfigError, StorageError
from curate.features._given import pickles

ENDINGS = (".npy", ".pt", ".pth")


def problems(field: str, urls: Sequence[str]) -> list[str]:
    """What is wrong with files of arrays, as far as can be told without reading them."""
    found = []
    for url in urls:
        try:
            there = storage.exists(url)
        except StorageError as error:
            found.append(f"{field}: {error}")
            continue
        if not url.endswith(ENDINGS):
            found.append(f"{field}: {url} is none of {', '.join(ENDINGS)}")
        elif not there:
            found.append(f"{field}: there is no file {url}")
    return found


def recipe(urls: Sequence[str]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file: what stands in a recipe in place of paths."""
    return [{"file": PurePosixPath(url).name, "sha256": storage.sha256(url)} for url in urls]


def read(url: str, key: str) -> np.ndarray:
    """[N, D] of a file, in its own precision; a local `.npy` is mapped.

    Args:
        url: A `.npy`, or a `.pt` of a tensor, a numpy array, or a dict with one of them.
        key: What to take of a dict: DataComp's embeddings of ImageNet have `image_features`.

    Raises:
        ConfigError: it is no such file, or not a table of finite numbers.
    """
    array = _read_npy(url) if url.endswith(".npy") else _read_torch(url, key)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ConfigError(
            f"{url} holds {array.dtype} of shape {array.shape}: [N, D] floats are needed"
        )
    return array


def _read_npy(url: str) -> np.ndarray:
    try:
        return storage.read_array(url)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{url} is not a .npy array: {error}") from None


def _read_torch(url: str, key: str) -> np.ndarray:
    """A tensor, or a numpy array, of a `.pt`: nothing else is ever rebuilt."""
    import torch  # takes seconds to load

    body = storage.read(url)
    pickled = _pickle_in(body)
    protocol = pickles.protocol_of(pickled or body)
    try:
        if protocol in pickles.PROTOCOLS:
            value = pickles.load(pickled)
        else:
            with torch.serialization.safe_globals(_numpy_globals()):
                value = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, pickles.Refused):
        # Torch's own words tell how to unpickle anything: nobody should.
        if protocol in pickles.PROTOCOLS:
            raise ConfigError(
                f"{url} is damaged, or holds more than arrays: of pickle protocol {protocol}, only "
                "numpy arrays are read, and of protocol 2 tensors too. Save it again with `np.save`"
            ) from None
        raise ConfigError(
            f"{url} is damaged, or holds more than arrays: only tensors and numpy arrays are read"
        ) from None
    if isinstance(value, dict):
        if key not in value:
            listed = ", ".join(map(str, value))
            raise ConfigError(f"{url} has no {key!r}; it has: {listed}")
        value = value[key]
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if not isinstance(value, np.ndarray):
        raise ConfigError(f"{url} holds a {type(value).__name__}, not an array")
    return value


def _pickle_in(body: bytes) -> bytes:
    """The pickle of a `.pt`, which is a zip; b"" where it is none, as torch before 1.6 wrote it."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            # Torch compresses nothing: what is larger inside than outside was made to be so.
            if len(names) != 1 or archive.getinfo(names[0]).file_size > len(body):
                return b""
            return archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return b""


def _numpy_globals() -> list[Any]:
    """What rebuilds a numpy array, under the names that both numpy 1 and 2 wrote."""
    # What a pickled array calls its maker; it is private, and where it lies changed with numpy 2.
    rebuild = np.empty(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8")]
    old = (rebuild, "numpy.core.multiarray._reconstruct")
    new = (rebuild, "numpy._core.multiarray._reconstruct")
    return [np.ndarray, np.dtype, *dtypes, old, new]
