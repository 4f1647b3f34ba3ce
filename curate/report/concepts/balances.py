"""What each `metadata_balance` did to the concepts that it read: expected, and in fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from curate import chance, fates
from curate.columns import Span
from curate.compiled import Compiled, pool_children
from curate.decide import batch_of
from curate.report.concepts.counts import ONE, Counted, Draw, Track, ranks_of, share, whole
from curate.report.facts import Facts, stops
from curate.runner import Runner, fold
from filters._coins import drawn, matches
from filters.metadata_balance import MetadataBalance


@dataclass(frozen=True)
class Balance:
    """A `metadata_balance`, and what it learnt of E entries."""

    index: int  # of its step
    filter: MetadataBalance
    counts: np.ndarray  # [E] int64: samples of each entry that reached it
    thresholds: np.ndarray  # [E] float64: t of each entry; infinite where all samples stay

    @cached_property
    def chances(self) -> np.ndarray:
        """[E] float64: the chance with which each entry keeps a sample, min(1, t / count)."""
        return np.asarray(np.minimum(1.0, self.thresholds / np.maximum(self.counts, 1)))

    @cached_property
    def draw(self) -> Draw | None:
        """Itself, where it reads one `concepts` step, so that counting that one tells all of it."""
        return Draw(self.index, 1.0 - self.chances) if len(self.filter.needs()) == 1 else None


def balances_of(facts: Facts, step: str, size: int) -> Iterator[Balance]:
    """Each `metadata_balance` over the entries of a `concepts` step: of several, its first one."""
    for index, own in enumerate(facts.plan.steps):
        for child in pool_children(own):
            if isinstance(child, MetadataBalance) and child.needs()[0] == f"{step}.entries":
                state = facts.states[child.name]
                counts = np.zeros(size, dtype=np.int64)
                counts[: len(state["counts"])] = state["counts"]  # none where the pool is empty
                t = state.get("t_of_entries", state.get("t", np.inf))
                yield Balance(index, child, counts, np.broadcast_to(np.float64(t), size))


def balances(
    facts: Facts, found: Sequence[Balance], track: Track, counted: Counted, runner: Runner
) -> list[dict[str, Any]]:
    """What a report says of each."""
    drawn = iter(counted.drawn)
    return [
        _section(
            facts,
            balance,
            _looked(facts, balance, runner)
            if balance.draw is None
            else _of_counted(balance, track.stages.index(balance.index), (counted, next(drawn))),
        )
        for balance in found
    ]


def _of_counted(balance: Balance, stage: int, counts: tuple[Counted, int]) -> _Found:
    """What the counts of a `concepts` step tell, at the balance's place among the stages."""
    counted, expected = counts
    unmatched = counted.samples - counted.matched - counted.unscored
    if balance.filter.unmatched == "keep":
        expected += int(unmatched[stage - 1]) * ONE
    before, after = (int(n) for n in counted.samples[stage - 1 : stage + 1])
    return _Found(counted.entries[stage], before, after, expected)


def _looked(facts: Facts, balance: Balance, runner: Runner) -> _Found:
    """What a look at the columns of several `concepts` steps tells."""
    work = partial(_look, facts.plan, facts.after, balance)
    found = fold(runner.map(work, facts.spans(), "report"), _added)
    return found if found is not None else _Found(np.zeros_like(balance.counts), 0, 0, 0)


def _section(facts: Facts, balance: Balance, found: _Found) -> dict[str, Any]:
    order = np.argsort(-balance.counts, kind="stable")[: np.count_nonzero(balance.counts)]
    ranks = ranks_of(len(order))
    lowest, highest = balance.thresholds.min(), balance.thresholds.max()
    alone = balance.filter.name == facts.plan.steps[balance.index].name
    return {
        "filter": balance.filter.name,
        "t": [_number(lowest), _number(highest)],
        "head": _head(balance, found.entries),
        "p": {
            "ranks": ranks.tolist(),
            "chances": balance.chances[order[ranks - 1]].round(6).tolist(),
        },
        "in": found.reached,
        "expected": round(found.expected / ONE, 3),
        "kept": found.kept if alone else None,  # inside any_of others keep samples as well
    }


def _number(value: float) -> float | int | None:
    if np.isinf(value):
        return None
    return int(value) if value == int(value) else float(value)


def _head(balance: Balance, after: np.ndarray) -> dict[str, Any]:
    """The entries above t: how many, and what share of all matches is theirs, before and after."""
    above = balance.counts > balance.thresholds
    sides = (balance.counts, after)
    matched = [int(side[above].sum()) for side in sides]
    shares = [share(own, side.sum()) for own, side in zip(matched, sides, strict=True)]
    return {"entries": int(above.sum()), "matches": matched, "match_share": shares}


@dataclass(frozen=True)
class _Found:
    """What some blocks add."""

    entries: np.ndarray  # [E] int64: samples of each entry that the step left in
    reached: int
    kept: int
    expected: int  # samples kept on average, in parts of ONE


def _added(left: _Found, right: _Found) -> _Found:
    return _Found(
        left.entries + right.entries,
        left.reached + right.reached,
        left.kept + right.kept,
        left.expected + right.expected,
    )


def _look(plan: Compiled, after: str, balance: Balance, span: Span) -> _Found:
    stopped = stops(plan, fates.read(plan.work, after, span))
    rows = np.flatnonzero(stopped >= balance.index)
    stays = stopped[rows] > balance.index
    batch = batch_of(plan, balance.index, span, rows)
    filter_, needed = balance.filter, balance.filter.needs()
    every = matches(batch, needed)
    own = every
    if filter_.texts == "one":
        draw = partial(chance.uniform, plan.config.seed, filter_.name, batch.uids)
        own = drawn(batch.drawing(draw), needed)
    some = own.lengths > 0
    starts = (np.cumsum(own.lengths) - own.lengths)[some]
    expected = 0
    if len(starts):
        missed = np.multiply.reduceat((1.0 - balance.chances)[own.ids], starts)
        expected = whole(1.0 - missed)
    if filter_.unmatched == "keep":
        expected += int((~some & ~own.unscored).sum()) * ONE
    left = every.ids[np.repeat(stays, every.lengths)]
    entries = np.bincount(left, minlength=len(balance.counts))
    return _Found(entries, len(rows), int(stays.sum()), expected)
