"""Fitted feature: clusters of embeddings by k-means, and every sample's nearest centroids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError
from curate.features import Columns, Field, FittedFeature, Part, Rows
from curate.features._given import published

KEY = "image_features"  # of a published dict of arrays
GIANT = 10  # a cluster is giant from so many times the mean size
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Metric = Literal["cosine", "l2"]
Assign = Literal["cosine", "l2", "inner_product"]


class Resample(BaseModel):
    """k-means again over the centroids that are closest to their clusters' centres."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = Setting(10, description="how many times")
    points: PositiveInt | None = Setting(
        None, description="centroids of each cluster; absent: half of the mean size of a cluster"
    )


@dataclass(frozen=True)
class Kind:
    """What kind of k-means and of assignment."""

    metric: Metric
    spherical: bool
    assign: Assign

    @property
    def directions(self) -> bool:
        """Whether embeddings are made of length 1."""
        return "cosine" in (self.metric, self.assign)


class Clusters(FittedFeature):
    """The cluster of an embedding: the nearest of centroids that k-means found, or of a file.

    k-means (Lloyd) begins with the samples of the smallest draws that differ, and sees
    `samples_per_centroid` samples for each centroid, drawn by uid. `metric: cosine` makes
    embeddings of length 1, and centroids too unless `spherical: false`; `l2` takes both as they
    are. Where there are fewer different samples than `count`, there are as many centroids. An empty
    cluster is given half of the one with the most scatter. `distance` is 1 - cosine, the Euclidean
    distance (`assign: l2`), or minus the inner product; of equals the smaller number is the
    nearest. `parity: datacomp` is how DataComp made the clusters of its images (2304.14108, App.
    P): metric l2, then the largest inner product with centroids as they are. `levels` adds
    hierarchical k-means with resampling (2405.15613): clusters of centroids.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    assigns_on_gpu: ClassVar[bool] = True

    name: str = "clusters"
    of: str = Setting("clip.image", description="the array column of embeddings")
    count: PositiveInt | None = Setting(None, description="centroids to find, K")
    centroids: str | None = Setting(
        None, description="file of centroids to use instead: .npy, or .pt as DataComp's"
    )
    metric: Metric = Setting("cosine", description="by what k-means finds the nearest centroid")
    spherical: bool | None = Setting(
        None, description="whether centroids are made of length 1; absent: with `cosine`"
    )
    assign: Assign | None = Setting(
        None, description="by what samples are assigned in the end; absent: as `metric`"
    )
    parity: Literal["datacomp"] | None = Setting(
        None, description="whose choice of metric, centroids and assignment is taken"
    )
    samples_per_centroid: PositiveInt = Setting(256, description="samples that k-means sees")
    iterations: PositiveInt = Setting(20, description="of k-means, at most")
    nearest: NonNegativeInt = Setting(
        0, description="the numbers of so many nearest centroids are given as a list"
    )
    levels: tuple[PositiveInt, ...] = Setting(
        (), description="centroids of the levels above, finest first"
    )
    resample: Resample | None = Setting(
        None, description="k-means again on each level above; absent: not"
    )

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def gives(self) -> tuple[Field, ...]:
        what = {
            "cosine": "1 - cosine with it, 0 to 2",
            "l2": "Euclidean distance to it",
            "inner_product": "minus the inner product with it; lower is nearer",
        }[self.kind.assign]
        one = "number of the nearest centroid; null without an embedding"
        many = Field("nearest", "uint32s", "numbers of the nearest centroids, nearest first")
        levels = range(2, len(self.levels) + 2)
        return (
            Field("cluster", "uint32", one),
            Field("distance", "float32", what),
            Field("second", "uint32", "number of the second nearest; null where there is one only"),
            Field("second_distance", "float32", "as `distance`, of the second nearest"),
            *((many,) if self.nearest else ()),
            *(Field(f"level{n}", "uint32", f"number of its cluster on level {n}") for n in levels),
        )

    @property
    def kind(self) -> Kind:
        """What `metric`, `spherical`, `assign` and `parity` say together."""
        if self.parity == "datacomp":
            return Kind("l2", spherical=False, assign="inner_product")
        cosine = self.metric == "cosine"
        spherical = cosine if self.spherical is None else self.spherical
        return Kind(self.metric, spherical, self.assign or self.metric)

    @property
    def from_files(self) -> bool:
        return self.centroids is not None

    def problems(self) -> list[str]:
        found = []
        if (self.count is None) == (self.centroids is None):
            found.append("count: give it, or `centroids:`, a file of them; not both")
        chosen = ("metric", "spherical", "assign") if self.parity else ()
        found += [
            f"{field}: `parity: {self.parity}` chooses it; leave one of both out"
            for field in chosen
            if field in self.model_fields_set
        ]
        counts = [*([self.count] if self.count else []), *self.levels]
        if any(upper >= lower for lower, upper in pairwise(counts)):
            listed = ", ".join(map(str, counts))
            found.append(f"levels: each must have fewer centroids than the one below: {listed}")
        if self.resample and not self.levels:
            found.append("resample: it is for `levels:`, of which there are none")
        return found + (published.problems("centroids", [self.centroids]) if self.centroids else [])

    def recipe(self) -> dict[str, Any]:
        """A file of centroids by its SHA-256."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {"centroids": published.recipe([self.centroids])} if self.centroids else {}

    def fit(self, rows: Rows, folder: str) -> None:
        from curate.features._clustering import centroid_sample  # torch takes seconds to load

        sample, done = _sample(folder), storage.exists(_notes(folder))
        if not done and self.count and not centroid_sample.drawn(sample):
            directions = self.kind.metric == "cosine"
            wanted = self.count * self.samples_per_centroid
            centroid_sample.draw(rows, sample, self.of, wanted, directions=directions)
        if not done:
            for _ in rows.each(partial(_train, self, folder), [0]):
                pass
        storage.remove(sample)
        storage.remove(_checkpoints(folder))

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        from curate.features._clustering.centroid_assignment import Assignment, assign

        levels = [self.learnt(folder, f"parents{n}") for n in range(1, len(self.levels) + 1)]
        centroids = self.learnt(folder, "centroids")
        assignment = Assignment(centroids, self.kind, self.of, self.nearest, levels)
        return partial(assign, assignment)

    def learnt(self, folder: str, name: str) -> np.ndarray:
        """What k-means found, level 1 being the finest.

        `centroids` [K, D] float32; `sizes` [K] int64: samples that k-means saw in each cluster,
        none where centroids are a file's. Of levels: `levels` [L] int64, the centroids of each;
        `parents1` ... [K of that level] int64, the centroid one level above, and `parents`, all of
        these one after the other; `centroids2` ...
        """
        if name == "parents":
            own = [
                storage.read_array(_array(folder, f"parents{n + 1}")) for n in range(self._above)
            ]
            return np.concatenate([np.empty(0, dtype=np.int64), *own])
        names = ["centroids", "sizes", "levels", "parents"]
        for number in range(1, self._above + 1):
            names += [f"parents{number}", f"centroids{number + 1}"]
        if name not in names:
            raise KeyError(f"{self.name} learns no {name!r}; it learns {', '.join(names)}")
        return storage.read_array(_array(folder, name))

    @property
    def _above(self) -> int:
        """Levels above the finest."""
        return len(self.levels)

    def notes(self, folder: str) -> dict[str, Any]:
        found: dict[str, Any] = storage.read_json(_notes(folder))
        return found


