"""The words of captions, and how many captions of each group have them.

    draw = Draw(seed, most=500)                      # captions of each group, by uid hash
    parts = [draw.of(groups, uids, captions) ...]    # of each block, in a task
    drawn = fold(parts, draw.merge)                  # the same in whatever order
    counts, captions = count(drawn)                  # (group, word, captions), (group, captions)

A word is a run of letters and digits in lower case (NFC), as `class_names.words_of` spells them.
Han, kana, Thai, Lao, Khmer, Burmese and Tibetan put no blanks between words: there, each pair of
neighbouring characters is one (as Lucene's CJKAnalyzer has it), and a character that stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from curate import chance

LONGEST_CAPTION = 1_000  # characters; the rest is not looked at
LONGEST_WORD = 50  # characters; longer ones are codes and addresses, and no words
AT_ONCE = 8_192  # captions whose words are held at once
_SALT = "words"

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u{30FC}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_SPACED_WORD = rf"[[\p{{L}}\p{{N}}]--[{_UNSPACED}]][[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]*"
_UNSPACED_RUN = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[{_UNSPACED}]]+"
_CHARACTER = r"[\p{L}\p{N}]\p{M}*"  # a mark belongs to its letter

# English words that say nothing of a cluster, and what is left of `it's` and `don't`.
STOP_WORDS = frozenset(
    """
    a about an and are as at be by for from has have how in is it its my not of on or our s so t
    that the their this to up was we were what when which who will with you your
    """.split()  # noqa: SIM905  # a list would take a line a word
)

_DRAWN: dict[str, pl.DataType] = {
    "group": pl.Int64(),
    "rank": pl.UInt64(),
    "f0": pl.UInt64(),
    "f1": pl.UInt64(),
    "caption": pl.String(),
}
_ORDER = ("group", "rank", "f0", "f1", "caption")


@dataclass(frozen=True)
class Draw:
    """A choice of captions by uid hash, which nothing but the uids and their groups decides.

    A uid counts once in a group: of its captions there, the first in the order of their bytes.
    """

    seed: int
    most: int  # captions of each group

    def of(self, groups: np.ndarray, uids: np.ndarray, captions: pl.Series) -> pl.DataFrame:
        """The captions chosen of N rows: (group, rank, f0, f1, caption), to be merged.

        Args:
            groups: [N] int64 number of each row's group; rows below 0 are in none.
            uids: [N] UID.
            captions: [N] String; rows without one are not chosen.
        """
        rows = np.flatnonzero((groups >= 0) & captions.is_not_null().to_numpy())
        own = groups[rows]
        rank = chance.bits(self.seed, "report", uids[rows], _SALT)
        rows = rows[self._smallest(own, rank)]
        frame = {
            "group": groups[rows],
            "rank": chance.bits(self.seed, "report", uids[rows], _SALT),
            "f0": uids["f0"][rows],
            "f1": uids["f1"][rows],
            "caption": captions.gather(pl.Series(rows)).cast(pl.String),
        }
        found = pl.DataFrame(frame, schema=pl.Schema(_DRAWN))
        return self._first(found.with_columns(pl.col("caption").str.slice(0, LONGEST_CAPTION)))

    def merge(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        """Those chosen of two parts: associative and commutative."""
        return self._first(pl.concat([left, right]))

    def _smallest(self, groups: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Places of the `most` smallest ranks of each group; of equal ranks all."""
        order = np.lexsort((rank, groups))
        group, rank = groups[order], rank[order]
        first = np.append(True, group[1:] != group[:-1])[: len(group)]  # of its group
        new = first.copy()
        new[1:] |= rank[1:] != rank[:-1]
        number = np.cumsum(new)  # from 1, of the ranks that differ
        before = np.maximum.accumulate(np.where(first, number, 0))
        return np.asarray(order[number - before < self.most])

    def _first(self, found: pl.DataFrame) -> pl.DataFrame:
        found = found.sort(_ORDER).unique(["group", "f0", "f1"], keep="first", maintain_order=True)
        return found.group_by("group", maintain_order=True).head(self.most)


