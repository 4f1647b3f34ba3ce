"""The run loop: claim the work folder, read the pool, go through the phases, seal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import yaml

from curate import storage
from curate.check import compile_pipeline
from curate.columns import Registry, artefact_folder
from curate.compiled import Compiled, is_scorer
from curate.downloads.download import Download
from curate.errors import CurateError, InvalidPipeline, Stale
from curate.features import Feature, FittedFeature
from curate.lease import Lease, held
from curate.outputs import make_report, write_ledger, write_shards, write_subset
from curate.page.document import prepare
from curate.phases import Run, barrier, begin, rows
from curate.pipeline_file.config import Loaded
from curate.pipeline_file.schema import AnyOf, Config, Step
from curate.pools import pictures
from curate.pools.pool import pool_columns, read_pool, same_arrays
from curate.pools.pool_files import list_files
from curate.pools.shard_table import load_table
from curate.records import Observe, Recorder
from curate.report.facts import Extent
from curate.report.schema import SCHEMA_VERSION
from curate.report.whole import write_page
from curate.runner import LocalRunner, RayRunner, Runner
from curate.stations import flow
from curate.step import Recipe, claim, fingerprint, refuse
from curate.write import Write, all_written

RAY_PAYS_S = 20.0  # work of one core above which Ray's start, 8 s with its workers, is worth it
RAY_DECIDES_ROWS = 100_000_000  # rows of the pool above which filters alone are worth it


@dataclass(frozen=True)
class Options:
    """What a command line adds to a pipeline file."""

    recompute: tuple[str, ...] = ()
    steal: Literal["refuse", "steal"] = "refuse"
    failed: Literal["keep", "retry"] = "keep"  # URLs that could not be fetched
    report: Extent = "whole"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    exit_code: int
    report: dict[str, Any]
    reused: Literal["nothing", "everything"] = "nothing"


def identity(config: Config, plan: Compiled) -> str:
    """Changes with anything that a result depends on, but for the pool's files."""
    sources = [source.model_dump(mode="json") for source in config.pool]
    told = [config.report.model_dump(mode="json"), config.published and config.published.kept]
    recipes = [[step.name, plan.recipes[step.name], _kept(step)] for step in plan.steps]
    return fingerprint(
        [config.name, config.seed, config.probe, config.rows_per_block, sources, recipes, told]
    )


def _kept(step: Step) -> str:
    return step.when_changed if isinstance(step, FittedFeature) else ""


def run(loaded: Loaded, options: Options, observe: Observe) -> Outcome:
    """Run a pipeline, or finish one; a finished one returns at once.

    Raises:
        CurateError: what the user can mend; see errors.py.
    """
    config = loaded.config
    plan = _first_look(loaded)
    finished = None if options.recompute or options.failed == "retry" else finished_run(plan)
    if finished is not None and _enough(finished.report, options.report):
        return finished
    with held(config.work, steal=options.steal) as lease:
        _claim(plan, options.recompute)
        recorder = Recorder(config.work, observe)
        started = _Started(config)
        try:
            return _run_all(_begin(loaded, options, (lease, recorder, started)), options.report)
        finally:
            started.runner.close()


def _enough(report: dict[str, Any], wanted: Extent) -> bool:
    """Whether a report that is there says all that is wanted of it."""
    return report["schema"] == SCHEMA_VERSION and report.get("extent") in ("whole", wanted)


def _first_look(loaded: Loaded) -> Compiled:
    """Check everything before any work: with the columns of the pool as read, or of its heads."""
    known = pool_columns(loaded.config.work)
    try:
        return compile_pipeline(loaded, columns=known or None)
    except InvalidPipeline:
        if not known:
            raise
        return compile_pipeline(loaded)  # a file added since may have the column that is missed


