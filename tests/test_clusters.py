"""clusters: k-means and assignment against float64, whatever the order; resumed; hostile input."""

import json

import faiss
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance
from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features._clustering import centroid_sample, centroid_search, centroid_training
from curate.features._clustering.centroid_assignment import _euclidean
from curate.features._clustering.centroid_rows import Points
from curate.features._clustering.centroid_search import Search
from curate.features._clustering.kmeans import Method, State, kmeans
from curate.features.clusters import Kind
from curate.pipeline_file.config import load
from curate.sample import make_uids
from tests.embedding_pool import Embedded, embed, unit
from tests.tiny_pool import Pipeline, digests, draw, tar_pool, write_shards

FIELDS = ("cluster", "distance", "second", "second_distance")
SAMPLES = embed(900)
KINDS = {
    "cosine": {},
    "not_spherical": {"spherical": False},
    "l2": {"metric": "l2"},
    "spherical_l2": {"metric": "l2", "spherical": True},
    "inner_product": {"metric": "l2", "assign": "inner_product"},
    "datacomp": {"parity": "datacomp"},
}


def run(folder, samples, files=2, dtype=np.float16, rows_per_block=300, **step):
    pool = samples.write(folder / "in", files, dtype)
    step = {"of": "l14_img", **({} if "centroids" in step else {"count": 12}), **step}
    pipeline = Pipeline(folder, pool, ({"clusters": step},)).where(rows_per_block=rows_per_block)
    assert pipeline.run().exit_code == 0
    return pipeline


def table(pipeline, name="clusters"):
    """[N] rows with uids, sorted by uid and then by what was found."""
    blocks = sorted((pipeline.work / "features" / name).glob("block-*.parquet"))
    frames = []
    for block in blocks:
        halves = pl.read_parquet(pipeline.work / "pool" / block.name)
        own = pl.read_parquet(block)
        uids = halves.select(uid=pl.format("{}-{}", "uid_hi", "uid_lo"))["uid"].gather(own["row"])
        frames.append(own.drop("row").with_columns(uid=uids))
    return pl.concat(frames).sort("uid", *FIELDS)


def aligned(pipeline, samples):
    """The columns in the order of the samples, whose uids differ."""
    order = [f"{int(uid[:16], 16)}-{int(uid[16:], 16)}" for uid in samples.frame["uid"]]
    return pl.DataFrame({"uid": order}).join(table(pipeline), on="uid", how="left")


def learnt(pipeline, name="centroids"):
    return np.load(pipeline.work / "features" / "clusters" / "artefact" / f"{name}.npy")


def notes(pipeline):
    seal = pipeline.work / "features" / "clusters" / "fitted.json"
    return json.loads(seal.read_text())["notes"]


def distances(image, centroids, assign):
    """[N, K] in float64."""
    x, c = image.astype(np.float64), centroids.astype(np.float64)
    if assign == "l2":
        return np.linalg.norm(x[:, None] - c[None], axis=2)
    if assign == "inner_product":
        return -x @ c.T
    return 1 - unit(x) @ unit(c).T


# --- assignment


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_nearest_are_those_of_float64(tmp_path, kind, dtype):
    longer = np.linspace(0.2, 3, 900)[:, None] if kind != "spherical_l2" else 1
    image = (SAMPLES.image * longer).astype(dtype)
    samples = Embedded(SAMPLES.frame, image, SAMPLES.text)
    pipeline = run(tmp_path, samples, dtype=dtype, nearest=5, iterations=4, **KINDS[kind])
    assign = {"datacomp": "inner_product", "not_spherical": "cosine", "spherical_l2": "l2"}
    image = unit(image.astype(np.float64)) if kind == "not_spherical" else image
    wanted = distances(image, learnt(pipeline), assign.get(kind, kind))
    order = np.argsort(wanted, axis=1)
    found = aligned(pipeline, samples)
    apart = np.diff(np.sort(wanted, axis=1)[:, :6], axis=1).min(axis=1) > 1e-5
    assert apart.mean() > 0.98
    lists = np.array(found["nearest"].to_list())
    np.testing.assert_array_equal(lists[apart], order[apart, :5])
    for place, (number, distance) in enumerate((FIELDS[:2], FIELDS[2:])):
        assert (found[number].to_numpy() == lists[:, place]).all()
        exact = np.take_along_axis(wanted, lists[:, place : place + 1], 1)[:, 0]
        np.testing.assert_allclose(found[distance], exact, atol=2e-6)
    assert found["error"].null_count() == 900


