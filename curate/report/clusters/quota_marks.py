"""Whether a filter that keeps so many of each cluster held one at its cap, or at its floor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from curate.report.facts import Facts
from curate.sample import UID
from filters import Batch, State, structured
from filters._quota import QuotaFilter
from filters.balanced_by import BalancedBy
from filters.cluster_balance import ClusterBalance
from filters.concept_prune import ConceptPrune

Word = Literal["cap", "floor", "everything", "nothing", "none"]


@dataclass(frozen=True)
class Mark:
    """What held a cluster, and the step that did."""

    mark: Word
    step: str | None = None


@dataclass(frozen=True)
class Reader:
    """A filter whose groups are the clusters of a column."""

    index: int  # of its step
    column: str


def readers_of(facts: Facts, column: str) -> Iterator[Reader]:
    """The filters that keep so many of each cluster, in order."""
    for index, step in enumerate(facts.plan.steps):
        reached = step.name in facts.states
        if reached and isinstance(step, QuotaFilter) and step.needs()[0] == column:
            yield Reader(index, column)


def mark_of(
    facts: Facts, came: Iterable[tuple[Reader, int]], cluster: int, whole: tuple[int, int]
) -> Mark:
    """The first cap or floor that held a cluster; else whether all or none of it was kept.

    Args:
        facts: The run.
        came: (filter, samples of the cluster that reached it), in order.
        cluster: Its number.
        whole: (size, kept) of the cluster.
    """
    for reader, size in came:
        word = _held(facts, reader, cluster, size)
        if word != "none":
            return Mark(word, facts.plan.steps[reader.index].name)
    size, kept = whole
    return Mark("nothing" if not kept else "everything" if kept == size else "none")


def _held(facts: Facts, reader: Reader, cluster: int, size: int) -> Word:
    """`cap`, `floor` or `none`."""
    own = facts.plan.steps[reader.index]
    assert isinstance(own, QuotaFilter), own
    state = facts.states[own.name]
    quota = _quota(own, state, reader.column, cluster)
    if not 0 < quota < size:
        return "none"
    if isinstance(own, ConceptPrune):  # its floor is never all of a cluster
        return "floor" if quota == min(int(state["floor"]), size - 1) else "none"
    if isinstance(own, ClusterBalance):  # as many of each, or all of it
        return "cap"
    if isinstance(own, BalancedBy):
        if quota == own.floor:
            return "floor"
        return "cap" if quota == own.cap or not own.power else "none"
    return "none"


def _quota(own: QuotaFilter, state: State, column: str, cluster: int) -> int:
    """How many samples of a cluster a filter keeps: of its group, which it names itself."""
    given = {name: pl.Series(name, [0.0]) for name in own.needs()}
    given[column] = pl.Series(column, [cluster], dtype=pl.UInt32)
    nobody = (np.zeros(1, UID), np.zeros(1, np.uint64), lambda _: np.zeros(1))
    group = int(own.group(Batch(structured(given, 1), *nobody))[0])
    quota = np.asarray(state["quota"], dtype=np.int64)
    if "groups" in state:
        place = np.flatnonzero(np.asarray(state["groups"]) == group)
        return int(quota[place[0]]) if len(place) else 0
    return int(quota[group]) if 0 <= group < len(quota) else 0
