"""ClipCov: the greedy selection of the paper, over all classes at once, and whole runs."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features._picking import greedy
from curate.features._picking.cells import Cells, directed, directions
from curate.features._picking.greedy import Similarities, _falling, open_threads, sequence
from curate.pipeline_file.config import load
from tests.embedding_pool import embed, scores, unit, values
from tests.tiny_pool import Pipeline

STEP = {"classes": "k", "image": "l14_img", "text": "l14_txt"}


def classified(count, classes=4, seed=0, width=16):
    """Pairs with a class in the column `k`, of very different sizes."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(classes, count, p=rng.dirichlet(np.full(classes, 2.0))) * 3 + 1
    return embed(count, width, seed).with_columns(k=pl.Series(numbers, dtype=pl.Int64))


def positive(image, text):
    return np.maximum(image @ text.T, 0)


def first_scores(image, text, classes, prototypes=None):
    """Every term by the formulae: ([N] scores, [N] within, [N] label)."""
    image, text = unit(image.astype(np.float64)), unit(text.astype(np.float64))
    numbers = np.unique(classes)
    means = {
        n: (image[classes == n].mean(axis=0), text[classes == n].mean(axis=0)) for n in numbers
    }
    within, label, between = np.zeros((3, len(classes)))
    for n in numbers:
        own = np.flatnonzero(classes == n)
        s = positive(image[own], text[own])
        within[own] = (s.sum(axis=1) + s.sum(axis=0)) / len(own)
        others = [means[m] for m in numbers if m != n]
        if others:
            between[own] = np.mean(
                [image[own] @ of_text + text[own] @ of_image for of_image, of_text in others],
                axis=0,
            )
        if prototypes is not None:
            label[own] = text[own] @ unit(prototypes.astype(np.float64))[n]
    score = within + 2 * np.einsum("nd,nd->n", image, text) + label / 2 - between
    return score, within, label


def literal(samples, classes, budget, every, prototypes=None):
    """The published loop, over all classes at once: rows in the order in which they are picked."""
    image, text = samples.image, samples.text
    score, within, label = first_scores(image, text, classes, prototypes)
    image, text = unit(image.astype(np.float64)), unit(text.astype(np.float64))
    chosen, of_class, new = [], {}, {}
    while len(chosen) < budget:
        left = np.setdiff1d(np.arange(len(score)), chosen)
        best = left[np.argmax(score[left])]
        chosen.append(best)
        n = classes[best]
        of_class.setdefault(n, []).append(best)
        new.setdefault(n, []).append(best)
        if (len(of_class[n]) + 1) % every == 0 or every == 1:
            own = np.flatnonzero(classes == n)
            similar = positive(image[own], text[new[n]]).sum(axis=1)
            similar += positive(image[new[n]], text[own]).sum(axis=0)
            score[own] -= similar / len(own)
            score[own] -= within[of_class[n]].sum() / len(own)
            score[own] -= label[new[n]].sum() / 2 / len(own)
            new[n] = []
    return chosen


def ordered(samples, every, count=None):
    image, text = samples.image, samples.text
    nothing = np.zeros(len(image))
    with open_threads() as threads:
        members = Similarities(directions(image)[0], directions(text)[0], threads)
        return sequence(members, nothing, nothing, every, len(image) if count is None else count)


# --- one class


