"""Which samples a report shows: those nearest to a threshold, and a few of each other reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import chance, columns, fates
from curate.columns import Span
from curate.compiled import Compiled, is_filter
from curate.fates import Fates
from curate.report.facts import Facts, Look, looks, plain, stops
from curate.report.histogram import scores
from curate.report.samples import describe
from curate.runner import Runner, fold

SHOWN = 8  # samples of one gallery
REASONS = 20  # of one step that have a gallery, the commonest first
_STRIDE = 61  # of rows looked at for a bound


Side = Literal["kept", "removed"]
SIDES: tuple[Side, Side] = ("kept", "removed")


@dataclass(frozen=True)
class Border:
    """A threshold, in the unit of its column."""

    score: str
    threshold: float


@dataclass(frozen=True)
class Gallery:
    """Samples that are shown together: the nearest to a border, or those of the smallest hash."""

    index: int  # of the step
    step: str
    filter: str
    reason: str
    side: Side
    columns: tuple[str, ...]  # the deciding values
    border: Border | None = None


def choose(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """Up to SHOWN samples for each gallery that has any, and all that a page says of them."""
    galleries = list(_galleries(facts))
    work = partial(_candidates, facts.plan, facts.after, galleries)
    found = fold(runner.map(work, facts.spans(), "report"), _best) if galleries else None
    if found is None or not found.height:
        return []
    chosen = found.sort("gallery", "rank", "f0", "f1", "block", "row")
    steps = pl.Series("index", [gallery.index for gallery in galleries], dtype=pl.Int64)
    wanted = chosen.select(steps.gather(chosen["gallery"]), "block", "row")
    samples = describe(facts, wanted, {g.index: g.columns for g in galleries}, runner)
    groups: dict[int, list[dict[str, Any]]] = {}
    for record in chosen.iter_rows(named=True):
        gallery = galleries[record["gallery"]]
        sample = samples[gallery.index, record["block"], record["row"]]
        own = {name: sample["values"][name] for name in gallery.columns}
        shown = {**sample, "values": own, "score": plain(record["score"])}
        groups.setdefault(record["gallery"], []).append(shown)
    return [{**_named(galleries[number]), "samples": group} for number, group in groups.items()]


def _named(gallery: Gallery) -> dict[str, Any]:
    border = gallery.border
    return {
        "step": gallery.step,
        "filter": gallery.filter,
        "reason": gallery.reason,
        "side": gallery.side,
        "chosen": "random" if border is None else "nearest",
        "score": None if border is None else border.score,
        "threshold": None if border is None else plain(border.threshold),
    }


def _galleries(facts: Facts) -> Iterator[Gallery]:
    found = looks(facts)
    for index, step in enumerate(facts.plan.steps):
        own = [look for look in found if look.index == index]
        names = tuple(dict.fromkeys(name for look in own for name in look.shown.columns))
        bordered: set[str] = set()
        for look in own:
            nearest = list(_at_thresholds(look, names))
            yield from nearest
            bordered |= {gallery.reason for gallery in nearest if look.filter == step.name}
        for reason in _reasons(facts.counts, step.name) if is_filter(step) else ():
            if reason not in bordered:
                yield Gallery(index, step.name, step.name, reason, "removed", names)


def _at_thresholds(look: Look, names: tuple[str, ...]) -> Iterator[Gallery]:
    if look.score is None:
        return
    for reason, threshold in look.shown.thresholds.items():
        border = Border(look.score, float(threshold))
        for side in SIDES:
            yield Gallery(look.index, look.step, look.filter, reason, side, names, border)


def _reasons(counts: pl.DataFrame, step: str) -> list[str]:
    lost = pl.col("reason").str.starts_with(fates.LOST)
    own = counts.filter((pl.col("step") == step) & ~lost)
    return own.sort(["rows", "reason"], descending=[True, False])["reason"].head(REASONS).to_list()


def _best(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """The first SHOWN of each gallery, of both."""
    both = pl.concat([left, right]).sort("gallery", "rank", "f0", "f1", "block", "row")
    return both.group_by("gallery", maintain_order=True).head(SHOWN)


def _candidates(plan: Compiled, after: str, galleries: list[Gallery], span: Span) -> pl.DataFrame:
    """The first SHOWN of each gallery in a block; rows of one uid go by their place in the pool."""
    found = fates.read(plan.work, after, span)
    stopped, uids = stops(plan, found), columns.uids(plan.work, span)
    frames = []
    read: dict[tuple[int, str], np.ndarray] = {}  # both sides of a threshold look at one column
    everything = np.arange(len(span))
    for number, gallery in enumerate(galleries):
        score = np.full(len(span), np.nan)
        if gallery.border is not None:
            place = (gallery.index, gallery.border.score)
            if place not in read:
                read[place] = scores(plan, *place, span)
            score = read[place]
            distance = np.abs(score - gallery.border.threshold)
            # The best of a few are a bound for the best of all: most rows need no second look.
            few = _members(gallery, stopped, found, everything[::_STRIDE])
            bound = _last(distance[few])
            near = everything if np.isnan(bound) else np.flatnonzero(distance <= bound)
            rows = _members(gallery, stopped, found, near)
            rank = distance[rows]
        else:
            rows = _members(gallery, stopped, found, everything)
            rank = chance.uniform(plan.config.seed, "report", uids[rows], gallery.step)
        first = _first(rank, uids, rows)
        there = rows[first]
        frame = {
            "gallery": np.full(len(there), number),
            "rank": rank[first],
            "f0": uids["f0"][there],
            "f1": uids["f1"][there],
            "block": np.full(len(there), span.block),
            "row": there,
            "score": pl.Series(score[there], dtype=pl.Float64).fill_nan(None),
        }
        frames.append(pl.DataFrame(frame).cast(pl.Schema(_CANDIDATE)))
    return pl.concat([pl.DataFrame(schema=_CANDIDATE), *frames])


_CANDIDATE: dict[str, Any] = {
    "gallery": pl.UInt32,
    "rank": pl.Float64,
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
    "score": pl.Float64,
}


def _members(gallery: Gallery, stopped: np.ndarray, found: Fates, rows: np.ndarray) -> np.ndarray:
    """Those of some rows that a gallery is chosen from."""
    if gallery.side == "kept":
        return np.asarray(rows[stopped[rows] > gallery.index])
    wanted = [step == gallery.step and _is_of(gallery, reason) for step, reason in found.known]
    return np.asarray(rows[np.array([False, *wanted])[found.code[rows]]])


def _is_of(gallery: Gallery, reason: str) -> bool:
    """Whether a sample removed for that reason belongs to a gallery of removed ones."""
    if gallery.filter == gallery.step:
        return reason == gallery.reason
    # any_of joins the reasons of its filters
    return f"{gallery.filter}:{gallery.reason}" in reason.split(" ")


def _last(rank: np.ndarray) -> float:
    """The SHOWN smallest rank; NaN where there are not so many."""
    return float(np.partition(rank, SHOWN - 1)[SHOWN - 1]) if len(rank) > SHOWN else math.nan


def _first(rank: np.ndarray, uids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places of the SHOWN smallest ranks, NaN left out, in no order.

    Ties go to the smaller uid, then the first row.

    Args:
        rank: [K] of the rows.
        uids: [N] UID of all rows of the block.
        rows: [K] rows of the block.
    """
    last = _last(rank)
    # Sorting is for those few that can be among them.
    places = np.flatnonzero(~np.isnan(rank) if np.isnan(last) else rank <= last)
    own = uids[rows[places]]
    order = np.lexsort((own["f1"], own["f0"], rank[places]))
    return places[order[:SHOWN]]
