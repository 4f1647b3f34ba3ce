"""What a run left in its work folder, read again: a finished one, or one that ended half-way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from curate import fates, storage, verdicts
from curate.check import compile_pipeline
from curate.compiled import Compiled
from curate.errors import ConfigError
from curate.pipeline_file.config import LIMIT, Loaded, load
from curate.pipeline_file.schema import ReportSettings
from curate.pools import pictures
from curate.pools.pool import Pool, pool_columns
from curate.pools.shard_table import load_table
from curate.report.facts import Facts
from curate.step import fingerprint


def read_facts(work: str) -> Facts:
    """The selection of a work folder as far as it came; `not_reached` names the missing steps.

    Of a finished run all steps are there. Of one that was stopped those up to its last verdict are,
    and its plan ends there.

    Raises:
        ConfigError: no run was started there, or it has not decided anything yet.
    """
    plan = _plan(work)
    pool = Pool(load_table(work), pool_columns(work), pictures.found(work))
    seal = verdicts.sealed(work, fates.START)
    if seal is None:
        raise ConfigError(f"{work}: its run has not decided anything yet: `curate status {work}`")
    usable = _still_in(seal)
    pool_rows = usable if plan.limit is None else min(usable, plan.limit)
    states: dict[str, Any] = {"pool": {"rows": pool_rows}}
    after, reached = fates.START, 0
    for first, stop in _verdicts(plan):
        name = plan.steps[stop - 1].name
        found = verdicts.sealed(work, name)
        if found is None or found.get("link") != _link(plan, (after, seal["chain"]), first, stop):
            break
        states.update(found["states"])
        seal, after, reached = found, name, stop
    counts = pl.DataFrame(seal["counts"], schema=fates.no_counts().schema, orient="row")
    finished = _finished(work)
    if finished:
        reached = len(plan.steps)
    missing = tuple(step.name for step in plan.steps[reached:])
    ended: Literal["whole", "half-way"] = "whole" if finished else "half-way"
    return Facts(_until(plan, reached), pool, counts, states, after, missing, ended)


def _verdicts(plan: Compiled) -> Iterator[tuple[int, int]]:
    """(first step, one past the last step) of every verdict of a run, in order."""
    for phase in plan.phases():
        if phase.first < phase.stop:
            yield phase.first, phase.stop
        if phase.barrier is not None:
            yield phase.barrier, phase.barrier + 1


def _link(plan: Compiled, before: tuple[str, str], first: int, stop: int) -> dict[str, Any]:
    """What the seal of a verdict says of what it was made from, if it is of this pipeline."""
    own = {step.name: fingerprint(plan.recipes[step.name]) for step in plan.steps[first:stop]}
    return {"before": list(before), "recipes": own}


def _finished(work: str) -> bool:
    return storage.exists(storage.join(work, "manifest.json"))


def _until(plan: Compiled, stop: int) -> Compiled:
    """The plan without the steps that were not reached."""
    if stop == len(plan.steps):
        return plan
    config = plan.config.model_copy(update={"steps": plan.config.steps[:stop]})
    steps, registries = plan.steps[:stop], plan.registries[: stop + 1]
    return replace(plan, config=config, steps=steps, registries=registries)


def _still_in(seal: dict[str, Any]) -> int:
    return sum(rows for step, _, rows, _ in seal["counts"] if step is None)


def _plan(work: str) -> Compiled:
    """The pipeline that a work folder was made by last, as it was resolved then."""
    file = storage.join(work, "pipeline.yaml")
    if not storage.exists(file):
        raise ConfigError(f"{work}: no run was started there: it has no pipeline.yaml")
    with tempfile.TemporaryDirectory() as folder:
        # The loader reads local files: plugins lie beside the file, wherever that is.
        for name in storage.names(storage.join(work, "plugins")):
            source = storage.read(storage.join(work, "plugins", name))
            target = Path(folder, "plugins", name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source)
        loaded = _loaded(storage.read(file), Path(folder, "pipeline.yaml"))
    config = loaded.config.model_copy(update={"work": work.rstrip("/")})
    # What the report is asked for is no matter of what was decided: its files may be gone by now.
    bare = config.model_copy(update={"report": ReportSettings(), "published": None})
    read = replace(loaded, config=bare, file=file)
    return replace(compile_pipeline(read, columns=pool_columns(work) or None), config=config)


def _loaded(text: bytes, file: Path) -> Loaded:
    """A resolved pipeline; the step that `--limit` put first cannot be written by a user."""
    raw = yaml.safe_load(text)
    first = next(iter(raw["steps"][0].values()), None) or {}
    limit = first.get("count") if first.get("name") == LIMIT else None
    if limit is not None:
        raw["steps"] = raw["steps"][1:]
    file.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load(str(file), limit=limit)
