"""Keep one sample of each set that is equal in some columns."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import Field

from filters import Available, Batch, Filter, GroupFilter, Shown, State, column
from filters._keep import Keep, columns_of, priority, refuse_text


class ExactDuplicates(GroupFilter):
    """Keeps one sample of each group that is equal in all columns of `by`.

    By `[url]`, `[caption]`, `[sha256]`, `[url, caption]` (LAION-400M's rule) or any other columns.
    The one that stays has the `highest` (or `lowest`) value of a column, missing values last; ties,
    and the default, go to the smaller uid. A null in `by` makes the sample `unscored`.
    """

    example = "{by: [url, caption], keep: {highest: clip.similarity}}"
    removes_duplicates = True

    by: tuple[str, ...] = Field(min_length=1, description="columns that must all be equal")
    keep: Keep | None = Field(
        None,
        description="which one stays: {highest: column} or {lowest: column}; else smallest uid",
    )

    def bind(self, available: Available) -> Filter:
        refuse_text(self.keep, available)
        return self

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.by, *columns_of(self.keep)]))

    def key(self, batch: Batch) -> pl.DataFrame:
        return batch.frame.select(column(name).alias(name) for name in self.by)

    def priority(self, batch: Batch) -> np.ndarray:
        return priority(self.keep, batch)

    def keep_ranked(self, rank: np.ndarray, size: np.ndarray) -> np.ndarray:
        return np.asarray(rank == 0, dtype=np.uint32)

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {})
