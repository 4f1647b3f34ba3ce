"""The one source of randomness: a hash of (seed, step name, salt, uid) to a uniform number.

Nothing here depends on order, worker or process, so a decision can be repeated anywhere. Training
loaders read this module, so it loads nothing but numpy (`filters` would bring polars).
"""

from __future__ import annotations

import hashlib

import numpy as np

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64 (Steele, Lea, Flood 2014)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return np.asarray(x ^ (x >> np.uint64(31)))


def bits(seed: int, name: str, uids: np.ndarray, salt: str = "") -> np.ndarray:
    """[N] uint64, uniform, from [N] UID; another seed, name or salt gives independent numbers."""
    text = f"{seed}\x00{name}\x00{salt}".encode()
    digest = hashlib.blake2b(text, digest_size=24).digest()
    k0, k1, k2 = np.frombuffer(digest, dtype="<u8")
    x = _mix(uids["f0"] ^ k0)
    x = _mix((x + uids["f1"]) ^ k1)
    return _mix(x + k2)


def uniform(seed: int, name: str, uids: np.ndarray, salt: str = "") -> np.ndarray:
    """[N] float64 in [0, 1), 53 bits each, from [N] UID."""
    high = (bits(seed, name, uids, salt) >> np.uint64(11)).astype(np.float64)
    return np.asarray(high * 2.0**-53)
