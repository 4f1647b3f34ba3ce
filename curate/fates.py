"""Who is still in, and why not, while a run decides: one small file a block after each verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Span
from curate.intake import PROBLEM
from curate.parquet import read_note, read_slice, write_parquet
from filters import Verdict

START = "pool"  # the verdict that every run starts from
LOST = "lost:"  # reasons that begin so are losses of our own, counted apart
_NOTE = "curate.known"
_FEW, _MOST = np.iinfo(np.uint8).max, np.iinfo(np.uint16).max

_HEAD = 1000

COUNTS: dict[str, Any] = {
    "step": pl.String,
    "reason": pl.String,
    "rows": pl.Int64,
    "copies": pl.Int64,
}


@dataclass(frozen=True)
class Fates:
    """The fate so far of N consecutive samples of a block."""

    code: np.ndarray  # [N] uint16: 0 for who is still in, else one more than an index of `known`
    known: tuple[tuple[str, str], ...]  # (step, reason)
    copies: np.ndarray  # [N] uint32
    because: pl.Series | None = None  # [N] string: what else explains it; None where nothing does

    def __len__(self) -> int:
        return len(self.code)

    @property
    def alive(self) -> np.ndarray:
        """[N] bool: who is still in."""
        return np.asarray(self.code == 0)

    @property
    def rows(self) -> np.ndarray:
        """[K] rows that are still in, ascending."""
        return np.flatnonzero(self.code == 0)

    def after(self, step: str, said: Verdict) -> Fates:
        """The fates after a step said something of those still in; copies multiply."""
        rows = self.rows
        assert len(rows) == len(said.copies), (step, len(rows), len(said.copies))
        removed = said.copies == 0
        out = rows[removed]
        copies = self.copies.copy()
        if len(rows) == len(copies):
            copies *= said.copies
        else:
            copies[rows] *= said.copies
        if not len(out):
            return replace(self, copies=copies)
        known, own = _coded(said.reason.filter(pl.Series(removed)), step, self.known)
        code = self.code.copy()
        if len(rows) == len(code):
            code[removed] = own
        else:
            code[out] = own
        because = self.because
        if said.because is not None:
            before = because if because is not None else nothing(len(code))
            because = before.scatter(out, said.because.filter(pl.Series(removed)))
        return Fates(code, known, copies, because)

    def steps(self) -> pl.Series:
        """[N] categorical: the step that removed each sample, null for who is still in."""
        return self._spelt([step for step, _ in self.known])

    def reasons(self) -> pl.Series:
        """[N] categorical: the reason, null for who is still in."""
        return self._spelt([reason for _, reason in self.known])

    def _spelt(self, words: list[str]) -> pl.Series:
        return pl.Series([None, *words], dtype=pl.Categorical).gather(pl.Series(self.code))

    def of(self, step: str) -> np.ndarray:
        """[K] rows that a step removed, ascending."""
        return np.flatnonzero(self.where([name == step for name, _ in self.known]))

    def where(self, wanted: Sequence[bool]) -> np.ndarray:
        """[N] bool: who was removed as one of those of `known` that are wanted."""
        return np.asarray(np.array([False, *wanted])[self.code])

    def counts(self) -> pl.DataFrame:
        """(step, reason, rows, copies); step is null for those still in."""
        size = len(self.known) + 1
        rows = np.bincount(self.code, minlength=size)
        copies = np.zeros(size, dtype=np.int64)  # who was removed has none
        copies[0] = self.copies[self.alive].sum(dtype=np.int64)
        there = np.flatnonzero(rows)
        pairs = [(None, None), *self.known]
        found = [(*pairs[n], int(rows[n]), int(copies[n])) for n in there.tolist()]
        return pl.DataFrame(found, schema=COUNTS, orient="row")


def nothing(rows: int) -> pl.Series:
    """[rows] nulls of text."""
    return pl.Series([None], dtype=pl.String).new_from_index(0, rows)


def no_counts() -> pl.DataFrame:
    """The counts of a pool without blocks."""
    return pl.DataFrame(schema=COUNTS)


def add_counts(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Counts of two blocks in one, in any order."""
    return pl.concat([left, right]).group_by("step", "reason").agg(pl.col("rows", "copies").sum())


def _coded(
    reasons: pl.Series, step: str, known: tuple[tuple[str, str], ...]
) -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    """(known with this step's reasons, [N] uint16 codes)."""
    assert reasons.null_count() == 0, f"{step} removed samples without a reason"
    numbers = {word: code for code, (name, word) in enumerate(known, 1) if name == step}
    code = np.zeros(len(reasons), dtype=np.uint16)
    for word in _words(reasons):
        if word not in numbers:
            known = (*known, (step, word))
            numbers[word] = len(known)
        code[(reasons == word).to_numpy()] = numbers[word]
    assert len(known) < _MOST, f"{step} has {len(numbers)} reasons"
    return known, code


def _words(reasons: pl.Series) -> list[str]:
    """The different reasons, sorted; nearly always the few that stand at the head."""
    found = reasons.head(_HEAD).unique()
    if len(found) > 1 or not bool((reasons == found[0]).all()):
        found = reasons.unique() if not bool(reasons.is_in(found.implode()).all()) else found
    return found.sort().to_list()


def file(work: str, after: str, block: int) -> str:
    """Where the fates of a block after a step are."""
    return storage.join(work, "state", after, f"block-{block:04d}.parquet")


def write(work: str, after: str, block: int, fates: Fates) -> None:
    """Commit the fates of a block."""
    narrow = np.uint8 if len(fates.known) < _FEW else np.uint16
    fields: dict[str, Any] = {"code": fates.code.astype(narrow)}
    if not np.array_equal(fates.copies, fates.alive):  # else one each, of those still in
        fields["copies"] = fates.copies
    if fates.because is not None:
        fields["because"] = fates.because
    write_parquet(
        file(work, after, block), pl.DataFrame(fields), note=(_NOTE, json.dumps(fates.known))
    )


def read(work: str, after: str, span: Span) -> Fates:
    """[len(span)] fates after a step."""
    url = file(work, after, span.block)
    names, note = read_note(url, _NOTE)
    frame = read_slice(url, names, span.start, len(span))
    code = frame["code"].to_numpy().astype(np.uint16)
    return Fates(
        code,
        tuple((step, reason) for step, reason in json.loads(note)),
        frame["copies"].to_numpy() if "copies" in names else (code == 0).astype(np.uint32),
        frame["because"] if "because" in names else None,
    )


def initial(work: str, span: Span) -> Fates:
    """Everybody is in, but for rows that the pool itself cannot use."""
    everybody = Fates(np.zeros(len(span), np.uint16), (), np.ones(len(span), np.uint32))
    problem = columns.read_pool(work, [PROBLEM], span)[PROBLEM].cast(pl.String)
    if problem.null_count() == len(span):
        return everybody
    return everybody.after(START, Verdict(problem.is_null().cast(pl.UInt32).to_numpy(), problem))
