"""How many samples have each entry of a list past each step: exact, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled, is_filter
from curate.downloads.download import Download
from curate.features.concepts import Concepts
from curate.report.facts import Facts, stops
from curate.runner import Runner, fold
from filters import column

POINTS = 60  # of a curve, at most
ONE = 1 << 32  # a chance of 1: whole numbers add up to the same in any order
AT_ONCE = 65_536  # samples whose chances are held at once
TAIL = 5  # the tail is one in so many of the entries hit: "Neglected Tails" (2401.12425), 20 %


@dataclass(frozen=True)
class Matched:
    """The entries of N consecutive samples."""

    lengths: np.ndarray  # [N] int64: how many each has
    ids: np.ndarray  # [M] uint32, sample by sample
    scored: np.ndarray  # [N] bool: whether there was a caption to look at

    @property
    def starts(self) -> np.ndarray:
        """[K] where the entries of each sample that has any begin."""
        return np.asarray((np.cumsum(self.lengths) - self.lengths)[self.lengths > 0])


@dataclass(frozen=True)
class Track:
    """One `concepts` step, and the steps whose effect on its entries is counted."""

    step: str
    stages: tuple[int, ...]  # [K] indices of steps: its own, then later ones that remove samples

    def levels(self, stopped: np.ndarray) -> np.ndarray:
        """[N] of `stops`: how many of the stages each row got past, 0 to K."""
        return np.searchsorted(np.array(self.stages), stopped)

    def matched(self, plan: Compiled, span: Span) -> Matched:
        """The entries of a span."""
        name = f"{self.step}.entries"
        frame = columns.load(plan.work, plan.registries[-1], [name], span)
        lists = frame.select(column(name)).to_series().cast(pl.List(pl.UInt32))
        lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        ids = lists.drop_nulls().to_arrow().flatten().to_numpy()
        return Matched(lengths, ids, lists.is_not_null().to_numpy())


@dataclass(frozen=True, eq=False)
class Draw:
    """A step that keeps a sample unless each of its entries misses it."""

    index: int  # of the step
    missed: np.ndarray  # [E] float64: the chance of each entry to miss a sample

    def kept(self, matched: Matched, stopped: np.ndarray) -> int:
        """How many of those with entries that reached the step it keeps on average, times ONE."""
        starts, total = matched.starts, 0
        reached = stopped[matched.lengths > 0] >= self.index
        for first in range(0, len(starts), AT_ONCE):
            begins = starts[first : first + AT_ONCE]
            end = starts[first + AT_ONCE] if first + AT_ONCE < len(starts) else None
            missed = self.missed[matched.ids[begins[0] : end]]
            kept = 1.0 - np.multiply.reduceat(missed, begins - begins[0])
            total += whole(kept[reached[first : first + AT_ONCE]])
        return total


def whole(chances: np.ndarray) -> int:
    """A sum of [N] chances, times ONE; the same in any order."""
    return int(np.rint(chances * ONE).astype(np.int64).sum())


@dataclass(frozen=True)
class Counted:
    """What the samples past each of K stages have, of a list of E entries."""

    entries: np.ndarray  # [K, E] int64: samples with the entry
    copies: np.ndarray  # [E] int64: the same at the end, copies counted
    samples: np.ndarray  # [K] int64
    matched: np.ndarray  # [K] int64: samples with an entry
    unscored: np.ndarray  # [K] int64: samples not looked at: without caption, language or list
    total_copies: int
    drawn: tuple[int, ...]  # of each Draw, times ONE

    @cached_property
    def order(self) -> np.ndarray:
        """[H] entries that were hit before, the most frequent first; ties go to the first."""
        before = self.entries[0]
        return np.asarray(np.argsort(-before, kind="stable")[: np.count_nonzero(before)])

    def descending(self, stage: int) -> np.ndarray:
        """[H] counts of those entries past a stage, the largest first."""
        return np.sort(self.entries[stage, self.order])[::-1]

    @property
    def tail(self) -> np.ndarray:
        """The last fifth of them, one at least."""
        order = self.order
        return order[len(order) - part_of(len(order), TAIL) :]


def tracks(facts: Facts) -> list[Track]:
    """The `concepts` steps of a run."""
    steps = facts.plan.steps
    removed = set(facts.counts["step"].drop_nulls().to_list())
    found = []
    for index, step in enumerate(steps):
        if isinstance(step, Concepts):
            later = [
                number
                for number in range(index + 1, len(steps))
                if is_filter(steps[number])
                or isinstance(steps[number], Download)
                or steps[number].name in removed
            ]
            found.append(Track(step.name, (index, *later)))
    return found


@dataclass(frozen=True)
class _Part:
    """What one block adds."""

    keys: np.ndarray  # [P] int64: (level - 1) * E + entry, each once
    counts: np.ndarray  # [P] int64
    copies: tuple[np.ndarray, np.ndarray]  # [Q] entries of who is kept, [Q] int64
    samples: np.ndarray  # [3, K + 1] by level: all, matched, unscored
    total_copies: int
    drawn: list[int]


def count(facts: Facts, track: Track, size: int, draws: Sequence[Draw], runner: Runner) -> Counted:
    """Count the samples past each stage of each of `size` entries, exactly.

    Held are 8 bytes for each stage and entry (80 MB for 20 stages of 500,000 entries), and of a
    block only what it has.
    """
    stages = len(track.stages)
    entries = np.zeros((stages, size), dtype=np.int64)
    copies = np.zeros(size, dtype=np.int64)
    samples = np.zeros((3, stages + 1), dtype=np.int64)
    total_copies, drawn = 0, [0 for _ in draws]
    work = partial(_count, facts.plan, facts.after, (track, size, draws))
    for part in runner.map(work, facts.spans(), "report"):
        entries.reshape(-1)[part.keys] += part.counts
        copies[part.copies[0]] += part.copies[1]
        samples += part.samples
        total_copies += part.total_copies
        drawn = [a + b for a, b in zip(drawn, part.drawn, strict=True)]
    for stage in range(stages - 1, 0, -1):  # who got past a stage got past those before it
        entries[stage - 1] += entries[stage]
        samples[:, stage] += samples[:, stage + 1]
    every, matched, unscored = samples[:, 1:]
    return Counted(entries, copies, every, matched, unscored, total_copies, tuple(drawn))


Asked = tuple[Track, int, Sequence[Draw]]


def _count(plan: Compiled, after: str, asked: Asked, span: Span) -> _Part:
    track, size, draws = asked
    found = fates.read(plan.work, after, span)
    matched, stages = track.matched(plan, span), len(track.stages)
    assert matched.ids.max(initial=0) < size, f"{track.step} has entries that its list lacks"
    stopped = stops(plan, found)
    level = track.levels(stopped)
    of_match = np.repeat(level.astype(np.min_scalar_type(stages)), matched.lengths)
    keys, counts = [], []
    for number in range(1, stages + 1):  # one level at a time: E numbers are held, not K * E
        here = np.bincount(matched.ids[of_match == number], minlength=size)
        hit = np.flatnonzero(here)
        keys.append((number - 1) * size + hit)
        counts.append(here[hit])
    which = [np.ones(len(span), dtype=bool), matched.lengths > 0, ~matched.scored]
    samples = [np.bincount(level[rows], minlength=stages + 1) for rows in which]
    return _Part(
        np.concatenate(keys),
        np.concatenate(counts),
        _copies(matched, found.copies, (keys[-1] - (stages - 1) * size, counts[-1])),
        np.stack(samples),
        int(found.copies.sum(dtype=np.int64)),  # who was removed has none
        [draw.kept(matched, stopped) for draw in draws],
    )


def _copies(
    matched: Matched, copies: np.ndarray, kept: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The entries of who is kept and their counts, once copies are counted."""
    if copies.max(initial=0) <= 1:
        return kept
    # Sums of whole numbers below 2 ** 53: exact.
    weights = np.repeat(copies.astype(np.float64), matched.lengths)
    return kept[0], np.bincount(matched.ids, weights).astype(np.int64)[kept[0]]


