"""Keep a random sample in which each row's chance is in proportion to a weight."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters import (
    Available,
    Batch,
    Counts,
    Filter,
    Shown,
    State,
    Summary,
    Unbound,
    _radix,
    column,
)
from filters._coins import matches
from filters._draws import Draws, Weights, numbers, refuse_other_than_numbers
from filters._schedule import Histogram, Lattice, Schedule, distinct, repeated
from filters._top import exact_share

_WIDTH = 1 / 32  # of a bin of log weights


class WeightedSample(Filter):
    """Draws `count` samples, or floor(`fraction` * n), with chances in proportion to a weight.

    Without `replacement` a sample stays at most once: those stay that win a race of exponential
    waits, which is drawing one after the other without putting back (Efraimidis and Spirakis 2006).
    Where fewer have a weight above 0 than are asked for, all of them stay. With it, it is `count`
    independent draws, exactly so many copies in all, and none of more than `at_most` copies stays
    (`too_many_copies`; DataComp: 100). Chance is a hash of (seed, step, uid): the same for any
    order, and a larger count takes nobody away.

    The weight is a `column` to the `power`; or, as DataComp samples by text and by image
    (2304.14108), of sample i with the matched entries T(i) the mean over them (or the max) of
    N^(alpha - 1), N being the samples of an entry; or s^(alpha - 1) for a cluster of s, so that a
    cluster is drawn in proportion to s^alpha. N and s are counted over the rows at this step.

    A missing weight is `unscored`, a value of 0 `zero_weight`, no entry `unmatched`, the rest
    `not_drawn`. A weight that is negative or infinite is an error, and so are zeros alone.
    """

    example = "{column: clip.similarity, fraction: 0.5}"

    column: str | None = Field(None, description="the weights, 0 or more")
    concepts: str | None = Field(None, description="or the `concepts` step whose entries weigh")
    cluster: str | None = Field(None, description="or the column of clusters: `coarse.cluster`")
    count: int | None = Field(None, ge=1, description="number of copies")
    fraction: float | None = Field(None, gt=0, description="number of copies as share of the rows")
    replacement: bool = Field(default=False, description="whether a sample may come repeatedly")
    at_most: int | None = Field(
        None, ge=1, description="with replacement: a sample of more copies goes altogether"
    )
    power: float = Field(1.0, ge=-100, le=100, description="exponent of the column")
    alpha: float | None = Field(
        None, description="with concepts or cluster: 1 takes them as they are, 0 makes them even"
    )
    combine: Literal["mean", "max"] = Field(
        "mean", description="with concepts: which of a sample's entries count"
    )

    def problems(self) -> list[str]:
        sources = {"column": self.column, "concepts": self.concepts, "cluster": self.cluster}
        if sum(one is not None for one in sources.values()) != 1:
            return ["give one of column, concepts and cluster: what samples are weighted by"]
        found = []
        if (self.count is None) == (self.fraction is None):
            found.append("give one of count and fraction")
        if not self.replacement and (self.fraction or 0) > 1:
            found.append(f"a fraction of {self.fraction} takes `replacement: true`")
        if not self.replacement and self.at_most is not None:
            found.append("at_most goes with `replacement: true`: else a sample comes once")
        return [*found, *self._problems_of_exponents()]

    def balances(self) -> bool:
        return self.column is None

    def _problems_of_exponents(self) -> list[str]:
        found = []
        if (self.column is None) != (self.alpha is not None):
            found.append("alpha goes with concepts or cluster, which need it; a column takes power")
        if self.column is None and self.power != 1.0:
            found.append("power goes with column: concepts and cluster take alpha")
        if self.concepts is None and self.combine != "mean":
            found.append("combine goes with concepts")
        return found

    def bind(self, available: Available) -> Filter:
        if self.concepts is not None:
            there = [n.removesuffix(".entries") for n in available if n.endswith(".entries")]
            if self.concepts not in there:
                listed = ", ".join(there) or "none"
                raise Unbound(f"{self.concepts} is no `concepts` step before this one: {listed}")
        elif self.cluster is not None:
            dtype = available.get(self.cluster, "")
            if dtype and not dtype.startswith(("Int", "UInt")):
                raise Unbound(f"{self.cluster} holds {dtype}: clusters are whole numbers")
        else:
            refuse_other_than_numbers(self.column or "", available)
        return (_Repeated if self.replacement else _Once)(name=self.name, rule=self)


class _Weighted(Draws):
    """Draws in proportion to weights."""

    rule: WeightedSample

    def needs(self) -> tuple[str, ...]:
        if self.rule.concepts is not None:
            return (f"{self.rule.concepts}.entries",)
        return (self.rule.column or self.rule.cluster or "",)

    def wanted(self, rows: int) -> int:
        return self.rule.count or exact_share(self.rule.fraction or 0.0, rows)

    def lattice(self, centre: float) -> Lattice:
        return Lattice(_WIDTH, centre)

    def start(self, counts: Counts) -> State:
        begun = super().start(counts)
        return begun if self.rule.column is not None else {**begun, "counting": True}

    def summarize(self, batch: Batch, state: State) -> Summary:
        if "counting" not in state:
            return super().summarize(batch, state)
        if self.rule.concepts is not None:
            names = matches(batch, self.needs()).ids
        else:
            series = batch.frame.select(column(self.needs()[0]).cast(pl.Int64)).to_series()
            names = series.drop_nulls().to_numpy()
        return np.unique(names.astype(np.int64), return_counts=True)

    def merge(self, left: Summary, right: Summary) -> Summary:
        return _radix.add(left, right) if isinstance(left, tuple) else super().merge(left, right)

    def fit(self, summary: Summary | None, state: State) -> State:
        if "counting" not in state:
            return super().fit(summary, state)
        counted = {name: value for name, value in state.items() if name != "counting"}
        if summary is None:
            return super().fit(None, counted)
        names, counts = summary
        return {**counted, "names": names, "counts": counts.astype(np.int64)}

    def weights(self, batch: Batch, state: State) -> Weights:
        if self.rule.column is not None:
            values = numbers(batch, self.rule.column)
            wrong = (values < 0) | np.isinf(values)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.where(values == 0, -math.inf, self.rule.power * np.log(values))
            return Weights(logs, values, wrong)
        if "names" not in state:  # there was nothing to see
            return Weights(np.full(batch.frame.height, np.nan), np.zeros(0))
        logs = (self.rule.alpha - 1) * np.log(state["counts"])  # type: ignore[operator]  # checked
        if self.rule.concepts is not None:
            return self._by_entries(batch, state["names"], logs)
        series = batch.frame.select(column(self.needs()[0]).cast(pl.Int64)).to_series()
        found = np.full(len(series), np.nan)
        known = np.flatnonzero(series.is_not_null().to_numpy())
        found[known] = logs[np.searchsorted(state["names"], series.drop_nulls().to_numpy())]
        return Weights(found, found)

    def _by_entries(self, batch: Batch, names: np.ndarray, logs: np.ndarray) -> Weights:
        """Weights by the matched entries, of which [E] names have [E] log weights."""
        own = matches(batch, self.needs())
        found = np.where(own.unscored, np.nan, -math.inf)
        rows = np.flatnonzero(own.lengths)
        if len(rows):
            each = logs[np.searchsorted(names, own.ids)]
            lengths = own.lengths[rows]
            starts = np.cumsum(lengths) - lengths
            largest = np.maximum.reduceat(each, starts)
            found[rows] = largest
            if self.rule.combine == "mean":
                shares = np.exp(each - np.repeat(largest, lengths))
                found[rows] += np.log(np.add.reduceat(shares, starts) / lengths)
        return Weights(found, found)

    def removals(self, weights: Weights) -> dict[str, np.ndarray]:
        reason = "zero_weight" if self.rule.concepts is None else "unmatched"
        return {reason: np.isneginf(weights.logs)}

    def refusal(self, uid: str, value: float) -> str:
        return (
            f"the weight {self.rule.column} of {uid} is {value}: weights are 0 or more and finite; "
            f'remove such rows before, by `- where: "{self.rule.column} between 0 and 1e300"`, say'
        )

    def prepared(self, scored: int, state: State) -> State:
        return {**state, "positive": scored}

    def refusal_of_zeros(self, rows: int) -> str | None:
        if self.rule.column is None:
            return None
        return (
            f"the weight {self.rule.column} is 0 in all {rows} rows that have one: nobody can win"
        )

    def decides_others(self) -> bool:
        return self.rule.column is not None  # else it weighs by counts of those it saw

    def shows(self, state: State) -> Shown:
        if self.rule.concepts is not None:
            return Shown((), {})
        return Shown(self.needs(), {}, self.needs() if self.rule.column is not None else ())


class _Once(_Weighted):
    """Without putting back."""

    def lost_by_a_draw(self) -> float:
        return math.inf

    def planned(self, histogram: Histogram, state: State, until: float) -> Schedule:
        return distinct(self.lattice(state["centre"]), histogram, until)


class _Repeated(_Weighted):
    """With putting back."""

    makes_copies = True

    def lost_by_a_draw(self) -> float:
        return 0.0

    def most_allowed(self) -> int | None:
        return self.rule.at_most

    def planned(self, histogram: Histogram, state: State, until: float) -> Schedule:
        return repeated(self.lattice(state["centre"]), histogram, until)
