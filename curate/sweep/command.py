"""The sweep itself: all variants of a pipeline in lockstep, block by block."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import fates, storage
from curate.columns import Span
from curate.compiled import Compiled, is_scorer, pool_children
from curate.decide import States
from curate.errors import ConfigError, WorkInUse
from curate.groups import Grouping, grouping
from curate.learnt import learnt
from curate.lease import Lease, held
from curate.phases import Run
from curate.pipeline import RAY_DECIDES_ROWS
from curate.pipeline_file.config import load
from curate.pipeline_file.schema import Config
from curate.pools.pool import Pool
from curate.records import Observe, Progress, Recorder
from curate.runner import LocalRunner, RayRunner, Runner, fold
from curate.shuffle import Exchange
from curate.step import canonical
from curate.sweep import blocks, files, groups
from curate.sweep.blocks import POOL, VERDICTS, Learnt, Leg, Look
from curate.sweep.stored import fitted_again, refuse_unread, refuse_unscored, stored_pool
from curate.sweep.table import NEEDED, Result, estimates_of, table_of
from curate.sweep.variants import Variants, read_variants, varied
from filters import Counts, GroupFilter, PoolFilter, State, Unbound
from filters._quota import QuotaFilter


@dataclass(frozen=True)
class Options:
    """What a command line asks for."""

    vary: tuple[str, ...]
    changes: tuple[str, ...] = ()  # `--set`, for every value
    until: str | None = None
    fits: Literal["each", "frozen"] = "each"  # pool filters that are not varied
    steal: Literal["refuse", "steal"] = "refuse"


@dataclass(frozen=True)
class Swept:
    """What a sweep came to, and where its files are."""

    folder: str
    table: dict[str, Any]
    estimates: dict[str, Any]


@dataclass
class _Sweep:
    """What the driver holds: small values only."""

    variants: Variants
    pool: Pool
    runner: Runner
    lease: Lease
    observe: Observe
    fits: Literal["each", "frozen"]
    usable: int = 0
    counts: dict[int, pl.DataFrame] | None = None  # of each branch so far

    @property
    def work(self) -> str:
        return self.variants.plans[0].work

    def spans(self) -> list[Span]:
        rows = self.pool.block_rows().tolist()
        return [Span(block, 0, count) for block, count in enumerate(rows) if count]

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        """Results of tasks, while the folder is still ours."""
        progress = Progress(label, len(items))
        self.observe(progress)
        for result in self.runner.map(work, items, label):
            self.lease.check()
            progress.done += 1
            self.observe(progress)
            yield result
        progress.ended = time.time()
        self.observe(progress)

    def survivors(self, branch: int) -> int:
        """Rows of a branch that are still in."""
        assert self.counts is not None
        return int(self.counts[branch].filter(pl.col("step").is_null())["rows"].sum())


def sweep(file: str, options: Options, observe: Observe) -> Swept:
    """Decide a pipeline at many values over the columns that a run has stored.

    Nothing is computed, fetched or written but `<work>/sweep/<paths>/`: a subset a value, and the
    table. Each subset is what `curate run` with that value would select.

    Raises:
        CurateError: what the user can mend; see errors.py.
    """
    config = load(file, options.changes).config
    refuse_unread(config)
    fields = [varied(text) for text in options.vary]
    variants = read_variants(file, options.changes, fields, options.until)
    refuse_unscored(variants.plans[0], variants.stop)
    with held(config.work, steal=options.steal) as lease:
        runner = _runner(config)
        try:
            pool = stored_pool(config, runner)
            if config.run.engine == "auto" and pool.rows > RAY_DECIDES_ROWS:
                runner = RayRunner(config.run.address)
            work = _Sweep(variants, pool, runner, lease, observe, options.fits)
            with _scratch(storage.join(config.work, "state", VERDICTS)):
                return _swept(work, options)
        finally:
            runner.close()


@contextmanager
def _scratch(folder: str) -> Iterator[None]:
    """A folder for what lies between two legs: empty at first, and gone in the end.

    Not where another run took the work folder over: what lies there may be its own.
    """
    storage.remove(folder)
    try:
        yield
    except WorkInUse:
        raise
    except BaseException:
        storage.remove(folder)
        raise
    storage.remove(folder)


def _runner(config: Config) -> Runner:
    if config.run.engine == "ray" or config.run.address:
        return RayRunner(config.run.address)
    return LocalRunner()


def _swept(work: _Sweep, options: Options) -> Swept:
    variants = work.variants
    runs = [_as_run(work, plan) for plan in variants.plans]
    again = fitted_again(variants, runs)
    work.variants = replace(
        variants, plans=tuple(_unlost(plan, variants.stop) for plan in variants.plans)
    )
    barriers = variants.barriers
    bounds = [0, *barriers, variants.stop]
    for number, (first, stop) in enumerate(itertools.pairwise(bounds)):
        learnt = _learnt(work, first) if number else Learnt()
        then: Literal["a barrier", "the end"] = "a barrier"
        if number == len(barriers):
            then = "the end"
        _advance(work, Leg(first, stop, then), learnt)
    return _finished(work, options, again)


def _as_run(work: _Sweep, plan: Compiled) -> Run:
    """A run that only says what it would rest on."""
    recorder = Recorder(plan.work, work.observe)
    return Run(plan, work.pool, work.runner, work.lease, recorder, lambda runner, _: runner)


def _unlost(plan: Compiled, stop: int) -> Compiled:
    """The plan with a reason for rows that have no stored value: nobody lost them."""
    lost = {step.name: {0: NEEDED} for step in plan.steps[:stop] if is_scorer(step)}
    return replace(plan, lost=lost)


def _advance(work: _Sweep, leg: Leg, learnt: Learnt) -> None:
    task = partial(blocks.advance, work.variants, leg, learnt)
    steps = [step.name for step in work.variants.plans[0].steps[leg.first : leg.stop]]
    label = f"decide {', '.join(steps)}" if steps else "look at the pool"
    usable, counts = 0, dict.fromkeys(work.variants.branches[leg.stop], fates.no_counts())
    for some, found in work.map(task, work.spans(), label):
        usable += some
        counts = {branch: fates.add_counts(counts[branch], found[branch]) for branch in counts}
    work.counts = counts
    if leg.first == 0:
        work.usable = usable


def _learnt(work: _Sweep, index: int) -> Learnt:
    """What the barrier at a step rests on, for every branch after it."""
    branches = list(dict.fromkeys(work.variants.branches[index + 1]))
    try:
        return Learnt(_fitted(work, index, branches), _shuffled(work, index, branches))
    except Unbound as error:  # the columns are there, and their values are of something else
        name = work.variants.step(index, branches[0]).name
        raise ConfigError(f"{name}: {error}") from None


def _fitted(work: _Sweep, index: int, branches: Sequence[int]) -> dict[int, States]:
    """{branch: what the pool filters of a step learnt}, all of them pass by pass together."""
    searches: dict[str, Look] = {}
    found: dict[int, dict[str, str]] = {branch: {} for branch in branches}
    for branch in branches:
        for child in pool_children(work.variants.step(index, branch)):
            learner = _learner(work, index, branch, child)
            look = _first_look(work, index, learner, child)
            seed = work.variants.plans[learner].config.seed
            key = canonical([seed, look.rows, type(child).__name__, child, look.state])
            searches.setdefault(key, look)
            found[branch][child.name] = key
    while waiting := {k: s for k, s in searches.items() if not s.child.finished(s.state)}:
        looks = list(waiting.values())
        task = partial(blocks.summarize, work.variants, index, looks)
        results = work.map(task, work.spans(), work.variants.step(index, branches[0]).name)
        merge = partial(_merged, [look.child for look in looks])
        summaries = fold(results, merge) or [None] * len(looks)
        for (key, look), summary in zip(waiting.items(), summaries, strict=True):
            searches[key] = replace(look, state=look.child.fit(summary, look.state))
    return {
        branch: {name: searches[key].state for name, key in keys.items()}
        for branch, keys in found.items()
    }


def _learner(work: _Sweep, index: int, branch: int, child: PoolFilter) -> int:
    """The branch whose survivors a filter learns from: with frozen states the file's own."""
    if work.fits == "each":
        return branch
    own = {one.name: one for one in pool_children(work.variants.step(index, 0))}
    return 0 if own.get(child.name) == child else branch