def _begin(loaded: Loaded, options: Options, held_by: tuple[Lease, Recorder, _Started]) -> Run:
    """Read the pool, and bind the pipeline to its columns."""
    lease, recorder, started = held_by
    config = loaded.config
    recorder.begin("pool", 0)
    accept = partial(_compiles, loaded)
    pool = read_pool(config, config.work, started.runner, accept)
    recorder.end("pool")
    plan = compile_pipeline(loaded, columns=pool.columns or None)
    if options.failed == "retry":
        plan = replace(plan, retry_failed="retry")
    started.grow(started.runner, math.inf if pool.rows > RAY_DECIDES_ROWS else 0.0)
    return Run(plan, pool, started.runner, lease, recorder, started.grow)


def _compiles(loaded: Loaded, found: Registry) -> None:
    """Raise where the pipeline cannot run on a pool with these columns."""
    compile_pipeline(loaded, columns=found or None)


class _Started:
    """The runner of a run: inline until there is enough work to pay for Ray's start."""

    def __init__(self, config: Config) -> None:
        self._engine = config.run.engine
        self.runner: Runner = LocalRunner()
        if self._engine == "ray" or config.run.address:
            self.runner = RayRunner(config.run.address)

    def grow(self, runner: Runner, seconds: float) -> Runner:
        """Ray, if so much work is worth it and the user did not choose."""
        if self._engine == "auto" and isinstance(runner, LocalRunner) and seconds > RAY_PAYS_S:
            self.runner = RayRunner()
        return self.runner


def finished_run(plan: Compiled) -> Outcome | None:
    """The outcome of an earlier run of the very same, if nothing changed since."""
    url = storage.join(plan.work, "manifest.json")
    if not storage.exists(url):
        return None
    manifest = storage.read_json(url)
    if manifest["identity"] != identity(plan.config, plan) or manifest["exit_code"] != 0:
        return None
    if not _same_pool(plan) or not _all_there(plan):
        return None
    report = storage.read_json(storage.join(plan.work, "report", "report.json"))
    return Outcome(0, report, "everything")


def _same_pool(plan: Compiled) -> bool:
    """Whether the pool's files are those that were read; `read_pool` says what is wrong."""
    records = load_table(plan.work).iter_rows(named=True)
    there = {(r["source"], r["url"]): (r["bytes"], r["version"]) for r in records}
    try:
        listed = {
            (s.name, e.url): (e.bytes, e.version) for s in plan.config.pool for e in list_files(s)
        }
    except CurateError:
        return False
    same = pictures.unchanged(plan.work, plan.config) and same_arrays(plan.work, plan.config)
    return listed == there and same


def _all_there(plan: Compiled) -> bool:
    """Whether nobody removed what the run left for its user."""
    files = ["subset.npy", "report/report.json", "report/index.html"]
    if not all(storage.exists(storage.join(plan.work, file)) for file in files):
        return False
    return not isinstance(plan.steps[-1], Write) or all_written(storage.join(plan.work, "shards"))


def _claim(plan: Compiled, recompute: Sequence[str]) -> None:
    """Refuse, before anything is touched, folders made from another recipe; then make way.

    The seal goes first and folders last, so that a run killed in between never looks finished.
    """
    renewed = _with_readers(plan, recompute)
    # A fitted feature is simply fitted again: what it gave is cheap beside what it reads.
    scorers = [s for s in plan.steps if is_scorer(s) and not isinstance(s, FittedFeature)]
    for step in scorers:
        if step.name not in renewed:
            refuse(_folder(plan, step), step.name, full_recipe(plan, step))
    storage.remove(storage.join(plan.work, "manifest.json"))
    for step in plan.steps:
        if step.name in renewed:
            _throw_away(plan, step)
    for step in scorers:
        claim(_folder(plan, step), full_recipe(plan, step))
        if isinstance(step, Feature):
            step.keeps(artefact_folder(plan.work, step.name))
    for name, source in plan.plugin_sources.items():
        storage.commit(storage.join(plan.work, "plugins", f"{name}.py"), source.encode())
    storage.commit(storage.join(plan.work, "pipeline.yaml"), resolved_yaml(plan).encode())


def _folder(plan: Compiled, step: Step) -> str:
    return storage.join(plan.work, "features", step.name)


