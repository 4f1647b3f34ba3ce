"""The nearest of many centroids, in products of one fixed size: the same numbers for any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from curate.features._products import Products

Ranking = Literal["inner_product", "l2"]
Nearest = tuple[np.ndarray, np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")

ROWS = {"cpu": 1_024, "cuda": 16_384}  # of one product: always as many, so that no number changes
CENTROIDS = {"cpu": 4_096, "cuda": 32_768}  # of one product: 16 MB, or 2 GB, of float32


class Search:
    """Centroids on one device: a GPU, or the CPU's cores, each with a tile of its own."""

    def __init__(self, centroids: np.ndarray, ranking: Ranking, device: str) -> None:
        """Bring [K, D] centroids to a device: "auto", "cpu", "cuda:0", ..."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._products = Products(device)
        self.rows = ROWS[self._device.type]
        self._step = CENTROIDS[self._device.type]
        self.replace(centroids, ranking)

    def replace(self, centroids: np.ndarray, ranking: Ranking) -> None:
        """Search among other centroids from now on."""
        self.count, self.ranking = len(centroids), ranking
        whole = torch.from_numpy(np.array(centroids, dtype=np.float32, order="C"))
        squares = torch.linalg.vector_norm(whole, dim=1, dtype=torch.float64) ** 2
        offsets = -squares.float() / 2 if ranking == "l2" else torch.zeros(0)
        self._tiles = [tile.clone() for tile in torch.split(whole.to(self._device), self._step)]
        self._offsets = torch.split(offsets.to(self._device), self._step)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in order, of work that calls `nearest`, as many at once as the device likes."""
        return self._products.map(work, items)

    def nearest(self, tile: Tensor, many: int) -> Nearest:
        """The centroids nearest to each row of a tile, nearest first.

        Args:
            tile: [rows, D] float32, finite: always of `rows` rows, padded with anything finite.
            many: How many, m.

        Returns:
            [rows, m] int64 numbers, -1 where there are fewer centroids, and [rows, m] float32
            scores: the inner product x . c; of "l2" that less |c|^2 / 2, so that
            |x - c|^2 = |x|^2 - 2 score. Of equals the smaller number comes first.
        """
        best = np.empty((len(tile), 0), np.int64), np.empty((len(tile), 0), np.float32)
        with torch.inference_mode():
            rows = tile.to(self._device)
            for index, centroids in enumerate(self._tiles):
                scores = torch.mm(rows, centroids.T)  # [R, D] @ [D, C] -> [R, C]
                if len(self._offsets[0]):
                    scores += self._offsets[index]
                largest = _largest_by_torch if scores.is_cuda else _largest
                numbers, values = largest(scores, min(many, len(centroids)))
                best = _merged(best, (numbers + index * self._step, values), many)
        missing = ((0, 0), (0, many - best[0].shape[1]))
        numbers = np.pad(best[0], missing, constant_values=-1)
        return numbers, np.pad(best[1], missing, constant_values=-np.inf)


def _largest(products: Tensor, many: int) -> Nearest:
    """Places and values [R, m] of each row's largest of [R, C], which is overwritten."""
    scores = products.numpy()  # whose argmax takes a tenth of the time of torch's
    rows = np.arange(len(scores))
    places = np.empty((len(scores), many), dtype=np.int64)
    values = np.empty((len(scores), many), dtype=np.float32)
    for rank in range(many):
        places[:, rank] = scores.argmax(axis=1)  # the first of equals
        values[:, rank] = scores[rows, places[:, rank]]
        if rank + 1 < many:
            scores[rows, places[:, rank]] = -np.inf
    return places, values


def _largest_by_torch(scores: Tensor, many: int) -> Nearest:
    """As `_largest`, where the products are: only the best come back."""
    places, values = [], []
    for _ in range(many):
        place = torch.argmax(scores, dim=1, keepdim=True)  # the first of equals
        places.append(place)
        values.append(scores.gather(1, place))
        scores.scatter_(1, place, -torch.inf)
    return torch.cat(places, dim=1).cpu().numpy(), torch.cat(values, dim=1).cpu().numpy()


def _merged(before: Nearest, after: Nearest, many: int) -> Nearest:
    """The best of two lists [R, m]; all numbers of the first are smaller."""
    if not before[0].shape[1]:
        return after
    numbers, values = (np.concatenate(pair, axis=1) for pair in zip(before, after, strict=True))
    order = np.argsort(-values, axis=1, kind="stable")[:, :many]
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(values, order, axis=1)
