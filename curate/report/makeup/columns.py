"""Which columns tell who is in a pool, and where each of them begins to be known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import columns
from curate.columns import Column, Span
from curate.compiled import Compiled, is_filter
from curate.downloads.download import Download
from curate.features import Feature
from curate.features.language import Language
from curate.features.token_length import TokenLength
from curate.report.facts import Facts, looks
from curate.report.frequent import Clean, Levels
from curate.report.makeup.bins import ASPECTS, LENGTHS, Grid
from filters import column

POOL = -1  # where a column begins that the pool has; else the step that made it
LICENCES = ("license", "licence", "rights")
_AT_ONCE = 131_072  # rows whose URLs are in pieces at once
_SIZES = (("original_width", "original_height"), ("width", "height"))
Measure = Literal["value", "characters", "words", "smaller_side", "aspect_ratio"]
Key = tuple[str, str]  # a column, and what it is about


@dataclass(frozen=True)
class Known:
    """Columns, and since when."""

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    after: int  # index of the step that made the last of them, or POOL

    def load(self, plan: Compiled, span: Span) -> list[pl.Series]:
        """[len(span)] of each."""
        registry = dict(zip(self.names, self.columns, strict=True))
        frame = columns.load(plan.work, registry, self.names, span)
        return [frame.select(column(name)).to_series() for name in self.names]


@dataclass(frozen=True)
class Words:
    """A column whose values are counted one by one."""

    name: str
    about: str
    of: Known | None  # None: the source of each shard
    reads: Literal["values", "hosts"] = "values"

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.name, self.about

    @property
    def after(self) -> int:
        """Where it begins."""
        return POOL if self.of is None else self.of.after

    @property
    def clean(self) -> Clean | None:
        """What makes its values of its texts."""
        return domains if self.reads == "hosts" else None


@dataclass(frozen=True)
class Numbers:
    """A number of each sample whose values are counted by bins."""

    name: str
    about: str
    unit: str
    of: Known
    grid: Grid | None = None  # None: its bins depend on its range
    measures: Measure = "value"

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.name, self.about

    @property
    def after(self) -> int:
        """Where it begins."""
        return self.of.after


@dataclass(frozen=True, eq=False)
class Past:
    """The rows of a block that got past a place."""

    rows: np.ndarray | None  # [K] rows; None: all of them
    level: np.ndarray  # [K] how many of the stages behind the place each got past

    def of(self, values: pl.Series) -> pl.Series:
        """Their [K] values."""
        return values if self.rows is None else values.gather(self.rows)


@dataclass(frozen=True)
class Looked:
    """All that is looked at."""

    words: tuple[Words, ...]
    numbers: tuple[Numbers, ...]
    scores: tuple[Numbers, ...]
    stages: tuple[int, ...]  # indices of the steps that may remove

    def stages_after(self, after: int) -> list[int]:
        """Those behind a place."""
        return [stage for stage in self.stages if stage > after]

    def levels(self, after: int) -> Levels:
        """How many of those a row may get past; the last level is that of the subset."""
        last = len(self.stages_after(after))
        return Levels(last + 1, last)

    def past(self, stopped: np.ndarray, after: int) -> Past:
        """Who of a block got past a place."""
        rows = np.flatnonzero(stopped > after) if (stopped <= after).any() else None
        own = stopped if rows is None else stopped[rows]
        steps = np.arange(stopped.max(initial=0) + 1)
        return Past(rows, np.searchsorted(self.stages_after(after), steps)[own])


def looked_at(facts: Facts) -> Looked:
    """What there is to look at in a run."""
    words = [*_own_words(facts)]
    numbers = [*_sizes(facts), *_lengths(facts)]
    taken = {one.name for one in words if one.reads == "values"}
    for name in dict.fromkeys(facts.plan.config.report.columns):
        known = known_of(facts, name)
        if known is None or name in taken or not countable(known.columns[0].dtype):
            continue
        if _is_number(known):
            numbers.append(Numbers(name, name, "", known))
        else:
            words.append(Words(name, name, known))
    return Looked(tuple(words), tuple(numbers), tuple(_scores(facts)), _stages(facts))


def known_of(facts: Facts, *names: str) -> Known | None:
    """Columns by their names, from the first place that has them; None where nobody made them."""
    made, places = [], []
    for name in names:
        has = (index for index, there in enumerate(facts.plan.registries) if name in there)
        first = next(has, None)
        if first is None or (first > 0 and facts.plan.steps[first - 1].name in facts.not_reached):
            return None
        made.append(facts.plan.registries[first][name])
        places.append(first - 1)
    return Known(names, tuple(made), max(places))


def countable(dtype: str) -> bool:
    """Whether values of a type, as polars prints it, can be counted one by one or by bins."""
    return not dtype.startswith(("List", "Array", "Struct", "Object", "Binary"))


def _stages(facts: Facts) -> tuple[int, ...]:
    """Filters and downloads that were reached, and other steps that lost somebody."""
    removing = set(facts.counts["step"].drop_nulls())
    return tuple(
        index
        for index, step in enumerate(facts.plan.steps)
        if (is_filter(step) or isinstance(step, Download) or step.name in removing)
        and step.name not in facts.not_reached
    )


def _own_words(facts: Facts) -> Iterator[Words]:
    for step in facts.plan.steps:
        if isinstance(step, Language):
            known = known_of(facts, f"{step.name}.code")
            if known is not None:
                yield Words(f"{step.name}.code", "language", known)
    if facts.pool.table["source"].n_unique() > 1:
        yield Words("pool.source", "source", None)
    known = known_of(facts, "url")
    if known is not None:
        yield Words("url", "domain", known, "hosts")
    for name in sorted(facts.plan.registries[0]):
        known = known_of(facts, name)
        if name.lower() in LICENCES and known is not None and countable(known.columns[0].dtype):
            yield Words(name, "licence", known)


def _sizes(facts: Facts) -> Iterator[Numbers]:
    """The original size where it is known, else the one stored, else the one that was measured."""
    measured = [
        (f"{step.name}.width", f"{step.name}.height")
        for step in facts.plan.steps
        if isinstance(step, Feature)
    ]
    for names in (*_SIZES, *measured):
        known = known_of(facts, *names)
        if known is not None:
            name = ", ".join(names)
            yield Numbers(name, "smaller_side", "pixels", known, LENGTHS, "smaller_side")
            ratio = "longer side / shorter side"
            yield Numbers(name, "aspect_ratio", ratio, known, ASPECTS, "aspect_ratio")
            return


def _lengths(facts: Facts) -> Iterator[Numbers]:
    known = known_of(facts, "caption")
    if known is not None:
        yield Numbers("caption", "caption_characters", "characters", known, LENGTHS, "characters")
        yield Numbers("caption", "caption_words", "words", known, LENGTHS, "words")
    for step in facts.plan.steps:
        name = f"{step.name}.tokens"
        known = known_of(facts, name) if isinstance(step, TokenLength) else None
        if known is not None:
            yield Numbers(name, "caption_tokens", "tokens of CLIP", known, LENGTHS)


def _scores(facts: Facts) -> Iterator[Numbers]:
    """The scores that a threshold decides on, and every `similarity` that a step made."""
    names = [
        score
        for look in looks(facts)
        if look.step not in facts.not_reached and look.shown.keeps is not None
        for score in look.shown.scores
    ]
    names += [
        f"{step.name}.{field.name}"
        for step in facts.plan.steps
        if isinstance(step, Feature)
        for field in step.gives()
        if field.name == "similarity"
    ]
    for name in dict.fromkeys(names):
        known = known_of(facts, name)
        if known is not None:
            yield Numbers(name, "score", "", known)


def _is_number(known: Known) -> bool:
    dtype: Any = getattr(pl, known.columns[0].dtype.partition("(")[0], pl.Null)
    return bool(dtype.is_numeric())


def domains(urls: pl.Series) -> pl.Series:
    """[N] host of each URL's host part: lower case, without user, port and `www.`.

    Args:
        urls: What `host_parts` gave.
    """
    name = urls.name
    text = pl.col(name).str.to_lowercase().str.replace(r"[?#\\].*$", "").str.replace(r"^.*@", "")
    text = text.str.replace(r":\d*$", "").str.strip_chars_end(".").str.strip_prefix("www.")
    host = pl.when(text != "").then(text)
    return urls.to_frame().select(host.alias(name)).to_series()


def host_parts(urls: pl.Series) -> pl.Series:
    """[N] what stands between `//` and the next slash of each URL; null where there is no `//`."""
    parts = pl.col("url").str.splitn("/", 4).struct
    found = pl.when(parts.field("field_1") == "").then(parts.field("field_2")).alias("url")
    pieces = urls.cast(pl.String, strict=False).to_frame("url").iter_slices(_AT_ONCE)
    none = pl.Series("url", [], dtype=pl.String)
    return pl.concat([none, *(piece.select(found).to_series() for piece in pieces)])
