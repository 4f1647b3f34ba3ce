"""Class prototypes: one embedding of length 1 for each class, of texts, examples or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from curate.errors import ConfigError
from curate.features import Columns, Picture
from curate.features._embeddings import NO_EMBEDDING, embeddings
from curate.features._given.array_files import ArrayFiles
from curate.features._nearest import Nearest
from curate.features._products import unit

if TYPE_CHECKING:
    from curate.features.classes import Classes
    from curate.features.clip import Clip

TEXTS = 8_192  # embedded at once


def class_prototypes(recipe: Classes, device: str) -> tuple[np.ndarray, list[str]]:
    """([K, D] float32 of length 1, [K] names; none where nobody gave any).

    Raises:
        ConfigError: a prototype has no direction, or there are not as many names.
    """
    names = recipe.class_names()
    if recipe.prototypes is None:
        found = text_prototypes(names, recipe.templates, recipe.clip(), device)
    elif recipe.examples():
        found = np.stack([_mean(files) for files in recipe.examples().values()])
    else:
        found = np.concatenate([part.values for part in recipe.file().read()])
    if not len(found):
        raise ConfigError(f"prototypes: there is none in {recipe.prototypes}")
    vectors, known = unit(found)
    if not known.all():
        which = int(np.flatnonzero(~known)[0])
        raise ConfigError(f"prototypes: number {which} of {len(vectors)} has no direction")
    if names and len(names) != len(vectors):
        raise ConfigError(f"names: there are {len(names)}, and {len(vectors)} prototypes")
    return vectors, names


def text_prototypes(
    names: Sequence[str], templates: Sequence[str], clip: Clip, device: str
) -> np.ndarray:
    """[K, D] float32 of length 1, as CLIP's zero-shot classifier (2103.00020, section 3.1.4).

    A class is the mean of the embeddings of its name in each template, made to length 1 again.

    Args:
        names: [K] classes.
        templates: Texts with `{}` where the name goes.
        clip: Whose text encoder is used.
        device: "auto", "cpu", "cuda:0", ...
    """
    scorer = clip.open(device)
    total = np.zeros(0)
    for template in templates:
        # A prompt may hold other braces than those of the name.
        texts = [template.replace("{}", name) for name in names]
        slices = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        # [K, D]; summed in float64, in the order of the templates.
        part = np.concatenate([scorer.texts(some) for some in slices]).astype(np.float64)
        total = part if not len(total) else total + part
    return unit((total / len(templates)).astype(np.float32))[0]


def _mean(files: ArrayFiles) -> np.ndarray:
    """[D] float32: the mean of a class's examples, each of which counts at length 1."""
    vectors, known = unit(np.concatenate([part.values for part in files.read()]))
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise ConfigError(f"prototypes: example {row} of {files.given[0]} has no direction")
    if not len(vectors):
        raise ConfigError(f"prototypes: there is no example in {files.given[0]}")
    return np.asarray(vectors.astype(np.float64).mean(axis=0), dtype=np.float32)


class ClassesScorer:
    """Class prototypes, and which of them is nearest."""

    batch = 8_192

    def __init__(self, recipe: Classes, device: str) -> None:
        vectors, names = class_prototypes(recipe, device)
        self._nearest = Nearest(vectors, device)
        # Without names all are null.
        self._names = pl.Series(names or [None] * len(vectors), dtype=pl.String)
        self._column = recipe.of

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("embeddings are enough: no picture is needed")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        """The nearest classes of N samples; N may be 0."""
        del prepared
        given = embeddings(frame, self._column)  # [N, D]
        vectors, known = unit(given)
        if known.any() and given.shape[1] != self._nearest.width:
            raise ConfigError(
                f"{self._column} is {given.shape[1]} wide and the prototypes are "
                f"{self._nearest.width} wide: they must come from one model"
            )
        number = np.zeros(len(given), dtype=np.int64)
        similarity, second = np.full((2, len(given)), np.nan, dtype=np.float32)
        number[known], similarity[known], second[known] = self._nearest.two_nearest(vectors[known])
        margin = similarity - second
        unknown = pl.Series(~known)
        scalars = {
            "number": pl.Series(number, dtype=pl.UInt32).set(unknown, None),
            "name": self._names.gather(number).set(unknown, None),
            "similarity": pl.Series(similarity.clip(-1, 1)).fill_nan(None),
            "margin": pl.Series(margin).fill_nan(None),
        }
        return Columns(scalars, errors=[None if one else NO_EMBEDDING for one in known.tolist()])
