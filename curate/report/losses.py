"""Rows that no filter removed, but failed work of our own: by step and kind, with examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.facts import Facts
from curate.report.samples import describe
from curate.runner import Runner, fold

SHOWN = 5  # examples of one kind
REMEDY = "`curate run` with the same pipeline file tries again what was lost"
_FOUND: dict[str, Any] = {
    "loss": pl.UInt32,
    "draw": pl.Float64,
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
}
_ORDER = tuple(_FOUND)


@dataclass(frozen=True)
class _Kind:
    step: str
    reason: str  # as fates have it


def losses(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """The section of a report: `schema.Loss` of each step and kind, in the order of the steps."""
    names = [step.name for step in facts.plan.steps]
    lost = facts.counts.filter(pl.col("reason").str.starts_with(fates.LOST).fill_null(value=False))
    rows = {(step, reason): n for step, reason, n, _ in lost.iter_rows() if step in names}
    kinds = [_Kind(*pair) for pair in sorted(rows, key=lambda pair: (names.index(pair[0]), pair))]
    if not kinds:
        return []
    work = partial(_drawn, facts.plan, facts.after, kinds)
    found = fold(runner.map(work, facts.spans(), "report"), _first_of)
    assert found is not None, "somebody was lost of a pool without rows"
    index = pl.Series([names.index(kind.step) for kind in kinds], dtype=pl.Int64)
    wanted = found.select(index.gather(found["loss"]).alias("index"), "block", "row")
    samples = describe(facts, wanted, dict.fromkeys(index.to_list(), ()), runner)
    shown: dict[int, list[dict[str, Any]]] = {}
    for (place, block, row), loss in zip(wanted.iter_rows(), found["loss"], strict=True):
        shown.setdefault(loss, []).append(samples[place, block, row])
    return [
        {
            "step": kind.step,
            "kind": kind.reason.removeprefix(fates.LOST),
            "rows": rows[kind.step, kind.reason],
            "examples": shown[number],
            "remedy": REMEDY,
        }
        for number, kind in enumerate(kinds)
    ]


def _drawn(plan: Compiled, after: str, kinds: list[_Kind], span: Span) -> pl.DataFrame:
    """The first SHOWN of a block for each kind, by uid hash."""
    found = fates.read(plan.work, after, span)
    frames = [pl.DataFrame(schema=_FOUND)]
    for number, kind in enumerate(kinds):
        if (kind.step, kind.reason) not in found.known:
            continue
        code = found.known.index((kind.step, kind.reason)) + 1
        rows = np.flatnonzero(found.code == code)
        uids = columns.uids(plan.work, span)[rows]
        frame = {
            "loss": np.full(len(rows), number),
            "draw": chance.uniform(plan.config.seed, "report", uids, kind.step),
            "f0": uids["f0"],
            "f1": uids["f1"],
            "block": np.full(len(rows), span.block),
            "row": rows,
        }
        frames.append(pl.DataFrame(frame).cast(pl.Schema(_FOUND)))
    return _first_of(*frames)


def _first_of(*frames: pl.DataFrame) -> pl.DataFrame:
    ranked = pl.concat(frames).sort(_ORDER)
    return ranked.group_by("loss", maintain_order=True).head(SHOWN)
