"""How many rows there were, at each step and by score."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curate.report.schema.part import Part


class Totals(Part):
    """Rows of the pool by fate, and the size of the subset."""

    rows: int
    usable: int
    kept: int
    copies: int
    removed: int
    lost: int
    unique_uids: int | None = Field(description="different uids kept; null before a run finished")
    epochs: dict[str, float | None] = Field(
        description="{DataComp's scale: how often its samples seen go through the copies kept}"
    )


class ShardSource(Part):
    """One source of the pool."""

    name: str
    kind: str = Field(description="urls, shards, metadata, or metadata and shards")
    patterns: list[str] = Field(description="its files as written, without what may be secret")
    files: int
    shards: int
    rows: int


class Damage(Part):
    """A file that could not be read whole."""

    url: str
    damage: str


class PoolFacts(Part):
    """Where the samples came from, and what was wrong with the files."""

    sources: list[ShardSource]
    pictures: dict[str, Any] | None = Field(
        None, description="of metadata with shards: how many pictures were found by uid"
    )
    shards: int
    rows: int
    unusable: dict[str, int] = Field(description="{reason: rows} that the pool itself cannot use")
    damaged: list[Damage]


class Published(Part):
    """What a paper says that a step leaves of the pool."""

    share: float
    source: str
    off: bool = Field(description="whether ours is off by more than half a percentage point")


class StepFilter(Part):
    """A filter of a step: the step itself, or one inside `any_of`."""

    name: str
    columns: list[str] = Field(description="whose values decide")
    thresholds: dict[str, float | str] = Field(description="{reason: threshold}")
    learnt: dict[str, Any] = Field(description="numbers and words that it learnt")
    tables: dict[str, list[dict[str, Any]]] = Field(description="lists that it learnt")


class Fitted(Part):
    """What a fitted feature learnt, and from whom."""

    on: str = Field(description="survivors, pool, or a file")
    samples: int
    notes: dict[str, Any] = Field(description="what it says of itself")
    tables: dict[str, list[dict[str, Any]]]


class Step(Part):
    """One step: rows in = kept + removed + lost, and the next step gets what it kept."""

    name: str
    kind: str = Field(description="its name in the pipeline file")
    role: Literal["filter", "feature", "download", "write"]
    in_: int = Field(alias="in")
    kept: int
    removed: dict[str, int] = Field(description="{reason: rows}")
    lost: dict[str, int] = Field(description="{kind: rows} of failed work of our own")
    copies: int | None = Field(description="of the rows kept; null where it cannot be told")
    published: Published | None
    recipe: dict[str, Any] = Field(description="all that its result depends on")
    fingerprint: str = Field(description="hash of the recipe")
    filters: list[StepFilter]
    errors: dict[str, int] | None = Field(
        None, description="of a feature: {error class: rows} without a value, of those that came"
    )
    flags: dict[str, dict[str, int]] | None = Field(
        None, description="of a feature: {field: {true: rows, false: rows}}"
    )
    fitted: Fitted | None = Field(None, description="of a fitted feature")


class Sides(Part):
    """Rows on both sides of a verdict."""

    kept: int
    removed: int


class Histogram(Part):
    """A score of those that reached a filter; all counts add up to the rows that reached it."""

    step: str
    filter: str
    column: str = Field(description="a column, or in words what the filter measures of some")
    thresholds: dict[str, float | str]
    keeps: Literal["high", "low"] | None = Field(
        description="which scores pass; null where they are compared with none, or with two"
    )
    alone: bool = Field(description="whether nothing but this score decides who stays")
    low: float | None = Field(description="the lowest finite score; null where there is none")
    high: float | None
    whole: bool = Field(description="whole numbers: the edges of the bins lie between them")
    ends: list[float] | None = Field(
        description="the lower edge of the first bin, and the last one"
    )
    kept: list[int] = Field(
        description="bins of equal width, 200 or of whole numbers fewer; the last has its upper "
        "edge too"
    )
    removed: list[int]
    infinite: Sides
    unscored: Sides


class Unfinished(Part):
    """How far a run came that ended half-way."""

    reached: str | None = Field(description="the last step that was decided")
    not_reached: list[str]
