"""Which samples a report shows: some by chance, and those nearest to a threshold.

By chance are some of those that the run kept, of those that each filter kept, of those that it
removed for each reason, and of each tenth of its scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.fates import Fates
from curate.report.facts import Facts, plain, stops
from curate.report.galleries.kinds import Gallery, galleries_of
from curate.report.galleries.tenths import TENTHS, tenths
from curate.report.measured import Measured, scores
from curate.report.samples import describe
from curate.runner import Runner, fold
from curate.sample import UID

_STRIDE = 61  # of rows looked at for a bound
SHOWN_OF_TENTH = 4


def choose(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """The samples of each gallery that has any, and all that a page says of them."""
    galleries = galleries_of(facts)
    sizes = np.array([gallery.size for gallery in galleries])
    work = partial(_candidates, facts.plan, facts.after, galleries)
    found = fold(runner.map(work, facts.spans(), "report"), partial(_best, sizes))
    if found is None or not found.height:
        return []
    groups = list(_shown(galleries, found.sort(*_ORDER)))
    wanted = [
        group.select(pl.lit(gallery.index, pl.Int64).alias("index"), "block", "row")
        for gallery, _, group in groups
    ]
    if not wanted:
        return []
    samples = describe(facts, pl.concat(wanted), {g.index: g.columns for g in galleries}, runner)
    return [
        {**_named(gallery, tenth, group), "samples": _described(gallery, group, samples)}
        for gallery, tenth, group in groups
    ]


def _shown(
    galleries: list[Gallery], found: pl.DataFrame
) -> Iterator[tuple[Gallery, int | None, pl.DataFrame]]:
    """(gallery, which tenth of its scores, samples) of what is shown."""
    for (number,), group in found.group_by("gallery", maintain_order=True):
        gallery = galleries[int(str(number))]
        if gallery.score is None:
            yield gallery, None, group
            continue
        tenth = tenths(group["score"].to_numpy())
        if tenth is None:
            continue
        placed = group.with_columns(tenth=pl.Series(tenth))
        for each in range(1, TENTHS + 1):
            own = placed.filter(pl.col("tenth") == each)
            if own.height:
                yield gallery, each, own


def _described(
    gallery: Gallery, group: pl.DataFrame, samples: dict[tuple[int, int, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    shown = []
    most = SHOWN_OF_TENTH if gallery.score is not None else gallery.size
    for record in group.head(most).iter_rows(named=True):
        sample = samples[gallery.index, record["block"], record["row"]]
        own = {name: sample["values"][name] for name in gallery.columns if name in sample["values"]}
        shown.append({**sample, "values": own, "score": plain(record["score"])})
    return shown


def _named(gallery: Gallery, tenth: int | None, group: pl.DataFrame) -> dict[str, Any]:
    border = gallery.border
    by = gallery.score if border is None else border.score
    chosen = "decile" if tenth is not None else "random" if border is None else "nearest"
    ends = (group["score"].min(), group["score"].max())
    return {
        "step": gallery.step,
        "filter": gallery.filter,
        "reason": gallery.reason,
        "side": gallery.side,
        "chosen": chosen,
        "score": None if by is None else by.name,
        "threshold": None if border is None else plain(border.threshold),
        "share": 1.0 if border is None else border.share,
        "decile": tenth,
        "between": None if tenth is None else [plain(end) for end in ends],
    }


_ORDER = ("gallery", "rank", "f0", "f1", "block", "row")
_CANDIDATE: dict[str, Any] = {
    "gallery": pl.UInt32,
    "rank": pl.Float64,
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
    "score": pl.Float64,
}


def _best(sizes: np.ndarray, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """The first of each gallery, of both: as many as it has room for."""
    both = pl.concat([left, right]).sort(*_ORDER)
    place = both.select(pl.int_range(pl.len()).over("gallery")).to_series().to_numpy()
    return both.filter(pl.Series(place < sizes[both["gallery"].to_numpy()]))


class _Block:
    """One block, and what galleries ask of it more than once."""

    def __init__(self, plan: Compiled, after: str, span: Span) -> None:
        self.plan, self.span = plan, span
        self.found: Fates = fates.read(plan.work, after, span)
        self.stopped = stops(plan, self.found)
        self.uids = columns.uids(plan.work, span)
        self.everything = np.arange(len(span))
        self.measured = Measured(plan, span)
        self._scores: dict[tuple[int, str], np.ndarray] = {}

    @cached_property
    def _drawn(self) -> np.ndarray:
        return chance.uniform(self.plan.config.seed, "report", self.uids)

    def scores(self, index: int, name: str) -> np.ndarray:
        """[N] float64 of a column; both sides of a threshold look at the same one."""
        place = (index, name)
        if place not in self._scores:
            self._scores[place] = scores(self.plan, index, name, self.span)
        return self._scores[place]

    def drawn(self, rows: np.ndarray, share: float) -> np.ndarray:
        """Those of some rows that are in a share of all uids."""
        return rows if share == 1.0 else np.asarray(rows[self._drawn[rows] < share])

    def by_chance(self, salt: str, rows: np.ndarray) -> np.ndarray:
        """[K] in [0, 1) of rows by uid hash; another salt has others first.

        One hash is turned by an angle of each salt: hashing anew takes ten times as long.
        """
        nobody = np.zeros(1, dtype=UID)
        angle = chance.uniform(self.plan.config.seed, "report", nobody, salt)[0]
        turned = self._drawn[rows] + angle
        turned -= turned >= 1.0
        return np.asarray(turned)


def _candidates(plan: Compiled, after: str, galleries: list[Gallery], span: Span) -> pl.DataFrame:
    """The first of each gallery in a block; rows of one uid go by their place in the pool."""
    block = _Block(plan, after, span)
    frames = []
    for number, gallery in enumerate(galleries):
        rows, rank, score = _ranked(gallery, block)
        first = _first(rank, gallery.size, (block.uids, rows))
        there = rows[first]
        frame = {
            "gallery": np.full(len(there), number),
            "rank": rank[first],
            "f0": block.uids["f0"][there],
            "f1": block.uids["f1"][there],
            "block": np.full(len(there), span.block),
            "row": there,
            "score": pl.Series(score[first], dtype=pl.Float64).fill_nan(None),
        }
        frames.append(pl.DataFrame(frame).cast(pl.Schema(_CANDIDATE)))
    return pl.concat([pl.DataFrame(schema=_CANDIDATE), *frames])


def _ranked(gallery: Gallery, block: _Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([K] rows that a gallery may show, [K] their ranks, [K] their scores, NaN without one)."""
    border = gallery.border
    if border is not None and border.score.value is not None:
        rows = block.drawn(_members(gallery, block, block.everything), border.share)
        score = block.measured.of(gallery.index, border.score, rows)
        distance = np.abs(score - border.threshold)
        if gallery.side == "removed":  # for want of a number, maybe: these are the farthest
            distance[np.isnan(distance)] = np.inf
        return rows, distance, score
    if border is not None:
        score = block.scores(gallery.index, border.score.name)
        distance = np.abs(score - border.threshold)
        # The best of a few are a bound for the best of all: most rows need no second look.
        few = _members(gallery, block, block.everything[::_STRIDE])
        bound = _last(distance[few], gallery.size)
        near = block.everything if np.isnan(bound) else np.flatnonzero(distance <= bound)
        rows = _members(gallery, block, near)
        return rows, distance[rows], score[rows]
    rows = _members(gallery, block, block.everything)
    if gallery.score is not None:
        score = block.scores(gallery.index, gallery.score.name)
        rows = rows[np.isfinite(score[rows])]
        rank = block.by_chance(f"{gallery.step} {gallery.score.name}", rows)
        return rows, rank, score[rows]
    salt = gallery.step if gallery.side == "removed" else f"{gallery.step or ''} kept"
    return rows, block.by_chance(str(salt), rows), np.full(len(rows), np.nan)


