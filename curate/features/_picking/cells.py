"""Classes of a pool as ClipCov takes them: large ones divided, small ones in a task together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_AT_ONCE = 16_384  # rows


@dataclass(frozen=True)
class Cells:
    """Classes, each of one or several cells, whose members are compared with one another only."""

    classes: np.ndarray  # [C] int64 numbers, ascending
    counts: np.ndarray  # [C] int64 members
    members: int  # of a cell, about, at most

    @property
    def divided(self) -> np.ndarray:
        """[C] int64: into how many cells each class is divided."""
        return -(-self.counts // self.members)

    @property
    def first(self) -> np.ndarray:
        """[C + 1] int64: the number of each class's first cell, and of all cells."""
        return np.concatenate([[0], np.cumsum(self.divided)])

    @property
    def tasks(self) -> np.ndarray:
        """[cells] int64: the task that each cell is ordered by, ascending."""
        expected = np.repeat(self.counts / self.divided, self.divided)
        before = np.cumsum(expected) - expected
        return np.unique((before / self.members).astype(np.int64), return_inverse=True)[1]

    def of(self, numbers: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """[N] int64: the cell of each of [N] samples, of its class and of a number in [0, 1)."""
        place = np.searchsorted(self.classes, numbers)
        return np.asarray(self.first[place] + (uniform * self.divided[place]).astype(np.int64))

    def class_of(self, cell: int) -> int:
        """Which of the [C] classes a cell belongs to."""
        return int(np.searchsorted(self.first, cell, side="right")) - 1


def directions(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings at length 1, and which of them have a direction.

    Args:
        rows: [N, D], finite or not.

    Returns:
        ([N, D] float32, 0 where there is no direction; [N] bool).
    """
    made = np.array(rows, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.einsum("nd,nd->n", made, made))
        known = np.isfinite(length) & (length > 0)
        made[known] /= length[known, None]
    made[~known] = 0
    return made, known


def directed(rows: np.ndarray) -> np.ndarray:
    """[N] bool: which of [N, D] embeddings have a direction."""
    slices = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
    return np.concatenate([np.zeros(0, dtype=bool), *(directions(own)[1] for own in slices)])
