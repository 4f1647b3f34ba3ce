"""One pass over the rows of both sides, for all that wants to look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import polars as pl

from curate import columns
from curate.columns import Span
from curate.comparison.sides import Letter, Members, Pair, View
from curate.runner import Runner, fold


@dataclass(frozen=True)
class Block:
    """A block of one run's pool, read once for all."""

    view: View
    span: Span

    @cached_property
    def members(self) -> Members:
        """Who of them each side kept."""
        return self.view.members(self.span)

    @cached_property
    def uids(self) -> np.ndarray:
        """[N] UID."""
        return columns.uids(self.view.plan.work, self.span)

    @cached_property
    def captions(self) -> pl.Series:
        """[N] String."""
        registry = self.view.plan.registries[-1]
        captions = columns.load(self.view.plan.work, registry, ["caption"], self.span)["caption"]
        return captions.cast(pl.String)

    def parts(self, letter: Letter) -> tuple[np.ndarray, np.ndarray]:
        """[N] bool twice: the rows that a side kept and the other kept as well, or did not."""
        only = self.members.only[letter]
        return self.members.kept[letter] & ~only, only


class Look(Protocol):
    """Something that is found out block by block. It travels with a task, and so do its parts."""

    def look(self, block: Block) -> Any:
        """What one block adds."""

    def merge(self, left: Any, right: Any) -> Any:
        """Both in one: associative and commutative."""

    def nothing(self) -> Any:
        """What there is without a block."""


def look_at(pair: Pair, looks: Sequence[Look], runner: Runner) -> list[Any]:
    """What each of some looks comes to over all rows."""
    found = runner.map(partial(_look, looks), pair.jobs(), "diff")
    whole = fold(found, partial(_merge, looks))
    return whole if whole is not None else [each.nothing() for each in looks]


def _look(looks: Sequence[Look], job: tuple[View, Span]) -> list[Any]:
    block = Block(*job)
    return [each.look(block) for each in looks]


def _merge(looks: Sequence[Look], left: list[Any], right: list[Any]) -> list[Any]:
    return [each.merge(one, other) for each, one, other in zip(looks, left, right, strict=True)]