def _with_readers(plan: Compiled, names: Sequence[str]) -> set[str]:
    """Steps to make anew, and every feature that reads what they made."""
    renewed = set(names)
    for step in plan.steps:  # a step reads only what stands before it
        if is_scorer(step) and renewed & reads(plan, step):
            renewed.add(step.name)
    return renewed


def _throw_away(plan: Compiled, step: Step) -> None:
    if isinstance(step, Write):
        storage.remove(storage.join(plan.work, "shards"))
        return
    storage.remove(storage.join(plan.work, "state"))  # verdicts rest on the values
    if isinstance(step, Download):
        storage.remove(storage.join(plan.work, step.name))
    folder = _folder(plan, step)
    for name in (*storage.folders(folder), *storage.names(folder)):
        if name != "recipe.json":  # goes last: columns without their recipe would pass for others
            storage.remove(storage.join(folder, name))
    storage.remove(folder)


def reads(plan: Compiled, step: Step) -> set[str]:
    """Names of the downloads and features whose columns or pictures a feature reads."""
    if not isinstance(step, Feature):
        return set()
    registry = plan.registries[plan.index(step.name)]
    found = {registry[name].store for name in step.needs()} - {"pool"}
    download = plan.download()
    if step.pictures and download is not None:
        found.add(download.name)
    return found


def full_recipe(plan: Compiled, step: Step) -> Recipe:
    """A step's recipe, and those of all that it reads."""
    recipe = dict(plan.recipes[step.name])
    found = {name: full_recipe(plan, plan.steps[plan.index(name)]) for name in reads(plan, step)}
    return {**recipe, "reads": found} if found else recipe


def resolved_yaml(plan: Compiled) -> str:
    """The pipeline as it is run: every field of every step, defaults and overrides included."""
    config = plan.config.model_dump(mode="json", exclude={"steps", "run"})
    config["pool"] = [
        source.model_dump(mode="json", exclude_none=True) for source in plan.config.pool
    ]
    config["plugins"] = [f"./plugins/{name}.py" for name in plan.plugin_sources]
    config["steps"] = [_as_yaml(plan, step) for step in plan.config.steps]
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _as_yaml(plan: Compiled, step: Step) -> dict[str, Any]:
    fields = step.model_dump(mode="json", exclude_none=True, by_alias=True)
    if isinstance(step, AnyOf):
        fields["steps"] = [_as_yaml(plan, child) for child in step.steps]
    return {plan.kind(step): fields}


def _run_all(run: Run, extent: Extent) -> Outcome:
    plan = run.plan
    run.chain = fingerprint([plan.config.seed, run.pool.fingerprint()])
    begin(run)
    run.states = {"pool": {"rows": _pool_rows(run)}}
    for phase in plan.phases():
        flow(run, phase)
        rows(run, phase)
        if phase.barrier is not None:
            barrier(run, phase.barrier)
    run.lease.confirm()
    with ThreadPoolExecutor(1, "page") as beside:
        ready = beside.submit(prepare)  # half a second that nothing else need wait for
        write_ledger(run)
        write_subset(run)
        told = make_report(run, extent)
        ready.result()
    last = plan.steps[-1]
    stale = write_shards(run, last) if isinstance(last, Write) else None
    write_page(plan.work, told, run.recorder.keep_timing())
    outcome = _sealed(run, told.report, "current" if stale is None else "stale")
    if stale is not None:
        raise Stale(stale)
    return outcome


def _sealed(run: Run, report: dict[str, Any], shards: Literal["current", "stale"]) -> Outcome:
    """Seal a run; one whose shards are stale is not done, but all else of it is what it says."""
    plan = run.plan
    code = 3 if report["totals"]["lost"] or run.pool.damaged() else 0
    if shards == "stale":
        code = Stale.exit_code
    run.lease.confirm()
    manifest = {"identity": identity(plan.config, plan), "exit_code": code, "chain": run.chain}
    storage.commit_json(storage.join(plan.work, "manifest.json"), manifest)
    return Outcome(code, report)


def _pool_rows(run: Run) -> int:
    """Usable rows: what shares of the pool are taken of."""
    limit = run.plan.limit
    return min(run.survivors(), limit) if limit is not None else run.survivors()
