"""How the scores of the samples that reached a filter are distributed, in two passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.facts import Deciding, Extent, Facts, looks, plain, stops
from curate.runner import Runner, fold
from filters import column

BINS = 200
_INFINITE, _UNSCORED = BINS, BINS + 1  # what is counted beside the bins
_PLACES = 2 * (BINS + 2)  # of those kept, then of those removed
_PIECE = 32_768  # rows whose bins are found at once: what stays in a processor's own memory


@dataclass(frozen=True)
class Curve:
    """One distribution: what a filter decides by, at its step."""

    index: int  # of the step
    of: Deciding


def draw(facts: Facts, runner: Runner, extent: Extent) -> list[dict[str, Any]]:
    """A histogram for each score of each filter, split into what its step kept and removed.

    A brief report has those of columns; what filters measure (the words of a caption) is measured
    anew for a whole one.

    The kept and removed counts of the bins, of infinite scores and of unscored rows add up to the
    rows that reached the step. The last bin includes its upper edge; where `low` equals `high`, all
    are in the first.
    """
    found = [
        (look, deciding)
        for look in looks(facts)
        for deciding in (look.deciding if extent == "whole" else look.scores)
    ]
    curves = [Curve(look.index, deciding) for look, deciding in found]
    if not curves:
        return []
    spans, given = facts.spans(), (facts.plan, facts.after, curves)
    ranges = fold(runner.map(partial(_ranges, *given), spans, "report"), _wider)
    if ranges is None:  # a pool without rows
        ranges = _no_range(curves)
    counts = fold(runner.map(partial(_counts, *given, ranges), spans, "report"), np.add)
    if counts is None:
        counts = _no_counts(curves)
    histograms = []
    for (look, deciding), (low, high), (kept, removed) in zip(found, ranges, counts, strict=True):
        histograms.append(
            {
                "step": look.step,
                "filter": look.filter,
                "column": deciding.name,
                "thresholds": {reason: plain(n) for reason, n in deciding.thresholds.items()},
                "keeps": deciding.keeps,
                "alone": deciding.alone,
                "low": float(low) if low <= high else None,
                "high": float(high) if low <= high else None,
                "kept": kept[:BINS].tolist(),
                "removed": removed[:BINS].tolist(),
                "infinite": {"kept": int(kept[_INFINITE]), "removed": int(removed[_INFINITE])},
                "unscored": {"kept": int(kept[_UNSCORED]), "removed": int(removed[_UNSCORED])},
            }
        )
    return histograms


def _no_range(curves: list[Curve]) -> np.ndarray:
    return np.tile([np.inf, -np.inf], (len(curves), 1))


def _no_counts(curves: list[Curve]) -> np.ndarray:
    return np.zeros((len(curves), 2, BINS + 2), dtype=np.int64)


def _wider(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    low, high = np.minimum(left, right)[:, 0], np.maximum(left, right)[:, 1]
    return np.stack([low, high], axis=1)


def scores(plan: Compiled, index: int, name: str, span: Span) -> np.ndarray:
    """[len(span)] float64 of a column as a step sees it; NaN where a row has none."""
    frame = columns.load(plan.work, plan.registries[index], [name], span)
    return _numbers(frame.select(column(name)).to_series())


def decided_by(
    plan: Compiled, index: int, of: Deciding, span: Span, stopped: np.ndarray
) -> np.ndarray:
    """[len(span)] float64 of what a filter of a step decides by; NaN where a row has none.

    What is made of columns is made for the rows that came so far: for others it may be an error.
    """
    if of.value is None:
        return scores(plan, index, of.name, span)
    came = stopped >= index
    found = np.full(len(span), np.nan)
    frame = columns.load(plan.work, plan.registries[index], of.columns, span)
    found[came] = _numbers(frame.filter(pl.Series(came)).select(of.value).to_series())
    return found


def _numbers(values: pl.Series) -> np.ndarray:
    if not values.dtype.is_float():
        values = values.cast(pl.Float64, strict=False)
    # Null becomes NaN; no -0.0 stays, for it would depend on order.
    return np.asarray(np.add(values.to_numpy(), 0.0, dtype=np.float64))


def _ranges(plan: Compiled, after: str, curves: list[Curve], span: Span) -> np.ndarray:
    """[C, 2] lowest and highest finite score of the rows that reached each step."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    found = _no_range(curves)
    for number, curve in enumerate(curves):
        values = decided_by(plan, curve.index, curve.of, span, stopped)
        outside = (stopped < curve.index) | ~np.isfinite(values)
        if not outside.all():
            low = np.min(values, where=~outside, initial=np.inf)
            found[number] = low, np.max(values, where=~outside, initial=-np.inf)
    return found


def _counts(
    plan: Compiled, after: str, curves: list[Curve], ranges: np.ndarray, span: Span
) -> np.ndarray:
    """[C, 2, BINS + 2] int64: kept and removed rows by bin, then infinite and unscored ones."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    found = _no_counts(curves)
    for number, curve in enumerate(curves):
        values = decided_by(plan, curve.index, curve.of, span, stopped)
        for first in range(0, len(span), _PIECE):
            piece = slice(first, first + _PIECE)
            places = _places(values[piece], *ranges[number])
            places += (BINS + 2) * (stopped[piece] == curve.index)  # removed: the second half
            there = stopped[piece] >= curve.index  # who came so far; -1 for none of the pool's
            counts = np.bincount(places if there.all() else places[there], minlength=_PLACES)
            found[number] += counts.reshape(2, BINS + 2)
    return found


def _places(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """[N] bin of each value, or one of the places beside them."""
    width = high / 2 - low / 2  # halves, for the range itself may overflow
    with np.errstate(invalid="ignore", over="ignore"):
        share = (values / 2 - low / 2) / width if width > 0 else np.zeros(len(values))
        places = np.clip(share * BINS, 0, BINS - 1).astype(np.int64)
    finite = np.isfinite(values)
    if not finite.all():
        places[~finite] = np.where(np.isnan(values[~finite]), _UNSCORED, _INFINITE)
    return places
