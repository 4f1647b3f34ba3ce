"""Keep samples whose caption has words of a list, or none of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Any

import polars as pl
from pydantic import Field

from filters import Available, Filter, RowFilter, Shown, State, Unbound, column
from filters._words import (
    ByLanguage,
    Lists,
    Spelling,
    Words,
    has_all,
    has_any,
    lists_of,
    problems_of,
    recipe_of,
)

_RULES = {"any_of": "no_keyword", "all_of": "lacks_keyword", "none_of": "forbidden_keyword"}


class Keyword(Filter):
    """Keeps captions with any word of a list, with all words of another, with none of a third.

    A list is `[satellite, remote sensing]`, `{file: words.txt}` with a word a line in UTF-8,
    `numbers` (two to ten: the captions that "Teaching CLIP to Count to Ten", 2302.12066, looks for
    first), or `{languages: {en: [...], zh: {file: zh.txt}}}`: then the sample's language says which
    list counts, and one for which there is none has no words to look for. A domain is cut out of a
    pool this way, as the first step of RS5M (2306.11300) does it with words of its own.

    A word counts where no letter, digit or underscore stands right before or after it, in any
    script; a mark belongs to its letter. In languages written without spaces (zh, wuu, yue, ja,
    th, lo, my, km, bo, dz), told by a list's language, it counts anywhere. A blank in a word is any
    run of white space. Case is ignored by lower-casing both, unless told otherwise.

    Reasons are `no_keyword`, `lacks_keyword` and `forbidden_keyword`, in this order. A sample
    without a caption, or without a language where one is asked for, is `unscored`.
    """

    example = "{none_of: [stock photo, click to enlarge]}"

    any_of: Words | None = Field(None, description="the caption has at least one of these")
    all_of: Words | None = Field(None, description="the caption has each of these")
    none_of: Words | None = Field(None, description="the caption has none of these")
    column: str = Field("caption", description="the text column that is searched")
    language: str | None = Field(
        None, description="the column of languages, for lists by language; the only one if absent"
    )
    ignore_case: bool = Field(default=True, description="whether a word's case does not matter")

    def problems(self) -> list[str]:
        given = dict(self._given())
        if not given:
            return ["give any_of, all_of or none_of: a list of words"]
        found = [
            f"{field}: {problem}"
            for field, words in given.items()
            for problem in problems_of(words, self._spelling())
        ]
        if self.language is not None and not self._by_language():
            found.append("language: it picks one of several lists: write `{languages: {en: ...}}`")
        return found or self._contradictions()

    def _contradictions(self) -> list[str]:
        wanted, banned = (self._lists(field) for field in ("all_of", "none_of"))
        both = [
            (word, language or "any language")
            for language in sorted({*wanted, *banned})
            for word in wanted.get(language, wanted.get("", ()))
            if word in banned.get(language, banned.get("", ()))
        ]
        return [
            f"{word!r} ({language}) is in all_of and in none_of: nothing can pass"
            for word, language in both[:1]
        ]

    def recipe(self) -> dict[str, Any]:
        """The words of files, whatever the files are called."""
        return {field: recipe_of(words) for field, words in self._given()}

    def bind(self, available: Available) -> Filter:
        held = available.get(self.column, "")
        if held not in ("", "String", "Null"):  # empty where the file was not read yet
            raise Unbound(f"{self.column} holds {held}, not text")
        language = self._language(available) if self._by_language() else None
        lists = {field: self._lists(field) for field, _ in self._given()}
        fixed = {"name": self.name, "column": self.column, "ignore_case": self.ignore_case}
        return _Keywords(**fixed, language=language, lists=lists)

    def _language(self, available: Available) -> str:
        if self.language is not None:
            return self.language
        codes = [name for name in available if name == "language" or name.endswith("language.code")]
        if len(codes) == 1:
            return codes[0]
        if codes:
            raise Unbound(
                f"several columns give languages: {', '.join(codes)}; name one with `language:`"
            )
        raise Unbound(
            "no column gives languages: put `- language: {}` before this step, or name "
            "one with `language:`"
        )

    def _given(self) -> Iterator[tuple[str, Words]]:
        for field in _RULES:
            words = getattr(self, field)
            if words is not None:
                yield field, words

    def _by_language(self) -> bool:
        return any(isinstance(words, ByLanguage) for _, words in self._given())

    def _spelling(self) -> Spelling:
        return Spelling(ignore_case=self.ignore_case)

    def _lists(self, field: str) -> dict[str, tuple[str, ...]]:
        """{language: words as they are looked for} of one field."""
        words: Words | None = getattr(self, field)
        found = {} if words is None else lists_of(words)
        return {language: tuple(self._spelling()(given)) for language, given in found.items()}


class _Keywords(RowFilter):
    """With the words that were in files: workers may have none of these."""

    column: str
    language: str | None
    ignore_case: bool
    lists: dict[str, dict[str, tuple[str, ...]]]  # {field: {language: words as looked for}}

    def needs(self) -> tuple[str, ...]:
        return (self.column,) if self.language is None else (self.column, self.language)

    def passes(self) -> dict[str, pl.Expr]:
        given = column(self.column).cast(pl.String)  # where all are null, the column has no type
        text = Spelling(ignore_case=self.ignore_case).text(given)
        rules = {}
        for field, lists in self.lists.items():
            found = self._found(text, lists, each=field == "all_of")
            rules[_RULES[field]] = ~found if field == "none_of" else found
        return rules

    def _found(self, text: pl.Expr, lists: Lists, *, each: bool) -> pl.Expr:
        has = has_all if each else has_any
        if self.language is None or "" in lists:
            return has(text, lists[""])
        spoken = column(self.language).cast(pl.String)
        text = pl.when(spoken.is_not_null()).then(text)
        own = [
            has(pl.when(spoken == language).then(text), words, language).fill_null(value=False)
            for language, words in lists.items()
        ]
        if each:  # nothing is asked for in other languages
            own.append(~spoken.is_in(list(lists)))
        return pl.when(text.is_not_null()).then(reduce(or_, own))

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {})
