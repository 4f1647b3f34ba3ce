"""Inner products of many embeddings with many, in tiles of one size: the same bits in any place.

A product of one shape, multiplied by one thread, adds up each number in the same order wherever it
stands. So the similarity of two samples depends neither on who else is there nor on which of both
is left and which right (one kind of processor given). Torch in one thread for each core was the
fastest here: 325 GFLOP/s on 2 cores at a side of 256, where OpenBLAS had 290, and torch with both
cores in one product 275.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

SIDE = {"cpu": 256, "cuda": 2048}  # rows and columns of one product

Item = TypeVar("Item")
Result = TypeVar("Result")


def unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings at length 1, and which of them have a direction.

    Args:
        rows: [N, D] float16 or float32, finite or not.

    Returns:
        ([N, D] float32, 0 where there is no direction; [N] bool: finite, and neither 0 nor so long
        or short that float32 holds no square of it).
    """
    with torch.inference_mode():
        own = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
        made = own.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(made, dim=1, keepdim=True)  # [N, 1]
        known = torch.isfinite(length) & (length > 0)
        made /= torch.where(known, length, torch.ones_like(length))
        made[~known[:, 0]] = 0.0
        return made.numpy(), known[:, 0].numpy()


@dataclass(frozen=True)
class Loaded:
    """Some embeddings on a device, with rows of zeros up to whole tiles."""

    rows: Tensor  # [T * side, D] float32
    count: int  # of them, that are no padding
    side: int

    @property
    def tiles(self) -> int:
        """Tiles of rows."""
        return len(self.rows) // self.side

    def tile(self, number: int) -> Tensor:
        """[side, D]: one tile of rows."""
        return self.rows[number * self.side : (number + 1) * self.side]

    def inside(self, number: int) -> int:
        """Rows of a tile that are no padding."""
        return min(self.side, self.count - number * self.side)


@dataclass(frozen=True)
class Found:
    """Pairs of rows and their inner products: [P] int64, [P] int64, [P] float32."""

    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    @staticmethod
    def joined(parts: Iterable[Found]) -> Found:
        """All of them, in order."""
        nothing = np.empty(0, dtype=np.int64)
        many = [Found(nothing, nothing, np.empty(0, dtype=np.float32)), *parts]
        return Found(
            np.concatenate([part.left for part in many]),
            np.concatenate([part.right for part in many]),
            np.concatenate([part.value for part in many]),
        )


class Products:
    """A device that multiplies tiles: a GPU, or as many threads as torch would use.

    For one thread: what it is asked is done when it returns.
    """

    def __init__(self, device: str = "auto") -> None:
        """Choose a device: "auto" (a GPU where there is one), "cpu", "cuda:0", ..."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self.side = SIDE[self._device.type]
        threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        self._threads = ThreadPoolExecutor(threads, "products")
        ready = Barrier(threads)
        list(self._threads.map(_alone, [ready] * threads))
        # A thread that says how many threads it wants says so for all that start after it.
        torch.set_num_threads(threads if self._device.type == "cpu" else torch.get_num_threads())

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in order, of work that multiplies in one thread; all items are taken at once.

        The work must not call `map` or what calls it: `nearest`, `at_least`.
        """
        return self._threads.map(work, items)

    def load(self, rows: np.ndarray) -> Loaded:
        """Bring [N, D] finite float32 to the device."""
        tiles = -(-len(rows) // self.side)
        padded = torch.zeros((tiles * self.side, rows.shape[1]), device=self._device)
        padded[: len(rows)] = torch.from_numpy(rows)
        return Loaded(padded, len(rows), self.side)

    def at_least(self, left: Loaded, right: Loaded, floor: float) -> Found:
        """All pairs of a left and a right row whose product is `floor` or more."""
        return Found.joined(self.map(partial(row_at_least, left, right, floor), range(left.tiles)))

    def nearest(self, left: Loaded, right: Loaded) -> tuple[np.ndarray, np.ndarray]:
        """For each left row the right row of the largest product, the first of equals.

        Returns:
            ([N] int64 rows, [N] float32 products); `right` must not be empty.
        """
        found = list(self.map(partial(_row_nearest, left, right), range(left.tiles)))
        rows = [np.empty(0, dtype=np.int64), *(row for row, _ in found)]
        values = [np.empty(0, dtype=np.float32), *(value for _, value in found)]
        return np.concatenate(rows), np.concatenate(values)


def _alone(ready: Barrier) -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # only now is it this thread's number, whatever is set elsewhere later
    ready.wait()  # so that every thread of the pool does this once


def product(left: Loaded, i: int, right: Loaded, j: int) -> Tensor:
    """Products of the rows of a left and a right tile, padding left out."""
    with torch.inference_mode():
        # [side, D] @ [D, side] -> [side, side]
        made = torch.mm(left.tile(i), right.tile(j).T)
        if i < left.tiles - 1 and j < right.tiles - 1:
            return made
        return made[: left.inside(i), : right.inside(j)]


def row_at_least(left: Loaded, right: Loaded, floor: float, i: int) -> Found:
    """As `Products.at_least`, for one tile of left rows, in this thread."""
    return _joined_row(left, right, floor, i, range(right.tiles))


def triangle_at_least(rows: Loaded, floor: float, i: int) -> Found:
    """Pairs of a row of one tile with a later row, in this thread; left is before right."""
    found = _joined_row(rows, rows, floor, i, range(i, rows.tiles))
    upper = found.left < found.right
    return Found(found.left[upper], found.right[upper], found.value[upper])


def _joined_row(left: Loaded, right: Loaded, floor: float, i: int, tiles: range) -> Found:
    least = np.float32(floor)
    above = _above_cuda if left.rows.is_cuda else _above
    parts = []
    for j in tiles:
        made = product(left, i, right, j)
        places, values = above(made, least)
        if len(places):
            one, other = np.divmod(places, made.shape[1])
            parts.append(Found(one + i * left.side, other + j * right.side, values))
    return Found.joined(parts)


def _above(made: Tensor, least: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Places in a product, flat, of what is `least` or more, and those values."""
    here = made.numpy().reshape(-1)
    places = np.flatnonzero(here >= least)  # ten times as fast as torch's
    return places, here[places]


def _above_cuda(made: Tensor, least: np.float32) -> tuple[np.ndarray, np.ndarray]:
    here = made.flatten()
    places = torch.nonzero(here >= float(least))[:, 0]
    return places.cpu().numpy(), here[places].cpu().numpy()


def _row_nearest(left: Loaded, right: Loaded, i: int) -> tuple[np.ndarray, np.ndarray]:
    best = torch.full((left.inside(i),), -torch.inf, device=left.rows.device)
    row = torch.zeros(left.inside(i), dtype=torch.int64, device=left.rows.device)
    with torch.inference_mode():
        for j in range(right.tiles):
            value, place = _first_largest(product(left, i, right, j))
            row = torch.where(value > best, place + j * right.side, row)
            best = torch.maximum(best, value)
    return row.cpu().numpy(), best.cpu().numpy()


def _first_largest(products: Tensor) -> tuple[Tensor, Tensor]:
    """Of [R, C]: each row's largest value, and its place; the first of equals."""
    place = torch.argmax(products, dim=1)
    return products.gather(1, place[:, None])[:, 0], place
