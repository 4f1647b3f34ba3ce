"""Weighted sampling against drawing one after the other, and to the copy whatever the blocks."""

import json
import math
import re
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance
from curate.check import compile_pipeline
from curate.errors import InvalidPipeline
from curate.pipeline_file.config import load
from curate.sample import parse_uids
from filters import UNSCORED, Batch, Counts, Unbound, structured
from filters.weighted_sample import WeightedSample
from tests.planted_clusters import kept, planted, reasons, uids
from tests.tiny_pool import Pipeline, ledger_of

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
AVAILABLE = {
    "x.weight": "Float64",
    "concepts.entries": "List(UInt32)",
    "coarse.cluster": "UInt32",
    "caption": "String",
}
NONE_GIVEN = "give one of column, concepts and cluster: what samples are weighted by"


def uids_of(count):
    return np.frombuffer(np.random.default_rng(99).bytes(16 * count), UID)


def bound(**fields):
    made = WeightedSample(name="weighted_sample", **fields)
    assert made.problems() == []
    return made.bind(AVAILABLE)


def sampled(name, values, parts=1, seed=0, **fields):
    """([N] copies, [N] reasons, state) of the rows in their own order."""
    column = pl.Series(values) if not isinstance(values, pl.Series) else values
    column = column.fill_nan(None) if column.dtype.is_float() else column
    rows, own = np.arange(len(column)), uids_of(len(column))
    split = parts if isinstance(parts, list) else np.array_split(rows, parts)
    blocks = [
        Batch(
            structured({name: column[some]}, len(some)),
            own[some],
            some.astype(np.uint64),
            partial(chance.uniform, seed, "weighted_sample", own[some]),
        )
        for some in split
    ]
    ready = bound(**fields)
    state, passes = ready.start(Counts(10**9, len(column))), 0
    while not ready.finished(state):
        total = None
        for block in blocks[::-1]:
            summary = ready.summarize(block, state)
            total = summary if total is None else ready.merge(total, summary)
        state, passes = ready.fit(total, state), passes + 1
        assert passes < 12
    copies, said = np.zeros(len(column), dtype=np.int64), np.full(len(column), None, dtype=object)
    for block in blocks:
        verdict = ready.keep(block, state)
        place = block.addresses.astype(np.int64)
        copies[place], said[place] = verdict.copies, verdict.reason.to_list()
    assert ((said == None) == (copies > 0)).all()  # noqa: E711 (of each)
    return copies, said.tolist(), state


by_weight = partial(sampled, "x.weight", column="x.weight")

# --- against drawing one after the other

SEEDS = 50
WEIGHTS = np.random.default_rng(0).lognormal(0, 1.5, 400)


@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.parametrize("replacement", [False, True])
def test_each_stays_as_often_as_when_drawn_one_after_the_other(count, replacement):
    chances = WEIGHTS / WEIGHTS.sum()
    literal = np.zeros((SEEDS, 400))
    for seed in range(SEEDS):
        rng = np.random.default_rng((3, seed))
        drawn = rng.choice(400, count, replace=replacement, p=chances)
        literal[seed] = np.bincount(drawn, minlength=400)
    fields = {"count": count, "replacement": replacement}
    ours = np.stack([by_weight(WEIGHTS, seed=seed, **fields)[0] for seed in range(SEEDS)])
    assert (ours.sum(axis=1) == count).all()
    for rows in np.array_split(np.argsort(WEIGHTS), 8):
        one, other = literal[:, rows].mean(axis=1), ours[:, rows].mean(axis=1)
        error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / SEEDS)
        assert abs(one.mean() - other.mean()) < 4 * error
    if replacement:
        unique, expected = (ours > 0).sum(axis=1), (1 - (1 - chances) ** count).sum()
        assert abs(unique.mean() - expected) < 4 * unique.std(ddof=1) / np.sqrt(SEEDS)
        off = ours.mean(axis=0) - count * chances
        assert (abs(off) < 5 * np.sqrt(count * chances / SEEDS) + 0.05).all()


def test_the_power_of_a_weight():
    fields = {"count": 100}
    assert (by_weight(WEIGHTS, power=2.0, **fields)[0] == by_weight(WEIGHTS**2, **fields)[0]).all()
    even = np.mean([by_weight(WEIGHTS, seed=s, power=0.0, **fields)[0] for s in range(40)], axis=0)
    order = np.argsort(WEIGHTS)
    assert abs(even[order[:200]].mean() - 0.25) < 0.03


# --- laws


