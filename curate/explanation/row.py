"""One row of a pool, and what every part of its explanation asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Registry, Span
from curate.fates import Fates
from curate.report.facts import Facts, plain, stops


@dataclass(frozen=True)
class Row:
    """A row of a block."""

    facts: Facts
    block: int
    row: int

    @property
    def span(self) -> Span:
        """Itself alone."""
        return Span(self.block, self.row, self.row + 1)

    @cached_property
    def fates(self) -> Fates:
        """[1] its fate after the last verdict."""
        return fates.read(self.facts.plan.work, self.facts.after, self.span)

    @cached_property
    def stop(self) -> int:
        """The index of the step that removed it; the number of steps where none did, -1: the pool.

        It reached step i if this is at least i.
        """
        return int(stops(self.facts.plan, self.fates)[0])

    @cached_property
    def uids(self) -> np.ndarray:
        """[1] UID."""
        return columns.uids(self.facts.plan.work, self.span)

    def values(self, registry: Registry, names: list[str]) -> dict[str, Any]:
        """{column: its value} as JSON has it; no arrays."""
        frame = columns.load(self.facts.plan.work, registry, names, self.span)
        return {name: as_json(_of(frame, name)) for name in names}


def _of(frame: pl.DataFrame, name: str) -> Any:
    outer, dot, inner = name.partition(".")
    return (frame[outer].struct.field(inner) if dot else frame[outer]).to_list()[0]


def as_json(value: Any) -> Any:
    """A value of a column as JSON can say it, lists and structs inside out."""
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [as_json(one) for one in value]
    if isinstance(value, pl.Series):
        return [as_json(one) for one in value.to_list()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return plain(value)
