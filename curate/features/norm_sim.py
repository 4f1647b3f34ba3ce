"""Feature: NormSim, how near a picture is to those of the tasks that a model is meant for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field as Setting

from curate.errors import ConfigError
from curate.features import Feature, Field
from curate.features._given import published

if TYPE_CHECKING:
    from curate.features._target_products import NormSimScorer

KEY = "image_features"  # of a published dict of embeddings


class NormSim(Feature):
    """Nearness of a picture to target pictures: the p-norm of its inner products with them.

    `p: inf` is the largest of |x . g| over the targets g, `p: 2` the root of the sum of (x . g)^2,
    whose square is VAS (2402.02055). Embeddings and targets are taken as stored, as in the
    published code (2405.19547), where they are of length 1: so `inf` is at most 1, and `p: 2` grows
    with the root of the number of targets. Targets are the training pictures of ImageNet-1k, or of
    all 24 tasks of DataComp that have some, embedded by the same model.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "norm_sim"
    of: str = Setting("clip.image", description="the array column of the images' embeddings")
    targets: str | tuple[str, ...] = Setting(
        description="files of the targets' embeddings: .npy, or .pt of a tensor, an array or a "
        "dict that has `image_features`"
    )
    p: Literal[2, "inf"] = Setting("inf", description="which norm")

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def gives(self) -> tuple[Field, ...]:
        about = "0 or more, higher is nearer; null where there is no embedding"
        return (Field("score", "float32", about),)

    def problems(self) -> list[str]:
        found = published.problems("targets", self._urls())
        return found if self._urls() else ["targets: the list of files is empty"]

    def recipe(self) -> dict[str, Any]:
        """The targets by their SHA-256."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {"targets": published.recipe(self._urls())}

    def open(self, device: str) -> NormSimScorer:
        from curate.features._target_products import NormSimScorer  # torch takes seconds to load

        targets = {url: published.read(url, KEY) for url in self._urls()}
        return NormSimScorer(targets, self.of, self.p, device)

    def _urls(self) -> Sequence[str]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets
