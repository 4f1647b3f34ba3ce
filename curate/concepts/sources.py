"""What lists of entries are made from: WordNet's files, counts of words and pairs, titles."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from curate import storage
from curate.concepts.entry_list import decoded
from curate.errors import ConfigError

WORDNET_FILES = tuple(f"data.{part}" for part in ("noun", "verb", "adj", "adv"))
MOST = 10**15  # a count; sums of more could leave 64 bits
_SHOWN = 80  # characters of a line in a message
# `offset file part words head ...`; adjectives may end in a marker of where they stand.
_SYNSET = r"^\d{8} \d\d [nvasr] [0-9a-f]{2} ([^ ]+?)(?:\((?:a|p|ip)\))? "

Heads = Literal["whole", "cut"]
Kind = Literal["unigram", "bigram", "title"]


@dataclass(frozen=True)
class Words:
    """Words of a dictionary in its order; some may repeat."""

    words: pl.Series  # String
    lines: int  # that they came from
    left_out: Mapping[str, int]  # {reason: lines}


@dataclass(frozen=True)
class Counts:
    """What was counted; each stands once."""

    frame: pl.DataFrame  # `entry` (of bigrams `first` and `second`), String, and `count`, Int64
    lines: int
    left_out: Mapping[str, int]  # {reason: lines}; `repeated`: added to the line of the same words
    all_counted: int | None = None  # where the frame is only a part of it

    def total(self) -> int:
        """All that was counted: the sum of all counts, unless known better. Never overflows."""
        if self.all_counted is not None:
            return self.all_counted
        count = self.frame["count"]
        high, low = (count // 2**32).sum(), (count % 2**32).sum()
        return int(high) * 2**32 + int(low)


def read_wordnet(folder: str, heads: Heads = "whole") -> Words:
    """The first word of each synset in WordNet's database files, lower-cased as nltk names synsets.

    "_" becomes a blank, and markers of adjectives such as "(p)" are left out. WordNet 3.0 has
    117,659 synsets with 86,571 such words, in the order of its files: nouns, verbs, adjectives,
    adverbs.

    Args:
        folder: Where data.noun, data.verb, data.adj and data.adv are (wndb(5WN)).
        heads: `cut` leaves out all from the first full stop on ("u.s." gives "u"), as MetaCLIP's
            code does to nltk's names; the 86,554 words left and the numbers 0 to 99 are the 86,654
            entries that its paper counts.
    """
    found = []
    for name in WORDNET_FILES:
        url = storage.join(folder, name)
        if not storage.exists(url):
            raise ConfigError(
                f"{folder} has no {name}: give the folder of WordNet's database files; "
                "`apt-get install wordnet-base` makes /usr/share/wordnet"
            )
        found.append(_heads(url))
    words = pl.concat(found)
    if words.is_empty():
        raise ConfigError(f"{folder} holds no synsets: it is not WordNet's")
    words = words.str.to_lowercase().str.replace_all("_", " ", literal=True)
    if heads == "cut":
        words = words.str.replace(r"\..*$", "")
    return Words(words, len(words), {})


def _heads(url: str) -> pl.Series:
    lines = _lines(url)
    texts = pl.DataFrame({"number": pl.int_range(1, len(lines) + 1, eager=True), "line": lines})
    synsets = texts.filter(~pl.col("line").str.starts_with(" ") & (pl.col("line") != ""))
    heads = synsets["line"].str.extract(_SYNSET, 1)
    _refuse(url, synsets, heads.is_null(), "not a synset of WordNet")
    return heads


def read_wordnet_tab(path: str) -> Words:
    """The lemmas of an Open Multilingual Wordnet file, in its order.

    Its lines are `00001740-n<TAB>jpn:lemma<TAB>word`, or `lemma` alone, as nltk reads them; one
    that begins with "#" says where the file is from. Other kinds (definitions, examples, roots and
    plurals) are left out as `not_a_lemma`. "_" becomes a blank, and "+", which parts words, goes.
    """
    lines = _lines(path)
    numbers = pl.int_range(1, len(lines) + 1, eager=True)
    texts = pl.DataFrame({"number": numbers, "line": lines})
    texts = texts.filter(~pl.col("line").str.starts_with("#") & (pl.col("line") != ""))
    fields = texts["line"].str.split("\t")
    _refuse(path, texts, fields.list.len() < 3, "not `synset<TAB>lemma<TAB>word`")
    is_lemma = fields.list.get(1).str.split(":").list.last() == "lemma"
    words = fields.list.last().filter(is_lemma)
    if words.is_empty():
        raise ConfigError(f"{path} holds no lemmas: name another file")
    words = words.str.replace_all("_", " ", literal=True).str.replace_all("+", "", literal=True)
    return Words(words.str.strip_chars(), len(texts), {"not_a_lemma": int((~is_lemma).sum())})


def read_counts(paths: Sequence[str], kind: Kind) -> Counts:
    """The counts of one or more files of one language; those of the same words are added.

    A line is what was counted, blanks or a tab, and a whole number from 0 to 10^15. A unigram is
    one word; a bigram two, parted by a blank or a tab; a title may have blanks, and its "_" become
    blanks. White space around each is left out.
    """
    read = [_counted(path, kind) for path in paths]
    frame = pl.concat(frame for frame, _, _ in read)
    lines, blank = sum(lines for _, lines, _ in read), sum(blank for _, _, blank in read)
    columns = frame.columns[:-1]
    added = frame.lazy().group_by(columns).agg(pl.col("count").sum()).collect()
    left_out = {"blank": blank, "repeated": len(frame) - len(added)}
    return Counts(added, lines, _some(left_out))


# What each kind of line looks like, and in a pattern: one pass, for this is most of the work.
_LINE = {"unigram": "`word count`", "bigram": "`word word count`", "title": "`title views`"}
_PATTERN = {
    "unigram": r"^[ \t]*(?<entry>[^ \t]+)[ \t]+(?<count>[0-9]+)[ \t]*$",
    "bigram": r"^[ \t]*(?<first>[^ \t]+)[ \t]+(?<second>[^ \t]+)[ \t]+(?<count>[0-9]+)[ \t]*$",
    "title": r"^[ \t]*(?<entry>[^\t]*[^ \t])[ \t]+(?<count>[0-9]+)[ \t]*$",
}
_BLANK = r"^[ \t]*$|^[ \t]+[0-9]+[ \t]*$"  # a count of nothing, too


def _counted(path: str, kind: Kind) -> tuple[pl.DataFrame, int, int]:
    """(columns of the words and `count`; lines; how many of them count nothing) of a file."""
    lines = _lines(path)
    frame = lines.str.extract_groups(_PATTERN[kind]).struct.unnest()
    words = frame.columns[:-1]
    frame = frame.with_columns(
        pl.col(words).str.strip_chars(),
        pl.col("count").str.to_integer(strict=False, dtype=pl.Int64),
    )
    odd = frame["count"].is_null() | (frame["count"] > MOST)
    if odd.any():
        _refuse(
            path,
            pl.DataFrame({"number": odd.arg_true() + 1, "line": lines.filter(odd)}),
            ~lines.filter(odd).str.contains(_BLANK),
            f"not {_LINE[kind]} with a whole number from 0 to 10^15",
        )
    frame = frame.filter(~odd, pl.all_horizontal(pl.col(words) != ""))
    if kind == "title":
        blanks = pl.col("entry").str.replace_all("_", " ", literal=True)
        frame = frame.with_columns(blanks.str.strip_chars())
    return frame, len(lines), len(lines) - len(frame)


def _lines(url: str) -> pl.Series:
    """The lines of a UTF-8 file that has any; the end of a line is no part of it."""
    data = storage.read(url).removeprefix(codecs.BOM_UTF8)
    decoded(url, data)
    if not data or data.isspace():
        raise ConfigError(f"{url} holds nothing: leave it away, or name another file")
    if not data.endswith(b"\n"):
        data += b"\n"
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate(([0], ends)).astype(np.int64)  # [lines + 1]
    # A view of the bytes: 10 million lines as Python strings would take 1 GB.
    held = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))
    lines = pl.Series(held, dtype=pl.String)
    return lines.str.strip_chars_end("\r\n")


def _refuse(path: str, texts: pl.DataFrame, wrong: pl.Series, problem: str) -> None:
    """Raise the error that names the first of the wrong lines, if there are any."""
    found = texts.filter(wrong)
    if found.is_empty():
        return
    number, line = found.row(0)
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    more = f" (and {len(found) - 1:,} more lines)" if len(found) > 1 else ""
    raise ConfigError(f"{path}:{number}: {problem}: {shown!r}{more}")


def _some(left_out: Mapping[str, int]) -> dict[str, int]:
    return {reason: lines for reason, lines in left_out.items() if lines}
