"""What a report is made of, and the parts of it that every section asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from curate.columns import Registry, Span
from curate.compiled import Compiled
from curate.decide import shown_by
from curate.fates import START, Fates
from curate.pools.pool import Pool
from filters import Shown, structured

Extent = Literal["whole", "brief"]


@dataclass(frozen=True)
class Facts:
    """A finished selection."""

    plan: Compiled
    pool: Pool
    counts: pl.DataFrame  # (step, reason, rows, copies); step is null for those still in
    states: Mapping[str, dict[str, Any]]  # {filter: what it learnt}
    after: str  # the last verdict
    not_reached: tuple[str, ...] = ()  # names of the steps that an unfinished run did not reach
    ended: Literal["whole", "half-way"] = "whole"  # half-way: there is no subset

    def spans(self) -> list[Span]:
        """Every block that has rows, whole."""
        if self.pool.rows == 0:
            return []
        rows = self.pool.block_rows().tolist()
        return [Span(block, 0, count) for block, count in enumerate(rows) if count]


def unfinished(facts: Facts) -> dict[str, Any] | None:
    """What a report says of a run that ended half-way; None for a finished one."""
    if facts.ended == "whole":
        return None
    reached = facts.plan.steps[-1].name if facts.plan.steps else None
    return {"reached": reached, "not_reached": list(facts.not_reached)}


@dataclass(frozen=True)
class Deciding:
    """A number that a filter decides by: a column, or what it makes of some."""

    name: str
    columns: tuple[str, ...]  # that it is made of
    thresholds: Mapping[str, float]  # {reason: threshold}
    keeps: Literal["high", "low"] | None  # which values pass, where there is one threshold
    alone: bool  # whether nothing else decides too
    value: pl.Expr | None = None  # None: the column of that name


@dataclass(frozen=True)
class Look:
    """One filter, and what explains its verdicts."""

    index: int  # of its step
    step: str
    filter: str  # the step's name, but for those inside any_of
    shown: Shown

    @property
    def scores(self) -> list[Deciding]:
        """The columns that it decides by; thresholds are in the only one."""
        shown = self.shown
        only = len(shown.scores) == 1
        limits = shown.thresholds if only else {}
        alone = only and self.filter == self.step
        return [Deciding(name, (name,), limits, shown.keeps, alone) for name in shown.scores]

    @property
    def deciding(self) -> list[Deciding]:
        """All numbers that it decides by."""
        measures = self.shown.measures
        alone = sum(len(one.limits) for one in measures) == 1 and self.filter == self.step
        made = [
            Deciding(one.name, self.shown.columns, one.limits, one.keeps, alone, one.value)
            for one in measures
        ]
        return [*self.scores, *made]


def looks(facts: Facts) -> list[Look]:
    """Every filter in order, those inside any_of by themselves."""
    states = dict(facts.states)
    return [
        Look(index, step.name, name, _of_numbers(shown, facts.plan.registries[index]))
        for index, step in enumerate(facts.plan.steps)
        for name, shown in shown_by(step, states).items()
    ]


def _of_numbers(shown: Shown, registry: Registry) -> Shown:
    """Without what is no number: a condition may compare dates, or text."""
    if not shown.measures:
        return shown
    held = {name: registry[name].dtype.partition("(")[0] for name in shown.columns}
    empty = {name: pl.Series(name, [], _SIMPLE.get(held[name], pl.Null)) for name in held}
    frame = structured(empty, 0)
    numbers = (one for one in shown.measures if frame.select(one.value).dtypes[0].is_numeric())
    return replace(shown, measures=tuple(numbers))


_SIMPLE: dict[str, Any] = {
    str(kind): kind
    for kind in (
        pl.Boolean, pl.String, pl.Date, pl.Float32, pl.Float64, pl.Int8, pl.Int16, pl.Int32,
        pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
    )
}  # fmt: skip


def stops(plan: Compiled, found: Fates) -> np.ndarray:
    """[N] int32: the index of the step that removed each row.

    It is the number of steps for those still in, and -1 for rows that the pool itself could not
    use: a row reached step i if its number is at least i.
    """
    names = [START, *(step.name for step in plan.steps)]
    numbers = [len(plan.steps), *(names.index(step) - 1 for step, _ in found.known)]
    return np.asarray(np.array(numbers, dtype=np.int32)[found.code])


def kind(plan: Compiled, index: int) -> str:
    """The YAML name of a step's kind."""
    return plan.kind(plan.config.steps[index])


def plain(value: Any) -> Any:
    """A value as JSON can say it: numbers that are not finite, and other types, become text."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def public(url: str) -> str:
    """A URL without what may be secret: user, password, and the query of a signed one."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("http", "https"):  # elsewhere `?` is a character of a glob
        return parts._replace(netloc=netloc, query="", fragment="").geturl()
    return url.replace(f"{parts.netloc}", netloc, 1)
