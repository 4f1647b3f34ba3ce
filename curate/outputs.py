"""What is made from the last verdict: ledger, subset, report and shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import fates, ledger, storage
from curate.catalogue import SHARED_UIDS, LedgerCatalogue
from curate.columns import Span
from curate.compiled import Compiled
from curate.decide import shown_by
from curate.output_shard import write_shard
from curate.phases import Run, download_content
from curate.pools.pool import Pool
from curate.records import Done
from curate.report.facts import Extent, Facts
from curate.report.whole import Told, write_report
from curate.runner import Runner
from curate.sample import make_uids
from curate.step import fingerprint
from curate.subsets import subset
from curate.write import Cut, ShardResult, Write, plan_write
from curate.write import finish as finish_writing


def write_ledger(run: Run) -> None:
    """Write the ledger of every block; its counts must be those of the last verdict."""
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
    found = fates.read(plan.work, after, span)
    high, low = ledger.write_ledger(plan.work, found, span, places[span.block], explained)
    kept = found.rows
    addresses = (np.uint64(span.block) << np.uint64(32)) + kept.astype(np.uint64)
    uids = make_uids(high[kept], low[kept])
    subset.save_run(_run_file(plan.work, span.block), uids, addresses, found.copies[kept])
    return found.counts()


def _run_file(work: str, block: int) -> str:
    return storage.join(work, "state", "subset", f"{block:04d}.npy")


def write_subset(run: Run) -> None:
    """Write the kept uids, sorted, and remember which rows share theirs."""
    work = run.plan.work
    runs = [_run_file(work, span.block) for span in run.spans()]
    shared = subset.merge(runs, storage.join(work, "subset.npy"))
    storage.commit_array(storage.join(work, SHARED_UIDS), shared)
    # Of rows, not of uids: where those repeat, another row may be kept for the same subset.
    run.selection = fingerprint([storage.sha256(url) for url in runs])
    storage.remove(storage.join(work, "state", "subset"))


def make_report(run: Run, extent: Extent) -> Told:
    """Write report.json, and give what its page is made from."""
    facts = Facts(run.plan, run.pool, run.counts, run.states, run.before)
    return write_report(facts, run.runner, extent)


def write_shards(run: Run, spec: Write) -> str | None:
    """Write the output shards; where those that are there are stale, leave them and say so."""
    plan = run.plan
    folder = storage.join(plan.work, "shards")
    recipe = {
        **plan.recipes[spec.name],
        "selection": run.selection,
        "pool": run.pool.fingerprint(),
    }
    download = plan.download()
    if download is not None:
        recipe["pictures"] = [
            plan.recipes[download.name],
            download_content(run, download.name, "pictures"),
        ]
    claim = storage.join(folder, "recipe.json")
    if storage.exists(claim) and storage.read_json(claim) != recipe:
        return (
            f"{folder} holds an older selection, or one of fewer files, and was left as it is; "
            f"everything else is up to date. Run with `--recompute {spec.name}` to write it anew."
        )
    storage.commit_json(claim, recipe)
    storage.sweep(folder)
    catalogue = LedgerCatalogue(plan, run.before, run.pool.table.height)
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
    return None


def _mapped(runner: Runner, label: str, work: Any, items: Any) -> Iterator[Any]:
    return runner.map(work, items, label)


def _write_one(catalogue: LedgerCatalogue, folder: str, cut: Cut) -> ShardResult:
    return write_shard(cut, catalogue, folder)
