"""Feature: the class that an embedding is nearest to, of classes that texts or examples tell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError, StorageError
from curate.features import Feature, Field
from curate.features._given.array_files import ArrayFiles, is_many, within
from curate.features.clip import Clip

if TYPE_CHECKING:
    from curate.features._given.prototypes import ClassesScorer

TEMPLATE = "a photo of a {}."


class Classes(Feature):
    """The nearest of some classes, each of which has one prototype of length 1, by cosine.

    Prototypes are texts, as in CLIP's zero-shot classifier (2103.00020): `{names: names.txt, model:
    ViT-L-14-quickgelu, weights: openai}` takes the mean of a name's embeddings in all `templates`.
    Or they are examples: `{prototypes: FOLDER}`, with a folder or file of embeddings for each class
    there, of which the mean is taken. Or they are given: `{prototypes: classes.npy}`, a row each.
    Of equally near classes the first is taken. The model must be the one of the column.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "classes"
    of: str = Setting("clip.image", description="the array column of embeddings")
    prototypes: str | None = Setting(
        None, description="a file of prototypes (.npy, .npz, .pt), or a folder of examples by class"
    )
    names: str | tuple[str, ...] = Setting(
        (), description="the classes' names: a file with one on each line, or a list"
    )
    model: str | None = Setting(None, description="for texts: the CLIP, as in the step `clip`")
    weights: str | None = Setting(None, description="for texts: its weights, as in the step `clip`")
    templates: tuple[str, ...] = Setting(
        (TEMPLATE,), description="for texts: what is embedded; `{}` stands for the name"
    )
    key: str | None = Setting(
        None, description="which array of a .npz, and of a step's folder: else as the column is"
    )

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("number", "uint32", "of the class, from 0; null without an embedding"),
            Field("name", "string", "of the class; null where classes have none"),
            Field("similarity", "float32", "cosine with it, -1..1"),
            Field("margin", "float32", "that, less the cosine with the second nearest"),
        )

    def problems(self) -> list[str]:
        if (self.prototypes is None) == (self.model is None):
            return ["give one of: prototypes (a file or folder), model (a CLIP that embeds names)"]
        found = self._name_problems()
        if self.prototypes is None:
            return found + self._text_problems()
        if self.weights is not None:
            found.append("weights: they go with `model`, for prototypes of text")
        return found + self._file_problems(self.prototypes)

    def _text_problems(self) -> list[str]:
        found = [] if self.names else ["names: texts need the names of the classes"]
        found += [] if self.templates else ["templates: the list is empty"]
        lacking = [each for each in self.templates if "{}" not in each]
        found += [f"templates: {each!r} has no {{}} where the name goes" for each in lacking]
        return found + self.clip().problems()

    def _file_problems(self, prototypes: str) -> list[str]:
        if not is_many(prototypes):
            return self.file().problems("prototypes")
        if self.names:
            return ["names: the folders in `prototypes` are the names already"]
        if not self.examples():
            return [f"prototypes: there are no embeddings in {prototypes}"]
        return []

    def _name_problems(self) -> list[str]:
        try:
            names = self.class_names()
        except (ConfigError, StorageError) as error:
            return [f"names: {error}"]
        if isinstance(self.names, str) and not names:
            return [f"names: {self.names} is empty"]
        twice = sorted({name for name in names if names.count(name) > 1})[:3]
        return [f"names: {name!r} is there twice" for name in twice]

    def refusals(self, makers: Mapping[str, Feature]) -> list[str]:
        maker = makers.get(self.of)
        if self.model is None or not isinstance(maker, Clip):
            return []
        theirs, ours = (f"{one.model} {one.weights or ''}" for one in (maker, self.clip()))
        if theirs == ours:
            return []
        return [f"model: {self.of} is by {theirs.strip()}, and the names by {ours.strip()}"]

    def recipe(self) -> dict[str, Any]:
        """Prototypes, names and weights by their SHA-256."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        names = self.class_names()
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        found: dict[str, Any] = {"names": {"count": len(names), "sha256": digest}}
        if self.prototypes is None:
            text = self.clip().recipe()
            return found | {"text": text, "model": text["model"], "weights": text["weights"]}
        return found | {"prototypes": self.file().recipe()[0], "templates": []}

    def open(self, device: str) -> ClassesScorer:
        from curate.features._given.prototypes import ClassesScorer  # torch takes seconds to load

        return ClassesScorer(self, device)

    def clip(self) -> Clip:
        """The CLIP that embeds the names."""
        return Clip(model=self.model or "", weights=self.weights)

    def class_names(self) -> list[str]:
        """[K] names of the classes in order; [] where nobody gave any."""
        examples = self.examples()
        if examples:
            return list(examples)
        if not isinstance(self.names, str):
            return list(self.names)
        lines = storage.read(self.names).decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def file(self) -> ArrayFiles:
        """The file of prototypes, or all files of examples."""
        return ArrayFiles((self.prototypes or "",), self.key or self.of.rpartition(".")[2])

    def examples(self) -> dict[str, ArrayFiles]:
        """{class: the files of its examples}, sorted by name; {} where there are none."""
        if self.prototypes is None or not is_many(self.prototypes):
            return {}
        files: dict[str, list[str]] = {}
        for file in self.file().files():
            inner = within(self.prototypes, file)
            name = inner.partition("/")[0] if "/" in inner else inner.partition(".")[0]
            files.setdefault(name, []).append(file)
        key = self.file().key
        return {name: ArrayFiles(tuple(files[name]), key) for name in sorted(files)}
