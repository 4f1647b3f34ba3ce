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
from curate.report.facts import Facts, looks, plain, stops
from curate.runner import Runner, fold
from filters import column

BINS = 200
_INFINITE, _UNSCORED = BINS, BINS + 1  # what is counted beside the bins
_PLACES = 2 * (BINS + 2)  # of those kept, then of those removed
_PIECE = 32_768  # rows whose bins are found at once: what stays in a processor's own memory


@dataclass(frozen=True)
class Curve:
    """One distribution: a column, at a step."""

    index: int  # of the step
    column: str


def draw(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """A histogram for each score of each filter, split into what its step kept and removed.

    The kept and removed counts of the bins, of infinite scores and of unscored rows add up to the
    rows that reached the step. The last bin includes its upper edge; where `low` equals `high`, all
    are in the first.
    """
    found = [(look, score) for look in looks(facts) for score in look.shown.scores]
    curves = [Curve(look.index, score) for look, score in found]
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
    for (look, score), (low, high), (kept, removed) in zip(found, ranges, counts, strict=True):
        thresholds = look.shown.thresholds if look.score is not None else {}
        histograms.append(
            {
                "step": look.step,
                "filter": look.filter,
                "column": score,
                "thresholds": {reason: plain(value) for reason, value in thresholds.items()},
                "keeps": look.shown.keeps,
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
    values = frame.select(column(name)).to_series()
    if not values.dtype.is_float():
        values = values.cast(pl.Float64, strict=False)
    # Null becomes NaN; no -0.0 stays, for it would depend on order.
    return np.asarray(np.add(values.to_numpy(), 0.0, dtype=np.float64))


def _ranges(plan: Compiled, after: str, curves: list[Curve], span: Span) -> np.ndarray:
    """[C, 2] lowest and highest finite score of the rows that reached each step."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    found = _no_range(curves)
    for number, curve in enumerate(curves):
        values = scores(plan, curve.index, curve.column, span)
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
        values = scores(plan, curve.index, curve.column, span)
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
