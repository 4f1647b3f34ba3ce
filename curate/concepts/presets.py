"""Which words of a source make entries: MetaCLIP 1's thresholds, MetaCLIP 2's shares and caps."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import polars as pl

Preset = Literal["metaclip1", "metaclip2"]


@dataclass(frozen=True)
class Cut:
    """Which of a source's words stay: those that reach a threshold, and of those the best."""

    at_least: float | None = None
    above: float | None = None
    share: Decimal = Decimal(1)  # of all that were counted, rounded down
    most: int | None = None

    def cap(self, counted: int) -> int:
        """How many may be added of so many counted."""
        share = int(self.share * counted)
        return share if self.most is None else min(self.most, share)

    def reached(self, score: pl.Expr) -> pl.Expr:
        """Whether a score reaches the threshold."""
        if self.at_least is not None:
            return score >= self.at_least
        return pl.lit(value=True) if self.above is None else score > self.above


@dataclass(frozen=True)
class Rules:
    """What stays of each source in one language."""

    unigrams: Cut  # by count
    bigrams: Cut  # by pointwise mutual information, base 2
    titles: Cut  # by views
    bigram_share: Decimal | None = None  # of the number of unigrams, at most so many bigrams
    longest: int | None = None  # characters
    punctuation: Literal["single", "pure"] = "single"  # dropped: one ASCII mark, or only marks


@dataclass(frozen=True)
class Thresholds:
    """What a user may change of the presets."""

    min_count: int = 100
    min_pmi: float = 30.0
    min_views: int = 70
    bigram_share: Decimal | None = None  # MetaCLIP 2's docs: 0.4


def rules_of(preset: Preset, language: str, thresholds: Thresholds) -> Rules:
    """The rules of MetaCLIP 1 (arXiv 2309.16671, table 1) or 2 (arXiv 2507.22062) for a language.

    MetaCLIP 2 copies its English list from MetaCLIP 1, and cuts every other language to a share of
    its words and a cap. What it publishes on bigrams disagrees: here they are those with a PMI
    above 30, at most 100,646, as its code has it; its docs cap them at 40 % of the number of
    unigrams too (`bigram_share`), and the paper's appendix ranks them by another score, for which
    there is no code.
    """
    given = thresholds
    if preset == "metaclip1" or language == "en":
        return Rules(
            Cut(at_least=given.min_count),
            Cut(at_least=given.min_pmi),
            Cut(at_least=given.min_views),
        )
    return Rules(
        Cut(share=Decimal("0.1"), most=251_465),
        Cut(above=given.min_pmi, most=100_646),
        Cut(share=Decimal("0.76"), most=61_235),
        bigram_share=given.bigram_share,
        longest=256,
        punctuation="pure",
    )
