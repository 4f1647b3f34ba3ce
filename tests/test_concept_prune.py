"""Density-Based Pruning: its numbers against a few lines of numpy, and whole runs to the row."""

import json
import re
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance
from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.pipeline_file.config import load
from curate.sample import make_uids
from filters import Batch, Counts, Unbound, concept_prune, structured
from filters.concept_prune import ConceptPrune, distances_to_others, softmax
from tests.planted_clusters import kept, planted, reasons, uids

AVAILABLE = {"coarse.cluster": "UInt32", "coarse.distance": "Float32"}


def batch(clusters, distances):
    series = {
        "coarse.cluster": pl.Series(clusters, dtype=pl.UInt32),
        "coarse.distance": pl.Series(distances, dtype=pl.Float32).fill_nan(None),
    }
    count = len(series["coarse.cluster"])
    numbers = np.arange(count, dtype=np.uint64)
    ids = make_uids(numbers * np.uint64(0x9E3779B97F4A7C15), numbers)
    return Batch(structured(series, count), ids, numbers, partial(chance.uniform, 0, "test", ids))


def bound(**fields):
    made = ConceptPrune(name="prune", **fields)
    assert made.problems() == []
    return made.bind(AVAILABLE)


def fitted(ready, clusters, distances, centroids=None, rows=None):
    summary = ready.summarize(batch(clusters, distances))
    learnt = {} if centroids is None else {"coarse.centroids": centroids}
    state = ready.fit(summary, Counts(10**6, len(clusters) if rows is None else rows), learnt)
    return json.loads(json.dumps(state, allow_nan=False))


def pool(count, clusters, seed=0):
    """Clusters of very different sizes, some of them empty, and distances."""
    rng = np.random.default_rng(seed)
    weights = rng.gamma(0.4, size=clusters)
    numbers = rng.choice(clusters, count, p=weights / weights.sum())
    distances = rng.beta(2, 5, count) * rng.gamma(5, 0.2, clusters)[numbers]
    return numbers, np.minimum(distances, 2).astype(np.float32), rng.normal(size=(clusters, 12))


# --- how far centroids are apart


def apart(centroids, neighbours):
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    wanted = min(neighbours, len(unit) - 1)
    return 1 - np.sort(products, axis=1)[:, -wanted:].mean(axis=1)