@settings(max_examples=40)
@given(
    rows=st.integers(1, 80),
    share=st.floats(0.02, 3),
    replacement=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_the_total_is_exact_and_no_block_matters(rows, share, replacement, scale, seed):
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, scale, rows))
    weights[rng.random(rows) < 0.2] = 0
    weights[rng.random(rows) < 0.2] = np.nan
    weights[0] = 1.0
    positive = int((weights > 0).sum())
    fields = {"count": max(1, int(share * rows)), "replacement": replacement}
    copies, said, state = by_weight(weights, **fields)
    reachable = fields["count"] if replacement else min(fields["count"], positive)
    assert copies.sum() == state["draws"] == reachable
    assert (state["wanted"], state["positive"]) == (fields["count"], positive)
    assert (np.count_nonzero(copies), copies.max()) == (state["unique"], state["most_copies"])
    assert replacement or copies.max() == 1
    assert [why == UNSCORED for why in said] == np.isnan(weights).tolist()
    assert [why == "zero_weight" for why in said] == (weights == 0).tolist()
    mixed = [np.sort(part) for part in np.array_split(rng.permutation(rows), 4)]
    again, _, other = by_weight(weights, parts=mixed, **fields)
    assert (again == copies).all()
    assert {k: str(v) for k, v in other.items()} == {k: str(v) for k, v in state.items()}


@pytest.mark.parametrize("replacement", [False, True])
def test_more_takes_nobody_away(replacement):
    before = np.zeros(400, dtype=np.int64)
    for count in (1, 100, 250, 399, 400):
        copies, _, _ = by_weight(WEIGHTS, count=count, replacement=replacement)
        assert (copies >= before).all()
        assert copies.sum() == count
        before = copies


def test_a_fraction_is_of_all_rows_taken_as_written():
    weights = np.where(np.arange(100) < 40, np.nan, 1.0)
    assert by_weight(weights, fraction=0.29)[0].sum() == 29
    assert by_weight(weights, fraction=0.61)[0].sum() == 60
    assert by_weight(weights, fraction=2.5, replacement=True)[0].sum() == 250


def test_who_comes_too_often_goes_altogether():
    weights = np.array([1000.0, *[1.0] * 500])
    copies, said, state = by_weight(weights, count=600, replacement=True, at_most=100)
    without, _, plain = by_weight(weights, count=600, replacement=True)
    assert without[0] == plain["most_copies"] > 300
    assert said[0] == "too_many_copies"
    assert (copies[1:] == without[1:]).all()
    assert copies.sum() == 600 - without[0]
    assert (state["discarded_rows"], state["discarded_copies"]) == (1, without[0])
    _, said, state = by_weight(weights, count=600, replacement=True, at_most=1)
    assert said.count("too_many_copies") == (without > 1).sum() == state["discarded_rows"]
    assert state["discarded_copies"] == without[without > 1].sum()


# --- DataComp's text and image sampling

ENTRIES = [[0], [0], [0], [0, 1], [0, 2], [1], [], None, [2], [0], [0], [0]]


def of_entries(alpha, combine):
    """[N] weights by the formula of the paper; N counts the samples of each entry."""
    counts = np.bincount([e for own in ENTRIES for e in own or []])
    found = []
    for own in ENTRIES:
        each = [counts[entry] ** (alpha - 1.0) for entry in own or []]
        found.append((max(each) if combine == "max" else np.mean(each)) if each else 0.0)
    return np.array(found)


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -40.0])
def test_samples_are_weighted_by_how_rare_their_entries_are(alpha, combine):
    series = pl.Series(ENTRIES, dtype=pl.List(pl.UInt32))
    by = {"concepts": "concepts", "alpha": alpha, "combine": combine}
    for fields in ({"count": 3}, {"count": 500, "replacement": True}):
        copies, said, _ = sampled("concepts.entries", series, parts=3, **by, **fields)
        assert (copies == by_weight(of_entries(alpha, combine), **fields)[0]).all()
        assert (said[6], said[7]) == ("unmatched", UNSCORED)
    weights = of_entries(alpha, combine)
    expected = 500 * weights / weights.sum()
    assert (abs(copies - expected) < 5 * np.sqrt(expected) + 1).all()