def _members(gallery: Gallery, block: _Block, rows: np.ndarray) -> np.ndarray:
    """Those of some rows that a gallery is chosen from."""
    if gallery.side != "removed":
        first = gallery.index + (gallery.side == "kept" and gallery.step is not None)
        return np.asarray(rows[block.stopped[rows] >= first])
    wanted = [step == gallery.step and _is_of(gallery, why) for step, why in block.found.known]
    return np.asarray(rows[np.array([False, *wanted])[block.found.code[rows]]])


def _is_of(gallery: Gallery, reason: str) -> bool:
    """Whether a sample removed for that reason belongs to a gallery of removed ones."""
    if gallery.filter == gallery.step:
        return reason == gallery.reason
    # any_of joins the reasons of its filters
    return f"{gallery.filter}:{gallery.reason}" in reason.split(" ")


def _last(rank: np.ndarray, size: int) -> float:
    """The size-th smallest rank; NaN where there are not so many."""
    return float(np.partition(rank, size - 1)[size - 1]) if len(rank) > size else math.nan


def _first(rank: np.ndarray, size: int, of: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Places of the smallest ranks, NaN left out, in no order.

    Ties go to the smaller uid, then the first row.

    Args:
        rank: [K] of the rows.
        size: How many.
        of: [N] UID of all rows of the block, and [K] rows of the block.
    """
    uids, rows = of
    last = _last(rank, size)
    # Sorting is for those few that can be among them.
    places = np.flatnonzero(~np.isnan(rank) if np.isnan(last) else rank <= last)
    own = uids[rows[places]]
    order = np.lexsort((own["f1"], own["f0"], rank[places]))
    return places[order[:size]]