@pytest.mark.parametrize(("count", "neighbours"), [(2, 20), (20, 20), (21, 20), (22, 20), (90, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_centroids_are_compared_with_the_nearest_others(count, neighbours, dtype, monkeypatch):
    monkeypatch.setattr(concept_prune, "_ROWS", 7)
    monkeypatch.setattr(concept_prune, "_COLUMNS", 11)
    centroids = (np.random.default_rng(1).normal(size=(count, 40)) * 30).astype(dtype)
    found = distances_to_others(centroids, neighbours)
    np.testing.assert_allclose(found, apart(centroids.astype(float), neighbours), atol=1e-6)


def test_no_tile_and_no_order_changes_a_bit(monkeypatch):
    centroids = np.random.default_rng(2).normal(size=(130, 33)).astype(np.float32)
    whole = distances_to_others(centroids, 20)
    order = np.random.default_rng(3).permutation(130)
    monkeypatch.setattr(concept_prune, "_ROWS", 16)
    monkeypatch.setattr(concept_prune, "_COLUMNS", 9)
    assert distances_to_others(centroids[order], 20).tobytes() == whole[order].tobytes()


def test_a_centroid_is_not_its_own_neighbour_but_its_double_is():
    line = np.array([[1.0, 0], [2.0, 0], [0, 1.0], [-1.0, 0]])
    np.testing.assert_allclose(distances_to_others(line, 1), [0, 0, 1, 1], atol=1e-7)
    np.testing.assert_allclose(distances_to_others(line, 2), [0.5, 0.5, 1, 1.5], atol=1e-7)


def test_centroids_without_a_direction_are_nobodys_neighbours():
    rows = np.array([[1.0, 0], [0, 0], [np.nan, 1], [0, 1.0], [np.inf, 0]])
    np.testing.assert_allclose(distances_to_others(rows, 20), [1, np.nan, np.nan, 1, np.nan])
    assert np.isnan(distances_to_others(rows[:3], 20)).all(), "one alone has no other"
    opposite = np.array([[1.0, 0], [-1.0, 0], [0, 0]])
    np.testing.assert_allclose(distances_to_others(opposite, 1), [2, 2, np.nan])
    assert len(distances_to_others(rows[:0], 20)) == 0


# --- what it learns


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.9])
def test_quotas_are_those_of_the_paper(temperature, keep):
    numbers, distances, centroids = pool(3000, 40)
    state = fitted(bound(keep=keep, temperature=temperature), numbers, distances, centroids)
    alive = np.unique(numbers)
    size = np.bincount(numbers, minlength=40)[alive]
    intra = np.array([distances[numbers == n].mean(dtype=np.float64) for n in alive])
    complexity = apart(centroids, 20)[alive] * intra
    wanted = np.exp(complexity / temperature)
    total = int(keep * 3000)
    wanted *= total / wanted.sum()
    low, high = (wanted - size).min(), wanted.max()
    for _ in range(200):
        c = (low + high) / 2
        x = np.clip(wanted - c, np.minimum(1, size - 1), size)
        low, high = (c, high) if x.sum() > total else (low, c)
    quota = np.array(state["quota"])
    assert quota.sum() == total == state["kept"]
    assert np.abs(quota[alive] - x).max() < 1
    assert quota[np.setdiff1d(np.arange(len(quota)), alive)].tolist() == [0] * (
        len(quota) - len(alive)
    )
    assert state["clusters"] == len(alive) < 40
    assert state["clusters_kept_whole"] == (quota[alive] == size).sum()
    assert state["clusters_at_floor"] == ((quota[alive] <= 1) & (size > 1)).sum()
    assert state["mean_complexity"] == pytest.approx(complexity.mean(), abs=1e-6)


def test_so_many_neighbours_are_looked_at():
    numbers, distances, centroids = pool(500, 20)
    said = [
        fitted(bound(keep=0.5, neighbours=n), numbers, distances, centroids)["mean_complexity"]
        for n in (1, 5, 19, 20)
    ]
    assert said[0] < said[1] < said[2] == said[3]


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.floats(0, 2, width=32)), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    allocation=st.sampled_from(["density", "size", "distance"]),
)
def test_what_is_learnt_depends_on_no_order_and_no_division(rows, cuts, allocation):
    ready = bound(keep=0.4, allocation=allocation)
    learnt = {"coarse.centroids": np.random.default_rng(0).normal(size=(9, 5))}
    counts = Counts(len(rows), len(rows))

    def state(parts):
        total = None
        for part in parts:
            own = ready.summarize(batch([n for n, _ in part], [d for _, d in part]))
            total = own if total is None else ready.merge(own, total)
        return json.dumps(ready.fit(total, counts, learnt))

    places = sorted(min(cut, len(rows)) for cut in cuts)
    mixed = rows[::-1]
    parts = [mixed[a:b] for a, b in zip([0, *places], [*places, len(rows)], strict=True)]
    assert state(parts) == state([rows])


@pytest.mark.parametrize("temperature", [5e-324, 1e-9, 1e-3, 1e9])
def test_no_temperature_overflows(temperature):
    numbers, distances, centroids = pool(500, 20)
    state = fitted(bound(keep=0.5, temperature=temperature), numbers, distances, centroids)
    assert sum(state["quota"]) == 250
    assert softmax(np.array([1.0, 3.0, 2.0]), temperature=1e-9).tolist() == [0, 1, 0]


def test_sums_of_distances_are_exact():
    """2 ** 20 of one and a grain: a sum in float32 would lose the grains."""
    count = 1 << 14
    distances = np.full(count, 1.0, dtype=np.float32)
    distances[::2] += 2.0**-20
    centroids = np.eye(2)
    state = fitted(bound(keep=0.5), np.zeros(count, int), distances, centroids)
    assert state["mean_complexity"] == 1.0 + 2.0**-21


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
def test_each_cluster_keeps_its_share_of_an_equal_part(balance):
    numbers, distances, centroids = pool(3000, 40)
    state = fitted(
        bound(keep=0.3, temperature=0.01, balance=balance), numbers, distances, centroids
    )
    size = np.bincount(numbers)[np.unique(numbers)]
    floor = int(900 / len(size) * balance)
    assert state["floor"] == floor
    quota = np.array(state["quota"])[np.unique(numbers)]
    assert (quota >= np.minimum(floor, size - 1)).all()
    assert quota.sum() == 900


