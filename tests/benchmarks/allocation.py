"""What dividing a number among clusters costs, beside the solver that the published code calls.

    python -m tests.benchmarks.allocation

Density-Based Pruning gives its quadratic programme to OSQP, through qpsolvers and with a dense
matrix, and rounds what it gets; `sparse` is the same with a sparse one. Ours is exact. Both come
with `pip install curate[dev]`. Then: distances between centroids.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import qpsolvers
from scipy.sparse import csc_matrix, identity

from filters._allocation import allocate, balanced
from filters.concept_prune import distances_to_others

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def problem(clusters: int, rows: int) -> Problem:
    """Half of so many rows, in clusters of log-normal sizes and gamma complexities."""
    rng = np.random.default_rng(clusters)
    shares = rng.lognormal(0, 1.0, clusters)
    sizes = np.maximum(1, np.floor(shares / shares.sum() * rows)).astype(np.int64)
    weights = np.exp(rng.gamma(4.0, 0.05, clusters) / 0.1)
    total = int(sizes.sum()) // 2
    return weights / weights.sum() * total, np.minimum(1, sizes - 1), sizes, total


def by_osqp(kind: str, given: Problem) -> np.ndarray:
    """The same programme by OSQP, rounded, with "dense" or "sparse" matrices."""
    wanted, lower, upper, total = given
    count = len(wanted)
    matrix: Any = np.eye(count) if kind == "dense" else identity(count, format="csc")
    ones: Any = np.ones((1, count)) if kind == "dense" else csc_matrix(np.ones((1, count)))
    bounds = {"lb": lower.astype(float), "ub": upper.astype(float)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # qpsolvers warns of dense matrices
        right = np.array([float(total)])
        found = qpsolvers.solve_qp(matrix, -wanted, A=ones, b=right, solver="osqp", **bounds)
    return np.rint(found).astype(np.int64)


def seconds(work: Callable[[], object], times: int) -> float:
    """The least of some times."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def say(line: str) -> None:
    """One line of what was measured."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Measure."""
    for clusters in (500, 5000):
        given = problem(clusters, 1_000_000)
        ours = seconds(partial(allocate, *given), 20)
        for name, kind in (("OSQP as published", "dense"), ("OSQP, sparse", "sparse")):
            theirs = seconds(partial(by_osqp, kind, given), 3)
            off = int(by_osqp(kind, given).sum()) - given[3]
            say(
                f"{clusters} clusters: {ours * 1e3:.2f} ms, exact; {name} {theirs * 1e3:.0f} ms, "
                f"its sum off by {off}: {theirs / ours:.0f} times as long"
            )
    for rows in (10**7, 10**10):
        given = problem(100_000, rows)
        taken = seconds(partial(allocate, *given), 10)
        off = int(allocate(*given).sum()) - given[3]
        say(f"100,000 clusters of {rows:.0e} rows: {taken * 1e3:.0f} ms, its sum off by {off}")
    sizes = problem(1_000_000, 10**9)[2]
    parents = np.arange(1_000_000) % 10_000
    half = np.bincount(parents, weights=sizes).astype(np.int64) // 2
    taken = seconds(partial(balanced, sizes, parents, half), 3)
    say(f"a balanced cut of 1,000,000 clusters of 10,000 parents: {taken * 1e3:.0f} ms")
    for clusters in (500, 10_000):
        centroids = np.random.default_rng(0).normal(size=(clusters, 768)).astype(np.float32)
        taken = seconds(partial(distances_to_others, centroids, 20), 1)
        say(f"20 nearest others of each of {clusters} centroids of 768: {taken:.2f} s")


if __name__ == "__main__":
    main()
