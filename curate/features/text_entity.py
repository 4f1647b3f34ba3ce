"""Feature: whether a caption names one of a list of WordNet synsets."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field as Setting

from curate.errors import ConfigError
from curate.features import Columns, Feature, Field, Picture
from curate.features._given import wordnet

PACKAGED = "imagenet21k"  # timm's data/_info/imagenet21k_goog_synsets.txt
CACHED = 1_000_000  # words whose entity is remembered
_WNID = re.compile(r"[nvasr][0-9]{8}")


class TextEntity(Feature):
    """Whether a caption names an entity, such as a class of ImageNet-21k.

    A caption is cut into tokens at white space. The rule: what is not a letter or digit is taken
    off both ends of a token, which then names an entity if the first synset that WordNet 3.0 has
    for it as a noun is in the list. `entity` is that of the first such token.

    With `parity: datacomp` it is the rule of DataComp's text_based baseline (2304.14108, App. P):
    tokens as they are, punctuation and all; the first synset as nltk 3.8.1 finds it, which looks
    for nouns, verbs, adjectives and adverbs in that order; and only its offset is looked up, so
    that a verb at the offset of a listed noun counts. This needs WordNet as nltk has it: Debian's
    has the same offsets of nouns, and others of verbs and adjectives.
    """

    version: ClassVar[int] = 1
    rows_per_second: ClassVar[int] = 100_000

    name: str = "text_entity"
    entities: str = Setting(
        PACKAGED,
        description="the list: imagenet21k (21,843 ids, those of DataComp), or the path of a file "
        "of ids such as n02084071, one to a line",
    )
    wordnet: str | None = Setting(
        None,
        description="folder of WordNet 3.0's index files; looked for where nltk and Debian put it",
    )
    parity: Literal["datacomp"] | None = Setting(
        None, description="find entities as the published code does"
    )

    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("found", "bool", "whether it names an entity; null without a caption"),
            Field("entity", "string", "id of the first entity, such as n02084071; null for none"),
        )

    def problems(self) -> list[str]:
        file, folder = self._file(), wordnet.find_folder(self.wordnet)
        found = []
        if not file.is_file():
            remedy = "pip install timm" if self.entities == PACKAGED else "give the path of a file"
            found.append(f"entities: there is no file {file}: {remedy}")
        problem = wordnet.problem_of(folder)
        if problem is None and self.parity is not None:
            problem = wordnet.problem_of_offsets(folder)
        return [*found, problem] if problem else found

    def recipe(self) -> dict[str, Any]:
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {
            "entities": self._file().name,
            "entities_sha256": hashlib.sha256(self._file().read_bytes()).hexdigest(),
            "wordnet": wordnet.VERSION,
            "wordnet_sha256": wordnet.digest(wordnet.find_folder(self.wordnet)),
        }

    def open(self, device: str) -> TextEntityScorer:
        del device  # a look-up
        words = wordnet.WordNet(wordnet.find_folder(self.wordnet))
        published = self.parity is not None
        return TextEntityScorer(_Entities(words, read_entities(self._file()), published=published))

    def _file(self) -> Path:
        if self.entities != PACKAGED:
            return Path(self.entities).expanduser()
        found = importlib.util.find_spec("timm")
        folders = found.submodule_search_locations if found is not None else None
        return Path(folders[0] if folders else "timm", "data/_info/imagenet21k_goog_synsets.txt")


def read_entities(file: Path) -> dict[int, str]:
    """{offset: id} of a list of ids such as n02084071, one to a line; ConfigError names a line that
    is none."""
    entities = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        wnid = line.strip()
        if not _WNID.fullmatch(wnid):
            raise ConfigError(f"{file}:{number}: {wnid[:40]!r} is not an id such as n02084071")
        entities[int(wnid[1:])] = wnid
    return entities


class _Entities(dict[str, str]):
    """{token: id of its entity, "" for none}, found when first asked for."""

    def __init__(
        self, words: wordnet.WordNet, listed: Mapping[int, str], *, published: bool
    ) -> None:
        super().__init__()
        self._words = words
        self._listed = listed
        self._published = published

    def __missing__(self, token: str) -> str:
        if self._published:
            offset = self._words.first(token)
        else:
            offset = self._words.first(_bare(token), ("noun",))
        found = "" if offset is None else self._listed.get(offset, "")
        if len(self) >= CACHED:
            self.clear()  # words of the web never end
        self[token] = found
        return found


def _bare(token: str) -> str:
    """A token without what is no letter or digit at its ends."""
    inside = [place for place, character in enumerate(token) if character.isalnum()]
    return token[inside[0] : inside[-1] + 1] if inside else ""


class TextEntityScorer:
    """WordNet, a list, and what was found for each token so far."""

    batch = 10_000

    def __init__(self, entities: Mapping[str, str]) -> None:
        self._entities = entities

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's entities need no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        captions = frame["caption"].cast(pl.String).to_list()
        look_up = self._entities.__getitem__
        found = [
            None if text is None else next(filter(None, map(look_up, text.split())), "")
            for text in captions
        ]
        entity = pl.Series(found, dtype=pl.String)
        scalars = {"found": entity != "", "entity": entity.set(entity == "", None)}
        if not entity.null_count():
            return Columns(scalars)
        errors = pl.select(pl.when(entity.is_null()).then(pl.lit("no_caption"))).to_series()
        return Columns(scalars, errors=errors.to_list())
