"""What one filter said of one sample: values, thresholds, and how far these are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from curate.compiled import Compiled, needs_of
from curate.explanation.row import Row
from curate.explanation.schema import FilterFate, Rule
from curate.pipeline_file.schema import AnyOf, Step
from curate.pools.metadata import ARRAY
from curate.report.facts import plain
from filters import Batch, Filter, Measure, RowFilter, State
from filters._pairs import PairFilter
from filters._quota import QuotaFilter
from filters._top import Top


def said_by(row: Row, index: int, batch: Batch, filter_: Filter, reason: str | None) -> FilterFate:
    """What a filter of step `index` said of the one sample of a batch.

    Args:
        row: The sample.
        index: Of the step.
        batch: The sample alone, as the filter sees it.
        filter_: The step, or one inside `any_of`.
        reason: Why it removes the sample; None where it does not.
    """
    plan = row.facts.plan
    state = row.facts.states.get(filter_.name, {})
    registry = plan.registries[index]
    names = dict.fromkeys((*filter_.shows(state).columns, *needs_of(filter_)))
    shown = [name for name in names if name in registry and registry[name].dtype != ARRAY]
    return FilterFate(
        filter=filter_.name,
        verdict="kept" if reason is None else "removed",
        reason=reason,
        values=row.values(registry, shown),
        rules=list(_rules(filter_, state, batch, reason)),
        settings=_settings(plan, index, filter_.name),
        learnt={k: plain(v) for k, v in state.items() if isinstance(v, (bool, int, float, str))},
        group=_group(filter_, state, batch),
    )


def _settings(plan: Compiled, index: int, name: str) -> dict[str, Any]:
    """The fields of a filter as the pipeline file has them."""
    step: Step = plan.config.steps[index]
    if isinstance(step, AnyOf):
        step = next(child for child in step.steps if child.name == name)
    return step.model_dump(mode="json", exclude_none=True, exclude={"name"})


def _rules(filter_: Filter, state: State, batch: Batch, reason: str | None) -> Iterator[Rule]:
    if isinstance(filter_, RowFilter):
        measures = {name: one for one in filter_.shows(state).measures for name in one.limits}
        for name, rule in filter_.passes().items():
            if name in measures:
                yield from _measured(measures[name], name, rule, batch.frame)
            else:
                yield from _of_rule(name, rule, batch.frame)
    elif isinstance(filter_, Top):
        value = float(filter_.values(batch)[0])
        for name, threshold in filter_.thresholds(state).items():
            yield _rule(name, value, threshold, passed=_told(name, reason))
    elif isinstance(filter_, PairFilter):
        shown = filter_.shows(state)
        for name, threshold in shown.thresholds.items():
            yield _of_pairs(filter_, name, threshold, _number(batch.frame, shown.scores[0]))


def _of_rule(reason: str, rule: pl.Expr, frame: pl.DataFrame) -> Iterator[Rule]:
    """The rule of a row filter, where it compares a number of the sample with one of its own."""
    sides = rule.meta.pop()
    own = [side for side in sides if not side.meta.root_names()]
    samples = [side for side in sides if side.meta.root_names()]
    if len(own) != 1 or len(samples) != 1:
        return
    found = frame.select(value=samples[0], threshold=own[0], passed=rule)
    if found.schema["value"].is_numeric() and found.schema["threshold"].is_numeric():
        value, threshold, passed = found.row(0)
        yield _rule(reason, math.nan if value is None else float(value), threshold, passed=passed)


def _measured(measure: Measure, reason: str, rule: pl.Expr, frame: pl.DataFrame) -> Iterator[Rule]:
    """A rule on what the filter measures of its columns, where that is a number."""
    found = frame.select(value=measure.value, passed=rule)
    if found.schema["value"].is_numeric():
        value, passed = found.row(0)
        number = math.nan if value is None else float(value)
        yield _rule(reason, number, measure.limits[reason], passed=passed)


def _told(name: str, reason: str | None) -> bool | None:
    """Whether a sample passed a rule, by why it was removed: nothing is known of other rules."""
    if reason is None:
        return True
    return False if name == reason else None


def _number(frame: pl.DataFrame, name: str) -> float:
    outer, _, inner = name.partition(".")
    value = frame[outer].struct.field(inner)[0] if inner else frame[outer][0]
    return math.nan if value is None else float(value)


def _of_pairs(filter_: PairFilter, name: str, threshold: float, nearest: float) -> Rule:
    """How far the nearest other sample is from being a duplicate; that may stay nevertheless."""
    alike = bool(filter_.alike(np.array([nearest], dtype=np.float32))[0])
    return _rule(name, nearest, threshold, passed=None if math.isnan(nearest) else not alike)


def _rule(reason: str, value: float, threshold: float, *, passed: bool | None) -> Rule:
    """A value beside its threshold; NaN is no value."""
    missing = math.isnan(value)
    distance = abs(value - float(threshold))
    margin = distance if passed else -distance
    known = not missing and passed is not None and math.isfinite(distance)
    return Rule(
        reason=reason,
        value=None if missing else plain(value),
        threshold=plain(float(threshold)),
        margin=margin + 0.0 if known else None,
        passed=passed,
    )


def _group(filter_: Filter, state: State, batch: Batch) -> dict[str, int]:
    """The group of a sample, and how many stay of it."""
    if not isinstance(filter_, QuotaFilter) or "quota" not in state:
        return {}
    number = filter_.key(batch).to_series()[0]
    if number is None:
        return {}
    quota = np.asarray(state["quota"])
    place = int(number)
    if "groups" in state:
        groups = np.asarray(state["groups"])
        place = int(np.searchsorted(groups, number))
        if place == len(groups) or groups[place] != number:
            place = len(quota)
    return {"number": int(number), "quota": int(quota[place]) if place < len(quota) else 0}
