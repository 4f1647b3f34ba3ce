"""Embeddings on their way to the centroids: in float32, of length 1 where that is wanted, tiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHORTEST = 1e-30  # a shorter vector has no direction in float32
LONGEST = 1e19  # so that no product of two overflows float32


def lengths(rows: np.ndarray) -> np.ndarray:
    """[N] float64 of [N, D] float32; not finite where a number is not."""
    squares: np.ndarray = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return np.asarray(np.sqrt(squares))


def _lengths(rows: np.ndarray, given: np.dtype[Any]) -> np.ndarray:
    """As `lengths`; faster where what was given is float16, whose squares float32 can hold."""
    if given != np.float16:
        return lengths(rows)
    squares: np.ndarray = np.einsum("nd,nd->n", rows, rows)
    return np.asarray(np.sqrt(squares, dtype=np.float64))


def _copy(given: np.ndarray, rows: np.ndarray) -> None:
    """Copy [N, D] floats to float32; what that cannot hold is infinite."""
    # Torch converts float16 ten times as fast as numpy; what it is given must be writable.
    torch.from_numpy(rows).copy_(torch.from_numpy(np.array(given, order="C")))


def unit(rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """[N, D] float32 of length 1, in place; zero where there is no direction."""
    inverse = np.zeros(len(rows), dtype=np.float64)
    np.divide(1, norms, out=inverse, where=norms >= SHORTEST)
    rows *= inverse.astype(np.float32)[:, None]
    return rows


@dataclass(frozen=True)
class Checked:
    """[N] rows, and what each can be used for."""

    rows: np.ndarray  # [N, D] float32, as given
    norms: np.ndarray  # [N] float64: their lengths

    @staticmethod
    def of(given: np.ndarray) -> Checked:
        """[N, D] floats in float32, with their lengths."""
        return Checked.into(np.empty(given.shape, dtype=np.float32), given)

    @staticmethod
    def into(rows: np.ndarray, given: np.ndarray) -> Checked:
        """The same, written to [N, D] float32."""
        _copy(given, rows)
        return Checked(rows, _lengths(rows, given.dtype))

    @property
    def missing(self) -> np.ndarray:
        """[N] bool: a number is not finite, as where there is no embedding."""
        return np.asarray(~np.isfinite(self.norms))

    @property
    def unusable(self) -> np.ndarray:
        """[N] bool: so long that no product with it is sure to be finite."""
        return np.asarray(np.isfinite(self.norms) & (self.norms > LONGEST))

    @property
    def zero(self) -> np.ndarray:
        """[N] bool: it has no direction."""
        return np.asarray(self.norms < SHORTEST)


@dataclass(frozen=True)
class Points:
    """N rows of several arrays, one after the other; all finite."""

    pieces: Sequence[np.ndarray]  # [N_i, D] each, N_i > 0; may be mapped
    directions: bool  # whether they are made of length 1; none is zero then

    @cached_property
    def _lasts(self) -> np.ndarray:
        return np.cumsum([len(piece) for piece in self.pieces])

    @cached_property
    def count(self) -> int:
        """N."""
        return int(self._lasts[-1]) if len(self._lasts) else 0

    def tile(self, number: int, rows: int) -> tuple[slice, Tensor]:
        """One of ceil(N / rows) tiles: which rows it has, and [rows, D] float32, zeros at the end.

        The numbers of a row do not depend on the tile that it is in.
        """
        first, last = number * rows, min((number + 1) * rows, self.count)
        # Where memory begins can change the last bits of a product: torch aligns all of it alike.
        tile = torch.empty((rows, self.pieces[0].shape[1]))
        tile[last - first :] = 0
        at = first
        while at < last:
            owner = int(np.searchsorted(self._lasts, at, side="right"))
            start = int(self._lasts[owner]) - len(self.pieces[owner])
            stop = min(last, int(self._lasts[owner]))
            own = self.pieces[owner][at - start : stop - start]
            here = tile.numpy()[at - first : stop - first]
            _copy(own, here)
            if self.directions:
                unit(here, _lengths(here, own.dtype))
            at = stop
        return slice(first, last), tile
