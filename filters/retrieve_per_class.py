"""Keep the best so many samples of every class: those most like its prototype."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from filters import Available, Batch, Counts, Filter, Shown, State, Summary, column
from filters._allocation import Tally, by_number, step_with, tally
from filters._quota import Learnt, QuotaFilter

_LISTED = 200  # classes that stay short, in the state: the shortest


class RetrievePerClass(QuotaFilter):
    """Keeps the `count` samples of each class that are most like its prototype.

    A sample belongs to its nearest class only (of a `classes` step), however near others are. Those
    less like it than `at_least` do not count and are removed with all that are over the number
    (`over_quota`); it is inclusive, and compared in the column's own precision. Ties go to the
    smaller uid. A class with fewer samples keeps them all, and is listed with what it has in the
    state of the step: numbers up to the largest that occurs, the shortest 200.

    A sample without a class or a similarity is `unscored`.
    """

    example = "{classes: classes, count: 1000, at_least: 0.2}"

    classes: str | None = Field(None, description="the `classes` step; the only one if absent")
    count: PositiveInt = Field(description="samples that stay of each class, at most")
    at_least: float | None = Field(
        None, description="similarity to the prototype of its class that a sample must have"
    )

    def bind(self, available: Available) -> Filter:
        fields = ("number", "name", "similarity")
        step = step_with(available, fields, self.classes, "classes")
        return self.model_copy(update={"classes": step})

    def needs(self) -> tuple[str, ...]:
        return tuple(f"{self.classes}.{field}" for field in ("number", "name", "similarity"))

    def group(self, batch: Batch) -> np.ndarray:
        number, _, similarity = (column(name) for name in self.needs())
        known = number.is_not_null() & similarity.is_not_null() & similarity.is_not_nan()
        group = pl.when(known).then(number.cast(pl.Int64)).otherwise(-1)
        return batch.frame.select(group.alias("group")).to_series().to_numpy()

    def priority(self, batch: Batch) -> np.ndarray:
        similarity = batch.frame.select(column(self.needs()[2]).cast(pl.Float64)).to_series()
        return similarity.fill_null(float("nan")).to_numpy()

    def summarize(self, batch: Batch) -> Summary:
        """How many samples each class has, how many of them are near enough; and its name."""
        group = self.group(batch)
        near = np.ones(len(group), dtype=np.int64)
        if self.at_least is not None:
            enough = column(self.needs()[2]) >= self.at_least
            found = batch.frame.select(enough.fill_null(value=False).cast(pl.Int64).alias("near"))
            near = found.to_series().to_numpy()
        names = batch.frame.select(column(self.needs()[1]).alias("name")).to_series()
        first, at = np.unique(group, return_index=True)
        called = zip(first.tolist(), names.gather(at).to_list(), strict=True)
        return tally(group, near), {number: name for number, name in called if number >= 0}

    def merge(self, left: Summary, right: Summary) -> Summary:
        return left[0] + right[0], {**left[1], **right[1]}

    def fit(self, summary: Summary | None, counts: Counts, learnt: Learnt) -> State:
        seen, names = summary if summary is not None else (_nothing(), {})
        have = by_number(seen.keys, seen.sums[:, 1])
        quota = np.minimum(have, self.count)
        short = np.flatnonzero(have < self.count)
        listed = short[np.argsort(have[short], kind="stable")][:_LISTED]
        described: list[dict[str, Any]] = [
            {"number": n, "name": names.get(n), "have": int(have[n]), "wanted": self.count}
            for n in listed.tolist()
        ]
        return {
            "quota": quota.tolist(),
            "rows": counts.survivors,
            "scored": int(seen.sums[:, 0].sum()),
            "near_enough": int(have.sum()),
            "kept": int(quota.sum()),
            "classes": len(have),
            "classes_short": len(short),
            "short": described,
        }

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {}, self.needs()[2:])


def _nothing() -> Tally:
    return tally(*np.zeros((2, 0), dtype=np.int64))
