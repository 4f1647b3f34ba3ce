"""Keep one sample of each set that is equal in some columns."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from filters import Available, Batch, Filter, GroupFilter, Shown, State, Unbound, column


class _Highest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    highest: str


class _Lowest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: str


class ExactDuplicates(GroupFilter):
    """Keeps one sample of each group that is equal in all columns of `by`.

    By `[url]`, `[caption]`, `[sha256]`, `[url, caption]` (LAION-400M's rule) or any other columns.
    The one that stays has the `highest` (or `lowest`) value of a column, missing values last; ties,
    and the default, go to the smaller uid. A null in `by` makes the sample `unscored`.
    """

    example = "{by: [url, caption], keep: {highest: clip.similarity}}"

    by: tuple[str, ...] = Field(min_length=1, description="columns that must all be equal")
    keep: _Highest | _Lowest | None = Field(
        None,
        description="which one stays: {highest: column} or {lowest: column}; else smallest uid",
    )

    def bind(self, available: Available) -> Filter:
        rank = self._rank_column()
        if rank is not None and available.get(rank) == "String":
            raise Unbound(f"{rank} holds text: `keep` takes a column of numbers")
        return self

    def _rank_column(self) -> str | None:
        if isinstance(self.keep, _Highest):
            return self.keep.highest
        return self.keep.lowest if self.keep is not None else None

    def needs(self) -> tuple[str, ...]:
        rank = self._rank_column()
        return tuple(dict.fromkeys([*self.by, *([rank] if rank else [])]))

    def key(self, batch: Batch) -> pl.DataFrame:
        return batch.frame.select(column(name).alias(name) for name in self.by)

    def priority(self, batch: Batch) -> np.ndarray:
        rank = self._rank_column()
        if rank is None:
            return np.zeros(len(batch.uids))
        values = batch.frame.select(column(rank).cast(pl.Float64)).to_series()
        numbers = values.fill_null(float("nan")).to_numpy()
        return np.asarray(numbers if isinstance(self.keep, _Highest) else -numbers)

    def keep_ranked(self, rank: np.ndarray, size: np.ndarray) -> np.ndarray:
        return np.asarray(rank == 0, dtype=np.uint32)

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {})
