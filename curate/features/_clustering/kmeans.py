"""k-means by Lloyd's iterations: the same centroids for any order of the rows, bit for bit.

Sums are of whole numbers held in float64 (rows in the smallest unit with which no sum can pass
2^53), so adding is exact, in any order and by any number of threads; only rows that change their
cluster are moved from one sum to another. Products run at the rate of the best matrix product there
is, which FAISS's own k-means does not reach.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
import torch

from curate.features._clustering.centroid_rows import Points, lengths, unit
from curate.features._clustering.centroid_search import Ranking, Search

BITS = 24  # of a distance in a sum: 2^29 of them can be added exactly
SPLIT = 1 / 1024  # by which the halves of a cluster are moved apart, as in FAISS


@dataclass(frozen=True)
class Method:
    """What kind of k-means."""

    iterations: int
    spherical: bool  # whether centroids are made of length 1
    longest: float  # no row is longer
    device: str = "auto"

    @property
    def ranking(self) -> Ranking:
        """By what the nearest centroid is found."""
        return "inner_product" if self.spherical else "l2"


@dataclass(frozen=True)
class State:
    """Where k-means stands after some iterations."""

    centroids: np.ndarray  # [K, D] float32
    sizes: np.ndarray  # [K] int64: rows of each cluster in the last iteration
    inertia: tuple[float, ...] = ()  # of each iteration: mean squared distance to the centroid
    splits: int = 0  # empty clusters that were given half of another, in all iterations
    settled: bool = False  # whether another iteration changes nothing

    @staticmethod
    def start(centroids: np.ndarray) -> State:
        """Before the first iteration."""
        return State(centroids, np.zeros(len(centroids), dtype=np.int64))


def _nothing(state: State) -> None:
    pass


def kmeans(
    points: Points, method: Method, start: State, after: Callable[[State], None] = _nothing
) -> State:
    """Go on from a state until all iterations are done, or nothing changes any more.

    An empty cluster is given half of the cluster whose squared distances have the largest sum; but
    not in the last iteration, for the halves would not be what is nearest to their rows.

    Args:
        points: The rows, at least one for each centroid.
        method: What kind.
        start: From where; what comes of it is the same wherever in between it went on.
        after: Called with the state after each iteration.
    """
    state = start
    clusters = _Clusters(points, method, state.centroids)
    while len(state.inertia) < method.iterations and not state.settled:
        inertia = clusters.assign(state.centroids)
        centroids = clusters.means(state.centroids)
        last = len(state.inertia) + 1 == method.iterations
        splits = 0 if last else clusters.split_empty(centroids)
        state = State(
            centroids,
            clusters.sizes.copy(),
            (*state.inertia, inertia),
            state.splits + splits,
            settled=centroids.tobytes() == state.centroids.tobytes(),
        )
        after(state)
    return state


class _Clusters:
    """Who is in which cluster, and each cluster's sum: kept from one iteration to the next."""

    def __init__(self, points: Points, method: Method, centroids: np.ndarray) -> None:
        self._points = points
        self._method = method
        self._search = Search(centroids, method.ranking, method.device)
        self._lock = Lock()
        self._labels = np.full(points.count, -1, dtype=np.int32)  # [N], -1 where not known yet
        self._sums = torch.zeros(centroids.shape, dtype=torch.float64)  # [K, D]
        self.sizes = np.zeros(len(centroids), dtype=np.int64)
        self._scatter = np.zeros(len(centroids))  # [K] squared distances in parts of `_farthest`
        reach = max(method.longest, 1.0 if method.spherical else 1e-18)
        reach = 2.0 ** float(np.ceil(np.log2(reach)))
        self._farthest = 4 * reach**2  # no squared distance is above it
        self._unit = reach * 2.0 ** (
            points.count.bit_length() - 53
        )  # of the sums: no row passes it

    def assign(self, centroids: np.ndarray) -> float:
        """Give every row its nearest centroid; the mean squared distance."""
        self._search.replace(centroids, self._method.ranking)
        self._scatter[:] = 0
        tiles = range(-(-self._points.count // self._search.rows))
        for _ in self._search.map(self._assign_tile, tiles):
            pass
        total = float(self._scatter.sum()) * self._farthest / 2**BITS
        return float(total / max(1, self._points.count))

    def _assign_tile(self, number: int) -> None:
        own, tile = self._points.tile(number, self._search.rows)
        numbers, scores = self._search.nearest(tile, 1)
        count = own.stop - own.start
        rows, now, score = tile.numpy()[:count], numbers[:count, 0], scores[:count, 0]
        squares = 1.0 if self._points.directions else np.einsum("nd,nd->n", rows, rows)
        length = 1.0 if self._method.spherical else 0.0  # |c|^2 is in the scores of "l2" already
        distance = squares + length - 2 * score.astype(np.float64)
        steps = np.rint(np.clip(distance / self._farthest, 0, 1) * 2**BITS)
        before = self._labels[own]
        changed = np.flatnonzero(before != now)
        moving = torch.from_numpy(rows[changed]).double().div_(self._unit).round_()
        with self._lock:
            np.add.at(self._scatter, now, steps)
            self._move(moving, before[changed], now[changed])
        self._labels[own] = now

    def _move(self, rows: torch.Tensor, before: np.ndarray, now: np.ndarray) -> None:
        """Take rows out of the clusters they leave, and add them to their new ones."""
        known = before >= 0
        left = before[known].astype(np.int64)
        leaving = rows if known.all() else rows[torch.from_numpy(known)]
        self._sums.index_add_(0, torch.from_numpy(now), rows)
        self._sums.index_add_(0, torch.from_numpy(left), leaving, alpha=-1)
        np.add.at(self.sizes, now, 1)
        np.subtract.at(self.sizes, left, 1)

    def means(self, old: np.ndarray) -> np.ndarray:
        """[K, D] float32 new centroids; the old one where a cluster is empty or cancels out."""
        scale = self._unit / np.maximum(self.sizes, 1)
        means: np.ndarray = (self._sums.numpy() * scale[:, None]).astype(np.float32)
        stale = self.sizes == 0
        if self._method.spherical:
            norms = lengths(means)
            stale |= norms < self._unit
            means = unit(means, norms)
        means[stale] = old[stale]
        return means

    def split_empty(self, centroids: np.ndarray) -> int:
        """Give empty clusters halves of those with the most scatter, in place; how many."""
        empty = np.flatnonzero(self.sizes == 0)
        # What is below is the error of a product, as in a cluster of copies.
        large = np.flatnonzero((self.sizes > 1) & (self._scatter > 4.0 * self.sizes))
        large = large if len(empty) else empty
        heap = [(-self._scatter[number], int(number)) for number in large]
        heapq.heapify(heap)
        signs = np.where(np.arange(centroids.shape[1]) % 2, -SPLIT, SPLIT).astype(np.float32)
        splits = 0
        for number in empty.tolist():
            if not heap:
                break
            scatter, source = heapq.heappop(heap)
            halves = np.stack([centroids[source] * (1 + signs), centroids[source] * (1 - signs)])
            if self._method.spherical:
                halves = unit(halves, lengths(halves))
            centroids[source], centroids[number] = halves
            heapq.heappush(heap, (scatter / 2, source))
            heapq.heappush(heap, (scatter / 2, number))
            splits += 1
        return splits


def nearest(points: Points, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """[N] int64 numbers of the nearest centroids, and [N] float32 scores."""
    numbers = np.empty(points.count, dtype=np.int64)
    scores = np.empty(points.count, dtype=np.float32)
    tiles = range(-(-points.count // search.rows))
    for own, found, score in search.map(partial(_nearest_in_tile, points, search), tiles):
        numbers[own], scores[own] = found, score
    return numbers, scores


def _nearest_in_tile(
    points: Points, search: Search, number: int
) -> tuple[slice, np.ndarray, np.ndarray]:
    own, tile = points.tile(number, search.rows)
    numbers, scores = search.nearest(tile, 1)
    count = own.stop - own.start
    return own, numbers[:count, 0], scores[:count, 0]
