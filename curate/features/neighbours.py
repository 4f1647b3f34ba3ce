"""Feature: pairs of samples whose embeddings are nearly the same, among clusters that meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field as Setting
from pydantic import PositiveInt

from curate import pairs, storage
from curate.features import Columns, Field, FittedFeature, Part, Rows
from curate.features._embeddings import NO_EMBEDDING, embeddings, present
from curate.features._pairing.near_layout import NO_CLUSTER, fitted, numbers
from filters import Batch

NO_DIRECTION = "no_direction"  # the error class of an embedding of length 0, or beyond float32
NOT_IN_CLUSTER = "no_cluster"  # of a sample to which the clusters step gave none
NOT_FITTED = "not_fitted"  # of a sample that came after, where `when_changed: freeze`


class Neighbours(FittedFeature):
    """All pairs with a cosine of at least `floor` among samples whose clusters meet.

    Two samples are compared where the nearest or second nearest cluster of one is nearest or second
    nearest to the other: the second finds most pairs that a border parts (SemDeDup, 2303.09540,
    compares within the nearest only). The report says how many of all pairs that recalls.
    Embeddings are made length 1 in float32. Equal ones are twins: one stands for all.

    A cluster that has more than `pairs_per_sample` pairs a member on average (as a random part of
    its members tells) is thinned: samples with a cosine of `same` or more to an earlier one of the
    same nearest cluster become its twins. Where that is not enough, the floor is raised for this
    cluster, which the column `floor` and the report tell.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    name: str = "neighbours"
    of: str = Setting("clip.image", description="embeddings")
    within: str | None = Setting(
        None, description="the `clusters` step; absent: all samples are compared (small pools)"
    )
    floor: float = Setting(0.90, gt=0, lt=1, description="lowest cosine of a pair")
    same: float = Setting(
        0.995, gt=0, le=1, description="in a dense cluster, the lowest cosine of twins"
    )
    pairs_per_sample: PositiveInt = Setting(
        1000, description="pairs a member, beyond which a cluster is dense"
    )

    def problems(self) -> list[str]:
        if self.same <= self.floor:
            return [f"same: {self.same} must be above the floor, {self.floor}"]
        return []

    def needs(self) -> tuple[str, ...]:
        if self.within is None:
            return (self.of,)
        return (self.of, f"{self.within}.cluster", f"{self.within}.second")

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("part", "uint64", "which chain of neighbours; null where there is none"),
            Field("count", "uint32", "neighbours, twins too; null without an embedding"),
            Field("nearest", "float32", "highest cosine with another; null where none is found"),
            Field("floor", "float32", "the cosine from which on pairs are complete"),
        )

    def fit(self, rows: Rows, folder: str) -> None:
        from curate.features._pairing import near_search  # torch takes seconds to load

        if not storage.exists(_made(folder)):
            rules = near_search.Rules(self.floor, self.same, self.pairs_per_sample)
            source = near_search.Source(self.of, self.within)
            storage.commit_json(_made(folder), near_search.search(source, rules, rows, folder))
        near_search.clear(folder)

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        floors = np.asarray(storage.read_array(storage.join(folder, "floors.npy")))
        return partial(_assign, self, folder, floors, pairs.lookup(folder))

    def notes(self, folder: str) -> dict[str, Any]:
        return dict(storage.read_json(_made(folder)))


def _made(folder: str) -> str:
    return storage.join(folder, "made.json")


def _assign(
    feature: Neighbours,
    folder: str,
    floors: np.ndarray,
    look: Callable[[np.ndarray], np.ndarray],
    part: Part,
) -> Columns:
    """What was found for a part's [N] samples."""
    batch = part.batch
    there = np.isin(batch.addresses, fitted(folder, part.number))
    found = look(batch.addresses)
    alone, unknown = pl.Series(found["count"] == 0), pl.Series(~there)
    rows = np.flatnonzero(there)
    floor = np.zeros(len(there), dtype=np.float32)
    for number in numbers(batch, feature.within):
        own = number[rows]
        inside = own < len(floors)  # a step that is fitted again may have more since a frozen fit
        floor[rows[inside]] = np.maximum(floor[rows[inside]], floors[own[inside]])
    scalars = {
        "part": pl.Series(found["part"]).set(alone | unknown, None),
        "count": pl.Series(found["count"]).set(unknown, None),
        "nearest": pl.Series(found["nearest"]).set(alone | unknown, None),
        "floor": pl.Series(floor).set(unknown, None),
    }
    return Columns(scalars, errors=_errors(feature, batch, there))


def _errors(feature: Neighbours, batch: Batch, there: np.ndarray) -> list[str | None]:
    """[N]: why a sample took no part; looked at only where one did not."""
    errors: list[str | None] = [None] * len(there)
    left = np.flatnonzero(~there)
    if not len(left):
        return errors
    from curate.features._products import unit  # torch takes seconds to load

    rows = embeddings(batch.frame, feature.of)[left]
    known, (_, directed) = present(rows), unit(rows)
    placed = numbers(batch, feature.within)[0][left] != NO_CLUSTER
    for place, row in enumerate(left.tolist()):
        if not known[place]:
            errors[row] = NO_EMBEDDING
        elif not directed[place]:
            errors[row] = NO_DIRECTION
        else:
            errors[row] = NOT_FITTED if placed[place] else NOT_IN_CLUSTER
    return errors
