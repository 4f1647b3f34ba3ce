"""What filters that keep so many of each group have in common; subclasses say how many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from filters import Batch, Counts, GroupFilter, State, Summary

Learnt = Mapping[str, np.ndarray]  # {`<step>.<array>`: what a fitted feature learnt}


class QuotaFilter(GroupFilter):
    """Sees statistics of all survivors, says how many stay of each group, and who goes first."""

    def group(self, batch: Batch) -> np.ndarray:
        """[N] int64 name of each sample's group, 0 or more; -1 makes it `unscored`."""
        raise NotImplementedError  # the contract: every quota filter says so itself

    def summarize(self, batch: Batch) -> Summary:
        """What one batch contributes; the same in sum for any division into batches."""
        raise NotImplementedError  # the contract: every quota filter says so itself

    def merge(self, left: Summary, right: Summary) -> Summary:
        """Both contributions in one: associative, commutative and exact."""
        raise NotImplementedError  # the contract: every quota filter says so itself

    def fit(self, summary: Summary | None, counts: Counts, learnt: Learnt) -> State:
        """The state, in which `quota` says how many stay of each group; others have no quota.

        `quota` is of group 0, 1, ... unless `groups` is there: an ascending array of the groups
        that the quotas are of, for groups whose names are hashes. `summary` is None where there
        was nothing to see.
        """
        raise NotImplementedError  # the contract: every quota filter says so itself

    def key(self, batch: Batch) -> pl.DataFrame:
        number = pl.Series("group", self.group(batch), dtype=pl.Int64)
        return pl.DataFrame([number.set(number < 0, None)])

    def reason(self) -> str:
        return "over_quota"
