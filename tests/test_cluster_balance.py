"""Hierarchical sampling: quotas against the paper's recursion, and whole runs to the row."""

import json
import re
from itertools import pairwise

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
from filters import Batch, Counts, Unbound, structured
from filters.cluster_balance import ClusterBalance
from tests.planted_clusters import kept, planted, reasons, uids

AVAILABLE = {"coarse.cluster": "UInt32", "coarse.distance": "Float32"}
FLAT = {"levels": np.array([15]), "parents": np.zeros(0, dtype=np.int64)}


def bound(**fields):
    made = ClusterBalance(name="balance", **fields)
    assert made.problems() == []
    return made.bind(AVAILABLE)


def batch(clusters):
    count = len(clusters)
    series = {
        "coarse.cluster": pl.Series(clusters, dtype=pl.UInt32),
        "coarse.distance": pl.Series([0.5] * count, dtype=pl.Float32),
    }
    numbers = np.arange(count, dtype=np.uint64)
    return Batch(structured(series, count), numbers, numbers, lambda _: np.zeros(count))


def learnt_of(levels, parents):
    whole = np.concatenate([np.zeros(0, dtype=np.int64), *parents])
    return {"coarse.levels": np.array(levels), "coarse.parents": whole}


def fitted(ready, clusters, learnt, rows=None):
    counts = Counts(10**6, len(clusters) if rows is None else rows)
    return json.loads(json.dumps(ready.fit(ready.summarize(batch(clusters)), counts, learnt)))


def by_recursion(sizes, parents, total):
    """[K_1] by the paper: the cut of the top level, and of each of its clusters in turn."""
    levels = [np.asarray(sizes)]
    for parent in parents:
        counts = parent.max(initial=-1) + 1
        levels.append(np.bincount(parent, weights=levels[-1], minlength=counts).astype(int))
    quota = np.zeros(len(sizes), dtype=np.int64)

    def cut(own, level, total):
        n = 0
        while np.minimum(n + 1, levels[level][own]).sum() <= total and n <= max(levels[level][own]):
            n += 1
        given = np.minimum(n, levels[level][own])
        larger = np.flatnonzero(levels[level][own] > n)
        given[larger[: total - given.sum()]] += 1
        for one, number in zip(own, given, strict=True):
            if level == 0:
                quota[one] = number
            elif number:
                cut(np.flatnonzero(parents[level - 1] == one), level - 1, number)

    if total:
        cut(np.arange(len(levels[-1])), len(levels) - 1, total)
    return quota


