"""Lists of words: where they stand, what is wrong with them, and which texts have one of them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")  # 2302.12066
UNSPACED = ("zh", "wuu", "yue", "ja", "th", "lo", "my", "km", "bo", "dz")  # no blanks between words
_NAMED = {"numbers": NUMBERS}
_LETTER = r"\p{L}\p{M}\p{N}_"  # of a word; a mark belongs to the letter before it
_LONGEST = 1000  # characters of a word
_FEW = 1000  # words that one pattern takes; it is quicker than looking up marked words then
_BYTES = 20_000  # of one pattern: far below the size that the regex engine refuses
_FINAL_SIGMA, _SIGMA = "\u03c2", "\u03c3"
_EDGE = "\x01"  # marks where words begin and end: no word has a control character


def _kind_of(given: Any) -> str | None:
    """Which of the ways to give words this is, of YAML or of what became of it."""
    if isinstance(given, (list, tuple)):
        return "words"
    if isinstance(given, str):
        return "named" if given in _NAMED else None
    fields = given if isinstance(given, dict) else getattr(type(given), "model_fields", {})
    return next((field for field in ("file", "languages") if field in fields), None)


def _one_kind(*also: str) -> Discriminator:
    """A way to give words; one message, not one for each way, where it is none."""
    ways = ["a list such as [satellite, remote sensing]", "`{file: words.txt}`", "`numbers`", *also]
    return Discriminator(
        _kind_of, custom_error_type="words", custom_error_message=f"give {' or '.join(ways)}"
    )


class FromFile(BaseModel):
    """One word, or phrase, a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(min_length=1, description="UTF-8 text, a word a line")


_Words = Annotated[tuple[str, ...], Tag("words")]
_FromFile = Annotated[FromFile, Tag("file")]
_Named = Annotated[Literal["numbers"], Tag("named")]
Listed = Annotated[_Words | _FromFile | _Named, _one_kind()]


class ByLanguage(BaseModel):
    """A list for each language: which one counts is told by the sample's language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: dict[str, Listed] = Field(min_length=1)


Words = Annotated[
    _Words | _FromFile | _Named | Annotated[ByLanguage, Tag("languages")],
    _one_kind("`{languages: {en: [...]}}`"),
]
Lists = Mapping[str, Sequence[str]]  # {language: words}; of "" for any language


def lists_of(words: Words) -> dict[str, tuple[str, ...]]:
    """{language: words as they are written}; "" for any.

    Raises:
        OSError: a file cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    if isinstance(words, ByLanguage):
        return {language: lists_of(given)[""] for language, given in words.languages.items()}
    if isinstance(words, FromFile):
        text = Path(words.file).expanduser().read_bytes().decode("utf-8-sig")
        return {"": tuple(text.removesuffix("\n").split("\n")) if text else ()}
    return {"": _NAMED[words] if isinstance(words, str) else words}


def recipe_of(words: Words) -> Any:
    """What the words are, whatever file they are in."""
    if isinstance(words, ByLanguage):
        return {language: recipe_of(given) for language, given in words.languages.items()}
    if not isinstance(words, FromFile):
        return words
    lines = "\n".join(lists_of(words)[""])
    return {"words_sha256": hashlib.sha256(lines.encode()).hexdigest()}


def problems_of(words: Words, spelling: Spelling) -> Iterator[str]:
    """What is wrong with a list: each says the word or the line."""
    if isinstance(words, ByLanguage):
        for language, given in words.languages.items():
            if not language.strip():
                yield "languages: a list has no language: name it by its code, such as en"
            yield from (f"{language}: {problem}" for problem in problems_of(given, spelling))
        return
    where = words.file if isinstance(words, FromFile) else ""
    try:
        found = lists_of(words)[""]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        yield f"{where}:{line}: not UTF-8: save the file as UTF-8"
        return
    except OSError as error:
        yield f"there is no file {where} that can be read: {error.strerror}"
        return
    if not found:
        yield f"{where or 'the list'} has no words: give one, or leave it out"
        return
    place = f"{where}:{{}}: ".format if where else "word {}: ".format
    yield from _problems_of_words(found, place, spelling)


