"""Samples that are shown: galleries, groups of duplicates, cards of clusters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curate.report.schema.part import Part


class Sample(Part):
    """A sample that is shown: the page finds its picture by (shard, row)."""

    uid: str = Field(description="32 hex digits")
    shard: int = Field(description="number of its shard in the pool")
    row: int = Field(description="row of the shard")
    tar: str | None = Field(description="where its picture is; null where it has none")
    key: str | None = Field(description="its key in that tar")
    caption: str | None = Field(description="cut after 4,000 characters")
    removed_by: str | None = Field(description="the step that removed it; null for who was kept")
    because: str | None = Field(description="what else explains its fate: the uid that stayed, say")
    values: dict[str, Any] = Field(description="{column: value} that decided")


class ShownSample(Sample):
    """A sample of a gallery."""

    score: float | str | None = Field(description="in the column of the gallery's `score`")


class Gallery(Part):
    """Samples that are shown together."""

    step: str | None = Field(description="null: those that the whole run kept")
    filter: str | None = Field(description="the step, or the filter inside `any_of`")
    reason: str | None = Field(
        description="why they were removed, or which threshold they are near; else null"
    )
    side: Literal["kept", "removed", "both"] = Field(
        description="what the step did with them; both: they reached it"
    )
    chosen: Literal["random", "nearest", "decile"] = Field(
        description="random: by uid hash; nearest: to the threshold; decile: by uid hash among "
        "those of a tenth of the finite scores that reached the step"
    )
    score: str | None = Field(
        description="what the threshold or the deciles are of: a column, or a measure of some"
    )
    threshold: float | str | None
    share: float = Field(
        description="of those it is chosen from, by uid hash, that were looked at: less than 1 "
        "for the nearest of many to what is measured anew"
    )
    decile: int | None = Field(
        description="1 (lowest scores) to 10, as 10,000 scores drawn by uid hash tell (all, where "
        "there are no more); equal scores are in one, so some may be missing"
    )
    between: list[float] | None = Field(
        description="lowest and highest of the drawn scores that are in the decile"
    )
    samples: list[ShownSample]


class Group(Part):
    """Samples that were found to be the same, and who of them stayed."""

    kept: Sample | None = Field(
        description="who stayed there, though a later step may have removed it; null where that "
        "row is not at hand. By SemDeDup's rule it may be gone itself"
    )
    removed: list[Sample] = Field(description="at most 5, by uid")
    size: int = Field(description="with the one that stayed")
    similarity: list[float | None] = Field(description="of each of `removed` to `kept`, if known")


class Duplicates(Part):
    """The largest groups of a filter that removes duplicates."""

    step: str
    of: list[str] = Field(description="the columns that are compared")
    unit: Literal["cosine", "bits"] | None = Field(
        description="of `similarity`: the cosine of the embeddings; or the bits in which hashes "
        "differ, 0 for the same; null where duplicates are equal"
    )
    groups: int = Field(description="groups that lost somebody")
    removed: int
    sizes: dict[str, int] = Field(
        description="{size of a group, as `2` or `5-8`, with the one that stayed: groups}"
    )
    largest: list[Group] = Field(description="at most 100; ties by the uid that stayed")


class CommonWord(Part):
    """A word of captions."""

    word: str
    captions: int = Field(description="that have it")


class Card(Part):
    """One cluster."""

    cluster: int
    size: int = Field(description="samples that reached the clusters' step and are in it")
    kept: int = Field(description="of those, in the subset")
    chosen: list[Literal["largest", "kept_least", "kept_most"]] = Field(
        description="why it is shown; kept shares are compared among clusters of 20 samples or more"
    )
    mark: Literal["cap", "floor", "everything", "nothing", "none"] = Field(
        description="whether a filter held it at its cap, or at its floor; else whether all of it "
        "is in the subset, or nothing"
    )
    mark_by: str | None = Field(description="the step that held it")
    central: list[Sample] = Field(description="at most 4, the nearest to the centroid first")
    outlying: list[Sample] = Field(description="at most 4, the farthest first; none of `central`")
    words: list[CommonWord] = Field(
        description="at most 10, the commonest first; English words such as `the` are left out"
    )
    captions: int = Field(description="captions in which those were counted, 500 by uid hash")


class Clusters(Part):
    """Cards of a step that makes clusters."""

    step: str
    measure: str | None = Field(
        description="the column that says who is central: a `distance`, or the `margin` to the "
        "next cluster"
    )
    samples: int = Field(description="that reached the step")
    without: int = Field(description="of those, in no cluster: without an embedding")
    clusters: int = Field(description="the empty ones too, where `empty` is known")
    empty: int | None = Field(description="null where the step does not tell how many there are")
    ranks: list[int] = Field(description="up to 200, from 1, of the clusters by size")
    sizes: list[int] = Field(description="of the clusters at those ranks")
    kept: list[int] = Field(description="of the same clusters")
    kept_shares: list[int] = Field(
        description="[10] clusters of 20 samples or more by the share of them that was kept: below "
        "a tenth, ..., nine tenths or more"
    )
    cards: list[Card] = Field(description="the largest, and those whose kept share is extreme")
