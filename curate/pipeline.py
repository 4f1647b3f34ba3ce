"""The run loop: phases of steps over shards and blocks, and everything made from their verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import columns, decide, ledger, storage, subset
from curate.catalogue import SHARED_UIDS, LedgerCatalogue
from curate.check import compile_pipeline
from curate.columns import Span
from curate.compiled import Compiled, Phase, is_scorer, reads_rows
from curate.config import Config, Loaded, Step
from curate.decide import States, pool_children, shown_by
from curate.download import Download
from curate.errors import BudgetExceeded, Stale
from curate.features import Feature
from curate.flow import Done, Place, missing, open_stage
from curate.lease import Lease, held
from curate.pool import Pool, Unit, list_files, load_table, pool_columns, read_pool
from curate.records import Observe, Recorder
from curate.report import Facts, write_report
from curate.runner import LocalRunner, Lost, Needs, RayRunner, Runner, Stage, fold
from curate.shuffle import MEMBER, Exchange, partitions
from curate.step import fingerprint, refuse_or_claim
from curate.write import Cut, ShardResult, Write, plan_write, write_shard
from curate.write import finish as finish_writing
from filters import Counts, GroupFilter, PoolFilter

RAY_PAYS_ROWS = 20_000  # rows to score or fetch above which Ray's start (4 s) is worth it


@dataclass(frozen=True)
class Options:
    """What a command line adds to a pipeline file."""

    recompute: tuple[str, ...] = ()
    steal: Literal["refuse", "steal"] = "refuse"
    failed: Literal["keep", "retry"] = "keep"  # URLs that could not be fetched


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    exit_code: int
    report: dict[str, Any]
    reused: Literal["nothing", "everything"] = "nothing"


@dataclass
class _Run:
    """What the run loop holds: small values only."""

    plan: Compiled
    pool: Pool
    runner: Runner
    lease: Lease
    recorder: Recorder
    chain: str = ""
    before: str = ledger.START
    states: States = field(default_factory=dict)
    counts: pl.DataFrame = field(default_factory=pl.DataFrame)

    def spans(self) -> list[Span]:
        """Every block, whole."""
        return [Span(block, 0, int(rows)) for block, rows in enumerate(self.pool.block_rows())]

    def survivors(self) -> int:
        """Rows still in."""
        return int(self.counts.filter(pl.col("step").is_null())["rows"].sum())

    def map_counts(self, work: Any, label: str) -> pl.DataFrame:
        """Run a block task that gives counts over all blocks, and add them up."""
        spans = self.spans()
        self.recorder.begin(label, len(spans))
        total = fold(self._watched(self.runner.map(work, spans, label), label), ledger.add_counts)
        self.recorder.end(label)
        return total if total is not None else _no_counts()

    def _watched(self, results: Iterator[Any], label: str) -> Iterator[Any]:
        for result in results:
            self.lease.check()
            self.recorder.task(label)
            yield result


def _no_counts() -> pl.DataFrame:
    return ledger.counts(pl.DataFrame(schema=ledger.SCHEMA))


def identity(config: Config, plan: Compiled) -> str:
    """Changes with anything that a result depends on, but for the pool's files."""
    sources = [source.model_dump(mode="json") for source in config.pool]
    recipes = [[step.name, plan.recipes[step.name]] for step in plan.steps]
    return fingerprint(
        [config.name, config.seed, config.probe, config.rows_per_block, sources, recipes]
    )


def run(loaded: Loaded, options: Options, observe: Observe) -> Outcome:
    """Run a pipeline, or finish one; a finished one returns at once.

    Raises:
        CurateError: what the user can mend; see errors.py.
    """
    config = loaded.config
    known = pool_columns(config.work)
    plan = compile_pipeline(loaded, columns=known or None)
    finished = None if options.recompute or options.failed == "retry" else finished_run(plan)
    if finished is not None:
        return finished
    with held(config.work, steal=options.steal) as lease:
        _forget(plan, options)
        _claim(plan)
        recorder = Recorder(config.work, observe)
        storage.remove(storage.join(config.work, "manifest.json"))
        runner = _runner(config, _listed_bytes(config))
        try:
            recorder.begin("pool", 0)
            pool = read_pool(config, config.work, runner)
            recorder.end("pool")
            plan = compile_pipeline(loaded, columns=pool.columns)
            if options.failed == "retry":
                plan = replace(plan, retry_failed="retry")
            runner = _upgraded(runner, config, plan, pool.rows)
            return _run_all(_Run(plan, pool, runner, lease, recorder))
        finally:
            runner.close()


