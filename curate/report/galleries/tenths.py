"""Which tenth of all scores a score is in, told by a draw of them."""

from __future__ import annotations

import numpy as np

TENTHS = 10
DRAWN = 10_000  # scores, by uid hash, that tell the tenths: all, where there are no more
_FEWEST = 3  # tenths that differ: below that a score has hardly any values


def tenths(scores: np.ndarray) -> np.ndarray | None:
    """[N] 1 (lowest) to 10: the tenth of each of [N] finite scores.

    Equal scores are in one tenth, the lowest that any of them would be in, so some of the ten may
    have none.

    Returns:
        None where there are fewer than 10 scores, or fewer than 3 tenths with any.
    """
    if len(scores) < TENTHS:
        return None
    ends = np.arange(1, TENTHS) * len(scores) // TENTHS - 1  # the last of each but the tenth
    found = 1 + np.searchsorted(np.sort(scores)[ends], scores, side="left")
    return found if len(np.unique(found)) >= _FEWEST else None
