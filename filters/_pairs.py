"""What filters of near duplicates have in common; subclasses say which pairs are near enough."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from filters import Available, Batch, Filter, GroupFilter, Unbound, column, one_of
from filters._keep import Keep, columns_of, priority, refuse_text

_ROUNDS = 32  # of all pairs at once; what is left then is a long chain, walked one by one


class PairFilter(GroupFilter):
    """Sees all survivors that a chain of pairs connects, from a fitted feature that found pairs.

    Such a feature gives the columns `part` (which connected part; null where a sample has no
    neighbour), `count` (of its neighbours; null makes the sample `unscored`) and `nearest` (the
    value of its best pair).
    """

    removes_duplicates = True

    maker: ClassVar[str] = ""  # the feature that finds such pairs

    of: str | None = Field(
        None, description="the step that found the pairs; the only one if absent"
    )
    keep: Keep | None = Field(
        None,
        description="which one stays: {highest: column} or {lowest: column}; else smallest uid",
    )

    def bind(self, available: Available) -> Filter:
        refuse_text(self.keep, available)
        steps = [name.removesuffix(".part") for name in available if name.endswith(".part")]
        steps = [step for step in steps if self.finds(step, available)]
        if self.of is not None and self.of not in steps:
            listed = ", ".join(steps) or "none"
            raise Unbound(
                f"of: {self.of} is no `{self.maker}` step before this one; there are: {listed}"
            )
        remedy = f"put `- {self.maker}: {{...}}` before this step"
        return self.model_copy(update={"of": self.of or one_of(steps, "pairs", remedy, "of")})

    def finds(self, step: str, available: Available) -> bool:
        """Whether the columns of a step are those of the feature that finds such pairs."""
        raise NotImplementedError  # the contract: every pair filter says so itself

    def needs(self) -> tuple[str, ...]:
        own = (f"{self.of}.{field}" for field in ("part", "count", "nearest"))
        return tuple(dict.fromkeys([*own, *columns_of(self.keep)]))

    def key(self, batch: Batch) -> pl.DataFrame:
        return batch.frame.select(column(f"{self.of}.part").alias("part"))

    def priority(self, batch: Batch) -> np.ndarray:
        return priority(self.keep, batch)

    def scored(self, batch: Batch) -> np.ndarray:
        """[N] bool: who has what it takes to look for neighbours."""
        return batch.frame.select(column(f"{self.of}.count").is_not_null()).to_series().to_numpy()

    def blind(self, batch: Batch) -> int:
        """How many samples may have duplicates that were not looked for."""
        return 0

    def label(self, batch: Batch) -> np.ndarray:
        """[N] uint64: a pair counts only where both have the same."""
        return np.zeros(batch.frame.height, dtype=np.uint64)

    def alike(self, values: np.ndarray) -> np.ndarray:
        """[E] bool of [E] float32 values of pairs: which are near enough."""
        raise NotImplementedError  # the contract: every pair filter says so itself

    def keep_pairs(
        self, count: int, better: np.ndarray, worse: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """([count] bool who stays, [count] int64 whose duplicate it is, -1 where nobody's).

        Args:
            count: Samples, numbered by (priority descending, uid).
            better: [E] of each pair of duplicates the smaller number.
            worse: [E] the larger one.
        """
        return greedy(count, better, worse)


def greedy(count: int, better: np.ndarray, worse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who stays when each sample in turn stays unless one that stays is its duplicate.

    So nobody goes for the sake of one that is gone, and chains do not swallow a group.

    Args:
        count: Samples, numbered from best to worst.
        better: [E] of each pair of duplicates the smaller number.
        worse: [E] the larger one.

    Returns:
        ([count] bool who stays, [count] int64 the best that stays of its duplicates, else -1).
    """
    kept, gone = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    left, right = better, worse
    for _ in range(_ROUNDS):
        if not len(left):
            break
        # Nothing better that may yet stay: it stays, and whom it is like goes.
        waits = np.zeros(count, dtype=bool)
        waits[right] = True
        kept[left[~waits[left]]] = True
        gone[right[kept[left]]] = True
        open_ = ~(gone[left] | gone[right] | kept[left])
        left, right = left[open_], right[open_]
    _walk(kept, gone, left, right)
    kept = ~gone
    by = np.full(count, count, dtype=np.int64)
    told = kept[better] & gone[worse]
    np.minimum.at(by, worse[told], better[told])
    by[by == count] = -1
    return kept, by


def _walk(kept: np.ndarray, gone: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Settle the pairs that are left in order, one by one."""
    order = np.lexsort((right, left))
    for one, other in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if not gone[one]:
            kept[one] = True
            gone[other] = True


def against_all(count: int, better: np.ndarray, worse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who stays when each sample goes that is like any better one, though that is gone itself."""
    by = np.full(count, count, dtype=np.int64)
    np.minimum.at(by, worse, better)
    by[by == count] = -1
    return by < 0, by