def _first_look(work: _Sweep, index: int, learner: int, child: PoolFilter) -> Look:
    before = work.variants.branches[index][learner]
    rows = POOL if child.over_pool() else before
    state = child.start(Counts(work.usable, work.survivors(before)))
    return Look(rows, learner, child, state)


def _merged(
    children: Sequence[PoolFilter | QuotaFilter], left: list[Any], right: list[Any]
) -> list[Any]:
    return [c.merge(one, other) for c, one, other in zip(children, left, right, strict=True)]


def _shuffled(work: _Sweep, index: int, branches: Sequence[int]) -> dict[int, blocks.Told]:
    """{branch: what its group filter decided}: one shuffle for all that have the same filter."""
    found: dict[int, blocks.Told] = {}
    folder = storage.join(work.work, "state", VERDICTS, "shuffle")
    storage.remove(folder)
    for number, same in enumerate(groups.recipes(work.variants, index, branches)):
        place = storage.join(folder, f"{number:03d}")
        ready = _ready(work, index, same)
        width = groups.member_dtype(len(same)).itemsize
        readers, count = ready[0].readers(work.usable, width), work.pool.blocks
        there = Exchange(storage.join(place, "there"), count, readers)
        back = tuple(Exchange(storage.join(place, f"back-{b:03d}"), readers, count) for b in same)
        shuffle = groups.Shuffle(work.variants, index, same, there, back, ready)
        for block in set(range(count)) - {span.block for span in work.spans()}:
            there.write(block, np.empty(0, dtype=shuffle.record), np.empty(0, dtype=np.int64))
        for task, items in ((groups.send, work.spans()), (groups.settle, range(readers))):
            for _ in work.map(partial(task, shuffle), items, ready[0].step.name):
                pass
        there.remove()
        found |= {b: (group, leg) for b, group, leg in zip(same, ready, back, strict=True)}
    return found


