"""Phases of steps over shards and blocks: flow, then a verdict, then at most one barrier."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import columns, decide, fates, storage
from curate.columns import Span, store
from curate.compiled import Compiled, Phase, columns_given, is_scorer, pool_children
from curate.decide import States
from curate.downloads.download import Download
from curate.errors import BudgetExceeded
from curate.features import Feature, FittedFeature
from curate.fitted import Fitting, UnitRows, content, fit, fitted_on
from curate.flow import Place, failed_rows, missing, open_stage
from curate.groups import grouping, learnt
from curate.lease import Lease
from curate.pipeline_file.schema import Resources, Step
from curate.pools.pool import Pool, Unit
from curate.records import Done, Recorder
from curate.runner import Lost, Needs, Runner, Stage, fold
from curate.shuffle import MEMBER, Exchange
from curate.step import fingerprint
from filters import Counts, GroupFilter, PoolFilter, State
from filters._quota import QuotaFilter


@dataclass
class Run:
    """What the run loop holds: small values only."""

    plan: Compiled
    pool: Pool
    runner: Runner
    lease: Lease
    recorder: Recorder
    grow: Callable[[Runner, int], Runner]  # a runner that suits so many rows to score or fetch
    chain: str = ""
    before: str = fates.START
    selection: str = ""  # changes with the rows that are kept and their copies, once it is known
    states: States = field(default_factory=dict)
    counts: pl.DataFrame = field(default_factory=pl.DataFrame)

    def spans(self) -> list[Span]:
        """Every block, whole; one of empty shards alone has nothing to decide."""
        rows = self.pool.block_rows().tolist()
        return [Span(block, 0, count) for block, count in enumerate(rows) if count]

    def survivors(self) -> int:
        """Rows still in."""
        return int(self.counts.filter(pl.col("step").is_null())["rows"].sum())

    def map_counts(self, work: Any, label: str) -> pl.DataFrame:
        """Run a block task that gives counts over all blocks, and add them up."""
        spans = self.spans()
        self.recorder.begin(label, len(spans))
        total = fold(self._watched(self.runner.map(work, spans, label), label), fates.add_counts)
        self.recorder.end(label)
        return total if total is not None else fates.no_counts()

    def _watched(self, results: Iterator[Any], label: str) -> Iterator[Any]:
        for result in results:
            self.lease.check()
            self.recorder.task(label)
            yield result


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
    lost = _run_stations(run, stations, wanted)
    for station in stations:
        run.recorder.end(station.name)
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
    fit(
        UnitRows(fitting, run.pool, run.runner, run.lease, count),
        fitted_on(fitting, seen_by(run, fitting)),
    )
    run.recorder.end(label)


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
    if isinstance(run.plan.steps[stations[0].place.steps[0]], FittedFeature):
        _assign(run, stations[0], units)
        stations = stations[1:]
        units = (unit for unit in run.pool.units() if unit.number in wanted)
    if not stations:
        return lost
    rows = sum(unit.stop - unit.start for unit in run.pool.units() if unit.number in wanted)
    run.runner = run.grow(run.runner, rows)
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


def _chain(run: Run, phase: Phase) -> str:
    chain = run.chain
    for index in range(phase.first, phase.stop):
        chain = linked(run, chain, run.plan.steps[index])
    return chain


def linked(run: Run, chain: str, step: Step) -> str:
    """The fingerprint of a verdict: all before it, the step, and what else decides."""
    name = step.name
    link: list[Any] = [chain, name, run.plan.recipes[name], run.plan.lost.get(name, {})]
    if isinstance(step, Download):
        link.append(download_content(run, name))
    if isinstance(step, FittedFeature):
        link.append(content(run.plan.work, name))
    return fingerprint(link)


def download_content(run: Run, name: str) -> str:
    """A digest of what a download has: (row, status, hash) of every row, not times or messages."""
    digest = hashlib.sha256()
    for block in range(run.pool.blocks):
        found = columns.store(run.plan.work, name).read(block, ["status", "error", "sha256"])
        texts = [pl.col(field).cast(pl.String).fill_null("") for field in found.columns]
        lines = found.select(pl.concat_str(texts, separator=" ")).to_series()
        digest.update("\n".join([*lines.to_list(), ""]).encode())
    return digest.hexdigest()


def _state_file(work: str, after: str) -> str:
    return storage.join(work, "state", f"{after}.json")


def _read_state(work: str, after: str) -> dict[str, Any] | None:
    url = _state_file(work, after)
    return storage.read_json(url) if storage.exists(url) else None


def _seal_state(run: Run, after: str, states: States) -> None:
    counts = run.counts.sort("step", "reason").rows()
    value = {
        "chain": run.chain,
        "counts": [list(row) for row in counts],
        "states": states,
    }
    storage.commit_json(_state_file(run.plan.work, after), value)


def _reuse(run: Run, after: str) -> bool:
    """Take over a verdict made from the very same, if there is one."""
    state = _read_state(run.plan.work, after)
    if state is None or state["chain"] != run.chain:
        storage.remove(_state_file(run.plan.work, after))
        return False
    run.counts = pl.DataFrame(state["counts"], schema=fates.no_counts().schema, orient="row")
    run.states.update(state["states"])
    run.before = after
    return True


def begin(run: Run) -> None:
    """The verdict that everything starts from: whom the pool itself cannot use."""
    if not _reuse(run, fates.START):
        run.counts = run.map_counts(partial(decide.write_initial, run.plan), "start")
        _seal_state(run, fates.START, {})


def rows(run: Run, phase: Phase) -> None:
    """Materialise the verdict after the flowing steps of a phase."""
    if phase.first == phase.stop:
        return
    after = run.plan.steps[phase.stop - 1].name
    run.chain = _chain(run, phase)
    if not _reuse(run, after):
        work = partial(decide.write_rows, run.plan, run.before, after, (phase.first, phase.stop))
        # Under a name of its own, where the step before it has times of its own.
        label = f"{after}: decide" if is_scorer(run.plan.steps[phase.stop - 1]) else after
        run.counts = run.map_counts(work, label)
        run.before = after
        _seal_state(run, after, {})
    _check_budgets(run, range(phase.first, phase.stop))


def barrier(run: Run, index: int) -> None:
    """Fit and apply one step that must see all survivors."""
    step = run.plan.steps[index]
    run.chain = linked(run, run.chain, step)
    if not _reuse(run, step.name):
        if isinstance(step, GroupFilter):
            state = _quotas(run, index, step) if isinstance(step, QuotaFilter) else {}
            run.counts = _grouped(run, index, step, state)
            states: States = {step.name: state}
        else:
            states = {child.name: _fitted(run, index, child) for child in pool_children(step)}
            work = partial(decide.write_kept, run.plan, run.before, index, states)
            run.counts = run.map_counts(work, step.name)
        run.states.update(states)
        run.before = step.name
        _seal_state(run, step.name, states)
    _check_budgets(run, (index,))


def _fitted(run: Run, index: int, child: PoolFilter) -> dict[str, Any]:
    state = child.start(Counts(run.states["pool"]["rows"], run.survivors()))
    while not child.finished(state):
        work = partial(decide.summarize, run.plan, run.before, index, (child, state))
        summary = fold(run.runner.map(work, run.spans(), child.name), child.merge)
        state = child.fit(summary, state)
        run.lease.check()
    return state


def _grouped(run: Run, index: int, step: GroupFilter, state: State) -> pl.DataFrame:
    plan, spans = run.plan, run.spans()
    folder = storage.join(plan.work, "state", f"{step.name}.shuffle")
    storage.remove(folder)
    group = grouping(plan, step, state)
    readers = group.readers(run.survivors(), MEMBER.itemsize)
    there = Exchange(storage.join(folder, "there"), run.pool.blocks, readers)
    back = Exchange(storage.join(folder, "back"), readers, run.pool.blocks)
    for block in set(range(run.pool.blocks)) - {span.block for span in spans}:
        there.write(block, np.empty(0, dtype=MEMBER), np.empty(0, dtype=np.int64))
    send = partial(decide.send_members, plan, run.before, index, (group, there))
    for _ in run.runner.map(send, spans, step.name):
        run.lease.check()
    if spans:
        settle = partial(decide.decide_partition, group, there, back)
        for _ in run.runner.map(settle, range(readers), step.name):
            run.lease.check()
    write = partial(decide.write_groups, plan, run.before, index, (group, back))
    counts = run.map_counts(write, step.name)
    storage.remove(folder)
    return counts


def _quotas(run: Run, index: int, step: QuotaFilter) -> State:
    """What a quota filter learns from all survivors."""
    work = partial(decide.summarize_groups, run.plan, run.before, index)
    summary = fold(run.runner.map(work, run.spans(), step.name), step.merge)
    counts = Counts(run.states["pool"]["rows"], run.survivors())
    return step.fit(summary, counts, learnt(run.plan, step))


def _check_budgets(run: Run, indices: Sequence[int]) -> None:
    """Stop where a step removed, or lost, more than the pipeline file allows."""
    settings = run.plan.config.run
    for index in indices:
        name = run.plan.steps[index].name
        entered, removed, lost = step_totals(run.counts, run.plan, index)
        allowed = settings.max_removed.get(name)
        if allowed is not None and removed > allowed * entered:
            raise BudgetExceeded(
                f"{name} removed {removed} of {entered} rows ({removed / entered:.1%}); "
                f"run.max_removed.{name} allows {allowed:.1%}"
            )
        budget = settings.error_budget.get(name, 0.0)
        if lost > budget * entered:
            raise BudgetExceeded(
                f"{name} lost {lost} of {entered} rows ({lost / entered:.2%}) to failed work; "
                f"run.error_budget.{name} allows {budget:.2%}. Run again to retry them."
            )


def step_totals(counts: pl.DataFrame, plan: Compiled, index: int) -> tuple[int, int, int]:
    """(rows in, rows removed, rows lost) of a step."""
    earlier = [fates.START, *(step.name for step in plan.steps[:index])]
    gone = int(counts.filter(pl.col("step").is_in(earlier))["rows"].sum())
    own = counts.filter(pl.col("step") == plan.steps[index].name)
    is_lost = pl.col("reason").str.starts_with(fates.LOST)
    lost = int(own.filter(is_lost)["rows"].sum())
    return int(counts["rows"].sum()) - gone, int(own["rows"].sum()) - lost, lost
