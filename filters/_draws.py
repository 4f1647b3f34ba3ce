"""What filters have in common that draw until there are exactly so many copies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from filters import (
    UNSCORED,
    Available,
    Batch,
    Counts,
    PoolFilter,
    State,
    Summary,
    Unbound,
    Verdict,
    _radix,
    column,
    reasons_of,
)
from filters._clocks import Arrivals, Race, arrivals
from filters._schedule import CENTRAL, Histogram, Lattice, Schedule, added
from filters._top import words_of

_SPREAD = 8.0  # standard deviations, at most, of how many are drawn by a time
_DOUBT = 2e-4  # of the draws: how far the expected number may be off
_SPARE = 10.0  # draws
_FEW = 1 << 15  # draws of which all are gathered
_NONE = -math.inf
_FOREVER = 1e308  # after every draw; JSON has no infinity


@dataclass(frozen=True)
class Weights:
    """What a filter makes of N samples."""

    logs: np.ndarray  # [N] float64 log weights, NaN where unscored, -inf where never drawn
    values: np.ndarray  # [N] float64 that they come from
    wrong: np.ndarray | None = None  # [N] bool: values that no weight comes from


class Draws(PoolFilter):
    """Draws samples until there are exactly so many copies.

    First a pass for a histogram of the log weights (and another where these lie far from 0), from
    which the time of the last draw is predicted; then one that gathers the draws near that time
    (and another where the last was not among them). So the last draw is exact: ties go to the
    smaller uid, and nothing depends on how rows are spread over batches.
    """

    def weights(self, batch: Batch, state: State) -> Weights:
        """The weights of samples, the same for any batch they are in."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def wanted(self, rows: int) -> int:
        """How many copies are drawn, of so many rows."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def lattice(self, centre: float) -> Lattice:
        """The bins of log weights."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def lost_by_a_draw(self) -> float:
        """What a draw takes off a sample's log weight; infinite where it comes only once."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def planned(self, histogram: Histogram, state: State, until: float) -> Schedule:
        """The times of so many draws, of samples of which some can be drawn; raises Unbound."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def prepared(self, scored: int, state: State) -> State:
        """The state once it is known how many samples can be drawn; raises Unbound."""
        return state

    def refusal(self, uid: str, value: float) -> str:
        """What is wrong with a value."""
        raise NotImplementedError  # the contract: every subclass says so itself

    def refusal_of_zeros(self, rows: int) -> str | None:
        """What is wrong where so many rows have a weight, and all of them 0; None: nothing is."""
        return None

    def most_allowed(self) -> int | None:
        """Copies above which a sample is discarded."""
        return None

    def start(self, counts: Counts) -> State:
        draws = self.wanted(counts.survivors)
        return {"rows": counts.survivors, "wanted": draws, "centre": 0.0}

    def finished(self, state: State) -> bool:
        return "last" in state

    def summarize(self, batch: Batch, state: State) -> Summary:
        weights = self.weights(batch, state)
        if "span" in state:
            before, last = state["span"]
            race = self._race(batch, weights, state, (_NONE if before is None else before, last))
            near = _draws(batch, race.rows, race.times, race.numbers)
            return {"near": near, "before": _tally(race.before, self.most_allowed())}
        return {
            "histogram": self.lattice(state["centre"]).histogram(
                weights.logs[np.isfinite(weights.logs)]
            ),
            "never": int(np.isneginf(weights.logs).sum()),
            "wrong": _first_wrong(batch, weights),
        }

    def merge(self, left: Summary, right: Summary) -> Summary:
        if "near" in left:
            return {
                "near": np.concatenate([left["near"], right["near"]]),
                "before": _together(left["before"], right["before"]),
            }
        wrong = [one for one in (left["wrong"], right["wrong"]) if one is not None]
        return {
            "histogram": added(left["histogram"], right["histogram"]),
            "never": left["never"] + right["never"],
            "wrong": min(wrong, default=None),
        }

    def fit(self, summary: Summary | None, state: State) -> State:
        if summary is None:
            return self._all_of_none({**state, "scored": 0})
        if "span" in state:
            return self._found(summary, state)
        if summary["wrong"] is not None:
            high, low, _, value = summary["wrong"]
            raise Unbound(self.refusal(f"{high:016x}{low:016x}", value))
        histogram = summary["histogram"]
        scored = int(histogram[1].sum())
        if not scored and summary["never"] and (said := self.refusal_of_zeros(summary["never"])):
            raise Unbound(said)
        if not scored or not state["wanted"]:
            return self._all_of_none({**state, "scored": scored + summary["never"]})
        centre = self._centre(histogram, state)
        if centre is not None:
            return {**state, "centre": centre}
        state = self.prepared(scored, {**state, "scored": scored + summary["never"]})
        if self.lost_by_a_draw() == math.inf:
            state["draws"] = min(state["wanted"], scored)
        else:
            state["draws"] = state["wanted"]
        return self._aimed({**state, "histogram": histogram.tolist()}, float(state["draws"]))

    def keep(self, batch: Batch, state: State) -> Verdict:
        weights = self.weights(batch, state)
        copies = np.zeros(len(weights.logs), dtype=np.int64)
        if state["last"]:
            time, tie = float(state["last"][0]), np.array(state["last"][1:], dtype=np.uint64)
            span = (float(np.nextafter(time, _NONE)), time)
            race = self._race(batch, weights, state, span)
            near = _draws(batch, race.rows, race.times, race.numbers)
            copies = race.before
            np.add.at(copies, race.rows[_not_after(near[:, 1:], tie)], 1)
        removed = {UNSCORED: np.isnan(weights.logs), **self.removals(weights)}
        limit = self.most_allowed()
        if limit is not None:
            removed["too_many_copies"] = copies > limit
            copies[copies > limit] = 0
        removed["not_drawn"] = copies == 0
        return Verdict(copies.astype(np.uint32), reasons_of(removed))

    def removals(self, weights: Weights) -> dict[str, np.ndarray]:
        """{reason: [N] bool} of samples that could not be drawn, beside unscored ones."""
        return {}

    def _race(
        self, batch: Batch, weights: Weights, state: State, span: tuple[float, float]
    ) -> Arrivals:
        ends = np.array(state["batches"]["ends"], dtype=np.float64)
        race = Race(self.lost_by_a_draw(), ends, closed=state["batches"]["closed"])
        return arrivals(weights.logs, batch.uniform(""), race, span)

    def _all_of_none(self, state: State) -> State:
        none = {"draws": 0, "unique": 0, "most_copies": 0, "last": []}
        return {k: v for k, v in state.items() if k != "centre"} | none

    def _centre(self, histogram: Histogram, state: State) -> float | None:
        """Another centre of the bins, where the weights that matter are not near this one."""
        lattice = self.lattice(state["centre"])
        places = lattice.places(histogram)
        reached = np.cumsum(histogram[1][::-1])
        anchor = min(self.anchor(int(reached[-1])), int(reached[-1]))
        place = float(places[::-1][np.searchsorted(reached, anchor)])
        return lattice.centre + place * lattice.width if abs(place) > CENTRAL / 2 else None

    def anchor(self, scored: int) -> int:
        """The rank, 1 the heaviest, around which weights matter most."""
        return (scored + 1) // 2

    def _aimed(self, state: State, aim: float) -> State:
        """The state with the time in which the last draw is looked for, around `aim` expected."""
        margin = _SPREAD * math.sqrt(aim) + _DOUBT * aim + _SPARE
        margin = max(margin, 2 * state.get("margin", 0.0))  # it was not where it was expected
        histogram = np.array(state["histogram"], dtype=np.int64)
        until = aim + margin
        plan = self.planned(histogram, state, until)
        before = None if aim <= _FEW + margin else plan.time_of(aim - margin)
        return {
            **state,
            "aim": aim,
            "margin": margin,
            "span": [before, plan.time_of(until) if until <= plan.draws[-1] else _FOREVER],
            "batches": {"ends": plan.ends.tolist(), "closed": plan.closed},
        }

    def _found(self, summary: Summary, state: State) -> State:
        """The state with the last draw, or another place to look for it."""
        near, before = summary["near"], summary["before"]
        rank = state["draws"] - before["draws"]
        if not 0 < rank <= len(near):
            late = rank > 0  # or too early; at either bound it is known how many there were
            at_bound = before["draws"] + (len(near) if late else 0)
            expected = state["aim"] + (state["margin"] if late else -state["margin"])
            return self._aimed(state, max(1.0, expected + state["draws"] - at_bound))
        near = near[np.lexsort(near.T[::-1])]
        last = [int(word) for word in near[rank - 1]]
        tally = _together(before, _tally_of(near[:rank, 4].astype(np.int64), self.most_allowed()))
        learnt = {
            "unique": tally["rows"],
            "most_copies": tally["most"],
            "effective": state["draws"] ** 2 / tally["squares"],
        }
        if self.most_allowed() is not None:
            learnt["discarded_rows"] = tally["over_rows"]
            learnt["discarded_copies"] = tally["over_copies"]
        time = -_radix.value_of(last[0], "float64")
        search = ("centre", "histogram", "aim", "margin", "span")
        kept = {name: value for name, value in state.items() if name not in search}
        return {**kept, **learnt, "log_time": time, "last": [time, *last[1:]]}


