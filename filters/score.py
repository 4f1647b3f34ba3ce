"""Keep samples by any score: above a threshold, the best share, or a band of ranks."""

from __future__ import annotations

from pydantic import Field

from filters import Available
from filters._score import ByScore


class Score(ByScore):
    """Keeps samples by a column of numbers, higher being better.

    `at_least` and `at_most` are inclusive, compared in the column's own precision (so that a stored
    float32 0.281 passes `at_least: 0.281`). `top_fraction` keeps exactly floor(f * n) rows and
    `top_count` exactly that many, ties going to the smaller uid; unscored rows count in n and are
    never kept. `skip_fraction` then removes the best floor(s * n) of them (`above_threshold`), so
    that `{top_fraction: 0.3, skip_fraction: 0.01}` is the band from 1 % to 30 % of DataComp
    (2304.14108). DFN (2309.17425) keeps `top_fraction: 0.15`.

    With `parity: datacomp` the share is taken as DataComp's code takes it: n = int(N * f) in
    floating point over all N rows of the pool, the threshold is element n (from 0) of the values in
    descending order, and whatever equals or exceeds it stays: n + 1 rows, and all ties. Where n
    reaches into the unscored rows nothing stays. Where n is N its code stops with an error; here
    everything that is scored stays.
    """

    example = "{column: clip.similarity, top_fraction: 0.15, of: survivors}"

    column: str = Field(description="the column of numbers")

    def chosen(self, available: Available) -> str:
        return self.column
