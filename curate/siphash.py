"""Keyed hashes of texts that are the same on any machine: SipHash, as pandas has it."""

from __future__ import annotations

import threading

import numpy as np
import polars as pl

_IMPORTING = threading.Lock()  # two threads that import pandas first, at once, deadlock


def hashed(texts: pl.Series, key: str) -> np.ndarray:
    """[N] uint64 of [N] texts without nulls.

    Args:
        texts: What to hash. Polars' own hash differs between kinds of processor.
        key: 16 characters; another key is another hash.
    """
    with _IMPORTING:
        from pandas.util import hash_array  # 0.4 s to import, and few runs hash texts

    values = texts.to_numpy().astype(object)
    return np.asarray(hash_array(values, hash_key=key, categorize=False))
