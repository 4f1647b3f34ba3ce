"""Feature: the centroid that an embedding is nearest to, and whether that is one of a target's."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError
from curate.features import Feature, Field
from curate.features._embeddings import present
from curate.features._given import published
from curate.features._given.array_files import ArrayFiles, Part

if TYPE_CHECKING:
    from curate.features._nearest import Nearest, NearestScorer

KEY = "image_features"  # of DataComp's files of targets
CENTROIDS = ("centroids.npy", "artefact/centroids.npy")  # where a `clusters` step leaves them


class ImageClusters(Feature):
    """The nearest of given centroids, and whether it is nearest to a target embedding too.

    Nearest is the largest inner product in float32, centroids as stored (not made to length 1); of
    equals the first. A target's cluster is a centroid that is nearest to at least one of the target
    embeddings. This is DataComp's image_based baseline (2304.14108, App. P): 100,000 centroids of
    the pool and the 1.28 million pictures of ImageNet-1k, both by OpenAI's CLIP ViT-L/14. `margin`
    tells where other hardware may choose another centroid: where it is below 1e-5.

    Any pool and model will do: centroids may be those of a `clusters` step of another run (the
    folder `features/NAME`), and targets a folder or pattern of files: `img_emb/*.npy` of
    clip-retrieval, DataComp's `metadata/*.npz`, or a step's folder of embeddings, `features/clip`.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "image_clusters"
    of: str = Setting("l14_img", description="the array column of embeddings")
    centroids: str = Setting(
        description="file of the centroids: .npy, or .pt as DataComp's; or the folder of a "
        "`clusters` step"
    )
    targets: str | tuple[str, ...] = Setting(
        description="files of the target embeddings: .npy, .npz, or .pt as DataComp's; or folders "
        "or patterns of them"
    )
    key: str | None = Setting(
        None,
        description="which array of a .npz, and of a step's folder: else as the column is called",
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
        found = published.problems("centroids", [self._centroids()])
        found += self._targets().problems("targets")
        names = [_name(url) for url in (self.centroids, *self._targets().given)]
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
            "centroids": self._identity(self._centroids()),
            "targets": [self._identity(url) for url in self._targets().given],
            "sha256": {},  # whether it was given changes nothing
        }

    def open(self, device: str) -> NearestScorer:
        from curate.features._nearest import Nearest, NearestScorer  # torch takes seconds to load

        nearest = Nearest(self._read_centroids(), device)
        wanted = np.zeros(nearest.count, dtype=bool)  # [K]
        for given in self._targets().given:
            self._check(given)
        for part in self._targets().read():
            wanted[_clusters(part, nearest)] = True
        if not wanted.any():
            raise ConfigError(f"targets: no embedding is in {', '.join(self._targets().given)}")
        return NearestScorer(nearest, wanted, self.of)

    def _targets(self) -> ArrayFiles:
        given = (self.targets,) if isinstance(self.targets, str) else self.targets
        return ArrayFiles(given, self.key or self.of.rpartition(".")[2], KEY)

    def _centroids(self) -> str:
        """The file of the centroids."""
        if self.centroids.endswith(published.ENDINGS):
            return self.centroids
        inside = [storage.join(self.centroids, name) for name in CENTROIDS]
        return next((file for file in inside if storage.exists(file)), self.centroids)

    def _identity(self, url: str) -> dict[str, str | int]:
        """As `ArrayFiles.recipe`; a digest that was given is checked when the file is read."""
        given = self.sha256.get(_name(url))
        if given is not None:
            return {"file": _name(url), "sha256": given.lower()}
        (found,) = ArrayFiles((url,), self._targets().key).recipe()
        return found

    def _check(self, url: str) -> None:
        """Raise where a file is not the one that is meant."""
        expected: str | None = self.sha256.get(_name(url))
        if expected is not None and (found := storage.sha256(url)) != expected.lower():
            raise ConfigError(
                f"{url} has SHA-256 {found}, and the recipe says {expected}: "
                "fetch the file again, or correct `sha256:`"
            )

    def _read_centroids(self) -> np.ndarray:
        url = self._centroids()
        self._check(url)
        array = published.read(url, KEY)
        if not len(array):
            raise ConfigError(f"{url} holds no rows")
        return array


def _name(url: str) -> str:
    return PurePosixPath(url).name


def _clusters(targets: Part, nearest: Nearest) -> np.ndarray:
    """The centroids that are nearest to a target of a file."""
    values = targets.values
    if values.shape[1] != nearest.width:
        raise ConfigError(
            f"targets: {targets.name} is {values.shape[1]} wide, and the centroids {nearest.width}"
        )
    unknown = np.flatnonzero(~present(values))
    if len(unknown):
        row = targets.rows[unknown[0]]
        raise ConfigError(f"targets: row {row} of {targets.name} is not finite")
    return np.unique(nearest(values)[0])
