"""Exact search, streaming, for the row of a given rank by (value descending, uid, address).

Each pass counts one digit of the key among the rows that may still be the one; once few are left
they are gathered and sorted. Counts add up exactly, so the row found does not depend on how rows
are spread over batches, and memory does not depend on their number. The first digits are those of
the value: uids are looked at only where values tie at the rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Precision = Literal["float32", "float64"]
Cut = dict[str, Any]  # JSON: a search under way (`digits`), or what it found (`key` or `all`)
Found = Any  # picklable: what one batch contributes to a search

GATHER = 1 << 17  # candidates few enough to hold at once
_DIGITS: dict[str, tuple[int, ...]] = {  # bits of each digit of a value, the highest first
    "float32": (20, 12),
    "float64": (20, 22, 22),
}
_UID_DIGITS = (20, 22, 22)  # of each of the two halves of a uid and of the address


def order(values: np.ndarray) -> np.ndarray:
    """[N] uint32 or uint64, of [N] float32 or float64 that are not NaN: smaller is better."""
    kind, signed, bits = (
        (np.uint32, np.int32, 31) if values.dtype == np.float32 else (np.uint64, np.int64, 63)
    )
    raw = (values + values.dtype.type(0)).view(kind)  # -0.0 and 0.0 are the same score
    negative = (raw.view(signed) >> signed(bits)).view(kind)  # all ones where negative
    return np.asarray(raw ^ (~negative & kind(2**bits - 1)))


def value_of(key: int, precision: Precision) -> float:
    """The value that has this key: the inverse of `order`."""
    kind, bits = (np.uint32, 31) if precision == "float32" else (np.uint64, 63)
    raw = key if key >> bits else key ^ (2**bits - 1)
    return float(np.array([raw], dtype=kind).view(precision)[0])


def search(rank: int, rows: int) -> Cut:
    """Start to look for the row of this rank (1 is the best) among so many."""
    return {"all": False} if rank == 0 else _narrowed(rank, 0, [], rows)


def resolved(cut: Cut) -> bool:
    """Whether it is known which rows are of that rank or better."""
    return "digits" not in cut


def look(
    cut: Cut, keys: np.ndarray, words: Callable[[np.ndarray], np.ndarray], precision: Precision
) -> Found:
    """What one batch contributes to a search.

    Args:
        cut: The search so far.
        keys: [N] the rows' values as `order` gives them.
        words: Rows of `keys` -> [K, 3] uint64, their uids' halves and addresses; asked only for
            rows whose value is known to be the one at the rank.
        precision: Of the values.
    """
    digits, sizes = cut["digits"], _DIGITS[precision]
    if len(digits) < len(sizes):
        left = sum(sizes[len(digits) :])
        if digits:
            keys = keys[keys >> keys.dtype.type(left) == keys.dtype.type(_joined(digits, sizes))]
        return keys if cut["gather"] else _counted(keys, left, sizes[len(digits)])
    rows = np.flatnonzero(keys == keys.dtype.type(_joined(digits, sizes)))
    ties = words(rows) if len(rows) else np.empty((0, 3), dtype=np.uint64)  # [K, 3]
    deeper = digits[len(sizes) :]
    for word in range(3):
        own = deeper[3 * word : 3 * word + 3]
        left = sum(_UID_DIGITS[len(own) :])
        if own:
            same = ties[:, word] >> np.uint64(left) == np.uint64(_joined(own, _UID_DIGITS))
            ties = ties[same]
        if len(own) < 3:
            break
    return ties if cut["gather"] else _counted(ties[:, word], left, _UID_DIGITS[len(own)])


def add(left: Found, right: Found) -> Found:
    """Both contributions in one: associative, commutative and exact."""
    if isinstance(left, np.ndarray):
        return np.concatenate([left, right])
    bins, inverse = np.unique(np.concatenate([left[0], right[0]]), return_inverse=True)
    counts = np.zeros(len(bins), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([left[1], right[1]]))
    return bins, counts


def narrow(cut: Cut, found: Found, precision: Precision, ties: Literal["cut", "kept"]) -> Cut:
    """The search after one pass over all rows.

    Args:
        cut: The search before it.
        found: What all batches contributed.
        precision: Of the values.
        ties: Whether rows whose value equals that of the rank are cut off there or all kept.
    """
    missing, sizes = cut["rank"] - cut["better"], _DIGITS[precision]
    at_value = len(cut["digits"]) < len(sizes)
    if not isinstance(found, np.ndarray):
        bins, counts = found
        reached = np.cumsum(counts)
    elif at_value:
        bins, counts = np.unique(found, return_counts=True)
        reached = np.cumsum(counts)
    else:
        ordered = found[np.lexsort(found.T[::-1])]
        key = _joined(cut["digits"], sizes)
        return {"key": key, "tie": [int(word) for word in ordered[missing - 1]]}
    if not len(reached) or reached[-1] < missing:
        return {"all": True}
    place = int(np.searchsorted(reached, missing))
    better = cut["better"] + (int(reached[place - 1]) if place else 0)
    digits = [*cut["digits"], int(bins[place])]
    if isinstance(found, np.ndarray):
        digits = _split(int(bins[place]), sizes)
    whole = len(digits) == len(sizes)
    if whole and (ties == "kept" or better + int(counts[place]) == cut["rank"]):
        return {"key": _joined(digits, sizes), "tie": None}
    return _narrowed(cut["rank"], better, digits, int(counts[place]))


def inside(
    cut: Cut, values: np.ndarray, words: Callable[[np.ndarray], np.ndarray], precision: Precision
) -> np.ndarray:
    """[N] bool: which of [N] values (NaN where unscored) are of the rank that was found or better.

    `words` is that of `look`, and asked only for rows whose value is the one at the rank.
    """
    if "all" in cut:
        return ~np.isnan(values) if cut["all"] else np.zeros(len(values), dtype=bool)
    bound = values.dtype.type(value_of(cut["key"], precision))
    if cut["tie"] is None:
        return np.asarray(values >= bound)
    kept = values > bound
    rows = np.flatnonzero(values == bound)
    if len(rows):
        kept[rows] = _at_most(words(rows), cut["tie"])
    return np.asarray(kept)


def _at_most(words: np.ndarray, bound: list[int]) -> np.ndarray:
    """[K] bool: rows of [K, W] that do not come after the bound, compared word by word."""
    result = np.ones(len(words), dtype=bool)
    for word in reversed(range(len(bound))):
        own = np.uint64(bound[word])
        result = (words[:, word] < own) | ((words[:, word] == own) & result)
    return result


def _narrowed(rank: int, better: int, digits: list[int], rows: int) -> Cut:
    return {"rank": rank, "better": better, "digits": digits, "gather": rows <= max(GATHER, 1)}


def _counted(keys: np.ndarray, left: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """([M], [M]): the digits that occur in [N] keys with `left` bits to go, and how often."""
    digits = (keys >> keys.dtype.type(left - size)) & keys.dtype.type((1 << size) - 1)
    counts = np.bincount(digits.astype(np.int64), minlength=1)
    bins = np.flatnonzero(counts)
    return bins, counts[bins]


def _joined(digits: list[int], sizes: tuple[int, ...]) -> int:
    """The number that begins with these digits."""
    number = 0
    for digit, size in zip(digits, sizes, strict=False):
        number = number << size | digit
    return number


def _split(number: int, sizes: tuple[int, ...]) -> list[int]:
    """The digits of a whole number: the inverse of `_joined`."""
    digits = []
    for size in reversed(sizes):
        digits.append(number & (1 << size) - 1)
        number >>= size
    return digits[::-1]
