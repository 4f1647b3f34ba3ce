"""Balancing by any column: quotas against a count of seats, and whole runs to the row."""

import json
import pickle
import re
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance
from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.pipeline_file.config import load
from curate.sample import parse_uids
from filters import Batch, Counts, Unbound, balanced_by, structured
from filters._shares import shared
from filters.balanced_by import BalancedBy
from tests.tiny_pool import Pipeline, ledger_of

ANY = {"d": "String", "n": "Int32", "b": "Boolean", "f": "Float32", "url": "String", "s": "Float32"}


def bound(**fields):
    made = BalancedBy(name="balance", **fields)
    assert made.problems() == []
    return made.bind(ANY)


def batch(values, name="d", dtype=None):
    series = {name: pl.Series(values, dtype=dtype)}
    numbers = np.arange(len(values), dtype=np.uint64)
    return Batch(structured(series, len(values)), numbers, numbers, lambda _: np.zeros(len(values)))


def fitted(ready, values, rows=None, parts=1, name="d"):
    """The state, from so many batches that are merged in some order, as it travels."""
    pieces = [list(part) for part in np.array_split(np.array(values, dtype=object), parts)]
    found = [ready.summarize(batch(piece, name, pl.String)) for piece in pieces]
    while len(found) > 1:
        found.append(ready.merge(found.pop(len(found) // 2), found.pop(0)))
    counts = Counts(10**9, len(values) if rows is None else rows)
    return ready.fit(pickle.loads(pickle.dumps(found[0])), counts, {})


def quotas(ready, values, **how):
    """{value: how many stay}."""
    state = fitted(ready, values, **how)
    names = ready.group(batch(values, how.get("name", "d"), pl.String)).tolist()
    quota = dict(zip(state["groups"].tolist(), state["quota"].tolist(), strict=True))
    assert (np.diff(state["groups"]) > 0).all()
    assert sum(quota.values()) == state["kept"]
    return {value: quota[name] for value, name in zip(values, names, strict=True) if name >= 0}


# --- how many of each


def by_seats(sizes, total, power, floor, cap):
    """[K] by giving seats one by one to whose next one is due first; `power` is 0, 1/2 or 1."""
    upper = [min(size, cap) for size in sizes]
    quota = [min(most, floor) for most in upper]
    if total < sum(quota):
        upper, quota, power = quota, [0] * len(sizes), 0.0
    weight = {0.0: lambda n: 1, 0.5: lambda n: n, 1.0: lambda n: n * n}[power]  # squared
    while sum(quota) < min(total, sum(upper)):
        due = [
            (Fraction((2 * quota[k] + 1) ** 2, weight(size)), k)
            for k, size in enumerate(sizes)
            if quota[k] < upper[k]
        ]
        quota[min(due)[1]] += 1
    return quota


SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 25, 27, 36]), max_size=12)


@settings(max_examples=120)
@given(SIZES, st.floats(0, 1.1), st.sampled_from([0.0, 1.0]), st.integers(0, 4), st.integers(4, 40))
def test_shares_are_those_of_seats_given_one_by_one(sizes, share, power, floor, cap):
    total = int(share * sum(sizes))
    found = shared(np.array(sizes, dtype=np.int64), total, power, floor, cap)
    assert found.tolist() == by_seats(sizes, total, power, floor, cap)


