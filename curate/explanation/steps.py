"""The way of one sample through the steps: what each said of it, and by what numbers."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np

from curate import chance, decide, fates, ledger, storage
from curate.compiled import is_filter
from curate.downloads.download import Download
from curate.errors import StorageError
from curate.explanation.row import Row
from curate.explanation.rules import said_by
from curate.explanation.schema import FilterFate, Side, StepFate
from curate.features import Feature
from curate.parquet import read_slice
from curate.pipeline_file.schema import AnyOf, Step
from curate.report.facts import kind
from filters import Batch, Filter, GroupFilter, Verdict

_AGREE = ("step", "reason", "copies")  # columns of the ledger


def way(row: Row) -> list[StepFate]:
    """What became of a sample at each step, in order.

    Raises:
        StorageError: the ledger, or the columns as they are now, say something else than the last
            verdict did.
    """
    _agree(row)
    found = [_fate(row, index, step) for index, step in enumerate(row.facts.plan.steps)]
    return _with_copies(row, found) + [_not_there(name) for name in row.facts.not_reached]


def _agree(row: Row) -> None:
    """The ledger of a finished run must say what its last verdict says."""
    work = row.facts.plan.work
    url = ledger.ledger_file(work, row.block)
    if row.facts.not_reached or not storage.exists(url):
        return
    told = read_slice(url, _AGREE, row.row, 1).row(0)
    own = (row.fates.steps()[0], row.fates.reasons()[0], int(row.fates.copies[0]))
    if told != own:
        raise StorageError(
            f"{url} says {told} of row {row.row} and the last verdict {own} (step, reason, "
            "copies): the run that wrote them did not end; run the pipeline again"
        )


def _not_there(name: str) -> StepFate:
    return StepFate(
        step=name, kind=None, role=None, verdict="not reached", reason=None, because=None,
        copies=None, filters=[],
    )  # fmt: skip


def _role(step: Step) -> Literal["filter", "feature", "download", "write"]:
    if is_filter(step):
        return "filter"
    if isinstance(step, Download):
        return "download"
    return "feature" if isinstance(step, Feature) else "write"


def _fate(row: Row, index: int, step: Step) -> StepFate:
    here = row.stop == index
    reason = row.fates.reasons()[0] if here else None
    because = row.fates.because[0] if here and row.fates.because is not None else None
    copies: int | None = 1 if row.stop > index else 0
    filters: list[FilterFate] = []
    if row.stop >= index and is_filter(step):
        batch = decide.batch_of(row.facts.plan, index, row.span, np.zeros(1, dtype=np.int64))
        if isinstance(step, GroupFilter):
            filters = [said_by(row, index, batch, step, reason)]
            copies = None if step.makes_copies and not here else copies
        else:
            said = decide.say(row.facts.plan, step, batch, dict(row.facts.states))
            _same(row, step, said, reason)
            copies = int(said.copies[0])
            because = because if here or said.because is None else said.because[0]
            filters = _children(row, index, batch, said)
    return StepFate(
        step=step.name,
        kind=kind(row.facts.plan, index),
        role=_role(step),
        verdict=_side(row, index, reason),
        reason=reason,
        because=because,
        copies=copies if row.stop >= index else None,
        filters=filters,
    )


def _side(row: Row, index: int, reason: str | None) -> Side:
    if row.stop > index:
        return "kept"
    if row.stop < index:
        return "not reached"
    return "lost" if reason is not None and reason.startswith(fates.LOST) else "removed"


def _same(row: Row, step: Step, said: Verdict, reason: str | None) -> None:
    """What a filter says of the columns as they are must be what the run wrote down."""
    now = said.reason[0]
    if now != reason:
        raise StorageError(
            f"{step.name}: the last verdict on row {row.row} of block {row.block} is "
            f"{reason or 'kept'}, and by the columns as they are it would be {now or 'kept'}: they "
            "changed since; run the pipeline again"
        )


def _children(row: Row, index: int, batch: Batch, said: Verdict) -> list[FilterFate]:
    """What the filter itself said, or each of those inside any_of."""
    plan = row.facts.plan
    step = plan.steps[index]
    if not isinstance(step, AnyOf):
        assert isinstance(step, Filter), step
        return [said_by(row, index, batch, step, said.reason[0])]
    found = []
    for child in step.steps:
        draw = partial(chance.uniform, plan.config.seed, child.name, batch.uids)
        own = batch.drawing(draw)
        verdict = decide.say(plan, child, own, dict(row.facts.states))
        found.append(said_by(row, index, own, child, verdict.reason[0]))
    return found


def _with_copies(row: Row, found: list[StepFate]) -> list[StepFate]:
    """The same, with the copies of the one step that cannot be asked alone, where it is one."""
    unknown = [n for n, one in enumerate(found) if one.verdict == "kept" and one.copies is None]
    if len(unknown) != 1 or row.stop < len(row.facts.plan.steps):
        return found
    others = math.prod(one.copies for one in found if one.copies)
    copies = int(row.fates.copies[0]) // others
    return [
        one.model_copy(update={"copies": copies}) if n == unknown[0] else one
        for n, one in enumerate(found)
    ]