def test_fewer_samples_than_clusters_leave_no_floor():
    numbers, distances = np.repeat(np.arange(30), 10), np.linspace(0.1, 1, 300)
    centroids = np.random.default_rng(0).normal(size=(30, 8))
    state = fitted(bound(keep_count=7), numbers, distances, centroids)
    assert (sum(state["quota"]), state["floor"]) == (7, 0)
    state = fitted(bound(keep_count=30, temperature=1e-6), numbers, distances, centroids)
    assert (state["quota"], state["floor"]) == ([1] * 30, 1)


@pytest.mark.parametrize("fields", [{"keep": 1.0}, {"keep_count": 3000}, {"keep_count": 10**12}])
@pytest.mark.parametrize("allocation", ["density", "size", "distance"])
def test_more_than_there_is_keeps_all_and_says_so(fields, allocation):
    numbers, distances, centroids = pool(3000, 40)
    ready = bound(allocation=allocation, balance=0.5, **fields)
    state = fitted(ready, numbers, distances, centroids)
    assert state["quota"] == np.bincount(numbers).tolist()
    assert (state["kept"], state["wanted"]) == (3000, fields.get("keep_count", 3000))
    assert state["clusters_kept_whole"] == state["clusters"]


def test_the_share_is_of_all_rows_as_the_decimal_written():
    state = fitted(bound(keep=0.29), [0] * 60, [0.5] * 60, np.eye(3), rows=100)
    assert (state["wanted"], state["kept"], state["scored"]) == (29, 29, 60)


@pytest.mark.parametrize("allocation", ["density", "size", "distance"])
def test_nobody_one_and_one_cluster(allocation):
    ready = bound(keep=0.5, allocation=allocation)
    learnt = {"coarse.centroids": np.eye(3)}
    assert ready.fit(None, Counts(9, 0), learnt)["quota"] == []
    assert fitted(ready, [], [], np.eye(3))["kept"] == 0
    assert fitted(ready, [None, 2], [0.5, None], np.eye(3))["scored"] == 0
    assert fitted(ready, [2], [0.5], np.eye(3))["quota"] == [0, 0, 0]
    assert fitted(ready, [2, 2], [0.5, 0.0], np.eye(3))["quota"] == [0, 0, 1]
    assert fitted(ready, [0] * 10, [0.0] * 10, np.ones((1, 4)))["quota"] == [5]


def test_a_complexity_that_is_not_known_is_the_mean():
    centroids = np.array([[1.0, 0], [0, 1.0], [0, 0]])
    numbers, distances = [0, 0, 1, 1, 2, 2], [0.2, 0.2, 0.6, 0.6, 0.9, 0.9]
    ready = bound(keep=0.5)
    seen = ready.summarize(batch(numbers, distances))
    state = ready.fit(seen, Counts(6, 6), {"coarse.centroids": centroids})
    assert state["greatest_complexity"] == pytest.approx(0.6)
    assert state["mean_complexity"] == pytest.approx(0.4)


def test_what_does_not_fit_is_refused_with_both_values():
    with pytest.raises(Unbound, match=r"coarse.cluster holds 7, and coarse.centroids are 3"):
        fitted(bound(keep=0.5), [7], [0.5], np.eye(3))
    for strange in (37.0, -1.0):
        with pytest.raises(Unbound, match=rf"coarse.distance holds {strange}, and a distance"):
            fitted(bound(keep=0.5), [0], [strange], np.eye(3))


# --- other allocations


