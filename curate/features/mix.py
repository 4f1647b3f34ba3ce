"""Feature: a weighted sum of scores that were first brought to one scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError
from curate.features import Columns, Field, FittedFeature, Part, Rows, _ranks
from curate.features._exact_sums import ExactSums, exact_sums
from curate.shuffle import Exchange
from filters import Batch, column

Normalise = Literal["standard", "minmax", "rank", "none"]


class Mix(FittedFeature):
    """A weighted sum of columns, each brought to one scale first.

    `standard` subtracts the mean and divides by the standard deviation of the population (divided
    by N, not N - 1). `minmax` maps the lowest to 0 and the highest to 1. `rank` maps a value to its
    rank among the samples, 0 lowest to 1 highest; those that share a value (as float32 has it)
    share the mean of their ranks. `none` takes values as they are. Of a column whose values are all
    equal, `standard` and `minmax` make 0, `rank` makes 0.5.

    Means and deviations are computed in integers, so that no order of the samples, files or workers
    changes a bit. M-FLYT (2503.08805) is such a sum of twelve standardised scores.
    """

    version: ClassVar[int] = 1

    name: str = "mix"
    of: dict[str, float] = Setting(
        min_length=1, description="weights of the columns: {clip.similarity: 0.2, dfn.score: 0.8}"
    )
    normalise: Normalise = Setting("standard", description="how a column is brought to scale")
    missing: Literal["drop", "mean"] = Setting(
        "drop",
        description="a sample without a value in some column: no score; or that column's mean "
        "stands in (one without any value has no score)",
    )

    def needs(self) -> tuple[str, ...]:
        return tuple(sorted(self.of))

    def gives(self) -> tuple[Field, ...]:
        about = (
            "the sum; null where a column has no finite value, with the error `missing:<column>`, "
            "or where the sum is `not_finite`"
        )
        return (Field("score", "float64", about),)

    def fit(self, rows: Rows, folder: str) -> None:
        names = self.needs()
        summaries = rows.map(partial(_summarize, names))
        total = reduce(_merged, summaries, {name: ExactSums() for name in names})
        scales = {name: _scale(self.normalise, total[name]).as_json() for name in names}
        counts = {name: total[name].count for name in names}
        if self.normalise == "rank":
            _fit_ranks(rows, names, folder)
        storage.commit_json(
            storage.join(folder, "scales.json"), {"scales": scales, "values": counts}
        )

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        scales = storage.read_json(storage.join(folder, "scales.json"))["scales"]
        terms = []
        for number, name in enumerate(self.needs()):
            ranks = _ranks.Ranks.load(_table(folder, number)) if self.normalise == "rank" else None
            terms.append(_Term(name, self.of[name], _Scale(**scales[name]), ranks))
        return partial(_mixed, terms, self.missing)

    def notes(self, folder: str) -> dict[str, Any]:
        found: dict[str, Any] = storage.read_json(storage.join(folder, "scales.json"))
        return found


@dataclass(frozen=True)
class _Scale:
    """How a column is brought to scale: (value - shift) / divide_by, or 0 where that is 0."""

    shift: float
    divide_by: float
    mean: float  # of the scaled values

    def as_json(self) -> dict[str, float]:
        return {"shift": self.shift, "divide_by": self.divide_by, "mean": self.mean}

    def scaled(self, values: np.ndarray) -> np.ndarray:
        if self.divide_by == 0:
            return np.zeros(len(values))
        with np.errstate(over="ignore", invalid="ignore"):  # the sum says `not_finite`
            scaled: np.ndarray = (values - self.shift) / self.divide_by
        return scaled


def _scale(normalise: Normalise, sums: ExactSums) -> _Scale:
    if normalise == "standard":
        return _Scale(sums.mean(), sums.deviation(), 0.0)
    if normalise == "rank":
        return _Scale(0.0, 1.0, 0.5)  # the table of ranks comes before
    if normalise == "none":
        return _Scale(0.0, 1.0, sums.mean())
    if sums.low >= sums.high:
        return _Scale(0.0, 0.0, 0.0)
    width = sums.high - sums.low
    return _Scale(sums.low, width, (sums.mean() - sums.low) / width)


@dataclass(frozen=True)
class _Term:
    """One column of the sum."""

    name: str
    weight: float
    scale: _Scale
    ranks: _ranks.Ranks | None

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """[N] float64 of [N] finite values."""
        return self.scale.scaled(values if self.ranks is None else self.ranks.share(values))


def _values(batch: Batch, name: str) -> np.ndarray:
    """[N] float64 of a column, NaN where there is no finite number."""
    found = batch.frame.select(column(name)).to_series()
    if not (found.dtype.is_numeric() or found.dtype in (pl.Boolean, pl.Null)):
        raise ConfigError(f"mix adds up numbers, and {name} is of type {found.dtype}")
    values = np.array(found.cast(pl.Float64).to_numpy())  # null comes as NaN
    values[~np.isfinite(values)] = np.nan
    return values


def _present(batch: Batch, name: str) -> np.ndarray:
    values = _values(batch, name)
    return np.asarray(values[~np.isnan(values)])


def _summarize(names: Iterable[str], part: Part) -> dict[str, ExactSums]:
    return {name: exact_sums(_present(part.batch, name)) for name in names}


def _merged(left: dict[str, ExactSums], right: dict[str, ExactSums]) -> dict[str, ExactSums]:
    return {name: add(left[name], right[name]) for name in left}


def _table(folder: str, number: int) -> str:
    return storage.join(folder, "ranks", f"{number:03d}")


def _fit_ranks(rows: Rows, names: tuple[str, ...], folder: str) -> None:
    """Count the values of each column: a task for each part, then one for each column."""
    exchange = Exchange(storage.join(folder, "shuffle"), rows.parts, len(names))
    for _ in rows.map(partial(_send_tallies, exchange, names)):
        pass
    for _ in rows.each(partial(_rank_column, exchange, folder), range(len(names))):
        pass
    exchange.remove()


def _send_tallies(exchange: Exchange, names: tuple[str, ...], part: Part) -> None:
    tallies = [_ranks.tally(_present(part.batch, name)) for name in names]
    reader = np.repeat(np.arange(len(names)), [len(one) for one in tallies])
    exchange.write(part.number, np.concatenate(tallies), reader)


def _rank_column(exchange: Exchange, folder: str, number: int) -> None:
    tallied = _ranks.merged(exchange.pieces(number))
    _ranks.Ranks.of(tallied).save(_table(folder, number))


def _mixed(terms: list[_Term], missing: Literal["drop", "mean"], part: Part) -> Columns:
    """The sum for [N] samples, in the order of the columns' names: it decides the last bits."""
    columns = [_values(part.batch, term.name) for term in terms]
    absent = np.isnan(columns)  # [columns, N]
    total = np.zeros(part.batch.frame.height)  # [N]
    for term, values, gone in zip(terms, columns, absent, strict=True):
        scaled = np.full(len(total), term.scale.mean)
        scaled[~gone] = term.scaled(values[~gone])
        with np.errstate(over="ignore", invalid="ignore"):
            total += term.weight * scaled
    unscored = absent.any(axis=0) if missing == "drop" else absent.all(axis=0)
    kinds = np.array([f"missing:{term.name}" for term in terms], dtype=object)
    errors = np.full(len(total), None, dtype=object)
    errors[~np.isfinite(total)] = "not_finite"
    errors[unscored] = kinds[absent.argmax(axis=0)][unscored]  # the first that misses
    total[unscored | ~np.isfinite(total)] = np.nan
    return Columns({"score": total}, errors=errors.tolist())
