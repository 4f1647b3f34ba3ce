"""The most frequent values of a column of text: exact over all blocks, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from curate.siphash import hashed

MOST = 1 << 20  # different values that are held by name; of more, the buckets of their hashes
MOST_BYTES = 1 << 26  # of all those values together
BUCKETS = 1 << 20
FULLEST = 256  # buckets whose values are counted by name, on either side
LONGEST = 200  # characters of a value; what is behind them is not looked at
SHOWN = 20  # most frequent values, on either side
_AT_ONCE = 65_536  # texts that are hashed at once: as objects of Python they are large
_KEY = "curate/frequent."  # of the hash, 16 characters
_COUNTS = {"value": pl.String, "level": pl.UInt16, "rows": pl.Int64}

Clean = Callable[[pl.Series], pl.Series]  # [N] texts -> [N] the values that they stand for


@dataclass(frozen=True)
class Levels:
    """What rows are counted by besides their value: a number from 0 to `count` - 1."""

    count: int
    split: int  # rows of this level and above are the second side, beside all rows


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each value occurs at each level, in some rows.

    By name up to MOST values of MOST_BYTES, else by bucket. Which of both depends on the rows
    alone, not on how they were split: a part never has more values than the whole.
    """

    levels: Levels
    totals: np.ndarray  # [levels] int64: rows
    frames: tuple[pl.DataFrame, ...]  # (value, level, rows); a pair may occur in several
    buckets: np.ndarray | None = None  # [BUCKETS, 2] int64: rows on either side

    def plus(self, other: Tally) -> Tally:
        """Both in one, in any order."""
        totals = self.totals + other.totals
        if self.buckets is not None or other.buckets is not None:
            both = _buckets(self) + _buckets(other)
            return Tally(self.levels, totals, (), both)
        both_frames = Tally(self.levels, totals, (*self.frames, *other.frames))
        rows = sum(frame.height for frame in both_frames.frames)
        size = sum(_bytes(frame["value"]) for frame in both_frames.frames)
        many = rows > 2 * MOST or size > 2 * MOST_BYTES
        return both_frames.settled() if many else both_frames

    def settled(self) -> Tally:
        """The same with each pair once, or in buckets where there are too many values."""
        if self.buckets is not None:
            return self
        frame = _added(self.frames)
        if _too_many(frame["value"]):
            return Tally(self.levels, self.totals, (), _buckets(replace(self, frames=(frame,))))
        return replace(self, frames=(frame,))


def tally(
    values: pl.Series, level: np.ndarray, levels: Levels, clean: Clean | None = None
) -> Tally:
    """What some rows add.

    Args:
        values: [N] texts, null where a row has none.
        level: [N] integers: the level of each row.
        levels: How many levels there are.
        clean: Makes values of the distinct texts; absent: they are the values.
    """
    totals = np.bincount(level, minlength=levels.count)
    frame = _counted(values, level, clean)
    return Tally(levels, totals, (frame,)).settled()


def fullest(found: Tally) -> np.ndarray:
    """[BUCKETS] bool: those that are among the FULLEST of either side; the first ones of a tie."""
    assert found.buckets is not None, "its values are known by name"
    chosen = np.zeros(BUCKETS, dtype=bool)
    for side in found.buckets.T:
        chosen[np.argsort(-side, kind="stable")[:FULLEST]] = True
    return chosen


def named(
    values: pl.Series, level: np.ndarray, chosen: np.ndarray, clean: Clean | None = None
) -> pl.DataFrame:
    """(value, level, rows) of those values of some rows that lie in chosen buckets, and of null."""
    frame = _counted(values, level, clean)
    known = frame.filter(pl.col("value").is_not_null())
    inside = known.filter(pl.Series(chosen[_bucket(known["value"])], dtype=pl.Boolean))
    return pl.concat([inside, frame.filter(pl.col("value").is_null())])