def test_of_equals_the_smaller_number_is_nearest(tmp_path):
    rng = np.random.default_rng(3)
    four = unit(rng.normal(size=(4, 32))).astype(np.float32)
    np.save(tmp_path / "c.npy", np.concatenate([four[[2]], four, four]))
    for name, assign in (("a", "cosine"), ("b", "l2"), ("c", "inner_product")):
        given = {"centroids": str(tmp_path / "c.npy"), "assign": assign, "nearest": 7}
        found = table(run(tmp_path / name, SAMPLES, **given))
        pairs = set(found.select("cluster", "second").unique().rows())
        assert pairs == {(0, 3), (1, 5), (2, 6), (4, 8)}, assign
        twins = [row for row in found["nearest"].to_list() if row[0] == 0]
        assert all(row[:3] == [0, 3, 7] for row in twins)


def test_euclidean_distances_decide_between_two_that_scores_cannot_tell_apart():
    centroids = np.array([[1000.0, 0.0], [1000.0, 0.01], [9.0, 9.0]], dtype=np.float32)
    rows = np.array([[1000.0, 0.009], [1000.0, 0.005], [1000.0, 0.0]], dtype=np.float32)
    for scored in ([0, 1, 2], [1, 0, 2]):
        numbers, apart = _euclidean(centroids, rows, np.array([scored] * 3))
        assert numbers.tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
        np.testing.assert_allclose(apart, [[0.001, 0.009], [0.005, 0.005], [0, 0.01]], rtol=1e-4)


@pytest.mark.parametrize("ranking", ["inner_product", "l2"])
@pytest.mark.parametrize("many", [1, 2, 7, 60])
def test_tiles_and_devices_find_the_same(monkeypatch, ranking, many):
    rng = np.random.default_rng(1)
    centroids = rng.integers(-2, 3, (50, 3)).astype(np.float32)  # many products tie
    rows = torch.from_numpy(rng.integers(-2, 3, (1024, 3)).astype(np.float32))
    whole = Search(centroids, ranking, "cpu").nearest(rows, many)
    monkeypatch.setitem(centroid_search.CENTROIDS, "cpu", 16)
    tiled = Search(centroids, ranking, "cpu").nearest(rows, many)
    monkeypatch.setattr(centroid_search, "_largest", centroid_search._largest_by_torch)
    by_torch = Search(centroids, ranking, "cpu").nearest(rows, many)
    offsets = (centroids**2).sum(axis=1) / 2 if ranking == "l2" else 0
    scores = rows.numpy() @ centroids.T - offsets
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :many]
    for numbers, values in (whole, tiled, by_torch):
        assert numbers.shape == values.shape == (1024, many)
        np.testing.assert_array_equal(numbers[:, :50], wanted)
        np.testing.assert_array_equal(values[:, :50], np.take_along_axis(scores, wanted, 1))
        assert (numbers[:, 50:] == -1).all()


@pytest.mark.parametrize(("width", "count"), [(512, 1000), (768, 4100), (31, 7)])
def test_no_bit_depends_on_the_place_in_a_tile(width, count):
    rng = np.random.default_rng(width)
    centroids = unit(rng.normal(size=(count, width))).astype(np.float32)
    image = unit(rng.normal(size=(1500, width))).astype(np.float16)
    search = Search(centroids, "l2", "cpu")
    order = rng.permutation(1500)
    found = []
    for points in (Points([image], directions=True), Points([image[order]], directions=True)):
        tiles = [points.tile(number, 1024)[1] for number in (0, 1)]
        pairs = [search.nearest(tile, 2) for tile in tiles]
        found.append([np.concatenate(arrays)[:1500] for arrays in zip(*pairs, strict=True)])
    for one, other in zip(*found, strict=True):
        assert one[order].tobytes() == other.tobytes()


