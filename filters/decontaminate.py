"""Keep samples that are no copies of reference pictures, those of evaluation sets say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl
from pydantic import Field

from filters import Available, Filter, RowFilter, Shown, State, Unbound, column, one_of

ISC21 = 0.604169  # precision about 0.9 and recall about 0.8, by DataComp (2304.14108, App. F)
ISC21_MODEL = "isc_ft_v107"
COPY = "reference_copy"  # the reason


class Decontaminate(RowFilter):
    """Removes samples whose nearest reference, by a `references` step, is too near.

    By cosine: at most `at_most` passes, which is ISC21's published threshold unless given: what
    DataComp (2304.14108, App. F) removed copies of its evaluation sets with. Another model needs
    one of its own. By Hamming distance of hashes: at least `at_least` bits must differ. A sample
    without an embedding or hash is `unscored`.
    """

    example = "{at_most: 0.604169}"

    of: str | None = Field(None, description="the `references` step; the only one if left out")
    at_most: float | None = Field(
        None, ge=-1, le=1, description=f"highest cosine that passes; {ISC21} unless given"
    )
    at_least: int | None = Field(
        None, ge=1, le=64, description="fewest bits of the hash that must differ"
    )

    def problems(self) -> list[str]:
        if self.at_most is not None and self.at_least is not None:
            return ["give one of: at_most (for embeddings), at_least (for hashes)"]
        return []

    def bind(self, available: Available) -> Filter:
        found = [self.of] if self.of else _steps(available)
        step = one_of(found, "references", "put `- references: {...}` before this step", "of")
        if step not in _steps(available):
            there = ", ".join(_steps(available)) or "none"
            raise Unbound(f"of: {step} is no `references` step; there are: {there}")
        if f"{step}.distance" in available:
            return self._by_distance(step)
        if self.at_least is not None:
            raise Unbound(
                f"at_least: it counts bits of hashes, and {step} compares embeddings: write "
                "`at_most:`, the highest cosine that passes"
            )
        return self.model_copy(update={"of": step})

    def _by_distance(self, step: str) -> Filter:
        if self.at_least is None:
            given = "" if self.at_most is None else "at_most: it is for the cosine of embeddings; "
            raise Unbound(
                f"{given}{step} compares hashes: write `at_least:`, the fewest bits that must "
                "differ, 5 say"
            )
        return self.model_copy(update={"of": step})

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        compared = before.get(self.of or "", {}).get("of", "")
        model = before.get(compared.partition(".")[0], {}).get("model")
        if self.at_least is not None or self.at_most is not None or model == ISC21_MODEL:
            return []
        return [
            f"at_most: {ISC21} is the threshold of {ISC21_MODEL}, and {compared} is by "
            f"{model or 'a model unknown here'}: give `at_most:`, the highest cosine that passes"
        ]

    def _near(self) -> str:
        return f"{self.of}.{'similarity' if self.at_least is None else 'distance'}"

    def needs(self) -> tuple[str, ...]:
        return (self._near(), f"{self.of}.reference")

    def passes(self) -> dict[str, pl.Expr]:
        near = column(self._near())
        if self.at_least is not None:
            return {COPY: near >= self.at_least}
        return {COPY: near <= self._limit()}

    def shows(self, state: State) -> Shown:
        limit = self._limit() if self.at_least is None else float(self.at_least)
        keeps: Literal["high", "low"] = "low" if self.at_least is None else "high"
        return Shown(self.needs(), {COPY: limit}, (self._near(),), keeps)

    def _limit(self) -> float:
        return ISC21 if self.at_most is None else self.at_most


def _steps(available: Available) -> list[str]:
    """The steps that found the nearest reference."""
    ending = ".reference"
    named = [name.removesuffix(ending) for name in available if name.endswith(ending)]
    return [
        name
        for name in named
        if any(f"{name}.{near}" in available for near in ("similarity", "distance"))
    ]
