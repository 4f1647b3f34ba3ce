"""Which entries of a list each caption matches, for a whole column at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl

from curate.concepts import _spacing
from curate.concepts._lexicon import Trie, trie
from curate.concepts._spacing import BLANKS, SIGNS, WORD, Tokens, tokens_of

Rule = Literal["metaclip", "metaclip2"]
CHUNK = 4096  # captions at once: what they need fits a core's cache
CHUNK_BYTES = 1 << 20  # at once, unless one caption has more

_SIGN = f"[{SIGNS}]"
_IMPOSSIBLE = rf"[{BLANKS}]|[^ ]{_SIGN}|{_SIGN}[^ ]|{_SIGN} {_SIGN}"


class Matcher:
    """E entries, ready to be looked for in any captions.

    The rule `metaclip` (2309.16671, section 3.1; "sub-string matching" of its published code): a
    caption is wrapped in blanks, tab, newline and carriage return become blanks, and a blank is put
    on both sides of each of `, . ; : ? ! ``; an entry matches where it stands between two blanks.
    Case counts, and so does every blank.
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
        self.never = np.flatnonzero(impossible).astype(np.uint32)
        self._ids = np.flatnonzero(~impossible)
        self._trie = _trie_of(entries.gather(self._ids))

    def match(self, captions: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Offsets [N + 1] int64 and ids uint32: caption i matches `ids[offsets[i]:offsets[i + 1]]`.

        Ids ascend, each once. A null matches nothing.
        """
        captions = captions.cast(pl.String)
        counts = np.zeros(len(captions), dtype=np.int64)
        found = [np.zeros(0, dtype=np.uint32)]
        for start, stop in _chunks(captions):
            counts[start:stop], ids = self._matched(captions[start:stop])
            found.append(ids)
        offsets = np.zeros(len(captions) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return offsets, np.concatenate(found)

    def _matched(self, captions: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """[N] int64 counts of N captions, and the ids of one after the other."""
        tokens = tokens_of(captions)
        pairs = [
            (tokens.text.take(places).astype(np.uint64) << np.uint64(32))
            | self._ids.take(ends).astype(np.uint64)
            for places, ends in _walk(self._trie, tokens)
        ]
        pair = np.concatenate(pairs)
        pair.sort()
        new = np.ones(len(pair), dtype=bool)
        np.not_equal(pair[1:], pair[:-1], out=new[1:])
        new &= ~captions.is_null().to_numpy().take((pair >> np.uint64(32)).astype(np.int64))
        pair = pair[new]
        text = (pair >> np.uint64(32)).astype(np.int64)
        return np.bincount(text, minlength=len(captions)), pair.astype(np.uint32)


def _chunks(captions: pl.Series) -> Iterator[tuple[int, int]]:
    """Where chunks of captions start and stop."""
    ends = np.cumsum(captions.str.len_bytes().fill_null(0).to_numpy(), dtype=np.int64)
    start = 0
    while start < len(captions):
        before = ends[start - 1] if start else 0
        within = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        stop = min(max(within, start + 1), start + CHUNK, len(captions))
        yield start, stop
        start = stop


def _trie_of(entries: pl.Series) -> Trie:
    """The trie of E entries: of each token the words, the last of which tells where it ends."""
    if not len(entries):
        return trie(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    tokens = tokens_of(entries, _spacing.AS_IT_IS)
    count = len(tokens.text) - 1
    words = tokens.length[:count] // WORD + 1
    ends = np.cumsum(words)
    token = np.repeat(np.arange(count), words)
    offset = (np.arange(len(token)) - np.repeat(ends - words, words)) * WORD
    symbols = tokens.words_at(token, offset)
    owners = np.bincount(tokens.text.take(token), minlength=len(entries))
    return trie(symbols, np.concatenate([[0], np.cumsum(owners)]))


def _walk(entries: Trie, tokens: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(token, entry) of [K] matches each, by depth: a token within the match's text."""
    at, node = entries.first.find(tokens.words[:-1])
    offset = np.zeros(len(at), dtype=np.int64)
    while True:
        ended = np.flatnonzero(node < entries.count)
        yield at.take(ended), node.take(ended)
        on = np.flatnonzero(entries.inner.take(node))
        if not len(on):
            return
        at, node, offset = at.take(on), node.take(on), offset.take(on)
        at, node, offset = _step(entries, tokens, at, (node, offset))


def _step(
    entries: Trie, tokens: Tokens, at: np.ndarray, state: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where [K] walks that may go on come to: tokens, nodes and bytes into the token."""
    node, offset = state
    within = tokens.length.take(at) - offset >= WORD  # else the token has ended
    to = np.where(within, at, tokens.next.take(at))
    offset = np.where(within, offset + WORD, 0)
    symbols = np.where(within, tokens.words_at(to, offset), tokens.words.take(to))
    rows, found = entries.later.find(symbols, node)
    same = tokens.text.take(to.take(rows)) == tokens.text.take(at.take(rows))
    rows, found = rows[same], found[same]
    return to.take(rows), found, offset.take(rows)
