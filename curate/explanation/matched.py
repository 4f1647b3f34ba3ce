"""The concepts that a caption matches: how frequent each is, and its chance to keep the sample."""

from __future__ import annotations

import numpy as np
import polars as pl

from curate import storage
from curate.columns import artefact_folder
from curate.explanation.row import Row
from curate.explanation.schema import Concepts, Entry, StepFate
from curate.features.concepts import Concepts as ConceptsStep
from curate.parquet import head, read_parquet
from curate.report.concepts import counts_file
from curate.report.concepts.balances import Balance, balances_of


def matched(row: Row, way: list[StepFate]) -> list[Concepts]:
    """What each `concepts` step found in the caption of a sample."""
    return [
        _of_step(row, step, way)
        for step in row.facts.plan.steps
        if isinstance(step, ConceptsStep) and _ids(row, step.name) is not None
    ]


def _ids(row: Row, step: str) -> list[int] | None:
    """The ids of the entries; None where the sample was not looked at."""
    name = f"{step}.entries"
    found: list[int] | None = row.values(row.facts.plan.registries[-1], [name])[name]
    return found


def _of_step(row: Row, step: ConceptsStep, way: list[StepFate]) -> Concepts:
    ids = _ids(row, step.name) or []
    folder = artefact_folder(row.facts.plan.work, step.name)
    texts, languages = (step.learnt(folder, name) for name in ("texts", "languages"))
    balance = next(balances_of(row.facts, step.name, len(texts)), None)
    counts = _counts(row, step.name, balance, ids)
    chances = balance.chances[ids].tolist() if balance is not None else [None] * len(ids)
    return Concepts(
        step=step.name,
        balance=balance.filter.name if balance is not None else None,
        entries=[
            Entry(id=number, entry=texts[number], language=languages[number] or None,
                  samples=count, p=chance)
            for number, count, chance in zip(ids, counts, chances, strict=True)
        ],
        kept_chance=None if balance is None else float(1.0 - np.prod(1.0 - balance.chances[ids])),
        stays_by=None if balance is None else _stays_by(way[balance.index]),
    )  # fmt: skip


def _stays_by(fate: StepFate) -> str | None:
    return fate.because if fate.verdict == "kept" else None


def _counts(row: Row, step: str, balance: Balance | None, ids: list[int]) -> list[int | None]:
    """How many samples have each entry: as the balance counted, else as the report did."""
    if balance is not None:
        return balance.counts[ids].tolist()  # type: ignore[no-any-return]  # numpy says Any
    url = counts_file(row.facts.plan.work, step)
    if row.facts.not_reached or not storage.exists(url):
        return [None] * len(ids)
    schema, _ = head(url)
    first = next(name for name in schema if name.startswith("after "))
    return read_parquet(url, [first])[first].gather(pl.Series(ids, dtype=pl.UInt32)).to_list()
