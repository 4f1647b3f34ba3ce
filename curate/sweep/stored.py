"""Whether a sweep has what it decides over: the pool as it was read, and the values of features."""

from __future__ import annotations

from curate import columns, storage
from curate.compiled import Compiled, is_scorer
from curate.errors import ConfigError
from curate.features import FittedFeature
from curate.fitted import Fitting, fitted_on
from curate.phases import Run, linked
from curate.pipeline import full_recipe
from curate.pipeline_file.schema import Config
from curate.pools import pictures
from curate.pools.pool import Pool, read_pool
from curate.pools.pool_files import list_files
from curate.pools.shard_table import load_table
from curate.runner import Runner
from curate.stations import seen_by
from curate.step import fingerprint, refuse
from curate.sweep.variants import Variants

_RUN = "run the pipeline first (`curate run`): a sweep reads and computes nothing itself"


def refuse_unread(config: Config) -> None:
    """Raise ConfigError where a pool was never read, or has grown since."""
    table = load_table(config.work)
    if not table.height:
        raise ConfigError(f"the pool was never read into {config.work}: {_RUN}")
    known = set(table.select("source", "url").unique().rows())
    fresh = [e.url for s in config.pool for e in list_files(s) if (s.name, e.url) not in known]
    if fresh:
        raise ConfigError(
            f"{len(fresh)} files of the pool were not read into {config.work} yet "
            f"({fresh[0]}): {_RUN}"
        )


def stored_pool(config: Config, runner: Runner) -> Pool:
    """The pool as it was read; InputChanged where its files are not what they were."""
    refuse_unread(config)
    pool = read_pool(config, config.work, runner, _refuse_new)
    if not pictures.unchanged(config.work, config):
        raise ConfigError(f"tars of the pool were not read into {config.work} yet: {_RUN}")
    return pool


def _refuse_new(found: object) -> None:
    del found
    raise ConfigError(f"the pool has files that were not read yet: {_RUN}")


def refuse_unscored(plan: Compiled, stop: int) -> None:
    """Raise where a feature was never run, or its values are those of another recipe."""
    for step in plan.steps[:stop]:
        if not is_scorer(step):
            continue
        folder = columns.store(plan.work, step.name).folder
        seal = "fitted.json" if isinstance(step, FittedFeature) else "recipe.json"
        if not storage.exists(storage.join(folder, seal)):
            raise ConfigError(f"{step.name} has no values in {plan.work}: {_RUN}")
        refuse(folder, step.name, full_recipe(plan, step))


def fitted_again(variants: Variants, runs: list[Run]) -> dict[int, list[str]]:
    """{variant: fitted features that a run of it would fit again, on other samples}.

    Args:
        variants: The pipelines.
        runs: [V] each pipeline with its pool, nothing lost.
    """
    steps = runs[0].plan.steps[: variants.stop]
    if not any(isinstance(step, FittedFeature) for step in steps):
        return {}
    again: dict[int, list[str]] = {}
    chains = {b: _start(runs[b]) for b in dict.fromkeys(variants.branches[0])}
    for index, step in enumerate(steps):
        if isinstance(step, FittedFeature):
            for number, run in enumerate(runs):
                run.chain = chains[variants.branches[index][number]]
                if not _fits(run, index):
                    again.setdefault(number, []).append(step.name)
        chains = {
            branch: linked(runs[branch], chains[parent], runs[branch].plan.steps[index])
            for parent, children in variants.children(index).items()
            for branch in children
        }
    return again


def _start(run: Run) -> str:
    return fingerprint([run.plan.config.seed, run.pool.fingerprint()])


def _fits(run: Run, index: int) -> bool:
    """Whether the stored values are those that a run would have."""
    fitting = Fitting(run.plan, index, run.before)
    seal = storage.read_json(storage.join(fitting.folder, "fitted.json"))
    return bool(seal["on"] == fitted_on(fitting, seen_by(run, fitting)))