def finished_run(plan: Compiled) -> Outcome | None:
    """The outcome of an earlier run of the very same, if nothing changed since."""
    url = storage.join(plan.work, "manifest.json")
    if not storage.exists(url):
        return None
    manifest = storage.read_json(url)
    if manifest["identity"] != identity(plan.config, plan) or manifest["exit_code"] != 0:
        return None
    table = load_table(plan.work)
    there = {
        (r["source"], r["url"]): (r["bytes"], r["version"]) for r in table.iter_rows(named=True)
    }
    for source in plan.config.pool:
        for entry in list_files(source):
            if there.pop((source.name, entry.url), None) != (entry.bytes, entry.version):
                return None
    if there:
        return None
    report = storage.read_json(storage.join(plan.work, "report", "report.json"))
    return Outcome(0, report, "everything")


def _forget(plan: Compiled, options: Options) -> None:
    for name in options.recompute:
        step = plan.steps[plan.index(name)]
        folders = ["features/" + name]
        if isinstance(step, Download):
            folders.append(name)
        if isinstance(step, Write):
            folders = ["shards"]
        for folder in folders:
            storage.remove(storage.join(plan.work, folder))


def _claim(plan: Compiled) -> None:
    """Refuse, before any work, folders made from another recipe."""
    storage.commit(storage.join(plan.work, "pipeline.yaml"), resolved_yaml(plan).encode())
    for index, step in enumerate(plan.steps):
        if is_scorer(step):
            folder = storage.join(plan.work, "features", step.name)
            recipe = dict(plan.recipes[step.name])
            if isinstance(step, Feature) and step.pictures and (download := plan.download()):
                recipe["reads"] = {download.name: plan.recipes[download.name]}
            refuse_or_claim(folder, step.name, recipe)


def resolved_yaml(plan: Compiled) -> str:
    """The pipeline as it is run: every field of every step, defaults and overrides included."""
    import yaml

    config = plan.config.model_dump(mode="json", exclude={"steps", "run"})
    config["pool"] = [
        source.model_dump(mode="json", exclude_none=True) for source in plan.config.pool
    ]
    config["steps"] = [
        {plan.recipes[step.name]["kind"]: step.model_dump(mode="json", exclude_none=True)}
        for step in plan.config.steps
    ]
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _listed_bytes(config: Config) -> int:
    return sum(entry.bytes for source in config.pool for entry in list_files(source))


def _runner(config: Config, listed: int) -> Runner:
    if config.run.engine == "ray" or config.run.address:
        return RayRunner(config.run.address)
    return LocalRunner()


def _upgraded(runner: Runner, config: Config, plan: Compiled, rows: int) -> Runner:
    """Ray, where there is enough work to pay for its start."""
    costly = any(is_scorer(step) for step in plan.steps)
    if (
        config.run.engine == "auto"
        and isinstance(runner, LocalRunner)
        and costly
        and rows > RAY_PAYS_ROWS
    ):
        return RayRunner()
    return runner


def _run_all(run: _Run) -> Outcome:
    plan = run.plan
    run.chain = fingerprint([plan.config.seed, run.pool.fingerprint()])
    run.counts = run.map_counts(partial(decide.write_initial, plan), "start")
    run.states = {"pool": {"rows": _pool_rows(run)}}
    for phase in plan.phases():
        _flow(run, phase)
        _rows(run, phase)
        if phase.barrier is not None:
            _barrier(run, phase.barrier)
    _write_ledger(run)
    _write_subset(run)
    return _finish(run)


def _pool_rows(run: _Run) -> int:
    """Usable rows: what shares of the pool are taken of."""
    limit = run.plan.limit
    return min(run.survivors(), limit) if limit is not None else run.survivors()


def _stages(run: _Run, phase: Phase) -> list[Place]:
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
            and step.pictures == last.pictures
        )
        if together:
            places[-1] = replace(places[-1], steps=(*places[-1].steps, index))
        else:
            places.append(Place(run.before, phase.first, (index,)))
        previous = index
    return places


