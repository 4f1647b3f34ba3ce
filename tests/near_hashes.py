"""Hashes of 64 bits, some near each other, and their pairs by comparing all with all."""

import numpy as np

ONE = np.uint64(1)


def flipped(hashes, bits, seed):
    """The same with up to `bits` random bits of each the other way."""
    rng = np.random.default_rng(seed)
    for _ in range(bits):
        bit = ONE << rng.integers(0, 64, len(hashes)).astype(np.uint64)
        hashes = hashes ^ np.where(rng.random(len(hashes)) < 0.7, bit, np.uint64(0))
    return hashes


def random_hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def clustered(count, seed, bits=7):
    """Hashes around a fifth as many others; some are equal."""
    centres = random_hashes(max(1, count // 5), seed)
    rng = np.random.default_rng(seed)
    return flipped(centres[rng.integers(0, len(centres), count)], bits, seed + 1)


def skewed(count, seed):
    """Half of them of a few bits only: many are equal in most of their bands."""
    hashes = random_hashes(count, seed)
    few = np.random.default_rng(seed).random(count) < 0.5
    return np.where(few, flipped(np.zeros(count, dtype=np.uint64), 5, seed), hashes)


def brute_force(hashes, radius):
    """{(left, right, distance)} by comparing all with all."""
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    left, right = np.nonzero(np.triu(distance <= radius, 1))
    return set(zip(left.tolist(), right.tolist(), distance[left, right].tolist(), strict=True))
