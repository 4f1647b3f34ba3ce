"""The search for near hashes: the pairs of comparing all with all, each once, in any crowd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.features._pairing import hamming, hash_groups
from tests.near_hashes import brute_force, clustered, flipped, random_hashes, skewed


def found_by(hashes, radius, tables, reach=hash_groups.REACH):
    """(MATCH of all tables, comparisons left out)."""
    found, left_out = [np.empty(0, dtype=hamming.MATCH)], 0
    for table in tables:
        buckets = hamming.Buckets.of(hashes, table, reach)
        left_out += buckets.left_out(reach)
        found += hamming.matches(hashes, radius, table, buckets, reach)
    return np.concatenate(found), left_out


@pytest.mark.parametrize("radius", range(11))
@pytest.mark.parametrize("make", [random_hashes, clustered, skewed])
@pytest.mark.parametrize("meant_for", [1, 1_000, 1_000_000])
def test_the_pairs_are_those_of_comparing_all_with_all(make, radius, meant_for):
    hashes = np.unique(make(700, radius))
    found, left_out = found_by(hashes, radius, hamming.tables(radius, meant_for))
    assert left_out == 0
    assert len(np.unique(found)) == len(found)  # each once
    assert set(map(tuple, found.tolist())) == brute_force(hashes, radius)


def test_more_hashes_are_sorted_by_more_bits():
    bits = [
        [int(table.mask).bit_count() for table in hamming.tables(6, 10**power)]
        for power in range(10)
    ]
    assert bits[0] == [0]  # compared with all
    assert [min(each) for each in bits] == sorted(min(each) for each in bits)
    assert min(bits[9]) > 20


@settings(max_examples=40)
@given(count=st.integers(0, 90), radius=st.integers(0, 10), seed=st.integers(0, 2**31))
def test_within_a_band_the_pairs_are_those_that_no_band_before_has(count, radius, seed):
    hashes = np.unique(clustered(count, seed))
    bands = hamming.bands(radius + 1)
    assert sum(bands) == 2**64 - 1
    found = set()
    for number, band in enumerate(bands):
        tables = hamming.tables(radius, 200_000, band, bands[:number])
        own = set(map(tuple, found_by(hashes, radius, tables)[0].tolist()))
        assert not own & found
        found |= own
    assert found == brute_force(hashes, radius)


@pytest.mark.parametrize("mask", [0, 1, 1 << 63])
def test_what_is_left_out_of_a_crowd_is_counted(mask):
    hashes = np.unique(flipped(np.zeros(3000, dtype=np.uint64), 3, 0))
    table = hamming.Table(np.uint64(mask))
    found, left_out = found_by(hashes, 4, [table], reach=100)
    keys = hashes & table.mask
    place = np.zeros(len(hashes), dtype=np.int64)  # within those of an equal key
    expected = 0
    for key in np.unique(keys):
        count = int((keys == key).sum())
        place[keys == key] = np.arange(count)
        expected += sum(count - step for step in range(101, count))
    assert left_out == expected
    near = {
        (left, right, distance)
        for left, right, distance in brute_force(hashes, 4)
        if keys[left] == keys[right] and place[right] - place[left] <= 100
    }
    assert set(map(tuple, found.tolist())) == near


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), limit=st.integers(1, 12), cut=st.floats(0, 1))
def test_a_crowded_hash_keeps_its_nearest_whatever_came_first(seed, limit, cut):
    hashes = np.unique(clustered(80, seed, bits=4))
    found, _ = found_by(hashes, 10, hamming.tables(10, 1))
    expected = set()
    for row in range(len(hashes)):
        own = found[(found["left"] == row) | (found["right"] == row)]
        other = own["left"] + own["right"] - row
        nearest = own[np.lexsort((other, own["distance"]))][:limit]
        expected |= set(map(tuple, nearest.tolist()))
    rng = np.random.default_rng(seed)
    rng.shuffle(found)
    nearest = hamming.Nearest(len(hashes), limit)
    for some in np.array_split(found, [int(cut * len(found))]):
        nearest.add(some)
        kept = nearest.kept()
    assert nearest.seen == len(found)
    assert set(map(tuple, kept.tolist())) == expected