def _flow(run: _Run, phase: Phase) -> None:
    """Download and score what is missing, shard by shard, stage after stage."""
    places = _stages(run, phase)
    if not places or _is_current(run, phase):
        return
    plan = run.plan
    pending = sorted(
        (
            n
            for found in run.runner.map(
                partial(_pending, plan, places), _by_block(run.pool), "look"
            )
            for n in found
        )
    )
    wanted = set(pending)
    names = ["+".join(plan.steps[index].name for index in place.steps) for place in places]
    for name in names:
        run.recorder.begin(name, len(wanted))
    stages = [
        Stage(name, partial(open_stage, plan, place), _needs(plan, place))
        for name, place in zip(names, places, strict=True)
    ]
    lost: dict[str, dict[int, str]] = {}
    units = (unit for unit in run.pool.units() if unit.number in wanted)
    for number, unit, result in run.runner.flow(stages, units) if wanted else ():
        run.lease.check()
        if isinstance(result, Lost):
            for index in places[number].steps:
                lost.setdefault(plan.steps[index].name, {})[unit.number] = result.kind
            run.recorder.task(names[number])
        else:
            assert isinstance(result, Done), result
            run.recorder.task(names[number], result)
    for name in names:
        run.recorder.end(name)
    run.plan = replace(plan, lost={**plan.lost, **lost})
    steps = [plan.steps[index].name for place in places for index in place.steps]
    for name in steps:
        for _ in run.runner.map(
            partial(_compact, plan.work, name), range(run.pool.blocks), "compact"
        ):
            pass


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


def _pending(plan: Compiled, places: Sequence[Place], units: list[Unit]) -> list[int]:
    """Numbers of the units of a block in which a stage has something to do."""
    found = []
    for unit in units:
        span = Span(unit.block, unit.start, unit.stop, unit.number)
        if plan.retry_failed and any(isinstance(plan.steps[p.steps[0]], Download) for p in places):
            found.append(unit.number)
            continue
        # A later stage can only be looked at once the earlier ones are complete.
        if any(mask.any() for place in places for mask in _missing_or_empty(plan, place, span)):
            found.append(unit.number)
    return found


def _missing_or_empty(plan: Compiled, place: Place, span: Span) -> Iterator[np.ndarray]:
    yield from missing(plan, place, span).values()


def _needs(plan: Compiled, place: Place) -> Needs:
    steps = [plan.steps[index] for index in place.steps]
    given = plan.config.run.steps.get(steps[0].name)
    gpus = given.gpus if given and given.gpus is not None else 0.0
    cpus = given.cpus if given and given.cpus is not None else 1.0
    memory = given.memory_gb if given else None
    return Needs(cpus, gpus, memory, given.actors if given else None)


def _is_current(run: _Run, phase: Phase) -> bool:
    """Whether the verdicts of a phase's flowing steps are there already, made from the same."""
    if run.plan.retry_failed:
        return False
    after = run.plan.steps[phase.stop - 1].name
    state = _read_state(run.plan.work, after)
    return (
        state is not None
        and state["chain"] == _chain(run, phase)
        and state["probe"] == run.plan.config.probe
    )


def _chain(run: _Run, phase: Phase) -> str:
    chain = run.chain
    for index in range(phase.first, phase.stop):
        chain = _linked(run, chain, run.plan.steps[index])
    return chain


def _linked(run: _Run, chain: str, step: Step) -> str:
    """The fingerprint of a verdict: all before it, the step, and what else decides."""
    name = step.name
    link: list[Any] = [chain, name, run.plan.recipes[name], run.plan.lost.get(name, {})]
    if isinstance(step, Download):
        link.append(_download_content(run, name))
    return fingerprint(link)


def _download_content(run: _Run, name: str) -> str:
    """What a download has: (row, status, hash) of every row, not times or messages."""
    digest = hashlib.sha256()
    for block in range(run.pool.blocks):
        found = columns.store(run.plan.work, name).read(block, ["status", "error", "sha256"])
        digest.update(found.hash_rows(0).to_numpy().tobytes())
    return digest.hexdigest()


def _state_file(work: str, after: str) -> str:
    return storage.join(work, "state", f"{after}.json")


def _read_state(work: str, after: str) -> dict[str, Any] | None:
    url = _state_file(work, after)
    return storage.read_json(url) if storage.exists(url) else None


def _seal_state(run: _Run, after: str, states: States) -> None:
    counts = run.counts.sort("step", "reason").rows()
    value = {
        "chain": run.chain,
        "probe": run.plan.config.probe,
        "counts": [list(row) for row in counts],
        "states": states,
    }
    storage.commit_json(_state_file(run.plan.work, after), value)


def _reuse(run: _Run, after: str) -> bool:
    """Take over a verdict made from the very same, if there is one."""
    state = _read_state(run.plan.work, after)
    if state is None or state["chain"] != run.chain:
        storage.remove(_state_file(run.plan.work, after))
        return False
    run.counts = pl.DataFrame(state["counts"], schema=_no_counts().schema, orient="row")
    run.states.update(state["states"])
    run.before = after
    return True


def _rows(run: _Run, phase: Phase) -> None:
    """Materialise the verdict after the flowing steps of a phase."""
    if phase.first == phase.stop:
        return
    after = run.plan.steps[phase.stop - 1].name
    run.chain = _chain(run, phase)
    if not _reuse(run, after):
        work = partial(decide.write_rows, run.plan, run.before, after, (phase.first, phase.stop))
        run.counts = run.map_counts(work, after)
        run.before = after
        _seal_state(run, after, {})
    _check_budgets(run, range(phase.first, phase.stop))


def _barrier(run: _Run, index: int) -> None:
    """Fit and apply one step that must see all survivors."""
    step = run.plan.steps[index]
    run.chain = _linked(run, run.chain, step)
    if not _reuse(run, step.name):
        if isinstance(step, GroupFilter):
            run.counts = _grouped(run, index, step)
            states: States = {step.name: {}}
        else:
            states = {child.name: _fitted(run, index, child) for child in pool_children(step)}
            work = partial(decide.write_kept, run.plan, run.before, index, states)
            run.counts = run.map_counts(work, step.name)
        run.states.update(states)
        run.before = step.name
        _seal_state(run, step.name, states)
    _check_budgets(run, (index,))


def _fitted(run: _Run, index: int, child: PoolFilter) -> dict[str, Any]:
    state = child.start(Counts(run.states["pool"]["rows"], run.survivors()))
    while not child.finished(state):
        work = partial(decide.summarize, run.plan, run.before, index, child, state)
        summary = fold(run.runner.map(work, run.spans(), child.name), child.merge)
        state = child.fit(summary, state)
        run.lease.check()
    return state


def _grouped(run: _Run, index: int, step: GroupFilter) -> pl.DataFrame:
    plan, spans = run.plan, run.spans()
    folder = storage.join(plan.work, "state", f"{step.name}-shuffle")
    storage.remove(folder)
    readers = partitions(run.survivors(), MEMBER.itemsize)
    there = Exchange(storage.join(folder, "there"), len(spans), readers)
    back = Exchange(storage.join(folder, "back"), readers, len(spans))
    send = partial(decide.send_members, plan, run.before, index, there)
    for _ in run.runner.map(send, spans, step.name):
        run.lease.check()
    if spans:
        settle = partial(decide.decide_partition, step, there, back)
        for _ in run.runner.map(settle, range(readers), step.name):
            run.lease.check()
    counts = run.map_counts(partial(decide.write_groups, plan, run.before, index, back), step.name)
    storage.remove(folder)
    return counts


def _check_budgets(run: _Run, indices: Sequence[int]) -> None:
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
    earlier = [ledger.START, *(step.name for step in plan.steps[:index])]
    gone = int(counts.filter(pl.col("step").is_in(earlier))["rows"].sum())
    own = counts.filter(pl.col("step") == plan.steps[index].name)
    is_lost = pl.col("reason").str.starts_with(ledger.LOST)
    lost = int(own.filter(is_lost)["rows"].sum())
    return int(counts["rows"].sum()) - gone, int(own["rows"].sum()) - lost, lost


def _write_ledger(run: _Run) -> None:
    plan = run.plan
    explained = {}
    for index, step in enumerate(plan.steps):
        shown = shown_by(step, run.states)
        names = [name for one in shown.values() for name in one.columns]
        explained[step.name] = ledger.Explained(tuple(dict.fromkeys(names)), plan.registries[index])
    work = partial(_ledger_block, plan, run.before, _shard_places(run.pool), explained)
    counts = run.map_counts(work, "ledger")
    assert counts.sort("step", "reason").equals(run.counts.sort("step", "reason")), (
        "the ledger disagrees"
    )
    assert int(counts["rows"].sum()) == run.pool.rows, "rows were lost between pool and ledger"


