"""The two things that are compared: finished runs or subset files, and which rows both can see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from curate import columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled
from curate.errors import ConfigError
from curate.fates import Fates
from curate.report.facts import Facts, public
from curate.report.reading import read_facts
from curate.resharding.membership import find
from curate.runner import Runner, fold
from curate.subsets.sorted_files import RowFile
from curate.subsets.subset_file import opened

Letter = Literal["a", "b"]
OTHER: dict[Letter, Letter] = {"a": "b", "b": "a"}
LETTERS: tuple[Letter, Letter] = ("a", "b")


@dataclass(frozen=True)
class Side:
    """A run or a subset file."""

    letter: Letter
    place: str  # as given
    subset: RowFile  # sorted
    facts: Facts | None = None  # of a run
    report: dict[str, Any] | None = None  # its report.json


@dataclass(frozen=True)
class View:
    """The rows of one run's pool, and who of them each side kept. What a task takes along."""

    own: Letter  # whose run it is
    plan: Compiled
    after: str  # its last verdict
    subsets: tuple[RowFile, RowFile]  # of A and of B
    other: tuple[Compiled, str] | None  # the other run and its last verdict, over the same rows
    of: tuple[Letter, ...]  # the sides whose samples are read here

    def members(self, span: Span) -> Members:
        """Who of a span each side kept, and who is its own alone."""
        mine = fates.read(self.plan.work, self.after, span)
        alive = mine.alive
        if self.other is not None:
            theirs = fates.read(self.other[0].work, self.other[1], span)
            kept = {self.own: alive, OTHER[self.own]: theirs.alive}
            only = {self.own: alive & ~theirs.alive, OTHER[self.own]: ~alive & theirs.alive}
            return Members(kept, only, {self.own: mine, OTHER[self.own]: theirs})
        other = OTHER[self.own]
        uids = columns.uids(self.plan.work, span)
        there = self._has(other, uids)
        only_theirs = there & ~alive
        doubtful = np.flatnonzero(only_theirs)  # the uid may be that of another row that was kept
        only_theirs[doubtful] = ~self._has(self.own, uids[doubtful])
        kept = {self.own: alive, other: there}
        return Members(kept, {self.own: alive & ~there, other: only_theirs}, {self.own: mine})

    def _has(self, letter: Letter, uids: np.ndarray) -> np.ndarray:
        """[N] bool: whose uid is in a side's subset."""
        file = self.subsets[LETTERS.index(letter)]
        if not file.rows or not len(uids):
            return np.zeros(len(uids), dtype=bool)
        return np.asarray(find(file.read(0, file.rows), uids)[1] > 0)


@dataclass(frozen=True)
class Members:
    """Who of N consecutive rows belongs where."""

    kept: dict[Letter, np.ndarray]  # [N] bool
    only: dict[Letter, np.ndarray]  # [N] bool: kept by this side and not by the other
    said: dict[Letter, Fates]  # by the runs that decided on these very rows

    def only_fate(self, letter: Letter) -> Fates | None:
        """The fates that the other side gave the rows that one side alone kept, if it is known."""
        return self.said.get(OTHER[letter])


@dataclass(frozen=True)
class Pair:
    """Both sides, and where the samples of each can be read."""

    a: Side
    b: Side
    pool: Literal["same", "other", "unknown"]  # same: the same rows in the same order
    views: tuple[View, ...]

    @property
    def sides(self) -> dict[Letter, Side]:
        """By letter."""
        return {"a": self.a, "b": self.b}

    def jobs(self) -> list[tuple[View, Span]]:
        """Every block of every view, whole."""
        return [(view, span) for view in self.views for span in self._facts(view).spans()]

    def _facts(self, view: View) -> Facts:
        facts = self.sides[view.own].facts
        assert facts is not None
        return facts

    def read_by(self, letter: Letter) -> Facts | None:
        """The run whose pool a side's samples are read from; None where there is none."""
        view = self.view_of(letter)
        return None if view is None else self._facts(view)

    def view_of(self, letter: Letter) -> View | None:
        """The view in which a side's samples are read."""
        return next((view for view in self.views if letter in view.of), None)


