"""The feature contract, and lookup by name: one file here is one feature and one YAML name.

A feature computes columns; it never decides. It is a frozen pydantic model whose fields are its
YAML, with `open(device)` giving the scorer that a worker keeps for its whole life.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from filters import class_in

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

Dtype = Literal["float32", "float64", "uint32", "int64", "string", "bool"]


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
        from curate.features._decode import decode_rgb

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

    def recipe(self) -> dict[str, Any]:
        """All that the numbers depend on beyond the fields: weights' hash, preparation, ..."""
        return {}

    def open(self, device: str) -> Scorer:
        """Load whatever is needed, once per worker. `device`: "cpu", "cuda:0", ..."""
        raise NotImplementedError  # the contract: every feature says so itself


def names() -> list[str]:
    """The YAML names of all features that ship."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def find(name: str) -> type[Feature]:
    """The feature of that YAML name."""
    return class_in(importlib.import_module(f"{__name__}.{name}"), Feature)
