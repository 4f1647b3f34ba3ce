"""References in memory, and the nearest of them: exact, by cosine or by Hamming distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError
from curate.features import Columns, Picture
from curate.features._embeddings import NO_EMBEDDING, embeddings
from curate.features._given.array_files import ArrayFiles, Part
from curate.features._given.hash_files import HashFiles
from curate.features._given.reference_pictures import (
    PictureFiles,
    feature_of,
    mirrored,
    score_pictures,
)
from curate.features._products import Loaded, Products, unit
from curate.parquet import read_parquet
from filters import column

if TYPE_CHECKING:
    from curate.features.references import References

HASHES = 32_768  # references of one comparison: what it needs stays in a core's cache
NO_HASH = "no_hash"  # the error class of a sample without a hash
NAMES = ("name", "uid", "key", "url", "image_path", "file_name")  # columns that name rows


@dataclass(frozen=True)
class ReferenceSet:
    """All references in order."""

    names: pl.Series  # [R] string
    plain: np.ndarray  # [R, D] floats, or [R] uint64 hashes
    mirrored: np.ndarray | None  # the same of the mirrored pictures, where known


@dataclass(frozen=True)
class Nearest:
    """Of N samples the nearest reference."""

    row: np.ndarray  # [N] int64
    value: np.ndarray  # [N] float32 cosine, or uint8 distance
    mirrored: np.ndarray | None  # [N] bool


class CosineIndex:
    """Embeddings on one device."""

    def __init__(self, references: ReferenceSet, device: str) -> None:
        self._products = Products(device)
        self.width = references.plain.shape[1]
        self._plain = self._load(references.plain, references.names)
        self._mirrored: Loaded | None = None
        if references.mirrored is not None:
            self._mirrored = self._load(references.mirrored, references.names)

    def _load(self, vectors: np.ndarray, names: pl.Series) -> Loaded:
        rows, known = unit(vectors)
        if not known.all():
            first = names[int(np.flatnonzero(~known)[0])]
            raise ConfigError(f"the reference {first} has no direction: it is 0 or not finite")
        return self._products.load(rows)

    def nearest(self, own: np.ndarray, flipped: np.ndarray | None) -> Nearest:
        """Of [N, D] embeddings with a direction; `flipped` may lack some, as NaN."""
        left = self._products.load(unit(own)[0])
        row, value = self._products.nearest(left, self._plain)
        if flipped is not None:
            rows, known = unit(flipped)
            other, near = self._products.nearest(self._products.load(rows), self._plain)
            near[~known] = -np.inf
        elif self._mirrored is not None:
            other, near = self._products.nearest(left, self._mirrored)
        else:
            return Nearest(row, value.clip(-1, 1), None)
        better = near > value
        value = np.where(better, near, value).clip(-1, 1)
        return Nearest(np.where(better, other, row), value, better)


class HammingIndex:
    """Hashes of 64 bits."""

    width = 64

    def __init__(self, references: ReferenceSet) -> None:
        self._plain, self._mirrored = references.plain, references.mirrored

    def nearest(self, own: np.ndarray, flipped: np.ndarray | None) -> Nearest:
        """Of [N] uint64 hashes."""
        row, value = _nearest_hash(self._plain, own)
        if flipped is not None:
            other, near = _nearest_hash(self._plain, flipped)
        elif self._mirrored is not None:
            other, near = _nearest_hash(self._mirrored, own)
        else:
            return Nearest(row, value, None)
        better = near < value
        return Nearest(np.where(better, other, row), np.where(better, near, value), better)


def _nearest_hash(references: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([N] int64 rows of the nearest, the first of equals; [N] uint8 distances) of [N] hashes."""
    row = np.zeros(len(hashes), dtype=np.int64)
    value = np.full(len(hashes), 65, dtype=np.uint8)
    differ = np.empty(HASHES, dtype=np.uint64)
    apart = np.empty(HASHES, dtype=np.uint8)
    for start in range(0, len(references), HASHES):
        tile = references[start : start + HASHES]
        for number, one in enumerate(hashes):
            np.bitwise_xor(tile, one, out=differ[: len(tile)])
            np.bitwise_count(differ[: len(tile)], out=apart[: len(tile)])
            place = apart[: len(tile)].argmin()
            if apart[place] < value[number]:
                row[number], value[number] = start + place, apart[place]
    return row, value


