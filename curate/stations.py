"""What flows in a phase: downloads and features, shard by shard, each where it stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from curate import columns
from curate.columns import Span, store
from curate.compiled import Compiled, Phase, columns_given, is_scorer
from curate.downloads.download import Download
from curate.errors import ConfigError
from curate.features import Feature, FittedFeature
from curate.fitted import Fitting, UnitRows, fit, fitted_on
from curate.flow import Place, failed_rows, missing, open_stage
from curate.phases import Run, download_content
from curate.pipeline_file.schema import Resources
from curate.pools.pool import Pool, Unit
from curate.records import Done
from curate.runner import LocalRunner, Lost, Needs, Stage
from curate.step import fingerprint


def _stages(run: Run, phase: Phase) -> list[Place]:
    """The downloads and features of a phase; neighbours that look at pictures share one decode."""
    places: list[Place] = []
    previous = -2
    for index in range(phase.first, phase.stop):
        step = run.plan.steps[index]
        if not is_scorer(step):
            continue
        last = run.plan.steps[previous] if previous >= 0 else None
        together = (
            previous == index - 1
            and isinstance(step, Feature)
            and isinstance(last, Feature)
            and not isinstance(last, FittedFeature)
            and step.pictures == last.pictures
            and not _reads_from(run.plan, step, places[-1].steps)
        )
        if together:
            places[-1] = replace(places[-1], steps=(*places[-1].steps, index))
        else:
            places.append(Place(run.before, phase.first, (index,)))
        previous = index
    return places


def _reads_from(plan: Compiled, step: Feature, indices: Sequence[int]) -> bool:
    """Whether a feature needs what one of these steps makes: then they cannot be one stage."""
    made = {name for index in indices for name in columns_given(plan.steps[index])}
    return bool(made & set(step.needs()))


@dataclass(frozen=True)
class _Station:
    """A stage of a flow, and where it stands in the pipeline."""

    name: str
    place: Place
    stage: Stage


def flow(run: Run, phase: Phase) -> None:
    """Download and score what is missing, shard by shard, stage after stage."""
    step = run.plan.steps[phase.first] if phase.first < phase.stop else None
    if isinstance(step, FittedFeature):
        _fit(run, phase.first)
    places = _stages(run, phase)
    if not places:
        return
    wanted = _wanted_units(run, places)
    stations = [_station(run.plan, place) for place in places]
    for station in stations:
        run.recorder.begin(station.name, len(wanted))
    with _naming("+".join(station.name for station in stations)):
        lost = _run_stations(run, stations, wanted)
    for station in stations:
        needs = station.stage.needs
        gpus = needs.gpus if needs.gpus is not None else float(run.runner.gpus > 0)
        run.recorder.end(station.name, gpus)
    for name in (run.plan.steps[index].name for place in places for index in place.steps):
        compact = partial(_compact, run.plan.work, name)
        for _ in run.runner.map(compact, range(run.pool.blocks), "compact"):
            run.lease.check()
    run.plan = replace(run.plan, lost={**run.plan.lost, **lost})


def _fit(run: Run, index: int) -> None:
    """Learn what a fitted feature learns from the survivors, or from the pool."""
    fitting = Fitting(run.plan, index, run.before)
    count = run.survivors()
    if fitting.seen != run.before:
        count = run.states["pool"]["rows"]
    label = f"{fitting.feature.name}: fit"
    run.recorder.begin(label, 0)
    tell = partial(run.recorder.task, label)
    rows = UnitRows(fitting, run.pool, run.runner, run.lease, count, tell)
    with _naming(fitting.feature.name):
        fit(rows, fitted_on(fitting, seen_by(run, fitting)))
    run.recorder.end(label)


@contextmanager
def _naming(step: str) -> Iterator[None]:
    """Say of which step an error is that a value of the user's caused while it ran."""
    try:
        yield
    except ConfigError as error:
        if type(error) is not ConfigError or str(error).startswith(step):
            raise
        raise ConfigError(f"{step}: {error}") from None


def seen_by(run: Run, fitting: Fitting) -> str:
    """Changes with the samples that a feature is fitted on, and with their pictures."""
    if fitting.feature.fit_on == "survivors":
        return run.chain
    before = run.plan.steps[: fitting.index]
    downloads = [step.name for step in before if isinstance(step, Download)]
    contents = [download_content(run, name) for name in downloads]
    return fingerprint([run.pool.fingerprint(), run.plan.limit, contents])


def _wanted_units(run: Run, places: Sequence[Place]) -> set[int]:
    look = partial(_pending, run.plan, places)
    found = run.runner.map(look, _by_block(run.pool), "look")
    return {number for numbers in found for number in numbers}


def _station(plan: Compiled, place: Place) -> _Station:
    name = "+".join(plan.steps[index].name for index in place.steps)
    stage = Stage(name, partial(open_stage, plan, place), _needs(plan, place))
    return _Station(name, place, stage)


