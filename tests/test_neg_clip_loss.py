"""negCLIPLoss: its numbers against a few lines of numpy, its partitions, and whole runs."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features import _contrast, _partition, neg_clip_loss
from curate.features._contrast import losses
from curate.features._partition import BATCHES_PER_GROUP, Partition, dealt, sample_ids
from curate.pipeline_file.config import load
from curate.sample import make_uids
from filters import Batch
from tests.embedding_pool import embed, scores, unit, values
from tests.tiny_pool import Pipeline, draw, tar_pool, write_shards

STEP = {"image": "l14_img", "text": "l14_txt"}


def reference(image, text, temperature):
    """[B] as the paper has it, in float64."""
    s = image.astype(np.float64) @ text.astype(np.float64).T / temperature  # [B, B]
    over_texts, over_images = (np.logaddexp.reduce(s, axis=axis) for axis in (1, 0))
    return temperature * (np.diag(s) - over_texts / 2 - over_images / 2)


def vectors(count, width=24, seed=0):
    rng = np.random.default_rng(seed)
    image = unit(rng.normal(size=(count, width)))
    text = unit(image + rng.normal(size=(count, width)))
    return image.astype(np.float32), text.astype(np.float32)


# --- the numbers of one batch


@pytest.mark.parametrize("count", [1, 2, 37, 1100, 1537])
@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_a_batch_has_the_numbers_of_the_paper(count, temperature):
    image, text = vectors(count)
    found = losses(image, text, temperature)
    np.testing.assert_allclose(found, reference(image, text, temperature), atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "temperature"), [(1.0, 1e-4), (1.0, 10.0), (30.0, 0.01), (0.01, 0.01)]
)
def test_no_temperature_and_no_length_overflows(scale, temperature):
    image, text = vectors(300)
    found = losses(image * scale, text * scale, temperature)
    wanted = reference(image * np.float32(scale), text * np.float32(scale), temperature)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=3e-6 * max(1, scale**2))


@pytest.mark.parametrize("cosine", [-1.0, -0.7, -0.65, -0.3, 0.0, 0.99])
def test_opposites_are_as_exact_as_neighbours(cosine):
    """All cosines are near one: for most, exp(s / T) is nothing that float32 can hold."""
    near = unit(vectors(50)[0] * 0.01 + np.eye(24)[0])
    text = cosine * near + np.sqrt(1 - cosine**2) * np.eye(24)[1]
    image, text = near.astype(np.float32), text.astype(np.float32)
    found = losses(image, text, 0.01)
    np.testing.assert_allclose(found, reference(image, text, 0.01), atol=1e-6)


def test_threads_change_no_bit():
    image, text = vectors(1300)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append(losses(image, text, 0.01).tobytes())
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


def test_a_pair_alone_and_a_pair_that_all_share_score_by_hand():
    one = np.array([[0.6, 0.8]], dtype=np.float32)
    np.testing.assert_allclose(losses(one, one, 0.01), [0.0], atol=1e-6)
    same = np.repeat(one, 8, axis=0)
    np.testing.assert_allclose(losses(same, same, 0.01), [-0.01 * np.log(8)] * 8, atol=1e-6)


# --- partitions


def ids_of(halves):
    return make_uids(*(np.array(half, dtype=np.uint64) for half in zip(*halves, strict=True)))


uids = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=1, max_size=60)


@given(halves=uids, batches=st.integers(1, 9), data=st.data())
def test_a_round_deals_everybody_once_to_batches_of_one_size(halves, batches, data):
    ids, addresses = ids_of(halves), np.arange(len(halves), dtype=np.uint64)
    batches = min(batches, len(ids))
    rounds = list(dealt(ids, addresses, 3, batches))
    assert len(rounds) == 3
    for dealing in rounds:
        sizes = {len(rows) for rows in dealing}
        assert len(dealing) == batches
        assert max(sizes) - min(sizes) <= 1
        assert sorted(np.concatenate(dealing).tolist()) == list(range(len(ids)))
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    again = dealt(ids[order], addresses[order], 3, batches)
    for dealing, other in zip(rounds, again, strict=True):
        assert [rows.tolist() for rows in dealing] == [order[rows].tolist() for rows in other]


def test_rounds_are_partitions_of_their_own():
    ids = ids_of([(number, 0) for number in range(1000)])
    first, second = dealt(ids, np.arange(1000), 2, 10)
    shared = [len(np.intersect1d(one, other)) for one in first for other in second]
    assert 4 < np.std(shared) * 2 + 0.5 < 8, "chance: 10 of 100 are shared, give or take 3"
    assert np.mean(shared) == 10


def test_copies_of_a_uid_are_dealt_alone():
    ids = ids_of([(7, 7)] * 800)
    (dealing,) = dealt(ids, np.arange(800), 1, 2)
    assert 300 < (dealing[0] < 400).sum() * 2 < 500, "neither half stays together"


@pytest.mark.parametrize("samples", [0, 1, 9, 10, 14, 15, 16, 95, 1000, 1234, 98_765])
def test_a_partition_has_the_nearest_number_of_batches(samples):
    partition = Partition.of(samples, 10)
    assert partition.batches == max(1, round(samples / 10))
    per_group = [partition.batches_in(group) for group in range(partition.groups)]
    assert sum(per_group) == partition.batches
    assert BATCHES_PER_GROUP // 2 < max(per_group) <= BATCHES_PER_GROUP or partition.groups == 1
    places = (np.arange(partition.batches) + 0.5) / partition.batches
    owners = np.bincount(partition.group(places), minlength=partition.groups)
    assert owners.tolist() == per_group, "a group gets samples in proportion to its batches"


def test_ids_hold_the_seed_and_the_step():
    halves = make_uids(np.arange(9, dtype=np.uint64), np.arange(9, dtype=np.uint64))
    rng = np.random.default_rng(0)
    one, other = (Batch(pl.DataFrame(), halves, halves, lambda s: rng.random(9)) for _ in "ab")
    assert (sample_ids(one) != sample_ids(other)).all()
    assert (halves["f0"] == np.arange(9)).all(), "the batch's own uids are left alone"


# --- whole runs


def run(folder, samples, files=2, dtype=np.float16, fields=(), **step):
    pool = samples.write(folder / "in", files, dtype)
    pipeline = Pipeline(folder, pool, ({"neg_clip_loss": {**STEP, **step}}, *fields))
    assert pipeline.run().exit_code == 0
    return pipeline


def made(pipeline):
    seal = pipeline.work / "features" / "neg_clip_loss" / "fitted.json"
    return json.loads(seal.read_text())["notes"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_batch_is_the_whole_pool(tmp_path, dtype):
    samples = embed(150)
    pipeline = run(tmp_path, samples, dtype=dtype)
    found = values(pipeline.work, "neg_clip_loss", samples.frame["uid"])
    np.testing.assert_allclose(found, reference(samples.image, samples.text, 0.01), atol=1e-6)
    assert made(pipeline) == {"samples": 150, "batches": 1, "rounds": 10}


def test_scores_are_means_over_rounds_of_the_batch_each_pair_is_in(tmp_path, monkeypatch):
    dealings = []
    deal = _partition.dealt
    monkeypatch.setattr(
        "curate.features.neg_clip_loss.dealt",
        lambda *given: iter([dealings.append((given[1], one)) or one for one in deal(*given)]),
    )
    samples = embed(230)
    pipeline = run(tmp_path, samples, batch=10, rounds=4, temperature=0.07)
    order = {uid: row for row, uid in enumerate(samples.frame["uid"])}
    total, times = np.zeros(230), np.zeros(230)
    groups = {}
    for addresses, dealing in dealings:
        groups.setdefault(addresses.tobytes(), []).append(dealing)
        blocks, places = (addresses >> np.uint64(32)).astype(int), addresses & np.uint64(2**32 - 1)
        owners = np.array([order[u] for u in uids_at(pipeline.work, blocks, places.astype(int))])
        for rows in dealing:
            own = owners[rows]
            total[own] += reference(samples.image[own], samples.text[own], 0.07)
            times[own] += 1
    assert (times == 4).all()
    assert len(groups) == 3
    assert [len(dealing) for dealing in next(iter(groups.values()))] == [8] * 4
    found = values(pipeline.work, "neg_clip_loss", samples.frame["uid"])
    np.testing.assert_allclose(found, total / 4, atol=1e-6)


def uids_at(work, blocks, places):
    halves = [pl.read_parquet(f) for f in sorted((work / "pool").glob("block-*.parquet"))]
    found = (
        halves[b].select("uid_hi", "uid_lo").row(p) for b, p in zip(blocks, places, strict=True)
    )
    return ["{:016x}{:016x}".format(*row) for row in found]


def test_mismatched_pairs_fall_behind(tmp_path):
    samples = embed(400, noise=0.3)
    wrong = np.arange(0, 400, 20)
    text = samples.text.copy()
    text[wrong] = samples.text[np.roll(wrong, 1)]
    planted = type(samples)(samples.frame, samples.image, text)
    top = {"score": {"column": "neg_clip_loss.score", "top_fraction": 0.95}}
    pipeline = run(tmp_path, planted, batch=100, fields=(top,))
    kept = {f"{hi:016x}{lo:016x}" for hi, lo in np.load(pipeline.work / "subset.npy").tolist()}
    assert kept.isdisjoint(samples.frame["uid"].gather(wrong))
    assert len(kept) == 380


def test_pairs_without_embeddings_say_so_and_count_in_no_batch(tmp_path):
    samples = embed(120)
    image, text = samples.image.copy(), samples.text.copy()
    image[3], text[5, 2], text[7] = np.nan, np.nan, np.inf
    broken = type(samples)(samples.frame, image, text)
    pipeline = run(tmp_path, broken)
    found = scores(pipeline.work, "neg_clip_loss")
    gone = samples.frame["uid"].gather([3, 5, 7]).to_list()
    assert {uid for uid, pair in found.items() if pair == (None, "no_embedding")} == set(gone)
    assert sum(error is not None for _, error in found.values()) == 3
    rest = [row for row in range(120) if row not in (3, 5, 7)]
    wanted = reference(samples.image[rest], samples.text[rest], 0.01)
    uids = samples.frame["uid"].gather(rest)
    np.testing.assert_allclose(values(pipeline.work, "neg_clip_loss", uids), wanted, atol=1e-6)
    assert made(pipeline)["samples"] == 117


def test_large_parts_are_sent_in_pieces(tmp_path, monkeypatch):
    samples, step = embed(100), {"batch": 10, "rounds": 2}
    whole = run(tmp_path / "whole", samples, files=3, **step)
    monkeypatch.setattr(neg_clip_loss, "ROWS_PER_WRITER", 7)
    pieces = run(tmp_path / "pieces", samples, files=3, **step)
    assert scores(pieces.work, "neg_clip_loss") == scores(whole.work, "neg_clip_loss")


def test_embeddings_that_no_product_can_hold_say_so(tmp_path):
    samples = embed(9)
    image = samples.image.astype(np.float32)
    image[4] = 3e38
    long = type(samples)(samples.frame, image, samples.text.astype(np.float32))
    pipeline = run(tmp_path, long, dtype=np.float32, batch=1)
    found = scores(pipeline.work, "neg_clip_loss")
    assert found[samples.frame["uid"][4]] == (None, "not_finite")
    assert {error for _, error in found.values()} == {None, "not_finite"}, "as is its batch alone"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_pools(tmp_path, count):
    samples = embed(count)
    pipeline = run(tmp_path, samples, files=1, batch=1, rounds=2)
    found = values(pipeline.work, "neg_clip_loss", samples.frame["uid"])
    np.testing.assert_allclose(found, np.zeros(count), atol=1e-6)


def test_nobody_has_an_embedding(tmp_path):
    samples = embed(30)
    nothing = type(samples)(samples.frame, np.full_like(samples.image, np.nan), samples.text)
    pipeline = run(tmp_path, nothing)
    assert set(scores(pipeline.work, "neg_clip_loss").values()) == {(None, "no_embedding")}
    assert made(pipeline) == {"samples": 0, "batches": 1, "rounds": 10}


def test_copies_of_a_row_have_the_same_scores_in_any_order(tmp_path):
    samples = embed(60)
    copied = samples[[*range(60), 4, 4, 9]]
    found = []
    for name, order in (
        ("one", np.arange(63)),
        ("other", np.random.default_rng(0).permutation(63)),
    ):
        pipeline = run(tmp_path / name, copied[order], files=3, batch=8, rounds=3)
        blocks = sorted((pipeline.work / "features" / "neg_clip_loss").glob("block-*.parquet"))
        scored = pl.concat([pl.read_parquet(block) for block in blocks])
        halves = pl.concat([pl.read_parquet(pipeline.work / "pool" / b.name) for b in blocks])
        pairs = zip(halves["uid_hi"], halves["uid_lo"], scored["score"], strict=True)
        found.append(sorted(pairs))
    assert found[0] == found[1]


def test_pictures_by_the_quickstarts_clip(tmp_path):
    pool = tar_pool(write_shards(tmp_path / "in", draw(60), 2))
    steps = (
        {"clip": {"model": "quickstart"}},
        {"neg_clip_loss": {"batch": 20, "rounds": 2}},
        {"score": {"column": "neg_clip_loss.score", "top_fraction": 0.5, "of": "survivors"}},
    )
    pipeline = Pipeline(tmp_path, pool, steps)
    assert pipeline.run().exit_code == 0
    clip = pl.concat(
        pl.read_parquet(f)
        for f in sorted((pipeline.work / "features" / "clip").glob("block-*.parquet"))
    )
    files = sorted((pipeline.work / "features" / "neg_clip_loss").glob("block-*.parquet"))
    scored = pl.concat(pl.read_parquet(file) for file in files)
    assert scored["score"].is_null().any()
    assert not scored["score"].is_null().all()
    alive = clip.filter(pl.col("error").is_null())["row"].len()
    assert scored["score"].is_not_null().sum() == alive


def test_widths_of_two_models_do_not_mix(tmp_path):
    samples = embed(20)
    other = type(samples)(samples.frame, samples.image[:, :16], samples.text)
    pipeline = Pipeline(tmp_path, other.write(tmp_path / "in"), ({"neg_clip_loss": STEP},))
    with pytest.raises(ConfigError, match="l14_img is 16 wide and l14_txt 32"):
        pipeline.run()


def test_scores_are_no_embeddings(tmp_path):
    step = {**STEP, "text": "a"}
    pool = embed(20).write(tmp_path / "in")
    with pytest.raises(ConfigError, match="a is of type Float64"):
        Pipeline(tmp_path, pool, ({"neg_clip_loss": step},)).run()


@pytest.mark.parametrize(
    "step", [{"temperature": 0}, {"batch": 0}, {"rounds": 0}, {"image": "b32_img"}, {}]
)
def test_check_says_what_is_wrong(tmp_path, step):
    whole = {**STEP, **step} if step else {}
    pipeline = Pipeline(tmp_path, embed(5).write(tmp_path / "in"), ({"neg_clip_loss": whole},))
    with pytest.raises((InvalidPipeline, ConfigError)):
        compile_pipeline(load(pipeline.file()))


def test_tiles_cover_a_batch():
    rows, columns = _contrast.TILES["cpu"]
    assert rows < 1100 < 1537
    assert columns < 1100, "the batches above are of several tiles in both directions"
