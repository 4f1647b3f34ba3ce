"""Keep samples whose caption is long enough, and not too long."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from filters import RowFilter, Shown, State, column


class Caption(RowFilter):
    r"""Keeps captions of at least `min_words` words and `min_characters` characters.

    Words are what Unicode white space separates (`\s`, as Python's `str.split` but for U+001C to
    U+001F); characters are Unicode code points. DataComp's basic filter (2304.14108, App. P) is
    `{min_words: 3, min_characters: 6}`; LAION-400M's is `{min_characters: 5}`. Limits are
    inclusive.
    """

    example = "{min_words: 3, min_characters: 6}"

    column: str = Field("caption", description="the text column that is measured")
    min_words: int = Field(0, ge=0, description="fewest words that pass")
    max_words: int | None = Field(None, ge=1, description="most words that pass")
    min_characters: int = Field(0, ge=0, description="fewest characters that pass")
    max_characters: int | None = Field(None, ge=1, description="most characters that pass")

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
        text = column(self.column)
        words = text.str.count_matches(r"\S+")
        characters = text.str.len_chars()
        rules = {
            "too_few_words": words >= self.min_words,
            "too_few_characters": characters >= self.min_characters,
        }
        if self.max_words is not None:
            rules["too_many_words"] = words <= self.max_words
        if self.max_characters is not None:
            rules["too_many_characters"] = characters <= self.max_characters
        return rules

    def shows(self, state: State) -> Shown:
        return Shown((self.column,), {})
