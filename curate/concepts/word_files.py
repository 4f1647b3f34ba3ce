"""The files that a list of entries is built from, each of a language, and the list they make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from curate.concepts import build
from curate.concepts.build import Built, Candidates
from curate.concepts.entry_list import read_entries
from curate.concepts.presets import Preset, Thresholds, rules_of
from curate.concepts.sources import Heads, read_counts, read_wordnet, read_wordnet_tab
from curate.errors import ConfigError

DEFAULT_LANGUAGE = "en"
_NAMED = re.compile(r"([A-Za-z][A-Za-z_-]{1,15})?=(.+)", re.DOTALL)


@dataclass(frozen=True)
class WordFile:
    """A file or folder of words."""

    path: str
    language: str | None  # None: nobody said

    @property
    def spoken(self) -> str:
        """The language said, or English."""
        return DEFAULT_LANGUAGE if self.language is None else self.language


def word_file(text: str) -> WordFile:
    """`de=counts.txt` as a language and a path; `=counts.txt` says that there are no languages.

    What has no such prefix is a path: begin one that looks so with `./`.
    """
    found = _NAMED.fullmatch(text)
    return WordFile(found[2], found[1] or "") if found else WordFile(text, None)


@dataclass(frozen=True)
class WordFiles:
    """All that a list is built from; several of a kind and language are taken together."""

    wordnet: Sequence[WordFile] = ()  # folders
    wordnet_tab: Sequence[WordFile] = ()
    unigrams: Sequence[WordFile] = ()
    bigrams: Sequence[WordFile] = ()
    titles: Sequence[WordFile] = ()
    given: Sequence[WordFile] = ()


@dataclass(frozen=True)
class Choice:
    """How a list is built."""

    preset: Preset = "metaclip1"
    thresholds: Thresholds = field(default_factory=Thresholds)
    heads: Heads = "whole"
    numbers: Literal["0 to 99", "none"] = "0 to 99"  # first in each language


def build_list(files: WordFiles, choice: Choice) -> Built:
    """The list of all entries of some files; ConfigError where one is not what it should be."""
    found = [
        *(
            build.wordnet(each.spoken, read_wordnet(each.path, choice.heads))
            for each in files.wordnet
        ),
        *(build.wordnet(each.spoken, read_wordnet_tab(each.path)) for each in files.wordnet_tab),
        *(each for file in files.given for each in _given(file)),
        *_counted(files, choice),
    ]
    if not found:
        raise ConfigError(
            "nothing to build from: name --wordnet, --wordnet-tab, --unigrams, --bigrams, "
            "--titles or --given"
        )
    languages = sorted({each.language for each in found})
    if choice.numbers == "0 to 99":
        found += map(build.numbers, languages)
    rules = {each: rules_of(choice.preset, each, choice.thresholds) for each in languages}
    return build.put_together(found, rules)


def _given(file: WordFile) -> Iterator[Candidates]:
    """A list as it is, by its own languages, or in the one that was said."""
    read = read_entries(file.path)
    if not (read.language != "").any():
        yield build.given(file.spoken, read.entries)
        return
    if file.language is not None:
        raise ConfigError(
            f"{file.path} says the language of each entry: name it without `{file.language}=`"
        )
    for (language,), rows in read.frame().group_by("language", maintain_order=True):
        yield build.given(str(language), rows["entry"])


def _counted(files: WordFiles, choice: Choice) -> Iterator[Candidates]:
    """Candidates from counts, one language after the other: large files are not held together."""
    pairs, titles = _by_language(files.bigrams), _by_language(files.titles)
    words = _by_language(files.unigrams)
    for language, (first, *_) in pairs.items():
        if language not in words:
            raise ConfigError(
                f"{first}: pairs are scored by the counts of their words: name those of the "
                f"language too, `--unigrams {language}=FILE`"
            )
    for language, paths in words.items():
        rules = rules_of(choice.preset, language, choice.thresholds)
        counts = read_counts(paths, "unigram")
        yield build.unigrams(language, counts, rules)
        if language in pairs:
            yield build.bigrams(language, read_counts(pairs[language], "bigram"), counts, rules)
    for language, paths in titles.items():
        rules = rules_of(choice.preset, language, choice.thresholds)
        yield build.titles(language, read_counts(paths, "title"), rules)


def _by_language(files: Sequence[WordFile]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(file.spoken, []).append(file.path)
    return found