def nothing_drawn() -> pl.DataFrame:
    """What is drawn where there is nothing to draw from."""
    return pl.DataFrame(schema=pl.Schema(_DRAWN))


def words_of(captions: pl.Series) -> pl.DataFrame:
    """The words of N captions, (caption UInt32: its place, word String), each once a caption.

    Only the first LONGEST_CAPTION characters are read, and words of more than LONGEST_WORD left
    out. Rows are in no order. It takes about 100 bytes of memory for each word: give it captions in
    parts (as `count` does).
    """
    spelt = captions.cast(pl.String).str.slice(0, LONGEST_CAPTION).str.to_lowercase()
    other = (spelt.str.len_bytes() != spelt.str.len_chars()).fill_null(value=False).arg_true()
    if len(other):  # NFC leaves ASCII alone, and takes longer than all the rest
        spelt = spelt.scatter(other, spelt.gather(other).str.normalize("NFC"))
    place = pl.Series("caption", np.arange(len(spelt), dtype=np.uint32))
    frame = pl.DataFrame({"caption": place, "word": spelt})
    spaced = frame.with_columns(pl.col("word").str.extract_all(_SPACED_WORD))
    found = [_exploded(spaced), _pairs(frame[other])]
    short = pl.col("word").str.len_chars() <= LONGEST_WORD
    return pl.concat(found).filter(short).unique()


def _exploded(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.explode("word").drop_nulls("word")


def _pairs(texts: pl.DataFrame) -> pl.DataFrame:
    """Pairs of neighbours in what scripts without blanks wrote; who has no neighbour stands alone.

    Args:
        texts: (caption, word): whole texts.
    """
    runs = _exploded(texts.with_columns(pl.col("word").str.extract_all(_UNSPACED_RUN)))
    runs = runs.with_row_index("run")
    letters = _exploded(runs.with_columns(pl.col("word").str.extract_all(_CHARACTER)))
    follows, followed = (pl.col("run") == pl.col("run").shift(n) for n in (1, -1))
    pair = pl.when(followed).then(pl.col("word") + pl.col("word").shift(-1)).otherwise("word")
    last = follows.fill_null(value=False) & ~followed.fill_null(value=False)
    return letters.select("caption", pair.alias("word"), last=last).filter(~pl.col("last"))[
        ["caption", "word"]
    ]


def count(drawn: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, int]]:
    """((group, word, captions) in no order, {group: its captions}) of what was drawn.

    Held are AT_ONCE captions' words, and each different word of a group once.
    """
    counts = pl.DataFrame(schema={"group": pl.Int64, "word": pl.String, "captions": pl.Int64})
    for part in _slices(drawn):
        words = words_of(part["caption"])
        own = words.select("word", group=part["group"].gather(words["caption"]))
        one = own.group_by("group", "word").agg(captions=pl.len().cast(pl.Int64))
        both = pl.concat([counts, one.select(counts.columns)])
        counts = both.group_by("group", "word").agg(pl.col("captions").sum())
    sizes = drawn["group"].value_counts(name="captions")
    return counts, dict(sizes.iter_rows())


def _slices(drawn: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return drawn.iter_slices(AT_ONCE)


def commonest(counts: pl.DataFrame, most: int) -> dict[int, list[tuple[str, int]]]:
    """{group: its commonest words, captions that have them}, without STOP_WORDS; ties by word."""
    said = counts.filter(~pl.col("word").is_in(list(STOP_WORDS)))
    order = said.sort("group", "captions", "word", descending=[False, True, False])
    found: dict[int, list[tuple[str, int]]] = {}
    for group, word, rows in order.group_by("group", maintain_order=True).head(most).iter_rows():
        found.setdefault(group, []).append((word, rows))
    return found