# --- k-means


def reference(image, centroids, iterations, *, spherical):
    """Lloyd in float64; the numbers of the last assignment."""
    x, c = image.astype(np.float64), centroids.astype(np.float64)
    for _ in range(iterations):
        labels = np.argmin(((x[:, None] - c[None]) ** 2).sum(axis=2), axis=1)
        for number in np.unique(labels):
            c[number] = x[labels == number].mean(axis=0)
        c = unit(c) if spherical else c
    return c, labels


@pytest.mark.parametrize("spherical", [True, False])
def test_centroids_are_those_of_float64(spherical):
    image = unit(SAMPLES.image.astype(np.float32)).astype(np.float32)
    method = Method(6, spherical, 1.0)
    found = kmeans(Points([image], directions=True), method, State.start(image[:12]))
    wanted, labels = reference(image, image[:12], 6, spherical=spherical)
    np.testing.assert_allclose(found.centroids, wanted, atol=1e-6)
    assert found.sizes.tolist() == np.bincount(labels, minlength=12).tolist()
    assert list(found.inertia) == sorted(found.inertia, reverse=True)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), directions=st.booleans())
def test_neither_order_nor_pieces_nor_threads_change_a_bit(data, directions):
    image = (SAMPLES.image * np.linspace(0.1, 9, 900)[:, None]).astype(np.float16)
    longest = 1.0 if directions else float(np.linalg.norm(image.astype(np.float64), axis=1).max())
    start = unit(SAMPLES.image[:30].astype(np.float32))
    method = Method(5, directions, longest)
    before = kmeans(Points([image], directions), method, State.start(start))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(900)
    cuts = sorted(data.draw(st.sets(st.integers(1, 899), max_size=5)))
    pieces = np.split(image[order], cuts)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(data.draw(st.integers(1, 4)))
        after = kmeans(Points(pieces, directions), method, State.start(start))
    finally:
        torch.set_num_threads(threads)
    assert after.centroids.tobytes() == before.centroids.tobytes()
    assert after.inertia == before.inertia
    assert after.sizes.tolist() == before.sizes.tolist()


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_sums_are_exact(order):
    """Of float64s, two of these orders add up to 0 and two to 3e-5."""
    rows = np.array([[1e12, 1], [3e-5, 1], [-1e12, 1]], dtype=np.float32)
    method = Method(1, spherical=False, longest=1e12)
    start = State.start(np.zeros((1, 2), dtype=np.float32))
    found = kmeans(Points([rows[list(order)]], directions=False), method, start)
    again = kmeans(Points([rows], directions=False), method, start)
    assert found.centroids.tobytes() == again.centroids.tobytes()
    np.testing.assert_allclose(found.centroids, [[1e-5, 1]], atol=1e-3)


def test_an_iteration_is_the_same_wherever_it_began():
    image = SAMPLES.image
    states = []
    method = Method(9, spherical=True, longest=1.0)
    begin = State.start(unit(image[:40].astype(np.float32)))
    whole = kmeans(Points([image], directions=True), method, begin, states.append)
    assert len(states) == len(whole.inertia) == 9
    for state in states:
        again = kmeans(Points([image], directions=True), method, state)
        assert again.centroids.tobytes() == whole.centroids.tobytes()
        assert (again.inertia, again.splits) == (whole.inertia, whole.splits)


def test_quality_is_that_of_faiss():
    image = unit(embed(6000, width=48, seed=4).image.astype(np.float32)).astype(np.float32)
    options = {"niter": 20, "spherical": True, "seed": 3, "max_points_per_centroid": 100}
    model = faiss.Kmeans(48, 64, **options)
    model.train(image)
    theirs = (image @ model.centroids.T).max(axis=1).mean()
    begin = State.start(image[:64])
    found = kmeans(Points([image], directions=True), Method(20, True, 1.0), begin)  # noqa: FBT003
    assert (image @ found.centroids.T).max(axis=1).mean() > theirs - 0.003


