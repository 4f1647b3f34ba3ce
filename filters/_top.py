"""Exact selection of the best m of n rows, streaming: a radix select on (value, uid, address).

Each pass counts one 16-bit digit of the key among the rows that may still be the last one kept;
once few are left they are gathered and sorted. Counts add up exactly, so the result does not depend
on how rows are spread over batches, and memory does not depend on n.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from math import isfinite
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters import UNSCORED, Batch, Counts, PoolFilter, State, Summary, Verdict

Of = Literal["survivors", "pool_threshold", "pool_count"]
GATHER = 1 << 17  # candidates few enough to hold at once: 4 MB of keys
DIGITS = 65_536


def exact_share(fraction: float, rows: int) -> int:
    """floor(fraction * rows), the fraction taken as the decimal written (0.29 of 100 is 29)."""
    return int((Decimal(repr(fraction)) * rows).to_integral_value(ROUND_FLOOR))


def keys_of(values: np.ndarray, batch: Batch) -> np.ndarray:
    """[N, 4] uint64, smaller is better: value descending, then uid, then address ascending."""
    values = np.asarray(values, dtype=np.float64) + 0.0  # -0.0 and 0.0 are the same score
    raw = values.view(np.uint64)
    sign = np.uint64(1 << 63)
    ascending = np.where(raw & sign, ~raw, raw | sign)
    return np.stack([~ascending, batch.uids["f0"], batch.uids["f1"], batch.addresses], axis=1)


def value_of(word: int) -> float:
    """The value whose key begins with `word`: the inverse of `keys_of`."""
    ascending = np.uint64(word) ^ np.uint64(2**64 - 1)
    sign = np.uint64(1 << 63)
    raw = ascending ^ sign if ascending & sign else ascending ^ np.uint64(2**64 - 1)
    return float(np.array([raw], dtype=np.uint64).view(np.float64)[0])


def at_most(keys: np.ndarray, boundary: list[int]) -> np.ndarray:
    """[N] bool: rows whose key does not come after the boundary, compared word by word."""
    result = np.ones(len(keys), dtype=bool)
    for word in reversed(range(len(boundary))):
        bound = np.uint64(boundary[word])
        result = (keys[:, word] < bound) | ((keys[:, word] == bound) & result)
    return result


def _digit(keys: np.ndarray, position: int) -> np.ndarray:
    shift = np.uint64(48 - 16 * (position % 4))
    return (keys[:, position // 4] >> shift) & np.uint64(DIGITS - 1)


def _candidates(keys: np.ndarray, prefix: list[int]) -> np.ndarray:
    for position, digit in enumerate(prefix):
        keys = keys[_digit(keys, position) == np.uint64(digit)]
    return keys


class Top(PoolFilter):
    """The contract of filters that keep the best so many; subclasses say by which value."""

    top_fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    top_count: int | None = Field(None, ge=1, description="number of rows that stay")
    of: Of | None = Field(None, description="of what the share is taken")

    def values(self, batch: Batch) -> np.ndarray:
        """[N] float64, higher is better, NaN where unscored."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def problems(self) -> list[str]:
        if (self.top_fraction is None) == (self.top_count is None):
            return ["give one of top_fraction and top_count"]
        if self.top_count is not None and self.of == "pool_count":
            return [
                "top_count is a number of rows already: `of: pool_count` goes with top_fraction"
            ]
        return []

    def problems_after_filters(self) -> list[str]:
        if self.of is not None or (self.top_count is not None):
            return []
        return [
            "a filter stands before: say of what the share is taken, `of: survivors`, "
            "`of: pool_threshold` or `of: pool_count`"
        ]

    def over_pool(self) -> bool:
        return self.of == "pool_threshold"

    def start(self, counts: Counts) -> State:
        rows = counts.survivors if self.of in (None, "survivors") else counts.pool
        if self.top_count is not None:
            take = self.top_count
        else:
            take = exact_share(self.top_fraction or 0.0, rows)
        return {"rows": rows, "take": take, "better": 0, "prefix": [], "gather": rows <= GATHER}

    def finished(self, state: State) -> bool:
        return "boundary" in state

    def summarize(self, batch: Batch, state: State) -> Summary:
        values = self.values(batch)
        scored = ~np.isnan(values)
        keys = _candidates(keys_of(values, batch)[scored], state["prefix"])
        if state["gather"]:
            return keys
        return np.bincount(_digit(keys, len(state["prefix"])).astype(np.int64), minlength=DIGITS)

    def merge(self, left: Summary, right: Summary) -> Summary:
        return np.concatenate([left, right]) if left.ndim == 2 else left + right

    def fit(self, summary: Summary | None, state: State) -> State:
        missing = state["take"] - state["better"]
        if summary is None or missing == 0:
            return {**state, "boundary": None, "all": summary is None}
        if state["gather"]:
            return self._fit_gathered(summary, missing, state)
        reached = np.cumsum(summary)
        if reached[-1] <= missing and not state["prefix"]:  # later, it is all of one digit
            return {**state, "boundary": None, "all": True}
        digit = int(np.searchsorted(reached, missing))
        before = int(reached[digit - 1]) if digit else 0
        inside = int(summary[digit])
        return {
            **state,
            "better": state["better"] + before,
            "prefix": [*state["prefix"], digit],
            "gather": inside <= GATHER or len(state["prefix"]) + 1 == 16,
        }

    def _fit_gathered(self, keys: np.ndarray, missing: int, state: State) -> State:
        if len(keys) <= missing and not state["prefix"]:
            return {**state, "boundary": None, "all": True}
        order = np.lexsort(keys.T[::-1])
        boundary = [int(word) for word in keys[order[missing - 1]]]
        threshold = value_of(boundary[0])
        shown = {"threshold": threshold} if isfinite(threshold) else {}  # JSON has no infinity
        return {**state, "boundary": boundary, **shown}

    def keep(self, batch: Batch, state: State) -> Verdict:
        values = self.values(batch)
        scored = ~np.isnan(values)
        if state["boundary"] is not None:
            kept = scored & at_most(keys_of(values, batch), state["boundary"])
        else:
            kept = scored & state["all"]
        flags = pl.DataFrame({"kept": kept, "scored": scored})
        why = pl.when("scored").then(pl.lit("below_threshold")).otherwise(pl.lit(UNSCORED))
        reason = flags.select(reason=pl.when(~pl.col("kept")).then(why)).to_series()
        return Verdict(kept.astype(np.uint32), reason)