class ReferencesScorer:
    """References, and which of them is nearest."""

    batch = 8_192

    def __init__(self, recipe: References, references: ReferenceSet, device: str) -> None:
        self._recipe, self._names = recipe, references.names
        self._hashes = recipe.measure() == "hamming"
        self._index: CosineIndex | HammingIndex
        self._index = HammingIndex(references) if self._hashes else CosineIndex(references, device)

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("columns are enough: no picture is needed")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        """The nearest references of N samples; N may be 0."""
        del prepared
        read = self._read_hashes if self._hashes else self._read_embeddings
        own, known = read(frame, self._recipe.of)
        flipped = None
        if self._recipe.mirrored is not None:
            other, there = read(frame, self._recipe.mirrored)
            if self._hashes:
                known &= there
            flipped = other[known]
        rows = np.flatnonzero(known)
        near = pl.Series([None] * len(own), dtype=pl.UInt32 if self._hashes else pl.Float32)
        reference = pl.Series([None] * len(own), dtype=pl.String)
        mirror = pl.Series([None] * len(own), dtype=pl.Boolean)
        if len(rows):
            found = self._index.nearest(own[known], flipped)
            near = near.scatter(rows, found.value)
            reference = reference.scatter(rows, self._names.gather(found.row))
            if found.mirrored is not None:
                mirror = mirror.scatter(rows, found.mirrored)
        scalars = {
            "distance" if self._hashes else "similarity": near,
            "reference": reference,
            "mirrored": mirror,
        }
        kind = NO_HASH if self._hashes else NO_EMBEDDING
        return Columns(scalars, errors=[None if one else kind for one in known.tolist()])

    def _read_embeddings(self, frame: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
        """([N, D], [N] bool: who has one that has a direction)."""
        found = embeddings(frame, name)
        known = unit(found)[1] if len(found) else np.zeros(0, dtype=bool)
        if known.any() and found.shape[1] != self._index.width:
            raise ConfigError(
                f"{name} is {found.shape[1]} wide and the references are {self._index.width} wide: "
                "they must come from one model"
            )
        return found, known

    def _read_hashes(self, frame: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
        """([N] uint64, [N] bool: who has one)."""
        found = frame.select(column(name)).to_series()
        if found.dtype not in (pl.UInt64, pl.Null):
            raise ConfigError(f"hashes are needed, and {name} is of type {found.dtype}")
        known = found.is_not_null().to_numpy()
        return found.cast(pl.UInt64).fill_null(0).to_numpy(), known


# --- where the references come from


def open_scorer(recipe: References, device: str) -> ReferencesScorer:
    """Read the references, or score their pictures, and bring them to a device.

    Raises:
        ConfigError: there are none, or one cannot be used.
    """
    pictures = recipe.pictures_given()
    found = _from_arrays(recipe) if pictures is None else _from_pictures(recipe, pictures, device)
    if not len(found.names):
        given = ", ".join([recipe.files] if isinstance(recipe.files, str) else recipe.files)
        raise ConfigError(f"files: there are no references in {given}")
    return ReferencesScorer(recipe, found, device)


def _from_pictures(recipe: References, files: PictureFiles, device: str) -> ReferenceSet:
    assert recipe.by is not None  # `problems` demands it
    scorer = feature_of(recipe.by).open(device)
    ways = [Picture] if recipe.mirrored else [Picture, mirrored]
    names: list[str] = []
    values: list[list[np.ndarray]] = []
    for way in ways:
        scored = list(score_pictures(scorer, files, way))
        names = [name for batch, _ in scored for name in batch]
        values.append([_values(columns, recipe.field(), batch) for batch, columns in scored])
    plain, *flipped = [np.concatenate(parts) if parts else np.empty(0) for parts in values]
    return ReferenceSet(pl.Series(names, dtype=pl.String), plain, flipped[0] if flipped else None)


def _values(columns: Columns, field: str, names: Sequence[str]) -> np.ndarray:
    """[N, D] embeddings or [N] hashes of a batch of pictures."""
    if field in columns.arrays:
        return columns.arrays[field]
    found = pl.Series(columns.scalars[field], dtype=pl.UInt64)
    if found.null_count():
        raise ConfigError(f"the reference {names[found.is_null().arg_max() or 0]} has no hash")
    return found.to_numpy()


def _from_arrays(recipe: References) -> ReferenceSet:
    files = recipe.arrays_given()
    parts = list(files.read())
    width = {part.values.shape[1]: part.name for part in parts if part.values.ndim > 1}
    if len(width) > 1:
        listed = ", ".join(f"{name}: {number}" for number, name in width.items())
        raise ConfigError(f"references of different widths cannot come from one model ({listed})")
    plain = np.concatenate([part.values for part in parts]) if parts else np.empty(0)
    names = pl.concat([pl.Series([], dtype=pl.String), *map(_names, parts)])
    flipped = None if recipe.mirrored else _mirrored_beside(files, parts)
    return ReferenceSet(names, plain, flipped)


def _mirrored_beside(files: ArrayFiles | HashFiles, parts: Sequence[Part]) -> np.ndarray | None:
    """[R, D] or [R] of the mirrored pictures, where a step's folder has them too."""
    beside = files.mirrored()
    if beside is None:
        return None
    found = list(beside.read())
    rows = [part.rows.tolist() for part in parts]
    if [part.rows.tolist() for part in found] != rows:
        raise ConfigError("files: of some references only one of picture and mirrored is there")
    return np.concatenate([part.values for part in found])


def _names(part: Part) -> pl.Series:
    """[N] of a file: what the text or parquet beside it calls its rows, else file:row."""
    stem = part.file.rpartition(".")[0]
    if storage.exists(f"{stem}.txt"):
        lines = storage.read(f"{stem}.txt").decode().splitlines()
        named = pl.Series(lines, dtype=pl.String)
    elif part.file.endswith(".parquet") or storage.exists(f"{stem}.parquet"):
        named = _name_column(f"{stem}.parquet")
    else:
        named = pl.Series([], dtype=pl.String)
    if not len(named):
        return pl.select(pl.format("{}:{}", pl.lit(part.name), pl.Series(part.rows))).to_series()
    if len(part.rows) and part.rows.max() >= len(named):
        raise ConfigError(f"{stem} names {len(named)} rows, and {part.file} has more")
    return named.gather(part.rows)


def _name_column(file: str) -> pl.Series:
    frame = read_parquet(file)
    name = next((name for name in NAMES if name in frame.columns), None)
    return frame[name].cast(pl.String) if name else pl.Series([], dtype=pl.String)
