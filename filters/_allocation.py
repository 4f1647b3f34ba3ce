"""How many stay of each group: count the groups, then divide a number among them, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from filters import Available, Unbound, one_of

_MOST = 100_000_000  # groups: a quota for each is held at once
_BITS = 61  # of the fixed-point numbers of one problem: every sum of them fits into int64


def allocate(wanted: np.ndarray, lower: np.ndarray, upper: np.ndarray, total: int) -> np.ndarray:
    """[K] int64 x that minimises sum (x - wanted)^2 where sum x = total and lower <= x <= upper.

    This is the quadratic programme of Density-Based Pruning (2401.04578), solved without iterating:
    real x are clip(wanted - c, lower, upper) for one number c, which is found exactly in fixed
    point; each is then rounded down, and the largest remainders up. That is the optimum among whole
    numbers too. Of equal remainders the smaller number k is rounded up first, so that but for ties
    another order of the groups only reorders x.

    Args:
        wanted: [K] finite float64, 0 or more in general; kept to 2**-27 at totals of 1e10, and
            finer where they are smaller.
        lower: [K] int64, 0 or more.
        upper: [K] int64, `lower` or more.
        total: Of x; between the sums of `lower` and of `upper`.

    Raises:
        ValueError: no x is within the bounds.
    """
    least, most = int(lower.sum()), int(upper.sum())
    if not least <= total <= most or (lower > upper).any():
        raise ValueError(f"{total} is not between {least} and {most}, the sums of the bounds")
    if not len(wanted):
        return np.zeros(0, dtype=np.int64)
    largest = int(np.ceil(np.abs(wanted)).astype(np.int64).sum()) + most
    scale = _BITS - (2 * largest + 1).bit_length()
    if scale < 0:
        raise ValueError(f"{most} rows, and {wanted.max()} wanted of one group: too many to divide")
    # `shift` is c rounded down: that adds less than a unit to each, which no rounding below sees.
    fixed = np.rint(np.ldexp(wanted.astype(np.float64), scale)).astype(np.int64)
    low, high = lower.astype(np.int64) << scale, upper.astype(np.int64) << scale
    shift = _shift(fixed, low, high, total << scale)
    value = np.clip(fixed - shift, low, high)
    x = value >> scale
    x[_largest(value - (x << scale), total - int(x.sum()))] += 1
    return np.asarray(x)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the so many largest of [K]; of equals the first."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    bar = np.partition(values, len(values) - count)[len(values) - count]
    sure, tied = np.flatnonzero(values > bar), np.flatnonzero(values == bar)
    return np.concatenate([sure, tied[: count - len(sure)]])


def _shift(fixed: np.ndarray, low: np.ndarray, high: np.ndarray, total: int) -> int:
    """The largest whole c for which sum clip(fixed - c, low, high) is not below the total."""
    breaks = np.sort(np.concatenate([fixed - high, fixed - low]))
    first, after = 0, len(breaks)  # at the first the sum is that of `high`
    while after - first > 1:
        middle = (first + after) // 2
        if int(np.clip(fixed - breaks[middle], low, high).sum()) >= total:
            first = middle
        else:
            after = middle
    start = int(breaks[first])
    excess = int(np.clip(fixed - start, low, high).sum()) - total
    falling = int(((fixed - high <= start) & (fixed - low > start)).sum())  # from here on
    return start + excess // max(falling, 1)


def balanced(sizes: np.ndarray, parents: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """[K] int64: how many to take of each group so that those of one parent give its total.

    Of each group the same number n is taken, or all where it has fewer: the largest n whose sum
    does not exceed the total; one more is taken of so many of those that have more than n, the
    smaller numbers k first (hierarchical sampling, 2405.15613, which draws them at random).

    Args:
        sizes: [K] int64, 0 or more.
        parents: [K] int64, 0 or more and less than P.
        totals: [P] int64, each at most the sum of the sizes of that parent's groups.
    """
    count = len(sizes)
    order = np.lexsort((sizes, parents))
    size, parent = sizes[order], parents[order]
    first = np.searchsorted(parent, np.arange(len(totals) + 1))  # [P + 1] of each parent's groups
    place = np.arange(count) - first[parent]
    left = (first[1:] - first[:-1])[parent] - place  # groups of this size or more
    before = np.concatenate([[0], np.cumsum(size)])
    taken = before[:-1] - before[first[parent]]  # of the smaller groups, whole
    whole = taken + left * size <= totals[parent]  # n is at least this size
    wholes = np.bincount(parent[whole], minlength=len(totals))
    groups = (first[1:] - first[:-1]) - wholes  # that have more than n
    given = totals - (before[first[:-1] + wholes] - before[first[:-1]])
    cut, rest = given // np.maximum(groups, 1), given % np.maximum(groups, 1)
    x = np.empty(count, dtype=np.int64)
    x[order] = np.where(whole, size, cut[parent])
    open_ = np.zeros(count, dtype=bool)
    open_[order] = ~whole
    return np.asarray(x + _first_of_each(open_, parents, rest))


def _first_of_each(chosen: np.ndarray, parents: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[K] bool: the first so many of the chosen groups of each parent, [P]."""
    places = np.flatnonzero(chosen)
    places = places[np.argsort(parents[places], kind="stable")]
    parent = parents[places]
    rank = np.arange(len(places)) - np.searchsorted(parent, parent)
    found = np.zeros(len(chosen), dtype=bool)
    found[places[rank < counts[parent]]] = True
    return found


