"""NormSim in memory: embeddings in, the norm of their products with all targets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from curate.errors import ConfigError
from curate.features import Columns, Picture
from curate.features._embeddings import NO_EMBEDDING, embeddings, present

if TYPE_CHECKING:
    import polars as pl

ROWS = 512  # samples of one product: always as many, so that a score does not depend on the others
TARGETS = {"cpu": 1024, "cuda": 65_536}  # of one product
GRAM_ROWS = 16_384  # targets turned to float64 at a time


class NormSimScorer:
    """Targets on one device.

    On a CPU each product runs in one thread, several at a time: torch's own threads change the last
    bits with their number.
    """

    batch = 8192

    def __init__(
        self, targets: Mapping[str, np.ndarray], column: str, p: Literal[2, "inf"], device: str
    ) -> None:
        """Bring the targets, [G, D] by file, to a device: "auto", "cpu", "cuda:0", ..."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._column, self._p = column, p
        self.width = _width(targets)
        self._gram: Tensor | None = None
        self._tiles: list[Tensor] = []
        if p == 2:
            self._gram = _gram(list(targets.values()), self._device)
        else:
            step = TARGETS[self._device.type]
            whole = (torch.from_numpy(np.array(array)) for array in targets.values())
            self._tiles = [tile for t in whole for tile in torch.split(t.to(self._device), step)]
        threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        self._threads = ThreadPoolExecutor(
            threads, "targets", initializer=torch.set_num_threads, initargs=(1,)
        )

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("embeddings are enough: no picture is needed")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        """The norms of N samples; N may be 0."""
        del prepared
        found = embeddings(frame, self._column)  # [N, D]
        usable = present(found)
        if usable.any() and found.shape[1] != self.width:
            raise ConfigError(
                f"{self._column} is {found.shape[1]} wide and the targets are {self.width} wide: "
                "they must come from one model"
            )
        scores = np.full(len(found), np.nan, dtype=np.float32)
        scores[usable] = self._norms(found[usable])
        errors = [None if there else NO_EMBEDDING for there in usable.tolist()]
        return Columns({"score": scores}, errors=errors)

    def _norms(self, found: np.ndarray) -> np.ndarray:
        """[N] float32 of [N, D]."""
        if not len(found):
            return np.empty(0, dtype=np.float32)
        padded = np.zeros((-(-len(found) // ROWS) * ROWS, self.width), dtype=np.float32)
        padded[: len(found)] = found
        rows = torch.split(torch.from_numpy(padded).to(self._device), ROWS)
        work = self._largest if self._gram is None else partial(_root, self._gram)
        norms = torch.cat(list(self._threads.map(work, rows)))[: len(found)]
        return np.asarray(norms.float().cpu().numpy())

    @torch.inference_mode()
    def _largest(self, rows: Tensor) -> Tensor:
        """[ROWS]: the largest absolute product of each row with any target."""
        largest = torch.zeros(len(rows), device=rows.device)
        for tile in self._tiles:
            products = rows @ tile.float().T  # [ROWS, targets of the tile]
            largest = torch.maximum(largest, products.amax(dim=1))
            largest = torch.maximum(largest, -products.amin(dim=1))
        return largest


@torch.inference_mode()
def _root(gram: Tensor, rows: Tensor) -> Tensor:
    """[ROWS] float64: the root of x G^T G x^T, which is the 2-norm of x G^T."""
    exact = rows.double()
    return ((exact @ gram) * exact).sum(dim=1).clamp(min=0).sqrt()


def _gram(targets: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """[D, D] float64: the sum of the targets' outer products."""
    total = torch.zeros((targets[0].shape[1],) * 2, dtype=torch.float64, device=device)
    for array in targets:
        for start in range(0, len(array), GRAM_ROWS):
            rows = torch.from_numpy(np.array(array[start : start + GRAM_ROWS])).to(device).double()
            total += rows.T @ rows
    return total


def _width(targets: Mapping[str, np.ndarray]) -> int:
    widths: dict[str, int] = {url: array.shape[1] for url, array in targets.items()}
    for url, array in targets.items():
        if not len(array) or not np.isfinite(array).all():
            raise ConfigError(f"{url} holds no rows, or values that are not finite")
        if array.shape[1] != next(iter(widths.values())):
            listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
            raise ConfigError(f"targets of different widths cannot come from one model ({listed})")
    return next(iter(widths.values()))