def test_empty_clusters_are_given_halves_of_those_with_most_scatter():
    rng = np.random.default_rng(0)
    tight = unit(np.eye(8)[0] + 0.001 * rng.normal(size=(300, 8)))
    wide = unit(np.eye(8)[1] + 0.3 * rng.normal(size=(60, 8)))
    image = np.concatenate([tight, wide]).astype(np.float32)
    nowhere = -unit(rng.random((3, 8))).astype(np.float32)
    begin = State.start(np.concatenate([image[[0, 300]], nowhere]))
    found = kmeans(Points([image], directions=True), Method(15, True, 1.0), begin)  # noqa: FBT003
    assert found.splits >= 3
    assert found.sizes.min() > 0
    assert found.sizes[0] == 300, "the wide one was split each time"


def test_the_last_iteration_splits_nothing():
    image = np.eye(4, dtype=np.float32)[[0, 0, 1]]
    nowhere = -np.eye(4, dtype=np.float32)[3]
    begin = State.start(np.stack([image[0], nowhere]))
    found = kmeans(Points([image], directions=True), Method(1, True, 1.0), begin)  # noqa: FBT003
    assert found.sizes.tolist() == [3, 0]
    assert found.splits == 0
    assert found.centroids[1].tolist() == nowhere.tolist()


def test_what_settled_stops():
    image = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    found = kmeans(
        Points([image], directions=True),
        Method(50, spherical=True, longest=1.0),
        State.start(np.eye(4, dtype=np.float32)),
    )
    assert len(found.inertia) == 1
    assert found.settled


# --- whole runs: planted clusters, order, sharding, runners