@given(st.lists(st.sampled_from([1, 4, 9, 16, 25, 36, 49, 64]), max_size=9), st.floats(0, 1))
def test_a_square_root_is_one(sizes, share):
    """Of squares, whose roots and therefore whose ties are exact."""
    total = int(share * sum(sizes))
    found = shared(np.array(sizes, dtype=np.int64), total, 0.5, 0, 10**9)
    assert found.tolist() == by_seats(sizes, total, 0.5, 0, 10**9)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 10**10), max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_share_is_exact_within_its_bounds_and_grows(sizes, share, power):
    sizes = np.array(sizes, dtype=np.int64)
    floor, cap = 3, max(int(sizes.sum()) // 2, 3)
    total = int(share * int(sizes.sum()))
    found = [shared(sizes, total + more, power, floor, cap) for more in (0, 1, 5)]
    for quota, more in zip(found, (0, 1, 5), strict=True):
        assert quota.sum() == min(total + more, int(np.minimum(sizes, cap).sum()))
        assert (quota <= np.minimum(sizes, cap)).all()
        if total >= np.minimum(sizes, floor).sum():
            assert (quota >= np.minimum(sizes, floor)).all()
    assert all((less <= more).all() for less, more in pairwise(found))


def test_claims_that_differ_in_their_last_digits_are_in_order():
    """Those of thousands of large groups lie closer together than float64 can tell."""
    sizes = np.random.default_rng(0).integers(10**9, 10**10, 3000)
    quota = shared(sizes, int(sizes.sum()) // 3, 1.0, 0, 10**12).tolist()
    last = max(Fraction(2 * q - 1, size) for q, size in zip(quota, sizes.tolist(), strict=True))
    due = min(Fraction(2 * q + 1, size) for q, size in zip(quota, sizes.tolist(), strict=True))
    assert last <= due


def test_shares_follow_the_power():
    sizes = np.array([100, 10_000, 1_000_000], dtype=np.int64)
    found = {power: shared(sizes, 1110, power, 0, 10**9) for power in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert {power: quota.tolist() for power, quota in found.items()} == {
        0.0: [100, 505, 505],
        0.25: [78, 248, 784],
        0.5: [10, 100, 1000],
        0.75: [1, 34, 1075],
        1.0: [0, 11, 1099],
    }


GROUPS = ["a"] * 50 + ["b"] * 9 + ["c"] * 2 + [None] * 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cap": 5}, {"a": 5, "b": 5, "c": 2}),
        ({"cap": 100}, {"a": 50, "b": 9, "c": 2}),
        ({"keep_count": 12}, {"a": 5, "b": 5, "c": 2}),
        ({"keep_count": 11, "power": 0.5}, {"a": 7, "b": 3, "c": 1}),
        ({"keep_count": 12, "power": 1}, {"a": 10, "b": 2, "c": 0}),
        ({"keep_count": 12, "power": 1, "floor": 2}, {"a": 8, "b": 2, "c": 2}),
        ({"keep_count": 12, "power": 1, "cap": 8}, {"a": 8, "b": 3, "c": 1}),
        ({"keep_count": 6, "power": 1, "floor": 5}, {"a": 2, "b": 2, "c": 2}),
        ({"keep": 0.5}, {"a": 21, "b": 9, "c": 2}),  # of 64 rows
        ({"keep": 1.0}, {"a": 50, "b": 9, "c": 2}),
        ({"keep_count": 10**12}, {"a": 50, "b": 9, "c": 2}),
    ],
)
def test_each_rule_gives_each_group_its_number(fields, expected):
    assert quotas(bound(column="d", **fields), GROUPS) == expected


def test_missing_values_are_a_group_of_their_own_where_they_are_to_be():
    ready = bound(column="d", cap=2, missing="group")
    assert ready.group(batch(GROUPS)).min() >= 0
    state = fitted(ready, [*GROUPS, "", "None", "null"])
    assert state["group_count"] == 7
    assert state["kept"] == 2 + 2 + 2 + 2 + 3
    assert {row["group"]: row["samples"] for row in state["largest"]} == {
        "a": 50, "b": 9, "(missing)": 3, "c": 2, "": 1, "None": 1, "null": 1,
    }  # fmt: skip
    assert fitted(bound(column="d", cap=2), GROUPS)["scored"] == 61


def test_nobody_and_only_missing_ones():
    ready = bound(column="d", keep=0.5)
    assert ready.fit(None, Counts(5, 0), {})["kept"] == 0
    assert fitted(ready, [None] * 4)["kept"] == 0
    assert len(ready.group(batch([], dtype=pl.String))) == 0


def test_what_is_learnt_is_the_same_for_any_batches():
    rng = np.random.default_rng(0)
    values = [f"h{n}" for n in rng.zipf(1.5, 4000) % 1500]
    ready = bound(column="d", keep=0.3, power=0.5)
    whole = fitted(ready, values)
    for parts in (2, 7, 30):
        other = fitted(ready, rng.permutation(values).tolist(), parts=parts)
        assert all(np.array_equal(whole[key], other[key]) for key in ("groups", "quota"))
        assert other["largest"] == whole["largest"]
    assert whole["largest"][0]["samples"] == max(values.count(each) for each in set(values))
    assert len(whole["largest"]) == 20
    small = {k: v for k, v in whole.items() if k not in ("groups", "quota")}
    assert json.loads(json.dumps(small, allow_nan=False)) == small


def test_only_texts_of_the_largest_groups_are_held():
    values = [f"{n:05d}" + "x" * 500 for n in range(3000)] + ["big"] * 2
    seen = bound(column="d", cap=1).summarize(batch(values))
    assert seen.texts.height == 1000
    assert seen.texts["text"].str.len_chars().max() == 200
    state = fitted(bound(column="d", cap=1), values, parts=3)
    assert state["largest"][0] == {"group": "big", "samples": 2, "kept": 1}
    assert state["group_count"] == 3001


def test_which_texts_are_held_does_not_depend_on_who_is_merged_first(monkeypatch):
    monkeypatch.setattr(balanced_by, "_TEXTS", 4)
    ready = bound(column="d", cap=1)
    drawn = np.random.default_rng(1).zipf(1.4, (8, 60)) % 20
    parts = [[f"h{n}" for n in row] for row in drawn]
    most = {each: max(part.count(each) for part in parts) for each in set().union(*parts)}
    fourth = sorted(most.values())[-4]
    for seed in range(5):
        found = [ready.summarize(batch(part)) for part in parts]
        rng = np.random.default_rng(seed)
        while len(found) > 1:
            pair = [found.pop(rng.integers(len(found))) for _ in range(2)]
            found.append(ready.merge(*pair))
        held = dict(found[0].texts.select("text", "count").iter_rows())
        assert len(held) == 4
        assert held == {text: most[text] for text in held}
        assert min(held.values()) == fourth


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("HTTP://WWW.Example.COM/a?b=//c.de/", "example.com"),
        ("https://user:p@ss@Host.org:80/x", "host.org"),
        ("//h.de", "h.de"),
        ("http://[2001:DB8::1]:80/a", "[2001:db8::1]"),
        ("http://a.b.?q", "a.b"),
        ("http://wwwx.de#f", "wwwx.de"),
        ("http://img.www.de/", "img.www.de"),
        ("nothing", None),
        ("x?u=http://a.de/b", None),
        ("http:///x", None),
        ("http://:80/", None),
        ("", None),
        (None, None),
    ],
)
def test_a_domain_is_the_host_of_a_url(url, host):
    by_domain, by_text = bound(column="url", part="domain", cap=1), bound(column="url", cap=1)
    found = by_domain.group(batch([url], "url", pl.String))
    assert found.tolist() == by_text.group(batch([host], "url", pl.String)).tolist()


