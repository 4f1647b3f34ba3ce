"""Hierarchical k-means with resampling (2405.15613): clusters of centroids, level by level.

Plain k-means gives dense regions more than their share of centroids; k-means over centroids, again
over those few of each cluster that are closest to its centre, spreads them more evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from curate.features._clustering.centroid_rows import Points, lengths
from curate.features._clustering.centroid_search import Search
from curate.features._clustering.kmeans import Method, State, kmeans, nearest

ROUNDS = 64  # in which the rows to begin with are drawn
NOISE = 1e-6  # of the largest square: a smaller distance is the error of a product


@dataclass(frozen=True)
class Level:
    """One level above another, or above the finest."""

    centroids: np.ndarray  # [K, D] float32
    parents: np.ndarray  # [K of the level below] int64: the centroid of this level


@dataclass(frozen=True)
class Resampling:
    """How often k-means is run again, over how many centroids of each cluster."""

    steps: int = 0  # 0: not at all
    points: int | None = None  # None: half of the mean size of a cluster


def above(
    below: np.ndarray, count: int, method: Method, resampling: Resampling, *, directions: bool
) -> Level:
    """Clusters of [N, D] centroids: `count` of them, or as many as there are different ones.

    Args:
        below: The centroids of the level below.
        count: Centroids of this level.
        method: What kind of k-means.
        resampling: Whether k-means is run again.
        directions: Whether centroids count as of length 1.
    """
    if not len(below):
        return Level(below, np.empty(0, dtype=np.int64))
    if method.spherical or directions:
        method = replace(method, longest=1.0)
    search = Search(below[:1], method.ranking, method.device)
    everything = Points([below], directions)
    begin = _begun(everything, search, count, 0)
    centroids = kmeans(everything, method, State.start(begin)).centroids
    for step in range(resampling.steps):
        search.replace(centroids, method.ranking)
        chosen = _closest(everything, search, resampling.points)
        subset = Points([below[chosen]], directions)
        begin = _begun(subset, search, len(centroids), step + 1)
        centroids = kmeans(subset, method, State.start(begin)).centroids
    search.replace(centroids, method.ranking)
    parents, _ = nearest(everything, search)
    return Level(centroids, parents)


def _begun(points: Points, search: Search, count: int, step: int) -> np.ndarray:
    """[K, D] rows to begin with, K at most `count`, no two the same; which ones, `step` decides.

    As k-means++ (Arthur and Vassilvitskii 2007), a row is taken with a chance in proportion to its
    squared distance to the nearest of those that were taken; but some at once, in 64 rounds.
    """
    _, whole = points.tile(0, points.count)
    rows = whole.numpy()
    squares = lengths(rows) ** 2
    rng = np.random.default_rng(step)
    chosen = [int(rng.integers(len(rows)))]
    fresh, apart = list(chosen), np.full(len(rows), np.inf)
    at_once = -(-count // ROUNDS)
    while len(chosen) < count:
        search.replace(rows[fresh], "l2")
        _, scores = nearest(points, search)
        apart = np.minimum(apart, squares - 2 * scores.astype(np.float64))
        apart[apart < NOISE * squares.max()] = 0  # a copy of one that was taken
        with np.errstate(divide="ignore"):
            order = np.argsort(rng.exponential(size=len(rows)) / apart, kind="stable")
        fresh = order[: min(at_once, count - len(chosen), int((apart > 0).sum()))].tolist()
        if not fresh:
            break
        chosen += fresh
    return np.array(rows[chosen])


def _closest(points: Points, search: Search, wanted: int | None) -> np.ndarray:
    """[M] int64, ascending: the rows of each cluster that are closest to its centroid.

    More of each where there would be fewer in all than centroids; ties go to the smaller number.
    """
    labels, scores = nearest(points, search)
    distances = -scores.astype(np.float64)
    if search.ranking == "l2":
        (rows,) = points.pieces
        distances += lengths(rows) ** 2 / 2
    order = np.lexsort((np.arange(len(labels)), distances, labels))
    sizes = np.bincount(labels, minlength=search.count)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    least = wanted or max(1, round(len(labels) / (2 * search.count)))
    while np.minimum(sizes, least).sum() < search.count:
        least += 1
    return np.flatnonzero(rank < least)