def planted(count=1200, clusters=10, noise=0.02, seed=0):
    """Samples around far centres, and which each belongs to."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(32, clusters)))[0].T
    own = rng.integers(clusters, size=count)
    image = unit(centres[own] + noise * rng.normal(size=(count, 32))).astype(np.float16)
    base = embed(count, seed=seed)
    return Embedded(base.frame, image, base.text), own, centres


def test_planted_clusters_are_found(tmp_path):
    samples, own, centres = planted()
    np.save(tmp_path / "c.npy", centres.astype(np.float32))
    given = run(tmp_path / "given", samples, centroids=str(tmp_path / "c.npy"))
    assert aligned(given, samples)["cluster"].to_list() == own.tolist()
    found = aligned(run(tmp_path / "found", samples, count=60), samples)["cluster"].to_numpy()
    assert len(np.unique(np.stack([found, own]), axis=1).T) == len(np.unique(found)), "all pure"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(tmp_path_factory.mktemp("done"), SAMPLES, 3, samples_per_centroid=50, nearest=3)


@pytest.mark.parametrize(("files", "rows_per_block"), [(1, 2000), (7, 2000), (5, 40)])
def test_files_blocks_and_order_change_no_bit(done, tmp_path, files, rows_per_block):
    order = np.random.default_rng(files).permutation(900)
    step = {"samples_per_centroid": 50, "nearest": 3, "rows_per_block": rows_per_block}
    other = run(tmp_path, SAMPLES[order], files, **step)
    assert table(other).equals(table(done))
    assert learnt(other).tobytes() == learnt(done).tobytes()
    assert notes(other) == notes(done)


def test_parts_and_small_writers_change_no_bit(done, tmp_path, monkeypatch):
    for module in ("curate.pipeline_file.schema", "curate.pools.pool"):
        monkeypatch.setattr(f"{module}.METADATA_ROWS", 25)
    monkeypatch.setattr(centroid_sample, "AT_ONCE", 7)
    monkeypatch.setattr(centroid_sample, "ROWS_PER_WRITER", 1)
    monkeypatch.setattr(centroid_sample, "POOL_ROWS_PER_WRITER", (1, 30))
    other = run(tmp_path, SAMPLES, 30, samples_per_centroid=50, nearest=3)
    assert table(other).equals(table(done))
    assert notes(other) == notes(done)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(done, tmp_path, ray_cluster):
    there = done.where(folder=tmp_path, run={"engine": "ray"})
    there.run()
    assert digests(there.work, ("features",)) == digests(done.work, ("features",))
    assert len(digests(done.work, ("features",))) > 4


def test_repeated_uids_are_samples_of_their_own(tmp_path):
    copied = SAMPLES[[*range(200), *[7] * 40, *[9] * 3]]
    image = copied.image.copy()
    image[200:220] = SAMPLES.image[400:420]  # the same uid, and another picture
    samples = Embedded(copied.frame, image, copied.text)
    step = {"count": 8, "samples_per_centroid": 20, "iterations": 5}
    one = run(tmp_path / "one", samples, 1, **step)
    order = np.random.default_rng(2).permutation(243)
    other = run(tmp_path / "other", samples[order], 5, **step)
    assert table(one).equals(table(other))
    assert table(one).height == 243
    assert learnt(one).tobytes() == learnt(other).tobytes()


def test_k_means_sees_the_samples_with_the_smallest_draws(done):
    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in SAMPLES.frame["uid"]]
    uids = make_uids(*(np.array(half, dtype=np.uint64) for half in zip(*halves, strict=True)))
    draws = chance.uniform(0, "clusters", uids, "sample")
    chosen = np.argsort(draws)[:600]
    image = SAMPLES.image[chosen].astype(np.float16)
    method = Method(20, spherical=True, longest=1.0)
    begin = centroid_training._begun(image[:12], Kind("cosine", True, "cosine"))  # noqa: FBT003
    found = kmeans(Points([image], directions=True), method, State.start(begin))
    assert learnt(done).tobytes() == found.centroids.tobytes()
    assert learnt(done, "sizes").tolist() == found.sizes.tolist()
    assert notes(done)["samples"] == 600 == found.sizes.sum()


def test_another_seed_or_name_draws_others(done, tmp_path):
    for name, changes in (("seed", {"seed": 1}), ("name", {})):
        step = {"of": "l14_img", "count": 12, "samples_per_centroid": 50, "nearest": 3}
        step |= {"name": "other"} if name == "name" else {}
        other = done.where(folder=tmp_path / name, steps=({"clusters": step},), **changes)
        other.run()
        assert not table(other, step.get("name", "clusters")).equals(table(done))


def test_notes_say_how_good_it_is(done):
    said = notes(done)
    assert said["clusters"] == said["wanted"] == 12
    assert len(said["inertia"]) == said["iterations"] <= 20
    assert said["inertia"] == sorted(said["inertia"], reverse=True)
    sizes = learnt(done, "sizes")
    assert (said["smallest"], said["largest"]) == (sizes.min(), sizes.max())
    assert said["largest_share"] == sizes.max() / 600
    assert said["empty"] == said["giant"] == 0


def test_one_giant_cluster_is_counted(tmp_path):
    samples, *_ = planted(clusters=20, noise=0.0)
    image = samples.image.copy()
    image[: 1200 * 9 // 10] = image[0]
    skewed = Embedded(samples.frame, image, samples.text)
    pipeline = run(tmp_path, skewed, count=15)
    assert notes(pipeline)["giant"] == 1
    assert notes(pipeline)["largest_share"] > 0.9
    assert aligned(pipeline, skewed)["cluster"][:1080].n_unique() == 1


# --- going on after a kill


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["sampled", "first", "fifth", "trained"])
def test_a_killed_fit_goes_on_and_leaves_the_same_bytes(done, tmp_path, monkeypatch, moment):
    pipeline = done.where(folder=tmp_path)
    ran = []
    keep, train = centroid_training._keep, centroid_training.trained

    def stop_at(folder, state):
        keep(folder, state)
        ran.append(len(state.inertia))
        if moment in ("first", "fifth") and ran == list(range(1, 6 if moment == "fifth" else 2)):
            raise Killed

    def stop_before(*given):
        if moment == "sampled" and not ran.append(0):
            raise Killed
        return train(*given)

    monkeypatch.setattr(centroid_training, "_keep", stop_at)
    with monkeypatch.context() as patch:
        patch.setattr(centroid_training, "trained", stop_before)
        if moment == "trained":
            patch.setattr("curate.features.clusters._sizes", lambda sizes: 1 / 0)
        with pytest.raises((Killed, ZeroDivisionError)):
            pipeline.run()
    before = list(ran)
    with monkeypatch.context() as patch:  # the sample is there
        patch.setattr(centroid_sample, "_send", None)
        pipeline.run()
    if moment in ("first", "fifth"):
        assert ran == list(range(1, notes(done)["iterations"] + 1)), "nothing is done twice"
    if moment == "trained":
        assert ran == before
    assert digests(pipeline.work, ("features",)) == digests(done.work, ("features",))


def test_another_recipe_does_not_go_on(done, tmp_path, monkeypatch):
    pipeline = done.where(folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("curate.features.clusters._sizes", lambda sizes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.run("steps.clusters.iterations=3")
    pipeline.run()
    assert digests(pipeline.work, ("features",)) == digests(done.work, ("features",))


# --- hostile input


def test_fewer_samples_than_clusters(tmp_path):
    few = SAMPLES[range(7)]
    pipeline = run(tmp_path, few, count=50, nearest=9)
    assert learnt(pipeline).shape == (7, 32)
    assert (notes(pipeline)["wanted"], notes(pipeline)["clusters"]) == (50, 7)
    found = table(pipeline)
    assert found["cluster"].n_unique() == 7
    np.testing.assert_allclose(found["distance"], 0, atol=1e-6)
    assert found["nearest"].list.len().to_list() == [7] * 7


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_all_embeddings_equal(tmp_path, metric):
    same = Embedded(SAMPLES.frame, np.repeat(SAMPLES.image[:1], 900, axis=0), SAMPLES.text)
    pipeline = run(tmp_path, same, count=50, metric=metric)
    assert learnt(pipeline).shape == (1, 32)
    found = table(pipeline)
    assert found["cluster"].to_list() == [0] * 900
    assert found["second"].null_count() == found["second_distance"].null_count() == 900
    np.testing.assert_allclose(found["distance"], 0, atol=1e-6)


def test_what_is_missing_zero_or_too_long_says_so(tmp_path):
    image = SAMPLES.image.astype(np.float32)
    image[3], image[5, 2], image[7], image[9], image[11] = np.nan, np.inf, 0, 1e-35, 1e30
    samples = Embedded(SAMPLES.frame, image, SAMPLES.text)
    missing = {3: "no_embedding", 5: "no_embedding"}
    zero = {7: "zero_vector", 9: "zero_vector"}
    cosine = None
    for kind, wanted in (("a", missing | zero), ("b", missing | {11: "not_finite"})):
        step = {} if kind == "a" else {"metric": "l2"}
        there = run(tmp_path / kind, samples, dtype=np.float32, **step)
        found = aligned(there, samples)
        cosine = found if kind == "a" else cosine
        errors = found["error"].to_list()
        assert {row: one for row, one in enumerate(errors) if one} == wanted
        for field in FIELDS:
            assert np.flatnonzero(found[field].is_null()).tolist() == sorted(wanted)
        assert np.isfinite(learnt(there)).all()
        assert notes(there)["samples"] == 900 - len(wanted)
    rest = [row for row in range(900) if row not in (3, 5, 7, 9)]
    fewer = aligned(run(tmp_path / "c", samples[rest], dtype=np.float32), samples[rest])
    assert fewer.equals(cosine[rest]), "who is left is clustered as if alone"


@pytest.mark.parametrize("count", [0, 5])
def test_nobody_to_learn_from(tmp_path, count):
    image = np.full((count, 32), np.nan, dtype=np.float16)
    nobody = Embedded(SAMPLES.frame[:count], image, SAMPLES.text[:count])
    pipeline = run(tmp_path, nobody, 1, levels=[4, 2], resample={})
    assert len(learnt(pipeline)) == 0
    assert notes(pipeline)["clusters"] == notes(pipeline)["samples"] == 0
    if count:
        assert table(pipeline)["error"].to_list() == ["no_embedding"] * count
        assert table(pipeline)["cluster"].null_count() == count


def test_half_without_embeddings_does_not_halve_the_sample(tmp_path):
    image = SAMPLES.image.copy()
    image[::2] = np.nan
    half = Embedded(SAMPLES.frame, image, SAMPLES.text)
    pipeline = run(tmp_path, half, samples_per_centroid=30)
    assert notes(pipeline)["samples"] == 360


def test_widths_of_two_models_do_not_mix(tmp_path):
    np.save(tmp_path / "c.npy", np.eye(16, dtype=np.float32))
    with pytest.raises(ConfigError, match="l14_img is 32 wide and the centroids are 16 wide"):
        run(tmp_path, SAMPLES, centroids=str(tmp_path / "c.npy"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((0, 32)), "holds no rows"),
        (np.eye(32)[:3] * np.nan, "row 0 of .* is not finite"),
        (np.diag([1.0, 0, 1])[:, :], "row 1 of .* is zero"),
    ],
)
def test_files_of_centroids_are_checked(tmp_path, rows, said):
    np.save(tmp_path / "c.npy", rows)
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, SAMPLES, centroids=str(tmp_path / "c.npy"))


def test_centroids_of_a_file_are_taken_as_they_are(tmp_path):
    centroids = (SAMPLES.image[:9] * np.arange(1, 10)[:, None]).astype(np.float32)
    torch.save(torch.from_numpy(centroids), tmp_path / "c.pt")
    pipeline = run(tmp_path, SAMPLES, centroids=str(tmp_path / "c.pt"), parity="datacomp")
    assert learnt(pipeline).tobytes() == centroids.tobytes()
    wanted = np.argmax(SAMPLES.image.astype(np.float64) @ centroids.T, axis=1)
    assert aligned(pipeline, SAMPLES)["cluster"].to_list() == wanted.tolist()


def test_centroids_of_a_file_are_never_fitted_again(tmp_path):
    np.save(tmp_path / "c.npy", np.eye(32, dtype=np.float32))
    pipeline = run(tmp_path, SAMPLES, centroids=str(tmp_path / "c.npy"))
    seal = pipeline.work / "features" / "clusters" / "fitted.json"
    before = seal.stat().st_mtime_ns
    fewer = ({"where": {"name": "some", "sql": "a > 0"}}, *pipeline.steps)
    pipeline.where(steps=fewer).run()
    assert seal.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"count": None}, "count: give it, or `centroids:`"),
        ({"centroids": "c.npy"}, "not both"),
        ({"count": 0}, "greater than"),
        ({"parity": "datacomp", "metric": "cosine"}, "`parity: datacomp` chooses it"),
        ({"levels": [12]}, "fewer centroids than the one below: 12, 12"),
        ({"levels": [4, 5]}, "12, 4, 5"),
        ({"resample": {"steps": 2}}, "it is for `levels:`"),
        ({"metric": "dot"}, "cosine"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, step, said):
    whole = {"of": "l14_img", "count": 12, **step}
    pool = SAMPLES[range(5)].write(tmp_path / "in")
    pipeline = Pipeline(tmp_path, pool, ({"clusters": whole},))
    with pytest.raises((InvalidPipeline, ConfigError), match=said):
        compile_pipeline(load(pipeline.file()))


def test_pictures_by_the_quickstarts_clip(tmp_path):
    pool = tar_pool(write_shards(tmp_path / "in", draw(60), 2))
    steps = ({"clip": {"model": "quickstart"}}, {"clusters": {"count": 6}})
    pipeline = Pipeline(tmp_path, pool, steps)
    assert pipeline.run().exit_code == 0
    found = table(pipeline)
    assert found.height == 58
    assert found["error"].null_count() == 58 - found["cluster"].null_count()
    pictures = pl.concat(
        pl.read_parquet(f)
        for f in sorted((pipeline.work / "features" / "clip").glob("block-*.parquet"))
    )
    wanted = pictures["error"].is_in(["no_image", "not_an_image"]).sum()
    assert found["cluster"].null_count() == wanted
    assert found["distance"].drop_nulls().max() < 1
    assert notes(pipeline)["clusters"] == 6
