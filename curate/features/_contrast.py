"""The contrastive loss of each pair in a batch: tiles of products, summed in one fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

TILES = {"cpu": (512, 1024), "cuda": (4096, 32_768)}  # rows and columns of one product
LARGEST = 70.0  # exponent of a cosine of 1, at most: sums of a million such are float32 still
# A sum below this may lack terms that float32 flushed to zero; it is computed again by its maximum.
SMALLEST = 1e-25


def losses(image: np.ndarray, text: np.ndarray, temperature: float) -> np.ndarray:
    """[B] float64: minus the contrastive loss of each pair of [B, D] float32, times T.

    That is s_ii - T/2 log sum_j exp(s_ij / T) - T/2 log sum_j exp(s_ji / T), with s the inner
    products as they are: embeddings are taken to be of length 1 and are not normalised.

    Runs on a GPU where there is one. On a CPU each product runs in one thread, several at a time,
    so that the number of threads changes no bit.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left = torch.from_numpy(image).to(device)  # [B, D]
    right = torch.from_numpy(text).to(device)  # [B, D]
    with torch.inference_mode():
        rows, columns = _sums(left, right, temperature)
        own = torch.einsum("bd,bd->b", left, right).double()
        logs = _logs(left, right, rows, temperature) + _logs(right, left, columns, temperature)
        return np.asarray((own - temperature / 2 * logs).cpu().numpy())


def _shift(temperature: float) -> float:
    """What is added to the exponents s / T, so that a cosine of 1 stays below LARGEST."""
    return min(0.0, LARGEST - 1 / temperature)


def _sums(left: Tensor, right: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """([B], [B]) float64: of exp(s / T + shift) along the rows of s, and along its columns."""
    height, width = TILES[left.device.type]
    shift = torch.full((1,), _shift(temperature), device=left.device)
    scaled = left / temperature
    total = torch.zeros(len(right), dtype=torch.float64, device=left.device)
    rows: list[Tensor] = []
    with _threads(left.device) as threads:
        work = partial(_row_tile, torch.split(right, width), shift)
        for along, across in threads.map(work, torch.split(scaled, height)):
            rows.append(along)
            total += across  # in the order of the tiles, whichever is done first
    return torch.cat(rows), total


def _row_tile(columns: tuple[Tensor, ...], shift: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of some rows of s along the rows, and their share of the sums of all columns."""
    along = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    across = []
    with torch.inference_mode():
        for tile in columns:
            exponentials = torch.addmm(shift, rows, tile.T).exp_()  # [rows, columns of the tile]
            along += exponentials.sum(dim=1)
            across.append(exponentials.sum(dim=0))
        return along, torch.cat(across).double()


def _logs(left: Tensor, right: Tensor, sums: Tensor, temperature: float) -> Tensor:
    """[B] float64: log sum_j exp(s_ij / T) of the shifted sums of the rows of s."""
    logs = torch.log(sums) - _shift(temperature)
    doubtful = torch.nonzero((sums < SMALLEST) | ~torch.isfinite(sums)).squeeze(1)
    for rows in torch.split(doubtful, 64):
        logs[rows] = torch.logsumexp((left[rows] @ right.T).double() / temperature, dim=1)
    return logs


@contextmanager
def _threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch would use, each of which multiplies alone; one for a GPU."""
    count = torch.get_num_threads() if device.type == "cpu" else 1
    with ThreadPoolExecutor(
        count, "contrast", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield pool
