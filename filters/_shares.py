"""Share a number among groups in proportion to a power of their sizes, within bounds, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np

_NEAR = 2.0**-40  # about c: far more than rounding, far less than one more of any group
Seats = Callable[[float], np.ndarray]


def shared(sizes: np.ndarray, total: int, power: float, floor: int, cap: int) -> np.ndarray:
    """[K] int64: how many of each group, `total` in all, or all that the bounds allow.

    Webster's method: with weights size ** power, each group gets weight * c, rounded, and no less
    than its floor or more than its cap, for the one number c that gives the total. Of groups whose
    next one is due at the same c, the first get it. A larger total gives no group less. Where the
    floors alone are more than the total, it is shared equally, with them as the caps.

    The result is the same on any machine: nothing is added up but whole numbers.

    Args:
        sizes: [K] int64, 1 or more.
        total: 0 or more.
        power: 0 (as many of each) to 1 (the same share of each).
        floor: What a group gives at least, or all of it; 0 or more.
        cap: What a group gives at most; `floor` or more.
    """
    distinct, place, times = np.unique(sizes, return_inverse=True, return_counts=True)
    upper = np.minimum(distinct, cap)
    lower = np.minimum(upper, floor)
    if total >= int((upper * times).sum()):
        return np.asarray(upper[place])
    if total < int((lower * times).sum()):
        lower, upper, power = np.zeros_like(lower), lower, 0.0
    weight = _weights(distinct, power)

    def seats(c: float) -> np.ndarray:
        due = np.floor(c * weight + 0.5)
        return np.clip(due, lower, upper).astype(np.int64)

    c = _last(seats, times, total, float(upper.max() + 1))
    # As c is rounded, what is due just about there is put in order exactly.
    least = seats(c * (1 - _NEAR))
    quota = least[place]
    left = total - int((least * times).sum())
    for due in _in_order(weight, least, seats(c * (1 + _NEAR))):
        groups = np.flatnonzero(np.isin(place, due))[:left]
        quota[groups] += 1
        left -= len(groups)
    return np.asarray(quota)


def _weights(sizes: np.ndarray, power: float) -> np.ndarray:
    """[D] float64 of [D] sizes; a computer's own powers differ in the last bit between makes."""
    if power == 0:
        return np.ones(len(sizes))
    if power in (0.5, 1):
        return np.asarray(np.sqrt(sizes) if power < 1 else sizes, dtype=np.float64)
    context, exponent = Context(prec=20), Decimal(repr(power))
    return np.array([float(context.power(size, exponent)) for size in sizes.tolist()])


def _last(seats: Seats, times: np.ndarray, total: int, most: float) -> float:
    """The largest float64 c that gives `total` or less; `most` gives more."""
    low, high = 0, int(np.float64(most).view(np.int64))  # numbers above 0 ascend as their bits do
    while high - low > 1:
        middle = (low + high) // 2
        if int((seats(_of_bits(middle)) * times).sum()) <= total:
            low = middle
        else:
            high = middle
    return _of_bits(low)


def _of_bits(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))


def _in_order(weight: np.ndarray, first: np.ndarray, last: np.ndarray) -> Iterator[list[int]]:
    """Sizes, of [D], that are due one more at the same c, in order of c, from `first` to `last`."""
    due: dict[Fraction, list[int]] = {}
    for size in np.flatnonzero(last > first).tolist():
        for number in range(first[size] + 1, last[size] + 1):
            c = Fraction(2 * number - 1) / (2 * Fraction(float(weight[size])))
            due.setdefault(c, []).append(size)
    return (due[c] for c in sorted(due))
