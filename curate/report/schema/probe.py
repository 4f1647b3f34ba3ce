"""The filters by themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.report.schema.part import Part


class Estimate(Part):
    """A share counted on a part of the pool."""

    rows: int = Field(description="the denominator")
    count: int
    share: float | None = Field(description="count / rows; null without rows")
    low: float | None = Field(description="Wilson's interval")
    high: float | None


class AloneFilter(Part):
    """What one filter (`any_of` as a whole) would do by itself, and what only it does."""

    filter: str = Field(description="its step")
    alone: Estimate = Field(description="rows that it would remove, had it stood alone")
    only: Estimate = Field(description="rows that it would remove, and none of the others here")
    unscored: int = Field(description="of those it would remove, rows without a deciding value")


class NotMeasured(Part):
    """A filter that cannot be tried alone."""

    filter: str = Field(description="its step")
    why: str


class FilterPair(Part):
    """Who two filters, each alone, would remove."""

    a: str
    b: str
    a_removed: int
    b_removed: int
    both: int = Field(description="rows that each of the two would remove")


class Correlation(Part):
    """How alike two scores order samples."""

    a: str = Field(description="a column")
    b: str
    rows: int = Field(description="rows that have both")
    rho: float | None = Field(description="Spearman's, ties averaged; null below 4 rows")
    low: float | None = Field(description="Fisher's z with Bonett and Wright's error (2000)")
    high: float | None


class Probe(Part):
    """The filters by themselves, on a part of the pool that has every column."""

    of: Literal["probe", "pool", "nothing"] = Field(
        description="probe: rows of the pipeline's `probe`; pool: rows of the pool by the same "
        "draws, where all that is read was computed for all; nothing: `why` says why"
    )
    why: str | None
    share: float = Field(description="rows whose draw by uid hash is below it; 100,000 at most")
    rows: int = Field(description="rows looked at: the denominators")
    left_out: int = Field(
        description="rows drawn that lack a column: their picture did not come, or work was lost"
    )
    filters: list[AloneFilter]
    not_measured: list[NotMeasured]
    overlap: list[FilterPair] = Field(description="each pair of `filters` once")
    correlations: list[Correlation] = Field(description="each pair of deciding columns once")
