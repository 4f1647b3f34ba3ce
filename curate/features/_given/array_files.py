"""Many files of arrays that one field names: single files, folders and patterns of them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from curate import storage
from curate.errors import ConfigError, StorageError
from curate.features._embeddings import present
from curate.features._given import published

ENDINGS = (*published.ENDINGS, ".npz")
ROWS = ".rows.npy"  # beside the arrays of a step's folder: which rows of the shard they are of
PT_KEY = "image_features"  # of a published dict of embeddings


@dataclass(frozen=True)
class Part:
    """The arrays of one file."""

    name: str  # within what was given
    file: str
    rows: np.ndarray  # [N] of the file, or of the shard in a step's folder
    values: np.ndarray  # [N, D] float16, float32 or float64, in memory or mapped


@dataclass(frozen=True)
class ArrayFiles:
    """What a user gave: files, folders (at any depth), or patterns such as `img_emb/*.npy`.

    In a step's own folder of a work folder, `features/clip`, the arrays called `key` are meant.
    """

    given: tuple[str, ...]
    key: str  # of a .npz, and of a step's folder
    pt_key: str = PT_KEY  # of a .pt that holds a dict

    def problems(self, field: str) -> list[str]:
        """What is wrong, as far as can be told without reading the files."""
        found = [] if self.given else [f"{field}: the list of files is empty"]
        for one in self.given:
            try:
                files, several = self._files(one), is_many(one)
            except (ConfigError, StorageError) as error:
                found.append(f"{field}: {error}")
                continue
            if not files:
                found.append(f"{field}: no file of {', '.join(ENDINGS)} is {one}")
            elif not several:
                found += _problems(field, one)
        return found

    def recipe(self) -> list[dict[str, str | int]]:
        """Name and SHA-256 of each that was given; of many files their number and one SHA-256."""
        return [identity(one, self._named(one)) for one in self.given]

    def files(self) -> list[str]:
        """All files, in the order in which they were given, sorted where one means many."""
        return [file for one in self.given for file in self._files(one)]

    def read(self) -> Iterator[Part]:
        """The arrays, file by file; of a step's folder without the samples that have none.

        Raises:
            ConfigError: a file is damaged, holds no such array, or not a table of numbers.
        """
        for one in self.given:
            for name, file in self._named(one):
                yield self._part(name, file)

    def mirrored(self) -> ArrayFiles | None:
        """The embeddings of the mirrored pictures, where a step's folder has those of all."""
        if self.key != "image":
            return None
        arrays = [file for file in self.files() if file.endswith(".image.npy")]
        other = [f"{file.removesuffix('.image.npy')}.mirrored.npy" for file in arrays]
        if len(arrays) < len(self.files()) or not other or not all(map(storage.exists, other)):
            return None
        return ArrayFiles(tuple(other), "mirrored")

    def count(self) -> int | None:
        """Embeddings in all files; None where torch would be needed to tell."""
        if any(file.endswith((".pt", ".pth")) for file in self.files()):
            return None
        return sum(len(part.values) for part in self.read())

    def read_file(self, file: str) -> np.ndarray:
        """[N, D] of one file, in its own precision."""
        if file.endswith(".npz"):
            return _checked(file, _read_npz(file, self.key))
        return published.read(file, self.pt_key)

    def _part(self, name: str, file: str) -> Part:
        array = self.read_file(file)
        place = file.removesuffix(f".{self.key}.npy") + ROWS
        if place == file + ROWS or not storage.exists(place):
            return Part(name, file, np.arange(len(array)), array)
        rows = storage.read_array(place)
        if len(rows) != len(array):
            raise ConfigError(f"{file} has {len(array)} rows, and {place} names {len(rows)}")
        known = present(array)
        shard = name.removesuffix(f".{self.key}.npy").rpartition("-")[0]
        return Part(shard, file, rows[known], array[known])

    def _named(self, one: str) -> list[tuple[str, str]]:
        """(name, URL) of each file that one of the given leads to."""
        return [(within(one, file), file) for file in self._files(one)]

    def _files(self, one: str) -> list[str]:
        if not is_many(one):
            return [one]
        there = [file for file in listed(one) if file.endswith(ENDINGS)]
        if not any(file.endswith(ROWS) for file in there):
            return there
        wanted = f".{self.key}.npy"
        chosen = [file for file in there if file.endswith(wanted)]
        if not chosen:
            names = {file.rsplit("/", 1)[-1].split(".")[1] for file in there} - {"rows"}
            raise ConfigError(
                f"{one} has no arrays called {self.key!r}, only {', '.join(sorted(names))}: "
                "name one of these with `key:`"
            )
        return chosen


def is_many(given: str) -> bool:
    """Whether a path means the files of a folder or pattern, not one file."""
    if _is_pattern(given):
        return True
    if storage.is_local(given):
        return storage.local_path(given).is_dir()
    # In an object store a folder is what has something in it.
    return not given.endswith(ENDINGS) and bool(storage.names(given) or storage.folders(given))


def _is_pattern(given: str) -> bool:
    return any(sign in given for sign in "*?[")


def listed(given: str) -> list[str]:
    """Sorted URLs of the files in a folder, at any depth, or of those that match a pattern."""
    pattern = given if _is_pattern(given) else storage.join(given, "**", "*")
    found = storage.glob(pattern)
    return [file for file in found if not file.rsplit("/", 1)[-1].startswith(".")]


def within(given: str, file: str) -> str:
    """The name of a file: below the folder that was given, or below a pattern's fixed part."""
    fixed = given
    for sign in "*?[":
        fixed = fixed.partition(sign)[0]
    root = given.rstrip("/") + "/" if fixed == given else fixed.rpartition("/")[0] + "/"
    return file[len(root) :] if file.startswith(root) else file.rsplit("/", 1)[-1]


def identity(given: str, named: Sequence[tuple[str, str]]) -> dict[str, str | int]:
    """What stands in a recipe in place of a path: no folder above what was given is part of it."""
    name = given.rstrip("/").rsplit("/", 1)[-1]
    if len(named) == 1 and named[0][1] == given:
        return {"file": name, "sha256": storage.sha256(given)}
    digest = hashlib.sha256()
    for inner, file in named:
        digest.update(f"{inner} {storage.sha256(file)}\n".encode())
    return {"file": name, "files": len(named), "sha256": digest.hexdigest()}


def _problems(field: str, file: str) -> list[str]:
    if not file.endswith(".npz"):
        return published.problems(field, [file])
    return [] if storage.exists(file) else [f"{field}: there is no file {file}"]


def _read_npz(file: str, key: str) -> np.ndarray:
    try:
        with np.load(io.BytesIO(storage.read(file)), allow_pickle=False) as arrays:
            if key not in arrays:
                there = ", ".join(arrays) or "nothing"
                raise ConfigError(f"{file} has no {key!r}, only {there}: name one with `key:`")
            array: np.ndarray = arrays[key]
            return array
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file} is not a .npz of arrays: {error}") from None


def _checked(file: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ConfigError(
            f"{file} holds {array.dtype} of shape {array.shape}: [N, D] floats are needed"
        )
    return array
