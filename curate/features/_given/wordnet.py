"""WordNet 3.0's index files: the first synset of a word, as nltk finds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import ConfigError

PARTS = ("noun", "verb", "adj", "adv")  # the order in which nltk looks
FILES = tuple(f"{kind}" for part in PARTS for kind in (f"index.{part}", f"{part}.exc"))
VERSION = "WordNet 3.0"
# Where nltk.download("wordnet") puts its own once unzipped, and Debian's package wordnet-base.
PLACES = (
    "~/nltk_data/corpora/wordnet",
    "/usr/share/nltk_data/corpora/wordnet",
    "/usr/local/share/nltk_data/corpora/wordnet",
    "/usr/lib/nltk_data/corpora/wordnet",
    "/usr/local/lib/nltk_data/corpora/wordnet",
    "/usr/share/wordnet",
)
REMEDY = (
    "`apt-get install wordnet-base`, or unzip nltk's corpora/wordnet.zip, "
    "and give the folder with `wordnet:`"
)
PRINCETON = ("run", 1_926_311)  # a verb and its first offset; Debian's data files have others
LONGEST = 1_000  # characters; whoever writes a longer word wants to waste our time
_ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"),
        ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ),
    "verb": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip


def find_folder(given: str | None) -> Path:
    """The folder of WordNet's files: the one given, or the first of PLACES that has them."""
    if given is not None:
        return Path(given).expanduser()
    folders = [Path(place).expanduser() for place in PLACES]
    return next((folder for folder in folders if not missing(folder)), folders[0])


def missing(folder: Path) -> list[str]:
    """Which of the files that we read a folder lacks."""
    return [name for name in FILES if not (folder / name).is_file()]


def problem_of(folder: Path) -> str | None:
    """Why a folder is not WordNet 3.0, and what to do."""
    if lacking := missing(folder):
        return f"wordnet: {folder} has no {lacking[0]}: {REMEDY}"
    with (folder / "index.noun").open("rb") as handle:
        licence = handle.read(4_096).decode("utf-8", "replace")
    if VERSION not in licence:
        return f"wordnet: {folder} is not {VERSION}, whose offsets the ids are: {REMEDY}"
    return None


def problem_of_offsets(folder: Path) -> str | None:
    """Why a folder of WordNet 3.0 has not the offsets that nltk's has for verbs and adjectives."""
    word, offset = PRINCETON
    found = _read_index(folder / "index.verb").get(word)
    if found == offset:
        return None
    return (
        f"wordnet: in {folder} the verb {word!r} has the offset {found}, and Princeton's {offset}: "
        "`parity: datacomp` needs nltk's own corpora/wordnet.zip, unzipped"
    )


def digest(folder: Path) -> str:
    """SHA-256 of all that is read, in the order of FILES."""
    whole = hashlib.sha256()
    for name in FILES:
        whole.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return whole.hexdigest()


@dataclass(frozen=True)
class _Part:
    """One part of speech."""

    first: Mapping[str, int]  # {lemma: offset of its first synset}
    exceptions: Mapping[str, Sequence[str]]  # {inflected form: its lemmas}
    endings: tuple[tuple[str, str], ...]

    def find(self, form: str) -> int | None:
        """The first synset of a form, inflected or not.

        This is nltk 3.8.1, which DataComp pins: endings are taken off again and again until
        something is found. Later versions of nltk take them off once.
        """
        if form in self.exceptions:
            return self._first_of([form, *self.exceptions[form]])
        forms: Iterable[str] = self._without_endings([form])
        found = self._first_of([form, *forms])
        while found is None and forms:
            forms = self._without_endings(forms)
            found = self._first_of(forms)
        return found

    def _first_of(self, forms: Iterable[str]) -> int | None:
        return next((self.first[form] for form in forms if form in self.first), None)

    def _without_endings(self, forms: Iterable[str]) -> list[str]:
        return [
            form[: -len(old)] + new
            for form in forms
            for old, new in self.endings
            if form.endswith(old)
        ]


class WordNet:
    """The lemmas of WordNet and their first synsets, in memory (30 MB)."""

    def __init__(self, folder: Path) -> None:
        if problem := problem_of(folder):
            raise ConfigError(problem)
        self._parts = {
            part: _Part(
                _read_index(folder / f"index.{part}"),
                _read_exceptions(folder / f"{part}.exc"),
                _ENDINGS[part],
            )
            for part in PARTS
        }

    def first(self, word: str, parts: Sequence[str] = PARTS) -> int | None:
        """Offset of the word's first synset in the first of `parts` that has one, else None."""
        form = word.lower()
        if len(form) > LONGEST:
            return None
        found = (self._parts[part].find(form) for part in parts)
        return next((offset for offset in found if offset is not None), None)


def _read_index(file: Path) -> dict[str, int]:
    """{lemma: first offset}; lines are `lemma pos synsets pointers [pointer...] senses tagged
    offset...`, those of the licence begin with a blank."""
    first = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith(" "):
            continue
        try:
            fields = line.split()
            first[fields[0]] = int(fields[6 + int(fields[3])])
        except (IndexError, ValueError):
            raise ConfigError(f"{file}:{number}: not a line of WordNet's index: {REMEDY}") from None
    return first


def _read_exceptions(file: Path) -> dict[str, list[str]]:
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {form: lemmas for form, *lemmas in lines}
