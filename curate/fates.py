"""Who is still in, and why not, while a run decides: one small file a block after each verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Span
from curate.parquet import read_note, read_slice, write_parquet
from curate.pools.intake import PROBLEM
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
        everybody = len(rows) == len(self.code)
        if everybody:
            copies = self.copies * said.copies
        else:
            copies = self.copies.copy()
            copies[rows] *= said.copies
        because = self._explained(rows, removed, said.because)
        if not removed.any():
            return replace(self, copies=copies, because=because)
        known, code = _coded(said.reason, removed, step, self.known)
        if not everybody:
            own, code = code, self.code.copy()
            code[rows] = own
        return Fates(code, known, copies, because)

    def _explained(
        self, rows: np.ndarray, removed: np.ndarray, said: pl.Series | None
    ) -> pl.Series | None:
        """[N] what explains fates, once a step said something of [K] rows.

        What explained that somebody stayed says nothing of why a later step removed him.
        """
        before = self.because
        if said is None or said.null_count() == len(said):
            if before is None or not removed.any():
                return before
            return before.scatter(rows[removed], [None])
        if before is None and len(rows) == len(self.code):
            return said
        before = before if before is not None else nothing(len(self.code))
        new = said.is_not_null().to_numpy() | removed
        return before.scatter(rows[new], said.filter(pl.Series(new)))

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
        wanted = np.array([False, *(name == step for name, _ in self.known)])
        return np.flatnonzero(wanted[self.code])

    def counts(self) -> pl.DataFrame:
        """(step, reason, rows, copies); step is null for those still in."""
        size = len(self.known) + 1
        rows = np.bincount(self.code, minlength=size)
        copies = np.zeros(size, dtype=np.int64)  # who was removed has none
        copies[0] = self.copies.sum(dtype=np.int64)
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


Known = tuple[tuple[str, str], ...]


def _coded(
    reasons: pl.Series, removed: np.ndarray, step: str, known: Known
) -> tuple[Known, np.ndarray]:
    """(known with this step's reasons, [N] uint16 codes, 0 for who was not removed)."""
    words: list[str] = []
    place = np.zeros(len(reasons), dtype=np.uint16)  # 1 + index of words
    left = np.flatnonzero(removed)
    for most in (_HEAD, len(left)):  # nearly all have one of the few reasons at the head
        found = reasons.gather(left[:most]).unique().to_list()
        assert None not in found, f"{step} removed samples without a reason"
        for word in found:
            words.append(word)
            assert len(known) + len(words) < _MOST, f"{step} has {len(words)} reasons"
            np.putmask(place, (reasons == word).fill_null(value=False).to_numpy(), len(words))
        left = np.flatnonzero(removed & (place == 0))
        if not len(left):
            break
    known, numbers = _numbered(words, step, known)
    place *= removed
    if numbers == list(range(1, len(numbers) + 1)):
        return known, place
    return known, np.take(np.array([0, *numbers], dtype=np.uint16), place)


def _numbered(words: list[str], step: str, known: Known) -> tuple[Known, list[int]]:
    """(known with those reasons of a step, in order, the code of each)."""
    codes = {pair: code for code, pair in enumerate(known, 1)}
    for word in sorted(words):
        codes.setdefault((step, word), len(codes) + 1)
    return tuple(codes), [codes[step, word] for word in words]


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
