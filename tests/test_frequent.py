"""The most frequent values: exact however the rows are split, with few values and with many."""

from collections import Counter
from functools import reduce

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.report import frequent
from curate.report.frequent import Frequent, Levels, Tally, tally

LEVELS = Levels(3, 2)
values = st.sampled_from([None, "", "a", "b", "é", "\u202ex", "w" * 199, "w" * 200, "w" * 300])
rows = st.lists(st.tuples(values, st.integers(0, 2)), max_size=40)


def counted(part: list) -> Tally:
    texts = pl.Series([value for value, _ in part], dtype=pl.String)
    return tally(texts, np.array([level for _, level in part], dtype=np.int64), LEVELS)


def found_in(parts: list[list]) -> Frequent:
    """As a report does it: one look, and a second one where there are too many values."""
    total = reduce(Tally.plus, [counted(part) for part in parts]).settled()
    if total.buckets is None:
        return frequent.frequent(total)
    chosen = frequent.fullest(total)
    named = [
        frequent.named(
            pl.Series([value for value, _ in part], dtype=pl.String),
            np.array([level for _, level in part], dtype=np.int64),
            chosen,
        )
        for part in parts
    ]
    return frequent.frequent(total, reduce(frequent.merge_named, named))


def by_hand(part: list) -> tuple[list, int]:
    """([(value, rows at each level)] of all values, how many there are)."""
    found: dict = {}
    for value, level in part:
        cut = None if value is None else value[:200]
        found.setdefault(cut, [0, 0, 0])[level] += 1
    ranked = sorted(
        ((v, n) for v, n in found.items() if v is not None),
        key=lambda one: (-sum(one[1]), one[0].encode()),
    )
    none = [(None, found[None])] if None in found else []
    return ranked + none, len(ranked)


@settings(max_examples=40)
@given(rows, st.integers(0, 40), st.integers(0, 40))
def test_counts_are_those_of_a_recount_however_rows_are_split(part, first, second):
    low, high = sorted((first, second))
    pieces = [part[:low], part[low:high], part[high:]]
    whole, distinct = by_hand(part)
    for parts in (pieces, pieces[::-1], [part]):
        found = found_in(parts)
        assert found.values == whole
        assert found.distinct == distinct
        assert found.exact
        assert found.totals == [sum(n[level] for _, n in whole) for level in range(3)]


@settings(max_examples=15)
@given(rows, st.integers(0, 40))
def test_many_values_are_counted_as_exactly(part, cut):
    before = found_in([part])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frequent, "MOST", 3)
        patch.setattr(frequent, "BUCKETS", 1 << 12)
        after = [
            found_in(parts)
            for parts in ([part], [part[:cut], part[cut:]], [part[cut:], part[:cut]])
        ]
    assert after[0] == after[1] == after[2]
    assert after[0].values == before.values
    assert after[0].totals == before.totals
    assert after[0].distinct == (before.distinct if before.distinct <= 3 else None)
    assert after[0].exact


def test_the_commonest_of_either_side_are_shown():
    many = [(f"pool {n:02d}", 0) for n in range(30) for _ in range(100 - n)]
    kept = [(f"kept {n:02d}", 2) for n in range(30) for _ in range(40 - n)]
    found = found_in([many + kept])
    names = [value for value, _ in found.values]
    assert names[:20] == [f"pool {n:02d}" for n in range(20)]
    assert names[20:] == [f"kept {n:02d}" for n in range(20)]
    assert found.distinct == 60


def test_values_that_are_all_different_are_not_called_the_commonest(monkeypatch):
    monkeypatch.setattr(frequent, "MOST", 100)
    monkeypatch.setattr(frequent, "BUCKETS", 1 << 12)
    found = found_in([[(f"only {n}", 0) for n in range(2000)]])
    assert found.distinct is None
    assert not found.exact
    assert found.totals == [2000, 0, 0]
    assert {tuple(n) for _, n in found.values} == {(1, 0, 0)}


@pytest.mark.slow
def test_a_million_different_values():
    rare = [f"rare {n}" for n in range(1_100_000)]
    common = [f"common {n % 31}" for n in range(310_000)]
    texts = pl.Series([*rare, *common, *[None] * 500])
    level = np.resize([0, 1, 2], len(texts))
    order = np.random.default_rng(0).permutation(len(texts))
    results = []
    for parts in (np.array_split(order, 3), np.array_split(order[::-1], 5)):
        looks = [(texts.gather(part), level[part]) for part in parts]
        total = reduce(Tally.plus, [tally(*look, LEVELS) for look in looks]).settled()
        chosen = frequent.fullest(total)
        named = reduce(frequent.merge_named, [frequent.named(*look, chosen) for look in looks])
        results.append(frequent.frequent(total, named))
    assert results[0] == results[1]
    counts = Counter(dict(results[0].values[:-1]).keys())
    assert len(counts) >= 20
    assert all(name.startswith("common") and sum(n) == 10_000 for name, n in results[0].values[:-1])
    assert results[0].values[-1][0] is None
    assert sum(results[0].values[-1][1]) == 500
    assert results[0].exact
    assert results[0].distinct is None


def test_of_many_values_those_common_on_the_second_side_alone_are_found(monkeypatch):
    monkeypatch.setattr(frequent, "MOST", 100)
    monkeypatch.setattr(frequent, "BUCKETS", 1 << 12)
    monkeypatch.setattr(frequent, "FULLEST", 30)
    pool = [(f"pool {n}", 0) for n in range(30) for _ in range(50)]
    kept = [(f"kept {n}", 2) for n in range(25) for _ in range(20)]
    rare = [(f"rare {n}", n % 2) for n in range(2000)]
    found = found_in([pool + rare, kept])
    assert found.distinct is None
    assert (
        sum(value.startswith("kept") and rows == [0, 0, 20] for value, rows in found.values) == 20
    )
    assert found.exact


def test_long_values_are_too_many_before_they_are_a_million(monkeypatch):
    monkeypatch.setattr(frequent, "MOST_BYTES", 1000)
    monkeypatch.setattr(frequent, "BUCKETS", 1 << 12)
    part = [("w" * 100 + str(n % 11), 0) for n in range(50)]
    results = [found_in([part]), found_in([part[:7], part[7:30], part[30:]])]
    assert results[0] == results[1]
    assert results[0].distinct is None
    assert results[0].values == by_hand(part)[0]
    assert found_in([part[:9]]).distinct == 9
