"""How many tokens CLIP's tokenizer makes of captions: open_clip's own, word by word, each once."""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

CACHED = 1_000_000  # words whose length is remembered: words of the web never end
_LONGEST = 64  # characters of a word that is remembered
_LINE = "\n"  # between captions, for none of the tokenizer's words has one
_OF_LINE = -1

# The library's clean-up (ftfy, HTML entities) changes nothing in a text of these characters that is
# in Unicode's normal form C. None of them is what it repairs: entities, controls, quotes, Latin
# ligatures, wide forms, and letters that broken encodings are known by (U+00C0 to U+00DE, U+0152,
# U+0153, U+0402 and those beside them). Whatever has others is cleaned as the library does it.
_ASCII = r"\t\n\x20-\x25\x27-\x7e"
_LATIN = (
    "ß-öø-ÿăąćčďđęěğłńňőřśşšţťůűźżžșț"  # lower case: the upper is among the known letters
    r"\u1ea0-\u1ef9"
)
_GREEK_CYRILLIC = r"\u0391-\u03a1\u03a3-\u03ce\u0401\u0404\u0406\u0407\u040e\u0410-\u045f"
_SEMITIC = r"\u05d0-\u05ea\u060c\u061b\u061f\u0620-\u064a\u0660-\u0669\u0671-\u06d3"
_SOUTH = (
    r"\u0531-\u0587\u0900-\u0fff\u1000-\u10ff\u1200-\u137c\u1401-\u167f\u1780-\u17ff\u200c\u200d"
)
_EAST = r"\u3001-\u3003\u3008-\u3011\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
UNTOUCHED = f"{_ASCII}{_LATIN}{_GREEK_CYRILLIC}{_SEMITIC}{_SOUTH}{_EAST}"


class TokenCounts:
    """Counts the tokens of captions; remembers words, so one thread at a time."""

    def __init__(self, tokenizer: Any) -> None:
        """Take over a tokenizer.

        Args:
            tokenizer: An `open_clip.tokenizer.SimpleTokenizer`.
        """
        import regex  # type: ignore[import-untyped]  # comes with open_clip, and without stubs

        self._clean = tokenizer.clean_fn
        self._words = regex.compile(f"{tokenizer.pat.pattern}|{_LINE}", regex.IGNORECASE)
        self._lengths = _Lengths(tokenizer)

    def of(self, captions: pl.Series) -> np.ndarray:
        """[N] int64, start and end included, of [N] captions without nulls."""
        if not len(captions):
            return np.zeros(0, dtype=np.int64)
        clean = captions.str.contains(rf"\A[{UNTOUCHED}]*\z")
        dirty = (~clean | (captions.str.normalize("NFC") != captions)).arg_true()
        lines = captions.str.replace_all(_LINE, " ", literal=True)
        if len(dirty):
            cleaned = [self._clean(text) for text in captions.gather(dirty).to_list()]
            lines = lines.scatter(dirty, cleaned)
        # Each ends in a line break, and is made of lower case as the clean-up leaves it.
        text = _LINE.join([*lines.to_list(), ""]).lower()
        found = self._words.findall(text)
        lengths = np.fromiter(map(self._lengths.__getitem__, found), np.int64, len(found))
        ends = np.flatnonzero(lengths == _OF_LINE)
        lengths[ends] = 2  # start and end
        return np.diff(np.cumsum(lengths)[ends], prepend=0)


class _Lengths(dict[str, int]):
    """{word: its tokens}, found when first asked for."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._letters = tokenizer.byte_encoder
        self._ranks = tokenizer.bpe_ranks
        self._special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
        self._reset()

    def _reset(self) -> None:
        self.clear()
        self.update({**dict.fromkeys(self._special, 1), _LINE: _OF_LINE})

    def __missing__(self, word: str) -> int:
        parts = [self._letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        count = _merged(parts, self._ranks)
        if len(word) <= _LONGEST:
            if len(self) >= CACHED:
                self._reset()
            self[word] = count
        return count


def _merged(parts: list[str], ranks: dict[tuple[str, str], int]) -> int:
    """How many are left of [L] parts once no two neighbours can be merged.

    Of all neighbours those with the lowest rank merge first, from left to right. That is what the
    library does pass by pass, in time L^2: no two of CLIP's pairs give the same part, so that what
    a merge makes possible always ranks behind it.
    """
    count = len(parts)
    after, before = list(range(1, count + 1)), list(range(-1, count - 1))
    pairs = ((ranks.get(pair), place) for place, pair in enumerate(pairwise(parts)))
    heap = [(rank, place) for rank, place in pairs if rank is not None]
    heapq.heapify(heap)
    left = count
    while heap:
        rank, place = heapq.heappop(heap)
        other = after[place]
        if not parts[place] or other >= count or ranks.get((parts[place], parts[other])) != rank:
            continue  # one of them was merged with another
        parts[place] += parts[other]
        parts[other] = ""
        left -= 1
        beyond = after[place] = after[other]
        if beyond < count:
            before[beyond] = place
        for first, second in ((before[place], place), (place, beyond)):
            if first >= 0 and second < count:
                found = ranks.get((parts[first], parts[second]))
                if found is not None:
                    heapq.heappush(heap, (found, first))
    return left
