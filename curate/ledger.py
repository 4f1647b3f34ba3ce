"""The ledger: for each sample of the pool its fate, the step and reason, and what decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Registry, Span
from curate.fates import LOST, Fates, nothing
from curate.parquet import read_parquet, write_parquet
from curate.pools.foreign import TEXT
from curate.pools.metadata import ARRAY
from curate.sample import format_uids, make_uids

_FATE = pl.Enum(["kept", "removed", "lost"])
_LONGEST = 200  # characters of a text: a caption of 10,000 explains no more


@dataclass(frozen=True)
class Explained:
    """What explains the removals of one step."""

    columns: tuple[str, ...]
    registry: Registry

    @property
    def kept(self) -> list[str]:
        """Those whose values the ledger keeps: the pool's texts are in the pool, by row."""
        found = (name for name in self.columns if name in self.registry)
        return [
            name
            for name in found
            if not (self.registry[name].store == "pool" and name in (*TEXT, "uid"))
            and self.registry[name].dtype != ARRAY
        ]


def ledger_file(work: str, block: int) -> str:
    """The ledger of a block."""
    return storage.join(work, "ledger", f"block-{block:04d}.parquet")


def write_ledger(
    work: str,
    fates: Fates,
    span: Span,
    shards: tuple[np.ndarray, np.ndarray],
    explained: Mapping[str, Explained],
) -> tuple[np.ndarray, np.ndarray]:
    """Commit the ledger of a block, and give its uids as they were read: [N] uint64 twice.

    Args:
        work: The work folder.
        fates: The last ones.
        span: The whole block.
        shards: [S] numbers of the block's shards and [S] their first rows.
        explained: {step: what explains its removals}.
    """
    numbers, offsets = shards
    ends = np.append(offsets[1:], len(span))
    sizes = ends - offsets
    high, low = columns.uid_halves(work, span)
    fields: dict[str, Any] = {
        "shard": np.repeat(numbers.astype(np.uint32), sizes),
        "row": (np.arange(len(span)) - np.repeat(offsets, sizes)).astype(np.uint32),
        "uid_hi": high,
        "uid_lo": low,
        "fate": _fate(fates),
        "step": fates.steps(),
        "reason": fates.reasons(),
        "copies": fates.copies,
        "because": fates.because if fates.because is not None else nothing(len(span)),
    }
    values = _values(work, fates, span, explained)
    if values:
        fields["values"] = pl.DataFrame(values).to_struct("values")
    # Uids and scores hardly get smaller, words are short codes already: not worth the time.
    write_parquet(ledger_file(work, span.block), pl.DataFrame(fields), "uncompressed")
    return high, low


def _fate(fates: Fates) -> pl.Series:
    lost = [reason.startswith(LOST) for _, reason in fates.known]
    words = ["kept", *("lost" if one else "removed" for one in lost)]
    return pl.Series(words, dtype=_FATE).gather(pl.Series(fates.code))


def _values(
    work: str, fates: Fates, span: Span, explained: Mapping[str, Explained]
) -> list[pl.Series]:
    """The columns that decided, each with the values of those rows that it explains."""
    wanted: dict[str, list[str]] = {}  # {column: steps that it explains}
    registry: dict[str, Any] = {}
    for step, shown in explained.items():
        for name in shown.kept:
            wanted.setdefault(name, []).append(step)
            registry[name] = shown.registry[name]
    if not wanted:
        return []
    frame = columns.load(work, registry, wanted, span)
    found = []
    for name, steps in wanted.items():
        outer, dot, inner = name.partition(".")
        series = (frame[outer].struct.field(inner) if dot else frame[outer]).alias(name)
        mask = np.zeros(len(span), dtype=bool)
        for step in steps:
            mask[fates.of(step)] = True
        if series.dtype == pl.String:
            series = series.str.slice(0, _LONGEST)
        found.append(series.zip_with(pl.Series(mask), pl.Series(name, [None], series.dtype)))
    return found


def read_ledger(work: str, block: int) -> pl.DataFrame:
    """The ledger of a block, with the `uid` in hex: shard, row, uid, fate, step, reason, ..."""
    return spelt(read_parquet(ledger_file(work, block)))


def spelt(ledger: pl.DataFrame) -> pl.DataFrame:
    """A ledger as it lies on disk, with its words as text and its uids in hex."""
    uids = make_uids(ledger["uid_hi"].to_numpy(), ledger["uid_lo"].to_numpy())
    words = pl.col("fate", "step", "reason").cast(pl.String)
    found = ledger.with_columns(words, pl.Series("uid", format_uids(uids), dtype=pl.String))
    return found.select("shard", "row", "uid", *ledger.columns[4:])
