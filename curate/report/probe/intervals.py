"""Shares and rank correlations with 95 % intervals, from whole numbers: the same in any order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_Z = 1.959963984540054  # of the normal distribution: 2.5 % lie above
_DIGITS = 6


def estimate(count: int, rows: int) -> dict[str, Any]:
    """A share counted on some rows, with Wilson's score interval (1927).

    It stays inside 0 to 1, and is honest where the count is 0 or all; None without rows.
    """
    said: dict[str, Any] = {"rows": rows, "count": count}
    if rows == 0:
        return {**said, "share": None, "low": None, "high": None}
    share, spread = count / rows, _Z * _Z / rows
    middle = share + spread / 2
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4)
    low = 0.0 if count == 0 else (middle - half) / (1 + spread)
    high = 1.0 if count == rows else (middle + half) / (1 + spread)
    rounded = (round(value, _DIGITS) for value in (share, low, high))
    return {**said, **dict(zip(("share", "low", "high"), rounded, strict=True))}


def codes(values: np.ndarray) -> np.ndarray:
    """[N] int64 of [N] float64: which of the different values, ascending; -1 where NaN."""
    found = np.full(len(values), -1, dtype=np.int64)
    known = ~np.isnan(values)
    found[known] = np.unique(values[known], return_inverse=True)[1]
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Spearman's rho of two scores over the rows that have both, ties averaged.

    Its interval is Fisher's z with Bonett and Wright's standard error, sqrt((1 + rho^2 / 2) /
    (n - 3)) (Psychometrika 65, 2000). All is None below 4 rows, and where a score is constant.

    Args:
        a: [N] `codes` of the one.
        b: [N] of the other; a million rows at most, or int64 overflows.
    """
    both = (a >= 0) & (b >= 0)
    rows = int(both.sum())
    rho = _rho(_twice_ranks(a[both]), _twice_ranks(b[both])) if rows >= 4 else None
    if rho is None:
        return {"rows": rows, "rho": None, "low": None, "high": None}
    if abs(rho) == 1:
        return {"rows": rows, "rho": rho, "low": rho, "high": rho}
    half = _Z * math.sqrt((1 + rho * rho / 2) / (rows - 3))
    z = math.atanh(rho)
    rounded = (round(value, _DIGITS) for value in (rho, math.tanh(z - half), math.tanh(z + half)))
    return {"rows": rows, **dict(zip(("rho", "low", "high"), rounded, strict=True))}


def _twice_ranks(own: np.ndarray) -> np.ndarray:
    """[N] int64: twice the mean rank (1 the smallest) of each of [N] codes, a whole number."""
    counts = np.bincount(own)
    return np.asarray((2 * np.cumsum(counts) - counts + 1)[own])


def _rho(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation of ranks; None where one has no variance."""
    n, sum_x, sum_y = len(x), int(x.sum()), int(y.sum())  # Python's integers do not overflow
    var_x = n * int(np.dot(x, x)) - sum_x * sum_x
    var_y = n * int(np.dot(y, y)) - sum_y * sum_y
    if not var_x or not var_y:
        return None
    together = n * int(np.dot(x, y)) - sum_x * sum_y
    return max(-1.0, min(1.0, together / math.sqrt(var_x * var_y)))