def _shard_places(pool: Pool) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    places = {}
    filled = pool.table.filter(pl.col("rows") > 0)
    for (block,), part in filled.group_by(["block"]):
        part = part.sort("offset")
        places[int(block)] = (part["number"].to_numpy(), part["offset"].to_numpy())
    return places


def _ledger_block(
    plan: Compiled,
    after: str,
    places: dict[int, tuple[np.ndarray, np.ndarray]],
    explained: dict[str, ledger.Explained],
    span: Span,
) -> pl.DataFrame:
    counts = ledger.write_ledger(plan.work, after, span, places[span.block], explained)
    verdict = ledger.read_verdict(plan.work, after, span)
    kept = np.flatnonzero(ledger.alive(verdict))
    addresses = (np.uint64(span.block) << np.uint64(32)) + kept.astype(np.uint64)
    copies = verdict["copies"].to_numpy()[kept]
    uids = columns.uids(plan.work, span)[kept]
    subset.save_run(_run_file(plan.work, span.block), uids, addresses, copies)
    return counts


def _run_file(work: str, block: int) -> str:
    return storage.join(work, "state", "subset", f"{block:04d}.npy")


def _write_subset(run: _Run) -> None:
    work = run.plan.work
    runs = [_run_file(work, span.block) for span in run.spans()]
    shared = subset.merge(runs, storage.join(work, "subset.npy"))
    storage.commit_array(storage.join(work, SHARED_UIDS), shared)
    storage.remove(storage.join(work, "state", "subset"))


def _finish(run: _Run) -> Outcome:
    """Report, write, and seal."""
    plan, work = run.plan, run.plan.work
    facts = Facts(plan, run.pool, run.counts, run.states, run.before)
    report = write_report(facts, run.runner)
    stale = ""
    last = plan.steps[-1]
    if isinstance(last, Write):
        stale = _write_shards(run, last)
    storage.commit_json(storage.join(work, "report", "timing.json"), run.recorder.timing())
    if stale:
        raise Stale(stale)
    lost = report["totals"]["lost"] or run.pool.damaged()
    code = 3 if lost else 0
    manifest = {"identity": identity(plan.config, plan), "exit_code": code, "chain": run.chain}
    storage.commit_json(storage.join(work, "manifest.json"), manifest)
    return Outcome(code, report)


def _write_shards(run: _Run, spec: Write) -> str:
    """Write the output shards, or say why those that are there are stale."""
    plan = run.plan
    folder = storage.join(plan.work, "shards")
    with storage.opened(storage.join(plan.work, "subset.npy")) as handle:
        selection = hashlib.file_digest(handle, "sha256").hexdigest()
    recipe = {**plan.recipes[spec.name], "subset": selection, "pool": run.pool.fingerprint()}
    claim = storage.join(folder, "recipe.json")
    if storage.exists(claim) and storage.read_json(claim) != recipe:
        return (
            f"{folder} holds an older selection, and was left as it is; everything else is up to date. "
            f"Run with `--recompute {spec.name}` to write it anew."
        )
    storage.commit_json(claim, recipe)
    catalogue = LedgerCatalogue(plan, run.before, run.pool.table)
    mapper = partial(_mapped, run.runner, spec.name)
    writing = plan_write(spec, catalogue, fingerprint(recipe), mapper)
    cuts = (writing.cut(number) for number in range(writing.shards))
    run.recorder.begin(spec.name, writing.shards)
    results = []
    for result in run.runner.map(partial(_write_one, catalogue, folder), cuts, spec.name):
        run.lease.check()
        run.recorder.task(spec.name, Done(result.samples, 0, 0.0, result.bytes))
        results.append(result)
    run.recorder.end(spec.name)
    finish_writing(writing, results, folder)
    return ""


def _mapped(runner: Runner, label: str, work: Any, items: Any) -> Iterator[Any]:
    return runner.map(work, items, label)


def _write_one(catalogue: LedgerCatalogue, folder: str, cut: Cut) -> ShardResult:
    return write_shard(cut, catalogue, folder)
