"""Who is in pool and subset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.report.schema.part import Part


class Value(Part):
    """One value of a column of words."""

    value: str | None = Field(description="null: without a value")
    reached: list[int] = Field(description="samples in the pool, then after each of `steps`")


class Words(Part):
    """Which values a column of words has, before and after."""

    column: str
    about: str = Field(description="language, domain, source, licence, or the column itself")
    since: str = Field(
        description="pool, or the step that made the column: `reached` begins with who got past it"
    )
    steps: list[str] = Field(description="the steps behind that which remove, in order")
    distinct: int | None = Field(
        description="different values; null above a million, or 64 MB of text"
    )
    exact: bool = Field(description="whether no value left out can be among the commonest")
    values: list[Value] = Field(
        description="the commonest 20 to begin with, and in the subset; cut after 200 characters"
    )
    rest: list[int] = Field(description="samples of all other values, as `reached`")


class Numbers(Part):
    """How a number is distributed, before and after."""

    column: str = Field(description="or both, where width and height make one number")
    about: str = Field(
        description="smaller_side, aspect_ratio, caption_characters, caption_words, "
        "caption_tokens, or the column itself"
    )
    unit: str
    scale: Literal["linear", "log"]
    since: str = Field(description="as of words")
    steps: list[str]
    edges: list[float] = Field(
        description="[B + 1]; a bin includes its lower edge, the last one its upper edge as well; "
        "none where nobody has a value"
    )
    reached: list[list[int]] = Field(description="[steps + 1][B] samples")
    missing: list[int] = Field(description="[steps + 1] samples without a finite value")


class Shift(Part):
    """A value, or a range of a number, whose share changed from pool to subset."""

    column: str
    about: str
    value: str | None = Field(description="null: without a value")
    since: str = Field(description="as of words: `pool` is the share of who got past it")
    pool: float = Field(description="its share of the pool")
    kept: float = Field(description="its share of the subset")
    hardest: str = Field(description="the step that changed its share most, the same way")


class ScoreGroup(Part):
    """The scores of those who share a value."""

    value: str
    rows: int = Field(description="that have a score, whether a later step removed them or not")
    kept: int = Field(description="of those, in the subset")
    mean: float
    deviation: float = Field(description="the standard deviation of those rows")


class ScoresBy(Part):
    """A score by language, or by length of caption."""

    score: str
    by: str = Field(description="a column of languages, or caption_characters")
    groups: list[ScoreGroup] = Field(description="the 20 commonest languages, or all lengths")


class Makeup(Part):
    """Who is in it: the pool and the subset by what the samples are."""

    words: list[Words]
    numbers: list[Numbers]
    shifts: list[Shift] = Field(
        description="at most 40, and 8 of one column, the largest change first"
    )
    scores: list[ScoresBy]
