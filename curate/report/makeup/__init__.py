"""Who is in it: pool and subset by what the samples are, and which step changed their shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from curate.compiled import Compiled
from curate.report import frequent
from curate.report.facts import Facts
from curate.report.frequent import Frequent, Tally
from curate.report.makeup import scores
from curate.report.makeup.bins import NOTHING, Binned, Grid, binned, grid_of, trimmed
from curate.report.makeup.blocks import Block, Job, jobs, measured
from curate.report.makeup.columns import POOL, Key, Looked, Numbers, Past, Words, looked_at
from curate.report.makeup.scores import Group
from curate.report.makeup.shifts import Counted, shifts
from curate.runner import Runner, fold

_LANGUAGES = frequent.SHOWN  # of which scores are told
_PARTS = (0, 1, 4, 8, 16, 32, 64, 128, 256, 512)  # characters at which a group of captions begins
Groups = dict[tuple[str, str], dict[int, Group]]  # {(score, by): {number of a value: its scores}}


def makeup(facts: Facts, runner: Runner) -> dict[str, Any]:
    """The section of a report: `schema.Makeup`."""
    looked = looked_at(facts)
    first = partial(_first, facts.plan, facts.after, looked)
    found = fold(runner.map(first, jobs(facts), "report"), _First.plus)
    if found is None:  # a pool without rows
        return {"words": [], "numbers": [], "shifts": [], "scores": []}
    tallies = {name: tally.settled() for name, tally in found.words.items()}
    ask = _Ask(
        {
            name: frequent.fullest(tally)
            for name, tally in tallies.items()
            if tally.buckets is not None
        },
        {name: grid_of(*found.ranges[name], whole=_is_whole(one)) for name, one in _free(looked)},
        {
            one.name: _common(tallies[one.key])
            for one in looked.words
            if one.about == "language" and tallies[one.key].buckets is None
        },
    )
    work = partial(_second, facts.plan, facts.after, looked, ask)
    again = fold(runner.map(work, jobs(facts), "report"), _Second.plus) if ask.any() else None
    return _section(facts, looked, _All(tallies, found, ask, again or _Second()))


@dataclass(frozen=True)
class _First:
    """What the first look at some blocks tells."""

    words: dict[Key, Tally]
    numbers: dict[Key, Binned]  # by name and what it is about
    ranges: dict[str, tuple[float, float]]  # least and greatest finite value
    groups: Groups

    def plus(self, other: _First) -> _First:
        return _First(
            {name: own.plus(other.words[name]) for name, own in self.words.items()},
            {key: own.plus(other.numbers[key]) for key, own in self.numbers.items()},
            {
                name: (min(low, other.ranges[name][0]), max(high, other.ranges[name][1]))
                for name, (low, high) in self.ranges.items()
            },
            _both(self.groups, other.groups),
        )


@dataclass(frozen=True)
class _Ask:
    """What is looked for the second time."""

    buckets: dict[Key, np.ndarray]  # {column of words: buckets that are counted by name}
    grids: dict[str, Grid]  # {column of numbers: its bins}
    languages: dict[str, list[str]]  # {column of languages: the commonest}

    def any(self) -> bool:
        return bool(self.buckets or self.grids or any(self.languages.values()))


@dataclass(frozen=True)
class _Second:
    """What the second look at some blocks tells."""

    words: dict[Key, pl.DataFrame] = field(default_factory=dict)
    numbers: dict[Key, Binned] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)

    def plus(self, other: _Second) -> _Second:
        return _Second(
            {k: frequent.merge_named(own, other.words[k]) for k, own in self.words.items()},
            {k: own.plus(other.numbers[k]) for k, own in self.numbers.items()},
            _both(self.groups, other.groups),
        )


@dataclass(frozen=True)
class _All:
    tallies: dict[Key, Tally]
    first: _First
    ask: _Ask
    second: _Second


def _both(left: Groups, right: Groups) -> Groups:
    return {key: scores.merged(own, right[key]) for key, own in left.items()}


def _is_whole(one: Numbers) -> bool:
    return one.of.columns[0].dtype.startswith(("Int", "UInt"))


def _free(looked: Looked) -> Iterator[tuple[str, Numbers]]:
    return ((one.name, one) for one in looked.numbers if one.grid is None)


def _common(tally: Tally) -> list[str]:
    """The commonest languages, in order; whoever has none is in none."""
    ranked = [(-sum(rows), value) for value, rows in frequent.frequent(tally).values if value]
    return [value for _, value in sorted(ranked)][:_LANGUAGES]


def _first(plan: Compiled, after: str, looked: Looked, job: Job) -> _First:
    block = Block(plan, after, looked, job)
    words = {}
    for one in looked.words:
        texts, level = block.texts(one)
        words[one.key] = frequent.tally(texts, level, looked.levels(one.after), one.clean)
    numbers: dict[Key, Binned] = {}
    ranges: dict[str, tuple[float, float]] = {}
    groups: Groups = {}
    given: dict[tuple[str, ...], list[pl.Series]] = {}
    for number in looked.numbers:
        if number.of.names not in given:  # width and height make two numbers, captions two more
            given = {number.of.names: number.of.load(plan, block.span)}
        values = measured(number, given[number.of.names])
        key = number.key
        grid = number.grid or NOTHING
        if number.grid is None:
            ranges[number.name] = _range(block.past(number.after), values)
        numbers[key] = _binned(block, number, values, grid)
        if number.measures == "characters":
            groups |= _by_length(block, values)
    return _First(words, numbers, ranges, groups)


def _range(past: Past, values: np.ndarray) -> tuple[float, float]:
    own = values if past.rows is None else values[past.rows]
    own = own[np.isfinite(own)] + 0.0
    return float(own.min(initial=np.inf)), float(own.max(initial=-np.inf))


def _binned(block: Block, number: Numbers, values: np.ndarray, grid: Grid) -> Binned:
    past = block.past(number.after)
    own = values if past.rows is None else values[past.rows]
    return binned(own, past.level, grid, block.looked.levels(number.after).count)


def _by_length(block: Block, characters: np.ndarray) -> Groups:
    codes = np.searchsorted(_PARTS, characters, side="right") - 1
    codes[np.isnan(characters)] = -1
    return _grouped(block, "caption_characters", codes, POOL)


def _grouped(block: Block, by: str, codes: np.ndarray, after: int) -> Groups:
    """The scores of a block's rows that have both, by group."""
    kept = block.stopped >= len(block.plan.steps)
    found = {}
    for score in block.looked.scores:
        reached = block.stopped > max(score.after, after)
        own = np.where(reached, codes, -1)
        found[score.name, by] = scores.grouped(block.numbers(score), own, kept)
    return found


