"""Planted duplicates of real pictures, through whole pipelines: what each method must catch.

The bounds stand well below what is measured: `python tests/planted.py` prints that.
"""

from dataclasses import replace

import planted
import pytest
import real_pictures
from planted import METHODS

pytestmark = [pytest.mark.real, pytest.mark.slow]

AT = {
    "sha256": [0],
    "phash": [0, 4, 8],
    "dhash": [4],
    "phash or mirrored": [4],
    "clip": [0.98, 0.95],
}
SAME_PICTURE = ("same bytes", "jpeg 90", "jpeg 60", "jpeg 30", "scaled 0.5", "scaled 2")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{(method, threshold): what it did} to 60 stamps and their copies."""
    real_pictures.fetch_or_skip()
    methods = {name: replace(METHODS[name], thresholds=at) for name, at in AT.items()}
    samples = planted.pool(real_pictures.stamps(), 60)
    assert sum(sample.kind == planted.LOOK_ALIKE for sample in samples) > 50
    folder = tmp_path_factory.mktemp("planted")
    return {(one.method, one.threshold): one for one in planted.measured(folder, samples, methods)}


def test_sha256_finds_the_same_bytes_and_nothing_else(found):
    (one,) = (one for one in found.values() if one.method == "sha256")
    assert one.recall["same bytes"] == 1
    changed = {kind: share for kind, share in one.recall.items() if kind not in SAME_PICTURE}
    assert max(changed.values()) <= 0.1  # a mirror image of what is its own mirror image
    assert (one.precision, one.originals, one.look_alikes) == (1, 0, 0)


@pytest.mark.parametrize("method", ["phash", "dhash", "phash or mirrored"])
def test_hashes_find_pictures_encoded_and_scaled_anew(found, method):
    one = found[method, 4]
    assert min(one.recall[kind] for kind in SAME_PICTURE) >= 0.9
    assert one.recall["watermark"] >= 0.8
    assert one.precision >= 0.98
    assert max(one.originals, one.look_alikes) <= 0.02


def test_a_larger_distance_finds_more_of_what_was_cropped(found):
    shares = [found["phash", distance].recall["cropped 5 %"] for distance in (0, 4, 8)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] >= 0.4


def test_only_the_mirrored_hash_finds_mirrored_pictures(found):
    assert found["phash", 4].recall["mirrored"] <= 0.1
    assert found["phash or mirrored", 4].recall["mirrored"] >= 0.95


def test_embeddings_find_more_of_what_was_cropped_and_take_look_alikes_for_copies(found):
    strict, loose = found["clip", 0.98], found["clip", 0.95]
    assert min(strict.recall[kind] for kind in SAME_PICTURE) >= 0.9
    assert strict.recall["cropped 5 %"] > found["phash", 4].recall["cropped 5 %"]
    assert loose.recall["cropped 10 %"] >= 0.5
    assert strict.precision >= 0.93
    assert loose.look_alikes > strict.look_alikes
    assert loose.look_alikes <= 0.3
