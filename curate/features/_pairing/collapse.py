"""Which embeddings count as one: equal ones, and in a dense cluster those that are nearly equal."""

from __future__ import annotations

import numpy as np

from curate.features._products import Loaded, Products

_AT_ONCE = 1024  # rows that are compared with each other
_LEADERS = 4096  # of one piece of leaders
MOST_LEADERS = 65_536  # beyond them a row that is like none of them stays by itself


def hashes(rows: np.ndarray) -> np.ndarray:
    """[N] uint64 of the bytes of [N, D] float32."""
    width = rows.shape[1]
    odd = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    found = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), 4096):
        words = rows[start : start + 4096].view(np.uint32).astype(np.uint64)
        found[start : start + 4096] = (words * odd).sum(axis=1, dtype=np.uint64)
    return (found ^ (found >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(17)


def first_equal(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[N] int64: the first of [N, D] float32 rows with the same bytes and [N] uint64 label."""
    first = np.arange(len(rows))
    if not len(rows):
        return first
    middle = rows.shape[1] // 2
    key = np.ascontiguousarray(rows[:, [0, middle]]).view(np.uint64)[:, 0] + label
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    known: dict[tuple[int, bytes], int] = {}
    for row in np.flatnonzero(counts[inverse] > 1).tolist():
        first[row] = known.setdefault((int(label[row]), rows[row].tobytes()), row)
    return first


class Leaders:
    """Rows that stand for others, found one after the other.

    A row joins the first leader with which its product is `same` or more; where there is none, it
    is a leader itself. The order of the rows alone decides, not how many are looked at together.
    """

    def __init__(self, products: Products, same: float) -> None:
        self._products = products
        self._same = same
        self._full: list[Loaded] = []
        self._rest = np.empty((0, 0), dtype=np.float32)
        self._count = 0

    def add(self, rows: np.ndarray) -> np.ndarray:
        """[N] int64: the number of each row's leader, or -1 for none; leaders count from 0."""
        if not self._rest.shape[1]:
            self._rest = np.empty((0, rows.shape[1]), dtype=np.float32)
        parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
        return np.concatenate([np.empty(0, np.int64), *(self._add(part) for part in parts)])

    def _add(self, rows: np.ndarray) -> np.ndarray:
        leader = np.full(len(rows), -1, dtype=np.int64)
        for number, piece in enumerate([*self._full, self._products.load(self._rest)]):
            open_ = np.flatnonzero(leader < 0)
            found = self._first(rows[open_], piece)
            leader[open_] = np.where(found < 0, -1, found + number * _LEADERS)
        open_ = np.flatnonzero(leader < 0)
        leader[open_] = self._among(rows[open_])
        return leader

    def _first(self, rows: np.ndarray, piece: Loaded) -> np.ndarray:
        """[N] int64: the first row of a piece that each row is like, or -1."""
        first = np.full(len(rows), piece.count, dtype=np.int64)
        found = self._products.at_least(self._products.load(rows), piece, self._same)
        np.minimum.at(first, found.left, found.right)
        first[first == piece.count] = -1
        return first

    def _among(self, rows: np.ndarray) -> np.ndarray:
        """[N] int64 leaders of rows that are like none of those before; they become leaders."""
        loaded = self._products.load(rows)
        found = self._products.at_least(loaded, loaded, self._same)
        alike = np.zeros((len(rows), len(rows)), dtype=bool)
        alike[found.left, found.right] = True
        leader = np.full(len(rows), -1, dtype=np.int64)
        fresh: list[int] = []
        for row in range(len(rows)):
            if leader[row] >= 0 or self._count + len(fresh) >= MOST_LEADERS:
                continue
            joins = alike[row] & (leader < 0)
            joins[:row] = False
            joins[row] = True
            leader[joins] = self._count + len(fresh)
            fresh.append(row)
        self._keep(rows[fresh])
        return leader

    def _keep(self, rows: np.ndarray) -> None:
        self._count += len(rows)
        self._rest = np.concatenate([self._rest, rows])
        while len(self._rest) >= _LEADERS:
            self._full.append(self._products.load(self._rest[:_LEADERS]))
            self._rest = self._rest[_LEADERS:]
