"""How often a sorted subset holds a uid: a binary search that reads only the pages it needs."""

from __future__ import annotations

from typing import Literal

import numpy as np

Side = Literal["left", "right"]
_CHUNK = 4_000_000  # uids looked at at once


def find(subset: np.ndarray, uids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a sorted subset holds uids, and how often.

    Args:
        subset: [N] UID, sorted; a mapped file is searched where it lies.
        uids: [S] UID, in any order.

    Returns:
        [S] int64, the first row that is not less than each uid; [S] int64, rows that equal it.
    """
    order = np.argsort(uids["f0"])  # so that neighbouring searches read the same pages
    ordered = uids[order]
    halves = subset.view(np.uint64).reshape(-1, 2)  # [N, 2]
    first = _bisected(halves, ordered, "left", np.zeros(len(uids), dtype=np.int64))
    there = np.flatnonzero(first < len(subset))
    there = there[(halves[first[there]] == _halves(ordered[there])).all(axis=1)]
    counts = np.zeros(len(uids), dtype=np.int64)
    counts[there] = _bisected(halves, ordered[there], "right", first[there]) - first[there]
    found = np.empty((2, len(uids)), dtype=np.int64)
    found[:, order] = first, counts
    return found[0], found[1]


def _halves(uids: np.ndarray) -> np.ndarray:
    return np.stack([uids["f0"], uids["f1"]], axis=1)  # [S, 2]


def _bisected(halves: np.ndarray, uids: np.ndarray, side: Side, low: np.ndarray) -> np.ndarray:
    """[S] row of [N, 2] `halves` before which each uid belongs, at or behind row `low`."""
    low, high = low.copy(), np.full(len(uids), len(halves), dtype=np.int64)
    upper, lower = uids["f0"], uids["f1"]
    while True:
        active = low < high
        if not active.any():
            return low
        middle = (low + high) >> 1
        there = halves[np.minimum(middle, len(halves) - 1)]  # [S, 2]
        behind = there[:, 1] < lower if side == "left" else there[:, 1] <= lower
        behind = (there[:, 0] < upper) | ((there[:, 0] == upper) & behind)
        low = np.where(active & behind, middle + 1, low)
        high = np.where(active & ~behind, middle, high)


def is_sorted(uids: np.ndarray) -> bool:
    """Whether [N] UID ascend; few are looked at at once."""
    for start in range(0, len(uids), _CHUNK):
        piece = uids[start : start + _CHUNK + 1]
        upper, lower = piece["f0"], piece["f1"]
        more = upper[1:] > upper[:-1]
        if not (more | ((upper[1:] == upper[:-1]) & (lower[1:] >= lower[:-1]))).all():
            return False
    return True
