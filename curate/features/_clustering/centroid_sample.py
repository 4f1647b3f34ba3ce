"""The samples that centroids are learnt from: those with the smallest draws, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from curate import storage
from curate.errors import ConfigError
from curate.features import Part, Rows
from curate.features._clustering.centroid_rows import Checked
from curate.features._embeddings import embeddings

SALT = "sample"
ROWS_PER_WRITER = 1 << 15  # drawn by one task, about: 34 MB of a ViT-B/32's float16
POOL_ROWS_PER_WRITER = (50_000, 1_000_000)  # whatever share of them is drawn
AT_ONCE = 1 << 12  # rows

# By what samples are ordered: the digest of the embedding tells apart those that share a uid.
KEY = np.dtype([("draw", "<f8"), ("f0", "<u8"), ("f1", "<u8"), ("digest", "<u8")])


@dataclass(frozen=True)
class Drawn:
    """What one task, or all of them, drew."""

    count: int = 0
    width: int = 0  # 0 where nothing was drawn
    longest: float = 0.0  # length

    def __add__(self, other: Drawn) -> Drawn:
        if self.width and other.width and self.width != other.width:
            narrow, wide = sorted((self.width, other.width))
            raise ConfigError(
                f"some embeddings are {narrow} wide and others {wide}: "
                "they must come from one model"
            )
        return Drawn(
            self.count + other.count,
            max(self.width, other.width),
            max(self.longest, other.longest),
        )


def draw(rows: Rows, folder: str, column: str, wanted: int, *, directions: bool) -> None:
    """Write the embeddings with the smallest draws, and some more, to files; seal them last.

    Args:
        rows: All samples.
        folder: Where the files go.
        column: The embeddings.
        wanted: How many are needed; fewer are written where fewer can be used.
        directions: Whether a vector of length 0 cannot be used.
    """
    share = _share(wanted, rows.count)
    while True:
        storage.remove(folder)
        at_once = int(np.clip(ROWS_PER_WRITER / max(share, 1e-9), *POOL_ROWS_PER_WRITER))
        send = partial(_send, (column, share, directions), folder)
        drawn = sum(rows.gather(send, at_once), Drawn())
        if drawn.count >= wanted or share >= 1:
            break
        # Many samples have no embedding: as many more as that, in proportion.
        share = min(1.0, 1.5 * share * wanted / drawn.count) if drawn.count else 1.0
    made = {"writers": rows.gathers(at_once), **vars(drawn)}
    storage.commit_json(_seal(folder), made)


def _share(wanted: int, count: int) -> float:
    """Of all samples, so that too few are drawn once in a billion times only."""
    return min(1.0, float(wanted + 6 * wanted**0.5 + 36) / max(1, count))


def _seal(folder: str) -> str:
    return storage.join(folder, "sample.json")


def _file(folder: str, kind: str, task: int) -> str:
    return storage.join(folder, f"{kind}-{task:05d}.npy")


def drawn(folder: str) -> bool:
    """Whether all of a sample is written."""
    return storage.exists(_seal(folder))


def _send(how: tuple[str, float, bool], folder: str, task: int, parts: Iterator[Part]) -> Drawn:
    """Write the rows of some parts that are drawn, smallest draw first."""
    column, share, directions = how
    pieces, keys, total = [], [], Drawn()
    for part in parts:
        draws = part.batch.uniform(SALT)
        rows = np.flatnonzero(draws < share)
        given = embeddings(part.batch.frame, column)
        for first in range(0, len(rows), AT_ONCE):
            own = rows[first : first + AT_ONCE]
            kept, usable, found = _usable(given[own], directions=directions)
            if usable.any():
                pieces.append(kept)
                keys.append(_keys(draws, part.batch.uids, own[usable], kept))
                total += found
    if pieces:
        key = np.concatenate(keys)
        order = _order(key)
        storage.commit_array(_file(folder, "keys", task), key[order])
        storage.commit_array(_file(folder, "rows", task), np.concatenate(pieces)[order])
    return total


def _usable(given: np.ndarray, *, directions: bool) -> tuple[np.ndarray, np.ndarray, Drawn]:
    """Those of [N, D] rows that k-means can use, as float16 or float32; and [N] bool, which."""
    found = Checked.of(given)
    usable = ~(found.missing | (found.zero if directions else found.unusable))
    kept = given if given.dtype == np.float16 else found.rows
    kept = kept if usable.all() else kept[usable]
    if not len(kept):
        return kept, usable, Drawn()
    return kept, usable, Drawn(len(kept), kept.shape[1], float(found.norms[usable].max()))


def _keys(draws: np.ndarray, uids: np.ndarray, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """[M] KEY of [M] rows of a part, whose embeddings are [M, D]."""
    key = np.empty(len(rows), dtype=KEY)
    key["draw"], key["f0"], key["f1"] = draws[rows], uids["f0"][rows], uids["f1"][rows]
    key["digest"] = _digests(kept)
    return key


def _order(keys: np.ndarray) -> np.ndarray:
    """[N] places of [N] KEY, smallest first."""
    return np.lexsort([keys[name] for name in ("digest", "f1", "f0", "draw")])


def _digests(rows: np.ndarray) -> np.ndarray:
    """[N] uint64 hashes of the bytes of [N, D] float16 or float32."""
    words = np.ascontiguousarray(rows).view(np.uint16)  # [N, W]
    words = np.pad(words, ((0, 0), (0, -words.shape[1] % 4))).view(np.uint64)
    place = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (words ^ place) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * (place | np.uint64(1))
    return np.asarray(mixed.sum(axis=1, dtype=np.uint64))


@dataclass(frozen=True)
class Sample:
    """The samples that were wanted; local files are mapped."""

    pieces: Sequence[np.ndarray]  # [N_i, D] each
    first: np.ndarray  # [M, D] those of them with the smallest draws that differ, in that order
    found: int  # how many there are: fewer than were wanted where the pool has no more
    longest: float  # no row is longer


def read(folder: str, wanted: int, distinct: int) -> Sample:
    """The `wanted` samples with the smallest draws, and up to `distinct` to begin with."""
    made: dict[str, Any] = storage.read_json(_seal(folder))
    tasks = [task for task in range(made["writers"]) if storage.exists(_file(folder, "rows", task))]
    keys = [np.asarray(storage.read_array(_file(folder, "keys", task))) for task in tasks]
    whole = np.concatenate([np.empty(0, dtype=KEY), *keys])
    chosen = _order(whole)[:wanted]
    lasts = np.cumsum([len(key) for key in keys])
    owner = np.searchsorted(lasts, chosen, side="right")
    counts = np.bincount(owner, minlength=len(tasks))
    arrays = [storage.read_array(_file(folder, "rows", task)) for task in tasks]
    pieces = [array[:count] for array, count in zip(arrays, counts, strict=True) if count]
    _, firsts = np.unique(whole["digest"][chosen], return_index=True)
    begin = np.sort(firsts)[:distinct]
    first = [
        arrays[owner[place]][chosen[place] - (lasts[owner[place]] - len(keys[owner[place]]))]
        for place in begin
    ]
    table = np.stack(first) if first else np.empty((0, made["width"]), dtype=np.float32)
    return Sample(pieces, table, len(chosen), made["longest"])
