"""Every column value of one sample: the pool's, and what each step computed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from curate import columns
from curate.columns import Column
from curate.compiled import Compiled, columns_given, is_scorer
from curate.downloads.download import Download
from curate.explanation.row import Row
from curate.explanation.schema import ArrayValue, FeatureValues
from curate.pipeline_file.schema import Step
from curate.pools.metadata import ARRAY
from curate.report.facts import kind, plain
from curate.sample import INTERNAL

Given = Mapping[str, Column]


def of_pool(row: Row) -> tuple[dict[str, Any], dict[str, ArrayValue]]:
    """({column: value}, {array: what it is}) of the pool itself."""
    own = {name: one for name, one in row.facts.pool.columns.items() if name not in INTERNAL}
    return row.values(own, _scalars(own)), _arrays(row, own)


def of_features(row: Row) -> list[FeatureValues]:
    """What each step computed of a sample, or why it has nothing."""
    plan = row.facts.plan
    return [_of_step(row, index, step) for index, step in enumerate(plan.steps) if is_scorer(step)]


def _of_step(row: Row, index: int, step: Step) -> FeatureValues:
    plan = row.facts.plan
    given = columns_given(step)
    if not _stored(plan, step.name, row):
        return FeatureValues(
            step=step.name, kind=kind(plan, index), state="not computed",
            why=_why_not(row, index), values={}, arrays={},
        )  # fmt: skip
    values = row.values(given, _scalars(given))
    error = _error(step, values)
    if isinstance(step, Download):
        values.pop(f"{step.name}.part", None)
    return FeatureValues(
        step=step.name,
        kind=kind(plan, index),
        state="computed" if error is None else "no value",
        why=error or _why_all_the_same(row, index),
        values=values,
        arrays=_arrays(row, given),
    )


def _scalars(given: Given) -> list[str]:
    return [name for name, column in given.items() if column.dtype != ARRAY]


def _arrays(row: Row, given: Given) -> dict[str, ArrayValue]:
    return {
        name: _described(columns.load_array(row.facts.plan.work, column, row.span)[0])
        for name, column in given.items()
        if column.dtype == ARRAY
    }


def _described(array: np.ndarray) -> ArrayValue:
    norm = float(np.linalg.norm(array.astype(np.float64)))
    empty = bool(np.isnan(array).all())
    return ArrayValue(shape=list(array.shape), norm=None if empty else plain(norm))


def _stored(plan: Compiled, name: str, row: Row) -> bool:
    """Whether a step has anything of a row: a value, or why there is none."""
    store = columns.store(plan.work, name)
    if store.read_there(row.span, []) is not None:
        return True
    return bool((store.read(row.block, [])[columns.ROW] == row.row).any())


def _error(step: Step, values: Mapping[str, Any]) -> str | None:
    error = values.get(f"{step.name}.error")
    if isinstance(step, Download) and values.get(f"{step.name}.status") != "success":
        return str(error or values.get(f"{step.name}.status"))
    return None if error is None else str(error)


def _why_not(row: Row, index: int) -> str:
    plan = row.facts.plan
    if row.stop < 0:
        return "the pool itself could not use it"
    if row.stop < index:
        return f"removed before, by {plan.steps[row.stop].name}"
    if row.stop == index:
        return f"the work failed: {row.fates.reasons()[0]}"
    return "its samples were others when this was fitted"


def _why_all_the_same(row: Row, index: int) -> str | None:
    """Why a sample that did not reach a step has its values."""
    if row.stop >= index:
        return None
    return "it did not get here: for the probe, or by an earlier run that kept more"
