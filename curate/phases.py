"""Phases of steps over shards and blocks: a verdict after what flows, then at most one barrier."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import columns, decide, fates, storage, verdicts
from curate.columns import Span
from curate.compiled import Compiled, Phase, is_scorer, pool_children
from curate.decide import States
from curate.downloads.download import Download
from curate.errors import BudgetExceeded, ConfigError
from curate.features import FittedFeature
from curate.fitted import content
from curate.groups import grouping
from curate.learnt import learnt
from curate.lease import Lease
from curate.pipeline_file.schema import Step
from curate.pools.pool import Pool
from curate.records import Recorder
from curate.runner import Runner, fold
from curate.shuffle import MEMBER, Exchange
from curate.step import fingerprint
from filters import Counts, GroupFilter, PoolFilter, State, Unbound
from filters._pairs import PairFilter
from filters._quota import QuotaFilter


@dataclass
class Run:
    """What the run loop holds: small values only."""

    plan: Compiled
    pool: Pool
    runner: Runner
    lease: Lease
    recorder: Recorder
    grow: Callable[[Runner, float], Runner]  # a runner that suits so many seconds of one core
    chain: str = ""
    before: str = fates.START
    rests_on: str = ""  # the chain before the barrier that was decided last
    selection: str = ""  # changes with the rows that are kept and their copies, once it is known
    states: States = field(default_factory=dict)
    counts: pl.DataFrame = field(default_factory=pl.DataFrame)

    def spans(self) -> list[Span]:
        """Every block, whole; one of empty shards alone has nothing to decide."""
        rows = self.pool.block_rows().tolist()
        return [Span(block, 0, count) for block, count in enumerate(rows) if count]

    def survivors(self) -> int:
        """Rows still in."""
        return int(self.counts.filter(pl.col("step").is_null())["rows"].sum())

    def map_counts(self, work: Any, label: str) -> pl.DataFrame:
        """Run a block task that gives counts over all blocks, and add them up."""
        spans = self.spans()
        self.recorder.begin(label, len(spans))
        total = fold(self._watched(self.runner.map(work, spans, label), label), fates.add_counts)
        self.recorder.end(label)
        return total if total is not None else fates.no_counts()

    def _watched(self, results: Iterator[Any], label: str) -> Iterator[Any]:
        for result in results:
            self.lease.check()
            self.recorder.task(label)
            yield result


def _chain(run: Run, phase: Phase) -> str:
    chain = run.chain
    for index in range(phase.first, phase.stop):
        chain = linked(run, chain, run.plan.steps[index])
    return chain


def linked(run: Run, chain: str, step: Step) -> str:
    """The fingerprint of a verdict: all before it, the step, and what else decides."""
    name = step.name
    link: list[Any] = [chain, name, run.plan.recipes[name], run.plan.lost.get(name, {})]
    if isinstance(step, Download):
        link.append(download_content(run, name))
    if isinstance(step, FittedFeature):
        link.append(content(run.plan.work, name))
    return fingerprint(link)


def download_content(run: Run, name: str, of: Literal["rows", "pictures"] = "rows") -> str:
    """A digest of what a download has: (row, status, hash) of every row, not times or messages.

    Args:
        run: The run.
        name: Of the download.
        of: pictures: leave out rows that have none, whatever the reason is this time.
    """
    digest = hashlib.sha256()
    for block in range(run.pool.blocks):
        found = columns.store(run.plan.work, name).read(block, ["status", "error", "sha256"])
        if of == "pictures":
            found = found.filter(pl.col("status").cast(pl.String) == "success")
        texts = [pl.col(field).cast(pl.String).fill_null("") for field in found.columns]
        lines = found.select(pl.concat_str(texts, separator=" ")).to_series()
        digest.update("\n".join([*lines.to_list(), ""]).encode())
    return digest.hexdigest()


def _seal_state(run: Run, after: str, states: States, link: dict[str, Any]) -> None:
    counts = [list(row) for row in run.counts.sort("step", "reason").rows()]
    said = {"chain": run.chain, "rests_on": run.rests_on, "counts": counts, "states": states}
    verdicts.seal(run.plan.work, after, {**said, "link": link})


def _link(run: Run, first: int, stop: int) -> dict[str, Any]:
    """What a reader of an unfinished run goes by: the verdict before, and the steps since."""
    own = {
        step.name: fingerprint(run.plan.recipes[step.name]) for step in run.plan.steps[first:stop]
    }
    return {"before": [run.before, run.chain], "recipes": own}


def _reuse(run: Run, after: str) -> bool:
    """Take over a verdict made from the very same, if there is one."""
    state = verdicts.sealed(run.plan.work, after)
    if state is None or state["chain"] != run.chain:
        verdicts.unseal(run.plan.work, after)
        return False
    run.counts = pl.DataFrame(state["counts"], schema=fates.no_counts().schema, orient="row")
    run.states.update(state["states"])
    run.before = after
    return True


def begin(run: Run) -> None:
    """The verdict that everything starts from: whom the pool itself cannot use."""
    if not _reuse(run, fates.START):
        run.counts = run.map_counts(partial(decide.write_initial, run.plan), "start")
        _seal_state(run, fates.START, {}, {})


def rows(run: Run, phase: Phase) -> None:
    """Materialise the verdict after the flowing steps of a phase."""
    if phase.first == phase.stop:
        return
    after = run.plan.steps[phase.stop - 1].name
    link = _link(run, phase.first, phase.stop)
    run.chain = _chain(run, phase)
    if not _reuse(run, after):
        work = partial(decide.write_rows, run.plan, run.before, after, (phase.first, phase.stop))
        # Under a name of its own, where the step before it has times of its own.
        label = f"{after}: decide" if is_scorer(run.plan.steps[phase.stop - 1]) else after
        run.counts = run.map_counts(work, label)
        run.before = after
        _seal_state(run, after, {}, link)
    _check_budgets(run, range(phase.first, phase.stop))


def barrier(run: Run, index: int) -> None:
    """Fit and apply one step that must see all survivors."""
    step = run.plan.steps[index]
    run.rests_on = run.chain
    link = _link(run, index, index + 1)
    run.chain = linked(run, run.chain, step)
    before = verdicts.sealed(run.plan.work, step.name)
    if not _reuse(run, step.name):
        try:
            same = before is not None and before.get("rests_on") == run.rests_on
            states = _decided(run, index, before["states"] if before and same else {})
        except Unbound as error:  # the columns are there, and their values are of something else
            raise ConfigError(f"{step.name}: {error}") from None
        run.states.update(states)
        run.before = step.name
        _seal_state(run, step.name, states, link)
    _check_budgets(run, (index,))


def _decided(run: Run, index: int, learnt_before: States) -> States:
    """Fit a barrier, write its verdict, and give what it learnt.

    Args:
        run: The run.
        index: The barrier.
        learnt_before: What other recipes of it learnt from the very same rows.
    """
    step = run.plan.steps[index]
    if isinstance(step, GroupFilter):
        state = _learnt(run, index, step)
        run.counts = _grouped(run, index, step, state)
        return {step.name: state}
    states = {
        child.name: _fitted(run, index, child, learnt_before.get(child.name, {}))
        for child in pool_children(step)
    }
    work = partial(decide.write_kept, run.plan, run.before, index, states)
    run.counts = run.map_counts(work, step.name)
    return states


def _fitted(run: Run, index: int, child: PoolFilter, before: State) -> dict[str, Any]:
    state = child.again(before) or child.start(Counts(run.states["pool"]["rows"], run.survivors()))
    while not child.finished(state):
        work = partial(decide.summarize, run.plan, run.before, index, (child, state))
        summary = fold(run.runner.map(work, run.spans(), child.name), child.merge)
        state = child.fit(summary, state)
        run.lease.check()
    return state


def _grouped(run: Run, index: int, step: GroupFilter, state: State) -> pl.DataFrame:
    plan, spans = run.plan, run.spans()
    folder = storage.join(plan.work, "state", f"{step.name}.shuffle")
    storage.remove(folder)
    group = grouping(plan, step, state)
    readers = group.readers(run.survivors(), MEMBER.itemsize)
    there = Exchange(storage.join(folder, "there"), run.pool.blocks, readers)
    back = Exchange(storage.join(folder, "back"), readers, run.pool.blocks)
    for block in set(range(run.pool.blocks)) - {span.block for span in spans}:
        there.write(block, np.empty(0, dtype=MEMBER), np.empty(0, dtype=np.int64))
    send = partial(decide.send_members, plan, run.before, index, (group, there))
    for _ in run.runner.map(send, spans, step.name):
        run.lease.check()
    if spans:
        settle = partial(decide.decide_partition, group, there, back)
        for _ in run.runner.map(settle, range(readers), step.name):
            run.lease.check()
    write = partial(decide.write_groups, plan, run.before, index, (group, back))
    counts = run.map_counts(write, step.name)
    storage.remove(folder)
    return counts


def _learnt(run: Run, index: int, step: GroupFilter) -> State:
    """What a group filter knows before it decides, or what there is to say of it."""
    if isinstance(step, QuotaFilter):
        return _quotas(run, index, step)
    if not isinstance(step, PairFilter):
        return {}
    work = partial(decide.count_blind, run.plan, run.before, index)
    blind = sum(run.runner.map(work, run.spans(), step.name))
    return {"rows_not_compared": blind} if blind else {}


def _quotas(run: Run, index: int, step: QuotaFilter) -> State:
    """What a quota filter learns from all survivors."""
    work = partial(decide.summarize_groups, run.plan, run.before, index)
    summary = fold(run.runner.map(work, run.spans(), step.name), step.merge)
    counts = Counts(run.states["pool"]["rows"], run.survivors())
    arrays = {name: learnt(run.plan, step.name, name) for name in step.learnt()}
    return step.fit(summary, counts, arrays)


def _check_budgets(run: Run, indices: Sequence[int]) -> None:
    """Stop where a step removed, or lost, more than the pipeline file allows."""
    settings = run.plan.config.run
    for index in indices:
        name = run.plan.steps[index].name
        entered, removed, lost = step_totals(run.counts, run.plan, index)
        allowed = settings.max_removed.get(name)
        if allowed is not None and removed > allowed * entered:
            raise BudgetExceeded(
                f"{name} removed {removed} of {entered} rows ({removed / entered:.1%}); "
                f"run.max_removed.{name} allows {allowed:.1%}. "
                f"`curate report {run.plan.work}` shows whom it removed."
            )
        budget = settings.error_budget.get(name, 0.0)
        if lost > budget * entered:
            raise BudgetExceeded(
                f"{name} lost {lost} of {entered} rows ({lost / entered:.2%}) to failed work; "
                f"run.error_budget.{name} allows {budget:.2%}. Run again to retry them."
            )


def step_totals(counts: pl.DataFrame, plan: Compiled, index: int) -> tuple[int, int, int]:
    """(rows in, rows removed, rows lost) of a step."""
    earlier = [fates.START, *(step.name for step in plan.steps[:index])]
    gone = int(counts.filter(pl.col("step").is_in(earlier))["rows"].sum())
    own = counts.filter(pl.col("step") == plan.steps[index].name)
    is_lost = pl.col("reason").str.starts_with(fates.LOST)
    lost = int(own.filter(is_lost)["rows"].sum())
    return int(counts["rows"].sum()) - gone, int(own["rows"].sum()) - lost, lost
