"""What diff.json holds: its documented, versioned form.

Shares are of 0 to 1 and intervals of 95 %. A sample counts once, however many copies of it go on,
unless a field says `copies` or `rows`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.report.schema import Part, Sample

SCHEMA_VERSION = 1  # rises when a field changes its meaning or goes

Group = Literal["only_a", "only_b", "kept_a", "kept_b"]


class Compared(Part):
    """One of the two sides."""

    name: str = Field(description="a short name, from its path")
    place: str = Field(description="as it was given, without what may be secret")
    kind: Literal["run", "subset"]
    pipeline: str | None = Field(description="name of the run's pipeline")
    pool_rows: int | None = Field(description="rows that the run began with")
    uids: int = Field(description="different uids kept")
    copies: int = Field(description="rows of its subset file")


class Sets(Part):
    """What the two subset files share; every one of these is exact."""

    uids_in_both: int
    uids_only_a: int
    uids_only_b: int
    uids_with_other_copies: int = Field(description="in both, but not as often")
    copies_in_both: int = Field(description="the smaller number of copies of each uid")
    copies_in_either: int = Field(description="the larger")
    jaccard: float = Field(description="uids in both / in either; 1 where both are empty")
    a_in_b: float = Field(description="uids in both / uids of A; 1 where A is empty")
    b_in_a: float
    jaccard_copies: float
    a_in_b_copies: float
    b_in_a_copies: float


class Rows(Part):
    """The rows of the pool that both runs began with, by who kept them."""

    both: int
    only_a: int
    only_b: int
    neither: int


class Reason(Part):
    """Why the other side has not got them."""

    step: str = Field(description="`pool` where the pool itself could not use the row")
    reason: str
    rows: int


class Elsewhere(Part):
    """What became, in the other run, of the samples that only one side kept."""

    of: Literal["a", "b"] = Field(description="who kept them")
    known: bool = Field(description="whether the other side is a run, which says why")
    rows: int = Field(description="rows of the other run's pool that are these samples")
    reasons: list[Reason] = Field(description="the commonest first; they add up to `rows`")
    uids_absent: int | None = Field(
        description="uids that the other run's pool has not got; null where it is no run"
    )


class StepSide(Part):
    """One step in one run."""

    entered: int
    kept: int
    removed: int
    lost: int


class StepPair(Part):
    """A step of the same name in both runs, or of one of them."""

    name: str
    kind: str
    a: StepSide | None
    b: StepSide | None
    changed: list[str] | None = Field(
        description="fields of its recipe that differ, `field: A -> B`; null where one lacks it"
    )


class OtherFate(Part):
    """What the other run did with a sample."""

    step: str
    reason: str


class OnlySample(Sample):
    """A sample that one side alone kept."""

    fate: OtherFate | None = Field(description="in the other run; null where that is not known")


class Gallery(Part):
    """Samples that one side alone kept, by uid hash."""

    of: Literal["a", "b"]
    readable: bool = Field(description="whether a run is at hand whose pool may have them")
    rows: int = Field(description="rows they were drawn from")
    samples: list[OnlySample]


class Interval(Part):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Values(Part):
    """The values that the kept samples of one side have."""

    both: list[int] = Field(description="[B] samples by bin, of those that the other kept as well")
    only: list[int] = Field(description="[B] of those that only this side kept")
    count: int = Field(description="samples with a finite value")
    missing: int = Field(description="samples without one")
    infinite: int
    mean: float | None
    deviation: float | None = Field(description="divided by the count")
    low: float | None = Field(description="the lowest finite value")
    high: float | None


class Distribution(Part):
    """A number, as the samples kept by A and by B have it."""

    column: str
    scale: Literal["linear", "log"]
    edges: list[float] = Field(
        description="[B + 1], the same for both; a bin includes its lower edge, the last one both"
    )
    a: Values
    b: Values
    d: Interval | None = Field(
        description="standardised difference of means, (A - B) / pooled deviation (Cohen's d); "
        "its interval allows for samples that both kept. Null where nothing deviates"
    )
    ks: float | None = Field(
        description="Kolmogorov-Smirnov distance at the edges: the largest difference of the "
        "shares below an edge; the true one is no smaller"
    )
    recipes: Literal["same", "differ"] = Field(
        description="whether both runs computed the column in the same way"
    )


class ShareOf(Part):
    """One value of a column of words."""

    value: str | None = Field(description="null: without a value")
    a: int = Field(description="samples that A kept")
    b: int
    difference: float = Field(description="share of A - share of B")


class Shares(Part):
    """A column of words, as the samples kept by A and by B have it."""

    column: str
    exact: bool = Field(description="whether no value left out can be among the commonest")
    a: int = Field(description="samples that A kept")
    b: int
    values: list[ShareOf] = Field(description="the largest differences first")
    rest: list[int] = Field(description="samples of all other values, of A and of B")


class Lean(Part):
    """A word or an entry, and how much commoner it is on one side."""

    word: str
    a: int = Field(description="captions of A that have it")
    b: int
    log_odds: Interval = Field(
        description="log odds ratio, above 0: commoner in A; with an informative Dirichlet prior "
        "(Monroe, Colaresi, Quinn 2008)"
    )
    z: float = Field(description="log odds ratio / its standard error")
    difference: Interval = Field(
        description="share of A - share of B, with Newcombe's interval (1998, method 10)"
    )
    sure: bool = Field(
        description="whether an interval that allows for all words compared (Bonferroni) "
        "leaves out 0"
    )


class Leaning(Part):
    """Words, or entries of a list, that are commoner on either side."""

    step: str | None = Field(description="the step `concepts`; null: words of captions")
    groups: list[Group] = Field(description="whose captions are compared")
    captions: list[int] = Field(description="how many were looked at")
    of: list[int] = Field(description="of how many")
    compared: int = Field(description="words that enough captions have")
    least: int = Field(description="captions, of both sides, that a word must have")
    prior: float = Field(description="captions that the prior is worth")
    more_in_a: list[Lean] = Field(
        description="whose interval leaves out 0. The order is by that end of the interval which "
        "is nearer to 0, of intervals that allow for all words compared; ties by word"
    )
    more_in_b: list[Lean]


class Diff(Part):
    """The whole."""

    schema_: Literal[1] = Field(alias="schema")
    a: Compared
    b: Compared
    pool: Literal["same", "other", "unknown"] = Field(
        description="same: both runs began with the same rows; unknown: one is no run"
    )
    sets: Sets
    rows: Rows | None = Field(description="null unless the pool is the same")
    elsewhere: list[Elsewhere] = Field(description="of A, then of B")
    steps: list[StepPair] = Field(description="empty unless both are runs")
    galleries: list[Gallery] = Field(description="of A, then of B")
    distributions: list[Distribution]
    shares: list[Shares]
    words: Leaning | None = Field(description="null where no caption is at hand on a side")
    concepts: list[Leaning]
