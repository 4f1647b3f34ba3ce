"""Soft cap sampling against the literal algorithm, and to the copy whatever the blocks."""

import json
import re
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curate import chance
from curate.check import compile_pipeline
from curate.errors import InvalidPipeline
from curate.pipeline_file.config import load
from curate.sample import parse_uids
from filters import UNSCORED, Batch, Counts, Unbound, _draws, structured
from filters._clocks import Race, arrivals
from filters._schedule import Lattice, added, schedule
from filters.soft_cap import SoftCap
from tests.planted_clusters import uids as spelt_uids
from tests.soft_cap_reference import soft_cap
from tests.tiny_pool import Pipeline, ledger_of

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])


def uids_of(count):
    return np.frombuffer(np.random.default_rng(99).bytes(16 * count), UID)


def batches(scores, parts=1, seed=0, uids=None):
    """Survivors with these scores, in so many blocks, each block's rows in order."""
    own = uids_of(len(scores)) if uids is None else uids
    rows = np.arange(len(scores))
    split = parts if isinstance(parts, list) else np.array_split(rows, parts)
    return [
        Batch(
            structured({"mix.score": pl.Series(scores[some]).fill_nan(None)}, len(some)),
            own[some],
            some.astype(np.uint64),
            partial(chance.uniform, seed, "soft_cap", own[some]),
        )
        for some in split
    ]


def bound(**fields):
    made = SoftCap(name="soft_cap", **{"column": "mix.score", **fields})
    assert made.problems() == []
    return made.bind({"mix.score": "Float64"})


def fitted(ready, parts, rows):
    """(state, passes), as the engine learns it."""
    state, passes = ready.start(Counts(10**9, rows)), 0
    while not ready.finished(state):
        total = None
        for part in parts[::-1]:
            summary = ready.summarize(part, state)
            total = summary if total is None else ready.merge(total, summary)
        state = json.loads(json.dumps(ready.fit(total, state), allow_nan=False))
        passes += 1
        assert passes < 12
    return state, passes


def sampled(scores, parts=1, seed=0, **fields):
    """([N] copies, state) of the rows in their own order."""
    scores = np.asarray(scores, dtype=np.float64)
    blocks = batches(scores, parts, seed)
    ready = bound(**fields)
    state, _ = fitted(ready, blocks, len(scores))
    copies = np.zeros(len(scores), dtype=np.int64)
    for block in blocks:
        copies[block.addresses.astype(np.int64)] = ready.keep(block, state).copies
    return copies, state


# --- against the literal algorithm

NORMAL = np.random.default_rng(0).normal(0, 2.5, 6000)
WIDE = np.random.default_rng(1).normal(0, 6, 6000)
HEAVY = 5 * np.random.default_rng(2).standard_cauchy(6000)
SEEDS = 12


@pytest.mark.parametrize(
    ("scores", "batch"),
    [
        pytest.param(NORMAL, 30, id="as published"),
        pytest.param(NORMAL, 1200, id="few batches"),
        pytest.param(WIDE, 60, id="wide"),
        pytest.param(HEAVY, 60, id="heavy tail"),
        pytest.param(np.zeros(6000), 60, id="equal"),
    ],
)
def test_who_is_drawn_and_how_often_is_as_batch_after_batch(scores, batch):
    draws, alpha = len(scores), 0.15
    rngs = [np.random.default_rng((7, seed)) for seed in range(SEEDS)]
    literal = np.stack([soft_cap(scores, draws, batch, alpha, rng) for rng in rngs])
    fields = {"draws": draws, "batch": batch, "alpha": alpha}
    ours = np.stack([sampled(scores, seed=seed, **fields)[0] for seed in range(SEEDS)])
    assert (ours.sum(axis=1) == draws).all()
    by_score = np.split(np.argsort(scores), (np.array([0.5, 0.8, 0.95, 0.99]) * draws).astype(int))
    figures = [
        lambda copies: (copies > 0).sum(axis=1),
        lambda copies: (copies > 1).sum(axis=1),
        lambda copies: copies.max(axis=1),
        *(lambda copies, rows=rows: copies[:, rows].mean(axis=1) for rows in by_score),
        *(lambda copies, rows=rows: copies[:, rows].std(axis=1) for rows in by_score[2:]),
    ]
    for number, figure in enumerate(figures):
        one, other = figure(literal), figure(ours)
        error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / SEEDS)
        off = abs(one.mean() - other.mean())
        assert off <= 4.5 * error + 0.004 * abs(one.mean()) + 1e-9, (number, one, other)