def with_tail(facts: Facts, track: Track, in_tail: np.ndarray, runner: Runner) -> np.ndarray:
    """[K] int64: samples past each stage that have an entry of the tail; [E] bool says which are.

    It takes a second look, for the tail is known only once everything was counted.
    """
    work = partial(_look_for, facts.plan, facts.after, track, in_tail)
    by_level = fold(runner.map(work, facts.spans(), "report"), np.add)
    if by_level is None:
        by_level = np.zeros(len(track.stages) + 1, dtype=np.int64)
    return np.asarray(np.cumsum(by_level[::-1])[::-1][1:])


def _look_for(
    plan: Compiled, after: str, track: Track, in_tail: np.ndarray, span: Span
) -> np.ndarray:
    """[K + 1] int64: samples of a block that have one of some entries, by level."""
    level = track.levels(stops(plan, fates.read(plan.work, after, span)))
    matched = track.matched(plan, span)
    places = np.flatnonzero(in_tail[matched.ids])  # few: the tail is rare
    rows = np.searchsorted(np.cumsum(matched.lengths), places, side="right")
    once = level[rows[np.diff(rows, prepend=-1) > 0]]
    return np.bincount(once, minlength=len(track.stages) + 1)


def part_of(whole: int, parts: int) -> int:
    """One in so many, rounded down; one at least where there is any."""
    return min(whole, max(1, whole // parts))


def ranks_of(entries: int) -> np.ndarray:
    """[P] up to POINTS ranks, 1 to `entries`: evenly spaced logarithms, and the powers of ten."""
    if not entries:
        return np.zeros(0, dtype=np.int64)
    tens = [10**n for n in range(1, len(str(entries)))]
    between = np.rint(np.geomspace(1, entries, POINTS - len(tens))).astype(np.int64)
    return np.union1d(between, tens).astype(np.int64)


def share(some: int, of: int) -> float | None:
    """A share to six decimals; None of nothing."""
    return round(int(some) / int(of), 6) if of else None