def _second(plan: Compiled, after: str, looked: Looked, ask: _Ask, job: Job) -> _Second:
    block = Block(plan, after, looked, job)
    words: dict[Key, pl.DataFrame] = {}
    groups: Groups = {}
    for one in looked.words:
        if one.key in ask.buckets:
            texts, level = block.texts(one)
            words[one.key] = frequent.named(texts, level, ask.buckets[one.key], one.clean)
        if ask.languages.get(one.name) and one.of is not None:
            codes = _codes(one.of.load(plan, block.span)[0], ask.languages[one.name])
            groups |= _grouped(block, one.name, codes, one.after)
    numbers = {
        one.key: _binned(block, one, block.numbers(one), ask.grids[name])
        for name, one in _free(looked)
        if ask.grids[name].bins
    }
    return _Second(words, numbers, groups)


def _codes(values: pl.Series, known: list[str]) -> np.ndarray:
    """[N] place of each value among the known ones; -1 for any other."""
    table = pl.DataFrame({"value": known, "code": np.arange(len(known))})
    texts = values.cast(pl.String, strict=False).str.slice(0, frequent.LONGEST).to_frame("value")
    joined = texts.join(table, on="value", how="left", maintain_order="left")
    return joined["code"].fill_null(-1).to_numpy()


def _section(facts: Facts, looked: Looked, found: _All) -> dict[str, Any]:
    words, numbers, counted = [], [], []
    for one in looked.words:
        said = frequent.frequent(found.tallies[one.key], found.second.words.get(one.key))
        entry = _words(facts, looked, one, said)
        words.append(entry)
        counted.append(
            Counted(entry, [(value["value"], value["reached"]) for value in entry["values"]])
        )
    for number in looked.numbers:
        bins, grid = _bins(number, found)
        entry = _numbers(facts, looked, number, (bins, grid))
        numbers.append(entry)
        counted.append(Counted(entry, _parts(bins, grid)))
    return {
        "words": words,
        "numbers": numbers,
        "shifts": shifts(counted),
        "scores": [*_scores(found)],
    }


