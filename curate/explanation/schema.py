"""What `curate explain --json` prints: its documented form.

Texts are whole and as they stand in the pool; what is printed for people writes out control
characters. A number that is not finite is text: JSON has no NaN.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curate.report.schema import Part

Fate = Literal["kept", "removed", "lost", "undecided"]
Side = Literal["kept", "removed", "lost", "not reached"]


class Rule(Part):
    """One comparison of a filter."""

    reason: str = Field(description="why a sample goes that fails it")
    value: float | str | None = Field(description="the sample's; null where it has none")
    threshold: float | str
    margin: float | None = Field(
        description="value - threshold, its sign turned so that the kept side is positive"
    )
    passed: bool | None = Field(description="null: without a value, or it cannot be told")


class FilterFate(Part):
    """What one filter said of the sample; `any_of` has several."""

    filter: str = Field(description="the step, or the filter inside `any_of`")
    verdict: Literal["kept", "removed"]
    reason: str | None
    values: dict[str, Any] = Field(description="{deciding column: value}")
    rules: list[Rule] = Field(description="those of its rules that compare numbers")
    settings: dict[str, Any] = Field(description="its fields in the pipeline file, defaults too")
    learnt: dict[str, Any] = Field(description="small values that it learnt from many samples")
    group: dict[str, int] = Field(
        description="`number` and `quota` of its group, where the filter keeps so many of each"
    )


class StepFate(Part):
    """What became of the sample at one step."""

    step: str
    kind: str | None = Field(description="its YAML name; null where the run has not come so far")
    role: Literal["filter", "feature", "download", "write"] | None
    verdict: Side
    reason: str | None = Field(description="of a removal or loss")
    because: str | None = Field(description="what else explains it: the uid or entry it is due to")
    copies: int | None = Field(description="that it hands on; null where that cannot be told")
    filters: list[FilterFate]


class ArrayValue(Part):
    """One array of the sample: too long to print."""

    shape: list[int]
    norm: float | str | None = Field(description="Euclidean; null where the sample has no value")


class FeatureValues(Part):
    """What a step computed of the sample."""

    step: str
    kind: str
    state: Literal["computed", "no value", "not computed"]
    why: str | None = Field(description="why there is no value, or why there is one all the same")
    values: dict[str, Any] = Field(description="{column: value}")
    arrays: dict[str, ArrayValue]


class Member(Part):
    """Another sample of the same group."""

    uid: str
    shard: int
    row: int
    value: float | None = Field(description="of the stored pair with the one that stayed")


class DuplicateGroup(Part):
    """Samples that a step found to be the same as the one that stayed."""

    step: str
    stayed: str = Field(description="uid")
    is_stayed: bool = Field(description="whether it is this very sample")
    kept: Member | None = Field(description="who stayed; null where no such row reached the step")
    size: int = Field(description="with the one that stayed")
    unit: Literal["similarity", "distance"] | None = Field(
        description="what pairs say: a cosine, or bits that differ; null where there are no pairs"
    )
    own_value: float | None = Field(
        description="of the stored pair of this sample and the one that stayed"
    )
    members: list[Member] = Field(
        description="others removed because of the one that stayed, at most 20, by place"
    )


class Cluster(Part):
    """The cluster of the sample."""

    step: str
    cluster: int
    distance: float | None
    second: int | None = Field(description="the second nearest")
    second_distance: float | None
    levels: dict[str, int | None] = Field(description="{level2: its cluster there}")
    size: int = Field(description="samples with a value that are in it")
    kept: int = Field(description="of those, still in after the last step")


class Entry(Part):
    """One concept that the caption matches."""

    id: int
    entry: str
    language: str | None
    samples: int | None = Field(
        description="that have it, where a balance counted, else after the step; null: not counted"
    )
    p: float | None = Field(description="chance by which a balance keeps a sample with it")


class Concepts(Part):
    """The entries of a list that the caption matches."""

    step: str
    balance: str | None = Field(description="the `metadata_balance` whose chances are given")
    entries: list[Entry]
    kept_chance: float | None = Field(description="of staying by any entry, 1 - (1 - p1)(1 - p2)..")
    stays_by: str | None = Field(description="the entry by which the balance kept it")


class PictureFile(Part):
    """The picture, as a file of its original bytes."""

    file: str | None = Field(description="null where none was written")
    bytes: int | None
    tar: str | None = Field(description="where it is from")
    key: str | None
    why: str | None = Field(description="why there is none")


class SampleFate(Part):
    """The whole fate of one row of the pool."""

    uid: str
    shard: int
    row: int = Field(description="of the shard")
    source: str
    file: str = Field(description="what the shard was read from, without what may be secret")
    fate: Fate = Field(description="undecided: still in, in a run that did not come to its end")
    removed_by: str | None = Field(description="`pool` where the pool itself could not use it")
    reason: str | None
    because: str | None
    copies: int
    probe: bool | None = Field(description="whether it is of the probe; null: there is none")
    pool: dict[str, Any] = Field(description="{column of the pool: value}")
    pool_arrays: dict[str, ArrayValue]
    features: list[FeatureValues]
    steps: list[StepFate]
    duplicates: list[DuplicateGroup]
    clusters: list[Cluster]
    concepts: list[Concepts]
    picture: PictureFile


class Explanation(Part):
    """The answer."""

    asked: str
    by: Literal["uid", "beginning of a uid", "url", "key"] = Field(description="how it was found")
    rows: int = Field(description="of the pool that fit")
    not_reached: list[str] = Field(description="steps that the run has not come to")
    samples: list[SampleFate] = Field(description="the first 5 of those rows, by place")
