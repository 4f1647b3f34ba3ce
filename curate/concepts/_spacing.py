"""Many texts as the tokens that MetaCLIP's spacing makes of them, without a loop over texts.

A text is wrapped in blanks, tab, newline and carriage return become blanks, and a blank is put on
both sides of each of `, . ; : ? ! ``. An entry is a substring between two blanks just where its
tokens, cut at single blanks, follow each other among the text's: so nothing is ever written out.
A token may be empty: two blanks have one between them, and so has a sign before a blank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

SIGNS = ",.;:?!`"  # a blank is put on both sides of each
BLANKS = "\t\n\r"  # read as a blank
WORD = 8  # bytes of a token that are looked up at once
# Which bytes of a word lie beyond a token that has so many left: UTF-8 has no byte 0xFF, so a
# word that is filled up with it tells where its token ends, whatever the token holds.
FILL = np.array([(2**64 - 1) & ~(2 ** (8 * n) - 1) for n in range(WORD + 1)], dtype=np.uint64)

_ORDINARY, _BLANK, _SIGN, _END = range(4)
_BLOCK = (
    1 << 16
)  # bytes whose words are laid out at once: 8 times as many, which fit a core's cache


def _classes(blanks: str, signs: str) -> bytes:
    """[256] what a byte is."""
    table = bytearray(256)
    for kind, characters in ((_BLANK, blanks), (_SIGN, signs)):
        for character in characters.encode():
            table[character] = kind
    return bytes(table)


SPACED = _classes(" " + BLANKS, SIGNS)  # what a text is cut by
AS_IT_IS = _classes(" ", "")  # what an entry is cut by: its own blanks


@dataclass(frozen=True)
class Texts:
    """N texts as one run of bytes, each followed by a byte that is none of its own."""

    bytes: np.ndarray  # [B + 8] uint8; the last 8 are of no text
    ends: np.ndarray  # [N] int64: where the byte after each is

    def chunks(self, texts: int, size: int) -> Iterator[tuple[int, Texts]]:
        """Consecutive texts: at most so many, and so many bytes unless one has more.

        With each chunk comes the number of its first text.
        """
        first = begin = 0
        while first < len(self.ends):
            last = int(np.searchsorted(self.ends, begin + size))
            last = min(max(last, first + 1), first + texts, len(self.ends))
            end = int(self.ends[last - 1]) + 1
            yield first, Texts(self.bytes[begin : end + WORD], self.ends[first:last] - begin)
            first, begin = last, end


def texts_of(texts: pl.Series) -> Texts:
    """The bytes of N texts; a null is like an empty one."""
    lengths = texts.str.len_bytes().fill_null(0).to_numpy()
    ends = np.cumsum(lengths, dtype=np.int64)
    ends += np.arange(len(ends))
    whole = texts.fill_null("").str.join("\n").to_arrow().buffers()[2]
    buffer = np.zeros((int(ends[-1]) + 1 if len(ends) else 0) + WORD, dtype=np.uint8)
    size = len(buffer) - WORD - 1
    if size > 0:
        buffer[:size] = np.frombuffer(whole, dtype=np.uint8, count=size)
    return Texts(buffer, ends)


@dataclass(frozen=True)
class Tokens:
    """T tokens of some texts: in order, but that the signs come after all others.

    One more follows, which is of no text: -1.
    """

    words: np.ndarray  # [T + 1] uint64: a token's first 8 bytes, filled up
    next: np.ndarray  # [T + 1] int64: the token that follows; it may be of another text
    text: np.ndarray  # [T + 1] int64: whose it is
    start: np.ndarray  # [T + 1] int64: its first byte
    length: np.ndarray  # [T + 1] int64: its bytes
    window: np.ndarray  # [B] uint64: the 8 bytes from each byte on; a view of the texts

    def words_at(self, tokens: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """[K] uint64: 8 bytes of tokens from some byte of theirs on, filled up."""
        left = np.minimum(self.length.take(tokens) - offset, WORD)
        found: np.ndarray = self.window[self.start.take(tokens) + offset]
        found |= FILL.take(left)
        return found


def tokens_of(texts: Texts, classes: bytes = SPACED) -> Tokens:
    """The tokens of N texts, N > 0; an empty one has a token, which is empty."""
    size = len(texts.bytes) - WORD
    kinds = np.frombuffer(bytearray(texts.bytes[:size]).translate(classes), dtype=np.uint8)
    kinds[texts.ends] = _END
    cuts = np.flatnonzero(kinds != _ORDINARY)  # each ends the token before it
    kind = kinds.take(cuts)
    signs = np.flatnonzero(kind == _SIGN)
    count, last = len(cuts), len(cuts) + len(signs)
    start = np.empty(last + 1, dtype=np.int64)
    start[[0, last]] = 0
    np.add(cuts[:-1], 1, out=start[1:count])
    start[count:last] = cuts.take(signs)
    length = np.ones(last + 1, dtype=np.int64)
    np.subtract(cuts, start[:count], out=length[:count])
    following = np.arange(1, last + 2)
    following[count:last] = signs + 1
    following[signs] = np.arange(count, last)
    following[count - 1] = last
    text = np.empty(last + 1, dtype=np.int64)
    tokens = np.diff(np.flatnonzero(kind == _END), prepend=-1)  # [N] but for the signs
    text[:count] = np.repeat(np.arange(len(tokens)), tokens)
    text[count:last] = text.take(signs)
    text[last] = -1
    window = np.ndarray(size, "<u8", texts.bytes.data, strides=(1,))
    words = np.empty(last + 1, dtype=np.uint64)
    words[count:] = texts.bytes.take(start[count:])
    _gather(window, start[:count], words[:count])
    words |= FILL.take(np.minimum(length, WORD))
    return Tokens(words, following, text, start, length, window)


def _gather(window: np.ndarray, places: np.ndarray, into: np.ndarray) -> None:
    """The words at some ascending places: block by block, for numpy is slow where it jumps."""
    begins = np.arange(0, len(window), _BLOCK)
    cuts = np.searchsorted(places, np.append(begins, len(window))).tolist()
    for begin, first, last in zip(begins.tolist(), cuts[:-1], cuts[1:], strict=True):
        block = np.ascontiguousarray(window[begin : begin + _BLOCK])
        into[first:last] = block.take(places[first:last] - begin)
