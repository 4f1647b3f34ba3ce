"""The counts of a report: totals, the pool, and what each step kept, removed and lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import add
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled, is_filter
from curate.downloads.download import Download
from curate.features import Feature, FittedFeature
from curate.fitted import fit_record
from curate.pipeline_file.schema import Source, Step
from curate.report.facts import Facts, Look, kind, looks, plain, public, stops
from curate.runner import Runner, fold
from curate.step import fingerprint

UIDS_AT_ONCE = 4_000_000  # of the subset: 64 MB
SAMPLES_SEEN = {  # by one training run of each of DataComp's scales (2304.14108, Table 1)
    "small": 12_800_000,
    "medium": 128_000_000,
    "large": 1_280_000_000,
    "xlarge": 12_800_000_000,
}
FAR = Fraction(5, 1000)  # a published share that ours is off by more is flagged


def totals(facts: Facts, runner: Runner) -> dict[str, Any]:
    """Rows of the pool by their fate, and the size of the subset."""
    gone = facts.counts.filter(pl.col("step").is_not_null())
    lost = pl.col("reason").str.starts_with(fates.LOST)
    rows, kept = _rows(facts.counts), _rows(_still_in(facts))
    unusable = _rows(gone.filter(pl.col("step") == fates.START))
    by_steps = gone.filter(pl.col("step") != fates.START)
    copies = int(facts.counts["copies"].sum())
    found: dict[str, Any] = {
        "rows": rows,
        "usable": rows - unusable,
        "kept": kept,
        "copies": copies,
        "removed": _rows(by_steps.filter(~lost)),
        "lost": _rows(by_steps.filter(lost)),
        "unique_uids": None if facts.ended == "half-way" else _unique_uids(facts, copies, runner),
        "epochs": {
            scale: round(seen / copies, 3) if copies else None
            for scale, seen in SAMPLES_SEEN.items()
        },
    }
    assert rows == facts.pool.rows, (rows, facts.pool.rows)
    assert found["usable"] == kept + found["removed"] + found["lost"], found
    return found


def _rows(counts: pl.DataFrame) -> int:
    return int(counts["rows"].sum())


def _unique_uids(facts: Facts, copies: int, runner: Runner) -> int:
    """How many different uids are in the subset."""
    url = storage.join(facts.plan.work, "subset.npy")
    starts = range(0, copies, UIDS_AT_ONCE)
    return fold(runner.map(partial(_first_ones, url, copies), starts, "report"), add) or 0


def _first_ones(url: str, copies: int, start: int) -> int:
    """How many uids of a piece of a sorted subset differ from the one before them."""
    before = max(start - 1, 0)
    uids = storage.read_rows(url, before, min(start + UIDS_AT_ONCE, copies))
    assert len(uids) == min(start + UIDS_AT_ONCE, copies) - before, "the subset is not this run's"
    return int((uids[1:] != uids[:-1]).sum()) + (start == 0)


def pool(facts: Facts) -> dict[str, Any]:
    """Where the samples came from, and what was wrong with the files."""
    table = facts.pool.table
    sources = []
    for source in facts.plan.config.pool:
        own = table.filter(pl.col("source") == source.name)
        sources.append(
            {
                "name": source.name,
                "kind": _kind(source),
                "patterns": [public(pattern) for pattern in source.patterns()],
                "files": own["url"].n_unique(),
                "shards": own.height,
                "rows": _rows(own),
            }
        )
    unusable = facts.counts.filter(pl.col("step") == fates.START)
    found = {key: n for key, n in facts.pool.pictures.items() if key not in ("of", "damaged")}
    return {
        "sources": sources,
        **({"pictures": found} if found else {}),
        "shards": table.height,
        "rows": facts.pool.rows,
        "unusable": _by_reason(unusable),
        "damaged": [_damage(found) for found in facts.pool.damaged()],
    }


def _kind(source: Source) -> str:
    if source.metadata is not None:
        return "metadata and shards" if source.has_pictures else "metadata"
    return "urls" if source.urls is not None else "shards"


def _damage(found: dict[str, str]) -> dict[str, str]:
    url = found["url"]
    return {"url": public(url), "damage": found["damage"].replace(url, public(url))}


def _by_reason(counts: pl.DataFrame) -> dict[str, int]:
    return dict(counts.sort("reason").select("reason", "rows").iter_rows())


def steps(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """Each step in order; rows in = kept + removed + lost, and the next one gets what it kept."""
    entered = facts.pool.rows - _rows(facts.counts.filter(pl.col("step") == fates.START))
    noted = _noted(facts, runner)
    by_step: dict[str, list[Look]] = {}
    for look in looks(facts):
        by_step.setdefault(look.step, []).append(look)
    found = []
    for index, step in enumerate(facts.plan.steps):
        entry = {
            "name": step.name,
            "kind": kind(facts.plan, index),
            "role": _role(step),
            **_fates(facts, index, entered),
            "published": _published(facts, index, entered),
            "recipe": facts.plan.recipes[step.name],
            "fingerprint": fingerprint(facts.plan.recipes[step.name]),
            "filters": [_filter(facts, look) for look in by_step.get(step.name, [])],
        }
        if isinstance(step, Feature):
            entry["errors"] = noted[step.name].errors
            entry["flags"] = noted[step.name].flags
        if isinstance(step, FittedFeature):
            record = fit_record(facts.plan.work, step.name)
            entry["fitted"] = {"on": step.fit_on, **record, "tables": _tables(record["notes"])}
        found.append(entry)
        entered = entry["kept"]
    assert entered == _rows(_still_in(facts)), "a step that the pipeline lacks removed samples"
    return found


def _still_in(facts: Facts) -> pl.DataFrame:
    return facts.counts.filter(pl.col("step").is_null())


def _fates(facts: Facts, index: int, entered: int) -> dict[str, Any]:
    own = _by_reason(facts.counts.filter(pl.col("step") == facts.plan.steps[index].name))
    lost = {reason: n for reason, n in own.items() if reason.startswith(fates.LOST)}
    removed = {reason: n for reason, n in own.items() if reason not in lost}
    kept = entered - sum(own.values())
    assert kept >= _rows(_still_in(facts)), own
    return {
        "in": entered,
        "kept": kept,
        "removed": removed,
        "lost": {reason.removeprefix(fates.LOST): n for reason, n in lost.items()},
        "copies": _copies(facts, index, kept),
    }


def _published(facts: Facts, index: int, entered: int) -> dict[str, Any] | None:
    """What a paper says that a step leaves of the pool, if the pipeline file tells."""
    told, name = facts.plan.config.published, facts.plan.steps[index].name
    if told is None or name not in told.kept:
        return None
    share = told.kept[name]
    kept = _fates(facts, index, entered)["kept"]
    # Of the rows that the pool can use; decimals are taken as they are written.
    usable = facts.states["pool"]["rows"]
    off = usable > 0 and abs(Fraction(kept, usable) - Fraction(str(share))) > FAR
    return {"share": share, "source": told.source, "off": off}


def _role(step: Step) -> str:
    if is_filter(step):
        return "filter"
    if isinstance(step, Download):
        return "download"
    return "feature" if isinstance(step, Feature) else "write"


def _filter(facts: Facts, look: Look) -> dict[str, Any]:
    learnt = facts.states.get(look.filter, {})
    small = {k: plain(v) for k, v in learnt.items() if isinstance(v, (bool, int, float, str))}
    return {
        "name": look.filter,
        "columns": list(look.shown.columns),
        "thresholds": {reason: plain(value) for reason, value in look.shown.thresholds.items()},
        "learnt": small,
        "tables": _tables(learnt),
    }


def _tables(said: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Those of some notes that are lists of objects: a few words and numbers each."""
    return {
        name: [{key: plain(one) for key, one in row.items()} for row in rows]
        for name, rows in said.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }


