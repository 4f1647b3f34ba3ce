"""The filters by themselves: what each would do alone, what only it does, and how alike they are.

In order a filter sees who the filters before it left, so its own count says little of what it does.
Here all filters are tried on the same rows, as they decided in the run (with the thresholds that
they learnt there), whatever the others say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from curate.report.facts import Facts
from curate.report.probe.choice import Choice, There, choose, suggested
from curate.report.probe.intervals import codes, correlation, estimate
from curate.report.probe.look import Looked, look, nothing
from curate.runner import Runner, fold

_REFUSED = "a row that earlier filters remove has a value that it cannot decide on"


def probe(facts: Facts, runner: Runner) -> dict[str, Any]:
    """What `schema.Probe` says; whole numbers of at most 100,000 rows, the same in any order."""
    choice = choose(facts)
    found = nothing(choice)
    if choice.filters or choice.scores:
        work = partial(look, facts.plan, facts.after, choice, choice.states(facts))
        found = fold(runner.map(work, facts.spans(), "report"), Looked.plus) or found
    found = found.smallest()
    left = [number for number in range(len(choice.filters)) if number not in found.refused]
    names = [facts.plan.steps[choice.filters[number]].name for number in left]
    complete = found.complete
    removed, unscored = found.removed[complete][:, left], found.unscored[complete][:, left]
    why = _why_nothing(facts, choice, found, names)
    return {
        "of": choice.of if why is None else "nothing",
        "why": why,
        "share": choice.share,
        "rows": int(complete.sum()),
        "left_out": int((~complete).sum()),
        "filters": _filters(names, removed, unscored) if why is None else [],
        "not_measured": _not_measured(facts, choice, found),
        "overlap": _overlap(names, removed) if why is None else [],
        "correlations": _correlations(choice, found.scores[complete]) if why is None else [],
    }


def _why_nothing(facts: Facts, choice: Choice, found: Looked, names: Sequence[str]) -> str | None:
    """Why there is nothing to say; None if there is something."""
    rows = There(facts, choice.first, choice.of).rows
    if not choice.filters and not choice.not_measured:
        return "no step is a filter"
    if rows == 0:
        return "the pool has no usable row"
    if not names and not choice.scores:
        return "no filter can be tried by itself"
    if len(found.draws) == 0:
        remedy = f"`probe: {suggested(rows):g}` in the pipeline file takes some"
        return f"none of the {rows} rows is in so small a probe: {remedy}"
    if not found.complete.any():
        return "no row of these has all columns: their pictures did not come, or work was lost"
    return None


def _not_measured(facts: Facts, choice: Choice, found: Looked) -> list[dict[str, Any]]:
    """In the order of the pipeline."""
    refused = [(choice.filters[number], _REFUSED) for number in sorted(found.refused)]
    steps = facts.plan.steps
    told = sorted([*choice.not_measured, *refused])
    return [{"filter": steps[index].name, "why": why} for index, why in told]


def _filters(names: list[str], removed: np.ndarray, unscored: np.ndarray) -> list[dict[str, Any]]:
    """Each filter alone, and what only it removes, of [N, F] bool: who removes whom."""
    rows = len(removed)
    alone = removed.sum(axis=0).tolist()
    only = (removed & (removed.sum(axis=1) == 1)[:, None]).sum(axis=0).tolist()
    missing = unscored.sum(axis=0).tolist()
    return [
        {
            "filter": name,
            "alone": estimate(alone[number], rows),
            "only": estimate(only[number], rows),
            "unscored": missing[number],
        }
        for number, name in enumerate(names)
    ]


def _overlap(names: list[str], removed: np.ndarray) -> list[dict[str, Any]]:
    """Of each pair of filters, how many rows either removes alone, and both."""
    whole = removed.astype(np.float64)  # products of 0 and 1 are exact, and BLAS is fast
    both = (whole.T @ whole).astype(np.int64).tolist()
    return [
        {
            "a": names[a],
            "b": names[b],
            "a_removed": both[a][a],
            "b_removed": both[b][b],
            "both": both[a][b],
        }
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def _correlations(choice: Choice, scores: np.ndarray) -> list[dict[str, Any]]:
    """How alike each pair of scores orders the rows."""
    ranked = [codes(scores[:, number]) for number in range(scores.shape[1])]
    named = [name for _, name in choice.scores]
    return [
        {"a": named[a], "b": named[b], **correlation(ranked[a], ranked[b])}
        for a, b in itertools.combinations(range(len(named)), 2)
    ]