def hardest(numbers, distances, floors, total, sign):
    """The hardest `total` of all, but for those that each cluster keeps: one after the other."""
    order = np.argsort(-sign * distances, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    for n in np.unique(numbers):
        own = order[numbers[order] == n]
        rank[own] = np.arange(len(own))
    taken = rank < floors[numbers]
    for row in order:
        if taken.sum() == total:
            break
        taken[row] = True
    return np.bincount(numbers[taken], minlength=len(floors))


@pytest.mark.parametrize(("choice", "sign"), [("hard", 1), ("easy", -1)])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_allocation_by_distance_takes_the_hardest_of_all(choice, sign, balance):
    rng = np.random.default_rng(4)
    numbers = np.sort(rng.choice(9, 800, p=rng.dirichlet(np.ones(9))))
    distances = rng.permutation(np.arange(800) * 10 + 3) / 4096  # 0 to 2, no two of one step
    ready = bound(keep=0.37, allocation="distance", choice=choice, balance=balance)
    state = fitted(ready, numbers, distances)
    size = np.bincount(numbers, minlength=9)
    floor = int(296 / (size > 0).sum() * balance) if balance else 1
    floors = np.clip(np.minimum(floor, size - 1), 0, None)
    assert state["quota"] == hardest(numbers, distances, floors, 296, sign).tolist()


def test_distances_of_one_step_are_divided_in_proportion():
    state = fitted(bound(keep=0.5, allocation="distance"), [0] * 60 + [1] * 30, [0.5] * 90)
    assert state["quota"] == [30, 15]
    numbers = np.repeat([0, 1, 2], [400, 200, 100])  # 67 of 697 above the floors of 1
    state = fitted(bound(keep=0.1, allocation="distance"), numbers, [0.5] * 700)
    assert state["quota"] == [39, 20, 11]


def test_allocation_by_size_keeps_the_same_share_of_each():
    numbers = np.repeat([0, 1, 3], [100, 10, 1000])
    state = fitted(bound(keep=0.3, allocation="size"), numbers, np.full(1110, 0.1))
    assert state["quota"] == [30, 3, 0, 300]


# --- whole runs


def samples(count=400, clusters=15, seed=0):
    numbers, distances, centroids = pool(count, clusters, seed)
    distances = np.round(distances, 2)  # so that many tie
    frame = pl.DataFrame({"uid": uids(count), "c": numbers, "d": distances})
    return frame, {"centroids": centroids.astype(np.float32)}


def state_of(pipeline, name="concept_prune"):
    return json.loads((pipeline.work / "state" / f"{name}.json").read_text())["states"][name]


@pytest.mark.parametrize("choice", ["hard", "easy"])
def test_the_farthest_of_each_cluster_stay(tmp_path, choice):
    frame, learnt = samples()
    step = {"concept_prune": {"clusters": "coarse", "keep": 0.3, "choice": choice}}
    pipeline = planted(tmp_path, frame, learnt, step, files=3, rows_per_block=90)
    assert pipeline.run().exit_code == 0
    quota = state_of(pipeline)["quota"]
    ranked = frame.sort("c", "d", "uid", descending=[False, choice == "hard", False])
    ranked = ranked.with_columns(rank=pl.int_range(pl.len()).over("c"))
    limit = pl.col("c").replace_strict(dict(enumerate(quota)))
    assert kept(pipeline) == sorted(ranked.filter(pl.col("rank") < limit)["uid"])
    assert sum(quota) == 120
    assert set(reasons(pipeline, frame["uid"])) == {None, "over_quota"}


def test_any_of_each_cluster_stay_by_the_hash_of_their_uid(tmp_path):
    frame, learnt = samples()
    step = {"concept_prune": {"keep": 0.3, "choice": "random"}}
    pipeline = planted(tmp_path, frame, learnt, step)
    assert pipeline.run().exit_code == 0
    ids = make_uids(*(np.array([int(u[s], 16) for u in frame["uid"]], dtype=np.uint64)
                      for s in (slice(16), slice(16, 32))))  # fmt: skip
    drawn = chance.uniform(0, "concept_prune", ids, "choice")
    ranked = frame.with_columns(u=-drawn).sort("c", "u")
    ranked = ranked.with_columns(rank=pl.int_range(pl.len()).over("c"))
    limit = pl.col("c").replace_strict(dict(enumerate(state_of(pipeline)["quota"])))
    assert kept(pipeline) == sorted(ranked.filter(pl.col("rank") < limit)["uid"])


def test_no_order_no_file_and_no_block_changes_who_stays(tmp_path):
    """With uids that repeat, and samples that lack something."""
    frame, learnt = samples(300)
    frame = pl.concat([frame, frame[:40], frame[:9]]).with_columns(
        c=pl.when(pl.int_range(pl.len()) % 23 == 4).then(None).otherwise("c"),
        d=pl.when(pl.int_range(pl.len()) % 29 == 4).then(float("nan")).otherwise("d"),
    )
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (4, 50), (7, 33)]):
        order = np.random.default_rng(number).permutation(frame.height)
        step = {"concept_prune": {"keep": 0.4}}
        mixed = frame[order]
        pipeline = planted(
            tmp_path / str(number), mixed, learnt, step, files=files, rows_per_block=rows
        )
        assert pipeline.run().exit_code == 0
        found.append((kept(pipeline), state_of(pipeline)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == int(349 * 0.4)


def test_samples_without_a_cluster_or_a_distance_are_unscored(tmp_path):
    frame, learnt = samples(100)
    clusters = [None if n == 3 else c for n, c in enumerate(frame["c"])]
    distances = [
        float("nan") if n == 5 else None if n == 7 else d for n, d in enumerate(frame["d"])
    ]
    frame = frame.with_columns(c=pl.Series(clusters), d=pl.Series(distances))
    pipeline = planted(tmp_path, frame, learnt, {"concept_prune": {"keep": 1.0}})
    assert pipeline.run().exit_code == 0
    said = reasons(pipeline, frame["uid"])
    assert {n: why for n, why in enumerate(said) if why} == dict.fromkeys((3, 5, 7), "unscored")
    assert state_of(pipeline)["kept"] == 97
    assert state_of(pipeline)["wanted"] == 100


def test_nobody_reaches_it(tmp_path):
    frame, learnt = samples(20)
    nobody = {"where": "d > 5"}
    pipeline = planted(tmp_path, frame, learnt, nobody, {"concept_prune": {"keep": 0.5}})
    assert pipeline.run().exit_code == 0
    assert kept(pipeline) == []


def test_another_share_needs_no_new_clusters(tmp_path):
    frame, learnt = samples(200)
    pipeline = planted(tmp_path, frame, learnt, {"concept_prune": {"keep": 0.2}})
    pipeline.run()
    seal = pipeline.work / "features" / "coarse" / "fitted.json"
    before = seal.stat().st_mtime_ns
    few = set(kept(pipeline))
    pipeline.run("steps.concept_prune.temperature=0.5", "steps.concept_prune.keep=0.4")
    assert seal.stat().st_mtime_ns == before
    assert len(kept(pipeline)) == 80
    assert set(kept(pipeline)) != few


def test_what_was_not_learnt_is_refused(tmp_path):
    frame, _ = samples(20)
    pipeline = planted(tmp_path, frame, {}, {"concept_prune": {"keep": 0.5}})
    with pytest.raises(ConfigError, match=r"needs coarse\.centroids: coarse learns no 'centroids'"):
        pipeline.run()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give one of keep and keep_count"),
        ({"keep": 0.5, "keep_count": 3}, "give one of keep and keep_count"),
        ({"keep": 0.5, "allocation": "distance", "choice": "random"}, "choice: random does not"),
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.5}, "less than or equal to 1"),
        ({"keep_count": 0}, "greater than or equal to 1"),
        ({"keep": 0.5, "temperature": 0}, "greater than 0"),
        ({"keep": 0.5, "balance": 1.5}, "less than or equal to 1"),
        ({"keep": 0.5, "clusters": "fine"}, "fine is no step before this one .* do: coarse"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, said):
    frame, learnt = samples(9)
    pipeline = planted(tmp_path, frame, learnt, {"concept_prune": fields})
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(pipeline.file()))
    assert re.search(said, str(caught.value))


