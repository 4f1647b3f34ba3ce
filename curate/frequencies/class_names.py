"""Class names and their synonyms: from a file, or ImageNet's, and all forms that captions have."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.concepts.entry_list import decoded
from curate.errors import ConfigError
from curate.frequencies.word_forms import Lexicon, forms

IMAGENET = "imagenet"  # the 1,000 names that open_clip has
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"  # marks belong to letters: vowels of Hindi, accents
_SHOWN = 60  # characters of a name in a message


@dataclass(frozen=True)
class ClassNames:
    """C classes in order; a term may belong to several of them."""

    names: tuple[str, ...]  # [C] all different
    terms: tuple[tuple[str, ...], ...]  # [C] the name and synonyms, as `words_of` spells them

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """T texts to look for: the terms of some classes, their plurals and lemmas."""

    texts: pl.Series  # [T] String, all different
    offsets: np.ndarray  # [T + 1] int64: text i is of classes[offsets[i]:offsets[i + 1]]
    classes: np.ndarray  # int64
    term_of: dict[str, tuple[int, ...]]  # {term as given: its forms, itself among them}

    @property
    def shared(self) -> np.ndarray:
        """Texts that several classes have."""
        return np.flatnonzero(np.diff(self.offsets) > 1)


def words_of(texts: pl.Series) -> pl.Series:
    """[N] the words of texts: lower case, with one blank for what is no letter or digit.

    So "Black-footed_Ferret (USA)" is "black footed ferret usa", in captions as in names. Accents
    are composed with their letters where Unicode can (NFC).
    """
    texts = texts.cast(pl.String)
    other = (texts.str.len_bytes() != texts.str.len_chars()).fill_null(value=False).arg_true()
    if len(other):  # NFC leaves ASCII alone, and takes longer than all the rest
        texts = texts.scatter(other, texts.gather(other).str.normalize("NFC"))
    return texts.str.to_lowercase().str.replace_all(_BETWEEN, " ").str.strip_chars(" ")


def read_classes(path: str) -> ClassNames:
    """Classes of a file in UTF-8, or ImageNet-1k's for `imagenet`.

    Text has one class per line: its name, then synonyms, separated by commas. A name that ends in
    `.json` says JSON: {class: [synonyms]}, or a list of such lines.

    Raises:
        ConfigError: no classes, a blank line, a class or synonym without a letter or digit, a
            class that is there twice, another encoding; it names the line.
        StorageError: The file cannot be read.
    """
    if path == IMAGENET:
        return imagenet()
    text = decoded(path, storage.read(path))
    rows = list(_json_rows(path, text) if path.endswith(".json") else _lines(path, text))
    if not rows:
        raise ConfigError(f"{path} holds no classes: write one per line, synonyms after commas")
    return _checked(rows)


_Row = tuple[str, Sequence[str]]  # (where it stands, [name, *synonyms])


def _lines(path: str, text: str) -> Iterator[_Row]:
    lines = text.split("\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):
        yield f"{path}:{number}", line.removesuffix("\r").split(",")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, with keys that repeat."""


def _json_rows(path: str, text: str) -> Iterator[_Row]:
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: lists within lists within lists: not class names") from None
    if not isinstance(found, list):
        raise ConfigError(f"{path}: not an object {{class: [synonyms]}}, nor a list of classes")
    for number, item in enumerate(found, start=1):
        where = f"{path}: item {number}"
        name, own = item if isinstance(found, _Pairs) else (None, item)
        terms = own.split(",") if isinstance(own, str) else own
        if isinstance(terms, list) and name is not None:
            terms = [name, *terms]
        if not terms or not _texts(terms):
            raise ConfigError(f"{where}: {_short(item)} is neither text nor a list of texts")
        yield where, terms


def _texts(value: Any) -> bool:
    """Whether it is a list of texts that UTF-8 can write."""
    if not isinstance(value, list) or isinstance(value, _Pairs):
        return False
    return all(
        isinstance(one, str) and not any("\ud800" <= letter <= "\udfff" for letter in one)
        for one in value
    )


