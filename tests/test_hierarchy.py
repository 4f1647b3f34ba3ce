"""Hierarchical k-means with resampling: its levels, its balance, and what runs store of it."""

import json

import numpy as np
import polars as pl
import pytest

from curate.features._clustering import hierarchy
from curate.features._clustering.centroid_rows import Points
from curate.features._clustering.centroid_search import Search
from curate.features._clustering.hierarchy import Resampling, above
from curate.features._clustering.kmeans import Method, State, kmeans
from tests.embedding_pool import Embedded, embed, unit
from tests.test_clusters import aligned, learnt, run, table

METHOD = Method(iterations=20, spherical=True, longest=1.0)
L2 = Method(iterations=20, spherical=False, longest=4.0)


def skewed(count=4000, seed=0):
    """Points on a circle, nine in ten of them on an eighth of it: [N, 2] float32, and angles."""
    rng = np.random.default_rng(seed)
    crowd = rng.random(count * 9 // 10) * np.pi / 4
    rest = np.pi / 4 + rng.random(count - len(crowd)) * 7 * np.pi / 4
    angles = np.concatenate([crowd, rest])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), angles


def in_crowd(centroids):
    """The share of centroids that lie where nine in ten of the points are."""
    angles = np.arctan2(centroids[:, 1], centroids[:, 0]) % (2 * np.pi)
    return (angles < np.pi / 4).mean()


def fine(points, count=160):
    start = points[np.random.default_rng(1).permutation(len(points))[:count]]
    return kmeans(Points([points], directions=True), METHOD, State.start(start)).centroids


def test_levels_spread_centroids_more_evenly_than_plain_k_means():
    points, _ = skewed()
    plain = in_crowd(fine(points, 16))
    below = fine(points)
    level = above(below, 16, METHOD, Resampling(), directions=True)
    again = above(below, 16, METHOD, Resampling(steps=10), directions=True)
    assert plain > 0.5
    assert in_crowd(level.centroids) < plain - 0.1
    assert in_crowd(again.centroids) < in_crowd(level.centroids) + 1e-9
    assert in_crowd(again.centroids) < 0.35, "an eighth of the circle is 0.125"


@pytest.mark.parametrize("method", [METHOD, L2])
def test_a_parent_is_the_nearest_of_its_level(method):
    rng = np.random.default_rng(2)
    below = unit(rng.normal(size=(90, 6))).astype(np.float32)
    level = above(below, 9, method, Resampling(3), directions=method is METHOD)
    apart = ((below[:, None].astype(np.float64) - level.centroids[None]) ** 2).sum(axis=2)
    assert level.parents.tolist() == apart.argmin(axis=1).tolist()
    assert level.parents.dtype == np.int64
    assert np.bincount(level.parents, minlength=9).min() > 0


def test_the_closest_of_each_cluster_are_taken():
    points = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.2], [0, 1], [0.1, 1]], dtype=np.float32)
    centroids = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    for method in (METHOD, L2):
        directions = method is METHOD
        whole = Points([points], directions)
        search = Search(centroids[:2], method.ranking, "cpu")
        closest = [hierarchy._closest(whole, search, wanted).tolist() for wanted in (1, 2, 3, 9)]
        assert closest == [[0, 4], [0, 1, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
        search.replace(centroids, method.ranking)
        assert hierarchy._closest(whole, search, 1).tolist() == [0, 1, 4, 5]


def test_copies_of_a_centroid_are_one_to_begin_with():
    three = unit(np.random.default_rng(7).normal(size=(3, 64))).astype(np.float32)
    below = np.repeat(three, 5, axis=0)  # whose products with themselves are 1 but for an error
    level = above(below, 8, METHOD, Resampling(2), directions=True)
    assert len(level.centroids) == 3
    assert len(np.unique(level.parents)) == 3


def test_whole_runs_store_levels_and_columns(tmp_path):
    samples = embed(900)
    step = {"count": 40, "levels": [10, 3], "resample": {"steps": 3, "points": 2}}
    pipeline = run(tmp_path, samples, **step)
    assert learnt(pipeline, "levels").tolist() == [40, 10, 3]
    parents = [learnt(pipeline, f"parents{number}") for number in (1, 2)]
    assert [len(array) for array in parents] == [40, 10]
    assert [array.dtype for array in parents] == [np.int64] * 2
    assert [learnt(pipeline, f"centroids{n}").shape for n in (2, 3)] == [(10, 32), (3, 32)]
    found = aligned(pipeline, samples)
    assert (found["level2"].to_numpy() == parents[0][found["cluster"].to_numpy()]).all()
    assert (found["level3"].to_numpy() == parents[1][found["level2"].to_numpy()]).all()
    for number in (1, 2):
        below = learnt(pipeline, "centroids" if number == 1 else "centroids2")
        products = unit(below.astype(np.float64)) @ learnt(pipeline, f"centroids{number + 1}").T
        assert products.argmax(axis=1).tolist() == parents[number - 1].tolist()
    seal = json.loads((pipeline.work / "features" / "clusters" / "fitted.json").read_text())
    assert seal["notes"]["levels"] == [40, 10, 3]


def test_order_and_files_change_no_bit_of_any_level(tmp_path):
    samples = embed(400)
    step = {"count": 30, "levels": [8, 3], "resample": {}, "samples_per_centroid": 8}
    one = run(tmp_path / "one", samples, **step)
    order = np.random.default_rng(1).permutation(400)
    other = run(tmp_path / "other", samples[order], 5, **step)
    assert table(one).equals(table(other))
    for name in ("parents1", "parents2", "centroids2", "centroids3"):
        assert learnt(one, name).tobytes() == learnt(other, name).tobytes()


def test_levels_over_a_file_of_centroids(tmp_path):
    np.save(tmp_path / "c.npy", unit(np.random.default_rng(0).normal(size=(20, 32))))
    pipeline = run(tmp_path, embed(100), centroids=str(tmp_path / "c.npy"), levels=[4])
    below, parents = learnt(pipeline), learnt(pipeline, "parents1")
    means = unit(np.stack([below[parents == number].mean(axis=0) for number in range(4)]))
    np.testing.assert_allclose(learnt(pipeline, "centroids2"), means, atol=1e-5)
    assert learnt(pipeline, "levels").tolist() == [20, 4]
    assert aligned(pipeline, embed(100))["level2"].n_unique() > 1


def test_a_sample_without_an_embedding_has_no_level(tmp_path):
    base = embed(60)
    image = base.image.copy()
    image[4] = np.nan
    samples = Embedded(base.frame, image, base.text)
    found = aligned(run(tmp_path, samples, count=6, levels=[2]), samples)
    assert found.filter(pl.col("level2").is_null())["error"].to_list() == ["no_embedding"]