def test_one_step_of_clusters_is_found_and_several_are_asked_about():
    other = {"fine.cluster": "UInt32", "fine.distance": "Float32"}
    image = {"image_clusters.cluster": "UInt32"}
    assert ConceptPrune(keep=0.5).bind(AVAILABLE | image).clusters == "coarse"
    with pytest.raises(Unbound, match="coarse, fine; name one with `clusters:`"):
        ConceptPrune(keep=0.5).bind(AVAILABLE | other)
    with pytest.raises(Unbound, match=r"put `- clusters: \{...\}` before this step"):
        ConceptPrune(keep=0.5).bind(image)


@pytest.mark.parametrize(
    ("finder", "said"),
    [
        ({"metric": "l2", "assign": None, "parity": None}, "by `metric: l2`"),
        ({"metric": "cosine", "assign": "l2", "parity": None}, "by `assign: l2`"),
        ({"metric": "cosine", "assign": None, "parity": "datacomp"}, "by `parity: datacomp`"),
    ],
)
def test_distances_of_another_kind_are_refused(finder, said):
    ready = bound(keep=0.5)
    (problem,) = ready.refusals({ready.clusters: finder})
    assert said in problem
    for assign in ("cosine", None):
        own = {"metric": "l2" if assign else "cosine", "assign": assign, "parity": None}
        assert ready.refusals({ready.clusters: own}) == []
    assert ready.refusals({}) == []
