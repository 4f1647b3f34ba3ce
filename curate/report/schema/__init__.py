"""What report.json holds: its documented, versioned form.

`python -m curate.docs` makes README.md of this folder from the descriptions below. Shares are of 0
to 1, intervals are of 95 %, and a sample counts once, however many copies of it go on, unless a
field says `copies`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.report.schema.concepts import (
    BeforeAfter,
    ClassCurve,
    Classes,
    Concepts,
    NamedClass,
    VanishedClasses,
)
from curate.report.schema.counts import (
    Damage,
    Fitted,
    Histogram,
    PoolFacts,
    Published,
    ShardSource,
    Sides,
    Step,
    StepFilter,
    Totals,
    Unfinished,
)
from curate.report.schema.makeup import Makeup, Numbers, ScoreGroup, ScoresBy, Shift, Value, Words
from curate.report.schema.outside import Downloads, Evaluation, Fetched, KnownSet, Loss
from curate.report.schema.part import Part
from curate.report.schema.probe import (
    AloneFilter,
    Correlation,
    Estimate,
    FilterPair,
    NotMeasured,
    Probe,
)
from curate.report.schema.shown import (
    Card,
    Clusters,
    CommonWord,
    Duplicates,
    Gallery,
    Group,
    Sample,
    ShownSample,
)

__all__ = [
    "SCHEMA_VERSION",
    "AloneFilter",
    "BeforeAfter",
    "Card",
    "ClassCurve",
    "Classes",
    "Clusters",
    "CommonWord",
    "Concepts",
    "Correlation",
    "Damage",
    "Downloads",
    "Duplicates",
    "Estimate",
    "Evaluation",
    "Fetched",
    "FilterPair",
    "Fitted",
    "Gallery",
    "Group",
    "Histogram",
    "KnownSet",
    "Loss",
    "Makeup",
    "NamedClass",
    "NotMeasured",
    "Numbers",
    "Part",
    "PoolFacts",
    "Probe",
    "Published",
    "Report",
    "Sample",
    "ScoreGroup",
    "ScoresBy",
    "ShardSource",
    "Shift",
    "ShownSample",
    "Sides",
    "Step",
    "StepFilter",
    "Totals",
    "Unfinished",
    "Value",
    "VanishedClasses",
    "Words",
]

SCHEMA_VERSION = 3  # rises when a field comes, goes or changes its meaning


class Report(Part):
    """The whole."""

    schema_: Literal[3] = Field(alias="schema")
    name: str
    seed: int
    made_with: dict[str, str] = Field(description="{package: version} of what decides")
    unfinished: Unfinished | None = Field(description="null for a finished run")
    extent: Literal["whole", "brief"] = Field(
        description="brief: `curate run --brief` left the sections empty that look at all samples "
        "again: `curate report` makes them"
    )
    totals: Totals
    pool: PoolFacts
    steps: list[Step]
    histograms: list[Histogram]
    probe: Probe
    makeup: Makeup
    downloads: Downloads | None
    losses: list[Loss]
    duplicates: list[Duplicates]
    clusters: list[Clusters]
    concepts: list[Concepts]
    classes: Classes | None
    sets: list[KnownSet]
    evaluation: list[Evaluation]
    examples: list[Gallery]
