"""Which galleries a report has: of the run, and of each filter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from curate import fates
from curate.compiled import is_filter
from curate.report.facts import Deciding, Facts, Look, looks
from curate.report.galleries.tenths import DRAWN
from filters import Filter

SHOWN = 8  # samples of one gallery
SHOWN_OF_RUN = 24  # of those that the run kept
REASONS = 20  # of one step that have a gallery, the commonest first
MEASURED = 200_000  # samples of a side among which the nearest to what is measured are found
_VALUES = 4  # scores that are said of those that the run kept


Side = Literal["kept", "removed", "both"]


@dataclass(frozen=True)
class Border:
    """A threshold, and what it is compared with."""

    score: Deciding
    threshold: float
    share: float = 1.0  # of the samples, by uid hash, that are looked at


@dataclass(frozen=True)
class Gallery:
    """Samples that are shown together: the nearest to a border, or those of the smallest hash."""

    index: int  # of the step; the number of steps for the whole run
    step: str | None  # None: the whole run
    filter: str | None
    reason: str | None
    side: Side
    columns: tuple[str, ...]  # the deciding values
    border: Border | None = None
    score: Deciding | None = None  # whose tenths are shown

    @property
    def size(self) -> int:
        """How many samples are looked for."""
        if self.score is not None:
            return DRAWN
        return SHOWN if self.step is not None else SHOWN_OF_RUN


def galleries_of(facts: Facts) -> list[Gallery]:
    """Of the run, then of each step: near its thresholds, by chance, and by tenths of scores."""
    found = looks(facts)
    galleries = [_of_run(facts, found)]
    for index in range(len(facts.plan.steps)):
        galleries += _of_step(facts, index, [look for look in found if look.index == index])
    return galleries


def _of_step(facts: Facts, index: int, own: list[Look]) -> Iterator[Gallery]:
    step = facts.plan.steps[index]
    names = tuple(dict.fromkeys(name for look in own for name in look.shown.columns))
    reasons = _reasons(facts.counts, step.name) if is_filter(step) else {}
    bordered: set[str] = set()
    for look in own:
        yield from _at_thresholds(facts, look, names)
        if look.filter == step.name:
            bordered |= {reason for score in look.scores for reason in score.thresholds}
            near = {reason for score in look.deciding for reason in score.thresholds}
            bordered |= {reason for reason in near if reasons.get(reason, 0) <= SHOWN}
    for reason in reasons:
        if reason not in bordered:  # else those near to the threshold speak for all
            yield Gallery(index, step.name, step.name, reason, "removed", names)
    if reasons:  # else they are those of the step before
        yield Gallery(index, step.name, step.name, None, "kept", names)
    # Filters of any_of may read the same score: the first has the gallery.
    scored = {one.name: (look, one) for look in reversed(own) for one in reversed(look.scores)}
    for look, score in reversed(scored.values()):
        yield Gallery(index, step.name, look.filter, None, "both", names, score=score)


def _of_run(facts: Facts, found: list[Look]) -> Gallery:
    """Those that the run kept, with scores that say more than how near the nearest other is."""
    steps = facts.plan.steps
    near = {step.name for step in steps if isinstance(step, Filter) and step.removes_duplicates}
    own = [look for look in found if look.step not in near]
    names = tuple(dict.fromkeys(name for look in own for name in look.shown.scores))
    return Gallery(len(steps), None, None, None, "kept", names[:_VALUES])


def _at_thresholds(facts: Facts, look: Look, names: tuple[str, ...]) -> Iterator[Gallery]:
    for score in look.deciding:
        for reason, threshold in score.thresholds.items():
            for side, rows in _sides(facts, look, reason):
                # What is measured is measured anew: of so many, some are as near as any.
                share = min(1.0, MEASURED / max(rows, 1)) if score.value is not None else 1.0
                border = Border(score, float(threshold), share)
                yield Gallery(look.index, look.step, look.filter, reason, side, names, border)


def _sides(facts: Facts, look: Look, reason: str) -> list[tuple[Side, int]]:
    """How many rows the step of a filter kept, and how many it removed for a reason."""
    later = {step.name for step in facts.plan.steps[look.index + 1 :]}
    counts = facts.counts
    kept = counts.filter(pl.col("step").is_null() | pl.col("step").is_in(later))
    removed = counts.filter(pl.col("step") == look.step)
    if look.filter == look.step:  # any_of joins the reasons of its filters
        removed = removed.filter(pl.col("reason") == reason)
    return [("kept", int(kept["rows"].sum())), ("removed", int(removed["rows"].sum()))]


def _reasons(counts: pl.DataFrame, step: str) -> dict[str, int]:
    """{reason: rows} of a step, the commonest first."""
    lost = pl.col("reason").str.starts_with(fates.LOST)
    own = counts.filter((pl.col("step") == step) & ~lost)
    common = own.sort(["rows", "reason"], descending=[True, False]).head(REASONS)
    return dict(common.select("reason", "rows").rows())
