"""How a number is divided among groups: against the conditions of an optimum, and exactly."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters import Unbound
from filters._allocation import Tally, allocate, balanced, by_number, tally


@st.composite
def problems(draw, largest=10**10):
    """(wanted, lower, upper, total) that can be solved."""
    count = draw(st.integers(1, min(40, largest // 7)))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scale = 10 ** draw(st.floats(0, np.log10(largest / count)))
    upper = np.floor(rng.lognormal(0, draw(st.floats(0, 3)), count) * scale).astype(np.int64)
    upper = np.minimum(upper, largest // count)
    floor = draw(st.sampled_from([0, 1, 1, int(scale * 0.3)]))
    lower = np.minimum(floor, np.maximum(upper - 1, 0))
    total = draw(st.integers(int(lower.sum()), int(upper.sum())))
    weights = rng.gamma(draw(st.floats(0.05, 5)), size=count)
    weights = np.round(weights, draw(st.sampled_from([1, 17])))  # coarse ones tie
    wanted = weights / max(weights.sum(), 1e-9) * total
    return wanted, lower, upper, total


def cost(wanted, x):
    return ((x - wanted) ** 2).sum()


@settings(max_examples=300)
@given(problems())
def test_an_allocation_meets_the_conditions_of_the_optimum(problem):
    """Whole numbers: one unit moved from any group to any other makes it no better.

    Real numbers: x is within one of clip(wanted - c) for one c.
    """
    wanted, lower, upper, total = problem
    x = allocate(*problem)
    assert x.dtype == np.int64
    assert int(x.sum()) == total
    assert ((lower <= x) & (x <= upper)).all()
    near = 1e-6 + 1e-12 * (wanted.max() + upper.max())
    more = (x - wanted + 0.5)[x < upper]
    less = (x - wanted - 0.5)[x > lower]
    if len(more) and len(less):
        assert less.max() <= more.min() + near
    low, high = (wanted - upper).min(), (wanted - lower).max()
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.clip(wanted - c, lower, upper).sum() > total else (low, c)
    assert np.abs(x - np.clip(wanted - c, lower, upper)).max() < 1 + near


@given(problems(largest=30))
def test_a_small_allocation_is_the_best_of_all(problem):
    wanted, lower, upper, total = problem
    ranges = [np.arange(low, high + 1) for low, high in zip(lower, upper, strict=True)]
    every = np.stack(np.meshgrid(*ranges), axis=-1).reshape(-1, len(ranges))
    every = every[every.sum(axis=1) == total]
    best = ((every - wanted) ** 2).sum(axis=1).min()
    assert cost(wanted, allocate(wanted, lower, upper, total)) <= best + 1e-9


@given(problems(), st.randoms(use_true_random=False))
def test_another_order_of_the_groups_only_reorders_what_they_get(problem, random):
    wanted, lower, upper, total = problem
    order = np.array(random.sample(range(len(wanted)), len(wanted)))
    x = allocate(*problem)
    y = allocate(wanted[order], lower[order], upper[order], total)
    z = np.empty_like(x)
    z[order] = y
    tied = wanted[x != z] % 1  # what is left of each is the same, and the number k decides
    assert np.ptp((tied - tied[:1] + 0.5) % 1) < 1e-6 if len(tied) else True
    assert np.abs(x - z).max() <= 1


def test_it_agrees_with_projections_worked_out_by_hand():
    lower, upper = np.zeros(3, dtype=np.int64), np.array([2, 10, 10])
    assert allocate(np.array([5.0, 3.0, 1.0]), lower, upper, 9).tolist() == [2, 5, 2]
    assert allocate(np.array([5.0, 3.0, 1.0]), lower, upper, 8).tolist() == [2, 4, 2]
    assert allocate(np.array([0.0, 9.0, 0.0]), lower + 1, upper, 9).tolist() == [1, 7, 1]
    assert allocate(np.zeros(3), lower, upper, 22).tolist() == [2, 10, 10]
    assert allocate(np.array([1 / 3, 1 / 3, 1 / 3]), lower, upper, 1).tolist() == [1, 0, 0]


def test_remainders_are_exact_where_floats_are_not():
    """Ten billion among a hundred thousand: the sum is exact, and each within one of its due."""
    rng = np.random.default_rng(3)
    weights = rng.gamma(2.0, size=100_000)
    total = 10**10 - 7
    wanted = weights / weights.sum() * total
    upper = np.full(100_000, 10**10)
    x = allocate(wanted, np.zeros(100_000, dtype=np.int64), upper, total)
    assert int(x.sum()) == total
    assert np.abs(x - wanted).max() < 1 + 1e-6


@pytest.mark.parametrize("total", [-1, 2, 12])
def test_what_cannot_be_divided_is_refused_with_both_sums(total):
    lower, upper = np.array([1, 2]), np.array([4, 7])
    with pytest.raises(ValueError, match=rf"{total} is not between 3 and 11"):
        allocate(np.ones(2), lower, upper, total)
    with pytest.raises(ValueError, match="sums of the bounds"):
        allocate(np.ones(2), upper, lower, 7)


def test_nothing_is_divided_among_nobody():
    none = np.zeros(0, dtype=np.int64)
    assert allocate(np.zeros(0), none, none, 0).tolist() == []
    assert balanced(none, none, np.array([0, 0])).tolist() == []
    assert allocate(np.zeros(2), np.zeros(2, int), np.zeros(2, int), 0).tolist() == [0, 0]


# --- the balanced cut


def by_counting(sizes, parents, totals):
    """As the paper says it: the largest n, then one more of the first that have more."""
    taken = np.zeros(len(sizes), dtype=np.int64)
    for parent, total in enumerate(totals):
        own = np.flatnonzero(parents == parent)
        n = 0
        while np.minimum(n + 1, sizes[own]).sum() <= total and n < sizes[own].max(initial=0):
            n += 1
        taken[own] = np.minimum(n, sizes[own])
        larger = own[sizes[own] > n]
        taken[larger[: total - taken[own].sum()]] += 1
    return taken


@given(
    groups=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=25),
    shares=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
@example(groups=[(5, 0), (5, 0), (1, 0), (0, 0)], shares=[0.7, 0, 0, 0])
def test_a_balanced_cut_is_the_largest_number_that_fits(groups, shares):
    sizes = np.array([size for size, _ in groups], dtype=np.int64)
    parents = np.array([parent for _, parent in groups], dtype=np.int64)
    whole = np.bincount(parents, weights=sizes, minlength=4)
    totals = np.floor(whole * shares).astype(np.int64)
    found = balanced(sizes, parents, totals)
    assert found.tolist() == by_counting(sizes, parents, totals).tolist()
    assert np.bincount(parents, weights=found, minlength=4).tolist() == totals.tolist()


# --- counts


@given(st.lists(st.tuples(st.integers(-1, 6), st.integers(-(2**40), 2**40)), max_size=30))
def test_counts_are_the_same_however_samples_are_divided(samples):
    keys = np.array([key for key, _ in samples], dtype=np.int64)
    values = np.array([value for _, value in samples], dtype=np.int64)
    whole = tally(keys, values)
    half = len(samples) // 2
    sums = [tally(keys[rows], values[rows]) for rows in (slice(half, None), slice(half))]
    for other in (sums[0] + sums[1], sums[1] + sums[0]):
        assert isinstance(other, Tally)
        assert other.keys.tolist() == whole.keys.tolist()
        assert other.sums.tolist() == whole.sums.tolist()
    for place, wanted in enumerate((np.ones_like(values), values)):
        sums = [int(wanted[keys == key].sum()) for key in range(7)]
        found = by_number(whole.keys, whole.sums[:, place]).tolist()
        assert found == sums[: len(found)]
        assert not any(sums[len(found) :])


def test_numbers_that_count_no_groups_are_refused():
    with pytest.raises(Unbound, match="a group has the number 4000000000, and there can be"):
        by_number(np.array([0, 4_000_000_000]), np.ones(2, dtype=np.int64))
    assert by_number(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)).tolist() == []
