"""Which of several samples stays: the one with the highest, or the lowest, value of a column."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from filters import Available, Batch, Unbound, column


class Highest(BaseModel):
    """The one with the highest value, missing values last; ties go to the smaller uid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    highest: str


class Lowest(BaseModel):
    """The one with the lowest value, missing values last; ties go to the smaller uid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: str


Keep = Highest | Lowest


def columns_of(keep: Keep | None) -> tuple[str, ...]:
    """The column that decides, if one does."""
    if keep is None:
        return ()
    return (keep.highest if isinstance(keep, Highest) else keep.lowest,)


def refuse_text(keep: Keep | None, available: Available) -> None:
    """Raise Unbound where the column that decides holds no numbers."""
    for name in columns_of(keep):
        if available.get(name) == "String":
            raise Unbound(f"{name} holds text: `keep` takes a column of numbers")


def priority(keep: Keep | None, batch: Batch) -> np.ndarray:
    """[N] float64: higher goes first, NaN last."""
    if keep is None:
        return np.zeros(batch.frame.height)
    values = batch.frame.select(column(*columns_of(keep)).cast(pl.Float64)).to_series()
    numbers = values.fill_null(float("nan")).to_numpy()
    return np.asarray(numbers if isinstance(keep, Highest) else -numbers)
