"""When batches of draws end, on the one clock that makes samples independent: a mean field.

Soft cap sampling draws batches of distinct samples with odds e^z, and takes alpha off z of each
that was drawn. Sampling without replacement is a race: a sample's wait is Exp(e^z), and the batch
ends when so many have arrived. With many samples that time is as good as certain, so it is solved
once from a histogram of z, batch after batch, and each sample can then be drawn alone.

The state is the histogram of z itself: its bins divide alpha, so that a draw moves a sample by
whole bins, and nothing need be known of how often each was drawn. Bins far above the batch's level
(-log of its duration) are drawn in every batch, bins far below never; only those between cost work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_PLACES = 1 << 10  # within a bin
CENTRAL = 1 << 14  # bins on each side of the centre that are as wide as the others
_PER_E_FOLD = 1 << 11  # bins beyond them, for a factor e of the distance
_FINEST, _COARSEST = 1 / 256, 1 / 32  # widths of bins
_SURE, _NEVER = 4.0, -36.0  # above the level: a draw is as good as certain; cannot happen
_LOSS = 0.002  # share of a batch that would be second draws, below which batches do not matter
_HOTTEST = 0.25  # draws in a batch of any one sample, above which they do all the same
_STEPS = 64  # numbers of draws for which the time is known where each sample comes once
_FEW = 40_000  # draws whose time need not be known well
_STEP = 0.1  # moves of the hottest sample in one step, once batches do not matter
MOST_BATCHES = 100_000  # that may be looked at one by one


Histogram = np.ndarray  # [3, M] int64: bins, ascending; samples of each; their summed places in it


class TooManyBatches(ValueError):
    """More batches in which some sample is drawn nearly every time than can be looked at."""


@dataclass(frozen=True)
class Lattice:
    """Bins of z that divide alpha."""

    alpha: float
    centre: float = 0.0

    @property
    def bins_a_draw(self) -> int:
        """By how many bins a move goes down."""
        return max(1, math.ceil(self.alpha / _COARSEST)) if self.alpha >= _FINEST else 1

    @property
    def width(self) -> float:
        """Of a bin, in units of z."""
        return self.alpha / self.bins_a_draw if self.alpha >= _FINEST else _FINEST

    @property
    def draws_a_move(self) -> float:
        """Draws after which a sample has gone down by a move: 1 but for an alpha below a bin."""
        return self.width * self.bins_a_draw / self.alpha

    def histogram(self, z: np.ndarray) -> Histogram:
        """Which bins hold [N] finite z, how many, and where in the bin these are on average.

        Beyond the central bins their width grows with the distance.
        """
        place = (z - self.centre) / self.width
        bins = np.floor(place)
        inside = np.floor((place - bins) * _PLACES)
        far = np.flatnonzero(np.abs(bins) >= CENTRAL)
        if len(far):
            beyond = np.floor(np.log(np.abs(bins[far]) / CENTRAL) * _PER_E_FOLD)
            bins[far] = np.sign(bins[far]) * (CENTRAL + beyond)
            inside[far] = 0
        lowest = bins.min(initial=0.0)
        whole = (bins - lowest).astype(np.int64)
        counts = np.bincount(whole)
        sums = np.bincount(whole, inside).astype(np.int64)  # of integers below 2**53: exact
        found = np.flatnonzero(counts)
        return np.stack([found + int(lowest), counts[found], sums[found]])

    def places(self, histogram: Histogram) -> np.ndarray:
        """[M] float64 mean z of each bin, in widths from the centre; ascending."""
        bins, counts, sums = histogram
        places = bins + (sums / counts + 0.5) / _PLACES
        far = np.abs(bins) >= CENTRAL
        beyond = (np.abs(bins[far]) - CENTRAL + 0.5) / _PER_E_FOLD
        places[far] = np.sign(bins[far]) * CENTRAL * np.exp(np.minimum(beyond, 600.0))
        return np.asarray(places)


def added(left: Histogram, right: Histogram) -> Histogram:
    """Both histograms in one: associative, commutative and exact."""
    both = np.concatenate([left, right], axis=1)
    bins, inverse = np.unique(both[0], return_inverse=True)
    total = np.zeros((3, len(bins)), dtype=np.int64)
    total[0] = bins
    np.add.at(total[1], inverse, both[1])
    np.add.at(total[2], inverse, both[2])
    return total


@dataclass(frozen=True)
class Schedule:
    """The batches' ends, and how many draws are expected by when."""

    ends: np.ndarray  # [M] log of the time at which each batch ends, ascending
    draws: np.ndarray  # [K] expected by `times`, ascending
    times: np.ndarray  # [K] log of the time, ascending
    closed: bool = False  # whether nothing may be drawn after the last end; else without batches

    def time_of(self, draws: float) -> float:
        """The log of the time by which so many draws are expected, no later than is known."""
        if draws <= 0:
            return -math.inf
        first = self.times[0] + math.log(draws / self.draws[0])
        return first if draws < self.draws[0] else float(np.interp(draws, self.draws, self.times))


