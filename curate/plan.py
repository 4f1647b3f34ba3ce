"""What a run would do: what is reused, computed or computed again, and why; what holds up what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate import columns, storage
from curate.compiled import Compiled, is_barrier, is_scorer
from curate.downloads.download import Download
from curate.features import Feature, FittedFeature
from curate.fitted import Fitting, fit_record, fitted_on, standing
from curate.lease import Lease
from curate.phases import Run, linked
from curate.pipeline import full_recipe
from curate.pipeline_file.schema import AnyOf, Step
from curate.pools import pictures
from curate.pools.pool import Pool, pool_columns
from curate.pools.pool_files import list_files
from curate.pools.shard_table import load_table, pictures_folder
from curate.records import Recorder, rates
from curate.runner import LocalRunner
from curate.stations import seen_by
from curate.step import differences, fingerprint
from curate.write import Write
from filters import Filter, GroupFilter, PoolFilter

IMAGE_BYTES = 50_000  # of a picture scaled to 512 pixels, where nothing was measured yet


def describe(plan: Compiled) -> Iterator[str]:
    """The plan as lines of text."""
    table = load_table(plan.work)
    pool = Pool(table, pool_columns(plan.work), _pictures(plan.work))
    yield f"pipeline {plan.config.name}, work folder {plan.work}"
    yield from _pool_lines(plan, pool)
    fits = _fits(plan, pool)
    waiting: list[str] = []
    for index, step in enumerate(plan.steps):
        yield f"  {index + 1}. {step.name}: {fits.get(step.name) or _state(plan, pool, step)}"
        if is_barrier(step) or isinstance(step, FittedFeature):
            held = ", ".join(waiting) or "the pool"
            yield f"     barrier: waits until every shard is through ({held}); {_sees(step)}"
            yield f"     holds up: {_held_up(plan, index)}"
            waiting = []
        else:
            waiting.append(step.name)
    yield from _space(plan, pool)


def _held_up(plan: Compiled, index: int) -> str:
    """The steps that cannot begin before a barrier is done."""
    return ", ".join(step.name for step in plan.steps[index + 1 :]) or "the ledger and the report"


def _pool_lines(plan: Compiled, pool: Pool) -> Iterator[str]:
    known = set(pool.table["url"].unique().to_list())
    for source in plan.config.pool:
        files = list_files(source)
        fresh = [entry for entry in files if entry.url not in known]
        text = (
            f"pool {source.name}: {len(files)} files, {sum(e.bytes for e in files) / 1e6:,.1f} MB"
        )
        yield text + (f", {len(fresh)} not read yet" if fresh else ", all read before")
    if pool.rows:
        yield f"  {pool.rows:,} rows in {pool.table.height:,} shards and {pool.blocks} blocks"


def _state(plan: Compiled, pool: Pool, step: Step) -> str:
    if is_scorer(step):
        return _scorer_state(plan, pool, step)
    if isinstance(step, Write):
        return _write_state(plan)
    return f"{_shape(step)} filter, decided anew from stored columns (seconds)"


def _shape(step: Step) -> str:
    if isinstance(step, AnyOf):
        return "any_of"
    if isinstance(step, PoolFilter):
        return "pool"
    return "group" if isinstance(step, GroupFilter) else "row"


def _sees(step: Step) -> str:
    if isinstance(step, FittedFeature):
        return "it learns from many samples before it gives any its values"
    if isinstance(step, GroupFilter):
        return "its groups span all shards"
    if isinstance(step, Filter) and isinstance(step, PoolFilter) and step.over_pool():
        return "its threshold comes from the whole pool"
    return "it needs statistics of all survivors"


def _scorer_state(plan: Compiled, pool: Pool, step: Step) -> str:
    store = columns.store(plan.work, step.name)
    recipe_url = storage.join(store.folder, "recipe.json")
    if not storage.exists(recipe_url):
        return f"nothing stored yet: every sample that reaches it{_time(plan, step, pool.rows)}"
    changed = differences(storage.read_json(recipe_url), full_recipe(plan, step))
    if changed:
        listed = "; ".join(changed)
        remedy = f"another `name:` or --recompute {step.name}"
        return f"REFUSED: made from another recipe ({listed}): {remedy}"
    blocks = LocalRunner().map(lambda block: len(store.rows(block)), range(pool.blocks), "look")
    stored = sum(blocks)
    text = f"{stored:,} of {pool.rows:,} rows are stored and reused"
    left = pool.rows - stored
    return text + (f"; at most {left:,} more{_time(plan, step, left)}" if left else "")


def _pictures(work: str) -> dict[str, Any]:
    """What the index of the pictures of metadata came to; {} where there is none."""
    url = storage.join(pictures_folder(work), "index.json")
    return storage.read_json(url) if storage.exists(url) else {}


def _fits(plan: Compiled, pool: Pool) -> dict[str, str]:
    """{fitted feature: what becomes of what it learnt}, as far as it is known before a run."""
    lease = Lease(storage.join(plan.work, "lease"), "")  # not held: nothing is written
    recorder = Recorder(plan.work, lambda _: None)
    run = Run(plan, pool, LocalRunner(), lease, recorder, lambda runner, _: runner)
    run.chain = fingerprint([plan.config.seed, pool.fingerprint()])
    found: dict[str, str] = {}
    grown = "the pool has new files" if _grown(plan, pool) else ""
    changed = grown  # why the survivors will be others, whichever; "" where they are known
    for index, step in enumerate(plan.steps):
        if isinstance(step, FittedFeature):
            on_pool = step.fit_on == "pool"
            why = grown if on_pool else changed
            why = "" if step.from_files else why
            fitting = Fitting(plan, index, "")
            wanted = "" if why else fitted_on(fitting, seen_by(run, fitting))
            found[step.name] = _fit_state(fitting, wanted, why or _others(step))
            again = standing(fitting, wanted) not in ("kept", "frozen")
            changed = changed or (f"{step.name} is fitted before" if again else "")
        if not changed:
            run.chain = linked(run, run.chain, step)
    return found


def _grown(plan: Compiled, pool: Pool) -> bool:
    """Whether files of the pool were not read yet; one that is altered or gone stops a run."""
    known = set(pool.table.select("source", "url").unique().rows())
    files = [(s.name, entry.url) for s in plan.config.pool for entry in list_files(s)]
    return any(file not in known for file in files) or not pictures.unchanged(
        plan.work, plan.config
    )


def _others(step: FittedFeature) -> str:
    if step.fit_on == "pool":
        return "the pool, or what was downloaded of it, is another"
    return "a step before it, or the pool, is another"


def _fit_state(fitting: Fitting, wanted: str, why: str) -> str:
    step = fitting.feature
    on = "the survivors so far" if step.fit_on == "survivors" else "the pool"
    state = standing(fitting, wanted)
    if state == "new":
        return f"fitted on {on}; not fitted yet"
    samples = fit_record(fitting.plan.work, step.name)["samples"]
    return (
        f"fitted on {on}, {samples:,} samples; "
        + {
            "kept": "kept",
            "frozen": f"kept, as `when_changed: freeze` says, though its samples changed ({why}): "
            "new rows may stay without values",
            "other recipe": "would be fitted again: its recipe, the seed, or the recipe of what it "
            "reads changed",
            "other samples": f"would be fitted again: its samples changed ({why})",
        }[state]
    )


def _time(plan: Compiled, step: Step, rows: int) -> str:
    measured = rates(plan.work, step.name)
    if measured is None or not measured["rows"] or not rows:
        return "" if measured else " (no rate measured yet)"
    per_second = measured["rows"] / max(measured["wall_seconds"], 1e-9)
    minutes = rows / per_second / 60
    return f" (measured {per_second:,.0f} rows/s: about {minutes:,.1f} minutes)"


def _write_state(plan: Compiled) -> str:
    folder = storage.join(plan.work, "shards")
    if storage.exists(storage.join(folder, "manifest.json")):
        shards = storage.read_json(storage.join(folder, "manifest.json"))["shards"]
        return (
            f"{shards} shards are there; kept if the selection stays, else stale until --recompute"
        )
    if storage.exists(storage.join(folder, "recipe.json")):
        return "begun before: goes on where it stopped"
    return "nothing written yet"


def _space(plan: Compiled, pool: Pool) -> Iterator[str]:
    free = storage.free_bytes(plan.work)
    need = sum(_bytes(plan, step, pool) for step in plan.steps if is_scorer(step))
    if any(isinstance(step, Write) for step in plan.steps):
        need += sum(
            e.bytes for s in plan.config.pool if s.shards is not None for e in list_files(s)
        )
    if free is None:
        yield f"space: at most about {need / 1e9:,.2f} GB more"
        return
    yield f"space: at most about {need / 1e9:,.2f} GB more; {free / 1e9:,.1f} GB are free"
    if need > free:
        yield "  NOT ENOUGH for the worst case: choose another `work:` or filter earlier"


def _bytes(plan: Compiled, step: Step, pool: Pool) -> int:
    """Bytes that a step may still add, every row of the pool reaching it."""
    left = pool.rows - sum(
        len(columns.store(plan.work, step.name).rows(b)) for b in range(pool.blocks)
    )
    if isinstance(step, Download):
        return left * IMAGE_BYTES
    widths = 768 * len(step.arrays()) if isinstance(step, Feature) else 0
    return left * (2 * widths + 32)
