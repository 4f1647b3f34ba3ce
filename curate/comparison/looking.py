"""Two passes over the rows of both sides: what is there, then what rests on how much of it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from curate.comparison import distributions, shares, vocabulary
from curate.comparison.blocks import Look, look_at
from curate.comparison.elsewhere import Tallies, Tally
from curate.comparison.galleries import Candidates
from curate.comparison.measures import Measures
from curate.comparison.sides import LETTERS, Pair
from curate.report.frequent import Tally as Values
from curate.runner import Runner

Edges = tuple[distributions.Scale, tuple[float, ...]]


@dataclass(frozen=True)
class First:
    """What the first pass finds."""

    tally: Tally
    candidates: pl.DataFrame
    sums: dict[distributions.Key, distributions.Parts]
    values: list[Values]  # of each column of words


@dataclass(frozen=True)
class Second:
    """What the second pass finds."""

    edges: dict[distributions.Number, Edges]  # of those that have a value
    bins: dict[distributions.Key, Any]
    values: list[Values]
    again: shares.Named
    named: list[pl.DataFrame]
    lengths: dict[distributions.Key, Any]
    contrast: vocabulary.Contrast | None
    drawn: pl.DataFrame | None  # captions whose words are counted
    lists: list[vocabulary.Entries]
    entries: list[Any]  # of each list


def first_look(pair: Pair, own: Measures, scratch: str, runner: Runner) -> First:
    """Who is where, sums and ranges of numbers, counts of values."""
    looks: list[Look] = [
        Tallies(scratch, pair.pool),
        Candidates(),
        distributions.Summed(own.numbers),
        shares.Tallied(own.words),
    ]
    return First(*look_at(pair, looks, runner))


def second_look(pair: Pair, own: Measures, first: First, runner: Runner) -> Second:
    """Histograms on common edges, captions, entries, and values that were too many to hold."""
    made = {one: distributions.edges_of(first.sums, one.name) for one in own.numbers}
    edges = {one: found for one, found in made.items() if found is not None}
    values, again = shares.second_look(own.words, first.values)
    contrast = vocabulary.contrast(first.tally.only)
    lists = [] if contrast is None else list(_entries(pair, contrast))
    lengths: list[Look] = [distributions.Lengths()] if own.captions else []
    words: list[Look] = []
    if own.captions and contrast is not None:
        words = [vocabulary.Words(contrast)]
    histograms = distributions.Drawn(tuple((one, found[1]) for one, found in edges.items()))
    looks: list[Look] = [histograms, again, *lengths, *words, *lists]
    bins, named, *rest = look_at(pair, looks, runner)
    return Second(
        edges,
        bins,
        values,
        again,
        named,
        rest.pop(0) if lengths else {},
        contrast,
        rest.pop(0) if words else None,
        lists,
        rest,
    )


def _entries(pair: Pair, contrast: vocabulary.Contrast) -> Iterator[vocabulary.Entries]:
    """A look at each `concepts` step that both runs have with the same list."""
    lists = []
    for letter in LETTERS:
        facts = pair.read_by(letter)
        if facts is None:
            return
        lists.append(vocabulary.lists_of(facts.plan.steps, facts.plan.recipes))
    for step, entries in lists[0].items():
        if lists[1].get(step) == entries:
            yield vocabulary.Entries(step, entries["count"], contrast)