@dataclass(frozen=True)
class Tally:
    """Whole numbers of each group that occurs; adding two is associative, commutative and exact."""

    keys: np.ndarray  # [M] int64, ascending
    sums: np.ndarray  # [M, C] int64: the number of samples, then what else is added up

    def __add__(self, other: Tally) -> Tally:
        return _added(
            np.concatenate([self.keys, other.keys]), np.concatenate([self.sums, other.sums])
        )


def tally(keys: np.ndarray, *values: np.ndarray) -> Tally:
    """Of [N] samples: how many have each key, and the sums of [N] int64 values; -1 is left out."""
    known = keys >= 0
    columns = [np.ones(len(keys), dtype=np.int64), *values]
    return _added(keys[known].astype(np.int64), np.stack(columns, axis=1)[known])


def _added(keys: np.ndarray, rows: np.ndarray) -> Tally:
    found, place = np.unique(keys, return_inverse=True)
    sums = np.zeros((len(found), rows.shape[1]), dtype=np.int64)
    np.add.at(sums, place, rows)
    return Tally(found, sums)


def by_number(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[the largest number + 1] int64: the value of each of [K] groups at its number, else 0.

    Raises:
        Unbound: a number is so large that it numbers no groups.
    """
    if len(numbers) and int(numbers.max()) >= _MOST:
        raise Unbound(
            f"a group has the number {numbers.max()}, and there can be {_MOST} groups: name a "
            "column that counts them from 0"
        )
    whole = np.zeros(int(numbers.max()) + 1 if len(numbers) else 0, dtype=np.int64)
    whole[numbers] = values
    return whole


def step_with(available: Available, fields: tuple[str, ...], given: str | None, what: str) -> str:
    """The step that gives all of these columns: the one named, or the only one.

    Raises:
        Unbound: the one named does not, none does, or several do.
    """
    ending = f".{fields[0]}"
    steps = [name[: -len(ending)] for name in available if name.endswith(ending)]
    steps = [step for step in steps if all(f"{step}.{field}" in available for field in fields)]
    if given is not None:
        if given not in steps:
            listed, columns = ", ".join(steps) or "none", ", ".join(fields)
            raise Unbound(
                f"{what}: {given} is no step before this one that gives {columns}; "
                f"those that do: {listed}"
            )
        return given
    return one_of(steps, " and ".join(fields), f"put `- {what}: {{...}}` before this step", what)