def _place(facts: Facts, looked: Looked, after: int) -> dict[str, Any]:
    names = [step.name for step in facts.plan.steps]
    return {
        "since": "pool" if after == POOL else names[after],
        "steps": [names[stage] for stage in looked.stages_after(after)],
    }


def _reached(rows: Any) -> list[int]:
    """[levels] rows at each level -> rows that got past so many stages, or more."""
    return [int(n) for n in np.cumsum(np.asarray(rows, dtype=np.int64)[::-1])[::-1]]


def _words(facts: Facts, looked: Looked, one: Words, said: Frequent) -> dict[str, Any]:
    shown = [(value, rows) for value, rows in said.values]
    rest = np.array(said.totals) - np.sum([rows for _, rows in shown], axis=0, dtype=np.int64)
    return {
        "column": one.name,
        "about": one.about,
        **_place(facts, looked, one.after),
        "distinct": said.distinct,
        "exact": said.exact,
        "values": [{"value": value, "reached": _reached(rows)} for value, rows in shown],
        "rest": _reached(rest if shown else said.totals),
    }


def _bins(number: Numbers, found: _All) -> tuple[Binned, Grid]:
    key = number.key
    grid = number.grid or found.ask.grids[number.name]
    again = number.grid is None and grid.bins
    return trimmed((found.second if again else found.first).numbers[key], grid)


def _numbers(
    facts: Facts, looked: Looked, number: Numbers, found: tuple[Binned, Grid]
) -> dict[str, Any]:
    bins, grid = found
    return {
        "column": number.name,
        "about": number.about,
        "unit": number.unit,
        "scale": grid.scale,
        **_place(facts, looked, number.after),
        "edges": list(grid.edges),
        "reached": [list(rows) for rows in zip(*map(_reached, bins.counts), strict=True)]
        or [[] for _ in bins.missing],
        "missing": _reached(bins.missing),
    }


def _parts(bins: Binned, grid: Grid) -> list[tuple[str | None, list[int]]]:
    """(numbers between two of the coarse edges, rows that reached each stage)."""
    places = [grid.edges.index(edge) for edge in grid.coarse]
    found: list[tuple[str | None, list[int]]] = [
        (grid.said(grid.edges[low], grid.edges[high]), _reached(bins.counts[low:high].sum(axis=0)))
        for low, high in pairwise(places)
    ]
    return [*found, (None, _reached(bins.missing))] if bins.missing.any() else found


def _scores(found: _All) -> Iterator[dict[str, Any]]:
    named = {"caption_characters": _lengths(), **found.ask.languages}
    for (score, by), groups in {**found.first.groups, **found.second.groups}.items():
        told = [
            {
                "value": named[by][code],
                "rows": group.sums.count,
                "kept": group.kept,
                "mean": group.sums.mean(),
                "deviation": group.sums.deviation(),
            }
            for code, group in sorted(groups.items())
        ]
        if told:
            yield {"score": score, "by": by, "groups": told}


def _lengths() -> list[str]:
    """The names of the groups of captions."""
    limits = [(low, high - 1) for low, high in pairwise(_PARTS)]
    names = [f"{low} to {high}" if low < high else f"{low}" for low, high in limits]
    return [*names, f"{_PARTS[-1]} and more"]
