"""What one task does with one block: apply row filters, summarise, exchange, keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates
from curate.columns import Span
from curate.compiled import Compiled, is_scorer, needs_of
from curate.downloads.download import Download
from curate.errors import ConfigError, first_line
from curate.fates import LOST, START, Fates
from curate.features import Feature
from curate.groups import Grouping
from curate.learnt import learnt
from curate.pipeline_file.schema import AnyOf, Step
from curate.shuffle import DECISION, Exchange
from filters import (
    Batch,
    Filter,
    PoolFilter,
    RowFilter,
    State,
    Summary,
    Verdict,
    judge,
)
from filters._pairs import PairFilter
from filters._quota import QuotaFilter

States = dict[str, State]  # {filter name: what it learnt}


def batch_of(plan: Compiled, index: int, span: Span, rows: np.ndarray) -> Batch:
    """What a filter sees of some [K] rows (of the span)."""
    step = plan.steps[index]
    frame = columns.load(plan.work, plan.registries[index], needs_of(step), span)
    if len(rows) < len(span):
        frame = frame[rows]
    uids = _Uids(plan.work, span, rows)
    draw = partial(_uniform, plan.config.seed, step.name, uids)
    return Batch(
        frame, uids, partial(_addresses, span, rows), draw, partial(learnt, plan, step.name)
    )


class _Uids:
    """[K] UID of some rows of a span, read when first asked for."""

    def __init__(self, work: str, span: Span, rows: np.ndarray) -> None:
        self._place = (work, span, rows)

    def __call__(self) -> np.ndarray:
        return self.read

    @cached_property
    def read(self) -> np.ndarray:
        work, span, rows = self._place
        found = columns.uids(work, span)
        return found if len(rows) == len(span) else found[rows]


def _addresses(span: Span, rows: np.ndarray) -> np.ndarray:
    return (np.uint64(span.block) << np.uint64(32)) + (rows + span.start).astype(np.uint64)


def _for_child(plan: Compiled, batch: Batch, name: str) -> Batch:
    """The batch with the random numbers of a filter inside any_of."""
    return batch.drawing(partial(_uniform, plan.config.seed, name, lambda: batch.uids))


def _uniform(seed: int, name: str, uids: Callable[[], np.ndarray], salt: str) -> np.ndarray:
    return chance.uniform(seed, name, uids(), salt)


def apply_rows(plan: Compiled, so_far: Fates, span: Span, first: int, stop: int) -> Fates:
    """The fates after steps `first` to `stop`, none of which is a barrier."""
    for index in range(first, stop):
        step = plan.steps[index]
        rows = so_far.rows
        if is_scorer(step):
            said = presence(plan, step, span, rows)
        else:
            said = say(plan, step, batch_of(plan, index, span, rows), {})
        so_far = so_far.after(step.name, said)
    return so_far


def say(plan: Compiled, step: Step, batch: Batch, states: States) -> Verdict:
    """What a row or pool filter, or any_of, says of a batch."""
    if isinstance(step, AnyOf):
        return _any_of(plan, step, batch, states)
    if isinstance(step, RowFilter):
        try:
            return judge(step, batch)
        except pl.exceptions.PolarsError as error:  # a cast that a value does not stand, say
            raise ConfigError(f"{step.name} cannot be decided: {first_line(error)}") from None
    assert isinstance(step, PoolFilter), step
    return step.keep(batch, states[step.name])


def _any_of(plan: Compiled, step: AnyOf, batch: Batch, states: States) -> Verdict:
    said = [say(plan, c, _for_child(plan, batch, c.name), states) for c in step.steps]
    each = np.stack([verdict.copies for verdict in said])
    copies = each.max(axis=0) if step.copies == "max" else each.sum(axis=0)
    reasons = pl.DataFrame(
        {c.name: c.name + ":" + v.reason for c, v in zip(step.steps, said, strict=True)}
    ).with_columns(_gone=pl.Series(copies == 0))
    names = [child.name for child in step.steps]
    joined = pl.when("_gone").then(pl.concat_str(names, separator=" ", ignore_nulls=True))
    why = [verdict.because for verdict in said if verdict.because is not None]
    because = pl.select(pl.coalesce(why)).to_series() if why else None
    return Verdict(copies.astype(np.uint32), reasons.select(reason=joined).to_series(), because)


def presence(plan: Compiled, step: Step, span: Span, rows: np.ndarray) -> Verdict:
    """Who a download or feature removes: pictures that did not come, work that was lost."""
    assert isinstance(step, (Feature, Download)), step
    field = ["status", "error"] if isinstance(step, Download) else []
    stored = columns.store(plan.work, step.name).read(span.block, field, span.unit)
    index = pl.DataFrame({columns.ROW: (rows + span.start).astype(np.uint32)})
    found = index.join(
        stored.with_columns(_there=pl.lit(value=True)),
        on=columns.ROW,
        how="left",
        maintain_order="left",
    )
    there = found["_there"].fill_null(value=False).to_numpy()
    reason = fates.nothing(len(rows))
    if isinstance(step, Download):
        failed = found.select(
            pl.when(pl.col("status") != "success").then(pl.coalesce("error", "status"))
        ).to_series()
        reason = failed.cast(pl.String)
    if not there.all():
        reason = reason.scatter(
            np.flatnonzero(~there), _lost_kinds(plan, step.name, span, rows[~there])
        )
    return Verdict(reason.is_null().to_numpy().astype(np.uint32), reason)


def _lost_kinds(plan: Compiled, name: str, span: Span, rows: np.ndarray) -> list[str]:
    """Why rows have no value: the loss of their unit. A row that nobody lost is a bug of ours."""
    lost = plan.lost.get(name, {})
    kinds = dict.fromkeys(lost.values())
    assert kinds, f"{name}: {len(rows)} rows of block {span.block} have no value and no loss"
    return [f"{LOST}{next(iter(kinds))}"] * len(rows)


def write_initial(plan: Compiled, span: Span) -> pl.DataFrame:
    """Commit the verdict that everything starts from, and give its counts."""
    found = fates.initial(plan.work, span)
    fates.write(plan.work, START, span.block, found)
    return found.counts()


def write_rows(
    plan: Compiled, before: str, after: str, steps: tuple[int, int], span: Span
) -> pl.DataFrame:
    """Commit the verdict after some row steps, and give its counts."""
    found = apply_rows(plan, fates.read(plan.work, before, span), span, *steps)
    fates.write(plan.work, after, span.block, found)
    return found.counts()


def summarize(
    plan: Compiled, before: str, index: int, fitting: tuple[PoolFilter, State], span: Span
) -> Summary:
    """One block's contribution to a pool filter with what it has learnt so far."""
    child, state = fitting
    seen = plan.pool_after if child.over_pool() else before
    rows = fates.read(plan.work, seen, span).rows
    batch = _for_child(plan, batch_of(plan, index, span, rows), child.name)
    return child.summarize(batch, state)