def test_groups_are_named_by_the_text_of_their_value():
    """Whatever the type of a whole number is, and never by a process's own hash."""
    text = bound(column="d", cap=1).group(batch(["7", "true"])).tolist()
    assert text == [2962523807699547150, 755500915348913919]
    for dtype in (pl.Int8, pl.UInt64):
        assert bound(column="n", cap=1).group(batch([7], "n", dtype)).tolist() == text[:1]
    assert bound(column="b", cap=1).group(batch([True], "b")).tolist() == text[1:]


def test_a_column_whose_type_shows_late_is_refused_then():
    ready = BalancedBy(name="balance", column="f", cap=1).bind({"f": ""})
    with pytest.raises(Unbound, match="f holds Float64: groups are by text, whole numbers or true"):
        ready.summarize(batch([0.5], "f"))


# --- whole runs


def samples(count=300, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.choice(12, count, p=rng.dirichlet(np.full(12, 0.6)))
    return pl.DataFrame(
        {
            "uid": [f"{n * 2654435761 + 17:032x}" for n in rng.permutation(count)],
            "d": [f"group {n}" for n in group],
            "n": group,
            "s": np.round(rng.random(count), 1),
        }
    ).with_columns(url="http://" + pl.col("d").str.replace(" ", "") + ".de/" + pl.col("uid"))


def pipeline_of(folder, frame, step, files=1, rows_per_block=1000):
    (folder / "in").mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(frame.height), files)):
        frame[rows].write_parquet(folder / "in" / f"{number:08d}.parquet")
    made = Pipeline(folder, {"metadata": str(folder / "in")}, ({"balanced_by": step},))
    return made.where(rows_per_block=rows_per_block, run={"engine": "local"})


def ran(*given, **shape):
    pipeline = pipeline_of(*given, **shape)
    assert pipeline.run().exit_code == 0
    ledger = ledger_of(pipeline.work)
    state = json.loads((pipeline.work / "state" / "balanced_by.json").read_text())
    report = json.loads((pipeline.work / "report" / "report.json").read_text())
    return SimpleNamespace(
        kept=sorted(ledger.filter(fate="kept")["uid"]),
        reasons=dict(zip(ledger["uid"], ledger["reason"], strict=True)),
        state=state["states"]["balanced_by"],
        said=report["steps"][0]["filters"][0],
    )


