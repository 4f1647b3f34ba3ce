"""What each filter by itself says of some rows of a block, whatever the others say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates
from curate.columns import Column, Span
from curate.compiled import Compiled, needs_of, pool_children
from curate.decide import States, say
from curate.downloads.download import Download
from curate.errors import ConfigError
from curate.learnt import learnt
from curate.pipeline_file.schema import AnyOf, Step
from curate.report.facts import stops
from curate.report.probe.choice import MOST, Choice
from curate.sample import UID
from filters import UNSCORED, Batch, Verdict, column, structured
from filters._draws import Draws

_ROW = np.uint64(0xFFFFFFFF)  # the bits of an address that are the row of its block
UNDECIDED = ":" + UNSCORED  # how the reason of a filter inside any_of ends


@dataclass(frozen=True, eq=False)
class Looked:
    """K rows, F filters and S scores; rows that lack a column have nothing but zeros there."""

    draws: np.ndarray  # [K] float64
    uids: np.ndarray  # [K] UID
    addresses: np.ndarray  # [K] uint64
    complete: np.ndarray  # [K] bool: rows for which every column was computed
    removed: np.ndarray  # [K, F] bool
    unscored: np.ndarray  # [K, F] bool: removed for want of a value
    scores: np.ndarray  # [K, S] float64, NaN where there is none
    refused: frozenset[int] = frozenset()  # of the F, those that some row is an error to

    def smallest(self) -> Looked:
        """Those MOST rows with the smallest draws; ties go to the smaller uid, then address."""
        if len(self.draws) <= MOST:
            return self
        keys = (self.addresses, self.uids["f1"], self.uids["f0"], self.draws)
        chosen = np.sort(np.lexsort(keys)[:MOST])  # addresses of a block stay in order
        return replace(self, **{name: part[chosen] for name, part in self._parts().items()})

    def plus(self, other: Looked) -> Looked:
        """Both in one, no more than needed: sorting is put off until there are twice too many."""
        theirs = other._parts()
        parts = {name: np.concatenate([own, theirs[name]]) for name, own in self._parts().items()}
        both = replace(self, refused=self.refused | other.refused, **parts)
        return both.smallest() if len(both.draws) > 2 * MOST else both

    def _parts(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "refused"}


def nothing(choice: Choice) -> Looked:
    """What a pool without rows gives."""
    return _empty(np.zeros(0), np.zeros(0, dtype=UID), np.zeros(0, dtype=np.uint64), choice)


def _empty(draws: np.ndarray, uids: np.ndarray, addresses: np.ndarray, choice: Choice) -> Looked:
    rows, filters = len(draws), len(choice.filters)
    return Looked(
        draws,
        uids,
        addresses,
        np.zeros(rows, dtype=bool),
        np.zeros((rows, filters), dtype=bool),
        np.zeros((rows, filters), dtype=bool),
        np.full((rows, len(choice.scores)), np.nan),
    )


def look(plan: Compiled, after: str, choice: Choice, states: States, span: Span) -> Looked:
    """What the filters say of a block's rows; held at once is a column of the block."""
    found = _drawn(plan, after, choice, span)
    rows = (found.addresses & _ROW).astype(np.int64) - span.start
    complete = np.flatnonzero(_complete(plan, choice, span)[rows])
    found.complete[complete] = True
    table = _Table(plan, span, rows[complete])
    refused = set()
    for number, index in enumerate(choice.filters):
        step = plan.steps[index]
        batch = _batch(plan, index, table, (found.uids[complete], found.addresses[complete]))
        said = _said(plan, step, batch, states)
        if said is None:
            refused.add(number)
            continue
        found.removed[complete, number] = said.copies == 0
        found.unscored[complete, number] = _unscored(step, said)
    for number, (index, name) in enumerate(choice.scores):
        found.scores[complete, number] = table.numbers(index, name)
    return replace(found, refused=frozenset(refused))


def _drawn(plan: Compiled, after: str, choice: Choice, span: Span) -> Looked:
    """The rows of a block that are looked at."""
    usable = stops(plan, fates.read(plan.work, after, span)) >= choice.first
    uids = columns.uids(plan.work, span)
    draws = chance.uniform(plan.config.seed, "probe", uids)
    rows = np.flatnonzero(usable & (draws < choice.share))
    addresses = (np.uint64(span.block) << np.uint64(32)) + (rows + span.start).astype(np.uint64)
    return _empty(draws[rows], uids[rows], addresses, choice).smallest()


def _complete(plan: Compiled, choice: Choice, span: Span) -> np.ndarray:
    """[len(span)] bool: rows for which every step that is read made its columns."""
    found = np.ones(len(span), dtype=bool)
    for name in choice.stores(plan):
        store = columns.store(plan.work, name)
        if isinstance(plan.steps[plan.index(name)], Download):
            stored = store.read(span.block, ["status"]).filter(pl.col("status") == "success")
            rows = stored[columns.ROW].to_numpy()
        else:
            rows = store.rows(span.block)
        there = np.zeros(len(span), dtype=bool)
        there[rows.astype(np.int64) - span.start] = True
        found &= there
    return found


class _Table:
    """The columns of [K] rows of a span, each read once however many filters ask for it."""

    def __init__(self, plan: Compiled, span: Span, rows: np.ndarray) -> None:
        self._plan = plan
        self._span = span
        self._rows = rows
        self._read: dict[tuple[str, Column], pl.Series] = {}

    def frame(self, index: int, names: tuple[str, ...]) -> pl.DataFrame:
        """The named columns as a step sees them."""
        found = {name: self._column(name, self._plan.registries[index][name]) for name in names}
        return structured(found, len(self._rows))

    def numbers(self, index: int, name: str) -> np.ndarray:
        """[K] float64 of a column, NaN where a row has none."""
        values = self._column(name, self._plan.registries[index][name])
        return values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()

    def _column(self, name: str, there: Column) -> pl.Series:
        if (name, there) not in self._read:
            whole = columns.load(self._plan.work, {name: there}, [name], self._span)
            self._read[name, there] = whole[self._rows].select(column(name)).to_series()
        return self._read[name, there]


def _batch(
    plan: Compiled, index: int, table: _Table, named: tuple[np.ndarray, np.ndarray]
) -> Batch:
    """What a filter sees of the rows with these [K] uids and addresses, as in the run."""
    step = plan.steps[index]
    draw = partial(chance.uniform, plan.config.seed, step.name, named[0])
    frame = table.frame(index, needs_of(step))
    return Batch(frame, *named, draw, partial(learnt, plan, step.name))


def _said(plan: Compiled, step: Step, batch: Batch, states: Mapping[str, Any]) -> Verdict | None:
    """What a filter says; None where a row that never came to it in the run is an error to it."""
    for child in pool_children(step):
        if isinstance(child, Draws):
            wrong = child.weights(batch, states[child.name]).wrong
            if wrong is not None and wrong.any():
                return None
    try:
        return say(plan, step, batch, dict(states))
    except ConfigError:  # it decided in the run: so these rows are what it cannot decide
        return None


def _unscored(step: Step, said: Verdict) -> np.ndarray:
    """[K] bool: rows removed for want of a value; by any_of if each of its filters lacked one."""
    if not isinstance(step, AnyOf):
        return said.reason.eq_missing(UNSCORED).to_numpy()
    lacked = said.reason.str.split(" ").list.eval(pl.element().str.ends_with(UNDECIDED))
    return lacked.list.all().fill_null(value=False).to_numpy()
