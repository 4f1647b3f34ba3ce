"""Fates while a run decides: against a list of dicts, on the disk and back, at any size."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import fates
from curate.columns import Span
from curate.fates import Fates
from curate.ledger import spelt
from filters import Verdict

ROWS = 40


def everybody(rows: int) -> Fates:
    return Fates(np.zeros(rows, np.uint16), (), np.ones(rows, np.uint32))


@st.composite
def verdicts(draw):
    """What a few steps say of ROWS samples: {row: (copies, reason, because)} of each step."""
    step = st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 1, 2]),
            st.sampled_from(["short", "unscored", "lost:memory", "a b"]),
            st.sampled_from([None, "ff", "00"]),
        ),
        min_size=ROWS,
        max_size=ROWS,
    )
    return draw(st.lists(step, max_size=4))


def say(said, rows) -> Verdict:
    own = [said[row] for row in rows]
    copies = np.array([copies for copies, _, _ in own], dtype=np.uint32)
    reason = pl.Series([why if c == 0 else None for c, why, _ in own], dtype=pl.String)
    because = pl.Series([b for _, _, b in own], dtype=pl.String)
    return Verdict(copies, reason, because)


@settings(deadline=None)
@given(verdicts())
def test_every_step_speaks_of_those_still_in_and_of_nobody_else(steps):
    found = everybody(ROWS)
    model = [{"step": None, "reason": None, "copies": 1, "because": None} for _ in range(ROWS)]
    for number, said in enumerate(steps):
        found = found.after(f"step{number}", say(said, found.rows))
        for row, one in enumerate(model):
            if one["step"] is None:
                copies, reason, because = said[row]
                one["copies"] *= copies
                one["because"] = because or one["because"]
                if copies == 0:
                    one.update(step=f"step{number}", reason=reason, because=because)
    assert found.steps().to_list() == [one["step"] for one in model]
    assert found.reasons().to_list() == [one["reason"] for one in model]
    assert found.copies.tolist() == [one["copies"] for one in model]
    texts = found.because.to_list() if found.because is not None else [None] * ROWS
    assert texts == [one["because"] for one in model]
    assert found.alive.tolist() == [one["step"] is None for one in model]
    counted = {(s, r): (n, c) for s, r, n, c in found.counts().rows()}
    for key in {(one["step"], one["reason"]) for one in model}:
        own = [one for one in model if (one["step"], one["reason"]) == key]
        assert counted.pop(key) == (len(own), sum(one["copies"] for one in own))
    assert not counted
    for number in range(len(steps)):
        rows = [row for row, one in enumerate(model) if one["step"] == f"step{number}"]
        assert found.of(f"step{number}").tolist() == rows


@settings(deadline=None, max_examples=30)
@given(verdicts(), st.integers(0, ROWS - 1), st.integers(1, ROWS))
def test_any_span_of_a_block_is_read_back(tmp_path_factory, steps, start, length):
    work = str(tmp_path_factory.mktemp("work"))
    found = everybody(ROWS)
    for number, said in enumerate(steps):
        found = found.after(f"step{number}", say(said, found.rows))
    fates.write(work, "after", 3, found)
    stop = min(start + length, ROWS)
    part = fates.read(work, "after", Span(3, start, stop))
    assert part.known == found.known
    assert part.code.dtype == np.uint16
    assert part.code.tolist() == found.code[start:stop].tolist()
    assert part.copies.tolist() == found.copies[start:stop].tolist()
    whole = found.because.to_list() if found.because is not None else [None] * ROWS
    texts = part.because.to_list() if part.because is not None else [None] * (stop - start)
    assert texts == whole[start:stop]


@pytest.mark.parametrize("reasons", [1, 2, 300, 1500])
def test_reasons_that_come_late_or_are_many_are_told_apart(tmp_path, reasons):
    rows = 5000
    why = [f"reason {row % reasons if row >= 2000 else 0}" for row in range(rows)]
    said = Verdict(np.zeros(rows, np.uint32), pl.Series(why))
    found = everybody(rows).after("step", said)
    fates.write(str(tmp_path), "step", 0, found)
    again = fates.read(str(tmp_path), "step", Span(0, 0, rows))
    assert again.reasons().to_list() == why
    assert len(again.known) == reasons
    assert again.counts()["rows"].sum() == rows


def test_a_removal_without_a_reason_is_a_bug_that_shows():
    with pytest.raises(AssertionError, match="without a reason"):
        everybody(2).after("step", Verdict(np.array([0, 1], np.uint32), fates.nothing(2)))


def test_a_ledger_is_spelt_in_hex_and_words():
    ledger = pl.DataFrame(
        {
            "shard": [0], "row": [7], "uid_hi": pl.Series([1], dtype=pl.UInt64),
            "uid_lo": pl.Series([2**64 - 1], dtype=pl.UInt64),
            "fate": pl.Series(["kept"], dtype=pl.Categorical),
            "step": pl.Series([None], dtype=pl.Categorical),
            "reason": pl.Series([None], dtype=pl.Categorical),
        }
    )  # fmt: skip
    assert spelt(ledger).row(0) == (0, 7, f"{1:016x}{'f' * 16}", "kept", None, None)
