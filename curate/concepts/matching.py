"""Which entries of a list each caption matches, for a whole column at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from curate.concepts import _spacing
from curate.concepts._characters import WHITE_SPACE, free_ends, patterns
from curate.concepts._lexicon import PART, WHOLE, Trie, trie
from curate.concepts._spacing import BLANKS, SIGNS, WORD, Texts, Tokens, texts_of, tokens_of

Rule = Literal["metaclip", "metaclip2"]
CHUNK = 1 << 13  # captions at once, and
CHUNK_BYTES = 1 << 19  # of them: more would leave the cache, fewer pay more for each call of numpy
BUNDLE_BYTES = 1 << 23  # of captions that are put together at once

_SIGN = f"[{SIGNS}]"
_IMPOSSIBLE = rf"[{BLANKS}]|[^ ]{_SIGN}|{_SIGN}[^ ]|{_SIGN} {_SIGN}"


def hardly_match(entries: pl.Series) -> np.ndarray:
    """[E] bool: entries that no caption can match, as a sign stands in a word (`U.S.`) or there is
    a tab; and those with a blank at an end, which match beside two blanks alone."""
    return entries.str.contains(rf"{_IMPOSSIBLE}|^ | $").to_numpy()


class Matcher:
    """E entries, ready to be looked for in any captions.

    The rule `metaclip` (2309.16671, section 3.1, and its published code): a caption is wrapped in
    blanks, tab, newline and carriage return become blanks, and a blank is put on both sides of each
    of `, . ; : ? ! ``; an entry matches where it stands between two blanks. Case counts, and so
    does every blank.

    The rule `metaclip2` (2507.22062): white space is first taken off a caption's ends, and no blank
    is asked for on a side of an entry that is one of `_characters.FREE`: Chinese, Japanese, Thai,
    Lao, Burmese, Khmer, Tibetan or punctuation. The published code has no kana among them, without
    which hardly any Japanese word that holds some would match, and fewer punctuation marks.
    """

    never: np.ndarray  # ids of entries that no caption can match: a sign in a word, a tab, ...

    def __init__(self, entries: pl.Series, rule: Rule = "metaclip") -> None:
        """Prepare the entries.

        Args:
            entries: [E] String, all different; an entry's id is its place.
            rule: What counts as a match.

        Raises:
            ValueError: an entry is null or there twice.
        """
        entries = entries.cast(pl.String)
        if entries.null_count() or entries.n_unique() != len(entries):
            raise ValueError("entries must be texts that differ from each other")
        impossible = entries.str.contains(_IMPOSSIBLE).to_numpy()
        self.rule = rule
        self._size = len(entries)
        self.never = np.flatnonzero(impossible).astype(np.uint32)
        inside = np.zeros(len(entries), dtype=bool)  # whether it may begin or end inside a word
        if rule == "metaclip2":
            before, after = free_ends(entries)
            inside = before | after
        self._words = np.flatnonzero(~impossible & ~inside)
        self._trie = _trie_of(entries.gather(self._words))
        self._parts = np.flatnonzero(~impossible & inside)
        self._patterns = None
        if len(self._parts):
            whole = entries.gather(self._parts)
            self._patterns = patterns(_wrapped(whole, ~before[self._parts], ~after[self._parts]))

    def match(self, captions: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Offsets [N + 1] int64 and ids uint32: caption i matches `ids[offsets[i]:offsets[i + 1]]`.

        Ids ascend, each once. A null matches nothing.
        """
        captions = captions.cast(pl.String)
        if self.rule == "metaclip2":
            captions = captions.str.strip_chars(WHITE_SPACE)
        counts = np.zeros(len(captions), dtype=np.int64)
        found = [np.zeros(0, dtype=np.uint32)]
        absent = captions.is_null().to_numpy() if captions.null_count() else None
        for start, stop in _bundles(captions):
            for first, texts in texts_of(captions[start:stop]).chunks(CHUNK, CHUNK_BYTES):
                rows = slice(start + first, start + first + len(texts.ends))
                counts[rows], ids = self._matched(texts, None if absent is None else absent[rows])
                found.append(ids)
        offsets = np.zeros(len(captions) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return offsets, np.concatenate(found)

    def _matched(self, texts: Texts, absent: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """[N] int64 counts of N captions, and the ids of one after the other."""
        count = len(texts.ends)
        pairs = _Pairs(count, self._size)
        found = [pairs.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
        if len(self._words):
            tokens = tokens_of(texts)
            found += [
                pairs.of(tokens.text.take(places), self._words.take(ends))
                for places, ends in _walk(self._trie, tokens)
            ]
        if self._patterns is not None:
            found += [
                pairs.of(rows, self._parts.take(ends)) for rows, ends in self._patterns.walk(texts)
            ]
        rows, ids = pairs.settled(found)
        if absent is not None:
            there = ~absent.take(rows)
            rows, ids = rows.compress(there), ids.compress(there)
        return np.bincount(rows, minlength=count), ids


class _Pairs:
    """Pairs of a row and an id as one number each, which sort by row, then by id."""

    def __init__(self, rows: int, ids: int) -> None:
        bits = max(ids - 1, 0).bit_length()
        # Half as wide where that is enough: sorting takes half the time.
        self._dtype = np.uint32 if bits + (rows - 1).bit_length() <= 32 else np.uint64
        self._bits = self._dtype(bits)

    def of(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """[K] pairs."""
        found: np.ndarray = rows.astype(self._dtype)
        found <<= self._bits
        found |= ids.astype(self._dtype)
        return found

    def settled(self, pairs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Rows [K] int64 and ids [K] uint32 in order, each pair once."""
        whole = np.concatenate(pairs)
        whole.sort()
        new = np.ones(len(whole), dtype=bool)
        np.not_equal(whole[1:], whole[:-1], out=new[1:])
        whole = whole.compress(new)
        rows = (whole >> self._bits).astype(np.int64)
        whole &= (self._dtype(1) << self._bits) - self._dtype(1)
        return rows, whole.astype(np.uint32, copy=False)


def _wrapped(entries: pl.Series, before: np.ndarray, after: np.ndarray) -> pl.Series:
    """[P] entries with a blank on those sides where one is asked for."""
    frame = pl.DataFrame({"entry": entries, "before": before, "after": after})
    blank, nothing = pl.lit(" "), pl.lit("")
    left = pl.when("before").then(blank).otherwise(nothing)
    right = pl.when("after").then(blank).otherwise(nothing)
    return frame.select(pl.concat_str(left, "entry", right)).to_series()


def _bundles(captions: pl.Series) -> Iterator[tuple[int, int]]:
    """Where runs of captions start and stop whose bytes are put together."""
    ends = np.cumsum(captions.str.len_bytes().fill_null(0).to_numpy(), dtype=np.int64)
    start = 0
    while start < len(captions):
        before = ends[start - 1] if start else 0
        within = int(np.searchsorted(ends, before + BUNDLE_BYTES, side="right"))
        stop = min(max(within, start + 1), len(captions))
        yield start, stop
        start = stop


def _trie_of(entries: pl.Series) -> Trie:
    """The trie of E entries: of each token the words, the last of which tells where it ends."""
    if not len(entries):
        return trie(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    tokens = tokens_of(texts_of(entries), _spacing.AS_IT_IS)
    count = len(tokens.text) - 1
    words = tokens.length[:count] // WORD + 1
    ends = np.cumsum(words)
    token = np.repeat(np.arange(count), words)
    offset = (np.arange(len(token)) - np.repeat(ends - words, words)) * WORD
    symbols = tokens.words_at(token, offset)
    owners = np.bincount(tokens.text.take(token), minlength=len(entries))
    return trie(symbols, np.concatenate([[0], np.cumsum(owners)]))


@dataclass(frozen=True)
class Walks:
    """K places in the entries' trie that some texts have led to."""

    at: np.ndarray  # [K] int64: the token
    node: np.ndarray  # [K] int32
    offset: np.ndarray  # [K] int64: bytes into the token


def _walk(entries: Trie, tokens: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(token, entry) of [K] matches each, by depth: a token within the match's text."""
    at, node = entries.first.find(tokens.words[:-1])
    walks = Walks(at, node, np.zeros(len(at), dtype=np.int64))
    while True:
        ended = np.flatnonzero(walks.node < entries.count)
        yield walks.at.take(ended), walks.node.take(ended)
        kind = entries.kinds.take(walks.node)
        if not kind.any():
            return
        walks = _step(entries, tokens, walks, kind)


def _step(entries: Trie, tokens: Tokens, walks: Walks, kind: np.ndarray) -> Walks:
    """One word further: within the token where that goes on, else at the next token's beginning."""
    ended, inside = np.flatnonzero(kind == WHOLE), np.flatnonzero(kind == PART)
    origin = walks.at.take(ended)
    at = tokens.next.take(origin)
    symbols = tokens.words.take(at)
    offset = np.zeros(len(at), dtype=np.int64)
    if len(inside):
        within = walks.at.take(inside)
        beyond = walks.offset.take(inside) + WORD
        symbols = np.concatenate([symbols, tokens.words_at(within, beyond)])
        origin, at = np.concatenate([origin, within]), np.concatenate([at, within])
        offset = np.concatenate([offset, beyond])
    parents = walks.node.take(np.concatenate([ended, inside]))
    rows, node = entries.later.find(symbols, parents)
    at = at.take(rows)
    same = tokens.text.take(at) == tokens.text.take(origin.take(rows))
    return Walks(at.compress(same), node.compress(same), offset.take(rows).compress(same))
