"""Put a list of entries together from its sources, and account for every line that they hold."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from curate.concepts.entry_list import SOURCES, EntryList, Source, of_frame
from curate.concepts.presets import Cut, Rules
from curate.concepts.sources import Counts, Words
from curate.errors import ConfigError

# Languages written without blanks between words: their bigrams are joined without one.
# Source: MetaCLIP 2's code (metaclip/metadata), which lists the same.
NO_SPACE = frozenset({
    "bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh", "zh_classical", "zh_yue",
})  # fmt: skip
# Marks that MetaCLIP 2 counts as punctuation beside those of ASCII.
_MARKS = "，。、；：？¿！“”‘’（）【】《》〈〉「」『』～—"  # noqa: RUF001 - they are what is meant


@dataclass(frozen=True)
class Candidates:
    """What one source has for a language."""

    source: Source
    language: str
    entries: pl.Series  # best first; they may repeat
    lines: int  # that they came from
    left_out: Mapping[str, int] = field(default_factory=dict)  # {reason: lines}
    cap: int | None = None  # so many are added at most
    how: Literal["checked", "as_it_is"] = "checked"


def numbers(language: str) -> Candidates:
    """The numbers from 0 to 99, with which MetaCLIP begins every list."""
    found = pl.Series([str(number) for number in range(100)])
    return Candidates("number", language, found, len(found))


def wordnet(language: str, found: Words) -> Candidates:
    """All words of a WordNet."""
    return Candidates("wordnet", language, found.words, found.lines, found.left_out)


def given(language: str, entries: pl.Series) -> Candidates:
    """A list as it is: only what stands in the list already is left out."""
    return Candidates("given", language, entries, len(entries), how="as_it_is")


def unigrams(language: str, counts: Counts, rules: Rules) -> Candidates:
    """The words that reach the threshold, most frequent first, then by word."""
    return _ranked("unigram", language, counts, rules.unigrams)


def titles(language: str, views: Counts, rules: Rules) -> Candidates:
    """The titles that reach the threshold, most viewed first, then by title; none with a colon."""
    fine = views.frame.filter(~pl.col("entry").str.contains(":", literal=True))
    left_out = {**views.left_out, "colon": len(views.frame) - len(fine)}
    return _ranked("title", language, Counts(fine, views.lines, left_out), rules.titles)


def _ranked(source: Source, language: str, counts: Counts, cut: Cut) -> Candidates:
    found = counts.frame.filter(cut.reached(pl.col("count")))
    found = found.sort("count", "entry", descending=[True, False])
    left_out = {**counts.left_out, "below_threshold": len(counts.frame) - len(found)}
    cap = cut.cap(len(counts.frame))
    return Candidates(source, language, found["entry"], counts.lines, left_out, cap)


def bigrams(language: str, pairs: Counts, counts: Counts, rules: Rules) -> Candidates:
    """The pairs whose PMI reaches the threshold, highest first, then by pair.

    PMI = log2(N * count(a b) / (count(a) * count(b))), N the sum of all unigrams' counts: nltk's
    `BigramAssocMeasures.pmi`. The quotient is compared, not its logarithm, so that the order does
    not depend on a machine's mathematics library. A pair of a word that was not counted is left
    out, and in the languages of NO_SPACE pairs are joined without a blank.
    """
    known = counts.frame.filter(pl.col("count") > 0)
    scored = pairs.frame
    for word in ("first", "second"):
        named = known.select(pl.col("entry").alias(word), pl.col("count").alias(f"of_{word}"))
        scored = scored.join(named, on=word)
    product = pl.col("of_first").cast(pl.Float64) * pl.col("of_second").cast(pl.Float64)
    lift = pl.col("count").cast(pl.Float64) * float(counts.total()) / product
    between = pl.lit("" if language in NO_SPACE else " ")
    entry = pl.concat_str("first", between, "second")
    scored = scored.select(entry.alias("entry"), lift.alias("lift"))
    found = scored.filter(_lifted(rules.bigrams).reached(pl.col("lift")))
    found = found.sort("lift", "entry", descending=[True, False])
    left_out = {
        **pairs.left_out,
        "word_not_counted": len(pairs.frame) - len(scored),
        "below_threshold": len(scored) - len(found),
    }
    cap = rules.bigrams.cap(len(pairs.frame))
    if rules.bigram_share is not None:
        cap = min(cap, int(rules.bigram_share * len(counts.frame)))
    return Candidates("bigram", language, found["entry"], pairs.lines, left_out, cap)


def _lifted(cut: Cut) -> Cut:
    """A cut by PMI as one by the quotient of which PMI is the logarithm."""
    at_least, above = (
        None if bound is None else math.pow(2.0, bound) for bound in (cut.at_least, cut.above)
    )
    return Cut(at_least, above)


@dataclass(frozen=True)
class Account:
    """What became of the lines of one source in one language."""

    language: str
    source: Source
    lines: int
    entries: int
    left_out: Mapping[str, int]  # {reason: lines}


@dataclass(frozen=True)
class Built:
    """A list, and what became of every line it was made from."""

    entries: EntryList
    accounts: Sequence[Account]


def put_together(candidates: Iterable[Candidates], rules: Mapping[str, Rules]) -> Built:
    """The list of all candidates, by language and then in the order of SOURCES.

    Within a language the first of the same entries stays; a source's cap counts what it adds.

    Args:
        candidates: One or more per language and source.
        rules: {language: rules} for each language.

    Raises:
        ConfigError: No entry is left.
    """
    ordered = sorted(candidates, key=lambda each: (each.language, SOURCES.index(each.source)))
    frames: list[pl.DataFrame] = []
    accounts: list[Account] = []
    seen: dict[str, pl.DataFrame] = {}
    for each in ordered:
        before = seen.get(each.language, pl.DataFrame({"entry": []}, {"entry": pl.String}))
        added, left_out = _admitted(each, before, rules[each.language])
        seen[each.language] = pl.concat([before, added])
        frames.append(
            added.with_columns(
                source=pl.lit(each.source, pl.String), language=pl.lit(each.language, pl.String)
            )
        )
        accounts.append(Account(each.language, each.source, each.lines, len(added), left_out))
        assert each.lines == len(added) + sum(left_out.values()), accounts[-1]
    whole = pl.concat(frames) if frames else pl.DataFrame()
    if whole.is_empty():
        raise ConfigError("no entry is left: lower the thresholds, or name more sources")
    rank = pl.int_range(pl.len(), dtype=pl.UInt32).over("language", "source")
    return Built(of_frame(whole.with_columns(rank.alias("rank"))), accounts)


def _admitted(
    each: Candidates, before: pl.DataFrame, rules: Rules
) -> tuple[pl.DataFrame, dict[str, int]]:
    """What a source adds, in order, and why the rest of its lines add nothing."""
    left_out = dict(each.left_out)
    frame = each.entries.alias("entry").to_frame()
    if each.how == "checked":
        for reason, bad in _checks(rules).items():
            frame, whole = frame.filter(~bad), len(frame)
            left_out[reason] = left_out.get(reason, 0) + whole - len(frame)
    fresh = frame.unique(keep="first", maintain_order=True)
    fresh = fresh.join(before, on="entry", how="anti", maintain_order="left")
    added = fresh.head(len(fresh) if each.cap is None else each.cap)
    left_out["repeated"] = left_out.get("repeated", 0) + len(frame) - len(fresh)
    left_out["beyond_cap"] = len(fresh) - len(added)
    return added, {reason: lines for reason, lines in left_out.items() if lines}


def _checks(rules: Rules) -> dict[str, pl.Expr]:
    """{reason: whether an entry is left out for it}, in order."""
    entry = pl.col("entry")
    checks = {"blank": entry.str.strip_chars() == ""}
    if rules.longest is not None:
        checks["too_long"] = entry.str.len_chars() > rules.longest
    if rules.punctuation == "single":
        checks["punctuation"] = entry.is_in(list(string.punctuation))
    else:
        checks["punctuation"] = entry.str.strip_chars(string.punctuation + _MARKS) == ""
    return checks
