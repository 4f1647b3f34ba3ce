"""The scores of those who share a language, or a length of caption: exact in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from curate.features._exact_sums import ExactSums, exact_sums

_AT_ONCE = 8192  # numbers that are added at once: what they need fits into the cache


@dataclass(frozen=True)
class Group:
    """The scores of some rows."""

    sums: ExactSums = field(default_factory=ExactSums)
    kept: int = 0

    def plus(self, other: Group) -> Group:
        """Both in one."""
        return Group(self.sums + other.sums, self.kept + other.kept)


def grouped(scores: np.ndarray, codes: np.ndarray, kept: np.ndarray) -> dict[int, Group]:
    """The groups of [N] rows.

    Args:
        scores: [N] float64; rows whose score is NaN or infinite are left out.
        codes: [N] the group of each row; below 0: none.
        kept: [N] bool: whether it is in the subset.
    """
    there = np.flatnonzero(np.isfinite(scores) & (codes >= 0))
    own = codes[there].astype(np.int16)
    there = there[np.argsort(own, kind="stable")]  # of 16 bits: a radix sort
    sizes = np.bincount(own)
    ends = np.cumsum(sizes)
    found = {}
    for code in np.flatnonzero(sizes).tolist():
        rows = there[ends[code] - sizes[code] : ends[code]]
        values, sums = scores[rows] + 0.0, ExactSums()  # -0.0 would depend on order
        for first in range(0, len(values), _AT_ONCE):
            sums += exact_sums(values[first : first + _AT_ONCE])
        found[code] = Group(sums, int(kept[rows].sum()))
    return found


def merged(left: Mapping[int, Group], right: Mapping[int, Group]) -> dict[int, Group]:
    """The groups of both."""
    codes = sorted(left.keys() | right.keys())
    return {code: left.get(code, Group()).plus(right.get(code, Group())) for code in codes}
