"""Named classes in a report: how often captions name them, in the pool and in the subset."""

from __future__ import annotations

from functools import partial
from operator import add
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.frequencies.class_names import ClassNames, Vocabulary, read_classes, vocabulary
from curate.frequencies.frequency import Frequencies, in_captions, nothing
from curate.frequencies.word_forms import open_lexicon
from curate.report.concepts.counts import ranks_of
from curate.report.facts import Facts, public, stops
from curate.runner import Runner, fold

SHIFTED = 30  # classes shown, those whose share changed most
VANISHED = 50  # classes shown of those that no kept sample names
FEW = 10  # samples below which a class is called rare
LONGEST = 100  # characters of a class's name
SIDES = ("before", "after", "copies")  # usable samples of the pool, kept ones, copies of those


def classes(facts: Facts, runner: Runner) -> dict[str, Any] | None:
    """What became of the classes that `report.classes` names; None where it names none.

    The counts are those of `curate concepts --classes`.
    """
    source = facts.plan.config.report.classes
    if source is None:
        return None
    named, lexicon = read_classes(source), open_lexicon(None)
    words = vocabulary(named, lexicon)
    wanted = (words, len(named))
    look = partial(_look, facts.plan, facts.after, wanted)
    found = fold(runner.map(look, facts.spans(), "report"), add) or nothing(*wanted)
    before, after, _ = found.classes
    order = np.argsort(-before, kind="stable")
    gone = order[(before[order] > 0) & (after[order] == 0)]
    ranks = ranks_of(len(named))
    return {
        "source": public(source),
        # Where WordNet lies is of this machine, and not of the run.
        "forms_by": "English rules and WordNet" if lexicon.folder else "English rules",
        "classes": len(named),
        "samples": _by_side(found.samples),
        "naming_a_class": _by_side(found.named),
        "without_caption": _by_side(found.without_caption),
        "unnamed": _by_side((found.classes == 0).sum(axis=1)),
        "rare": _by_side(((found.classes > 0) & (found.classes < FEW)).sum(axis=1)),
        "shifted": [_row(named, found, n) for n in _shifted(found)[:SHIFTED]],
        "vanished": {
            "classes": len(gone),
            "most_frequent": [_row(named, found, n) for n in gone[:VANISHED].tolist()],
        },
        "curve": {
            "ranks": ranks.tolist(),
            "samples": [np.sort(own)[::-1][ranks - 1].tolist() for own in (before, after)],
        },
    }


Wanted = tuple[Vocabulary, int]


def _look(plan: Compiled, after: str, wanted: Wanted, span: Span) -> Frequencies:
    found = fates.read(plan.work, after, span)
    outside = 0 if plan.limit is None else 1  # `--limit` is a first step, that is no part of a run
    captions = pl.Series([None], dtype=pl.String).new_from_index(0, len(span))
    if "caption" in plan.registries[-1]:
        captions = columns.load(plan.work, plan.registries[-1], ["caption"], span)["caption"]
    return in_captions(wanted, captions, stops(plan, found) >= outside, found.copies)


def _by_side(values: np.ndarray) -> dict[str, int]:
    return dict(zip(SIDES, values.tolist(), strict=True))


def _shifted(found: Frequencies) -> list[int]:
    """Classes whose share of the samples changed, the largest change first; ties in their order."""
    (before, after, _), (pool, kept, _) = found.classes, found.samples.tolist()
    # Whole numbers of any size: the same order on every machine.
    change = [
        abs(b * kept - a * pool) for b, a in zip(before.tolist(), after.tolist(), strict=True)
    ]
    return sorted((n for n, one in enumerate(change) if one), key=lambda n: -change[n])


def _row(named: ClassNames, found: Frequencies, number: int) -> dict[str, Any]:
    name = named.names[number]
    shown = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return {"class": shown, **_by_side(found.classes[:, number])}
