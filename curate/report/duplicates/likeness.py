"""How alike two samples are, in what a filter of near duplicates compares."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import columns
from curate.columns import Span
from curate.compiled import Compiled
from curate.features.hash_neighbours import HashNeighbours
from curate.features.neighbours import Neighbours
from curate.report.facts import Facts
from curate.report.samples import NEAR
from curate.runner import Runner
from filters import column
from filters._pairs import PairFilter
from filters.exact_duplicates import ExactDuplicates

Unit = Literal["cosine", "bits"]
Place = tuple[int, int]  # block, row of the block

_PAIR = ("block", "row", "kept_block", "kept_row")
_DIGITS = 6  # of a cosine: float16 embeddings tell no more


def compared(facts: Facts, index: int) -> tuple[Unit | None, tuple[str, ...]]:
    """The unit of likeness of a filter of duplicates, and the columns that it compares.

    The unit is None where duplicates are equal, or the columns () where a plugin decides.
    """
    step = facts.plan.steps[index]
    if isinstance(step, ExactDuplicates):
        return None, step.by
    maker = _maker(facts.plan, step)
    if isinstance(maker, Neighbours):
        return "cosine", (maker.of,)
    if isinstance(maker, HashNeighbours):
        return "bits", maker.needs()
    return None, ()


def _maker(plan: Compiled, step: Any) -> Any:
    return plan.steps[plan.index(str(step.of))] if isinstance(step, PairFilter) else None


def likeness(
    facts: Facts, index: int, pairs: pl.DataFrame, runner: Runner
) -> dict[Place, float | None]:
    """{place of one: how alike it is to the other} of pairs.

    Cosines are of the stored embeddings, in float64; bits are those in which hashes differ, at
    least: also of one mirrored, where the filter's pairs are found so.

    Args:
        facts: The run.
        index: Of a filter of duplicates.
        pairs: _PAIR.
        runner: Who reads.
    """
    unit, names = compared(facts, index)
    if unit is None or not pairs.height:
        return {}
    others = pairs.select(block="kept_block", row="kept_row")
    places = pl.concat([pairs.select("block", "row"), others]).unique().sort("block", "row")
    near = places.with_columns(near=pl.col("row") // NEAR[0])
    jobs = [
        (int(str(block)), part["row"].to_list())
        for (block, _), part in near.group_by(["block", "near"], maintain_order=True)
    ]
    work = partial(_vectors if unit == "cosine" else _hashes, facts.plan, index, names)
    known: dict[Place, np.ndarray] = {}
    for values in runner.map(work, jobs, "report"):
        known.update(values)
    return {
        (block, row): _LIKE[unit](known[block, row], known[kept_block, kept_row])
        for block, row, kept_block, kept_row in pairs.select(_PAIR).iter_rows()
    }


Job = tuple[int, list[int]]  # a block, and rows of it that are close together, ascending


def _vectors(
    plan: Compiled, index: int, names: tuple[str, ...], job: Job
) -> dict[Place, np.ndarray]:
    """{place: [D] float64}."""
    block, rows = job
    span = Span(block, rows[0], rows[-1] + 1)
    found = columns.load_array(plan.work, plan.registries[index][names[0]], span)
    own = found[np.array(rows) - rows[0]].astype(np.float64)
    return {(block, row): vector for row, vector in zip(rows, own, strict=True)}


def _hashes(
    plan: Compiled, index: int, names: tuple[str, ...], job: Job
) -> dict[Place, np.ndarray]:
    """{place: [1 or 2] uint64: the hash, and that of the mirrored picture}."""
    block, rows = job
    span = Span(block, rows[0], rows[-1] + 1)
    frame = columns.load(plan.work, plan.registries[index], names, span)
    own = frame.select(column(name).alias(name) for name in names)
    own = own[(np.array(rows) - rows[0]).tolist()].fill_null(0)
    return {(block, row): np.array(values) for row, values in zip(rows, own.rows(), strict=True)}


def _cosine(left: np.ndarray, right: np.ndarray) -> float | None:
    length = float(np.sqrt((left * left).sum() * (right * right).sum()))
    if not np.isfinite(length) or length == 0 or len(left) != len(right):
        return None
    return round(min(1.0, float((left * right).sum()) / length), _DIGITS)


def _bits(left: np.ndarray, right: np.ndarray) -> float | None:
    pairs = [(left[0], right[0]), *zip(left[1:], right[:1], strict=False)]
    pairs += zip(left[:1], right[1:], strict=False)
    return float(min(int(one ^ other).bit_count() for one, other in pairs))


_LIKE = {"cosine": _cosine, "bits": _bits}
