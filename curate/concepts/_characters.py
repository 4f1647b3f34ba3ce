"""Entries that may begin or end inside a run of characters, looked for at every character.

This is what MetaCLIP 2's rule asks for languages without blanks between words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from curate.concepts._lexicon import Trie, trie
from curate.concepts._spacing import BLANKS, SIGNS, Texts

# What `str.strip` of Python takes off; polars on its own leaves the four separators 1C to 1F.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
# Characters next to which no blank is asked for: Unicode blocks, and ASCII punctuation.
FREE = (
    (0x0021, 0x002F), (0x003A, 0x0040), (0x005B, 0x0060), (0x007B, 0x007E),  # ASCII
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),  # Myanmar, its Extended-B and -A
    (0x1780, 0x17FF), (0x19E0, 0x19FF),  # Khmer, its Symbols
    (0x2010, 0x2027), (0x2030, 0x205E),  # General Punctuation, but for blanks and controls
    (0x2E80, 0x2FDF),  # CJK Radicals Supplement, Kangxi Radicals
    (0x2FF0, 0x2FFF),  # Ideographic Description Characters
    (0x3001, 0x30FF),  # CJK Symbols and Punctuation, Hiragana, Katakana
    (0x3100, 0x312F), (0x31A0, 0x31BF),  # Bopomofo, its Extended
    (0x31C0, 0x31FF),  # CJK Strokes, Katakana Phonetic Extensions
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF),  # CJK Unified Ideographs, Extension A first
    (0xF900, 0xFAFF), (0xFE30, 0xFE4F),  # CJK Compatibility Ideographs, its Forms
    (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF9F),  # full, half width
    (0x1AFF0, 0x1B16F),  # Kana Extended-B, Supplement, Extended-A, Small Kana Extension
    (0x20000, 0x323AF),  # CJK Unified Ideographs Extensions B to H, Compatibility Supplement
)  # fmt: skip

_END = 0x110000  # no character
_CHARACTERS = _END + 1


def free_ends(entries: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Whether no blank is asked for before, and after, each of [E] entries: two [E] bool."""
    free = np.zeros(_CHARACTERS, dtype=bool)
    for first, last in FREE:
        free[first : last + 1] = True
    whole = entries.to_list()
    before = [bool(entry) and bool(free[ord(entry[0])]) for entry in whole]
    after = [bool(entry) and bool(free[ord(entry[-1])]) for entry in whole]
    return np.array(before, dtype=bool), np.array(after, dtype=bool)


@dataclass(frozen=True)
class Patterns:
    """P texts to be found anywhere in spaced captions."""

    found: Trie  # of their characters
    begin: np.ndarray  # [characters] bool: whether any begins with it

    def walk(self, captions: Texts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(caption, pattern) of [K] matches each; a pair may come several times."""
        codes, ends = _spaced(captions)
        caption = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
        at = np.flatnonzero(self.begin.take(codes))
        symbols = _symbols(codes)
        rows, node = self.found.first.find(symbols.take(at))
        at = at.take(rows)
        while len(at):
            ended = np.flatnonzero(node < self.found.count)
            yield caption.take(at.take(ended)), node.take(ended)
            on = np.flatnonzero(self.found.kinds.take(node))
            at, node = at.take(on) + 1, node.take(on)
            rows, node = self.found.later.find(symbols.take(at), node)
            at = at.take(rows)


def patterns(texts: pl.Series) -> Patterns:
    """Patterns of P different texts, none empty."""
    codes = _codes("".join(texts.to_list()))
    lengths = texts.str.len_chars().to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    begin = np.zeros(_CHARACTERS, dtype=bool)
    begin[codes.take(offsets[:-1])] = True
    return Patterns(trie(_symbols(codes), offsets), begin)


def _symbols(codes: np.ndarray) -> np.ndarray:
    """[K] uint64: code points as a trie takes them; none looks like a free slot."""
    symbols = codes.astype(np.uint64)
    symbols <<= np.uint64(8)
    return symbols


def _codes(text: str) -> np.ndarray:
    """[K] uint32: the code points of a text."""
    return np.frombuffer(bytearray(text.encode("utf-32-le")), dtype="<u4")


def _spaced(captions: Texts) -> tuple[np.ndarray, np.ndarray]:
    """The characters of N captions with blanks around each and each sign, and where each ends."""
    whole = captions.bytes[: captions.ends[-1] + 1]
    codes = _codes(whole.tobytes().decode())
    begins = np.concatenate([[0], captions.ends[:-1] + 1])
    first_bytes = (whole & 0xC0) != 0x80  # of a character
    ends = np.cumsum(np.add.reduceat(first_bytes, begins, dtype=np.int64)) - 1
    kind = np.zeros(_CHARACTERS, dtype=np.uint8)
    kind[[ord(blank) for blank in BLANKS]] = 1
    kind[[*map(ord, SIGNS), _END]] = 2
    codes[ends] = _END
    kinds = kind.take(codes)
    codes[kinds == 1] = ord(" ")
    wide = np.flatnonzero(kinds == 2)
    place = np.ones(len(codes), dtype=np.int64)
    place[wide] = 2  # a blank before it, and
    place[wide[:-1] + 1] += 1  # one after it
    np.cumsum(place, out=place)
    spaced = np.full(int(place[-1]) + 3, ord(" "), dtype=np.uint32)
    spaced[place] = codes
    spaced[-1] = _END  # a walk may look one past a caption
    return spaced, place.take(ends)
