"""Clusters in a report: how large all of them are, what is left, and which have cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.features import Feature, FittedFeature
from curate.fitted import fit_record
from curate.report.clusters.cards import MEASURES, Chosen, Clustering, cards_of, read
from curate.report.clusters.quota_marks import readers_of
from curate.report.facts import Facts, stops
from curate.runner import Runner, fold

LARGEST = 12  # cards of the largest clusters
EXTREME = 6  # cards of those that kept the least, and the most
LEAST = 20  # samples of a cluster whose kept share says something
RANKS = 200  # of a curve


def clusters(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """Each step that gives clusters: the sizes of all, and cards of a few.

    All is of samples that reached the step: one that the probe looked at, but that was removed
    before, is in no cluster here.
    """
    found = list(_clusterings(facts))
    if not found:
        return []
    work = partial(_count, facts.plan, facts.after, found)
    counts = fold(runner.map(work, facts.spans(), "report"), _added)
    if counts is None:
        counts = pl.DataFrame(schema=_COUNT)
    each = [counts.filter(pl.col("place") == place) for place in range(len(found))]
    cards = [card for place, own in enumerate(each) for card in _choose(place, own)]
    told = cards_of(facts, found, cards, runner)
    return [
        {
            **_sizes(facts, clustering, own),
            "cards": [one for card, one in zip(cards, told, strict=True) if card.place == place],
        }
        for place, (clustering, own) in enumerate(zip(found, each, strict=True))
    ]


def _clusterings(facts: Facts) -> Iterator[Clustering]:
    for index, step in enumerate(facts.plan.steps):
        if not isinstance(step, Feature) or step.name in facts.not_reached:
            continue
        fields = {field.name: field.dtype for field in step.gives()}
        if fields.get("cluster") == "uint32":
            field = next((name for name in MEASURES if name in fields), None)
            readers = tuple(readers_of(facts, f"{step.name}.cluster"))
            yield Clustering(index, step.name, field, readers)


_COUNT: dict[str, Any] = {
    "place": pl.Int64,  # of a clustering
    "cluster": pl.Int64,  # null for samples that are in none
    "size": pl.Int64,
    "kept": pl.Int64,
}


def _added(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    both = pl.concat([left, right]).group_by("place", "cluster")
    return both.agg(pl.col("size", "kept").sum())


def _count(
    plan: Compiled, after: str, clusterings: Sequence[Clustering], span: Span
) -> pl.DataFrame:
    """Samples of a block by cluster, of those that reached each step."""
    stopped = stops(plan, fates.read(plan.work, after, span))
    frames = [pl.DataFrame(schema=_COUNT)]
    for place, clustering in enumerate(clusterings):
        rows = np.flatnonzero(stopped >= clustering.index)
        number = read(plan, clustering, ["cluster"], span)["cluster"].gather(pl.Series(rows))
        kept = pl.Series("kept", stopped[rows] == len(plan.steps))
        counted = pl.DataFrame([number, kept]).group_by("cluster")
        found = counted.agg(pl.len().alias("size"), pl.col("kept").sum())
        own = found.with_columns(place=pl.lit(place)).select(list(_COUNT))
        frames.append(own.cast(pl.Schema(_COUNT)))
    return pl.concat(frames)


def _choose(place: int, counts: pl.DataFrame) -> list[Chosen]:
    """The largest, and those of the lowest and highest kept shares; ties by number."""
    known = counts.drop_nulls("cluster").with_columns(share=pl.col("kept") / pl.col("size"))
    some = known.filter(pl.col("size") >= LEAST)
    least = some.sort("share", "cluster").head(EXTREME)
    most = some.sort("share", "cluster", descending=[True, False]).head(EXTREME)
    if some["share"].n_unique() < 2:  # there is no least
        least, most = least.clear(), most.clear()
    largest = known.sort("size", "cluster", descending=[True, False]).head(LARGEST)
    reasons: dict[int, tuple[str, ...]] = {}
    for reason, own in (("largest", largest), ("kept_least", least), ("kept_most", most)):
        for cluster in own["cluster"].to_list():
            reasons[cluster] = (*reasons.get(cluster, ()), reason)
    wanted = known.filter(pl.col("cluster").is_in(list(reasons)))
    rows = wanted.sort("size", "cluster", descending=[True, False])
    return [
        Chosen(place, cluster, size, kept, reasons[cluster])
        for cluster, size, kept in rows.select("cluster", "size", "kept").iter_rows()
    ]


def _sizes(facts: Facts, clustering: Clustering, counts: pl.DataFrame) -> dict[str, Any]:
    """What is told of all clusters of a step."""
    known = counts.drop_nulls("cluster").sort("size", "cluster", descending=[True, False])
    made = _made(facts, clustering)
    ranks = ranks_of(known.height)
    at = known[ranks - 1]
    some = known.filter(pl.col("size") >= LEAST)
    # Whole numbers, for a share of 0.3 belongs to the fourth tenth.
    tenths = (10 * some["kept"] // some["size"]).clip(0, 9).to_numpy()
    return {
        "step": clustering.step,
        "measure": clustering.measure,
        "samples": int(counts["size"].sum()),
        "without": int(counts.filter(pl.col("cluster").is_null())["size"].sum()),
        "clusters": made if made is not None else known.height,
        "empty": made - known.height if made is not None else None,
        "ranks": ranks.tolist(),
        "sizes": at["size"].to_list(),
        "kept": at["kept"].to_list(),
        "kept_shares": np.bincount(tenths, minlength=10).tolist(),
    }


def _made(facts: Facts, clustering: Clustering) -> int | None:
    """How many clusters the step made, the empty ones too, where it tells."""
    if not isinstance(facts.plan.steps[clustering.index], FittedFeature):
        return None
    made = fit_record(facts.plan.work, clustering.step)["notes"].get("clusters")
    return made if isinstance(made, int) else None


def ranks_of(count_: int) -> np.ndarray:
    """[R] ranks, from 1: all up to RANKS, or so many at evenly spaced logarithms."""
    if count_ <= RANKS:
        return np.arange(1, count_ + 1)
    return np.unique(np.rint(np.geomspace(1, count_, RANKS)).astype(np.int64))
