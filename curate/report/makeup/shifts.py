"""Whose share changed from pool to subset, and the step that changed it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST = 40  # changes that are told
OF_ONE = 8  # of one column, the largest
DIGITS = 6  # of a share


@dataclass(frozen=True)
class Counted:
    """A column of a report, and how many rows of each value reached each of its stages."""

    entry: dict[str, Any]  # `schema.Words` or `schema.Numbers`
    values: Sequence[tuple[str | None, Sequence[int]]]

    def totals(self) -> list[int]:
        """Rows of any value at each stage."""
        rest = self.entry.get("rest")
        rows = [reached for _, reached in self.values] + ([rest] if rest is not None else [])
        return [sum(column) for column in zip(*rows, strict=True)]


def shifts(found: Sequence[Counted]) -> list[dict[str, Any]]:
    """The largest changes of a share first; ties by column and value."""
    told = [shift for counted in found for shift in _of_column(counted)]
    return _first(told)[:MOST]


def _first(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def order(shift: dict[str, Any]) -> tuple[Any, ...]:
        change = round(shift["kept"] - shift["pool"], DIGITS)
        return -abs(change), shift["column"], shift["about"], shift["value"] or ""

    return sorted(told, key=order)


def _of_column(counted: Counted) -> list[dict[str, Any]]:
    totals = counted.totals()
    if not totals or totals[-1] == 0:  # nobody is left to have a share
        return []
    told = []
    for value, reached in counted.values:
        shares = [own / whole for own, whole in zip(reached, totals, strict=True)]
        before, after = round(shares[0], DIGITS), round(shares[-1], DIGITS)
        if before != after:
            told.append(
                {
                    "column": counted.entry["column"],
                    "about": counted.entry["about"],
                    "value": value,
                    "since": counted.entry["since"],
                    "pool": before,
                    "kept": after,
                    "hardest": _hardest(shares, counted.entry["steps"]),
                }
            )
    return _first(told)[:OF_ONE]


def _hardest(shares: Sequence[float], steps: Sequence[str]) -> str:
    """The step that changed a share most, in the direction in which it went from pool to subset."""
    way = 1 if shares[-1] > shares[0] else -1
    changes = [way * (after - before) for before, after in pairwise(shares)]
    return steps[changes.index(max(changes))]