def write_kept(plan: Compiled, before: str, index: int, states: States, span: Span) -> pl.DataFrame:
    """Commit the verdict after a pool filter (or an any_of that holds one)."""
    step = plan.steps[index]
    found = fates.read(plan.work, before, span)
    said = say(plan, step, batch_of(plan, index, span, found.rows), states)
    found = found.after(step.name, said)
    fates.write(plan.work, step.name, span.block, found)
    return found.counts()


def send_members(
    plan: Compiled, before: str, index: int, way: tuple[Grouping, Exchange], span: Span
) -> None:
    """Write one block's survivors to the partitions of their groups."""
    group, there = way
    rows = fates.read(plan.work, before, span).rows
    members = group.members(batch_of(plan, index, span, rows))
    there.write(span.block, members, group.reader(members, there.readers))


def decide_partition(group: Grouping, there: Exchange, back: Exchange, partition: int) -> None:
    """Decide the groups of one partition and send the removals back to their blocks."""
    told = group.decide(there.read(partition), partition)
    told = told[np.argsort(told["address"], kind="stable")]
    back.write(partition, told, (told["address"] >> np.uint64(32)).astype(np.int64))


def write_groups(
    plan: Compiled, before: str, index: int, way: tuple[Grouping, Exchange], span: Span
) -> pl.DataFrame:
    """Commit the verdict after a group filter."""
    group, back = way
    found = fates.read(plan.work, before, span)
    rows = found.rows
    told = back.read(span.block) if back.writers else np.empty(0, dtype=DECISION)
    said = group.verdict(batch_of(plan, index, span, rows), rows, told)
    found = found.after(group.step.name, group.explained(said, rows, told))
    fates.write(plan.work, group.step.name, span.block, found)
    return found.counts()


def count_blind(plan: Compiled, before: str, index: int, span: Span) -> int:
    """How many survivors of a block may have duplicates that were not looked for."""
    step = plan.steps[index]
    assert isinstance(step, PairFilter), step
    return step.blind(batch_of(plan, index, span, fates.read(plan.work, before, span).rows))


def summarize_groups(plan: Compiled, before: str, index: int, span: Span) -> Summary:
    """One block's contribution to what a quota filter learns."""
    step = plan.steps[index]
    assert isinstance(step, QuotaFilter), step
    rows = fates.read(plan.work, before, span).rows
    return step.summarize(batch_of(plan, index, span, rows))


def shown_by(step: Step, states: States) -> Any:
    """{filter: Shown} of a step, for the ledger and the report."""
    children: list[Filter] = []
    if isinstance(step, AnyOf):
        children = list(step.steps)
    elif isinstance(step, Filter):
        children = [step]
    return {child.name: child.shows(states.get(child.name, {})) for child in children}