@st.composite
def hierarchies(draw):
    """(sizes of the finest clusters, parents of each level but the last)."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=20))
    parents, count = [], len(sizes)
    for _ in range(draw(st.integers(0, 3))):
        above = draw(st.integers(1, count))
        found = draw(st.lists(st.integers(0, above - 1), min_size=count, max_size=count))
        parents.append(np.array([*found[:-1], above - 1]))  # none but the last may be nobody's
        count = above
    return sizes, parents


@settings(max_examples=200)
@given(hierarchy=hierarchies(), keep=st.sampled_from([0.01, 0.2, 0.29, 0.5, 0.93, 1.0]))
def test_quotas_are_those_of_the_recursion(hierarchy, keep):
    sizes, parents = hierarchy
    levels = [len(sizes), *(int(parent.max()) + 1 for parent in parents)]
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    state = fitted(bound(keep=keep), clusters, learnt_of(levels, parents))
    total = int(round(keep * 100) * len(clusters) // 100)
    assert state["quota"] == by_recursion(sizes, parents, total).tolist()
    assert sum(state["quota"]) == total == state["kept"] == state["wanted"]
    assert (np.array(state["quota"]) <= sizes).all()
    assert state["levels"] == len(levels)
    assert state["most_of_a_cluster"] == max(state["quota"])


def test_a_concept_of_many_clusters_gets_no_more_than_one_of_few():
    """Nine clusters of dogs and one of owls: flat, owls are a tenth; by two levels, half."""
    clusters = np.repeat(np.arange(10), 20)
    parents = np.array([0] * 9 + [1])
    flat = fitted(bound(keep=0.2), clusters, learnt_of([10], []))
    assert flat["quota"] == [4] * 10
    deep = fitted(bound(keep=0.2), clusters, learnt_of([10, 2], [parents]))
    assert deep["quota"] == [3, 3, 2, 2, 2, 2, 2, 2, 2, 20]
    assert deep["clusters_kept_whole"] == 1


def test_a_hundred_thousand_clusters_of_four_levels():
    rng = np.random.default_rng(0)
    levels = [100_000, 5000, 500, 100]
    parents = [rng.integers(above, size=count) for count, above in pairwise(levels)]
    sizes = rng.geometric(0.2, 100_000) - 1
    clusters = np.repeat(np.arange(100_000), sizes)
    state = fitted(bound(keep=0.3), clusters, learnt_of(levels, parents))
    quota = np.array(state["quota"])
    assert quota.sum() == int(len(clusters) * 3 // 10)
    top = parents[2][parents[1][parents[0]]]
    of_top = np.bincount(top, weights=quota, minlength=100)
    whole = np.bincount(top, weights=sizes, minlength=100)
    assert np.ptp(of_top[of_top < whole]) <= 1


@pytest.mark.parametrize("fields", [{"keep": 1.0}, {"keep_count": 120}, {"keep_count": 10**12}])
def test_more_than_there_is_keeps_all_and_says_so(fields):
    state = fitted(
        bound(**fields),
        np.repeat([0, 3, 9], [100, 1, 19]),
        {f"coarse.{k}": v for k, v in FLAT.items()},
    )
    assert [n for n in state["quota"] if n] == [100, 1, 19]
    assert (state["kept"], state["wanted"]) == (120, fields.get("keep_count", 120))
    assert state["clusters_kept_whole"] == state["clusters"] == 3


def test_nobody_and_one():
    learnt = learnt_of([3, 1], [np.zeros(3, dtype=int)])
    assert bound(keep=0.5).fit(None, Counts(9, 0), learnt)["quota"] == [0, 0, 0]
    assert fitted(bound(keep=0.5), [], learnt)["kept"] == 0
    assert fitted(bound(keep=0.5), [None, None], learnt)["scored"] == 0
    assert fitted(bound(keep=0.5), [1], learnt)["quota"] == [0, 0, 0]
    assert fitted(bound(keep=0.5), [1, 1], learnt)["quota"] == [0, 1, 0]
    assert fitted(bound(keep=0.5), [2] * 9, learnt)["quota"] == [0, 0, 4]


@pytest.mark.parametrize(
    ("levels", "parents", "said"),
    [
        ([3], [], "coarse.cluster holds 7, and coarse.levels says 3 clusters"),
        ([9, 2], [[0] * 8], r"coarse.parents are 8, and coarse.levels \[9, 2\]: .* 9 clusters"),
        ([9, 2], [[0] * 8 + [2]], "coarse.parents of level 1 are 0 to 2, .* next level has 2"),
    ],
)
def test_a_hierarchy_that_does_not_hang_together_is_refused(levels, parents, said):
    with pytest.raises(Unbound, match=said):
        fitted(bound(keep=0.5), [7], learnt_of(levels, parents))


# --- whole runs


def samples(count=300, seed=0):
    rng = np.random.default_rng(seed)
    clusters = rng.choice(15, count, p=rng.dirichlet(np.full(15, 0.7)))
    distances = np.round(rng.random(count), 1)
    return pl.DataFrame({"uid": uids(count), "c": clusters, "d": distances})


def quota_of(pipeline):
    text = (pipeline.work / "state" / "cluster_balance.json").read_text()
    return json.loads(text)["states"]["cluster_balance"]["quota"]


HIERARCHY = {"levels": np.array([15, 4]), "parents": np.arange(15) % 4}


@pytest.mark.parametrize("choice", ["closest", "random"])
def test_so_many_of_each_cluster_stay(tmp_path, choice):
    frame = samples()
    step = {"cluster_balance": {"clusters": "coarse", "keep": 0.4, "choice": choice}}
    pipeline = planted(tmp_path, frame, HIERARCHY, step, files=3, rows_per_block=70)
    assert pipeline.run().exit_code == 0
    drawn = chance.uniform(0, "cluster_balance", parse_uids(frame["uid"]), "choice")
    ranked = frame.with_columns(worse=pl.col("d") if choice == "closest" else pl.lit(-drawn))
    ranked = ranked.sort("c", "worse", "uid").with_columns(rank=pl.int_range(pl.len()).over("c"))
    limit = pl.col("c").replace_strict(dict(enumerate(quota_of(pipeline))))
    assert kept(pipeline) == sorted(ranked.filter(pl.col("rank") < limit)["uid"])
    assert len(kept(pipeline)) == 120
    assert set(reasons(pipeline, frame["uid"])) == {None, "over_quota"}


def test_no_order_no_file_and_no_block_changes_who_stays(tmp_path):
    """With uids that repeat, and samples without a cluster."""
    frame = samples(200)
    frame = pl.concat([frame, frame[:30]]).with_columns(
        c=pl.when(pl.int_range(pl.len()) % 23 == 4).then(None).otherwise("c")
    )
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (4, 50), (7, 33)]):
        mixed = frame[np.random.default_rng(number).permutation(frame.height)]
        pipeline = planted(
            tmp_path / str(number),
            mixed,
            HIERARCHY,
            {"cluster_balance": {"keep": 0.4}},
            files=files,
            rows_per_block=rows,
        )
        assert pipeline.run().exit_code == 0
        found.append((kept(pipeline), quota_of(pipeline)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 92


@pytest.mark.parametrize("choice", ["closest", "random"])
def test_only_what_decides_must_be_there(tmp_path, choice):
    frame = samples(60).with_columns(
        c=pl.when(pl.int_range(60) == 3).then(None).otherwise("c"),
        d=pl.when(pl.int_range(60) == 5).then(float("nan")).otherwise("d"),
    )
    step = {"cluster_balance": {"keep": 1.0, "choice": choice}}
    pipeline = planted(tmp_path, frame, FLAT, step)
    assert pipeline.run().exit_code == 0
    said = reasons(pipeline, frame["uid"])
    unscored = [3, 5] if choice == "closest" else [3]
    assert [n for n, why in enumerate(said) if why == "unscored"] == unscored
    assert len(kept(pipeline)) == 60 - len(unscored)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give one of keep and keep_count"),
        ({"keep": 0.5, "keep_count": 3}, "give one of keep and keep_count"),
        ({"keep": 2}, "less than or equal to 1"),
        ({"keep": 0.5, "choice": "hard"}, "'random' or 'closest'"),
        ({"keep": 0.5, "clusters": "fine"}, "fine is no step before this one"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, said):
    pipeline = planted(tmp_path, samples(9), FLAT, {"cluster_balance": fields})
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(pipeline.file()))
    assert re.search(said, str(caught.value))
