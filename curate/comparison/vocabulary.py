"""Words of captions, and entries of a list of concepts, that are commoner on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate.comparison.blocks import Block
from curate.comparison.effects import Counted, difference_of_shares, log_odds, quantile
from curate.comparison.sides import LETTERS, Letter
from curate.features.concepts import Concepts
from curate.report.concepts.counts import Track
from curate.report.words import Draw, count, nothing_drawn

CAPTIONS = 200_000  # of each side that are read, by uid hash
LEAST = 5  # captions of both sides together that a word must have to be compared
LISTED = 30  # words of each side

Json = dict[str, Any]


@dataclass(frozen=True)
class Contrast:
    """Who is compared: each side's own, or, where one has none of its own, all that it kept."""

    only: tuple[bool, bool]  # of A and of B: whether those alone that the other did not keep

    @property
    def groups(self) -> list[str]:
        """As the schema names them."""
        return [
            f"{'only' if only else 'kept'}_{letter}"
            for only, letter in zip(self.only, LETTERS, strict=True)
        ]

    def rows(self, block: Block, letter: Letter) -> np.ndarray:
        """[N] bool: the rows of a block that stand for a side."""
        chosen = block.members.only if self.only[LETTERS.index(letter)] else block.members.kept
        return chosen[letter]


def contrast(only: Mapping[Letter, int]) -> Contrast | None:
    """Who is compared, by how many rows each side has of its own; None where neither has any."""
    found = (only["a"] > 0, only["b"] > 0)
    return Contrast(found) if any(found) else None


@dataclass(frozen=True)
class Words:
    """Draws captions of both sides."""

    contrast: Contrast
    most: int = CAPTIONS

    def look(self, block: Block) -> pl.DataFrame:
        found = nothing_drawn()
        for number, letter in enumerate(LETTERS):
            if letter in block.view.of:
                groups = np.where(self.contrast.rows(block, letter), number, -1)
                own = self._draw.of(groups, block.uids, block.captions)
                found = self._draw.merge(found, own)
        return found

    def merge(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        return self._draw.merge(left, right)

    def nothing(self) -> pl.DataFrame:
        return nothing_drawn()

    @property
    def _draw(self) -> Draw:
        return Draw(0, self.most)


def words_of(drawn: pl.DataFrame, chosen: Contrast, rows: tuple[int, int], listed: int) -> Json:
    """The section of words.

    Args:
        drawn: What `Words` drew.
        chosen: Who is compared.
        rows: How many those are, of each side.
        listed: How many words of each side are said.
    """
    counts, captions = count(drawn)
    table = counts.pivot(on="group", index="word", values="captions").fill_null(0).sort("word")
    sides = [
        table[str(n)].to_numpy() if str(n) in table.columns else np.zeros(table.height, np.int64)
        for n in range(2)
    ]
    of = (captions.get(0, 0), captions.get(1, 0))
    found = _leaning(table["word"], Counted(sides[0], sides[1], *of), listed)
    return {"step": None, "groups": chosen.groups, "captions": list(of), "of": list(rows), **found}


@dataclass(frozen=True)
class Entries:
    """Counts the entries of a `concepts` step on both sides."""

    step: str
    size: int  # of the list
    contrast: Contrast

    def look(self, block: Block) -> dict[Letter, tuple[np.ndarray, int, int]]:
        """{side: ([E] samples that have each entry, samples looked at, samples)}."""
        matched = Track(self.step, ()).matched(block.view.plan, block.span)
        found = {}
        for letter in block.view.of:
            rows = self.contrast.rows(block, letter)
            own = matched.ids[np.repeat(rows, matched.lengths)]
            counts = np.bincount(own, minlength=self.size)
            found[letter] = counts, int((rows & matched.scored).sum()), int(rows.sum())
        return found

    def merge(self, left: dict[Letter, Any], right: dict[Letter, Any]) -> dict[Letter, Any]:
        found = dict(left)
        for letter, parts in right.items():
            there = found.get(letter)
            found[letter] = (
                parts if there is None else tuple(x + y for x, y in zip(there, parts, strict=True))
            )
        return found

    def nothing(self) -> dict[Letter, Any]:
        return {}


def entries_of(
    found: Mapping[Letter, tuple[np.ndarray, int, int]],
    look: Entries,
    texts: Sequence[str],
    listed: int,
) -> Json | None:
    """The section of a list of concepts; None where one side has none to be read."""
    if len(found) < 2:
        return None
    a, b = (found[letter] for letter in LETTERS)
    if not a[1] or not b[1]:
        return None
    counted = Counted(a[0], b[0], a[1], b[1])
    return {
        "step": look.step,
        "groups": look.contrast.groups,
        "captions": [a[1], b[1]],
        "of": [a[2], b[2]],
        **_leaning(pl.Series("word", texts, dtype=pl.String), counted, listed),
    }


def lists_of(steps: Sequence[Any], recipes: Mapping[str, Json]) -> dict[str, Json]:
    """{step: its list, by content} of the `concepts` steps of a run."""
    return {
        step.name: recipes[step.name]["entries"] for step in steps if isinstance(step, Concepts)
    }


def _leaning(words: pl.Series, counted: Counted, listed: int) -> Json:
    """The words whose interval lies on either side of 0, those farthest from it first."""
    enough = np.flatnonzero(counted.a + counted.b >= LEAST)
    if not counted.of_a or not counted.of_b:
        enough = enough[:0]
    compared = Counted(counted.a[enough], counted.b[enough], counted.of_a, counted.of_b)
    own = words.gather(enough)
    return {
        "compared": len(enough),
        "least": LEAST,
        "prior": counted.prior,
        "more_in_a": _leans(own, compared, 1, listed),
        "more_in_b": _leans(own, compared, -1, listed),
    }


def _leans(words: pl.Series, counted: Counted, sign: int, listed: int) -> list[Json]:
    """Those of W words that are commoner in A (sign 1), or in B (-1)."""
    if not len(words):
        return []
    odds, shares = log_odds(counted), difference_of_shares(counted)
    reach, widest = (quantile(n) * odds.error for n in (1, len(words)))
    sure = odds.sure(len(words))
    intervals = odds.ratio, odds.ratio - reach, odds.ratio + reach
    there = np.flatnonzero(sign * odds.ratio > reach)
    # Rare words have wide intervals: what is left once all of those hold together decides.
    first = _first((sign * odds.ratio - widest)[there], words.gather(there), listed)
    return [
        {
            "word": words[place],
            "a": int(counted.a[place]),
            "b": int(counted.b[place]),
            "log_odds": _interval(*intervals, place),
            "z": float(odds.z[place]),
            "difference": _interval(*shares, place),
            "sure": bool(sure[place]),
        }
        for place in there[first].tolist()
    ]


def _first(bound: np.ndarray, words: pl.Series, most: int) -> list[int]:
    """Places of the `most` largest of some bounds, ties by word."""
    frame = pl.DataFrame({"bound": bound, "word": words}).with_row_index("place")
    return frame.sort("bound", "word", descending=[True, False])["place"].head(most).to_list()


def _interval(value: np.ndarray, low: np.ndarray, high: np.ndarray, place: int) -> Json:
    return {"value": float(value[place]), "low": float(low[place]), "high": float(high[place])}
