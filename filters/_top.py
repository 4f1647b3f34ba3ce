"""What filters that keep the best so many have in common; subclasses say by which value."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from math import isfinite
from typing import Literal

import numpy as np
from pydantic import Field

from filters import UNSCORED, Batch, Counts, PoolFilter, State, Summary, Verdict, _radix, reasons_of

Of = Literal["survivors", "pool_threshold", "pool_count"]


def exact_share(fraction: float, rows: int) -> int:
    """floor(fraction * rows), the fraction taken as the decimal written (0.29 of 100 is 29)."""
    return int((Decimal(repr(fraction)) * rows).to_integral_value(ROUND_FLOOR))


class Top(PoolFilter):
    """The contract of filters that keep the best so many; subclasses say by which value."""

    top_fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    top_count: int | None = Field(None, ge=1, description="number of rows that stay")
    skip_fraction: float | None = Field(
        None, gt=0, lt=1, description="share of the rows, the best ones, that goes all the same"
    )
    of: Of | None = Field(None, description="of what the share is taken")
    parity: Literal["datacomp"] | None = Field(
        None, description="decide as the published code does"
    )

    def values(self, batch: Batch) -> np.ndarray:
        """[N] float, higher is better, NaN where unscored."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def precision(self) -> _radix.Precision:
        """In which values are compared: the same for every batch."""
        return "float64"

    def problems(self) -> list[str]:
        if (self.top_fraction is None) == (self.top_count is None):
            return ["give one of top_fraction and top_count"]
        if self.top_fraction is None:
            return self._problems_of_a_count()
        if self.skip_fraction is not None and self.skip_fraction >= self.top_fraction:
            return [
                f"skip_fraction {self.skip_fraction} is not below top_fraction "
                f"{self.top_fraction}: nothing can pass"
            ]
        if self.parity is None:
            return []
        if self.skip_fraction is not None:
            return ["DataComp's code has no skip_fraction: leave it out, or leave out `parity`"]
        if self.of not in (None, "pool_threshold"):
            return ["DataComp takes the share of the whole pool: write `of: pool_threshold`"]
        return []

    def _problems_of_a_count(self) -> list[str]:
        fields = {"skip_fraction": self.skip_fraction, "parity": self.parity}
        found = [
            f"{name} goes with top_fraction" for name, value in fields.items() if value is not None
        ]
        if self.of == "pool_count":
            found.append(
                "top_count is a number of rows already: `of: pool_count` goes with top_fraction"
            )
        return found

    def problems_after_filters(self) -> list[str]:
        if self.of is not None or (self.top_count is not None):
            return []
        return [
            "a filter stands before: say of what the share is taken, `of: survivors`, "
            "`of: pool_threshold` or `of: pool_count`"
        ]

    def decides_others(self) -> bool:
        return True

    def over_pool(self) -> bool:
        return self.of == "pool_threshold"

    def start(self, counts: Counts) -> State:
        rows = counts.survivors if self.of in (None, "survivors") else counts.pool
        cuts = {"last": _radix.search(self._take(rows), rows)}
        if self.skip_fraction is not None:
            cuts["skipped"] = _radix.search(exact_share(self.skip_fraction, rows), rows)
        return {"rows": rows, **cuts}

    def _take(self, rows: int) -> int:
        """How many rows stay: the rank of the last of them."""
        if self.top_count is not None:
            return self.top_count
        fraction = self.top_fraction or 0.0
        if self.parity is None:
            return exact_share(fraction, rows)
        return int(rows * fraction) + 1  # the element n of a list that starts at 0

    def finished(self, state: State) -> bool:
        return all(_radix.resolved(cut) for cut in _cuts(state).values())

    def summarize(self, batch: Batch, state: State) -> Summary:
        values = self._values(batch)
        rows = None  # of the batch, of each key; None: all of them
        if (missing := np.isnan(values)).any():
            rows = np.flatnonzero(~missing)
            values = values[rows]
        keys = _radix.order(values)

        def words(chosen: np.ndarray) -> np.ndarray:
            return words_of(batch, chosen if rows is None else rows[chosen])

        return {
            name: _radix.look(cut, keys, words, self.precision())
            for name, cut in _cuts(state).items()
            if not _radix.resolved(cut)
        }

    def merge(self, left: Summary, right: Summary) -> Summary:
        return {name: _radix.add(found, right[name]) for name, found in left.items()}

    def fit(self, summary: Summary | None, state: State) -> State:
        if summary is None:
            return {**state, **{name: {"all": True} for name in _cuts(state)}}
        ties: Literal["cut", "kept"] = "cut" if self.parity is None else "kept"
        narrowed = {
            name: _radix.narrow(state[name], found, self.precision(), ties)
            for name, found in summary.items()
        }
        if self.parity is not None and "all" in narrowed["last"]:
            # The published threshold is then NaN, and nothing is at or above it; where the share
            # is the whole pool its code stops with an error, and everything scored stays here.
            narrowed["last"] = {"all": state["last"]["rank"] > state["rows"]}
        return {**state, **narrowed}

    def keep(self, batch: Batch, state: State) -> Verdict:
        values = self._values(batch)

        def words(chosen: np.ndarray) -> np.ndarray:
            return words_of(batch, chosen)

        kept = _radix.inside(state["last"], values, words, self.precision())
        removed = {UNSCORED: np.isnan(values)}
        if "skipped" in state:
            skipped = _radix.inside(state["skipped"], values, words, self.precision())
            removed["above_threshold"] = skipped
            kept = kept & ~skipped
        removed["below_threshold"] = ~kept
        return Verdict(kept.astype(np.uint32), reasons_of(removed))

    def _values(self, batch: Batch) -> np.ndarray:
        return np.asarray(self.values(batch), dtype=self.precision())

    def thresholds(self, state: State) -> dict[str, float]:
        """{reason: value at which it begins}, as far as it was found; JSON has no infinity."""
        reasons = {"below_threshold": "last", "above_threshold": "skipped"}
        found = {
            why: _radix.value_of(state[name]["key"], self.precision())
            for why, name in reasons.items()
            if "key" in state.get(name, {})
        }
        return {why: value for why, value in found.items() if isfinite(value)}


def words_of(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """[K, 3] uint64 that order [K] rows of a batch whose values are the same: uid, then address."""
    uids = batch.uids[rows]
    return np.stack([uids["f0"], uids["f1"], batch.addresses[rows]], axis=1)


def _cuts(state: State) -> dict[str, _radix.Cut]:
    return {name: state[name] for name in ("last", "skipped") if name in state}
