"""Keep samples whose image and caption agree, by CLIP similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from filters import Available, Batch, Filter, RowFilter, Shown, State, Unbound, column, one_of
from filters._top import Of, Top

_ENDINGS = (".similarity", "similarity_score")


class ClipScore(Filter):
    """Keeps samples by the cosine of image and text embedding (-1 to 1).

    `at_least` and `at_most` are inclusive, compared in the column's own precision (so that a stored
    float32 0.281 passes `at_least: 0.281`). `top_fraction` keeps exactly floor(f * n) rows and
    `top_count` exactly that many, ties going to the smaller uid; unscored rows count in n and are
    never kept. Sources: LAION-400M (2111.02114) `at_least: 0.3`, LAION-5B (2210.08402) 0.28,
    DataComp (2304.14108) `top_fraction: 0.3`.
    """

    example = "{top_fraction: 0.3, of: pool_threshold}"

    column: str | None = Field(None, description="the similarity column; the only one if left out")
    at_least: float | None = Field(None, ge=-1, le=1, description="lowest similarity that passes")
    at_most: float | None = Field(None, ge=-1, le=1, description="highest similarity that passes")
    top_fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    top_count: int | None = Field(None, ge=1, description="number of rows that stay")
    of: Of | None = Field(
        None, description="of what: survivors; pool_threshold (the value that cuts the whole pool "
        "there, as DataComp does); pool_count (that share of the pool's size, from the survivors)"
    )  # fmt: skip

    def problems(self) -> list[str]:
        limits = self.at_least is not None or self.at_most is not None
        shares = (self.top_fraction is not None) + (self.top_count is not None)
        if limits + shares != 1:
            return ["give one of: at_least and/or at_most, top_fraction, top_count"]
        if limits and self.of is not None:
            return ["`of` says of what a share is taken: it goes with top_fraction or top_count"]
        if None not in (self.at_least, self.at_most) and self.at_least > self.at_most:  # type: ignore[operator]  # neither is None
            return [f"at_least {self.at_least} is above at_most {self.at_most}: nothing can pass"]
        return self._top().problems() if shares else []

    def problems_after_filters(self) -> list[str]:
        shares = self.top_fraction is not None or self.top_count is not None
        return self._top().problems_after_filters() if shares else []

    def _top(self, found: str = "") -> _TopScore:
        fields: dict[str, Any] = {"top_fraction": self.top_fraction, "top_count": self.top_count}
        return _TopScore(name=self.name, column=found, of=self.of, **fields)

    def bind(self, available: Available) -> Filter:
        found = self.column or one_of(
            [name for name in available if name.endswith(_ENDINGS)],
            "a similarity",
            "put `- clip: {model: ..., weights: ...}` before this step",
        )
        if available.get(found) == "String":
            raise Unbound(f"{found} holds text, not numbers")
        if self.at_least is None and self.at_most is None:
            return self._top(found)
        return _Limits(name=self.name, column=found, at_least=self.at_least, at_most=self.at_most)


class _Limits(RowFilter):
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
        return Shown((self.column,), given, (self.column,))


class _TopScore(Top):
    column: str

    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def values(self, batch: Batch) -> np.ndarray:
        series = batch.frame.select(column(self.column).cast(pl.Float64)).to_series()
        return series.fill_null(float("nan")).to_numpy()

    def shows(self, state: State) -> Shown:
        found = {"below_threshold": state["threshold"]} if "threshold" in state else {}
        return Shown((self.column,), found, (self.column,))
