"""The nearest of many centroids, in tiles of one size: the same numbers for any batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from curate.errors import ConfigError
from curate.features import Columns, Picture
from curate.features._embeddings import NO_EMBEDDING, embeddings

ROWS = 512  # embeddings of one product: always as many, so that the numbers never change
CENTROIDS = 16_384  # of one product: 32 MB of float32


class Nearest:
    """Centroids on one device.

    On a CPU each product runs in one thread, several at a time: torch's own threads change the last
    bits with their number.
    """

    def __init__(self, centroids: np.ndarray, device: str) -> None:
        """Bring [K, D] centroids to a device: "auto", "cpu", "cuda:0", ..."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self.count, self.width = centroids.shape
        whole = torch.from_numpy(np.array(centroids, dtype=np.float32)).to(self._device)
        self._tiles = torch.split(whole, CENTROIDS)  # [up to CENTROIDS, D] each
        threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        self._threads = ThreadPoolExecutor(
            threads, "nearest", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [N] int64 of the nearest centroids of [N, D] rows, and [N] float32 margins.

        The margin is the inner product with it less that with the second nearest, 0 where two are
        as near; infinite where there is one centroid only. Of equals the first is taken.
        """
        number, best, second = self.two_nearest(rows)
        return number, best - second

    def two_nearest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As called: numbers [N], and [N] float32 inner products with the nearest and the second.

        The second is minus infinity where there is one centroid only.
        """
        parts = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        nothing = np.empty(0, dtype=np.float32)
        found = [(nothing.astype(np.int64), nothing, nothing)]
        found += self._threads.map(self._tile, parts)
        number, best, second = (np.concatenate(pieces) for pieces in zip(*found, strict=True))
        return number, best, second

    @torch.inference_mode()
    def _tile(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        padded = np.zeros((ROWS, self.width), dtype=np.float32)  # [ROWS, D]
        padded[: len(part)] = part
        rows = torch.from_numpy(padded).to(self._device)
        best = torch.full((ROWS,), -torch.inf, device=self._device)
        second, number = best.clone(), torch.zeros(ROWS, dtype=torch.int64, device=self._device)
        for index, tile in enumerate(self._tiles):
            # [ROWS, D] @ [D, C] -> [ROWS, C]
            place, first, next_best = _two_best(rows @ tile.T)
            better = first > best
            number = torch.where(better, place + index * CENTROIDS, number)
            second = torch.maximum(torch.maximum(second, next_best), torch.minimum(best, first))
            best = torch.maximum(best, first)
        stop = len(part)
        return number[:stop].cpu().numpy(), best[:stop].cpu().numpy(), second[:stop].cpu().numpy()


def _two_best(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of [R, C]: place and value of each row's largest, the first of equals, and the second."""
    place = torch.argmax(products, dim=1, keepdim=True)  # [R, 1]
    first = products.gather(1, place)
    products.scatter_(1, place, -torch.inf)
    return place[:, 0], first[:, 0], products.amax(dim=1)


class NearestScorer:
    """Centroids, and which of them are a target's."""

    batch = 8_192

    def __init__(self, nearest: Nearest, wanted: np.ndarray, column: str) -> None:
        self._nearest = nearest
        self._wanted = wanted  # [K] bool
        self._column = column

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("embeddings are enough: no picture is needed")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        given = embeddings(frame, self._column)  # [N, D]
        there = np.isfinite(given).all(axis=1)
        if there.any() and given.shape[1] != self._nearest.width:
            raise ConfigError(
                f"{self._column} is {given.shape[1]} wide and the centroids are "
                f"{self._nearest.width} wide: they must come from one model"
            )
        number = np.zeros(len(given), dtype=np.int64)
        margin = np.full(len(given), np.nan, dtype=np.float32)
        number[there], margin[there] = self._nearest(given[there])
        unknown = pl.Series(~there)
        scalars = {
            "cluster": pl.Series(number, dtype=pl.UInt32).set(unknown, None),
            "in_targets": pl.Series(self._wanted[number]).set(unknown, None),
            "margin": pl.Series(margin).fill_nan(None),
        }
        return Columns(
            scalars, errors=[None if known else NO_EMBEDDING for known in there.tolist()]
        )
