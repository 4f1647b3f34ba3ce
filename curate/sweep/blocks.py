"""What one task does with one block, for all variants of a pipeline: summarise, decide, keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import polars as pl

from curate import chance, columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled, is_scorer, needs_of
from curate.decide import States, presence, say
from curate.fates import Fates
from curate.groups import Grouping
from curate.learnt import learnt
from curate.pipeline_file.schema import Step
from curate.shuffle import Exchange
from curate.subsets.subset import gather, ranked
from curate.sweep.variants import Variants
from filters import Batch, GroupFilter, PoolFilter, State, Summary, Verdict, column, structured
from filters._quota import QuotaFilter

VERDICTS = "sweep.verdicts"  # below state/; the dot: no step is called so
POOL = -1  # stands for a branch: the rows that the pool itself can use
_DRAWS = 4  # sets of random numbers that a block keeps


@dataclass(frozen=True)
class Leg:
    """Steps that are decided in one go: at most a barrier, the first, then row steps."""

    first: int
    stop: int
    then: Literal["a barrier", "the end"]


Told = tuple[Grouping, Exchange]


@dataclass(frozen=True)
class Learnt:
    """What the barrier at the beginning of a leg rests on."""

    states: Mapping[int, States] = field(default_factory=dict)  # {branch: what its filters learnt}
    told: Mapping[int, Told] = field(default_factory=dict)  # {branch: its group filter's say}


@dataclass(frozen=True)
class Look:
    """One pass of one pool filter, over the survivors of a branch or the pool."""

    rows: int  # the branch before the step, or POOL
    branch: int  # whose filter it is
    child: PoolFilter
    state: State


class Block:
    """The columns of a block, each read at most once, whole, for all variants."""

    def __init__(self, work: str, span: Span) -> None:
        self.work = work
        self.span = span
        self._series: dict[str, pl.Series] = {}
        self._draws: dict[tuple[int, str, str], np.ndarray] = {}
        self._presences: dict[str, Verdict] = {}

    def frame(self, plan: Compiled, index: int, names: Sequence[str]) -> pl.DataFrame:
        """[len(span)] rows of the columns that a step reads."""
        absent = [name for name in names if name not in self._series]
        if absent:
            found = columns.load(self.work, plan.registries[index], absent, self.span)
            for name in absent:
                self._series[name] = found.select(column(name).alias(name)).to_series()
        return structured({name: self._series[name] for name in names}, len(self.span))

    @cached_property
    def uids(self) -> np.ndarray:
        """[len(span)] UID."""
        return columns.uids(self.work, self.span)

    def uniform(self, seed: int, name: str, salt: str) -> np.ndarray:
        """[len(span)] random numbers of a filter; those used last are kept."""
        key = (seed, name, salt)
        if key not in self._draws:
            if len(self._draws) == _DRAWS:
                del self._draws[next(iter(self._draws))]
            self._draws[key] = chance.uniform(seed, name, self.uids, salt)
        return self._draws[key]

    def presence(self, plan: Compiled, step: Step) -> Verdict:
        """What a feature or download says of every row."""
        if step.name not in self._presences:
            everybody = np.arange(len(self.span))
            self._presences[step.name] = presence(plan, step, self.span, everybody)
        return self._presences[step.name]


class Survivors:
    """Some [K] rows of a block, as the filters of several variants see them."""

    def __init__(self, block: Block, rows: np.ndarray) -> None:
        self.block = block
        self.rows = rows
        self._whole = len(rows) == len(block.span)
        self._frames: dict[tuple[str, ...], pl.DataFrame] = {}

    def batch(self, plan: Compiled, index: int, name: str) -> Batch:
        """What a filter of a step sees; `name` is the filter's, which may be inside any_of."""
        names = needs_of(plan.steps[index])
        if names not in self._frames:
            frame = self.block.frame(plan, index, names)
            self._frames[names] = frame if self._whole else frame[self.rows]
        draw = partial(self._uniform, plan.config.seed, name)
        frame, known = self._frames[names], partial(learnt, plan, name)
        return Batch(frame, lambda: self._uids, self._addresses, draw, known)

    @cached_property
    def _uids(self) -> np.ndarray:
        return self.block.uids if self._whole else gather(self.block.uids, self.rows)

    def _addresses(self) -> np.ndarray:
        span = self.block.span
        return (np.uint64(span.block) << np.uint64(32)) + (self.rows + span.start).astype(np.uint64)

    def _uniform(self, seed: int, name: str, salt: str) -> np.ndarray:
        drawn = self.block.uniform(seed, name, salt)
        return drawn if self._whole else drawn[self.rows]

    def say(self, plan: Compiled, index: int, states: States) -> Verdict:
        """What a step says of them; a group filter was asked before."""
        step = plan.steps[index]
        if not is_scorer(step):
            return say(plan, step, self.batch(plan, index, step.name), states)
        said = self.block.presence(plan, step)
        if self._whole:
            return said
        return Verdict(said.copies[self.rows], said.reason.gather(self.rows))


