"""The numbers that filters decide by: scores, which are columns, and what they make of some."""

from __future__ import annotations

import numpy as np
import polars as pl

from curate import columns
from curate.columns import Column, Span
from curate.compiled import Compiled
from curate.report.facts import Deciding
from filters import column


def scores(plan: Compiled, index: int, name: str, span: Span) -> np.ndarray:
    """[len(span)] float64 of a column as a step sees it; NaN where a row has none."""
    frame = columns.load(plan.work, plan.registries[index], [name], span)
    return _numbers(frame.select(column(name)).to_series())


class Measured:
    """What filters measure of the rows of a block; the columns are read once."""

    def __init__(self, plan: Compiled, span: Span) -> None:
        """Nothing is read before it is asked for."""
        self._plan, self._span = plan, span
        self._frames: dict[tuple[tuple[str, Column], ...], pl.DataFrame] = {}

    def of(self, index: int, deciding: Deciding, rows: np.ndarray) -> np.ndarray:
        """[K] float64 of [K] rows that came to a step; NaN where a row has none.

        For other rows it is not asked: a condition may be an error for them.
        """
        registry = self._plan.registries[index]
        key = tuple((name, registry[name]) for name in deciding.columns)
        if key not in self._frames:
            self._frames[key] = columns.load(
                self._plan.work, registry, deciding.columns, self._span
            )
        frame = self._frames[key]
        if len(rows) < frame.height:
            frame = frame[rows]
        return _numbers(frame.select(deciding.value).to_series())


def _numbers(values: pl.Series) -> np.ndarray:
    if not values.dtype.is_float():
        values = values.cast(pl.Float64, strict=False)
    # Null becomes NaN; no -0.0 stays, for it would depend on order.
    return np.asarray(np.add(values.to_numpy(), 0.0, dtype=np.float64))