def test_each_batch_is_as_large_as_it_should_be_and_has_nobody_twice():
    scores, batch = HEAVY, 300
    lattice = Lattice(0.15)
    plan = schedule(lattice, lattice.histogram(scores), batch, 9000.0)
    assert plan.closed
    assert len(plan.ends) == 30
    found = np.zeros(31)
    for seed in range(20):
        uniform = np.random.default_rng(seed).random(len(scores))
        drawn = arrivals(scores, uniform, Race(0.15, plan.ends, closed=True), (-np.inf, np.inf))
        number = np.searchsorted(plan.ends, drawn.times, side="right")
        pairs = np.stack([drawn.rows, number])
        assert len(np.unique(pairs, axis=1).T) == len(drawn.rows)
        found += np.bincount(number, minlength=31)
    assert found[30] == 0
    assert abs(found[:30] / 20 - batch).max() < 5 * np.sqrt(batch / 20)


def test_batches_of_one_are_drawn_one_after_the_other():
    """Of four samples, all ways to draw two: the chances are known."""
    scores = np.log([4.0, 3.0, 2.0, 1.0])
    chances = np.zeros((4, 4))
    weights = np.exp(scores)
    for first in range(4):
        after = np.where(np.arange(4) == first, weights * np.exp(-0.5), weights)
        chances[first] = weights[first] / weights.sum() * after / after.sum()
    plan = schedule(Lattice(0.5), Lattice(0.5).histogram(scores), 1, 30.0)
    assert len(plan.ends) == 0
    uniform = np.random.default_rng(0).random(4 * 20_000)
    drawn = arrivals(np.tile(scores, 20_000), uniform, Race(0.5), (-np.inf, plan.times[-1]))
    order = np.lexsort((drawn.times, drawn.rows // 4))
    each = np.bincount(drawn.rows // 4, minlength=20_000)
    firsts = (np.cumsum(each) - each)[each >= 2]
    assert len(firsts) == 20_000
    pairs = drawn.rows[order[np.stack([firsts, firsts + 1])]] % 4
    found = np.bincount(4 * pairs[0] + pairs[1], minlength=16).reshape(4, 4) / 20_000
    np.testing.assert_allclose(found, chances, atol=5 * 0.5 / np.sqrt(20_000))


# --- laws


@settings(max_examples=30)
@given(
    rows=st.integers(1, 60),
    share=st.floats(0.05, 6),
    alpha=st.sampled_from([0.001, 0.15, 3.0]),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_the_total_is_exact_and_no_block_matters(rows, share, alpha, scale, seed):
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(rows) < 0.1, np.nan, np.round(rng.normal(0, scale, rows), 1))
    fields = {"draws": max(1, int(share * rows)), "alpha": alpha}
    together, state = sampled(scores, **fields)
    scored = int((~np.isnan(scores)).sum())
    assert state["scored"] == scored
    assert together.sum() == state["draws"] == (fields["draws"] if scored else 0)
    assert (np.count_nonzero(together), together.max()) == (state["unique"], state["most_copies"])
    if scored:
        assert state["effective"] == together.sum() ** 2 / (together**2).sum()
    mixed = np.array_split(rng.permutation(rows), 4)
    apart, other = sampled(scores, parts=[np.sort(part) for part in mixed], **fields)
    assert (apart == together).all()
    assert other == state


def test_a_last_draw_that_is_not_where_it_was_expected_is_found_all_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 2.5, 40_000)
    expected, state = sampled(scores, draws=50_000)
    monkeypatch.setattr(_draws, "_SPREAD", 0.0)
    monkeypatch.setattr(_draws, "_DOUBT", 0.0)
    monkeypatch.setattr(_draws, "_SPARE", 1.0)
    monkeypatch.setattr(_draws, "_FEW", 0)
    blocks = batches(scores, 3)
    for draws in (50_000, 45_000):
        ready = bound(draws=draws, batch=32)
        known, passes = fitted(ready, blocks, 40_000)
        copies = np.concatenate([ready.keep(block, known).copies for block in blocks])
        assert copies.sum() == draws
        if draws == 50_000:
            assert passes > 2
            assert (copies == expected).all()
            assert known["last"] == state["last"]


def test_more_draws_take_no_copy_away():
    for scores in (NORMAL, HEAVY):
        before = np.zeros(len(scores), dtype=np.int64)
        for draws in (1, 3000, 6000, 6001, 20_000):
            copies, _ = sampled(scores, draws=draws)
            assert (copies >= before).all()
            assert copies.sum() == draws
            before = copies


def test_samples_of_one_uid_are_told_apart_by_where_they_are():
    """They have the same random numbers, so that all their draws come at the same time."""
    own = uids_of(1)[[0] * 9]
    ready = bound(draws=13, batch=1)
    block = batches(np.ones(9), uids=own)[0]
    state, _ = fitted(ready, [block], 9)
    assert ready.keep(block, state).copies.tolist() == [2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_scores_far_from_nought_are_those_at_nought():
    """Softmax does not know where scores begin; nor do histograms."""
    fields = {"draws": 6000, "batch": 60}
    plain, state = sampled(np.round(NORMAL * 64) / 64, **fields)
    far, other = sampled(np.round(NORMAL * 64) / 64 + 2**20, **fields)
    assert (far != plain).sum() < 20
    assert abs(other["log_time"] + 2**20 - state["log_time"]) < 1e-2


def test_the_temperature_divides_the_scores():
    fields = {"draws": 6000, "batch": 60}
    plain, state = sampled(NORMAL, **fields)
    scaled, other = sampled(NORMAL / 4, temperature=0.25, **fields)
    assert (plain == scaled).all()
    assert (state["temperature"], other["temperature"]) == (1.0, 0.25)
    assert sampled(NORMAL, temperature=4.0, **fields)[1]["unique"] > 1.5 * state["unique"]


def test_histograms_add_up_however_they_are_split():
    rng = np.random.default_rng(4)
    z = np.concatenate([rng.normal(0, 3, 500), 1e4 * rng.standard_cauchy(500), [1e300, -1e300, 0]])
    lattice = Lattice(0.15, 0.7)
    whole = lattice.histogram(z)
    parts = [lattice.histogram(part) for part in np.array_split(rng.permutation(z), 5)]
    total = lattice.histogram(z[:0])
    for part in parts:
        total = added(part, total)
    assert (total == whole).all()
    places = lattice.places(whole) * lattice.width + lattice.centre
    assert (np.diff(places) > 0).all()
    near = np.abs(places) < 400
    mean = (places * whole[1])[near].sum() / whole[1][near].sum()
    assert abs(mean - z[np.abs(z) < 400].mean()) < 0.01


# --- what may be given


def test_one_row_and_none():
    assert sampled([3.0], draws=5)[0].tolist() == [5]
    copies, state = sampled([np.nan, np.nan], draws=5)
    assert (copies.tolist(), state["draws"], state["wanted"]) == ([0, 0], 0, 5)
    ready = bound(draws_fraction=0.3)
    state = ready.fit(None, ready.start(Counts(9, 0)))
    assert ready.finished(state)
    copies, state = sampled([1.0, 2.0, 3.0], draws_fraction=0.3)  # less than one draw
    assert (copies.tolist(), state["draws"]) == ([0, 0, 0], 0)


def test_a_batch_of_all_rows_draws_each_of_them_every_time():
    copies, _ = sampled([0.0, 5.0, -50.0, 700.0], draws=13, batch=4)
    assert sorted(copies.tolist()) == [3, 3, 3, 4]


def test_who_has_no_score_is_unscored_and_who_is_not_drawn_is_told():
    scores = np.array([9.0, np.nan, -9.0, 9.0])
    block = batches(scores)[0]
    ready = bound(draws=2, batch=2)
    state, _ = fitted(ready, [block], 4)
    said = ready.keep(block, state)
    assert said.reason.to_list() == [None, UNSCORED, "not_drawn", None]
    assert said.copies.tolist() == [1, 0, 0, 1]
    shown = ready.shows(state)
    assert (shown.columns, shown.scores) == (("mix.score",), ("mix.score",))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e308, -2e7])
def test_an_infinite_score_is_refused_by_its_uid(value):
    scores = np.array([1.0, value, 2.0, value])
    first = min(f"{a:016x}{b:016x}" for a, b in uids_of(4)[[1, 3]].tolist())
    said = f"the score mix.score of {first} is {value}, and divided by the temperature 1.0"
    with pytest.raises(Unbound, match=re.escape(said)):
        sampled(scores, parts=2, draws=2)
    with pytest.raises(Unbound, match=r"is 2\.0, and divided by the temperature 1e-308"):
        sampled([2.0], draws=2, temperature=1e-308)


def test_a_batch_of_more_than_all_is_refused():
    said = "batch 100000 is above the 3 rows that have a score, and a batch is of distinct rows"
    with pytest.raises(Unbound, match=said):
        sampled([1.0, 2.0, 3.0, np.nan], draws=2, batch=100_000)


def test_more_batches_than_can_be_looked_at_are_refused(monkeypatch):
    monkeypatch.setattr("filters._schedule.MOST_BATCHES", 50)
    with pytest.raises(Unbound, match="6000 draws by 2 are more than"):
        sampled(HEAVY, draws=6000, batch=2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give one of draws and draws_fraction"),
        ({"draws": 3, "draws_fraction": 0.5}, "give one of draws and draws_fraction"),
    ],
)
def test_one_number_of_draws_is_given(fields, said):
    assert SoftCap(column="a.score", **fields).problems() == [said]


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": -1.0}, {"alpha": 0}, {"batch": 0}, {"draws": 0}],
)
def test_nothing_is_nought_or_less(fields):
    with pytest.raises(ValidationError, match="greater than"):
        SoftCap(**{"draws": 1, **fields})


