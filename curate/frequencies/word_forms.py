"""The plurals and lemmas of English nouns: by rules, and by WordNet's lists where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import ConfigError
from curate.features._given.wordnet import PLACES

# Files of WordNet: lemmas of nouns, and irregular forms with their lemmas.
INDEX, EXCEPTIONS = "index.noun", "noun.exc"

_IRREGULAR: Mapping[str, str] = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet",
    "tooth": "teeth", "goose": "geese", "mouse": "mice", "louse": "lice", "ox": "oxen",
    "die": "dice", "knife": "knives", "wife": "wives", "life": "lives", "leaf": "leaves",
    "loaf": "loaves", "wolf": "wolves", "calf": "calves", "half": "halves", "shelf": "shelves",
    "elf": "elves", "thief": "thieves", "sheaf": "sheaves", "scarf": "scarves", "hoof": "hooves",
    "lens": "lenses", "gas": "gases", "bus": "buses", "canvas": "canvases", "atlas": "atlases",
    "cactus": "cacti", "fungus": "fungi", "christmas": "christmases",
}  # fmt: skip
_LIKE_MAN = frozenset(  # nouns that end in -man and have -mans
    {"german", "roman", "human", "shaman", "talisman", "caiman", "ottoman", "norman"}
)
_LIKE_SPECIMEN = frozenset(  # and singulars that end in -men
    {"abdomen", "cyclamen", "omen", "ramen", "regimen", "semen", "specimen", "stamen", "yemen"}
)
# Words of the plural that no singular has, or another one: a pair of tights is not tight.
_ALWAYS_PLURAL = frozenset(
    {
        "binoculars", "briefs", "clothes", "glasses", "goggles", "jeans", "overalls", "pajamas",
        "pants", "pyjamas", "scissors", "shorts", "sunglasses", "tights", "trousers", "trunks",
        "tweezers",
    }
)  # fmt: skip
_NOT_PLURAL = ("ss", "us", "is")  # endings of singulars in -s
_PREPOSITIONS = frozenset({"of", "in", "on", "for", "with", "at", "from", "to", "de", "du", "la"})
_REGULAR = re.compile("[a-z]{2,}")  # what the rules are for
_NO_LETTER = re.compile("[^a-z0-9]+")  # WordNet writes attorney_general and jack-in-the-box
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Lexicon:
    """What WordNet has of nouns; nothing where it is not installed."""

    folder: str = ""
    lemmas: frozenset[str] = frozenset()
    singulars: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {plural: lemmas}
    plurals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {lemma: plurals}

    @property
    def about(self) -> str:
        """What forms are made by, for people."""
        return f"English rules and WordNet in {self.folder}" if self.folder else "English rules"


def open_lexicon(folder: str | None) -> Lexicon:
    """WordNet's nouns in a folder, or in the first of PLACES that has them.

    Raises:
        ConfigError: the folder was given, and lacks a file.
    """
    if folder is not None:
        place = Path(folder).expanduser()
        if missing := _missing(place):
            raise ConfigError(
                f"{folder} has no {missing[0]}: give the folder of WordNet's files, which "
                "`apt-get install wordnet-base` puts in /usr/share/wordnet"
            )
        return _read(place)
    places = (Path(place).expanduser() for place in PLACES)
    found = next((place for place in places if not _missing(place)), None)
    return _read(found) if found is not None else Lexicon()


def _missing(folder: Path) -> list[str]:
    return [name for name in (INDEX, EXCEPTIONS) if not (folder / name).is_file()]


def _read(folder: Path) -> Lexicon:
    lemmas = frozenset(
        _NO_LETTER.sub(" ", line.split(" ", 1)[0])
        for line in (folder / INDEX).read_text(encoding="utf-8").splitlines()
        if not line.startswith(" ")  # the licence
    )
    singulars: dict[str, tuple[str, ...]] = {}
    plurals: dict[str, tuple[str, ...]] = {}
    for line in (folder / EXCEPTIONS).read_text(encoding="utf-8").splitlines():
        plural, *own = (_NO_LETTER.sub(" ", word) for word in line.split())
        singulars[plural] = tuple(own)
        for lemma in own:
            plurals[lemma] = (*plurals.get(lemma, ()), plural)
    return Lexicon(str(folder), lemmas, singulars, plurals)


def forms(term: str, lexicon: Lexicon) -> tuple[str, ...]:
    """A term, and what else names the same: its lemma if it is a plural, else its plurals.

    The noun that is inflected is the last word, or the one before `of`, `in`, ...: birds of
    paradise. Words that are not of the letters a to z stay as they are.

    Args:
        term: Words in lower case with single blanks between them.
        lexicon: What is known of words; rules do where it has nothing.
    """
    words = term.split(" ")
    last = next((n for n, word in enumerate(words) if n and word in _PREPOSITIONS), len(words)) - 1
    before, noun, after = words[:last], words[last], words[last + 1 :]
    others = [" ".join([*before, other, *after]) for other in _of_noun(noun, lexicon)]
    if len(words) > 1:  # attorneys general
        others += [*lexicon.singulars.get(term, ()), *lexicon.plurals.get(term, ())]
    return tuple(dict.fromkeys([term, *others]))


def _of_noun(noun: str, lexicon: Lexicon) -> list[str]:
    if not _REGULAR.fullmatch(noun):
        return []
    singulars = list(_singulars(noun, lexicon))
    return singulars or list(_plurals(noun, lexicon))


def _singulars(noun: str, lexicon: Lexicon) -> Iterator[str]:
    """Lemmas of a plural; of a singular, none."""
    if noun in _ALWAYS_PLURAL or noun in _IRREGULAR:
        return
    irregular = next((one for one, many in _IRREGULAR.items() if many == noun), None)
    if irregular is not None:
        yield irregular
        return
    if noun in lexicon.singulars:
        yield from (lemma for lemma in lexicon.singulars[noun] if lemma != noun)
        return
    found = dict.fromkeys(_without_ending(noun))
    if lexicon.lemmas:
        yield from (lemma for lemma in found if lemma in lexicon.lemmas)
    elif not noun.endswith(_NOT_PLURAL):
        yield from found


def _without_ending(noun: str) -> Iterator[str]:
    """What may be the lemma; without a list of lemmas some are none, and no caption has them."""
    if noun.endswith("men") and noun not in _LIKE_SPECIMEN:
        yield noun[:-2] + "an"
    if not noun.endswith("s") or noun.endswith("ss"):
        return
    if noun.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        yield noun[:-2]
    if noun.endswith("ies") and len(noun) > 4:
        yield noun[:-3] + "y"
    if noun.endswith("ves"):
        yield noun[:-3] + "f"
        yield noun[:-3] + "fe"
    if len(noun) > 3:
        yield noun[:-1]


def _plurals(noun: str, lexicon: Lexicon) -> Iterator[str]:
    """Plurals of a singular: the irregular ones and the regular one, for captions have both."""
    if noun in _ALWAYS_PLURAL or noun in _IRREGULAR.values():
        return
    yield from lexicon.plurals.get(noun, ())
    if noun in _IRREGULAR:
        yield _IRREGULAR[noun]
        return
    if noun.endswith("man") and noun not in _LIKE_MAN:
        yield noun[:-2] + "en"
    elif noun.endswith("s") and not noun.endswith(_NOT_PLURAL):
        return  # a plural that has no singular
    elif noun.endswith(("s", "x", "z", "ch", "sh")):
        yield noun + "es"
    elif noun.endswith("y") and noun[-2] not in _VOWELS:
        yield noun[:-1] + "ies"
    else:
        yield noun + "s"
        if noun.endswith("o") and noun[-2] not in _VOWELS:
            yield noun + "es"
