"""Who else is where a sample is: its groups of duplicates, and its clusters, by one look at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from curate import columns, fates
from curate.columns import ROW, Span, artefact_folder
from curate.compiled import Compiled
from curate.explanation.finding import Address, shard_of
from curate.explanation.row import Row
from curate.explanation.schema import Cluster, DuplicateGroup, Member
from curate.features import Feature
from curate.pairs import PAIR, TWIN, lookup, opened, partition_of, representative
from curate.report.facts import Facts, stops
from curate.runner import Runner, fold
from curate.sample import format_uids, parse_uid
from filters import Filter
from filters._pairs import PairFilter

MEMBERS = 20  # of a group that are listed


@dataclass(frozen=True)
class GroupOf:
    """Those whom a step removed because of one uid, and who has that uid."""

    index: int  # of the step
    uid: str


@dataclass(frozen=True)
class InCluster:
    """Those that a step puts into one cluster."""

    index: int  # of the step
    cluster: int


Question = GroupOf | InCluster
Unit = Literal["similarity", "distance"]


@dataclass(frozen=True)
class Answer:
    """How many, and the first of them."""

    rows: int = 0
    kept: int = 0  # of a cluster: still in after the last step
    first: tuple[tuple[Address, str], ...] = ()  # (address, uid)
    stayed: tuple[Address, ...] = ()  # of a group: who has the uid and got past the step

    def plus(self, other: Answer) -> Answer:
        """Both in one, in any order."""
        return Answer(
            self.rows + other.rows,
            self.kept + other.kept,
            tuple(sorted((*self.first, *other.first))[: MEMBERS + 1]),
            tuple(sorted((*self.stayed, *other.stayed))[:1]),
        )


@dataclass(frozen=True)
class Company:
    """The answers about some samples."""

    facts: Facts
    answers: dict[Question, Answer] = field(default_factory=dict)

    def groups(self, row: Row) -> list[DuplicateGroup]:
        """The groups that a sample is in, or was removed from."""
        found = []
        for question in _groups_of(row):
            answer = self.answers[question]
            if answer.rows:
                found.append(_group(row, question, answer))
        return found

    def clusters(self, row: Row) -> list[Cluster]:
        """The clusters that a sample is in."""
        return [_cluster(row, one, self.answers[one]) for one in _clusters_of(row)]


def company(facts: Facts, rows: Sequence[Row], runner: Runner) -> Company:
    """Look at every block once for all that some samples ask; nothing where they ask nothing."""
    asked: dict[Question, None] = {}
    for row in rows:
        asked |= dict.fromkeys(_groups_of(row))
        asked |= dict.fromkeys(_clusters_of(row))
    questions = tuple(asked)
    if not questions:
        return Company(facts)
    work = partial(_ask, facts.plan, facts.after, questions)
    found = fold(runner.map(work, facts.spans(), "explain"), _added)
    return Company(facts, dict(zip(questions, found or (), strict=True)))


def _added(left: list[Answer], right: list[Answer]) -> list[Answer]:
    return [one.plus(other) for one, other in zip(left, right, strict=True)]


def _groups_of(row: Row) -> Iterator[GroupOf]:
    """The group of each step that removes duplicates, as far as the sample came."""
    own = format_uids(row.uids)[0]
    for index, step in enumerate(row.facts.plan.steps):
        if not isinstance(step, Filter) or not step.removes_duplicates or row.stop < index:
            continue
        because = row.fates.because[0] if row.fates.because is not None else None
        if row.stop > index:
            yield GroupOf(index, own)
        elif because is not None:  # else it was unscored
            yield GroupOf(index, because)


def _clusters_of(row: Row) -> Iterator[InCluster]:
    plan = row.facts.plan
    for index, step in enumerate(plan.steps):
        if not isinstance(step, Feature) or "cluster" not in {f.name for f in step.gives()}:
            continue
        name = f"{step.name}.cluster"
        number = row.values(plan.registries[-1], [name])[name]
        if number is not None:
            yield InCluster(index, number)


def _ask(plan: Compiled, after: str, questions: Sequence[Question], span: Span) -> list[Answer]:
    found = fates.read(plan.work, after, span)
    stopped = stops(plan, found)
    halves = columns.uid_halves(plan.work, span)
    answers = []
    for question in questions:
        if isinstance(question, GroupOf):
            rows = _because(found, stopped, question)
            answers.append(_of_group(span, stopped, halves, (question, rows)))
        else:
            answers.append(_of_cluster(plan, stopped, question, span))
    return answers


def _because(found: fates.Fates, stopped: np.ndarray, question: GroupOf) -> np.ndarray:
    """[K] rows that a step removed because of a uid."""
    if found.because is None:
        return np.zeros(0, dtype=np.int64)
    said = (found.because == question.uid).fill_null(value=False).arg_true().to_numpy()
    return np.asarray(said[stopped[said] == question.index])


def _of_group(
    span: Span,
    stopped: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    asked: tuple[GroupOf, np.ndarray],
) -> Answer:
    question, rows = asked
    high, low = (np.uint64(half) for half in parse_uid(question.uid))
    same = np.flatnonzero(halves[0] == high)
    same = same[(halves[1][same] == low) & (stopped[same] > question.index)]
    first = rows[: MEMBERS + 1]
    uids = [f"{a:016x}{b:016x}" for a, b in zip(*(half[first].tolist() for half in halves),
                                              strict=True)]  # fmt: skip
    return Answer(
        rows=len(rows),
        first=tuple(
            ((span.block, row), uid) for row, uid in zip(first.tolist(), uids, strict=True)
        ),
        stayed=tuple((span.block, row) for row in same[:1].tolist()),
    )


def _of_cluster(plan: Compiled, stopped: np.ndarray, question: InCluster, span: Span) -> Answer:
    name = plan.steps[question.index].name
    stored = columns.store(plan.work, name).read(span.block, ["cluster"])
    inside = (stored["cluster"] == question.cluster).fill_null(value=False).to_numpy()
    rows = stored[ROW].to_numpy()[inside]
    return Answer(rows=len(rows), kept=int((stopped[rows] == len(plan.steps)).sum()))


def _group(row: Row, question: GroupOf, answer: Answer) -> DuplicateGroup:
    plan = row.facts.plan
    step = plan.steps[question.index]
    itself = (row.block, row.row)
    stayed = answer.stayed[0] if answer.stayed else None
    values = _Pairs(plan, step, stayed) if isinstance(step, PairFilter) else None
    others = [(place, uid) for place, uid in answer.first if place != itself][:MEMBERS]
    return DuplicateGroup(
        step=step.name,
        stayed=question.uid,
        is_stayed=row.stop > question.index,
        kept=_member(row, stayed, question.uid, None) if stayed is not None else None,
        size=answer.rows + 1,
        unit=values.unit if values is not None else None,
        own_value=values.of(itself) if values is not None and row.stop == question.index else None,
        members=[
            _member(row, place, uid, values.of(place) if values is not None else None)
            for place, uid in others
        ],
    )


def _member(row: Row, place: Address, uid: str, value: float | None) -> Member:
    shard = shard_of(row.facts.pool.table, Span(place[0], place[1], place[1] + 1))
    return Member(uid=uid, shard=shard["number"], row=place[1] - shard["offset"], value=value)


class _Pairs:
    """What stored pairs say of the one that stayed and others."""

    def __init__(self, plan: Compiled, step: PairFilter, stayed: Address | None) -> None:
        nothing_apart = np.zeros(1, dtype=np.float32)
        self.unit: Unit = "distance" if step.alike(nothing_apart)[0] else "similarity"
        self._stayed = np.zeros(0, dtype=np.uint64)
        self._pairs, self._twins = np.zeros(0, dtype=PAIR), np.zeros(0, dtype=TWIN)
        folder = artefact_folder(plan.work, str(step.of))
        if stayed is None:
            return
        member = lookup(folder)(_number(stayed))[0]
        if not member["count"]:
            return
        partitions = opened(folder)
        partition = int(partition_of(np.array([member["part"]]), partitions.count)[0])
        self._pairs, self._twins = partitions.read(partition)
        self._stayed = representative(_number(stayed), self._twins)

    def of(self, place: Address) -> float | None:
        """The value of the pair of a sample and the one that stayed; None where none is stored."""
        if not len(self._stayed):
            return None
        own = representative(_number(place), self._twins)
        if own[0] == self._stayed[0]:
            return 0.0 if self.unit == "distance" else 1.0  # twins are the same for the feature
        left, right = min(own[0], self._stayed[0]), max(own[0], self._stayed[0])
        start, stop = np.searchsorted(self._pairs["left"], [left, left + np.uint64(1)])
        found = self._pairs[start:stop]
        found = found[found["right"] == right]
        return float(found["value"][0]) if len(found) else None


def _number(place: Address) -> np.ndarray:
    """[1] uint64: the block in the upper 32 bits, the row in the lower."""
    return np.array([(place[0] << 32) + place[1]], dtype=np.uint64)


def _cluster(row: Row, question: InCluster, answer: Answer) -> Cluster:
    plan = row.facts.plan
    step = plan.steps[question.index]
    assert isinstance(step, Feature), step
    fields = [one.name for one in step.gives() if one.dtype != "uint32s"]
    said = row.values(plan.registries[-1], [f"{step.name}.{name}" for name in fields])
    values = {name: said[f"{step.name}.{name}"] for name in fields}
    return Cluster(
        step=step.name,
        cluster=question.cluster,
        distance=values.get("distance"),
        second=values.get("second"),
        second_distance=values.get("second_distance"),
        levels={name: values[name] for name in fields if name.startswith("level")},
        size=answer.rows,
        kept=answer.kept,
    )
