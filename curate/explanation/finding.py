"""Rows of a pool that a uid, the beginning of one, a URL or a key names: one look at each block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import columns
from curate.columns import Span
from curate.compiled import Compiled
from curate.errors import ConfigError
from curate.page.texts import brief, visible
from curate.pools import pictures
from curate.pools.whereabouts import names, part_stem
from curate.report.facts import Facts, public
from curate.runner import Runner, fold
from curate.sample import PICTURE_TAR, format_uids, make_uids
from filters import column

MOST = 5  # rows that are explained
LEAST_DIGITS = 8  # of the beginning of a uid
_HEX = re.compile(r"[0-9a-fA-F]+")
_ROWS = 250_000  # texts are read in runs of so many: a block of long URLs is much to hold

By = Literal["uid", "beginning of a uid", "url", "key"]
Address = tuple[int, int]  # block, row of the block


@dataclass(frozen=True)
class Hits:
    """Rows that fit: how many, and the first of them."""

    rows: int = 0
    first: tuple[Address, ...] = ()
    uids: tuple[str, ...] = ()  # different ones, the smallest; more than one is enough to know

    def plus(self, other: Hits) -> Hits:
        """Both in one, in any order."""
        return Hits(
            self.rows + other.rows,
            tuple(sorted((*self.first, *other.first))[:MOST]),
            tuple(sorted({*self.uids, *other.uids})[:MOST]),
        )


@dataclass(frozen=True)
class Found:
    """Rows of the pool that were asked for."""

    by: By
    rows: int
    first: tuple[Address, ...]  # at most MOST of them


def find(facts: Facts, asked: str, runner: Runner) -> Found:
    """The rows that a text names.

    A URL has `://`; 32 hex digits are a uid, fewer may be a key or the beginning of a uid. Whatever
    fits first in this order is meant: uid, URL, key, beginning of a uid.

    Raises:
        ConfigError: nothing fits, or several uids begin so.
    """
    wanted = asked.strip()
    ways = list(_ways(facts, wanted))
    for by, look, spans in ways:
        hits = fold(runner.map(look, spans, "explain"), Hits.plus) or Hits()
        if not hits.rows:
            continue
        if by == "beginning of a uid" and len(hits.uids) > 1:
            listed = ", ".join(hits.uids)
            raise ConfigError(f"{visible(wanted)} begins several uids: {listed}; give more digits")
        return Found(by, hits.rows, hits.first)
    raise ConfigError(_nothing(facts, wanted, [by for by, _, _ in ways]))


def _ways(facts: Facts, wanted: str) -> Iterator[tuple[By, partial[Hits], list[Span]]]:
    """What a text may be, the likeliest first: how to look for it, and in what pieces."""
    plan = facts.plan
    registry, whole, pieces = plan.registries[-1], facts.spans(), list(_pieces(facts))
    digits = len(wanted) if _HEX.fullmatch(wanted) else 0
    if digits == 32:
        yield "uid", partial(_by_uid, plan, wanted.lower()), whole
    if wanted and "url" in registry:
        yield "url", partial(_by_text, plan, "url", wanted), pieces
    if wanted and "key" in registry and "://" not in wanted:
        yield "key", partial(_by_key, plan, facts.pool.table, wanted), pieces
    if LEAST_DIGITS <= digits < 32:
        yield "beginning of a uid", partial(_by_uid, plan, wanted.lower()), whole


def _pieces(facts: Facts) -> Iterator[Span]:
    for span in facts.spans():
        for start in range(0, span.stop, _ROWS):
            yield Span(span.block, start, min(start + _ROWS, span.stop))


def _hits(span: Span, rows: np.ndarray) -> Hits:
    """Some [K] rows of a span."""
    first = tuple((span.block, span.start + row) for row in rows[:MOST].tolist())
    return Hits(len(rows), first)


def _by_uid(plan: Compiled, wanted: str, span: Span) -> Hits:
    high, low = columns.uid_halves(plan.work, span)
    bits = 4 * len(wanted)
    value, missing = int(wanted, 16), 128 - bits
    upper, lower = (value << missing) >> 64, (value << missing) & (2**64 - 1)
    open_ = min(missing, 64)  # bits of the lower half that may be anything
    if missing >= 64:
        fits = (high >> np.uint64(missing - 64)) == np.uint64(upper >> (missing - 64))
    else:
        fits = high == np.uint64(upper)  # hardly ever
        if fits.any():
            fits &= (low >> np.uint64(open_)) == np.uint64(lower >> open_)
    rows = np.flatnonzero(fits)
    found = _hits(span, rows)
    different = np.unique(make_uids(high[rows], low[rows]))[:MOST]
    return Hits(found.rows, found.first, tuple(format_uids(different)) if len(rows) else ())


def _texts(plan: Compiled, name: str, span: Span) -> pl.Series:
    frame = columns.load(plan.work, plan.registries[-1], [name], span)
    return frame.select(column(name).cast(pl.String)).to_series()


def _by_text(plan: Compiled, name: str, wanted: str, span: Span) -> Hits:
    rows = (_texts(plan, name, span) == wanted).fill_null(value=False).arg_true().to_numpy()
    return _hits(span, rows)


def _by_key(plan: Compiled, table: pl.DataFrame, wanted: str, span: Span) -> Hits:
    """Rows with that key, or with that key in that tar: `00042/000420017`."""
    keys = _texts(plan, "key", span)
    hits = [_hits(span, (keys == wanted).fill_null(value=False).arg_true().to_numpy())]
    for tar, key in _divided(wanted):
        rows = (keys == key).fill_null(value=False).arg_true().to_numpy()
        fits = [row for row in rows.tolist() if stem(tar_of(plan, table, span, row)) == stem(tar)]
        hits.append(_hits(span, np.array(fits, dtype=np.int64)))
    found = Hits()
    for one in hits:
        found = found.plus(one)
    return found


def _divided(wanted: str) -> Iterator[tuple[str, str]]:
    """(tar, key) at each slash: either may have slashes itself."""
    parts = wanted.split("/")
    for place in range(1, len(parts)):
        tar, key = "/".join(parts[:place]), "/".join(parts[place:])
        if tar and key:
            yield tar, key


def stem(tar: str) -> str:
    """The name of a tar without folders, ending or the part of a download."""
    return re.sub(r"(-r\d+)?(\.tar)?$", "", tar.rpartition("/")[2])


def tar_of(plan: Compiled, table: pl.DataFrame, span: Span, row: int) -> str:
    """The URL of the tar that a row's key is in.

    Args:
        plan: The pipeline.
        table: The shards of the pool.
        span: Of a block.
        row: Of the span.
    """
    place = Span(span.block, span.start + row, span.start + row + 1)
    shard = shard_of(table, place)
    wanted = names(plan, plan.registries[-1])
    frame = columns.load(plan.work, plan.registries[-1], wanted, place)
    download = plan.download()
    if download is not None:
        part = frame[download.name].struct.field("part")[0] or 0
        return part_stem(plan.work, download.name, shard["number"], part) + ".tar"
    if PICTURE_TAR in wanted and frame[PICTURE_TAR][0] is not None:
        return str(pictures.tars_of(plan.work)[frame[PICTURE_TAR][0]])
    return str(shard["url"])


def shard_of(table: pl.DataFrame, place: Span) -> dict[str, Any]:
    """The shard that the first row of a span is in."""
    here = (pl.col("block") == place.block) & (pl.col("offset") <= place.start)
    there = table.filter(here & (pl.col("offset") + pl.col("rows") > place.start))
    return there.row(0, named=True)


_SAID = {
    "uid": "a uid",
    "beginning of a uid": "the beginning of a uid",
    "url": "a URL (all of it, as the pool has it)",
    "key": "a key (its name in a tar, or `tar/key`)",
}


def _nothing(facts: Facts, wanted: str, tried: list[By]) -> str:
    """What was looked for, and what would have been found."""
    shown = visible(brief(wanted, 200))
    looked = f"; it was looked for as {', '.join(_SAID[by] for by in tried)}" if tried else ""
    lines = [
        f"{shown!r}: no row of the pool has it{looked}",
        f"a uid has 32 hex digits, of which the first {LEAST_DIGITS} or more are enough",
    ]
    example = _example(facts)
    if example:
        lines.append("the pool's first sample, for comparison:")
        lines += [f"  {name} {visible(brief(value, 200))}" for name, value in example.items()]
    else:
        lines.append("the pool has no rows")
    absent = [name for name in ("url", "key") if name not in facts.plan.registries[-1]]
    if absent:
        lines.append(f"this pool has no {' and no '.join(absent)}")
    return "\n".join(lines)


def _example(facts: Facts) -> dict[str, str]:
    """{uid, url and key: those of the first row}."""
    spans = facts.spans()
    if not spans:
        return {}
    place = Span(spans[0].block, 0, 1)
    registry = facts.plan.registries[-1]
    found = {"uid": format_uids(columns.uids(facts.plan.work, place))[0]}
    for name in ("url", "key"):
        value = _texts(facts.plan, name, place)[0] if name in registry else None
        if value is not None:
            found[name] = value
    if "key" in found:
        tar = stem(public(tar_of(facts.plan, facts.pool.table, place, 0)))
        found["key"] += f" or {tar}/{found['key']}"
    return found
