"""What ClipCov's tasks do: the means of classes, then the order of each cell's members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from curate import storage
from curate.errors import ConfigError
from curate.features import Rows
from curate.features._picking.cells import Cells, directions
from curate.features._picking.greedy import Similarities, open_threads, sequence
from curate.shuffle import Exchange
from filters._top import exact_share

# A place on its way back to the part its sample is in.
PLACE = np.dtype([("part", "<u4"), ("address", "<u8"), ("score", "<f8"), ("rank", "<u4")])


@dataclass(frozen=True)
class Recipe:
    """What the order of a class depends on besides its members."""

    every: int  # picks between updates
    up_to: float  # share of a cell that is ordered
    prototypes: np.ndarray | None  # [P, D] float32 texts of the classes, by number, of length 1


@dataclass(frozen=True)
class Legs:
    """Where a fit's files are."""

    there: Exchange  # embeddings, to the task of their cell
    back: Exchange  # places, to the part of their sample
    folder: str  # of the means


def means(rows: Rows, cells: Cells, legs: Legs) -> None:
    """Commit the mean image and text of each class, [C, 2, D] float64."""
    for _ in rows.each(partial(_sum, legs), range(legs.there.readers)):
        pass
    total: np.ndarray | None = None
    for task in range(legs.there.readers):
        own = np.asarray(storage.read_array(_sums_file(legs, task)))
        places = np.searchsorted(cells.first, own["cell"], side="right") - 1
        if total is None and len(own):
            total = np.zeros((len(cells.classes), *own["sums"].shape[1:]))
        for place, sums in zip(places.tolist(), own["sums"], strict=True):
            assert total is not None
            total[place] += sums
    assert total is not None, "no class has a member"
    found = total / cells.counts[:, None, None]
    storage.commit_array(storage.join(legs.folder, "classes.npy"), found)


def _sums_file(legs: Legs, task: int) -> str:
    return storage.join(legs.folder, f"sums-{task:05d}.npy")


def _sum(legs: Legs, task: int) -> None:
    made = []
    for cell, records in _read(legs.there, task):
        sums = [directions(records[field])[0].sum(axis=0, dtype=np.float64) for field in _FIELDS]
        made.append((cell, np.stack(sums)))
    width = made[0][1].shape if made else (2, 0)
    found = np.empty(len(made), dtype=[("cell", "<i8"), ("sums", "<f8", width)])
    for place, (cell, total) in enumerate(made):
        found["cell"][place], found["sums"][place] = cell, total
    storage.commit_array(_sums_file(legs, task), found)


_FIELDS = ("image", "text")


def order(recipe: Recipe, cells: Cells, legs: Legs, task: int) -> None:
    """Order the members of each cell of a task, and send their places back to their parts."""
    centres = storage.read_array(storage.join(legs.folder, "classes.npy"))
    others = np.asarray(centres.sum(axis=0))  # [2, D]
    made = [np.empty(0, dtype=PLACE)]
    with open_threads() as threads:
        for cell, records in _read(legs.there, task):
            place = cells.class_of(cell)
            image, text = (directions(records[field])[0] for field in _FIELDS)
            apart = (others - centres[place]) / max(len(centres) - 1, 1)
            between = _products(image, apart[1]) + _products(text, apart[0])
            label = _labels(recipe, text, int(cells.classes[place]))
            count = max(exact_share(recipe.up_to, len(text)), 1)
            similarities = Similarities(image, text, threads)
            picked, value = sequence(similarities, label, between, recipe.every, count)
            found = np.zeros(len(records), dtype=PLACE)
            found["part"], found["address"] = records["part"], records["address"]
            found["score"] = np.nan
            found["score"][picked], found["rank"][picked] = value, np.arange(count)
            made.append(found)
    joined = np.concatenate(made)
    legs.back.write(task, joined, joined["part"].astype(np.int64))


def _labels(recipe: Recipe, text: np.ndarray, number: int) -> np.ndarray:
    """[m] float64: the cosines of [m, D] texts with that of their class; 0 where there is none."""
    if recipe.prototypes is None:
        return np.zeros(len(text))
    if recipe.prototypes.shape[1] != text.shape[1]:
        raise ConfigError(
            f"prototypes are {recipe.prototypes.shape[1]} wide, and the embeddings of the texts "
            f"{text.shape[1]}: they must come from one model"
        )
    return _products(text, recipe.prototypes[number])


def _products(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """[m] float64 of [m, D] and [D]: by numpy's own loop, whose order no thread changes."""
    return np.asarray(np.einsum("md,d->m", rows, vector.astype(np.float64)))


def _read(there: Exchange, task: int) -> Iterator[tuple[int, np.ndarray]]:
    """(cell, its [m] records ordered by uid) for each cell of a task, in order."""
    pieces = [piece for piece in there.pieces(task) if len(piece)]
    heads = [piece[["cell", "f0", "f1", "address"]] for piece in pieces]
    if not heads:
        return
    head = np.concatenate(heads)
    order = np.lexsort((head["address"], head["f1"], head["f0"], head["cell"]))
    cells, first = np.unique(head["cell"][order], return_index=True)
    lasts = np.cumsum([len(piece) for piece in pieces])
    for cell, rows in zip(cells.tolist(), np.split(order, first[1:]), strict=True):
        yield cell, _gathered(pieces, lasts, rows)


def _gathered(pieces: list[np.ndarray], lasts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of all pieces together, without a copy of the whole."""
    owner = np.searchsorted(lasts, rows, side="right")
    gathered = np.empty(len(rows), dtype=pieces[0].dtype)
    for number in np.unique(owner).tolist():
        here, own = np.flatnonzero(owner == number), pieces[number]
        gathered[here] = own[rows[here] - (lasts[number] - len(own))]
    return gathered