def verdict(index: int, branch: int) -> str:
    """The name of the verdict of a branch before a step."""
    return f"{VERDICTS}/{index:03d}-{branch:03d}"


def _before(variants: Variants, leg: Leg, span: Span) -> dict[int, Fates]:
    """The fates of each branch where a leg begins."""
    work = variants.plans[0].work
    branches = dict.fromkeys(variants.branches[leg.first])
    if leg.first == 0:
        return dict.fromkeys(branches, fates.initial(work, span))
    return {branch: fates.read(work, verdict(leg.first, branch), span) for branch in branches}


def advance(
    variants: Variants, leg: Leg, learnt: Learnt, span: Span
) -> tuple[int, dict[int, pl.DataFrame]]:
    """Decide the steps of a leg for all variants; usable rows, and the counts of each branch."""
    work = variants.plans[0].work
    block = Block(work, span)
    found = _before(variants, leg, span)
    usable = int(fates.initial(work, span).alive.sum()) if leg.first == 0 else 0
    for index in range(leg.first, leg.stop):
        found = _decided(variants, index, block, found, learnt)
    if leg.then == "the end":
        _save_run(variants, block, found)
    else:
        for branch, each in found.items():
            fates.write(work, verdict(leg.stop, branch), span.block, each)
    return usable, {branch: each.counts() for branch, each in found.items()}


def _decided(
    variants: Variants, index: int, block: Block, found: dict[int, Fates], learnt: Learnt
) -> dict[int, Fates]:
    """The fates of each branch after one step."""
    after: dict[int, Fates] = {}
    for parent, children in variants.children(index).items():
        before = found.pop(parent)
        survivors = Survivors(block, before.rows)
        for branch in children:
            plan = variants.plans[branch]
            step = plan.steps[index]
            if isinstance(step, GroupFilter):
                group, back = learnt.told[branch]
                batch = survivors.batch(plan, index, step.name)
                said = group.verdict(batch, survivors.rows, back.read(block.span.block))
            else:
                said = survivors.say(plan, index, learnt.states.get(branch, {}))
            after[branch] = before.after(step.name, said)
    return after


def summarize(variants: Variants, index: int, looks: Sequence[Look], span: Span) -> list[Summary]:
    """One block's contribution to what the pool filters of a step learn in all variants."""
    work = variants.plans[0].work
    block = Block(work, span)
    seen: dict[int, Survivors] = {}
    found = []
    for look in looks:
        if look.rows not in seen:
            name = verdict(index, look.rows)
            known = fates.initial(work, span) if look.rows == POOL else fates.read(work, name, span)
            seen[look.rows] = Survivors(block, known.rows)
        batch = seen[look.rows].batch(variants.plans[look.branch], index, look.child.name)
        found.append(look.child.summarize(batch, look.state))
    return found


def summarize_groups(
    variants: Variants, index: int, branches: Sequence[int], span: Span
) -> list[Summary]:
    """One block's contribution to what the quota filter of each branch after a step learns."""
    work = variants.plans[0].work
    block = Block(work, span)
    found = []
    for branch in branches:
        plan, before = variants.plans[branch], variants.branches[index][branch]
        step = plan.steps[index]
        assert isinstance(step, QuotaFilter), step
        survivors = Survivors(block, fates.read(work, verdict(index, before), span).rows)
        found.append(step.summarize(survivors.batch(plan, index, step.name)))
    return found


def run_file(work: str, block: int) -> str:
    """The rows of a block that any variant keeps."""
    return storage.join(work, "state", VERDICTS, f"run-{block:04d}.npy")


def _save_run(variants: Variants, block: Block, found: Mapping[int, Fates]) -> None:
    """Write the rows of a block that any branch keeps, sorted by uid, with the copies of each."""
    copies = [found[branch].copies for branch in variants.last]  # of who was removed: 0
    most = max((int(each.max(initial=0)) for each in copies), default=0)
    table = np.empty((len(block.span), len(copies)), np.min_scalar_type(most))
    for number, each in enumerate(copies):
        table[:, number] = each
    fields, kept = "copies", table
    if most <= 1:
        fields, kept = "bits", np.packbits(table, axis=1)
    rows = np.flatnonzero(kept.any(axis=1))
    uids = gather(block.uids, rows)
    order, _ = ranked(uids)
    dtype = [("f0", "<u8"), ("f1", "<u8"), (fields, kept.dtype, (kept.shape[1],))]
    run = np.empty(len(rows), dtype=dtype)
    run["f0"], run["f1"] = uids["f0"][order], uids["f1"][order]
    run[fields] = kept[rows[order]]
    storage.commit_array(run_file(block.work, block.span.block), run)


def copies_in(run: np.ndarray, branches: int) -> np.ndarray:
    """[N, B] copies that branches have of [N] rows of a run, or of a part of one."""
    if "copies" in (run.dtype.names or ()):
        return np.asarray(run["copies"])
    return np.unpackbits(run["bits"], axis=1, count=branches)
