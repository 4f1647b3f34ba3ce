"""Exponential clocks: when each sample is drawn, each by random numbers of its own.

A sample of weight w is drawn after a wait of Exp(w), the smallest wait first: that is drawing one
after the other in proportion to the weights (Efraimidis and Spirakis 2006 without putting back).
With a new wait after each draw it is drawing with putting back; with weights that shrink by
e^-alpha at each draw it is soft cap sampling. Times and weights are logarithms: no range is too
wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from filters._mixing import mixed

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the step of splitmix64 (Steele, Lea, Flood 2014)
_HALF = 2.0**-54  # half a step of a random number: none is 0 or 1
_CHUNK = 1 << 16  # rows at a time: their arrays stay in the cache
_TOGETHER = 6  # draws after which so few rows go on that all chunks are taken together
_BLOCK = 1 << 16  # draws that are looked ahead at once where few rows go on for long


@dataclass(frozen=True)
class Race:
    """What is the same for all samples."""

    alpha: float = 0.0  # what a draw takes off a sample's log weight
    ends: np.ndarray | None = None  # [M] log times, ascending: in a batch a sample comes only once
    closed: bool = False  # whether the last end is the end of all; else batches end there


@dataclass(frozen=True)
class Arrivals:
    """Who was drawn how often before a time, and each draw between it and a later one."""

    before: np.ndarray  # [N] int64 draws of each row up to and including the first time
    rows: np.ndarray  # [M] int64 whose draw it is
    numbers: np.ndarray  # [M] int64 which of the row's draws, 1 the first
    times: np.ndarray  # [M] float64 log times, after the first and up to the second


def first_times(log_weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """[N] float64 log of the time at which each is drawn first.

    Args:
        log_weights: [N] float64; -inf is never drawn (inf), NaN gives NaN.
        uniform: [N] float64 in [0, 1), by uid.
    """
    return np.asarray(np.log(-np.log(uniform + _HALF)) - log_weights)


def arrivals(
    log_weights: np.ndarray, uniform: np.ndarray, race: Race, span: tuple[float, float]
) -> Arrivals:
    """All draws up to the end of a span of time.

    Args:
        log_weights: [N] float64; NaN and -inf are never drawn.
        uniform: [N] float64 in [0, 1), by uid: the first random number of a row, and the seed of
            the others, 53 bits each.
        race: Of which kind.
        span: Log times, the first exclusive and the second inclusive.
    """
    first, last = span
    if race.closed and race.ends is not None:
        last = min(last, float(np.nextafter(race.ends[-1], -math.inf)))
    found = _Found(np.zeros(len(log_weights), dtype=np.int64), [], [], [])
    waiting = []
    for start in range(0, len(log_weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        times = first_times(log_weights[rows], uniform[rows])
        alive = np.flatnonzero(times <= last)
        seeds = (uniform[rows][alive] * 2.0**53).astype(np.uint64)
        now = _Waiting(alive + start, log_weights[rows][alive], seeds, times[alive], 0)
        while len(now.rows) and now.draws < _TOGETHER:
            now = _drawn(now, race, (first, last), found)
        waiting.append(now)
    now = _joined(waiting)
    while len(now.rows):
        now = _drawn(now, race, (first, last), found)
    return found.arrivals()


@dataclass(frozen=True)
class _Waiting:
    """[K] rows that are drawn once more before the end, each after as many draws."""

    rows: np.ndarray
    log_weights: np.ndarray
    seeds: np.ndarray
    times: np.ndarray  # of the next draw
    draws: int


@dataclass(frozen=True)
class _Found:
    before: np.ndarray
    rows: list[np.ndarray]
    numbers: list[np.ndarray]
    times: list[np.ndarray]

    def add(self, now: _Waiting, times: np.ndarray, span: tuple[float, float]) -> None:
        """Note the next draws of some rows, [K, ahead] times."""
        early = times <= span[0]
        self.before[now.rows] += early.sum(axis=1)
        if early.all():
            return
        row, ahead = np.nonzero(~early & (times <= span[1]))
        self.rows.append(now.rows[row])
        self.numbers.append(now.draws + 1 + ahead)
        self.times.append(times[row, ahead])

    def arrivals(self) -> Arrivals:
        none = np.zeros(0, dtype=np.int64)
        return Arrivals(
            self.before,
            np.concatenate([none, *self.rows]),
            np.concatenate([none, *self.numbers]),
            np.concatenate([none.astype(np.float64), *self.times]),
        )


def _joined(waiting: list[_Waiting]) -> _Waiting:
    """Rows of all chunks that go on; those of some chunks may have stopped before."""
    going = [now for now in waiting if len(now.rows)]
    if not going:
        none = np.zeros(0)
        return _Waiting(none, none, none, none, 0)
    return _Waiting(
        np.concatenate([now.rows for now in going]),
        np.concatenate([now.log_weights for now in going]),
        np.concatenate([now.seeds for now in going]),
        np.concatenate([now.times for now in going]),
        _TOGETHER,
    )


def _drawn(now: _Waiting, race: Race, span: tuple[float, float], found: _Found) -> _Waiting:
    """Note the next draw of each row (or some, where few rows go on for long), and who goes on."""
    times = now.times
    if race.alpha == math.inf:
        found.add(now, times[:, None], span)
        return _joined([])
    ahead = 1
    if race.ends is not None and len(race.ends):
        batch = np.searchsorted(race.ends, times, side="right")
        if race.closed or batch.min() < len(race.ends):
            inside = race.ends[np.minimum(batch, len(race.ends) - 1)]
            times = np.where(batch < len(race.ends), inside, times)  # the wait starts at the end
    if times is now.times and now.draws >= _TOGETHER:
        ahead = max(1, min(_BLOCK // len(now.rows), now.draws))
    numbers = now.draws + 1 + np.arange(ahead)  # [ahead] of the draws that follow
    waits = np.log(_exponential(now.seeds, numbers))  # [K, ahead]
    waits += race.alpha * numbers - now.log_weights[:, None]
    if ahead == 1:
        following = np.logaddexp(times, waits[:, 0])  # [K]
        found.add(now, now.times[:, None], span)
    else:
        following = np.logaddexp.accumulate(np.column_stack([times, waits]), axis=1)
        found.add(now, following[:, :-1], span)
        following = following[:, -1]
    alive = np.flatnonzero(following <= span[1])
    return _Waiting(
        now.rows[alive],
        now.log_weights[alive],
        now.seeds[alive],
        following[alive],
        now.draws + ahead,
    )


def _exponential(seeds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """[K, M] float64, Exp(1): random numbers of each of [K] seeds, by their [M] numbers."""
    drawn = mixed(mixed(seeds.copy())[:, None] + numbers.astype(np.uint64) * _GAMMA)
    return np.asarray(-np.log((drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53 + _HALF))