def _run_stations(
    run: Run, stations: Sequence[_Station], wanted: set[int]
) -> dict[str, dict[int, str]]:
    """Send the wanted units through all stations; what was lost, by step and unit."""
    lost: dict[str, dict[int, str]] = {}
    if not wanted:
        return lost
    units = (unit for unit in run.pool.units() if unit.number in wanted)
    first = run.plan.steps[stations[0].place.steps[0]]
    spreads = isinstance(first, FittedFeature) and first.assigns_on_gpu
    if isinstance(first, FittedFeature) and (not spreads or isinstance(run.runner, LocalRunner)):
        _assign(run, stations[0], units)
        stations = stations[1:]
        units = (unit for unit in run.pool.units() if unit.number in wanted)
    if not stations:
        return lost
    rows = sum(unit.stop - unit.start for unit in run.pool.units() if unit.number in wanted)
    run.runner = run.grow(run.runner, rows * sum(map(partial(_cost, run.plan), stations)))
    for number, unit, result in run.runner.flow([s.stage for s in stations], units):
        run.lease.check()
        station = stations[number]
        if isinstance(result, Lost):
            for index in station.place.steps:
                lost.setdefault(run.plan.steps[index].name, {})[unit.number] = result.kind
            run.recorder.task(station.name)
        else:
            assert isinstance(result, Done), result
            run.recorder.task(station.name, result)
    return lost


def _cost(plan: Compiled, station: _Station) -> float:
    """Seconds that one core takes for one row, roughly."""
    kinds = [type(plan.steps[index]) for index in station.place.steps]
    features = [kind if issubclass(kind, Feature) else Feature for kind in kinds]
    return sum(1 / feature.rows_per_second for feature in features)


def _assign(run: Run, station: _Station, units: Iterator[Unit]) -> None:
    """Give a fitted feature's samples their values: it is learnt, so this is looking up."""
    work = _OpenedByThread(partial(open_stage, run.plan, station.place))
    for done in run.runner.map(work, units, station.name):
        run.lease.check()
        run.recorder.task(station.name, done)


class _OpenedByThread:
    """Work that is opened once in every thread: what is opened may remember where it is."""

    def __init__(self, opener: Callable[[], Callable[[Unit], Done]]) -> None:
        self._opener = opener
        self._own = threading.local()

    def __call__(self, unit: Unit) -> Done:
        if not hasattr(self._own, "work"):
            self._own.work = self._opener()
        done: Done = self._own.work(unit)
        return done

    def __reduce__(self) -> Any:
        return _OpenedByThread, (self._opener,)


def _compact(work: str, name: str, block: int) -> None:
    columns.store(work, name).compact(block)


def _by_block(pool: Pool) -> Iterator[list[Unit]]:
    block: list[Unit] = []
    for unit in pool.units():
        if block and unit.block != block[0].block:
            yield block
            block = []
        block.append(unit)
    if block:
        yield block


def _pending(plan: Compiled, places: Sequence[Place], units: list[Unit]) -> set[int]:
    """Numbers of the units of a block in which a stage has something to do."""
    whole = Span(units[0].block, units[0].start, units[-1].stop)
    found: set[int] = set()
    for number, place in enumerate(places):
        for mask in missing(plan, place, whole).values():
            found |= _units_with(units, mask)
        if found:
            # A later stage can only be looked at where the earlier ones are complete.
            rest = [unit for unit in units if unit.number not in found]
            found |= {unit.number for unit in rest if _lacks(plan, places[number + 1 :], unit)}
            break
    if plan.retry_failed:
        steps = [plan.steps[index] for place in places for index in place.steps]
        for one in (store(plan.work, step.name) for step in steps if isinstance(step, Download)):
            found |= _units_with(units, failed_rows(one, whole))
    return found


def _units_with(units: Sequence[Unit], mask: np.ndarray) -> set[int]:
    """Numbers of the units in which a mask over all of them is true."""
    starts = [unit.start - units[0].start for unit in units]
    places = np.searchsorted(starts, np.flatnonzero(mask), side="right") - 1
    return {units[place].number for place in np.unique(places).tolist()}


def _lacks(plan: Compiled, places: Sequence[Place], unit: Unit) -> bool:
    span = Span(unit.block, unit.start, unit.stop, unit.number)
    return any(mask.any() for place in places for mask in missing(plan, place, span).values())


def _needs(plan: Compiled, place: Place) -> Needs:
    steps = [plan.steps[index] for index in place.steps]
    given = plan.config.run.steps.get(steps[0].name)
    given = given or Resources()
    features = [step for step in steps if isinstance(step, Feature)]
    gpus = given.gpus if any(step.gpu for step in features) else 0.0
    fills = any(step.pictures for step in features)  # decode threads on every core
    return Needs(given.cpus, gpus, given.memory_gb, given.actors, "node" if fills else "cpu")
