"""Perceptual hashes: bit for bit those of ImageHash, for every kind of picture and any batch."""

import io

import imagehash
import numpy as np
import polars as pl
import pytest
import real_pictures
from PIL import Image, ImageOps
from pydantic import ValidationError
from tiny_clip import encoded, picture

from curate.features import Picture
from curate.features.perceptual_hash import PerceptualHash
from curate.score import open_features, score_samples
from tests.tiny_pool import Pipeline, draw, tar_pool, write_shards

KINDS = ("phash", "dhash")
MODES = {
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "JPEG": ["RGB", "L", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["P"],
    "TIFF": ["RGB", "I;16"],
}


def hashed(bodies, **fields):
    """({column: [N] values}, errors) of picture files."""
    opened = open_features([PerceptualHash(**fields)], "cpu")
    columns = score_samples(opened, bodies, pl.DataFrame({"n": range(len(bodies))}), threads=2)
    found = columns["perceptual_hash"]
    return {name: values.to_list() for name, values in found.scalars.items()}, found.errors


def by_library(image, kind):
    return int(str(getattr(imagehash, kind)(image)), 16)


def plain(colour):
    return encoded(Image.new("RGB", (64, 48), colour), "PNG")


@pytest.mark.parametrize("format_name", MODES)
def test_every_kind_of_picture_has_the_hash_that_the_library_gives(format_name):
    drawn = [picture((90, 60), mode) for mode in MODES[format_name]]
    bodies = [encoded(image, format_name) for image in drawn]
    found, errors = hashed(bodies, hash=KINDS, mirrored=True)
    assert errors == [None] * len(bodies)
    for kind in KINDS:
        opened = [Image.open(io.BytesIO(body)).convert("RGB") for body in bodies]
        assert found[kind] == [by_library(image, kind) for image in opened]
        mirrored = [by_library(ImageOps.mirror(image), kind) for image in opened]
        assert found[f"{kind}_mirrored"] == mirrored


@pytest.mark.real
def test_real_pictures_have_the_hashes_that_the_library_gives():
    real_pictures.fetch_or_skip()
    pairs = [*real_pictures.stamps(8), *real_pictures.clipart(60)]
    bodies = [pair.path.read_bytes() for pair in pairs if pair.path.stat().st_size < 200_000]
    found, errors = hashed(bodies, hash=KINDS, mirrored=True)
    scored = [row for row, error in enumerate(errors) if error is None]
    assert len(scored) > 200
    for kind in KINDS:
        images = [Picture(bodies[row]).rgb for row in scored]
        assert [found[kind][row] for row in scored] == [by_library(one, kind) for one in images]
        mirrored = [by_library(ImageOps.mirror(image), kind) for image in images]
        assert [found[f"{kind}_mirrored"][row] for row in scored] == mirrored
    # Pictures that are their own mirror image are where rounding would show.
    assert len({found["phash"][row] for row in scored}) > 150


def test_the_neighbours_in_a_batch_change_no_bit():
    drawn = [ImageOps.expand(picture((40 + n, 30), "L"), border=n % 5) for n in range(300)]
    bodies = [encoded(image, "PNG") for image in drawn]
    whole, _ = hashed(bodies, hash=KINDS)
    for start, stop in ((0, 1), (7, 10), (255, 258)):
        part, _ = hashed(bodies[start:stop], hash=KINDS)
        assert part == {name: values[start:stop] for name, values in whole.items()}


def test_the_first_bit_is_the_highest():
    brighter = np.full((8, 9), 100, dtype=np.uint8)
    brighter[0, 1:] = 101  # one step up, in the top left corner
    body = encoded(Image.fromarray(brighter), "PNG")
    assert hashed([body], hash="dhash")[0] == {"dhash": [1 << 63]}


@pytest.mark.parametrize("colour", ["white", "red", (7, 7, 7)])
def test_an_even_picture_has_a_hash_without_structure(colour):
    found, _ = hashed([plain(colour)], hash=KINDS, mirrored=True)
    assert set(found["phash"] + found["phash_mirrored"]) == {1 << 63}
    assert set(found["dhash"] + found["dhash_mirrored"]) == {0}
    assert hashed([plain("black")])[0] == {"phash": [0]}


def test_what_cannot_be_decoded_has_no_hash_and_says_why():
    body = encoded(picture(), "PNG")
    found, errors = hashed([b"", None, body[: len(body) // 2], body])
    assert [value is None for value in found["phash"]] == [True, True, True, False]
    assert errors == ["not_an_image", "no_image", "truncated_image", None]
    assert hashed([]) == ({"phash": []}, [])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["phash"]),
        ({"hash": "dhash", "mirrored": True}, ["dhash", "dhash_mirrored"]),
        ({"hash": ["dhash", "phash", "dhash"]}, ["dhash", "phash"]),
    ],
)
def test_the_columns_are_those_that_were_asked_for(fields, names):
    assert [field.name for field in PerceptualHash(**fields).gives()] == names


def test_no_hash_at_all_and_an_unknown_one_are_refused():
    assert "empty" in PerceptualHash(hash=[]).problems()[0]
    assert PerceptualHash().problems() == []
    with pytest.raises(ValidationError, match="phash"):
        PerceptualHash(hash="whash")


def test_a_pipeline_stores_all_64_bits(tmp_path):
    samples = [sample for sample in draw(40) if sample.jpeg is not None]
    pool = tar_pool(write_shards(tmp_path / "pool", samples, 2))
    steps = [{"perceptual_hash": {}}, {"where": {"sql": "perceptual_hash.phash IS NOT NULL"}}]
    pipeline = Pipeline(tmp_path / "run", pool, steps)
    assert pipeline.run().exit_code == 0
    stored = pl.read_parquet(pipeline.work / "features/perceptual_hash/block-*.parquet")
    assert stored["phash"].dtype == pl.UInt64
    expected, _ = hashed([sample.jpeg for sample in samples])
    assert stored["phash"].to_list() == expected["phash"]
    assert stored["error"].null_count() == len(samples)