def test_the_column_is_the_only_score():
    made = SoftCap(draws=1)
    assert made.bind({"mix.score": "Float64", "width": "Int64"}).needs() == ("mix.score",)
    with pytest.raises(Unbound, match=r"several columns give a score: a\.score, b\.score"):
        made.bind({"a.score": "Float64", "b.score": "Float64"})
    with pytest.raises(Unbound, match="no column gives a score: name a column"):
        made.bind({"caption": "String"})
    with pytest.raises(Unbound, match="caption holds String"):
        SoftCap(draws=1, column="caption").bind({"caption": "String"})


# --- whole runs


def pool(folder, scores, files):
    """A folder of metadata with a score each."""
    frame = pl.DataFrame({"uid": spelt_uids(len(scores)), "logit": scores})
    frame = frame.with_columns(url="http://h/" + pl.col("uid"))
    (folder / "in").mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(frame.height), files)):
        frame[rows].write_parquet(folder / "in" / f"{number:08d}.parquet")
    return {"metadata": str(folder / "in")}, frame


def test_a_run_draws_as_the_filter_alone_and_its_subset_has_the_repeats(tmp_path):
    scores = np.where(np.arange(400) % 57 == 3, np.nan, NORMAL[:400])
    step = {"soft_cap": {"column": "logit", "draws": 500, "alpha": 0.2}}
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (3, 90)]):
        given, frame = pool(tmp_path / str(number), scores, files)
        fields = {"rows_per_block": rows, "run": {"engine": "local"}}
        pipeline = Pipeline(tmp_path / str(number), given, (step,)).where(**fields)
        assert pipeline.run().exit_code == 0
        report = json.loads((pipeline.work / "report" / "report.json").read_text())
        found.append((np.load(pipeline.work / "subset.npy").tolist(), report["steps"][-1]))
        told = json.dumps(report)
        for name in ("temperature", "alpha", "unique", "most_copies", "effective"):
            assert f'"{name}"' in told
    assert found[0] == found[1]
    assert len(found[0][0]) == 500
    ledger = ledger_of(pipeline.work)
    assert ledger["copies"].sum() == 500
    assert set(ledger["reason"]) == {None, UNSCORED, "not_drawn"}
    own = parse_uids(frame["uid"])
    blocks = batches(frame["logit"].to_numpy(), uids=own)
    ready = bound(draws=500, alpha=0.2)
    state, _ = fitted(ready, blocks, 400)
    expected = dict(zip(frame["uid"], ready.keep(blocks[0], state).copies, strict=True))
    assert dict(zip(ledger["uid"], ledger["copies"], strict=True)) == expected


def test_no_filter_comes_after_it(tmp_path):
    given, _ = pool(tmp_path, NORMAL[:9], 1)
    steps = (
        {"soft_cap": {"column": "logit", "draws": 5}},
        {"where": {"sql": "logit > 0"}},
        {"soft_cap": {"name": "again", "column": "url", "draws": 5}},
    )
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(Pipeline(tmp_path, given, steps).file()))
    assert "'soft_cap' makes copies: no filter may come after it" in str(caught.value)
    assert "url holds String" in str(caught.value)