@pytest.mark.parametrize("choice", [None, {"highest": "s"}, {"lowest": "s"}])
def test_so_many_of_each_group_stay(tmp_path, choice):
    frame = samples().with_columns(
        s=pl.when(pl.int_range(pl.len()) % 9 == 4).then(None).otherwise("s")
    )
    step = {"column": "d", "cap": 11, **({} if choice is None else {"choice": choice})}
    run = ran(tmp_path, frame, step, files=3, rows_per_block=70)
    drawn = chance.uniform(0, "balanced_by", parse_uids(frame["uid"]), "choice")
    sign = -1 if choice and "highest" in choice else 1
    worse = pl.lit(-drawn) if choice is None else (pl.col("s") * sign).fill_null(9)
    ranked = frame.with_columns(worse=worse).sort("worse", "uid")
    assert run.kept == sorted(ranked.filter(pl.int_range(pl.len()).over("d") < 11)["uid"])
    assert set(run.reasons.values()) == {None, "over_quota"}
    assert run.said["tables"]["largest"][0]["kept"] == 11
    sizes = frame["d"].value_counts()["count"]
    assert run.said["learnt"]["group_count"] == len(sizes)
    assert run.said["learnt"]["groups_cut"] == (sizes > 11).sum()
    assert run.said["learnt"]["kept"] == len(run.kept)


@pytest.mark.parametrize(
    "fields", [{"keep": 0.4, "power": 0.5}, {"keep_count": 61, "choice": {"highest": "s"}}]
)
def test_no_order_no_file_and_no_block_changes_who_stays(tmp_path, fields):
    """With uids that repeat, and samples without a group."""
    frame = samples(170)
    frame = pl.concat([frame, frame[:30]]).with_columns(
        d=pl.when(pl.int_range(pl.len()) % 23 == 4).then(None).otherwise("d")
    )
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (7, 33)]):
        mixed = frame[np.random.default_rng(number).permutation(frame.height)]
        step = {"column": "d", **fields}
        run = ran(tmp_path / str(number), mixed, step, files=files, rows_per_block=rows)
        assert sum(why == "unscored" for why in run.reasons.values()) > 0
        found.append((run.kept, run.state["kept"], run.state["largest"]))
    assert found[0] == found[1]
    assert len(found[0][0]) == (80 if "keep" in fields else 61)


def test_by_domain_and_by_number_the_same_stay(tmp_path):
    """The names of the groups differ, and decide nothing under a cap."""
    frame = samples(150)
    kept = [
        ran(tmp_path / str(number), frame, {"cap": 4, **by}).kept
        for number, by in enumerate([{"column": "n"}, {"column": "url", "part": "domain"}])
    ]
    assert kept[0] == kept[1]
    assert 4 < len(kept[0]) < 150
    larger = ran(tmp_path / "larger", frame, {"cap": 9, "column": "d"}).kept
    assert set(kept[0]) < set(larger)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"column": "d"}, "give cap, keep or keep_count"),
        ({"column": "d", "keep": 0.5, "keep_count": 3}, "give one of keep and keep_count"),
        ({"column": "d", "cap": 0}, "greater than 0"),
        ({"column": "d", "keep": 1.5}, "less than or equal to 1"),
        ({"column": "d", "keep": 0.5, "power": 2}, "less than or equal to 1"),
        ({"column": "d", "cap": 5, "power": 0.5}, "power says how a number is shared: it goes"),
        ({"column": "d", "cap": 5, "floor": 2}, "floor says how a number is shared: it goes with"),
        ({"column": "d", "keep": 0.5, "cap": 2, "floor": 3}, "floor 3 is above cap 2"),
        ({"column": "s", "cap": 5}, "s holds Float64: groups are by text, whole numbers or true"),
        ({"column": "n", "cap": 5, "part": "domain"}, "n holds Int64, and a domain is part of a"),
        ({"column": "d", "cap": 5, "choice": {"highest": "url"}}, "url holds text"),
        ({"column": "licence", "cap": 5}, "nobody produces 'licence'"),
        ({"column": "d", "cap": 5, "missing": "drop"}, "'unscored' or 'group'"),
        ({"cap": 5}, "column"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, said):
    pipeline = pipeline_of(tmp_path, samples(9), fields)
    with pytest.raises((InvalidPipeline, ConfigError)) as caught:
        compile_pipeline(load(pipeline.file()))
    assert re.search(said, str(caught.value))
