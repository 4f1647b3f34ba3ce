"""How many samples of a finished run name each of some classes: before any step, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Span
from curate.concepts.matching import Matcher
from curate.errors import ConfigError
from curate.fates import START
from curate.frequencies.class_names import Vocabulary, words_of
from curate.ledger import ledger_file
from curate.parquet import head, read_parquet
from curate.pipeline_file.config import LIMIT
from curate.pools.pool import pool_columns
from curate.runner import Runner, fold

AT_ONCE = 131_072  # captions that are spelt anew at once


@dataclass(frozen=True)
class Frequencies:
    """Counts over usable samples of the pool (row 0), kept ones (1), and copies of those (2)."""

    classes: np.ndarray  # [3, C] int64: samples with any term of the class, each once
    texts: np.ndarray  # [3, T] int64: samples with the text
    samples: np.ndarray  # [3] int64: in all
    named: np.ndarray  # [3] int64: that name any class
    without_caption: np.ndarray  # [3] int64

    def __add__(self, other: Frequencies) -> Frequencies:
        return Frequencies(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


def class_frequencies(work: str, words: Vocabulary, count: int, runner: Runner) -> Frequencies:
    """Look for the texts of `count` classes in every caption of the pool, once.

    Raises:
        ConfigError: the pool has no captions.
    """
    if "caption" not in pool_columns(work):
        raise ConfigError(
            f"the pool of {work} has no captions to look for classes in: name their column with "
            "`pool.columns`"
        )
    found = fold(runner.map(partial(_of_block, work, words, count), _spans(work), "classes"), _sum)
    return found if found is not None else nothing(words, count)


def _sum(left: Frequencies, right: Frequencies) -> Frequencies:
    return left + right


def nothing(words: Vocabulary, count: int) -> Frequencies:
    """What no caption has."""
    shapes = ((3, count), (3, len(words.texts)), (3,), (3,), (3,))
    return Frequencies(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


def _spans(work: str) -> list[Span]:
    """Every block that has a ledger, whole."""
    names = storage.names(storage.join(work, "ledger"))
    blocks = [int(name[6:-8]) for name in names if name.startswith("block-")]
    return [Span(block, 0, head(ledger_file(work, block))[1]) for block in blocks]


def _of_block(work: str, words: Vocabulary, count: int, span: Span) -> Frequencies:
    ledger = read_parquet(ledger_file(work, span.block), ["step", "copies"])
    outside = ledger["step"].cast(pl.String).is_in([START, LIMIT])
    usable = ~outside.fill_null(value=False).to_numpy()
    captions = columns.load(work, pool_columns(work), ["caption"], span)["caption"]
    return in_captions((words, count), captions, usable, ledger["copies"].to_numpy())


def in_captions(
    wanted: tuple[Vocabulary, int], captions: pl.Series, usable: np.ndarray, copies: np.ndarray
) -> Frequencies:
    """Look for the texts of so many classes in [N] captions.

    Args:
        wanted: The texts, and the number of classes.
        captions: [N] String.
        usable: [N] bool: rows that count at all.
        copies: [N] of each that is kept; 0 for who is not.
    """
    words, count = wanted
    matcher = Matcher(words.texts)
    found = nothing(words, count)
    for start in range(0, len(captions), AT_ONCE):
        rows = start + np.flatnonzero(usable[start : start + AT_ONCE])
        part = captions.gather(pl.Series(rows))
        weights = np.stack([np.ones(len(rows)), copies[rows] > 0, copies[rows]])  # [3, N]
        found += _counted(words, count, (matcher, part), weights.astype(np.float64))
    return found


def _counted(
    words: Vocabulary, count: int, search: tuple[Matcher, pl.Series], weights: np.ndarray
) -> Frequencies:
    """Counts over [N] captions, each with three weights: whole numbers, whose sums are exact."""
    matcher, captions = search
    offsets, texts = matcher.match(words_of(captions))
    rows = np.repeat(np.arange(len(captions)), np.diff(offsets))
    of_texts = _weighed(weights, rows, texts, len(words.texts))
    owners = np.diff(words.offsets)[texts]
    begins = np.repeat(words.offsets[texts] - (np.cumsum(owners) - owners), owners)
    classes = words.classes[begins + np.arange(len(begins))]
    pairs = np.unique(np.repeat(rows, owners) * count + classes)  # a sample once, by any term
    row, one = np.divmod(pairs, count)
    null = captions.is_null().to_numpy()
    return Frequencies(
        _weighed(weights, row, one, count),
        of_texts,
        weights.sum(axis=1).astype(np.int64),
        weights[:, np.unique(row)].sum(axis=1).astype(np.int64),
        weights[:, null].sum(axis=1).astype(np.int64),
    )


def _weighed(weights: np.ndarray, rows: np.ndarray, bins: np.ndarray, size: int) -> np.ndarray:
    """[3, size] int64 sums of weights."""
    found = [np.bincount(bins, own[rows], minlength=size) for own in weights]
    return np.stack(found).astype(np.int64)
