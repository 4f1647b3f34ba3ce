"""Keep a random share of the samples, the same one every time."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from filters import Available, Batch, Filter, Shown, State
from filters._top import Of, Top


class RandomSample(Filter):
    """Keeps exactly `count` samples, or floor(`fraction` * n), by a hash of (seed, step, uid).

    The same samples are chosen for any order, sharding and worker count, and a larger share keeps
    all that a smaller one kept.
    """

    example = "{fraction: 0.1, of: survivors}"

    fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    count: int | None = Field(None, ge=1, description="number of rows that stay")
    of: Of | None = Field(
        None, description="of what: survivors; pool_threshold (those that a draw from the whole "
        "pool would take); pool_count (that share of the pool's size, from the survivors)"
    )  # fmt: skip

    def problems(self) -> list[str]:
        if (self.fraction is None) == (self.count is None):
            return ["give one of fraction and count"]
        if self.count is not None and self.of == "pool_count":
            return ["count is a number of rows already: `of: pool_count` goes with fraction"]
        return []

    def problems_after_filters(self) -> list[str]:
        return self._draw().problems_after_filters()

    def _draw(self) -> _Draw:
        return _Draw(name=self.name, top_fraction=self.fraction, top_count=self.count, of=self.of)

    def bind(self, available: Available) -> Filter:
        return self._draw()


class _Draw(Top):
    def needs(self) -> tuple[str, ...]:
        return ()

    def values(self, batch: Batch) -> np.ndarray:
        return batch.uniform("")

    def shows(self, state: State) -> Shown:
        return Shown((), {})