def test_clusters_are_drawn_by_a_power_of_their_size():
    clusters = pl.Series([*[7] * 1600, *[900_000] * 100, None], dtype=pl.UInt32)
    for alpha, share in ((1.0, 16 / 17), (0.5, 4 / 5), (0.0, 1 / 2)):
        fields = {"cluster": "coarse.cluster", "alpha": alpha, "count": 4000, "replacement": True}
        copies, said, state = sampled("coarse.cluster", clusters, parts=4, **fields)
        assert abs(copies[:1600].sum() / 4000 - share) < 5 * np.sqrt(share * (1 - share) / 4000)
        assert said[-1] == UNSCORED
        assert state["counts"].tolist() == [1600, 100]


def test_nothing_that_matches_leaves_nobody_and_is_counted():
    series = pl.Series([[], None, []], dtype=pl.List(pl.UInt32))
    fields = {"concepts": "concepts", "alpha": 0.5, "count": 2}
    copies, said, state = sampled("concepts.entries", series, **fields)
    assert (copies.sum(), state["draws"], state["wanted"]) == (0, 0, 2)
    assert said == ["unmatched", UNSCORED, "unmatched"]
    nobody = sampled("coarse.cluster", [None, None], cluster="coarse.cluster", alpha=0.5, count=2)
    assert nobody[1] == [UNSCORED] * 2


# --- what may be given


@pytest.mark.parametrize("value", [-1.0, -math.inf, math.inf])
def test_a_weight_that_is_negative_or_infinite_is_refused_by_its_uid(value):
    weights = np.array([1.0, value, 2.0, value])
    first = min(f"{a:016x}{b:016x}" for a, b in uids_of(4)[[1, 3]].tolist())
    with pytest.raises(Unbound, match=re.escape(f"weight x.weight of {first} is {value}: ")):
        by_weight(weights, parts=2, count=2)


def test_zeros_alone_are_refused_and_no_weight_at_all_is_not():
    with pytest.raises(
        Unbound, match=r"x\.weight is 0 in all 2 rows that have one: nobody can win"
    ):
        by_weight([0.0, -0.0, math.nan], count=1)
    copies, said, state = by_weight([math.nan] * 3, count=1)
    assert (copies.sum(), said, state["draws"]) == (0, [UNSCORED] * 3, 0)
    ready = bound(column="x.weight", count=1)
    assert ready.finished(ready.fit(None, ready.start(Counts(9, 0))))
    by_size = bound(cluster="coarse.cluster", alpha=0.5, count=1)
    state = by_size.fit(None, by_size.start(Counts(9, 0)))
    assert by_size.finished(state)


def test_weights_at_the_ends_of_what_a_number_can_be():
    weights = [5e-324, 1.7e308, 1e-300, 1.0]
    assert by_weight(weights, count=4)[0].tolist() == [1, 1, 1, 1]
    assert by_weight(weights, count=3, replacement=True)[0].tolist() == [0, 3, 0, 0]
    assert by_weight([3], count=9, replacement=True)[0].tolist() == [9]
    assert by_weight([True, False, True], count=2)[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"count": 1}, NONE_GIVEN),
        ({"count": 1, "column": "a", "cluster": "b", "alpha": 0.5}, NONE_GIVEN),
        ({"column": "a"}, "give one of count and fraction"),
        ({"column": "a", "count": 1, "fraction": 0.5}, "give one of count and fraction"),
        ({"column": "a", "fraction": 1.5}, "a fraction of 1.5 takes `replacement: true`"),
        (
            {"column": "a", "count": 1, "at_most": 3},
            "at_most goes with `replacement: true`: else a sample comes once",
        ),
        (
            {"cluster": "a", "count": 1},
            "alpha goes with concepts or cluster, which need it; a column takes power",
        ),
        (
            {"column": "a", "count": 1, "alpha": 1},
            "alpha goes with concepts or cluster, which need it; a column takes power",
        ),
        (
            {"cluster": "a", "count": 1, "alpha": 1, "power": 2},
            "power goes with column: concepts and cluster take alpha",
        ),
        ({"column": "a", "count": 1, "combine": "max"}, "combine goes with concepts"),
    ],
)
def test_what_does_not_go_together_is_told(fields, said):
    assert WeightedSample(**fields).problems() == [said]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"column": "caption"}, "caption holds String: it takes a column of numbers"),
        ({"cluster": "x.weight", "alpha": 1}, "x.weight holds Float64: clusters are whole numbers"),
        (
            {"concepts": "other", "alpha": 1},
            "other is no `concepts` step before this one: concepts",
        ),
    ],
)
def test_a_column_of_something_else_is_refused(fields, said):
    with pytest.raises(Unbound, match=re.escape(said)):
        WeightedSample(count=1, **fields).bind(AVAILABLE)


