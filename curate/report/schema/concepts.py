"""What became of concepts and classes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from curate.report.schema.part import Part


class Concepts(Part):
    """What became of the concepts of a `concepts` step, from stage to stage.

    The first stage is the step itself, the others are the steps that removed samples after it.
    """

    step: str
    list_: dict[str, Any] = Field(
        alias="list", description="entries, digest, sources, languages, hardly_match"
    )
    stages: list[dict[str, Any]] = Field(
        description="after, samples, matched, unscored, unmatched, unmatched_share, matches, "
        "entries_hit, top_share (of matches, by the top 1 % of entries)"
    )
    copies: dict[str, int]
    head: list[dict[str, Any]] = Field(description="the 30 most frequent entries before")
    tail: dict[str, Any] = Field(description="the tail: entries, and their matches at each stage")
    vanished: dict[str, Any] = Field(description="entries that nobody has in the end")
    curve: dict[str, list[Any]] = Field(description="samples by rank, one list for each stage")
    balances: list[dict[str, Any]] = Field(description="one for each `metadata_balance`")


class BeforeAfter(Part):
    """A number of the pool, and of the subset."""

    before: int = Field(description="of the samples that the pool can use")
    after: int = Field(description="of those kept")
    copies: int = Field(description="of their copies")


class NamedClass(BeforeAfter):
    """Samples whose captions name a class, or a synonym of it."""

    name: str = Field(alias="class", description="cut after 100 characters")


class VanishedClasses(Part):
    """Classes that the pool had."""

    classes: int
    most_frequent: list[NamedClass] = Field(description="at most 50")


class ClassCurve(Part):
    """Counts of classes by rank: another class on each side."""

    ranks: list[int] = Field(description="up to 60, from 1, evenly spaced logarithms")
    samples: list[list[int]] = Field(description="[2][ranks]: before, after")


class Classes(Part):
    """What became of the classes that `report.classes` names."""

    source: str = Field(description="the file, or `imagenet`")
    forms_by: str = Field(description="what makes plurals and lemmas: WordNet where it is there")
    classes: int
    samples: BeforeAfter
    naming_a_class: BeforeAfter = Field(description="samples that name any")
    without_caption: BeforeAfter
    unnamed: BeforeAfter = Field(description="classes that no sample names")
    rare: BeforeAfter = Field(description="classes that 1 to 9 samples name")
    shifted: list[NamedClass] = Field(
        description="at most 30, those whose share of the samples changed most"
    )
    vanished: VanishedClasses
    curve: ClassCurve
