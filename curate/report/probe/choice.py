"""Which filters and scores can be looked at by themselves, on which rows, and why not the others.

A row shows what a filter alone would do with it only if every column that the filter reads was
computed for it, whatever the filters before would have said. That is so for the rows of the
pipeline's `probe`, and for all rows where no filter stands before what makes the columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from curate.compiled import Compiled, is_filter, needs_of, pool_children
from curate.downloads.download import Download
from curate.fates import START
from curate.features import FittedFeature
from curate.pipeline_file.schema import Step
from curate.report.facts import Facts, looks
from filters import GroupFilter

MOST = 100_000  # rows that are looked at
ENOUGH = 10_000  # rows that a suggested probe gives: shares to a percentage point

Of = Literal["probe", "pool"]
Score = tuple[int, str]  # index of a step, and a column that it reads


@dataclass(frozen=True)
class Choice:
    """What is looked at."""

    of: Of
    share: float  # rows whose draw is below it
    first: int  # index of the first step of the pipeline itself: 1 after `--limit`
    filters: tuple[int, ...]  # [F] indices of steps
    scores: tuple[Score, ...]  # [S], each column once; none where there is no pair of them
    not_measured: tuple[tuple[int, str], ...]  # (index of a step, why)

    def states(self, facts: Facts) -> dict[str, Any]:
        """What those of the filters that learn have learnt."""
        steps = (facts.plan.steps[index] for index in self.filters)
        return {one.name: facts.states[one.name] for step in steps for one in pool_children(step)}

    def stores(self, plan: Compiled) -> list[str]:
        """The steps whose columns are read: a row that lacks one of them cannot be looked at."""
        steps = [(index, name) for index in self.filters for name in needs_of(plan.steps[index])]
        found = {plan.registries[index][name].store for index, name in (*steps, *self.scores)}
        return sorted(found - {"pool"})


def choose(facts: Facts) -> Choice:
    """All rows if they have all columns that the probe has, and are more; else the probe."""
    probe = facts.plan.config.probe
    of_pool, of_probe = (_choice(facts, of) for of in ("pool", "probe"))
    alike = (of_pool.filters, of_pool.scores) == (of_probe.filters, of_probe.scores)
    if probe == 0 or (alike and of_pool.share > probe):
        return of_pool
    return of_probe


def suggested(rows: int) -> float:
    """A probe of at least ENOUGH rows of so many, as a round number."""
    return 1.0 if rows <= ENOUGH else 10.0 ** math.ceil(math.log10(ENOUGH / rows))


def _choice(facts: Facts, of: Of) -> Choice:
    plan = facts.plan
    first = 0 if plan.limit is None else 1
    there = There(facts, first, of)
    share = min(1.0, MOST / max(there.rows, 1))
    if of == "probe":
        share = min(share, plan.config.probe)
    steps = [(index, step) for index, step in enumerate(plan.steps) if is_filter(step)]
    told = [(index, there.why_not(index, step)) for index, step in steps if index >= first]
    scores = tuple(there.scores())
    return Choice(
        of,
        share,
        first,
        tuple(index for index, why in told if why is None),
        scores if len(scores) > 1 else (),
        tuple((index, why) for index, why in told if why is not None),
    )


@dataclass(frozen=True)
class There:
    """What the rows of the probe, or of the pool, have."""

    facts: Facts
    first: int
    of: Of

    @property
    def rows(self) -> int:
        """Usable rows of the pool; of those that `--limit` leaves."""
        return self._entered(self.first)

    def why_not(self, index: int, step: Step) -> str | None:
        """Why a filter cannot be tried alone; None if it can."""
        if isinstance(step, GroupFilter):
            return "it compares samples with each other, so it says nothing of one by itself"
        for child in pool_children(step):
            if not child.decides_others():
                return "what it learnt says nothing of samples that did not reach it"
            if not child.over_pool() and self._entered(index) == 0:
                return "no sample reached it, so it learnt nothing"
        return next(self._absences(index, needs_of(step)), None)

    def scores(self) -> Iterable[Score]:
        """The deciding columns that all rows have, in the order of the filters."""
        found: dict[str, Score] = {}
        for look in looks(self.facts):
            for name in look.shown.scores if look.index >= self.first else ():
                if self._has(look.index, name):
                    found.setdefault(name, (look.index, name))
        return found.values()

    def _absences(self, index: int, names: Iterable[str]) -> Iterator[str]:
        """Why columns are not there."""
        plan = self.facts.plan
        for name in names:
            if self._has(index, name):
                continue
            before = f"the filters before {plan.registries[index][name].store!r}"
            if self.of == "pool" and There(self.facts, self.first, "probe")._has(index, name):
                remedy = f"`probe: {suggested(self.rows):g}` in the pipeline file"
                yield f"{name} is known only of samples that {before} kept: write {remedy}"
            else:
                yield f"{name} is learnt from samples that {before} kept, and known only of them"

    def _has(self, index: int, name: str) -> bool:
        """Whether the column of that name at a step was computed for all these rows."""
        plan = self.facts.plan
        owner = plan.registries[index][name].store
        if owner == "pool":
            return True
        maker = plan.index(owner)
        if not any(is_filter(step) for step in plan.steps[self.first : maker]):
            return True
        step = plan.steps[maker]
        if isinstance(step, FittedFeature):
            return step.fit_on == "pool"
        return self.of == "probe" and all(self._has(maker, need) for need in _reads(step))

    def _entered(self, index: int) -> int:
        """Rows that reached a step."""
        gone = [START, *(step.name for step in self.facts.plan.steps[:index])]
        counts = self.facts.counts.filter(~pl.col("step").is_in(gone) | pl.col("step").is_null())
        return int(counts["rows"].sum())


def _reads(step: Step) -> tuple[str, ...]:
    """The columns that a step's own are made from."""
    return () if isinstance(step, Download) else needs_of(step)
