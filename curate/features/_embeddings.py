"""Embeddings of a batch, whoever made them."""

from __future__ import annotations

import numpy as np
import polars as pl

from curate.errors import ConfigError
from filters import column

_AT_ONCE = 16_384  # rows

NO_EMBEDDING = "no_embedding"  # the error class of a sample whose embedding is missing


def embeddings(frame: pl.DataFrame, name: str) -> np.ndarray:
    """[N, D] of an array column, in its own precision; NaN where a sample has none."""
    found = frame.select(column(name)).to_series()
    if not isinstance(found.dtype, pl.Array):
        raise ConfigError(f"embeddings are needed, and {name} is of type {found.dtype}")
    return found.to_numpy()


def present(array: np.ndarray) -> np.ndarray:
    """[N] bool: rows of [N, D] whose numbers are all finite."""
    slices = [array[start : start + _AT_ONCE] for start in range(0, len(array), _AT_ONCE)]
    found = [np.isfinite(rows).all(axis=1) for rows in slices]
    return np.concatenate([np.empty(0, dtype=bool), *found])