def _problems_of_words(
    words: Sequence[str], place: Callable[[int], str], spelling: Spelling
) -> Iterator[str]:
    first: dict[str, int] = {}
    for number, (word, spelt) in enumerate(zip(words, spelling(words), strict=True), start=1):
        if not spelt:
            yield f"{place(number)}it is blank: remove it"
        elif len(word) > _LONGEST:
            yield f"{place(number)}it has {len(word):,} characters; a word has {_LONGEST:,} at most"
        elif any(unicodedata.category(letter) == "Cc" for letter in spelt):
            yield f"{place(number)}{word!r} has a control character: remove it"
        elif spelt in first:
            yield f"{place(number)}{word!r} is there already, at {first[spelt]}: remove one"
        else:
            first[spelt] = number


class Spelling:
    """How words and texts are written alike before they are compared."""

    def __init__(self, *, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def text(self, text: pl.Expr) -> pl.Expr:
        """In lower case, where case is ignored; the two small sigmas are one letter then."""
        if not self._ignore_case:
            return text
        return text.str.to_lowercase().str.replace_all(_FINAL_SIGMA, _SIGMA, literal=True)

    def __call__(self, words: Sequence[str]) -> list[str]:
        """As texts, with one blank for any white space inside, and none at the ends."""
        spelt = self.text(_one_blank(pl.col("word")).str.strip_chars(" "))
        return (
            pl.DataFrame({"word": words}, schema={"word": pl.String})
            .select(spelt)["word"]
            .to_list()
        )


def _one_blank(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"\s+", " ")


def has_any(text: pl.Expr, words: Sequence[str], language: str = "") -> pl.Expr:
    """Whether a text has any of these words; both are spelt alike. Null where the text is.

    A word stands where no letter, mark, digit or underscore is right before or after it; in a
    language written without spaces it stands anywhere. A blank in it is any run of white space.
    """
    if not words:
        return _known(text, value=False)
    blanks = any(" " in word for word in words)
    if is_unspaced(language):
        return _holds_any(_one_blank(text) if blanks else text, words)
    if len(words) <= _FEW:
        return _matches_any(text, words)
    marked = pl.col("word").str.contains(rf"\A[{_LETTER}](?:.*[{_LETTER}])?\z")
    table = pl.DataFrame({"word": words}).with_columns(
        marked=_marked(pl.col("word")), inside=marked
    )
    plain, odd = table.filter("inside")["marked"], table.filter(~pl.col("inside"))["word"]
    found = _holds_any(_marked(_one_blank(text) if blanks else text), plain.to_list())
    return found | _matches_any(text, odd.to_list()) if len(odd) else found


def has_all(text: pl.Expr, words: Sequence[str], language: str = "") -> pl.Expr:
    """Whether a text has all of these words, in the sense of `has_any`."""
    if not words:
        return _known(text, value=True)
    return pl.all_horizontal([has_any(text, [word], language) for word in words])


def is_unspaced(language: str) -> bool:
    """Whether words of a language stand side by side: zh, zh-cn, ja, but not zh-Latn."""
    code, *script = language.replace("_", "-").split("-")
    return code.lower() in UNSPACED and "latn" not in [part.lower() for part in script]


def _marked(text: pl.Expr) -> pl.Expr:
    """With a mark wherever a run of letters begins or ends, and at both ends."""
    inner = text.str.replace_all(rf"[^{_LETTER}]+", f"{_EDGE}${{0}}{_EDGE}")
    return pl.concat_str(pl.lit(_EDGE), inner, pl.lit(_EDGE))


def _holds_any(text: pl.Expr, words: Sequence[str]) -> pl.Expr:
    return text.str.contains_any(list(words)) if words else _known(text, value=False)


def _known(text: pl.Expr, *, value: bool) -> pl.Expr:
    return pl.when(text.is_not_null()).then(pl.lit(value))


def _matches_any(text: pl.Expr, words: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal([text.str.contains(pattern) for pattern in _patterns(words)])


def _patterns(words: Sequence[str]) -> Iterator[str]:
    """Patterns that find words between what are no letters; a few where one would be too large."""
    alternatives = [r"\s+".join(map(pl.escape_regex, word.split(" "))) for word in words]
    start, size = 0, 0
    for stop, each in enumerate(alternatives):
        size += len(each.encode())
        if stop - start == _FEW or size > _BYTES:
            if stop > start:
                yield _between(alternatives[start:stop])
            start, size = stop, len(each.encode())
    yield _between(alternatives[start:])


def _between(alternatives: Sequence[str]) -> str:
    return rf"(?:\A|[^{_LETTER}])(?:{'|'.join(alternatives)})(?:[^{_LETTER}]|\z)"