def numbers(batch: Batch, name: str) -> np.ndarray:
    """[N] float64 of a column, NaN where null."""
    series = batch.frame.select(column(name).cast(pl.Float64)).to_series()
    return series.fill_null(float("nan")).to_numpy()


def refuse_other_than_numbers(name: str, available: Available) -> None:
    """Raise Unbound where a column is known to hold something else."""
    dtype = available.get(name, "")
    if dtype and not dtype.startswith(("Int", "UInt", "Float", "Decimal", "Boolean")):
        raise Unbound(f"{name} holds {dtype}: it takes a column of numbers")


def _draws(batch: Batch, rows: np.ndarray, times: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """[M, 5] uint64 that order draws: time, the uid's halves, address, which of the row's it is."""
    keys = _radix.order(-times)  # of them the smaller is the better, which is the earlier
    return np.column_stack([keys, words_of(batch, rows), numbers.astype(np.uint64)])


def _not_after(words: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """[M] bool: rows of [M, 4] that do not come after the bound, compared word by word."""
    result = np.ones(len(words), dtype=bool)
    for word in reversed(range(len(bound))):
        own = bound[word]
        result = (words[:, word] < own) | ((words[:, word] == own) & result)
    return result


def _first_wrong(batch: Batch, weights: Weights) -> tuple[int, int, int, float] | None:
    """The uid's halves, address and value of the first sample that has no weight."""
    if weights.wrong is None or not weights.wrong.any():
        return None
    rows = np.flatnonzero(weights.wrong)
    words = words_of(batch, rows)
    first = np.lexsort(words.T[::-1])[0]
    high, low, address = (int(word) for word in words[first])
    return high, low, address, float(weights.values[rows[first]])


Tally = dict[str, int]  # of draws: how many, of how many rows, and what a report says of them


def _tally(copies: np.ndarray, limit: int | None) -> Tally:
    """Of all draws of rows, [N] of each."""
    over = copies[copies > limit] if limit is not None else copies[:0]
    return {
        "draws": int(copies.sum()),
        "rows": int(np.count_nonzero(copies)),
        "squares": int(np.dot(copies, copies)),
        "most": int(copies.max(initial=0)),
        "over_rows": len(over),
        "over_copies": int(over.sum()),
    }


def _tally_of(numbers: np.ndarray, limit: int | None) -> Tally:
    """What [M] draws add, each the so manieth of its row."""
    over = numbers[numbers > limit] if limit is not None else numbers[:0]
    first = int((over == limit + 1).sum()) if limit is not None else 0
    return {
        "draws": len(numbers),
        "rows": int((numbers == 1).sum()),
        "squares": int((2 * numbers - 1).sum()),
        "most": int(numbers.max(initial=0)),
        "over_rows": first,
        "over_copies": len(over) + first * (limit or 0),
    }


def _together(left: Tally, right: Tally) -> Tally:
    both = {name: value + right[name] for name, value in left.items()}
    return {**both, "most": max(left["most"], right["most"])}
