"""The feature contract, and lookup by name: one file here is one feature and one YAML name.

A feature computes columns; it never decides. A row feature is a function of one sample; a fitted
one learns from many samples first. Either is a frozen pydantic model whose fields are its YAML.
An array column that `needs` names (`clip.image`, or `l14_img` of a metadata pool) comes as dtype
`pl.Array`; a sample that has none is a row of NaN.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting

from filters import Batch, class_in

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

Item = TypeVar("Item")
Result = TypeVar("Result")
Dtype = Literal[
    "float32", "float64", "uint32", "uint64", "int64", "string", "bool", "uint32s"
]  # uint32s: a list of them


@dataclass(frozen=True)
class Field:
    """One column that a feature gives; its full name is `<step name>.<name>`."""

    name: str
    dtype: Dtype
    about: str  # unit, range, when it is null


@dataclass(frozen=True)
class Array:
    """One array that a feature gives: a row of `width` float16 for each sample."""

    name: str
    about: str


@dataclass(frozen=True)
class Columns:
    """What a scorer returns for a batch of N samples; null where `errors` names a reason."""

    scalars: dict[str, Any]  # {field: [N] array or list, None or NaN where null}
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # {array: [N, D] float16}
    errors: Sequence[str | None] = ()  # [N] error class, or () where every sample was scored


class Unscorable(Exception):
    """This one sample cannot be scored; `kind` is the error class that is counted."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Picture:
    """One image file, decoded at most once however many features look at it."""

    body: bytes | memoryview

    @cached_property
    def rgb(self) -> Image.Image:
        """The decoded picture in RGB (transparency is dropped, as open_clip does it).

        Raises:
            Unscorable: `not_an_image`, `truncated_image` or `image_too_large`.
        """
        from curate.features._models.decoding import decode_rgb

        return decode_rgb(io.BytesIO(self.body))


class Scorer(Protocol):
    """An opened feature. `prepare` runs in decode threads, `score` in one thread per scorer."""

    batch: int  # samples per call of `score`, at most

    def prepare(self, picture: Picture) -> Any:
        """What one picture contributes to a batch; raises Unscorable."""

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        """Columns of N samples. `prepared` is [] for a feature that looks at no picture."""


class Feature(BaseModel):
    """A step that adds columns, each a function of one sample.

    Subclasses are named `Feature` subclasses with a docstring, and set the class variables below.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: ClassVar[int] = 1  # rises when the numbers change
    pictures: ClassVar[bool] = False  # whether `prepare` is called
    gpu: ClassVar[bool] = False  # whether a GPU makes it faster
    rows_per_second: ClassVar[int] = 1_000  # of one core, roughly: whether Ray's start is worth it

    name: str = ""  # the step's name: its kind unless given

    def needs(self) -> tuple[str, ...]:
        """The pool or feature columns that `score` reads."""
        raise NotImplementedError  # the contract: every feature says so itself

    def gives(self) -> tuple[Field, ...]:
        """The columns, in order."""
        raise NotImplementedError  # the contract: every feature says so itself

    def arrays(self) -> tuple[Array, ...]:
        """The arrays, if any."""
        return ()

    def problems(self) -> list[str]:
        """What its types cannot say: models or files that do not exist."""
        return []

    def made_by(self, makers: Mapping[str, Feature]) -> Feature:
        """The feature with what it left out, given {column it needs: the step that makes it}."""
        return self

    def refusals(self, makers: Mapping[str, Feature]) -> list[str]:
        """What is wrong given {column it needs: the step that makes it}; the pool's have none."""
        return []

    def recipe(self) -> dict[str, Any]:
        """All that the numbers depend on beyond the fields: weights' hash, preparation, ..."""
        return {}

    def keeps(self, folder: str) -> None:
        """Commit to `folder` what later steps and reports ask of it, before anything is scored.

        Called by every run: what is there already is from the same recipe.
        """

    def learnt(self, folder: str, name: str) -> Any:
        """An array or series for later steps that ask for `<step name>.<name>`."""
        raise KeyError(f"{self.name} learns no {name!r}")

    def open(self, device: str) -> Scorer:
        """Load whatever is needed, once per worker. `device`: "cpu", "cuda:0", ..."""
        raise NotImplementedError  # the contract: every feature says so itself


@dataclass(frozen=True)
class Part:
    """What a fitted feature sees at once: a task's share of the samples, in row order."""

    number: int  # 0 up to `Rows.parts`; the same part has the same number in every pass
    batch: Batch  # N samples with the columns of `needs()`; N may be 0


class Rows(Protocol):
    """The samples that a feature is fitted on, as `fit` sees them: in parts, on any worker."""

    @property
    def count(self) -> int:
        """Samples in all."""

    @property
    def parts(self) -> int:
        """Parts in all; one may be empty."""

    def map(self, work: Callable[[Part], Result]) -> Iterator[Result]:
        """Results part by part, in any order; `work` must pickle and return something small."""

    def gathers(self, rows: int) -> int:
        """Tasks of `gather`."""

    def gather(self, work: Callable[[int, Iterator[Part]], Result], rows: int) -> Iterator[Result]:
        """Results of tasks over consecutive parts, in any order: what writes a shuffle's files.

        Args:
            work: Takes a task's number, 0 up to `gathers`, and its parts, one by one.
            rows: Rows of the pool that a task takes, about; a part is never divided.
        """

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of any other tasks, in any order; a GPU each for a feature that says `gpu`."""


class FittedFeature(Feature):
    """A step that adds columns which need something learnt from many samples first.

    `fit` learns it once and leaves it as files, the artefact; `assigner` then gives every sample
    that it was fitted on its values. It is fitted again when its recipe changes or those samples
    do, for `survivors` are what the steps before it left; what it gave before is thrown away then.
    """

    outside_recipe: ClassVar[tuple[str, ...]] = ("when_changed",)  # changes no fresh result
    resumes: ClassVar[bool] = False  # whether `fit` goes on from what a killed one left
    assigns_on_gpu: ClassVar[bool] = False  # whether giving values is work for GPUs, as fitting is

    fit_on: Literal["survivors", "pool"] = Setting(
        "survivors", description="the samples it is fitted on, which are those that get values"
    )

    when_changed: Literal["refit", "freeze"] = Setting(
        "refit",
        description="once its samples are others: fitted again, or all is kept and new ones are "
        "given what can be given without it",
    )

    @property
    def from_files(self) -> bool:
        """Whether what it learns depends on files alone, not on the samples: never fitted again."""
        return False

    def fit(self, rows: Rows, folder: str) -> None:
        """Learn from the samples and commit the artefact as files of `folder`.

        The folder is empty; where the feature `resumes`, it may hold what a killed fit from the
        very same left there.
        """
        raise NotImplementedError  # the contract: every fitted feature says so itself

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        """What gives a part's N samples their values, [N] each; opened once per worker."""
        raise NotImplementedError  # the contract: every fitted feature says so itself

    def notes(self, folder: str) -> dict[str, Any]:
        """What a report says of the artefact: counts, quality; JSON values, the same on a rerun."""
        return {}

    def open(self, device: str) -> Scorer:
        raise TypeError(f"{self.name} is fitted: its values come from `assigner`")


def names() -> list[str]:
    """The YAML names of all features that ship."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def find(name: str) -> type[Feature]:
    """The feature of that YAML name."""
    return class_in(importlib.import_module(f"{__name__}.{name}"), Feature)