def schedule(lattice: Lattice, histogram: Histogram, batch: int, until: float) -> Schedule:
    """The schedule up to `until` expected draws: a larger `until` only adds to it.

    Args:
        lattice: What the bins are.
        histogram: Of all samples.
        batch: Distinct samples of each batch, no more than there are.
        until: Draws that are wanted, and some more.

    Raises:
        TooManyBatches: more than 100,000 would have to be looked at one by one.
    """
    field_ = _Field.of(lattice, histogram, batch)
    ends: list[float] = []
    hot = field_.hot()
    while hot and len(ends) * batch < until:
        if len(ends) == MOST_BATCHES:
            raise TooManyBatches
        field_.draw_batch()
        ends.append(field_.log_time)
        hot = field_.hot()
    draws = [float(batch * (n + 1)) for n in range(len(ends))]
    times = list(ends)
    while not hot and field_.total < until:
        if until <= _FEW:
            field_.flow_at_once(until)
        else:
            field_.flow()
        draws.append(field_.total)
        times.append(field_.log_time)
    shift = -lattice.centre
    return Schedule(np.array(ends) + shift, np.array(draws), np.array(times) + shift, closed=hot)


def repeated(lattice: Lattice, histogram: Histogram, until: float) -> Schedule:
    """The time by which so many draws are expected where a draw changes nothing."""
    z = lattice.places(histogram) * lattice.width
    heaviest = float(z[-1])
    total = heaviest + math.log(float((np.exp(z - heaviest) * histogram[1]).sum()))
    time = math.log(until) - total - lattice.centre
    return Schedule(np.zeros(0), np.array([until]), np.array([time]))


def distinct(lattice: Lattice, histogram: Histogram, until: float) -> Schedule:
    """The times by which so many samples are expected to have been drawn where each comes once."""
    z, counts = lattice.places(histogram) * lattice.width, histogram[1].astype(np.float64)
    total = float(counts.sum())
    parts = until * np.arange(1, _STEPS + 1) / _STEPS
    draws = np.union1d(parts, total * (1 - 0.1 ** np.arange(2, 9)))  # the last take ever longer
    draws = draws[draws <= min(until, total * (1 - 1e-8))]
    times = [-_first_level(z, counts, wanted) - lattice.centre for wanted in draws.tolist()]
    return Schedule(np.zeros(0), draws, np.array(times))


