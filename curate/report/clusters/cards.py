"""Cards of clusters: who is typical of one and who is not, its words, and what held its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.clusters.quota_marks import Mark, Reader, mark_of
from curate.report.facts import Facts, stops
from curate.report.samples import describe
from curate.report.words import Draw, commonest, count, nothing_drawn
from curate.runner import Runner, fold
from filters import column

SHOWN = 4  # central samples of a card, and outlying ones
WORDS = 10  # of a card
CAPTIONS = 500  # of a cluster whose words are counted
MEASURES = {"distance": 1, "margin": -1}  # fields by which a sample is central: 1 if the lowest is


@dataclass(frozen=True)
class Clustering:
    """A step that says which cluster a sample is in."""

    index: int  # of the step
    step: str
    field: str | None  # of `MEASURES`: how typical a sample is; None where nothing says it
    readers: tuple[Reader, ...]  # filters that keep so many of each cluster

    @property
    def measure(self) -> str | None:
        """The column of `field`."""
        return f"{self.step}.{self.field}" if self.field is not None else None


@dataclass(frozen=True)
class Chosen:
    """A cluster that is shown."""

    place: int  # of its clustering
    cluster: int
    size: int
    kept: int
    chosen: tuple[str, ...]


def read(plan: Compiled, clustering: Clustering, fields: Sequence[str], span: Span) -> pl.DataFrame:
    """Some fields of a clustering, [len(span)] each, under their own names."""
    names = [f"{clustering.step}.{field}" for field in fields]
    frame = columns.load(plan.work, plan.registries[clustering.index + 1], names, span)
    return frame.select(column(name).alias(f) for name, f in zip(names, fields, strict=True))


_CANDIDATE: dict[str, Any] = {
    "card": pl.Int64,
    "side": pl.Int64,  # 0 central, 1 outlying
    "rank": pl.Float64,  # the smallest are shown
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
}
_ORDER = ("card", "side", "rank", "f0", "f1", "block", "row")


@dataclass(frozen=True, eq=False)
class _Seen:
    """What some blocks have of the clusters that are shown."""

    samples: pl.DataFrame  # _CANDIDATE
    captions: pl.DataFrame  # of Draw
    reached: np.ndarray  # [cards, readers] int64: samples that reached each reader


def cards_of(
    facts: Facts, found: Sequence[Clustering], cards: Sequence[Chosen], runner: Runner
) -> list[dict[str, Any]]:
    """What a report says of each card."""
    if not cards:
        return []
    draw = Draw(facts.plan.config.seed, CAPTIONS)
    look = partial(_look, facts.plan, facts.after, found, (cards, draw))
    seen = fold(runner.map(look, facts.spans(), "report"), partial(_both, draw))
    assert seen is not None  # a cluster has a sample, which is in a block
    central, outlying = _shown(facts, found, cards, seen.samples, runner)
    counts, captions = count(seen.captions)
    words = commonest(counts, WORDS)
    marks = _marks(facts, found, cards, seen.reached)
    return [
        {
            "cluster": card.cluster,
            "size": card.size,
            "kept": card.kept,
            "chosen": list(card.chosen),
            "mark": marks[number].mark,
            "mark_by": marks[number].step,
            "central": central.get(number, []),
            "outlying": outlying.get(number, []),
            "words": [{"word": word, "captions": n} for word, n in words.get(number, [])],
            "captions": captions.get(number, 0),
        }
        for number, card in enumerate(cards)
    ]


def _look(
    plan: Compiled,
    after: str,
    found: Sequence[Clustering],
    wanted: tuple[Sequence[Chosen], Draw],
    span: Span,
) -> _Seen:
    """The candidates, captions and counts of a block."""
    cards, draw = wanted
    stopped = stops(plan, fates.read(plan.work, after, span))
    uids = columns.uids(plan.work, span)
    texts = None
    if "caption" in plan.registries[-1]:
        texts = columns.load(plan.work, plan.registries[-1], ["caption"], span)["caption"]
    samples, drawn = [pl.DataFrame(schema=_CANDIDATE)], [nothing_drawn()]
    reached = np.zeros((len(cards), max(len(one.readers) for one in found)), dtype=np.int64)
    for place, clustering in enumerate(found):
        own = np.array([n for n, card in enumerate(cards) if card.place == place], dtype=np.int64)
        if not len(own):
            continue
        fields = ["cluster", *([clustering.field] if clustering.field else [])]
        frame = read(plan, clustering, fields, span)
        numbers = np.array([cards[n].cluster for n in own.tolist()])
        group = _group(frame["cluster"], numbers, own)
        group[stopped < clustering.index] = -1
        for reader_number, reader in enumerate(clustering.readers):
            came = group[(group >= 0) & (stopped >= reader.index)]
            reached[:, reader_number] += np.bincount(came, minlength=len(cards))
        if clustering.field is not None:
            rank = frame[clustering.field].cast(pl.Float64).fill_null(np.nan).to_numpy()
            samples.append(_candidates(group, rank * MEASURES[clustering.field], uids, span))
        if texts is not None:
            drawn.append(draw.of(group, uids, texts))
    return _Seen(pl.concat(samples), pl.concat(drawn), reached)


def _group(cluster: pl.Series, numbers: np.ndarray, cards: np.ndarray) -> np.ndarray:
    """[N] int64: the card of each sample's cluster; -1 where it has none.

    Args:
        cluster: [N] number of a cluster, or null.
        numbers: [C] clusters that have cards.
        cards: [C] those.
    """
    own = cluster.cast(pl.Int64).fill_null(-1).to_numpy()
    order = np.argsort(numbers)
    place = np.searchsorted(numbers[order], own).clip(max=len(numbers) - 1)
    return np.where(numbers[order][place] == own, cards[order][place], -1)


def _candidates(group: np.ndarray, rank: np.ndarray, uids: np.ndarray, span: Span) -> pl.DataFrame:
    """The first SHOWN of each card on each side, in a block.

    Args:
        group: [N] card, or -1.
        rank: [N] the lower, the more central; NaN where it is not known.
        uids: [N] UID.
        span: The block.
    """
    rows = np.flatnonzero((group >= 0) & ~np.isnan(rank))
    rows = rows[np.argsort(group[rows], kind="stable")]
    cards, starts = np.unique(group[rows], return_index=True)
    found = []
    for card, own in zip(cards.tolist(), np.split(rows, starts[1:]), strict=False):
        for side, sign in enumerate((1.0, -1.0)):
            value = rank[own] * sign
            last = min(SHOWN, len(own)) - 1
            near = own[value <= np.partition(value, last)[last]]
            frame = {
                "card": np.full(len(near), card),
                "side": np.full(len(near), side),
                "rank": rank[near] * sign,
                "f0": uids["f0"][near],
                "f1": uids["f1"][near],
                "block": np.full(len(near), span.block, dtype=np.uint32),
                "row": (near + span.start).astype(np.uint32),
            }
            found.append(_first(pl.DataFrame(frame, schema=_CANDIDATE)))
    return pl.concat([pl.DataFrame(schema=_CANDIDATE), *found])


def _first(candidates: pl.DataFrame) -> pl.DataFrame:
    groups = candidates.sort(_ORDER).group_by("card", "side", maintain_order=True)
    return groups.head(SHOWN).select(list(_CANDIDATE))


def _both(draw: Draw, left: _Seen, right: _Seen) -> _Seen:
    return _Seen(
        _first(pl.concat([left.samples, right.samples])),
        draw.merge(left.captions, right.captions),
        left.reached + right.reached,
    )


def _shown(
    facts: Facts,
    found: Sequence[Clustering],
    cards: Sequence[Chosen],
    samples: pl.DataFrame,
    runner: Runner,
) -> tuple[dict[int, list[dict[str, Any]]], dict[int, list[dict[str, Any]]]]:
    """({card: its central samples}, {card: its outlying ones}); nobody is both."""
    # Registry i is what step i can read: what it gives itself is in the next one.
    indices = [found[card.place].index + 1 for card in cards]
    names = {c.index + 1: (c.measure,) if c.measure else () for c in found}
    wanted = samples.sort(_ORDER).unique(
        ["card", "block", "row"], keep="first", maintain_order=True
    )
    index = pl.Series("index", indices, dtype=pl.Int64).gather(wanted["card"])
    told = describe(facts, wanted.select(index, "block", "row"), names, runner)
    sides: tuple[dict[int, list[dict[str, Any]]], ...] = ({}, {})
    for card, side, block, row in wanted.select("card", "side", "block", "row").iter_rows():
        measure = found[cards[card].place].measure
        sample = told[indices[card], block, row]
        own = {name: value for name, value in sample["values"].items() if name == measure}
        sides[side].setdefault(card, []).append({**sample, "values": own})
    return sides[0], sides[1]


def _marks(
    facts: Facts, found: Sequence[Clustering], cards: Sequence[Chosen], reached: np.ndarray
) -> list[Mark]:
    marks = []
    for number, card in enumerate(cards):
        readers = found[card.place].readers
        sizes = zip(readers, reached[number, : len(readers)].tolist(), strict=True)
        marks.append(mark_of(facts, sizes, card.cluster, (card.size, card.kept)))
    return marks
