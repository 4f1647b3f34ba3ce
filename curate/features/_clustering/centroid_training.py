"""Centroids from a sample, or from a file, and the levels above them; iteration by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import storage
from curate.errors import ConfigError
from curate.features._clustering import centroid_sample, hierarchy
from curate.features._clustering.centroid_rows import Checked, Points, unit
from curate.features._clustering.hierarchy import Level, Resampling
from curate.features._clustering.kmeans import Method, State, kmeans

if TYPE_CHECKING:
    from curate.features.clusters import Kind


@dataclass(frozen=True)
class Fine:
    """The finest centroids."""

    centroids: np.ndarray  # [K, D] float32
    sizes: np.ndarray  # [K] int64: samples of each in the last iteration; 0 of a file
    method: Method
    said: dict[str, Any]  # for the notes


def given(array: np.ndarray, url: str, iterations: int, kind: Kind) -> Fine:
    """The centroids of a file, [K, D] floats, checked; `iterations` are for the levels above."""
    if not len(array):
        raise ConfigError(f"centroids: {url} holds no rows")
    found = Checked.of(array)
    wrong = {"is not finite": found.missing, "is too long for float32": found.unusable}
    if kind.directions:
        wrong["is zero, and has no direction"] = found.zero
    for what, rows in wrong.items():
        if rows.any():
            raise ConfigError(f"centroids: row {np.flatnonzero(rows)[0]} of {url} {what}")
    method = Method(iterations, kind.spherical, float(found.norms.max()))
    return Fine(found.rows, np.zeros(len(found.rows), dtype=np.int64), method, {})


def trained(how: tuple[int, int, int], kind: Kind, folders: tuple[str, str]) -> Fine:
    """Run k-means over a sample, from where a run that was killed had come.

    Args:
        how: Centroids, samples and iterations, at most.
        kind: What kind of k-means.
        folders: Of the sample, and of the checkpoints.
    """
    count, wanted, iterations = how
    sample = centroid_sample.read(folders[0], wanted, count)
    directions = kind.metric == "cosine"
    method = Method(iterations, kind.spherical, 1.0 if directions else sample.longest)
    points = Points(sample.pieces, directions)
    state = _resumed(folders[1]) or State.start(_begun(sample.first, kind))
    state = kmeans(points, method, state, partial(_keep, folders[1]))
    said: dict[str, Any] = {"samples": sample.found, "iterations": len(state.inertia)}
    said |= {"wanted": count, "inertia": list(state.inertia), "splits": state.splits}
    return Fine(state.centroids, state.sizes, method, said)


def _begun(first: np.ndarray, kind: Kind) -> np.ndarray:
    """[K, D] float32 centroids of the rows that k-means begins with."""
    found = Checked.of(first)
    directions = kind.metric == "cosine" or kind.spherical
    return unit(found.rows, found.norms) if directions else found.rows


def _state(folder: str) -> str:
    return storage.join(folder, "state.json")


def _array(folder: str, name: str, iteration: int) -> str:
    return storage.join(folder, f"{name}-{iteration:05d}.npy")


def _keep(folder: str, state: State) -> None:
    """Commit the state after an iteration, and remove the one before."""
    iteration = len(state.inertia)
    storage.commit_array(_array(folder, "centroids", iteration), state.centroids)
    storage.commit_array(_array(folder, "sizes", iteration), state.sizes)
    said = {"inertia": list(state.inertia), "splits": state.splits, "settled": state.settled}
    storage.commit_json(_state(folder), said)
    for name in ("centroids", "sizes"):
        storage.remove(_array(folder, name, iteration - 1))


def _resumed(folder: str) -> State | None:
    """The state after the last iteration that was committed."""
    if not storage.exists(_state(folder)):
        return None
    said = storage.read_json(_state(folder))
    iteration = len(said["inertia"])
    centroids, sizes = (
        np.array(storage.read_array(_array(folder, name, iteration)))
        for name in ("centroids", "sizes")
    )
    return State(centroids, sizes, tuple(said["inertia"]), said["splits"], said["settled"])


def levels(
    fine: Fine, counts: Sequence[int], kind: Kind, again: tuple[int, int | None]
) -> list[Level]:
    """The levels above, each over the centroids of the one below."""
    made: list[Level] = []
    below = fine.centroids
    directions = kind.metric == "cosine"
    resampling = Resampling(*again)
    for count in counts:
        level = hierarchy.above(below, count, fine.method, resampling, directions=directions)
        made.append(level)
        below = level.centroids
    return made
