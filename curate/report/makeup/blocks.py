"""One block of the pool, as those parts of a report read it that count who is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from curate import fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.facts import Facts, stops
from curate.report.makeup.columns import Looked, Numbers, Past, Words, host_parts

Runs = tuple[tuple[str, int, int], ...]  # (source, first row of the block, one past its last)
Job = tuple[Span, Runs]
_AT_ONCE = 131_072  # texts that are looked through at once
_ODD = r"^$|^\s|\s$|\s\s|[^\S ]"  # a text whose words are not parted by one blank each


def jobs(facts: Facts) -> Iterator[Job]:
    """Every block, and which of its rows are of which source."""
    table = facts.pool.table.filter(pl.col("rows") > 0).sort("block", "offset")
    parts = {key[0]: part for key, part in table.group_by(["block"], maintain_order=True)}
    for span in facts.spans():
        part = parts[span.block].with_columns(run=pl.col("source").rle_id())
        runs = part.group_by("run", maintain_order=True).agg(
            pl.col("source").first(),
            pl.col("offset").min(),
            stop=(pl.col("offset") + pl.col("rows")).max(),
        )
        yield span, tuple(runs.select("source", "offset", "stop").iter_rows())


def sources_of(runs: Runs) -> pl.Series:
    """[N] source of each row of a block."""
    names = pl.Series([name for name, _, _ in runs], dtype=pl.String)
    lengths = [stop - start for _, start, stop in runs]
    return names.gather(np.repeat(np.arange(len(names)), lengths))


class Block:
    """One block under a look; what is read of it is read once."""

    def __init__(self, plan: Compiled, after: str, looked: Looked, job: Job) -> None:
        self.span, self.runs = job
        self.plan, self.looked = plan, looked
        self.stopped = stops(plan, fates.read(plan.work, after, self.span))
        self._past: dict[int, Past] = {}

    def past(self, after: int) -> Past:
        """Who got past a place."""
        if after not in self._past:
            self._past[after] = self.looked.past(self.stopped, after)
        return self._past[after]

    def texts(self, one: Words) -> tuple[pl.Series, np.ndarray]:
        """(values, levels) of who got past where a column begins."""
        past = self.past(one.after)
        known = one.of
        values = known.load(self.plan, self.span)[0] if known else sources_of(self.runs)
        if one.reads == "hosts":
            values = host_parts(values)
        return past.of(values), past.level

    def numbers(self, one: Numbers) -> np.ndarray:
        """[rows of the block] float64 of a column; NaN where there is none."""
        return measured(one, one.of.load(self.plan, self.span))


def measured(one: Numbers, given: list[pl.Series]) -> np.ndarray:
    """[N] float64 of a number, from its [N] columns; NaN where a row has none."""
    frame = pl.DataFrame([values.alias(str(place)) for place, values in enumerate(given)])
    first, last = pl.col("0"), pl.col(str(len(given) - 1))
    if one.measures == "characters":
        said = first.cast(pl.String).str.len_chars()
    elif one.measures == "words":
        return word_counts(given[0]).cast(pl.Float64).to_numpy()
    elif one.measures in ("smaller_side", "aspect_ratio"):
        sides = [side.cast(pl.Float64, strict=False) for side in (first, last)]
        low, high = pl.min_horizontal(sides), pl.max_horizontal(sides)
        known = pl.when((sides[0] > 0) & (sides[1] > 0))
        said = known.then(low if one.measures == "smaller_side" else high / low)
    else:
        said = first
    values = frame.select(said.cast(pl.Float64, strict=False)).to_series()
    return values.to_numpy()


def word_counts(texts: pl.Series) -> pl.Series:
    r"""[N] how many words, parted by Unicode white space (`\s`), each text has; null where null."""
    pieces = texts.cast(pl.String).to_frame("text").iter_slices(_AT_ONCE)
    none = pl.Series("text", [], dtype=pl.UInt32)
    return pl.concat([none, *(_words_of(piece.to_series()) for piece in pieces)])


def _words_of(texts: pl.Series) -> pl.Series:
    """As above. Nearly all texts have one blank between two words: counting those is faster."""
    counts = pl.Series("text", (_blanks(texts) + 1).astype(np.uint32)).set(texts.is_null(), None)
    odd = texts.str.contains(_ODD).fill_null(value=False).arg_true()
    return counts.scatter(odd, texts.gather(odd).str.count_matches(r"\S+"))


def _blanks(texts: pl.Series) -> np.ndarray:
    """[N] bytes of each text that are a blank; any number where a text is empty, or null."""
    held: Any = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, body = held.buffers()
    ends = np.frombuffer(offsets, np.int64)[held.offset : held.offset + len(held) + 1]
    blank = np.zeros(ends[-1] - ends[0] + 1, dtype=np.uint8)  # one more: the last may be empty
    if body is not None:
        np.equal(
            np.frombuffer(body, np.uint8)[ends[0] : ends[-1]], ord(" "), out=blank[:-1].view(bool)
        )
    return np.add.reduceat(blank, ends[:-1] - ends[0], dtype=np.int32)