def test_only_with_replacement_are_there_copies():
    assert bound(column="x.weight", count=1, replacement=True).makes_copies
    assert not bound(column="x.weight", count=1).makes_copies


# --- whole runs

LEARNT = {"levels": np.array([15]), "parents": np.zeros(0, dtype=np.int64)}


def samples(count=300):
    rng = np.random.default_rng(0)
    weight = np.where(rng.random(count) < 0.1, 0.0, rng.lognormal(0, 1, count))
    weight[::41] = np.nan
    clusters = rng.choice(15, count, p=rng.dirichlet(np.full(15, 0.7)))
    return pl.DataFrame({"uid": uids(count), "c": clusters, "d": 0.5, "weight": weight})


@pytest.mark.parametrize(
    "fields",
    [
        {"column": "weight", "count": 90},
        {"column": "weight", "fraction": 1.5, "replacement": True, "at_most": 9},
        {"cluster": "coarse.cluster", "alpha": 0.5, "fraction": 0.5},
        {"cluster": "coarse.cluster", "alpha": 0.0, "count": 200, "replacement": True},
    ],
)
def test_no_order_no_file_and_no_block_changes_who_stays(tmp_path, fields):
    frame = samples()
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (3, 70)]):
        mixed = frame[np.random.default_rng(number).permutation(frame.height)]
        step = {"weighted_sample": fields}
        shape = {"files": files, "rows_per_block": rows}
        pipeline = planted(tmp_path / str(number), mixed, LEARNT, step, **shape)
        assert pipeline.run().exit_code == 0
        text = (pipeline.work / "state" / "weighted_sample.json").read_text()
        ledger = ledger_of(pipeline.work)
        copies = dict(zip(ledger["uid"], ledger["copies"], strict=True))
        found.append((kept(pipeline), reasons(pipeline, frame["uid"]), copies, json.loads(text)))
        state = found[-1][-1]["states"]["weighted_sample"]
        discarded = state.get("discarded_copies", 0)
        assert sum(copies.values()) == state["draws"] - discarded
        assert len(np.load(pipeline.work / "subset.npy")) == sum(copies.values())
    assert found[0][:3] == found[1][:3]
    states = [one[3]["states"]["weighted_sample"] for one in found]
    for state in states:
        state["last"].pop(3)  # the address of the last draw's row: that of its file and place
    assert states[0] == states[1]


def test_a_run_weighs_captions_by_the_entries_that_they_match(tmp_path):
    captions = ["a red fox", "a fox", "one fox ", "a red owl", None, "a stone", "owl"]
    matched = [["fox", "red"], ["fox"], ["fox"], ["owl", "red"], None, [], ["owl"]]
    (tmp_path / "in").mkdir()
    (tmp_path / "entries.txt").write_text("fox\nowl\nred\n", encoding="utf-8")
    frame = pl.DataFrame({"uid": uids(7), "text": captions})
    frame.with_columns(url="http://h/" + pl.col("uid")).write_parquet(tmp_path / "in" / "0.parquet")
    steps = (
        {"concepts": {"entries": str(tmp_path / "entries.txt")}},
        {"weighted_sample": {"concepts": "concepts", "alpha": 0.0, "count": 3}},
    )
    pipeline = Pipeline(tmp_path, {"metadata": str(tmp_path / "in")}, steps)
    assert pipeline.where(run={"engine": "local"}).run().exit_code == 0
    counts = {"fox": 3, "owl": 2, "red": 2}
    weights = [np.mean([1 / counts[e] for e in own]) if own else 0.0 for own in matched]
    own = parse_uids(frame["uid"])
    drawn = chance.uniform(0, "weighted_sample", own)
    with np.errstate(divide="ignore"):
        times = -np.log(drawn) / np.array(weights)
    said = reasons(pipeline, frame["uid"])
    assert (said[4], said[5]) == (UNSCORED, "unmatched")
    assert sorted(np.flatnonzero(pl.Series(said).is_null())) == sorted(np.argsort(times)[:3])


def test_check_says_what_is_wrong(tmp_path):
    steps = (
        {"weighted_sample": {"column": "weight", "count": 3, "replacement": True}},
        {"where": {"sql": "weight > 0"}},
        {"weighted_sample": {"name": "again", "cluster": "weight", "alpha": 1, "count": 3}},
    )
    pipeline = planted(tmp_path, samples(9), LEARNT, *steps)
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(pipeline.file()))
    told = str(caught.value)
    assert "'weighted_sample' makes copies: no filter may come after it" in told
    assert "weight holds Float64: clusters are whole numbers" in told