def _copies(facts: Facts, index: int, kept: int) -> int | None:
    """Copies of the rows that a step kept; None where later removals hide how many there were."""
    if not any(getattr(step, "makes_copies", False) for step in facts.plan.steps[: index + 1]):
        return kept
    return int(facts.counts["copies"].sum()) if kept == _rows(_still_in(facts)) else None


@dataclass(frozen=True)
class Noted:
    """What the rows that reached a feature have of it."""

    errors: dict[str, int]  # {error class: rows} of those that could not be scored
    flags: dict[str, dict[str, int]]  # {field that is true or false: {"true": rows, "false": rows}}

    def plus(self, other: Noted) -> Noted:
        """Both in one."""
        errors = {k: self.errors.get(k, 0) + n for k, n in other.errors.items()}
        flags = {
            name: {said: n + other.flags[name][said] for said, n in own.items()}
            for name, own in self.flags.items()
        }
        return Noted({**self.errors, **errors}, flags)


def _noted(facts: Facts, runner: Runner) -> dict[str, Noted]:
    """{feature: what the rows that reached it have of it}."""
    found = {s.name: Noted({}, _flags(s)) for s in facts.plan.steps if isinstance(s, Feature)}
    if not found:
        return {}
    work = partial(_block_noted, facts.plan, facts.after)
    return fold(runner.map(work, facts.spans(), "report"), _added) or found


def _flags(step: Feature) -> dict[str, dict[str, int]]:
    return {field.name: {"true": 0, "false": 0} for field in step.gives() if field.dtype == "bool"}


def _block_noted(plan: Compiled, after: str, span: Span) -> dict[str, Noted]:
    stopped = stops(plan, fates.read(plan.work, after, span))
    found: dict[str, Noted] = {}
    for index, step in enumerate(plan.steps):
        if not isinstance(step, Feature):
            continue
        flags = _flags(step)
        stored = columns.store(plan.work, step.name).read(span.block, ["error", *flags])
        reached = pl.Series(stopped[stored[columns.ROW].to_numpy()] >= index, dtype=pl.Boolean)
        errors = stored["error"].filter(reached).drop_nulls()
        kinds, counts = np.unique(errors.cast(pl.String).to_numpy(), return_counts=True)
        for name in flags:
            said = stored[name].cast(pl.Boolean).filter(reached)
            true = int(said.sum() or 0)
            flags[name] = {"true": true, "false": len(said) - said.null_count() - true}
        found[step.name] = Noted(dict(zip(kinds.tolist(), counts.tolist(), strict=True)), flags)
    return found


def _added(left: dict[str, Noted], right: dict[str, Noted]) -> dict[str, Noted]:
    return {name: left[name].plus(right[name]) for name in left}
