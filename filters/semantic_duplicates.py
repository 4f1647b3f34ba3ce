"""Keep one of samples whose embeddings are nearly the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from filters import Available, Batch, Filter, Shown, State, Unbound, column
from filters._pairs import PairFilter, against_all


class SemanticDuplicates(PairFilter):
    """Keeps a sample unless one that is kept has a cosine of at least `threshold` with it.

    Samples are walked by (`keep` column, uid), so nobody goes for the sake of one that is gone, and
    a chain does not swallow a group. The pairs are those of a `neighbours` step: another threshold
    needs no new products; it lies between that step's `floor` and its `same`. Where that step had
    to raise the floor of a crowded cluster above the threshold, duplicates may stay there:
    `rows_not_compared` in the report says how many rows it may concern.

    `parity: semdedup` is the rule of SemDeDup's code (2303.09540): only pairs of one cluster, a
    cosine above the threshold (1 - epsilon), farthest from the centroid first (unless `keep` says
    otherwise), and a sample goes for the sake of any before it, gone or not. `nemo_curator` is NeMo
    Curator's: the same, but for a cosine of exactly the threshold, which is a duplicate there.
    Published: epsilon 0.03 leaves 72 % of LAION-440M, 0.124 half of it.
    """

    example: ClassVar[str] = "{threshold: 0.95, keep: {highest: clip.similarity}}"
    shorthand: ClassVar[str] = "threshold"
    maker: ClassVar[str] = "neighbours"

    threshold: float = Field(gt=0, le=1, description="lowest cosine of duplicates")
    parity: Literal["semdedup", "nemo_curator"] | None = Field(
        None, description="decide as the published code does"
    )
    clusters: str | None = Field(
        None, description="with `parity`, the `clusters` step within which pairs count"
    )

    def bind(self, available: Available) -> Filter:
        if self.parity is None:
            return super().bind(available)
        if f"{self.clusters}.cluster" not in available:
            steps = [name.removesuffix(".second") for name in available if name.endswith(".second")]
            raise Unbound(
                f"clusters: {self.clusters} is no `clusters` step before this one; there are: "
                + (", ".join(steps) or "none")
            )
        return super().bind(available)

    def problems(self) -> list[str]:
        if self.parity is not None and self.clusters is None:
            return [
                f"parity: {self.parity} decides within clusters: say of which step, `clusters:`"
            ]
        if self.parity is None and self.clusters is not None:
            return ["`clusters` goes with `parity`: without it all pairs count"]
        return []

    def finds(self, step: str, available: Available) -> bool:
        return f"{step}.floor" in available

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        finder = before.get(str(self.of), {})
        floor, same = finder.get("floor", 0.0), finder.get("same", 1.0)
        if self.threshold > same:
            return [
                f"threshold {self.threshold} is above `same: {same}` of {self.of}, from which on "
                "samples of a crowded cluster count as one: raise `same`, or lower `threshold`"
            ]
        if self.threshold >= floor:
            return []
        return [
            f"threshold {self.threshold} is below the floor {floor} of {self.of}: pairs "
            "below it are not looked for; raise `threshold`, or lower that step's `floor`"
        ]

    def needs(self) -> tuple[str, ...]:
        own = [f"{self.of}.floor"]
        if self.parity is not None:
            own += [f"{self.clusters}.cluster", f"{self.clusters}.distance"]
        return tuple(dict.fromkeys([*super().needs(), *own]))

    def blind(self, batch: Batch) -> int:
        raised = column(f"{self.of}.floor") > self.threshold
        return int(batch.frame.select(raised.fill_null(value=False).sum()).item())

    def label(self, batch: Batch) -> np.ndarray:
        if self.parity is None:
            return super().label(batch)
        numbers = batch.frame.select(column(f"{self.clusters}.cluster")).to_series()
        return numbers.fill_null(2**32 - 1).to_numpy().astype(np.uint64)

    def priority(self, batch: Batch) -> np.ndarray:
        if self.parity is None or self.keep is not None:
            return super().priority(batch)
        farthest = column(f"{self.clusters}.distance")
        return np.asarray(batch.frame.select(farthest).to_series().to_numpy(), dtype=np.float64)

    def alike(self, values: np.ndarray) -> np.ndarray:
        limit = np.float32(self.threshold)
        return np.asarray(values > limit if self.parity == "semdedup" else values >= limit)

    def keep_pairs(
        self, count: int, better: np.ndarray, worse: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.parity is None:
            return super().keep_pairs(count, better, worse)
        return against_all(count, better, worse)

    def shows(self, state: State) -> Shown:
        nearest = (f"{self.of}.nearest",)
        return Shown(nearest, {self.reason(): self.threshold}, nearest)
