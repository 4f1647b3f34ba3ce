"""Count, mean, deviation and range of numbers: the same however they are split or ordered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LIMB = 18  # bits: sums of products of two limbs of 2**25 numbers fit into int64
UNIT = 1126  # every finite float64 is a whole multiple of 2**-1126


@dataclass(frozen=True)
class ExactSums:
    """What is known of some finite numbers. Adding two is associative, commutative and exact."""

    count: int = 0
    total: int = 0  # of the numbers, in units of 2**-UNIT
    squares: int = 0  # of their squares, in units of 2**-(2 * UNIT)
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: ExactSums) -> ExactSums:
        return ExactSums(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def mean(self) -> float:
        """The mean, rounded once; 0 where there is no number."""
        return self.total / (self.count << UNIT) if self.count else 0.0

    def deviation(self) -> float:
        """The standard deviation of the population (divided by N), rounded once."""
        if self.low >= self.high:
            return 0.0
        scatter = self.count * self.squares - self.total * self.total  # N^2 times the variance
        return math.isqrt(scatter << 128) / (self.count << (UNIT + 64))


def exact_sums(values: np.ndarray) -> ExactSums:
    """What is to know of [N] finite float64, N up to 2**25."""
    if not len(values):
        return ExactSums()
    mantissas, exponents = np.frexp(values)
    order = np.argsort(exponents.astype(np.int16), kind="stable")  # of 16 bits: a radix sort
    exponents = exponents[order]
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    shifts = (exponents[starts] - 53 + UNIT).tolist()  # of each run of numbers of one exponent
    whole = np.ldexp(mantissas[order], 53).astype(np.int64)  # 53 bits and a sign: exact
    mask = (1 << LIMB) - 1
    high, middle, low = whole >> 2 * LIMB, (whole >> LIMB) & mask, whole & mask

    def added(limbs: tuple[np.ndarray, ...], times: int) -> int:
        """The sum of numbers given by limbs, lowest first, each run shifted `times` its shift."""
        sums = [np.add.reduceat(limb, starts).tolist() for limb in limbs]
        runs = (sum(s << (LIMB * i) for i, s in enumerate(run)) for run in zip(*sums, strict=True))
        return sum(run << times * shift for run, shift in zip(runs, shifts, strict=True))

    products = (
        low * low,
        2 * low * middle,
        2 * low * high + middle * middle,
        2 * middle * high,
        high * high,
    )
    return ExactSums(
        len(values),
        added((low, middle, high), 1),
        added(products, 2),
        float(values.min()),
        float(values.max()),
    )
