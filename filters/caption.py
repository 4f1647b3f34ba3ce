"""Keep samples whose caption is long enough, and not too long."""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import Field

from filters import Available, Filter, Measure, RowFilter, Shown, State, Unbound, column

_BLANKS = {  # what separates words
    None: r"\s",
    "datacomp": r"\s\x1c-\x1f",
    "datacomp_image_based": r" \n\r\t\x0b\x0c\x00",
}
_FEW = 12  # a search for so many words stops early; for more they are all counted


class Caption(RowFilter):
    r"""Keeps captions of at least `min_words` words and `min_characters` characters.

    Words are what Unicode white space separates (`\s`); characters are Unicode code points.
    DataComp's basic filter (2304.14108, App. P) is `{min_words: 3, min_characters: 6}`;
    LAION-400M's is `{min_characters: 5}`. Limits are inclusive.

    With `parity: datacomp` words are those of Python's `str.split`, as in its code for the basic
    filter: U+001C to U+001F separate too. With `parity: datacomp_image_based` they are the tokens
    of `fasttext.tokenize`, as in its caption filter before image_based: only ASCII blanks and NUL
    separate (U+00A0 does not), and each newline is a token of its own.
    """

    example = "{min_words: 3, min_characters: 6}"

    column: str = Field("caption", description="the text column that is measured")
    min_words: int = Field(0, ge=0, description="fewest words that pass")
    max_words: int | None = Field(None, ge=1, description="most words that pass")
    min_characters: int = Field(0, ge=0, description="fewest characters that pass")
    max_characters: int | None = Field(None, ge=1, description="most characters that pass")
    parity: Literal["datacomp", "datacomp_image_based"] | None = Field(
        None, description="count words as that code does"
    )

    def bind(self, available: Available) -> Filter:
        held = available.get(self.column, "")
        if held not in ("", "String", "Null"):  # empty where the file was not read yet
            raise Unbound(f"{self.column} holds {held}, not text")
        return self

    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def problems(self) -> list[str]:
        pairs = (
            ("words", self.min_words, self.max_words),
            ("characters", self.min_characters, self.max_characters),
        )
        return [
            f"min_{unit} {low} is above max_{unit} {high}: nothing can pass"
            for unit, low, high in pairs
            if high is not None and low > high
        ]

    def passes(self) -> dict[str, pl.Expr]:
        characters = self._text().str.len_chars()
        rules = {}
        if self.min_words > 0:
            rules["too_few_words"] = self._has_words(self.min_words)
        rules["too_few_characters"] = characters >= self.min_characters
        if self.max_words is not None:
            rules["too_many_words"] = ~self._has_words(self.max_words + 1)
        if self.max_characters is not None:
            rules["too_many_characters"] = characters <= self.max_characters
        return rules

    def _text(self) -> pl.Expr:
        # Where all are null, the column has no type.
        return column(self.column).cast(pl.String)

    def _worded(self) -> pl.Expr:
        """The text with all that is a word of its own between blanks."""
        text = self._text()
        if self.parity == "datacomp_image_based":
            text = text.str.replace_all("\n", " . ", literal=True)
        return text

    def _words(self) -> pl.Expr:
        """How many words there are; null where there is no text."""
        return self._worded().str.count_matches(f"[^{_BLANKS[self.parity]}]+")

    def _has_words(self, count: int) -> pl.Expr:
        """Whether a text has at least `count` words; null where there is no text."""
        if count > _FEW:
            return self._words() >= count
        blanks = _BLANKS[self.parity]
        # The last character of a word, what separates it, the next word but for its last one, ...
        word, gap = f"[^{blanks}]", f"[{blanks}]"
        return self._worded().str.contains(f"(?:{word}{gap}+{word}*){{{count - 1}}}{word}")

    def shows(self, state: State) -> Shown:
        found = []
        for unit, value in (("words", self._words()), ("characters", self._text().str.len_chars())):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            at_least = (f"too_few_{unit}", float(low)) if low > 0 else None
            at_most = (f"too_many_{unit}", float(high)) if high is not None else None
            if at_least or at_most:
                found.append(Measure(f"{self.column}: {unit}", value, at_least, at_most))
        return Shown((self.column,), {}, measures=tuple(found))