@contextmanager
def pair_of(a: str, b: str, runner: Runner) -> Iterator[Pair]:
    """Open two places; lists of uids are sorted into scratch files as long as this lasts.

    Raises:
        CurateError: a place is neither a finished run nor a subset.
    """
    subsets = [_subset(place) for place in (a, b)]
    with opened(subsets) as files:
        first = _side("a", a, files[0])
        second = _side("b", b, files[1])
        if first.facts is None or second.facts is None:
            yield Pair(first, second, "unknown", _views(first, second, rows="others"))
            return
        same = _same_rows(first.facts, second.facts, runner)
        rows: Literal["same", "others"] = "same" if same else "others"
        yield Pair(first, second, "same" if same else "other", _views(first, second, rows=rows))


def is_run(place: str) -> bool:
    """Whether a place is the work folder of a run."""
    return storage.exists(storage.join(place, "pipeline.yaml"))


def _subset(place: str) -> str:
    """The subset file of a place."""
    if not is_run(place):
        if _is_folder(place):
            raise ConfigError(
                f"{place} is a folder in which no run was started: it has no pipeline.yaml. Give "
                "the folder that a pipeline file's `work:` names, or a subset file (.npy)"
            )
        return place
    if not storage.exists(storage.join(place, "manifest.json")):
        raise ConfigError(
            f"the run in {place} is not finished, so what it selected is not known: finish it "
            "first: curate run <file>"
        )
    return storage.join(place, "subset.npy")


def _is_folder(place: str) -> bool:
    if storage.is_local(place):
        return storage.local_path(place).is_dir()
    return place.endswith("/") or bool(storage.names(place) or storage.folders(place))


def _side(letter: Letter, place: str, subset: RowFile) -> Side:
    side = Side(letter, public(place), subset)
    if not is_run(place):
        return side
    report = storage.read_json(storage.join(place, "report", "report.json"))
    return replace(side, facts=read_facts(place), report=report)


def _views(a: Side, b: Side, *, rows: Literal["same", "others"]) -> tuple[View, ...]:
    found = []
    for side, other in ((a, b), (b, a)):
        if side.facts is None:
            continue
        of = (side.letter,) if other.facts is not None else LETTERS
        beside = None
        if rows == "same" and other.facts is not None:
            beside = (other.facts.plan, other.facts.after)
        subsets = (a.subset, b.subset)
        found.append(View(side.letter, side.facts.plan, side.facts.after, subsets, beside, of))
    return tuple(found)


def _same_rows(a: Facts, b: Facts, runner: Runner) -> bool:
    """Whether two runs read the same samples in the same blocks, wherever the files were."""
    if a.pool.block_rows().tolist() != b.pool.block_rows().tolist():
        return False
    work = partial(_same_uids, a.plan.work, b.plan.work)
    return fold(runner.map(work, a.spans(), "diff"), _both) is not False


def _both(left: bool, right: bool) -> bool:  # noqa: FBT001 - folds results
    return left and right


def _same_uids(a: str, b: str, span: Span) -> bool:
    halves = zip(columns.uid_halves(a, span), columns.uid_halves(b, span), strict=True)
    return all(np.array_equal(one, other) for one, other in halves)


def names_of(places: Sequence[str]) -> tuple[str, str]:
    """A short name for each of two places: the last part of their paths in which they differ."""
    a, b = (_parts(place) for place in places)
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            return one, other
    return a[-1], b[-1]


_SAID_OFTEN = ("work", "subset")  # what many folders and files are called


def _parts(place: str) -> list[str]:
    path = PurePosixPath(place.split("://", 1)[-1])
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    if parts and path.suffix:
        parts[-1] = path.stem
    while len(parts) > 1 and parts[-1] in _SAID_OFTEN:
        parts.pop()
    return parts or ["here"]