@dataclass
class _Field:
    """Mass of samples by z, from the top down; `level` is -log of a batch's duration."""

    lattice: Lattice
    places: np.ndarray  # [M] middles of the bins that z starts in, ascending
    counts: np.ndarray  # [M]
    batch: int
    top: int  # place of the first bin of `mass`
    level: float
    mass: np.ndarray = field(default_factory=lambda: np.zeros(0))
    batches: int = 0
    total: float = 0.0
    log_time: float = -math.inf

    @classmethod
    def of(cls, lattice: Lattice, histogram: Histogram, batch: int) -> _Field:
        places, counts = _shared(lattice.places(histogram), histogram[1])
        level = _first_level(places * lattice.width, counts, batch)
        top = math.ceil((level + _SURE) / lattice.width)
        return cls(lattice, places, counts, batch, top, level)

    def _from(self, first: int, last: int) -> np.ndarray:
        """[last - first] mass that starts so many bins below the top; negative ones are above."""
        found = np.zeros(last - first)
        low = np.searchsorted(self.places, self.top - last + 0.5, side="right")
        high = np.searchsorted(self.places, self.top - first + 0.5, side="right")
        depth = np.floor(self.top - self.places[low:high] + 0.5).astype(np.int64)
        np.add.at(found, np.clip(depth - first, 0, last - first - 1), self.counts[low:high])
        return found

    def _above(self) -> float:
        """Samples that were drawn in each batch so far and are still above the top."""
        limit = self.top + 0.5 + self._fallen(self.batches)
        return float(self.counts[np.searchsorted(self.places, limit, side="right") :].sum())

    def _fallen(self, batches: int) -> int:
        """By how many bins a sample is lower after it came in each of so many batches."""
        return int(batches * self.lattice.bins_a_draw / self.lattice.draws_a_move + 1e-9)

    def _depth(self, z: float) -> int:
        """Bins from the top down to z."""
        return max(0, math.floor(self.top - z / self.lattice.width))

    def _reach(self, z: float) -> int:
        """Make bins down to z, and for what moves out of them; bins from the top down to z."""
        depth = self._depth(z)
        needed = depth + self.lattice.bins_a_draw + 1
        if needed > len(self.mass):
            more = self._from(len(self.mass), max(needed, len(self.mass) * 5 // 4))
            self.mass = np.concatenate([self.mass, more])
        return depth

    def _z(self, first: int, last: int) -> np.ndarray:
        return (self.top + 0.5 - np.arange(first, last)) * self.lattice.width

    def hot(self) -> bool:
        """Whether it matters that no sample comes twice in a batch; in one of 1 none can."""
        limit = math.exp(_SURE - 1) if self.batch == 1 else _HOTTEST
        often = self._reach(self.level + math.log(limit))
        if self._above() + float(self.mass[:often].sum()) > 0.5:
            return True
        last = self._reach(self.level + math.log(_LOSS) - 5)
        waits = np.exp(self._z(often, last) - self.level)
        second = float((waits**2 / 2 * self.mass[often:last]).sum())
        return self.batch > 1 and second > _LOSS * self.batch

    def draw_batch(self) -> None:
        """Draw one batch."""
        last = self._reach(self.level + _NEVER - self.lattice.alpha)
        first = min(self._depth(self.level + _SURE), last)
        mass, above = self.mass[first:last], self._above()
        sure = above + float(self.mass[:first].sum())
        waits = np.exp(self._z(first, last) - self.level)
        change = _solve(mass, waits, self.batch - sure, self.lattice.alpha)
        self.level -= change
        drawn = -np.expm1(-waits * math.exp(change)) * mass
        self.log_time = float(np.logaddexp(self.log_time, -self.level))
        moved = np.concatenate([self.mass[:first], drawn]) / self.lattice.draws_a_move
        self._move(moved, last)
        fallen, self.batches = self._fallen(self.batches), self.batches + 1
        next_ = self._fallen(self.batches)
        if above and next_ > fallen:  # those just above come into the first bins
            self.mass[: next_ - fallen] += self._from(-next_, -fallen)
        self.total = float(self.batches * self.batch)

    def flow(self) -> None:
        """Let time go on without batches, for as long as the hottest lose a little."""
        reached = np.cumsum(self.mass)
        hottest = int(np.searchsorted(reached, min(0.5, float(reached[-1]) / 2)))
        z = (self.top + 0.5 - hottest) * self.lattice.width
        last = self._reach(z + _NEVER)
        a_move = self.lattice.draws_a_move
        log_step = math.log(_STEP * a_move) - z
        rates = np.exp(self._z(hottest, last) + log_step) / a_move
        lost = -math.expm1(-self.lattice.alpha * a_move)  # of the odds, in a move
        moved = np.zeros(last)
        moved[hottest:] = np.log1p(lost * rates) / lost * self.mass[hottest:last]
        self._move(moved, last)
        self.total += float(moved.sum()) * a_move
        self.log_time = float(np.logaddexp(self.log_time, log_step))

    def flow_at_once(self, until: float) -> None:
        """Let time go on until so many draws are expected, to a few percent."""
        last = self._reach(self.level + _NEVER)
        z, mass = self._z(0, last), self.mass[:last]
        lost, alpha = math.expm1(self.lattice.alpha), self.lattice.alpha
        low, high = z[-1] - 1.0, z[0] + 700.0
        wanted = until - self.total
        for _ in range(50):
            log_step = (low + high) / 2
            # exp(alpha * draws) - (e^alpha - 1) * time * e^z is a martingale of each sample.
            drawn = np.log1p(lost * np.exp(np.minimum(z + log_step, 700.0))) / alpha
            low, high = (
                (low, log_step) if float((drawn * mass).sum()) > wanted else (log_step, high)
            )
        self.total = until
        self.log_time = float(np.logaddexp(self.log_time, high))

    def _move(self, moved: np.ndarray, last: int) -> None:
        step = self.lattice.bins_a_draw
        self.mass[:last] -= moved
        self.mass[step : last + step] += moved


def _shared(places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of bins, ascending, and the mass of each, whose mean in every place is as given."""
    low = np.floor(places - 0.5) + 0.5
    upper = places - low
    both = np.concatenate([low, low + 1])
    middles, inverse = np.unique(both, return_inverse=True)
    mass = np.zeros(len(middles))
    np.add.at(mass, inverse, np.concatenate([counts * (1 - upper), counts * upper]))
    return middles, mass


def _solve(mass: np.ndarray, waits: np.ndarray, wanted: float, limit: float) -> float:
    """By how much the level falls, 0 to `limit`, so that so many are drawn: Newton, held."""
    low, high = 0.0, limit
    change = 0.0
    for _ in range(60):
        expected = waits * math.exp(change)
        stay = np.exp(-expected)
        missing = wanted - float(((1 - stay) * mass).sum())
        if missing > 0:
            low = change
        else:
            high = change
        slope = float((expected * stay * mass).sum())
        if abs(missing) <= 1e-9 * max(1.0, abs(wanted)) or high - low < 1e-12:
            break
        step = missing / slope if slope > 0 else math.inf
        change = change + step if low < change + step < high else (low + high) / 2
    return change


def _first_level(z: np.ndarray, counts: np.ndarray, batch: float) -> float:
    """-log of the time by which so many are drawn: sum(counts * (1 - exp(-e^(z - level))))."""
    low = float(z[0]) - _SURE  # there all are drawn
    high = float(z[-1]) + math.log(counts.sum() / batch) + 1
    for _ in range(200):
        level = (low + high) / 2
        if level in (low, high) or high - low < 1e-12:
            break
        drawn = float((-np.expm1(-np.exp(np.minimum(z - level, 700.0))) * counts).sum())
        low, high = (level, high) if drawn > batch else (low, level)
    return low if high - low >= 1e-12 else level
