"""Keep one of samples whose perceptual hashes differ in few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from filters import Available, Shown, State
from filters._pairs import PairFilter


class NearDuplicates(PairFilter):
    """Keeps a sample unless one that is kept has a hash at most `distance` bits from its own.

    Samples are walked by (`keep` column, uid), so nobody goes for the sake of one that is gone, and
    a chain does not swallow a group. The pairs are those of a `hash_neighbours` step: another
    distance costs seconds, and none may be above that step's `radius`.
    """

    example: ClassVar[str] = "{distance: 4}"
    shorthand: ClassVar[str] = "distance"
    maker: ClassVar[str] = "hash_neighbours"

    distance: int = Field(ge=0, le=64, description="most bits in which duplicates differ")

    def finds(self, step: str, available: Available) -> bool:
        return f"{step}.floor" not in available

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        radius = before.get(str(self.of), {}).get("radius", 64)
        if self.distance <= radius:
            return []
        return [
            f"distance {self.distance} is above the radius {radius} of {self.of}: pairs "
            "farther apart are not looked for; lower `distance`, or raise that step's `radius`"
        ]

    def alike(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values <= self.distance)

    def shows(self, state: State) -> Shown:
        nearest = (f"{self.of}.nearest",)
        return Shown(nearest, {self.reason(): float(self.distance)}, nearest)
