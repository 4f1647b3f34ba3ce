"""Fitted features: fit once on what they are fitted on, then give every such sample its values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl

from curate import columns, fates, storage
from curate.columns import ROW, Span
from curate.compiled import Compiled
from curate.decide import batch_of
from curate.errors import ConfigError
from curate.features import Columns, FittedFeature, Part
from curate.lease import Lease
from curate.pipeline_file.schema import Resources
from curate.pools.pool import Pool, Unit
from curate.records import Done
from curate.runner import Lost, Needs, Runner, Stage
from curate.score import POLARS
from curate.step import fingerprint

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fitting:
    """Where a fitted feature stands in a run."""

    plan: Compiled
    index: int
    before: str  # the verdict at its place

    @property
    def feature(self) -> FittedFeature:
        """The step itself."""
        step = self.plan.steps[self.index]
        assert isinstance(step, FittedFeature), step
        return step

    @property
    def seen(self) -> str:
        """The verdict whose survivors it is fitted on, and gives values to."""
        return self.before if self.feature.fit_on == "survivors" else self.plan.pool_after

    @property
    def folder(self) -> str:
        """Where its columns are."""
        return columns.store(self.plan.work, self.feature.name).folder

    @property
    def artefact(self) -> str:
        """Where what it learnt is."""
        return columns.artefact_folder(self.plan.work, self.feature.name)


def fit_record(work: str, name: str) -> dict[str, Any]:
    """{samples, notes} of a feature that was fitted."""
    seal = storage.read_json(_seal(work, name))
    return {key: seal[key] for key in ("samples", "notes")}


def _nobody() -> None:
    """Nobody asked to be told."""


@dataclass(frozen=True)
class UnitRows:
    """The samples that a feature is fitted on; a task takes the parts of a unit, one by one."""

    fitting: Fitting
    pool: Pool
    runner: Runner
    lease: Lease
    count: int
    tell: Callable[[], None] = _nobody  # of each task that is done

    @property
    def parts(self) -> int:
        """Parts of the pool's units; some may have no sample of these."""
        return sum(1 for unit in self.pool.units() for _ in unit.parts())

    def map(self, work: Callable[[Part], Result]) -> Iterator[Result]:
        """Results part by part, in any order."""
        task = partial(_on_parts, self.fitting, work)
        found = self.runner.map(task, self.pool.units(), self.fitting.feature.name)
        return (result for results in self._watched(found) for result in results)

    def gathers(self, rows: int) -> int:
        """Tasks of `gather`."""
        return sum(1 for _ in self._gathered(rows))

    def gather(self, work: Callable[[int, Iterator[Part]], Result], rows: int) -> Iterator[Result]:
        """Results of tasks over the parts of consecutive units, of about so many rows together."""
        task = partial(_on_units, self.fitting, work)
        items = enumerate(self._gathered(rows))
        return self._watched(self.runner.map(task, items, self.fitting.feature.name))

    def _gathered(self, rows: int) -> Iterator[list[Unit]]:
        units: list[Unit] = []
        for unit in self.pool.units():
            units.append(unit)
            if sum(one.stop - one.start for one in units) >= rows:
                yield units
                units = []
        if units:
            yield units

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of any tasks, in any order; with a GPU each where that makes them faster."""
        feature = self.fitting.feature
        if not feature.gpu:
            return self._watched(self.runner.map(work, items, feature.name))
        given = self.fitting.plan.config.run.steps.get(feature.name) or Resources()
        needs = Needs(given.cpus, given.gpus, given.memory_gb, given.actors)
        stage = Stage(feature.name, partial(_opened, work), needs)
        return self._watched(_not_lost(feature.name, self.runner.flow([stage], items)))

    def _watched(self, results: Iterator[Result]) -> Iterator[Result]:
        for result in results:
            self.lease.check()
            self.tell()
            yield result


def _opened(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    return work


def _not_lost(name: str, results: Iterator[tuple[int, Any, Any]]) -> Iterator[Any]:
    """The results of a flow: what is learnt from all samples cannot do without some of them."""
    for _, _, result in results:
        if isinstance(result, Lost):
            raise ConfigError(
                f"{name} cannot be fitted: a task was lost ({result.kind}: {result.message}). "
                f"Give each worker more with `run.{name}.memory_gb`, or have fewer at once with "
                f"`run.{name}.actors`, and run again"
            )
        yield result


def _seen_rows(fitting: Fitting, piece: Unit) -> np.ndarray:
    """[N] rows, of a piece, of the samples that the feature is fitted on."""
    return fates.read(fitting.plan.work, fitting.seen, _span(piece)).rows


def _span(piece: Unit) -> Span:
    return Span(piece.block, piece.start, piece.stop, piece.number)


def _part(fitting: Fitting, piece: Unit, rows: np.ndarray) -> Part:
    return Part(piece.part, batch_of(fitting.plan, fitting.index, _span(piece), rows))


def _on_parts(fitting: Fitting, work: Callable[[Part], Result], unit: Unit) -> list[Result]:
    # Nothing holds a part while the next is read.
    return [work(_part(fitting, piece, _seen_rows(fitting, piece))) for piece in unit.parts()]


def _on_units(
    fitting: Fitting,
    work: Callable[[int, Iterator[Part]], Result],
    numbered: tuple[int, list[Unit]],
) -> Result:
    number, units = numbered
    pieces = (piece for unit in units for piece in unit.parts())
    return work(number, (_part(fitting, p, _seen_rows(fitting, p)) for p in pieces))


def fitted_on(fitting: Fitting, seen: str) -> str:
    """Changes with the recipe of a fitted feature, what that reads, and the samples it sees.

    Args:
        fitting: The feature and its place.
        seen: Changes with those samples.
    """
    plan = fitting.plan
    if fitting.feature.from_files:
        seen = ""  # whoever they are, the same is learnt
    made = [[plan.recipes[maker], plan.lost.get(maker, {})] for maker in _makers(fitting)]
    return fingerprint([plan.config.seed, plan.recipes[fitting.feature.name], seen, made])


def _makers(fitting: Fitting) -> list[str]:
    registry = fitting.plan.registries[fitting.index]
    return sorted({registry[name].store for name in fitting.feature.needs()} - {"pool"})


def _recipes(fitting: Fitting) -> str:
    """Changes with the recipe of a fitted feature and of what it reads, whoever the samples are."""
    recipes = [fitting.plan.recipes[name] for name in (fitting.feature.name, *_makers(fitting))]
    return fingerprint([fitting.plan.config.seed, recipes])


def content(work: str, name: str) -> str:
    """Changes with what a feature was last fitted on."""
    return str(storage.read_json(_seal(work, name))["on"])


def _seal(work: str, name: str) -> str:
    return storage.join(columns.store(work, name).folder, "fitted.json")


Standing = Literal["new", "kept", "frozen", "other recipe", "other samples"]


def standing(fitting: Fitting, wanted: str) -> Standing:
    """What a run does about a feature, and why: all but `kept` and `frozen` are fitted by it.

    Args:
        fitting: The feature and its place.
        wanted: What `fitted_on` says; "" where its samples will be others, whichever.
    """
    seal = _seal(fitting.plan.work, fitting.feature.name)
    if not storage.exists(seal):
        return "new"
    before = storage.read_json(seal)
    if before["on"] == wanted:
        return "kept"
    if before.get("by") != _recipes(fitting):
        return "other recipe"
    return "frozen" if fitting.feature.when_changed == "freeze" else "other samples"


def fit(rows: UnitRows, wanted: str) -> None:
    """Fit a feature unless what it learnt is there already, from the same.

    The seal is written last, and what was made from something else is removed before.

    Args:
        rows: What it is fitted on.
        wanted: What `fitted_on` says.
    """
    fitting = rows.fitting
    if standing(fitting, wanted) in ("kept", "frozen"):
        return
    begun = storage.join(fitting.folder, "begun.json")
    left = fitting.feature.resumes and storage.exists(begun)
    if not left or storage.read_json(begun)["on"] != wanted:
        storage.remove(fitting.folder)
        storage.commit_json(begun, {"on": wanted})
    fitting.feature.fit(rows, fitting.artefact)
    rows.lease.confirm()
    notes = fitting.feature.notes(fitting.artefact)
    said = {"on": wanted, "by": _recipes(fitting), "samples": rows.count, "notes": notes}
    storage.commit_json(_seal(fitting.plan.work, fitting.feature.name), said)
    storage.remove(begun)


def assign_unit(fitting: Fitting, assign: Callable[[Part], Columns], unit: Unit) -> Done:
    """Give a unit's samples their values, unless they have them."""
    began = time.monotonic()
    store = columns.store(fitting.plan.work, fitting.feature.name)
    stored = store.rows(unit.block, unit.number)
    there = np.zeros(unit.stop, dtype=bool)
    there[stored[stored < unit.stop]] = True
    made = [_lacking(fitting, assign, piece, there) for piece in unit.parts()]
    frames = [frame for frame in made if frame is not None]
    if not frames:
        return Done(0, 0, time.monotonic() - began)
    fresh = pl.concat(frames)
    store.write_part(unit.block, unit.number, fresh)
    return Done(fresh.height, fresh["error"].count(), time.monotonic() - began)


def _lacking(
    fitting: Fitting, assign: Callable[[Part], Columns], piece: Unit, there: np.ndarray
) -> pl.DataFrame | None:
    """The values of a piece's samples that have none yet; None where all have."""
    rows = _seen_rows(fitting, piece)
    places = rows + piece.start
    if there[places].all():
        return None
    given = assign(_part(fitting, piece, rows))
    fields: dict[str, Any] = {ROW: places.astype(np.uint32)}
    for field in fitting.feature.gives():
        values = pl.Series(field.name, given.scalars[field.name], dtype=POLARS[field.dtype])
        fields[field.name] = values.fill_nan(None) if values.dtype.is_float() else values
    errors = pl.Series(given.errors, dtype=pl.String)
    if not len(errors):
        errors = pl.Series([None], dtype=pl.String).new_from_index(0, len(rows))
    fields["error"] = errors
    # Who has values keeps them: they are the same, or frozen.
    return pl.DataFrame(fields).filter(pl.Series(~there[places]))
