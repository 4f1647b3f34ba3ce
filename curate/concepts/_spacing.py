"""Many texts as the tokens that MetaCLIP's spacing makes of them, without a loop over texts.

A text is wrapped in blanks, tab, newline and carriage return become blanks, and a blank is put on
both sides of each of `, . ; : ? ! ``. An entry is a substring between two blanks just where its
tokens, cut at single blanks, follow each other among the text's: so nothing is ever written out.
A token may be empty: two blanks have one between them, and so has a sign before a blank.
"""

from __future__ import annotations

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
_TEXT_END = 0xFF  # no byte of UTF-8


def _classes(blanks: str, signs: str) -> bytes:
    """[256] what a byte is."""
    table = bytearray(256)
    for kind, characters in ((_BLANK, blanks), (_SIGN, signs)):
        for character in characters.encode():
            table[character] = kind
    table[_TEXT_END] = _END
    return bytes(table)


SPACED = _classes(" " + BLANKS, SIGNS)  # what a text is cut by
AS_IT_IS = _classes(" ", "")  # what an entry is cut by: its own blanks


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
    window: np.ndarray  # [B] uint64: the 8 bytes from each byte on

    def words_at(self, tokens: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """[K] uint64: 8 bytes of tokens from some byte of theirs on, filled up."""
        left = np.minimum(self.length.take(tokens) - offset, WORD)
        found: np.ndarray = self.window.take(self.start.take(tokens) + offset)
        found |= FILL.take(left)
        return found


def tokens_of(texts: pl.Series, classes: bytes = SPACED) -> Tokens:
    """The tokens of N texts, N > 0; a null has one, which is empty."""
    buffer = _joined(texts)
    kinds = np.frombuffer(buffer.tobytes().translate(classes), dtype=np.uint8)
    cuts = np.flatnonzero(kinds != _ORDINARY)  # each ends the token before it
    kind = kinds.take(cuts)
    signs = np.flatnonzero(kind == _SIGN)
    cut_signs = cuts.take(signs)
    count, last = len(cuts), len(cuts) + len(signs)
    start = np.zeros(last + 1, dtype=np.int64)
    np.add(cuts[:-1], 1, out=start[1:count])
    start[count:last] = cuts.take(signs)
    length = np.ones(last + 1, dtype=np.int64)
    np.subtract(cuts, start[:count], out=length[:count])
    following = np.arange(1, last + 2)
    following[count:last] = signs + 1
    following[signs] = np.arange(count, last)
    following[count - 1] = last
    ends = kind == _END
    text = np.empty(last + 1, dtype=np.int64)
    np.cumsum(ends, out=text[:count])
    text[:count] -= ends
    text[count:last] = text.take(signs)
    text[last] = -1
    bytes_left = np.ndarray(len(buffer), "<u8", np.pad(buffer, (0, WORD)).data, strides=(1,))
    window = np.ascontiguousarray(bytes_left)
    words = window.take(start)
    words |= FILL.take(np.minimum(length, WORD))
    return Tokens(words, following, text, start, length, window)


def _joined(texts: pl.Series) -> np.ndarray:
    """The texts' bytes, each ended by 0xFF."""
    whole = texts.fill_null("").str.join("\n")
    data = whole.to_arrow().buffers()[2]
    size = int(whole.str.len_bytes()[0])
    buffer = np.empty(size + 1, dtype=np.uint8)
    if size:
        buffer[:size] = np.frombuffer(data, dtype=np.uint8, count=size)
    ends = np.cumsum(texts.str.len_bytes().fill_null(0).to_numpy(), dtype=np.int64)
    ends += np.arange(len(ends))
    buffer[ends] = _TEXT_END
    return buffer
