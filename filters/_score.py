"""What filters by one score have in common: limits, the best so many, or a band of ranks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters import Available, Batch, Filter, RowFilter, Shown, State, Unbound, column
from filters._radix import Precision
from filters._top import Of, Top


class Limits(RowFilter):
    """Keeps scores between two limits."""

    column: str
    at_least: float | None
    at_most: float | None

    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def passes(self) -> dict[str, pl.Expr]:
        rules = {}
        if self.at_least is not None:
            rules["below_threshold"] = column(self.column) >= self.at_least
        if self.at_most is not None:
            rules["above_threshold"] = column(self.column) <= self.at_most
        return rules

    def shows(self, state: State) -> Shown:
        limits = {"below_threshold": self.at_least, "above_threshold": self.at_most}
        given = {reason: limit for reason, limit in limits.items() if limit is not None}
        keeps: Literal["high", "low"] | None = "high" if self.at_most is None else "low"
        return Shown((self.column,), given, (self.column,), keeps if len(given) == 1 else None)


class Best(Top):
    """Keeps the best scores."""

    column: str
    dtype: str  # as polars prints it, "" where not known yet

    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def precision(self) -> Precision:
        return "float32" if self.dtype in ("Float16", "Float32") else "float64"

    def values(self, batch: Batch) -> np.ndarray:
        kind = pl.Float32 if self.precision() == "float32" else pl.Float64
        series = batch.frame.select(column(self.column).cast(kind)).to_series()
        return series.fill_null(float("nan")).to_numpy()

    def shows(self, state: State) -> Shown:
        limits = self.thresholds(state)
        return Shown((self.column,), limits, (self.column,), "high" if len(limits) == 1 else None)


class ByScore(Filter):
    """The fields that all filters by a score have, and what they become once bound."""

    becomes: ClassVar[tuple[type[Filter], ...]] = (Limits, Best)

    at_least: float | None = Field(None, description="lowest score that passes")
    at_most: float | None = Field(None, description="highest score that passes")
    top_fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    top_count: int | None = Field(None, ge=1, description="number of rows that stay")
    skip_fraction: float | None = Field(
        None, gt=0, lt=1, description="share of the rows, the best ones, that goes all the same"
    )
    of: Of | None = Field(
        None, description="of what: survivors; pool_threshold (the value that cuts the whole pool "
        "there, as DataComp does); pool_count (that share of the pool's size, from the survivors)"
    )  # fmt: skip
    parity: Literal["datacomp"] | None = Field(
        None, description="with top_fraction: the rows that DataComp's code keeps"
    )

    def problems(self) -> list[str]:
        limits = self.at_least is not None or self.at_most is not None
        shares = self._takes_a_share()
        if limits == shares:
            return ["give one of: at_least and/or at_most, top_fraction, top_count"]
        if not limits:
            return self._best().problems()
        for field in ("of", "parity", "skip_fraction"):
            if getattr(self, field) is not None:
                return [f"`{field}` says how a share is taken: it goes with top_fraction"]
        if None not in (self.at_least, self.at_most) and self.at_least > self.at_most:  # type: ignore[operator]  # neither is None
            return [f"at_least {self.at_least} is above at_most {self.at_most}: nothing can pass"]
        return []

    def problems_after_filters(self) -> list[str]:
        return self._best().problems_after_filters() if self._takes_a_share() else []

    def _takes_a_share(self) -> bool:
        return self.top_fraction is not None or self.top_count is not None

    def _best(self, found: str = "", dtype: str = "") -> Best:
        fields = ("name", "top_fraction", "top_count", "skip_fraction", "of", "parity")
        given: dict[str, Any] = {field: getattr(self, field) for field in fields}
        return Best(column=found, dtype=dtype, **given)

    def bind(self, available: Available) -> Filter:
        found = self.chosen(available)
        if available.get(found) in ("String", "Array"):
            raise Unbound(f"{found} holds {available[found].lower()}s, not numbers")
        if self._takes_a_share():
            return self._best(found, available.get(found, ""))
        return Limits(name=self.name, column=found, at_least=self.at_least, at_most=self.at_most)

    def chosen(self, available: Available) -> str:
        """The score column; raises Unbound."""
        raise NotImplementedError  # each filter by a score says so itself
