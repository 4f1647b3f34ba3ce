"""Feature: the centroid that an embedding is nearest to, and whether that is one of a target's."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError
from curate.features import Feature, Field, _arrays

if TYPE_CHECKING:
    from curate.features._nearest import Nearest, NearestScorer

KEY = "image_features"  # of DataComp's files of targets


class ImageClusters(Feature):
    """The nearest of given centroids, and whether it is nearest to a target embedding too.

    Nearest is the largest inner product in float32, centroids as stored (not made to length 1); of
    equals the first. A target's cluster is a centroid that is nearest to at least one of the target
    embeddings. This is DataComp's image_based baseline (2304.14108, App. P): 100,000 centroids of
    the pool and the 1.28 million pictures of ImageNet-1k, both by OpenAI's CLIP ViT-L/14. `margin`
    tells where other hardware may choose another centroid: where it is below 1e-5.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "image_clusters"
    of: str = Setting("l14_img", description="the array column of embeddings")
    centroids: str = Setting(description="file of the centroids: .npy, or .pt as DataComp's")
    targets: str | tuple[str, ...] = Setting(
        description="files of the target embeddings: .npy, or .pt as DataComp's"
    )
    sha256: dict[str, str] = Setting(
        {}, description="{file name: SHA-256} of files that are to be checked before they are read"
    )

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("cluster", "uint32", "number of the nearest centroid; null without an embedding"),
            Field("in_targets", "bool", "whether it is nearest to a target as well"),
            Field("margin", "float32", "inner product with it, less that with the second nearest"),
        )

    def problems(self) -> list[str]:
        found = _arrays.problems("centroids", [self.centroids])
        found += _arrays.problems("targets", self._targets())
        found += [] if self._targets() else ["targets: the list of files is empty"]
        names = [_name(url) for url in (self.centroids, *self._targets())]
        return found + [
            f"sha256: there is no {name!r} among the files: {', '.join(names)}"
            for name in self.sha256
            if name not in names
        ]

    def recipe(self) -> dict[str, Any]:
        """The files by their SHA-256."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {
            "centroids": self._identity(self.centroids),
            "targets": [self._identity(url) for url in self._targets()],
            "sha256": {},  # whether it was given changes nothing
        }

    def open(self, device: str) -> NearestScorer:
        from curate.features._nearest import Nearest, NearestScorer  # torch takes seconds to load

        nearest = Nearest(self._read(self.centroids), device)
        wanted = np.zeros(nearest.count, dtype=bool)  # [K]
        for url in self._targets():
            wanted[self._clusters(url, nearest)] = True
        return NearestScorer(nearest, wanted, self.of)

    def _clusters(self, url: str, nearest: Nearest) -> np.ndarray:
        """The centroids that are nearest to a target of a file."""
        targets = self._read(url)
        if targets.shape[1] != nearest.width:
            raise ConfigError(
                f"targets: {url} is {targets.shape[1]} wide, and the centroids {nearest.width}"
            )
        unknown = np.flatnonzero(~np.isfinite(targets).all(axis=1))
        if len(unknown):
            raise ConfigError(f"targets: row {unknown[0]} of {url} is not finite")
        return np.unique(nearest(targets)[0])

    def _targets(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets

    def _identity(self, url: str) -> dict[str, str]:
        """As `_arrays.recipe`; a digest that was given is checked when the file is read."""
        given = self.sha256.get(_name(url))
        if given is not None:
            return {"file": _name(url), "sha256": given.lower()}
        return _arrays.recipe([url])[0]

    def _read(self, url: str) -> np.ndarray:
        """[N, D] of a file, once it is known to be the one that is meant."""
        expected: str | None = self.sha256.get(_name(url))
        if expected is not None and (found := storage.sha256(url)) != expected.lower():
            raise ConfigError(
                f"{url} has SHA-256 {found}, and the recipe says {expected}: "
                "fetch the file again, or correct `sha256:`"
            )
        array = _arrays.read(url, KEY)
        if not len(array):
            raise ConfigError(f"{url} holds no rows")
        return array


def _name(url: str) -> str:
    return PurePosixPath(url).name