def _sample(folder: str) -> str:
    return storage.join(folder, "sample")


def _checkpoints(folder: str) -> str:
    return storage.join(folder, "checkpoints")


def _array(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.npy")


def _notes(folder: str) -> str:
    return storage.join(folder, "clusters.json")


def _train(feature: Clusters, folder: str, _: int) -> None:
    """Learn everything from the files of the sample, and commit it; in one task."""
    from curate.features._clustering import centroid_training

    if feature.centroids:
        file = (published.read(feature.centroids, KEY), feature.centroids)
        fine = centroid_training.given(*file, feature.iterations, feature.kind)
    else:
        count = feature.count or 0
        how = (count, count * feature.samples_per_centroid, feature.iterations)
        folders = (_sample(folder), _checkpoints(folder))
        fine = centroid_training.trained(how, feature.kind, folders)
    arrays = {"centroids": fine.centroids, "sizes": fine.sizes}
    resample = feature.resample
    again = (resample.steps, resample.points) if resample else (0, None)
    upper = centroid_training.levels(fine, feature.levels, feature.kind, again)
    for number, level in enumerate(upper, 1):
        arrays[f"parents{number}"] = level.parents
        arrays[f"centroids{number + 1}"] = level.centroids
    counts = [len(fine.centroids), *(len(level.centroids) for level in upper)]
    arrays["levels"] = np.array(counts, dtype=np.int64)
    for name, array in arrays.items():
        storage.commit_array(_array(folder, name), array)
    digest = hashlib.sha256(fine.centroids.tobytes()).hexdigest()
    said = {"clusters": len(fine.centroids), "sha256": digest, **fine.said}
    if feature.levels:
        said["levels"] = counts
    storage.commit_json(_notes(folder), {**said, **_sizes(fine.sizes)})


def _sizes(sizes: np.ndarray) -> dict[str, Any]:
    """How samples spread over clusters: of those that k-means saw."""
    total = int(sizes.sum())
    if not total:
        return {}
    spread = np.quantile(sizes, QUANTILES, method="nearest").tolist()
    return {
        "smallest": int(sizes.min()),
        "quantiles": dict(zip(map(str, QUANTILES), spread, strict=True)),
        "largest": int(sizes.max()),
        "largest_share": int(sizes.max()) / total,
        "empty": int((sizes == 0).sum()),
        "giant": int((sizes > GIANT * total / len(sizes)).sum()),
    }
