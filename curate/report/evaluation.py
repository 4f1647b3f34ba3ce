"""What each evaluation set took away, where a step removes copies of its pictures."""

from __future__ import annotations

from collections import Counter
from functools import partial
from operator import add
from typing import Any

import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.facts import Facts
from curate.runner import Runner, fold
from filters import column
from filters.decontaminate import COPY, Decontaminate

# `imagenet/n01.jpg` and `imagenet.tar/n01.jpg` are of the set `imagenet`, and so is row 7 of the
# file `imagenet.npy`, which is called `.../imagenet.npy:7`.
_OF_ROW = r"([^/]+?)(?:\.[A-Za-z0-9]+)?:\d+$"
_OF_PICTURE = r"^([^/]+?)(?:\.tar)?/"
ALONE = "references"  # the set of pictures that were given by themselves


def evaluation(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """Rows that each step removed as copies, by the set of their nearest reference."""
    steps = {
        index: step.of
        for index, step in enumerate(facts.plan.steps)
        if isinstance(step, Decontaminate) and step.of is not None
    }
    if not steps:
        return []
    work = partial(_of_block, facts.plan, facts.after, steps)
    counts = fold(runner.map(work, facts.spans(), "report"), add) or Counter()
    found = [
        {"step": facts.plan.steps[index].name, "set": name, "rows": rows}
        for (index, name), rows in counts.items()
    ]
    order = [step.name for step in facts.plan.steps]
    return sorted(found, key=lambda one: (order.index(one["step"]), -one["rows"], one["set"]))


def _of_block(
    plan: Compiled, after: str, steps: dict[int, str], span: Span
) -> Counter[tuple[int, str]]:
    found = fates.read(plan.work, after, span)
    counts: Counter[tuple[int, str]] = Counter()
    for index, of in steps.items():
        copies = (found.steps() == plan.steps[index].name) & (found.reasons() == COPY)
        if not copies.any():
            continue
        name = f"{of}.reference"
        frame = columns.load(plan.work, plan.registries[index], [name], span)
        counts.update({(index, one): rows for one, rows in _sets(frame.filter(copies), name)})
    return counts


def _sets(frame: pl.DataFrame, name: str) -> list[tuple[str, int]]:
    reference = column(name).cast(pl.String)
    row, picture = reference.str.extract(_OF_ROW), reference.str.extract(_OF_PICTURE)
    sets = frame.select(set=pl.coalesce(row, picture, pl.lit(ALONE)))
    return sets.group_by("set").len().rows()
