"""The fate of each sample: verdicts while a run decides, and the ledger when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Registry, Span
from curate.intake import PROBLEM
from curate.parquet import read_parquet, scan_parquet, write_parquet
from curate.sample import format_uids
from filters import Verdict

START = "pool"  # the verdict that every run starts from
LOST = "lost:"  # reasons that begin so are losses of our own, counted apart

# One row per sample of a block; `step` is null for whoever is still in.
SCHEMA: dict[str, Any] = {
    "step": pl.String,
    "reason": pl.String,
    "copies": pl.UInt32,
    "because": pl.String,
}


def verdict_file(work: str, after: str, block: int) -> str:
    """The verdict on a block after a step."""
    return storage.join(work, "state", after, f"block-{block:04d}.parquet")


def read_verdict(work: str, after: str, span: Span) -> pl.DataFrame:
    """[len(span)] rows of SCHEMA."""
    url = verdict_file(work, after, span.block)
    if storage.is_local(url):
        return scan_parquet(url).slice(span.start, len(span)).collect()
    return read_parquet(url)[span.start : span.stop]


def write_verdict(work: str, after: str, block: int, verdict: pl.DataFrame) -> None:
    """Commit the verdict on a block."""
    write_parquet(verdict_file(work, after, block), verdict.select(list(SCHEMA)))


def initial(work: str, span: Span) -> pl.DataFrame:
    """Everybody is in, but for rows that the pool itself cannot use."""
    problem = columns.read_pool(work, [PROBLEM], span)[PROBLEM].cast(pl.String)
    return pl.DataFrame(
        {
            "step": pl.Series([None] * len(span), dtype=pl.String),
            "reason": problem,
            "copies": problem.is_null().cast(pl.UInt32),
            "because": pl.Series([None] * len(span), dtype=pl.String),
        }
    ).with_columns(pl.when(pl.col("reason").is_not_null()).then(pl.lit(START)).alias("step"))


def alive(verdict: pl.DataFrame) -> np.ndarray:
    """[N] bool: who is still in."""
    return verdict["step"].is_null().to_numpy()


def record(verdict: pl.DataFrame, step: str, said: Verdict) -> pl.DataFrame:
    """The verdict after a step said something of those still in, in row order; copies multiply."""
    rows = np.flatnonzero(alive(verdict))
    assert len(rows) == len(said.copies), (step, len(rows), len(said.copies))
    copies = verdict["copies"].to_numpy().copy()
    copies[rows] *= said.copies
    removed = said.copies == 0
    out = rows[removed]
    because = said.because if said.because is not None else None
    reasons = said.reason.filter(pl.Series(removed))
    assert reasons.null_count() == 0, f"{step} removed samples without a reason"
    return verdict.with_columns(
        pl.Series("copies", copies, dtype=pl.UInt32),
        verdict["step"].scatter(out, step) if len(out) else verdict["step"],
        verdict["reason"].scatter(out, reasons) if len(out) else verdict["reason"],
        verdict["because"].scatter(out, because.filter(pl.Series(removed)))
        if because is not None and len(out)
        else verdict["because"],
    )


def counts(verdict: pl.DataFrame) -> pl.DataFrame:
    """(step, reason, rows, copies) of a block; step is null for those still in."""
    return verdict.group_by("step", "reason").agg(
        pl.len().cast(pl.Int64).alias("rows"), pl.col("copies").cast(pl.Int64).sum()
    )


def add_counts(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Counts of two blocks in one, in any order."""
    return pl.concat([left, right]).group_by("step", "reason").agg(pl.col("rows", "copies").sum())


@dataclass(frozen=True)
class Explained:
    """What explains the removals of one step."""

    columns: tuple[str, ...]
    registry: Registry


def ledger_file(work: str, block: int) -> str:
    """The ledger of a block."""
    return storage.join(work, "ledger", f"block-{block:04d}.parquet")


def write_ledger(
    work: str,
    after: str,
    span: Span,
    shards: tuple[np.ndarray, np.ndarray],
    explained: Mapping[str, Explained],
) -> pl.DataFrame:
    """Commit the ledger of a block and give its counts.

    Args:
        work: The work folder.
        after: The last verdict.
        span: The whole block.
        shards: [S] numbers of the block's shards and [S] their first rows.
        explained: {step: what explains its removals}.
    """
    verdict = read_verdict(work, after, span)
    values = pl.Series([None] * len(span), dtype=pl.String)
    for step, shown in explained.items():
        rows = np.flatnonzero((verdict["step"] == step).fill_null(value=False).to_numpy())
        if len(rows) and shown.columns:
            values = values.scatter(rows, _encoded(work, shown, span, rows))
    numbers, offsets = shards
    rows = np.arange(len(span))
    place = np.searchsorted(offsets, rows, side="right") - 1
    fate = (
        pl.when(pl.col("step").is_null())
        .then(pl.lit("kept"))
        .when(pl.col("reason").str.starts_with(LOST))
        .then(pl.lit("lost"))
        .otherwise(pl.lit("removed"))
    )
    ledger = pl.DataFrame(
        {
            "shard": pl.Series(numbers[place], dtype=pl.UInt32),
            "row": pl.Series(rows - offsets[place], dtype=pl.UInt32),
            "uid": format_uids(columns.uids(work, span)),
            "fate": verdict.select(fate=fate).to_series(),
            "step": verdict["step"],
            "reason": verdict["reason"],
            "values": values,
            "because": verdict["because"],
            "copies": verdict["copies"],
        }
    )
    write_parquet(ledger_file(work, span.block), ledger)
    return counts(verdict)


def _encoded(work: str, shown: Explained, span: Span, rows: np.ndarray) -> pl.Series:
    """The deciding values of some rows as JSON: {"clip.similarity": 0.213}."""
    frame = columns.load(work, shown.registry, shown.columns, span)[rows]
    flat = []
    for name in shown.columns:
        outer, dot, inner = name.partition(".")
        series = frame[outer].struct.field(inner) if dot else frame[outer]
        if series.dtype == pl.Binary:  # JSON has no bytes
            series = series.bin.encode("hex")
        if series.dtype == pl.String:
            series = series.str.slice(0, 200)  # a caption of 10,000 characters explains no more
        flat.append(series.alias(name))
    return pl.DataFrame(flat).to_struct("values").struct.json_encode()


def read_ledger(work: str, block: int) -> pl.DataFrame:
    """The ledger of a block: shard, row, uid, fate, step, reason, values, because, copies."""
    return read_parquet(ledger_file(work, block))
