"""Bits that depend on all bits of a number: what coins, clocks and draws are made from."""

from __future__ import annotations

import numpy as np

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64 (Steele, Lea, Flood 2014)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mixed(x: np.ndarray) -> np.ndarray:
    """[N] uint64 of [N] uint64, one to one; `x` is the caller's no more, for it is overwritten."""
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x
