"""The one source of randomness: the same numbers for ever, uniform, independent of each other."""

import numpy as np
import pytest

from curate import chance
from curate.sample import make_uids, parse_uids

UIDS = parse_uids(["0", "1", "f" * 32, "0123456789abcdef0123456789abcdef", "8" + "0" * 31])


def uids(count, seed=0):
    halves = np.random.default_rng(seed).integers(0, 2**64, (2, count), dtype=np.uint64)
    return make_uids(*halves)


def counted(count):
    """Uids as bad as they come: 0, 1, 2, ..."""
    return make_uids(np.zeros(count, dtype=np.uint64), np.arange(count, dtype=np.uint64))


@pytest.mark.parametrize(
    ("place", "bits"),
    [
        (
            (0, "random_sample", ""),
            [
                "1ec9c184e63e9fa3",
                "62ff52b4f4a011d6",
                "6c8fff04f749d287",
                "61bdaa0d96d178c6",
                "4c828cda1ac9e17a",
            ],
        ),
        (
            (1, "random_sample", ""),
            [
                "429e8255a7f083af",
                "241f7594255a9cb6",
                "bc31b7e9976afcf8",
                "2c23de27a05b8529",
                "200865beb4c1df19",
            ],
        ),
        (
            (0, "half", ""),
            [
                "0686f541a1d64192",
                "66586bd6ddfe9a9b",
                "784b60ccff42f460",
                "ea4615d5bc88ee39",
                "eb7ed255e69b5819",
            ],
        ),
        (
            (0, "half", "salt"),
            [
                "f67f27aaa22b0fa7",
                "816faecc072a9219",
                "d1b7450f68fefb2a",
                "94025dc061554694",
                "6cec01ada39aac9d",
            ],
        ),
    ],
)
def test_numbers_stay_what_they_were(place, bits):
    """Whoever changes these changes every random selection that was ever made."""
    seed, name, salt = place
    assert [f"{value:016x}" for value in chance.bits(seed, name, UIDS, salt).tolist()] == bits


def test_uniform_is_the_upper_53_bits():
    many = uids(1000)
    expected = [(bits >> 11) / 2**53 for bits in chance.bits(3, "a", many).tolist()]
    assert chance.uniform(3, "a", many).tolist() == expected


@pytest.mark.parametrize("make", [uids, counted])
def test_uniform_is_uniform(make):
    values = chance.uniform(0, "step", make(100_000))
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()  # 99 degrees of freedom: mean 99, sigma 14
    assert 50 < chi_squared < 170


@pytest.mark.parametrize("make", [uids, counted])
def test_every_bit_is_fair(make):
    bits = chance.bits(0, "step", make(100_000))
    for position in range(64):
        ones = int(((bits >> np.uint64(position)) & np.uint64(1)).sum())
        assert abs(ones - 50_000) < 5 * 158, position  # five standard deviations


@pytest.mark.parametrize("make", [uids, counted])
@pytest.mark.parametrize(
    "other", [(1, "step", ""), (0, "steq", ""), (0, "step", "x"), (0, "ste", "p")]
)
def test_another_seed_name_or_salt_is_independent(make, other):
    many = make(50_000)
    seed, name, salt = other
    first, second = chance.uniform(0, "step", many), chance.uniform(seed, name, many, salt)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(((first < 0.1) & (second < 0.1)).mean() - 0.01) < 0.003


def test_a_number_is_the_uid_s_alone():
    many = uids(500)
    whole = chance.bits(7, "step", many)
    order = np.random.default_rng(1).permutation(500)
    assert (chance.bits(7, "step", many[order]) == whole[order]).all()
    assert (chance.bits(7, "step", many[100:101]) == whole[100:101]).all()


def test_close_uids_share_nothing():
    """One flipped bit of a uid, in either half, flips half of the bits of its number."""
    base = chance.bits(0, "step", make_uids(np.array([5], "u8"), np.array([9], "u8")))
    flips = []
    for half in (0, 1):
        for position in range(64):
            changed = [np.array([5], dtype=np.uint64), np.array([9], dtype=np.uint64)]
            changed[half] ^= np.uint64(1 << position)
            flips.append(int(base[0] ^ chance.bits(0, "step", make_uids(*changed))[0]).bit_count())
    assert 30 < np.mean(flips) < 34
    assert min(flips) > 12