def merge_named(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Both in one, in any order."""
    return _added((left, right))


@dataclass(frozen=True)
class Frequent:
    """The most frequent values on either side, the most frequent of all rows first."""

    values: list[tuple[str | None, list[int]]]  # (value, rows at each level); null comes last
    totals: list[int]  # rows at each level, of all values
    distinct: int | None  # different values; None above MOST, or MOST_BYTES
    exact: bool  # whether no value left out can be more frequent than the last one of its side


def frequent(found: Tally, counted: pl.DataFrame | None = None) -> Frequent:
    """The SHOWN most frequent values of either side; ties go to the smaller text.

    Args:
        found: Of all rows, settled.
        counted: What `named` found in all rows, where `found` has buckets.
    """
    frame = found.frames[0] if found.buckets is None else counted
    assert frame is not None, "a column of many values is looked at twice"
    second = pl.col("rows").filter(pl.col("level") >= found.levels.split).sum()
    sides = (
        frame.filter(pl.col("value").is_not_null())
        .group_by("value")
        .agg(pl.col("rows").sum().alias("all"), second.alias("second"))
    )
    best = [
        sides.filter(pl.col(side) > 0).sort([side, "value"], descending=[True, False]).head(SHOWN)
        for side in ("all", "second")
    ]
    shown = pl.concat(best).unique("value").sort(["all", "value"], descending=[True, False])
    values: list[str | None] = shown["value"].to_list()
    if frame["value"].null_count():
        values.append(None)
    return Frequent(
        [(value, _levels(frame, value, found.levels.count)) for value in values],
        found.totals.tolist(),
        sides.height if found.buckets is None else None,
        found.buckets is None or _certain(found, best),
    )


def of_value(found: Tally, value: str | None) -> list[int]:
    """[levels] rows of one value, of few enough to be known by name."""
    assert found.buckets is None, "its values are not known by name"
    return _levels(found.settled().frames[0], value, found.levels.count)


def _levels(frame: pl.DataFrame, value: str | None, count: int) -> list[int]:
    own = frame.filter(pl.col("value").eq_missing(pl.lit(value, dtype=pl.String)))
    rows = np.zeros(count, dtype=np.int64)
    rows[own["level"].to_numpy()] = own["rows"].to_numpy()
    return [int(n) for n in rows]


def _certain(found: Tally, best: list[pl.DataFrame]) -> bool:
    """Whether every bucket that was left out has fewer rows than the last value shown."""
    assert found.buckets is not None
    left = found.buckets[~fullest(found)].max(axis=0)
    for most, side, shown in zip(left.tolist(), ("all", "second"), best, strict=True):
        least = int(shown[side][-1]) if shown.height == SHOWN else 1
        if most >= least:
            return False
    return True


def _bytes(values: pl.Series) -> int:
    return int(values.str.len_bytes().sum())


def _too_many(values: pl.Series) -> bool:
    """Whether there are more values than are held by name, each counted once."""
    if len(values) <= MOST and _bytes(values) <= MOST_BYTES:
        return False
    different = values.drop_nulls().unique()
    return len(different) > MOST or _bytes(different) > MOST_BYTES


def _counted(values: pl.Series, level: np.ndarray, clean: Clean | None) -> pl.DataFrame:
    """(value, level, rows), each pair once."""
    values = values.cast(pl.String, strict=False).alias("value")
    levels = pl.Series("level", level.astype(np.uint16))
    pairs = pl.DataFrame([values, levels])
    frame = pairs.group_by("value", "level").agg(pl.len().cast(pl.Int64).alias("rows"))
    kept = frame["value"]
    if clean is not None:
        kept = clean(kept)
    if len(kept) and (kept.str.len_bytes().max() or 0) > LONGEST:  # type: ignore[operator]
        kept = kept.str.slice(0, LONGEST)
    if kept is frame["value"]:
        return frame
    return _added((frame.with_columns(kept.alias("value")),))


def _added(frames: tuple[pl.DataFrame, ...]) -> pl.DataFrame:
    both = pl.concat(frames) if frames else pl.DataFrame(schema=_COUNTS)
    return both.group_by("value", "level").agg(pl.col("rows").sum())


def _buckets(found: Tally) -> np.ndarray:
    """[BUCKETS, 2] int64: rows of each bucket, on either side; rows without a value are in none."""
    if found.buckets is not None:
        return found.buckets
    counts = np.zeros((BUCKETS, 2), dtype=np.int64)
    for frame in found.frames:
        known = frame.filter(pl.col("value").is_not_null())
        bucket, rows = _bucket(known["value"]), known["rows"].to_numpy()
        second = known["level"].to_numpy() >= found.levels.split
        np.add.at(counts[:, 0], bucket, rows)
        np.add.at(counts[:, 1], bucket[second], rows[second])
    return counts


def _bucket(values: pl.Series) -> np.ndarray:
    pieces = [
        hashed(values[start : start + _AT_ONCE], _KEY) % BUCKETS
        for start in range(0, len(values), _AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *pieces]).astype(np.int64)