def _ready(work: _Sweep, index: int, branches: Sequence[int]) -> tuple[Grouping, ...]:
    """The group filter of each of some branches, with what it learns from their survivors."""
    variants = work.variants
    steps = [variants.step(index, branch) for branch in branches]
    states: list[State] = [{} for _ in branches]
    quotas = [step for step in steps if isinstance(step, QuotaFilter)]
    if quotas:
        task = partial(blocks.summarize_groups, variants, index, branches)
        results = work.map(task, work.spans(), quotas[0].name)
        summaries = fold(results, partial(_merged, quotas)) or [None] * len(quotas)
        plan = variants.plans[branches[0]]
        arrays = {name: learnt(plan, quotas[0].name, name) for name in quotas[0].learnt()}
        for number, (step, summary) in enumerate(zip(quotas, summaries, strict=True)):
            alive = work.survivors(variants.branches[index][branches[number]])
            states[number] = step.fit(summary, Counts(work.usable, alive), arrays)
    return tuple(
        grouping(variants.plans[branch], step, state)
        for branch, step, state in zip(branches, steps, states, strict=True)
        if isinstance(step, GroupFilter)
    )


def _finished(work: _Sweep, options: Options, again: dict[int, list[str]]) -> Swept:
    """Write the subsets and the table; the table comes last, and is the proof of them."""
    variants = work.variants
    assert work.counts is not None
    folder = storage.join(work.work, "sweep", variants.slug)
    storage.remove(storage.join(folder, "table.json"))
    storage.remove(folder)  # it may have had other values
    place = {branch: number for number, branch in enumerate(variants.last)}
    targets = {
        storage.join(folder, f"{variants.label(number)}.npy"): place[branch]
        for number, branch in enumerate(variants.branches[variants.stop])
        if number
    }
    kept = [work.counts[branch].filter(pl.col("step").is_null()) for branch in variants.last]
    totals = [int(each["copies"].sum()) for each in kept]
    runs = [blocks.run_file(work.work, span.block) for span in work.spans()]
    overlaps = files.merge(runs, totals, targets)
    results = {b: Result(work.counts[b], overlaps[place[b]]) for b in variants.last}
    table = table_of(variants, results, again)
    table |= {"changes": list(options.changes), "until": options.until, "fits": options.fits}
    estimates = estimates_of(work.work, table)
    work.lease.confirm()
    files.commit_table(folder, table, estimates)
    return Swept(folder, table, estimates)
