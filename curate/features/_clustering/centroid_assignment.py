"""The nearest centroids of every sample, as columns: the same numbers for any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from curate.errors import ConfigError
from curate.features import Columns, Part
from curate.features._clustering.centroid_rows import Checked, lengths, unit
from curate.features._clustering.centroid_search import Nearest, Search
from curate.features._embeddings import NO_EMBEDDING, embeddings

if TYPE_CHECKING:
    from curate.features.clusters import Kind

ZERO_VECTOR = "zero_vector"  # the error class of an embedding that has no direction
NOT_FINITE = "not_finite"  # of one so long that no float32 is sure to hold a product
NOT_FITTED = "not_fitted"  # where there was no sample to find centroids with


@dataclass(frozen=True)
class Assignment:
    """Centroids, and what is to be told of those that are near."""

    centroids: np.ndarray  # [K, D] float32
    kind: Kind
    column: str  # the embeddings
    nearest: int  # how many are listed
    parents: Sequence[np.ndarray]  # of each level but the highest

    @cached_property
    def search(self) -> Search:
        """The centroids on a device, as they are compared."""
        compared = np.array(self.centroids)
        if self.kind.assign == "cosine":
            compared = unit(compared, lengths(compared))
        return Search(compared, "l2" if self.kind.assign == "l2" else "inner_product", "auto")

    @property
    def many(self) -> int:
        """How many centroids are looked for."""
        return max(2, self.nearest)


def assign(assignment: Assignment, part: Part) -> Columns:
    """The columns of a part's N samples."""
    given = embeddings(part.batch.frame, assignment.column)  # [N, D]
    count, many = len(given), assignment.many
    numbers = np.full((count, many), -1, dtype=np.int64)
    distances = np.full((count, 2), np.nan, dtype=np.float32)
    errors = np.full(count, None, dtype=object)
    if not _comparable(assignment, given):
        errors[:] = np.where(Checked.of(given).missing, NO_EMBEDDING, NOT_FITTED)
        return Columns(_scalars(assignment, numbers, distances), errors=errors.tolist())
    tiles = range(-(-count // assignment.search.rows))
    work = partial(_assign_tile, assignment, given)
    for own, found, away, reasons in assignment.search.map(work, tiles):
        numbers[own], distances[own] = found, away
        for reason, mask in reasons:
            errors[own][mask] = reason
    failed = (numbers[:, 0] < 0).any()
    return Columns(
        _scalars(assignment, numbers, distances), errors=errors.tolist() if failed else ()
    )


def _comparable(assignment: Assignment, given: np.ndarray) -> bool:
    """Whether there are centroids, and they are as wide as the embeddings, if there are any."""
    width, wanted = given.shape[1], assignment.centroids.shape[1]
    if not len(assignment.centroids):
        return False
    if width != wanted and not Checked.of(given).missing.all():
        raise ConfigError(
            f"{assignment.column} is {width} wide and the centroids are {wanted} wide: "
            "they must come from one model"
        )
    return bool(width == wanted)


Reasons = list[tuple[str, np.ndarray]]  # error class, [n] bool


def _assign_tile(
    assignment: Assignment, given: np.ndarray, number: int
) -> tuple[slice, np.ndarray, np.ndarray, Reasons]:
    """(rows of a tile, [n, m] numbers, [n, 2] distances, who has none and why)."""
    kind, side = assignment.kind, assignment.search.rows
    own = slice(number * side, min((number + 1) * side, len(given)))
    tile = torch.zeros((side, given.shape[1]))
    rows = tile.numpy()[: own.stop - own.start]
    found = Checked.into(rows, given[own])
    reasons: Reasons = [(NO_EMBEDDING, found.missing)]
    reasons.append((ZERO_VECTOR, found.zero) if kind.directions else (NOT_FINITE, found.unusable))
    wrong = reasons[0][1] | reasons[1][1]
    rows[wrong] = 0
    if kind.directions:
        unit(rows, found.norms)
    numbers, scores = (
        array[: len(rows)] for array in assignment.search.nearest(tile, assignment.many)
    )
    if kind.assign == "l2":
        numbers, distances = _euclidean(assignment.centroids, rows, numbers)
    elif kind.assign == "cosine":
        distances = np.clip(1 - scores[:, :2], 0, 2)
    else:
        distances = -scores[:, :2]
    numbers[wrong] = -1
    return own, numbers, np.where(numbers[:, :2] < 0, np.float32(np.nan), distances), reasons


def _euclidean(centroids: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> Nearest:
    """[n, m] numbers and [n, 2] distances to the first two, which scores tell less exactly."""
    distances = np.full((len(rows), 2), np.inf, dtype=np.float32)
    for place in range(2):
        there = numbers[:, place] >= 0
        apart = rows[there] - centroids[numbers[there, place]]
        distances[there, place] = lengths(apart)
    first, second = numbers[:, 0].copy(), numbers[:, 1].copy()
    swap = (distances[:, 1] < distances[:, 0]) & (second >= 0)
    swap |= (distances[:, 1] == distances[:, 0]) & (second >= 0) & (second < first)
    numbers = numbers.copy()
    numbers[swap, 0], numbers[swap, 1] = second[swap], first[swap]
    distances[swap] = distances[swap][:, ::-1]
    return numbers, distances


def _scalars(assignment: Assignment, numbers: np.ndarray, distances: np.ndarray) -> dict[str, Any]:
    """{field: [N]} of [N, m] numbers and [N, 2] distances; null where there is none."""
    first, second = (_numbers(numbers[:, place]) for place in range(2))
    scalars: dict[str, Any] = {
        "cluster": first,
        "distance": distances[:, 0],
        "second": second,
        "second_distance": distances[:, 1],
    }
    if assignment.nearest:
        listed = np.minimum(assignment.nearest, max(1, len(assignment.centroids)))
        table = numbers[:, :listed].clip(min=0).astype(np.uint32)
        lists = pl.Series(table, dtype=pl.Array(pl.UInt32, int(listed)))
        scalars["nearest"] = lists.arr.to_list().set(pl.Series(numbers[:, 0] < 0), None)
    known, level = numbers[:, 0] >= 0, numbers[:, 0]
    for place, parents in enumerate(assignment.parents, 2):
        above = np.full(len(level), -1, dtype=np.int64)
        above[known] = parents[level[known]]
        level = above
        scalars[f"level{place}"] = _numbers(level)
    return scalars


def _numbers(found: np.ndarray) -> pl.Series:
    """[N] UInt32 of [N] int64, null where negative."""
    series = pl.Series(found.clip(min=0), dtype=pl.UInt32)
    return series.set(pl.Series(found < 0), None)
