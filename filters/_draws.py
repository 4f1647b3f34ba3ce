"""What filters have in common that draw until there are so many copies; subclasses say how."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from filters import UNSCORED, Batch, Counts, PoolFilter, State, Summary, Unbound, Verdict
from filters import _radix, reasons_of
from filters._clocks import Arrivals, Race, arrivals
from filters._schedule import CENTRAL, Histogram, Lattice, Schedule, added
from filters._top import words_of

_SPREAD = 8.0  # standard deviations, at most, of how many were drawn by a time
_DOUBT = 2e-4  # of the draws: how far the mean field may be off
_WORDS = 5  # of a draw: its time as a key, the two halves of the uid, the address, its number


class Draws(PoolFilter):
    """Draws samples, some of them more than once, until there are exactly so many copies.

    Passes: a histogram of the log weights (again around another centre where weights are far from
    0); then those draws that come near the predicted time of the last one, again where it was not
    among them. So the last draw is exact, and nothing depends on how rows are spread over batches.
    """

    def log_weights(self, batch: Batch, state: State) -> np.ndarray:
        """[N] float64, NaN where unscored, -inf where never drawn; infinite ones are refused."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def wanted(self, rows: int) -> int:
        """How many copies are drawn, of so many rows."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def lattice(self, centre: float) -> Lattice:
        """The bins of log weights."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def planned(self, histogram: Histogram, state: State, until: float) -> Schedule:
        """The times of draws up to so many; raises Unbound."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def anchor(self, scored: int) -> int:
        """The rank around which log weights matter most."""
        return max(1, scored // 2)

    def refused(self, row: list[Any]) -> str:
        """What is wrong with a row, `[uid, value]`."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def start(self, counts: Counts) -> State:
        return {"rows": counts.survivors, "draws": self.wanted(counts.survivors), "centre": 0.0}

    def finished(self, state: State) -> bool:
        return "last" in state

    def summarize(self, batch: Batch, state: State) -> Summary:
        weights = self.log_weights(batch, state)
        if "ends" in state:
            return _near(batch, self._raced(batch, weights, state, _span(state)))
        wrong = np.flatnonzero(np.isposinf(weights))
        finite = weights[np.isfinite(weights)]
        return {
            "histogram": self.lattice(state["centre"]).histogram(finite),
            "never": int(np.isneginf(weights).sum()),
            "wrong": _smallest(batch, wrong),
        }

    def merge(self, left: Summary, right: Summary) -> Summary:
        if "histogram" not in left:
            near = np.concatenate([left["near"], right["near"]])
            most = max(left["most"], right["most"])
            sums = {k: left[k] + right[k] for k in ("before", "rows", "squares")}
            return {**sums, "most": most, "near": near}
        wrong = [one for one in (left["wrong"], right["wrong"]) if one is not None]
        return {
            "histogram": added(left["histogram"], right["histogram"]),
            "never": left["never"] + right["never"],
            "wrong": min(wrong, default=None),
        }