@pytest.mark.parametrize(
    ("count", "every"), [(1, 5), (2, 5), (60, 1), (60, 2), (61, 7), (700, 200)]
)
def test_a_class_is_ordered_as_the_published_loop_does(count, every):
    samples = embed(count, 12, seed=count)
    order, value = ordered(samples, every)
    wanted = literal(samples, np.zeros(count, dtype=int), count, every)
    assert order.tolist() == wanted
    assert (np.diff(value) < 0).all()
    part, first = ordered(samples, every, count // 2)
    assert part.tolist() == wanted[: count // 2]
    assert first.tolist() == value[: count // 2].tolist()


def test_the_sums_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(greedy, "SIDE", {"cpu": 7, "cuda": 7})
    samples = embed(100, 12)
    image, text = directions(samples.image)[0], directions(samples.text)[0]
    s = positive(image.astype(float), text.astype(float))
    with open_threads() as threads:
        members = Similarities(image, text, threads)
        np.testing.assert_allclose(members.totals(), s.sum(axis=0) + s.sum(axis=1), rtol=1e-5)
        picks = np.array([3, 50, 99])
        wanted = s[:, picks].sum(axis=1) + s[picks].sum(axis=0)
        np.testing.assert_allclose(members.to(picks), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(members.own(), (image * text).sum(axis=1), atol=1e-6)


def test_threads_change_no_bit():
    samples = embed(1300, 24)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append([part.tobytes() for part in ordered(samples, 100)])
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


@given(st.lists(st.sampled_from([3.0, 2.5, 1e-300, 5e-324, 0.0, -0.0, -1e-300, -7.25])))
def test_values_fall_by_no_more_than_they_must(given_values):
    found = _falling(np.array(given_values, dtype=np.float64))
    wanted = []
    for value in given_values:
        below = np.nextafter(wanted[-1], -np.inf) if wanted else np.inf
        wanted.append(min(value, below))
    assert found.tolist() == wanted


def test_a_long_run_of_equals_falls_as_well():
    assert (np.diff(_falling(np.full(100_000, 0.7))) < 0).all()


# --- cells and directions


@pytest.mark.parametrize("members", [1, 3, 10, 1000])
def test_cells_are_of_about_the_size_that_is_wanted(members):
    counts = np.array([1, 2, 30, 31, 7, 300])
    cells = Cells(np.array([0, 2, 3, 9, 10, 40]), counts, members)
    assert (counts / cells.divided <= members).all()
    assert len(cells.tasks) == cells.first[-1] == cells.divided.sum()
    assert np.unique(cells.tasks).tolist() == list(range(cells.tasks[-1] + 1))
    assert (np.diff(cells.tasks) >= 0).all()
    per_task = np.bincount(cells.tasks, weights=np.repeat(counts / cells.divided, cells.divided))
    assert per_task.max() <= 2 * members
    for place, number in enumerate(cells.classes):
        of = cells.of(np.full(1000, number), np.arange(1000) / 1000)
        assert np.unique(of).tolist() == list(range(*cells.first[place : place + 2]))
        assert {cells.class_of(cell) for cell in of.tolist()} == {place}


def test_what_has_no_direction():
    rows = np.array([[1.0, 0], [0, 0], [np.nan, 1], [np.inf, 1], [3e38, 3e38], [3, 4]], np.float32)
    assert directed(rows).tolist() == [True, False, False, False, False, True]
    found, known = directions(rows)
    np.testing.assert_allclose(found[known], [[1, 0], [0.6, 0.8]])
    assert (found[~known] == 0).all()
    assert directed(rows[:0]).tolist() == []


# --- whole runs


def run(folder, samples, *steps, files=2, dtype=np.float16, **step):
    pool = samples.write(folder / "in", files, dtype)
    pipeline = Pipeline(folder, pool, ({"clip_cov": {**STEP, **step}}, *steps))
    assert pipeline.run().exit_code == 0
    return pipeline


def notes(pipeline):
    seal = pipeline.work / "features" / "clip_cov" / "fitted.json"
    return json.loads(seal.read_text())["notes"]


def kept(pipeline):
    return {f"{hi:016x}{lo:016x}" for hi, lo in np.load(pipeline.work / "subset.npy").tolist()}


@pytest.mark.parametrize("labelled", ["labelled", "unlabelled"])
def test_the_best_of_all_scores_are_those_that_the_greedy_algorithm_takes(tmp_path, labelled):
    """Over all classes at once, for any budget; and its order within each class."""
    samples = classified(330)
    prototypes, step = None, {"every": 11}
    if labelled == "labelled":
        prototypes = np.random.default_rng(9).normal(size=(20, 16)).astype(np.float32)
        np.save(tmp_path / "texts.npy", prototypes)
        step["prototypes"] = str(tmp_path / "texts.npy")
    pipeline = run(tmp_path, samples, **step)
    classes, uids = samples.frame["k"].to_numpy(), samples.frame["uid"].to_numpy()
    greedy = literal(samples, classes, 330, 11, prototypes)
    found = values(pipeline.work, "clip_cov", uids)
    best = np.argsort(-found, kind="stable")
    for budget in (1, 5, 16, 33, 66, 100, 165, 240, 329, 330):
        assert set(best[:budget].tolist()) == set(greedy[:budget])
    rank = values(pipeline.work, "clip_cov", uids, "rank")
    for n in np.unique(classes):
        own = [row for row in greedy if classes[row] == n]
        assert rank[own].tolist() == list(range(len(own)))
    assert notes(pipeline) == {
        "samples": 330,
        "classes": 4,
        "classes_divided": 0,
        "largest_class": np.unique(classes, return_counts=True)[1].max(),
    }


def test_a_score_filter_makes_the_greedy_selection(tmp_path):
    samples = classified(200, classes=3, seed=5)
    top = {"score": {"column": "clip_cov.score", "top_fraction": 0.1}}
    pipeline = run(tmp_path, samples, top, every=4)
    classes = samples.frame["k"].to_numpy()
    greedy = literal(samples, classes, 20, 4)
    assert kept(pipeline) == set(samples.frame["uid"].gather(greedy))


def test_first_scores_are_those_of_the_formulae(tmp_path):
    """Before any update: all of each class is picked at once."""
    samples = classified(150)
    pipeline = run(tmp_path, samples, every=1000)
    wanted, _, _ = first_scores(samples.image, samples.text, samples.frame["k"].to_numpy())
    found = values(pipeline.work, "clip_cov", samples.frame["uid"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_large_class_is_divided_by_uid_and_its_means_are_not(tmp_path):
    samples = classified(400, classes=2)
    pipeline = run(tmp_path, samples, every=1000, members=60)
    uids, classes = samples.frame["uid"], samples.frame["k"].to_numpy()
    rank = values(pipeline.work, "clip_cov", uids, "rank")
    cells = sum(-(-int((classes == n).sum()) // 60) for n in np.unique(classes))
    assert (rank == 0).sum() == cells
    assert rank.max() < 120
    again = run(tmp_path / "again", samples[range(399, -1, -1)], files=5, every=1000, members=60)
    assert values(again.work, "clip_cov", uids, "rank").tolist() == rank.tolist()
    assert notes(pipeline)["classes_divided"] == 2
    found = values(pipeline.work, "clip_cov", uids)
    wanted, within, _ = first_scores(samples.image, samples.text, classes)
    assert np.abs(found - wanted).max() < np.abs(within).max(), "other members, the same centres"


def test_no_order_and_no_file_changes_a_bit(tmp_path):
    """With uids that repeat."""
    samples = classified(220)
    samples = samples[[*range(220), 4, 4, 9]]
    found = []
    for number, files in enumerate((1, 4)):
        order = np.random.default_rng(number).permutation(223)
        pipeline = run(tmp_path / str(number), samples[order], files=files, every=6, members=90)
        blocks = sorted((pipeline.work / "features" / "clip_cov").glob("block-*.parquet"))
        scored = pl.concat([pl.read_parquet(block) for block in blocks])
        halves = pl.concat([pl.read_parquet(pipeline.work / "pool" / b.name) for b in blocks])
        rows = (halves["uid_hi"], halves["uid_lo"], scored["score"], scored["rank"])
        found.append(sorted(zip(*rows, strict=True)))
    assert found[0] == found[1]
    assert len({row[2] for row in found[0]}) == 223, "copies are picked one after the other"


@pytest.mark.ray
@pytest.mark.slow
def test_ray_makes_the_same_selection(tmp_path, ray_cluster):
    samples = classified(300)
    steps = (
        {"clusters": {"name": "coarse", "of": "l14_img", "count": 9}},
        {"concept_prune": {"clusters": "coarse", "keep": 0.6}},
        {"clip_cov": {**STEP, "every": 7, "members": 30}},
        {"score": {"column": "clip_cov.score", "top_fraction": 0.5, "of": "survivors"}},
    )
    found = []
    for engine in ("local", "ray"):
        pool = samples.write(tmp_path / engine / "in", 3)
        pipeline = Pipeline(tmp_path / engine, pool, steps).where(run={"engine": engine})
        assert pipeline.run().exit_code == 0
        found.append((pipeline.work / "subset.npy").read_bytes())
    assert found[0] == found[1]
    assert len(kept(pipeline)) == 90


def test_pairs_without_class_or_embedding_say_so_and_count_nowhere(tmp_path):
    samples = classified(120)
    image, text = samples.image.copy(), samples.text.copy()
    image[3], text[5, 2], text[7], image[8] = np.nan, np.nan, np.inf, 0
    numbers = [None if n in (8, 11) else k for n, k in enumerate(samples.frame["k"])]
    broken = type(samples)(samples.frame.with_columns(k=pl.Series(numbers)), image, text)
    pipeline = run(tmp_path, broken, every=9)
    errors = {uid: error for uid, (_, error) in scores(pipeline.work, "clip_cov").items() if error}
    uids = samples.frame["uid"]
    gone = dict.fromkeys(uids.gather([3, 5, 7, 8]), "no_embedding")
    assert errors == {**gone, uids[11]: "no_class"}
    rest = [row for row in range(120) if row not in (3, 5, 7, 8, 11)]
    clean = run(tmp_path / "clean", samples[rest], every=9)
    found = values(clean.work, "clip_cov", uids.gather(rest))
    assert values(pipeline.work, "clip_cov", uids.gather(rest)).tolist() == found.tolist()
    assert notes(pipeline)["samples"] == 115


def test_only_a_share_of_each_class_is_ordered(tmp_path):
    samples = classified(200)
    whole = run(tmp_path / "whole", samples, every=5)
    part = run(tmp_path / "part", samples, every=5, up_to=0.29)
    uids, classes = samples.frame["uid"], samples.frame["k"].to_numpy()
    rank = values(whole.work, "clip_cov", uids, "rank")
    inside = np.array([rank[row] < max(int(0.29 * (classes == classes[row]).sum()), 1)
                       for row in range(200)])  # fmt: skip
    wanted = np.where(inside, values(whole.work, "clip_cov", uids), np.nan)
    np.testing.assert_array_equal(values(part.work, "clip_cov", uids), wanted)
    errors = {error for _, error in scores(part.work, "clip_cov").values()}
    assert errors == {None, "not_ordered"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_pools(tmp_path, count):
    samples = classified(count, classes=2)
    pipeline = run(tmp_path, samples, files=1, every=1)
    assert np.isfinite(values(pipeline.work, "clip_cov", samples.frame["uid"])).all()
    assert notes(pipeline)["samples"] == count


def test_each_in_a_class_of_its_own_and_nobody_in_any(tmp_path):
    samples = embed(20)
    alone = samples.with_columns(k=pl.int_range(20, dtype=pl.UInt32))
    pipeline = run(tmp_path / "alone", alone)
    wanted, _, _ = first_scores(samples.image, samples.text, np.arange(20))
    found = values(pipeline.work, "clip_cov", samples.frame["uid"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    nobody = samples.with_columns(k=pl.Series([None] * 20, dtype=pl.UInt32))
    pipeline = run(tmp_path / "nobody", nobody)
    assert set(scores(pipeline.work, "clip_cov").values()) == {(None, "no_class")}


def test_who_comes_after_a_frozen_fit_has_no_score(tmp_path):
    samples = classified(60)
    few = {"where": {"name": "few", "sql": "a > 0"}}
    pool = samples.write(tmp_path / "in", 2)
    step = {"clip_cov": {**STEP, "when_changed": "freeze"}}
    pipeline = Pipeline(tmp_path, pool, (few, step))
    pipeline.run()
    before = scores(pipeline.work, "clip_cov")
    pipeline.run("steps.few.sql=a > -9")
    after = scores(pipeline.work, "clip_cov")
    assert len(after) == 60
    assert {uid: after[uid] for uid in before} == before
    assert {after[uid] for uid in after.keys() - before.keys()} == {(None, "not_fitted")}


@pytest.mark.parametrize(
    ("rows", "width", "said"),
    [(5, 16, r"has 5 rows, and k holds 10"), (20, 8, "prototypes are 8 wide, .* texts 16")],
)
def test_texts_of_classes_that_do_not_fit_are_refused(tmp_path, rows, width, said):
    texts = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    np.save(tmp_path / "texts.npy", texts)
    step = {**STEP, "prototypes": str(tmp_path / "texts.npy")}
    pipeline = Pipeline(tmp_path, classified(50).write(tmp_path / "in"), ({"clip_cov": step},))
    with pytest.raises(ConfigError, match=said):
        pipeline.run()


def test_a_class_without_a_text_is_refused(tmp_path):
    texts = np.ones((20, 16), dtype=np.float32)
    texts[12] = 0
    np.save(tmp_path / "texts.npy", texts)
    step = {**STEP, "prototypes": str(tmp_path / "texts.npy")}
    pipeline = Pipeline(tmp_path, classified(50).write(tmp_path / "in"), ({"clip_cov": step},))
    with pytest.raises(ConfigError, match=r"row 12 of .* has no direction"):
        pipeline.run()


def test_widths_of_two_models_do_not_mix(tmp_path):
    samples = classified(20)
    other = type(samples)(samples.frame, samples.image[:, :8], samples.text)
    pipeline = Pipeline(tmp_path, other.write(tmp_path / "in"), ({"clip_cov": STEP},))
    with pytest.raises(ConfigError, match="l14_img is 8 wide and l14_txt 16"):
        pipeline.run()


def test_a_class_is_a_number(tmp_path):
    step = {**STEP, "classes": "caption"}
    pipeline = Pipeline(tmp_path, classified(20).write(tmp_path / "in"), ({"clip_cov": step},))
    with pytest.raises(ConfigError, match="caption is of type String, and no number"):
        pipeline.run()


@pytest.mark.parametrize(
    "step",
    [{"every": 0}, {"members": 0}, {"up_to": 0}, {"up_to": 1.5}, {"prototypes": "no.npy"}, {}],
)
def test_check_says_what_is_wrong(tmp_path, step):
    whole = {**STEP, **step} if step else {}
    pipeline = Pipeline(tmp_path, classified(5).write(tmp_path / "in"), ({"clip_cov": whole},))
    with pytest.raises((InvalidPipeline, ConfigError)):
        compile_pipeline(load(pipeline.file()))