def _checked(rows: Sequence[_Row]) -> ClassNames:
    names, every = [], []
    seen: dict[str, str] = {}
    spelt = _spelt([terms for _, terms in rows])
    for (where, given), words in zip(rows, spelt, strict=True):
        if not "".join(given).strip():
            raise ConfigError(f"{where}: blank: remove the line, or name the class")
        for term, word in zip(given, words, strict=True):
            if not word:
                raise ConfigError(
                    f"{where}: {_short(term)} has no letter or digit, so that no caption can be "
                    "found by it: remove it, or the comma too many"
                )
        if words[0] in seen:
            raise ConfigError(
                f"{where}: the class {_short(given[0].strip())} is that of {seen[words[0]]} "
                "already: case and punctuation do not count; put their synonyms together"
            )
        seen[words[0]] = where
        names.append(given[0].strip())
        every.append(tuple(dict.fromkeys(words)))
    return ClassNames(tuple(names), tuple(every))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def imagenet() -> ClassNames:
    """ImageNet-1k's classes under the names that open_clip has, in its order.

    Two names stand for two classes each: the second one has its number, from 0, behind it. What is
    in brackets is taken away, and `A or B` is both; as synonyms, beside the name as it is.

    Raises:
        ConfigError: open_clip is not installed.
    """
    found = importlib.util.find_spec("open_clip")  # imports nothing: open_clip takes torch along
    if found is None or found.origin is None:
        raise ConfigError("the names of ImageNet's classes come with open_clip: pip install it")
    source = Path(found.origin).with_name("zero_shot_metadata.py").read_text(encoding="utf-8")
    tables = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and [getattr(target, "id", "") for target in node.targets] == ["IMAGENET_CLASSNAMES"]
    )
    given = [str(name) for name in ast.literal_eval(next(tables))]
    readings = [[name, *_readings(name)] for name in given]
    own = [f"{name} ({n})" if name in given[:n] else name for n, name in enumerate(given)]
    return ClassNames(tuple(own), tuple(tuple(dict.fromkeys(one)) for one in _spelt(readings)))


def _spelt(rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The words of each row's texts."""
    left = iter(words_of(pl.Series([text for row in rows for text in row], dtype=pl.String)))
    return ([next(left) for _ in row] for row in rows)


def _readings(name: str) -> list[str]:
    """What a name such as `kite (bird of prey)` or `traffic or street sign` stands for."""
    bare = re.sub(r"\s*\(.*\)", "", name)
    either = re.split(r" or | / ", bare)
    if len(either) != 2:
        return [bare]
    first, second = either[0].split(), either[1].split()
    if len(first) < len(second):  # they share the noun: a traffic sign
        first = [*first, second[-1]]
    elif len(first) > 1 and len(second) == 1 and " / " in bare:  # and here what is before it
        second = [*first[:-1], *second]
    return [" ".join(first), " ".join(second)]


def vocabulary(classes: ClassNames, lexicon: Lexicon) -> Vocabulary:
    """All that captions are searched for."""
    numbers: dict[str, int] = {}
    owners: list[dict[int, None]] = []
    term_of: dict[str, tuple[int, ...]] = {}
    for number, terms in enumerate(classes.terms):
        for term in terms:
            if term not in term_of:
                term_of[term] = tuple(_numbered(forms(term, lexicon), numbers))
            owners += [{} for _ in range(len(numbers) - len(owners))]
            for form in term_of[term]:
                owners[form][number] = None
    offsets = np.cumsum([0, *(len(own) for own in owners)], dtype=np.int64)
    every = [number for own in owners for number in own]
    texts = pl.Series(list(numbers), dtype=pl.String)
    return Vocabulary(texts, offsets, np.array(every, dtype=np.int64), term_of)


def _numbered(texts: Iterable[str], numbers: dict[str, int]) -> Iterator[int]:
    for text in texts:
        yield numbers.setdefault(text, len(numbers))
