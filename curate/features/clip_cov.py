"""Feature: ClipCov, the order in which pairs preserve the cross-covariance of their class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field as Setting
from pydantic import PositiveInt

from curate import storage
from curate.errors import ConfigError
from curate.features import Columns, Field, FittedFeature, Part, Rows
from curate.features._embeddings import NO_EMBEDDING, embeddings
from curate.features._given import published
from curate.features._picking.cells import Cells, directed, directions
from curate.shuffle import Exchange
from filters import Batch, column

KEY = "text_features"  # of a published dict of embeddings
NO_CLASS = "no_class"  # the error class of a sample whose class is missing
NOT_ORDERED = "not_ordered"  # of one that `up_to` leaves out
NOT_FITTED = "not_fitted"  # of one that came after, where `when_changed: freeze`
ROWS_PER_WRITER = 65_536  # of a ViT-L/14's float16, in memory twice at once: 0.2 GB each


class ClipCov(FittedFeature):
    """The place of each pair in ClipCov's greedy selection (2403.12267), class by class.

    Within a class of m members, S_ij is the cosine of image i with text j, and 0 where that is less
    than 0. The score of pair i is within_i + 2 own_i + label_i / 2 - between_i: within_i is the sum
    over j of S_ij + S_ji, divided by m; own_i its own cosine; label_i that of its text with the
    text of its class (`prototypes`; 0 without); between_i the mean over all other classes of the
    inner products of its image with the mean text of that class, and of its text with the mean
    image. Then the best is taken again and again. After every 200 picks in a class (199 at first,
    as in the published code) its scores fall by what is taken: by the sum over the new picks j of
    S_ij + S_ji, that over all its picks of within_j, and that over the new ones of label_j / 2, all
    divided by m.

    A pick changes its own class only, so that the greedy selection over all classes merges those of
    each. `score` is a pair's score when it is picked, or the next number below the one picked
    before it where that is less: `score: {column: clip_cov.score, top_fraction: 0.1}` keeps those
    that the greedy algorithm over all classes takes, whatever the share. `rank` is its place among
    the picks of its class.

    A class of more than `members` is divided by a hash of the uid into parts of about as many at
    most, each of which is ordered as a class of its own; its means are of the whole class. What is
    not written down of the method is as here: means are of embeddings at length 1, and of a class
    all its members.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "clip_cov"
    classes: str = Setting("classes.number", description="the column of each sample's class")
    image: str = Setting("clip.image", description="embeddings of the images")
    text: str = Setting("clip.text", description="embeddings of the texts")
    prototypes: str | None = Setting(
        None,
        description="file of the classes' texts, by number: .npy, or .pt of a tensor, an array or "
        "a dict that has `text_features`",
    )
    every: PositiveInt = Setting(200, description="picks in a class between updates of its scores")
    members: PositiveInt = Setting(50_000, description="samples of a class at once, about, at most")
    up_to: float = Setting(
        1.0, gt=0, le=1, description="share of each class that is ordered; others have no score"
    )

    def needs(self) -> tuple[str, ...]:
        return (self.classes, self.image, self.text)

    def gives(self) -> tuple[Field, ...]:
        missing = "null without a class or an embedding, and beyond `up_to`"
        return (
            Field("score", "float64", f"score when picked, higher is picked earlier; {missing}"),
            Field(
                "rank", "uint32", f"place among the picks of its class, 0 is the first; {missing}"
            ),
        )

    def problems(self) -> list[str]:
        return published.problems("prototypes", [self.prototypes]) if self.prototypes else []

    def recipe(self) -> dict[str, Any]:
        """The prototypes by their SHA-256."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {"prototypes": published.recipe([self.prototypes])} if self.prototypes else {}

    def fit(self, rows: Rows, folder: str) -> None:
        from curate.features._picking.tasks import Legs, Recipe, means, order  # loads torch

        cells = self._cells(rows)
        tasks = int(cells.tasks[-1]) + 1 if len(cells.classes) else 0
        writers = rows.gathers(ROWS_PER_WRITER)
        there = Exchange(storage.join(folder, "shuffle"), writers, tasks)
        legs = Legs(there, _back(folder, tasks, rows.parts), storage.join(folder, "means"))
        recipe = Recipe(self.every, self.up_to, self._texts(cells))
        if tasks:
            for _ in rows.gather(partial(_send, self, cells, there), ROWS_PER_WRITER):
                pass
            means(rows, cells, legs)
            for _ in rows.each(partial(order, recipe, cells, legs), range(tasks)):
                pass
        there.remove()
        storage.remove(legs.folder)
        made = {
            "samples": int(cells.counts.sum()),
            "classes": len(cells.classes),
            "classes_divided": int((cells.divided > 1).sum()),
            "largest_class": int(cells.counts.max(initial=0)),
        }
        shape = {"tasks": tasks, "parts": rows.parts}
        storage.commit_json(storage.join(folder, "classes.json"), {**made, **shape})

    def _cells(self, rows: Rows) -> Cells:
        counts: dict[int, int] = {}
        for numbers, found in rows.map(partial(_count, self)):
            for number, count in zip(numbers, found, strict=True):
                counts[number] = counts.get(number, 0) + count
        classes = sorted(counts)
        sizes = [counts[number] for number in classes]
        return Cells(np.array(classes, np.int64), np.array(sizes, np.int64), self.members)

    def _texts(self, cells: Cells) -> np.ndarray | None:
        """[P, D] float32 texts of the classes, of length 1."""
        if self.prototypes is None:
            return None
        texts = published.read(self.prototypes, KEY)
        if len(cells.classes) and int(cells.classes[-1]) >= len(texts):
            raise ConfigError(
                f"prototypes: {self.prototypes} has {len(texts)} rows, and {self.classes} holds "
                f"{cells.classes[-1]}: row k must be the text of class k"
            )
        found, known = directions(texts)
        if not known.all():
            missing = int(np.flatnonzero(~known)[0])
            raise ConfigError(f"prototypes: row {missing} of {self.prototypes} has no direction")
        return found

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        made = storage.read_json(storage.join(folder, "classes.json"))
        return partial(_assign, self, _back(folder, made["tasks"], made["parts"]))

    def notes(self, folder: str) -> dict[str, Any]:
        made = storage.read_json(storage.join(folder, "classes.json"))
        return {name: count for name, count in made.items() if name not in ("tasks", "parts")}


def _back(folder: str, tasks: int, parts: int) -> Exchange:
    return Exchange(storage.join(folder, "places"), tasks, parts)


def _numbers(feature: ClipCov, batch: Batch) -> np.ndarray:
    """[N] int64 classes, -1 where missing."""
    found = batch.frame.select(column(feature.classes).alias("class")).to_series()
    if not found.dtype.is_integer() and found.dtype != pl.Null:
        raise ConfigError(f"classes: {feature.classes} is of type {found.dtype}, and no number")
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _usable(feature: ClipCov, batch: Batch) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """([N] classes or -1, [N] bool who has both embeddings, those embeddings: [N, D] each)."""
    arrays = [embeddings(batch.frame, name) for name in (feature.image, feature.text)]
    if len(batch.frame) and arrays[0].shape[1] != arrays[1].shape[1]:
        raise ConfigError(
            f"{feature.image} is {arrays[0].shape[1]} wide and {feature.text} "
            f"{arrays[1].shape[1]}: they must come from one model"
        )
    there = np.logical_and(*(directed(array) for array in arrays))
    return _numbers(feature, batch), there, arrays


def _count(feature: ClipCov, part: Part) -> tuple[list[int], list[int]]:
    numbers, there, _ = _usable(feature, part.batch)
    found, counts = np.unique(numbers[there & (numbers >= 0)], return_counts=True)
    return found.tolist(), counts.tolist()


def _send(
    feature: ClipCov, cells: Cells, there: Exchange, writer: int, parts: Iterator[Part]
) -> None:
    """Write the embeddings of consecutive parts to the tasks of their classes."""
    made = [np.empty(0, dtype=[("cell", "<i8")])]
    for part in parts:
        numbers, known, (image, text) = _usable(feature, part.batch)
        own = np.flatnonzero(known & (numbers >= 0))
        if not len(own):
            continue
        fields: list[Any] = [("f0", "<u8"), ("f1", "<u8"), ("cell", "<i8"), ("part", "<u4")]
        fields += [("address", "<u8"), ("image", image.dtype, image.shape[1:])]
        records = np.empty(len(own), dtype=[*fields, ("text", text.dtype, text.shape[1:])])
        records["cell"] = cells.of(numbers[own], part.batch.uniform("divide")[own])
        for half in ("f0", "f1"):
            records[half] = part.batch.uids[half][own]
        records["part"], records["address"] = part.number, part.batch.addresses[own]
        records["image"], records["text"] = image[own], text[own]
        made.append(records)
    joined = np.concatenate(made[1:]) if len(made) > 1 else made[0]
    there.write(writer, joined, cells.tasks[joined["cell"]])


def _assign(feature: ClipCov, places: Exchange, part: Part) -> Columns:
    """The places of a part's [N] samples; one that came after a frozen fit has none."""
    addresses = part.batch.addresses
    score, rank = np.full(len(addresses), np.nan), np.zeros(len(addresses), dtype=np.uint32)
    numbers, usable, _ = _usable(feature, part.batch)
    errors = np.full(len(addresses), NOT_FITTED, dtype=object)
    errors[numbers < 0] = NO_CLASS
    errors[~usable] = NO_EMBEDDING
    for found in places.pieces(part.number) if part.number < places.readers else ():
        place = np.searchsorted(addresses, found["address"]).clip(max=max(len(addresses) - 1, 0))
        own = addresses[place] == found["address"] if len(addresses) else np.zeros(0, dtype=bool)
        found, place = found[own], place[own]
        score[place], rank[place] = found["score"], found["rank"]
        errors[place] = None
        errors[place[np.isnan(found["score"])]] = NOT_ORDERED
    missing = pl.Series(np.isnan(score))
    ranks = pl.Series(rank).set(missing, None)
    return Columns({"score": score, "rank": ranks}, errors=errors.tolist())
