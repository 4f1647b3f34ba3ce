"""How large a difference is, and how sure: log odds ratios, shares and means with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from curate.features._exact_sums import ExactSums

CONFIDENCE = 0.95
PRIOR_SAMPLES = 10  # what the pooled variance is worth beside that of a part
PRIOR = 500.0  # captions that the prior is worth, but no more than the smaller side has


def quantile(comparisons: int = 1) -> float:
    """Standard errors on either side of an interval; of several, that all hold together."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * max(1, comparisons)))


@dataclass(frozen=True)
class Counted:
    """How many of the captions of each side have each of W words."""

    a: np.ndarray  # [W] int64
    b: np.ndarray  # [W] int64
    of_a: int  # captions
    of_b: int

    @property
    def prior(self) -> float:
        """Captions that the prior is worth."""
        return min(PRIOR, float(self.of_a), float(self.of_b))


@dataclass(frozen=True)
class Odds:
    """Log odds ratios of W words, above 0 where a word is commoner in A."""

    ratio: np.ndarray  # [W] float64
    error: np.ndarray  # [W] float64, standard error

    @property
    def z(self) -> np.ndarray:
        """[W] ratios in standard errors."""
        return np.asarray(self.ratio / self.error)

    def sure(self, comparisons: int) -> np.ndarray:
        """[W] bool: whose interval leaves out 0, with so many words compared."""
        return np.asarray(np.abs(self.z) > quantile(comparisons))


def log_odds(counted: Counted) -> Odds:
    """Log odds ratios with an informative Dirichlet prior.

    Monroe, Colaresi, Quinn (2008), "Fightin' Words", section 3.3: equations 15, 18 and 19, with a
    caption that has the word, or has not, for the unit. The prior is that both sides have the word
    as often as the two together do; it is worth `counted.prior` captions. All four terms of the
    variance are kept, so that words of most captions are right as well.
    """
    whole = counted.of_a + counted.of_b
    share = (counted.a + counted.b) / whole
    yes = counted.prior * share
    no = counted.prior - yes
    cells = (
        counted.a + yes,
        counted.of_a - counted.a + no,
        counted.b + yes,
        counted.of_b - counted.b + no,
    )
    # A word of all captions has no odds: half a caption without it keeps them finite.
    a_yes, a_no, b_yes, b_no = (np.maximum(cell, 0.5) for cell in cells)
    ratio = np.log(a_yes / a_no) - np.log(b_yes / b_no)
    return Odds(ratio, np.sqrt(1 / a_yes + 1 / a_no + 1 / b_yes + 1 / b_no))


def difference_of_shares(counted: Counted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[W] share of A less share of B, and both ends of its interval.

    Newcombe (1998), "Interval estimation for the difference between independent proportions",
    method 10: from Wilson's interval of each share.
    """
    p, q = counted.a / counted.of_a, counted.b / counted.of_b
    p_low, p_high = wilson(counted.a, counted.of_a)
    q_low, q_high = wilson(counted.b, counted.of_b)
    value = p - q
    low = value - np.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = value + np.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return value, low, high


def wilson(part: np.ndarray, whole: int) -> tuple[np.ndarray, np.ndarray]:
    """[W] both ends of the interval of `part / whole` (Wilson 1927); `whole` is not 0."""
    z = quantile()
    share = part / whole
    middle = share + z * z / (2 * whole)
    half = z * np.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    scale = 1 + z * z / whole
    return (middle - half) / scale, (middle + half) / scale


Side = tuple[ExactSums, ExactSums]  # of the samples that the other side has too, and of the rest


def standardised(a: Side, b: Side) -> tuple[float, float, float] | None:
    """Cohen's d of A against B, and both ends of its interval; None where nothing deviates.

    The variance is Hedges and Olkin's (1985, p. 86), (1/n + 1/m + d^2 / 2(n + m)), but that each
    part of the samples has its own variance over the pooled one, and that a sample on both sides
    moves both means, by 1/n - 1/m of itself: of the s shared ones of n and m, (n - s) v/n^2 +
    (m - s) w/m^2 + s u (1/n - 1/m)^2. The variance of a few samples is hardly known: it is taken
    for a mean with PRIOR_SAMPLES of the pooled variance.

    Args:
        a: The values of the samples of A.
        b: The same of B.
    """
    whole = a[0] + a[1], b[0] + b[1]
    n, m = (one.count for one in whole)
    if n + m < 3 or not n or not m:
        return None
    parts = (math.sqrt(count / (n + m - 2)) for count in (n, m))
    pooled = math.hypot(*(w * s.deviation() for w, s in zip(parts, whole, strict=True)))
    value = (whole[0].mean() - whole[1].mean()) / pooled if pooled > 0 else math.nan
    if not math.isfinite(value):
        return None
    shared = min(a[0].count, b[0].count)
    means = (n - shared) * _variance(a[1], pooled) / n**2
    means += (m - shared) * _variance(b[1], pooled) / m**2
    both = (_variance(a[0], pooled) + _variance(b[0], pooled)) / 2
    means += shared * both * (1 / n - 1 / m) ** 2
    reach = quantile() * math.sqrt(means + value * value / (2 * (n + m)))
    return value, value - reach, value + reach


def _variance(part: ExactSums, pooled: float) -> float:
    """The variance of some samples over the pooled one."""
    own = (part.deviation() / pooled) ** 2 if part.count else 0.0
    return (part.count * own + PRIOR_SAMPLES) / max(part.count - 1 + PRIOR_SAMPLES, 1)
