"""Feature: negCLIPLoss, how much better a pair fits than the other pairs of a random batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt

from curate import storage
from curate.errors import ConfigError
from curate.features import Columns, Field, FittedFeature, Part, Rows
from curate.features._embeddings import NO_EMBEDDING, embeddings, present
from curate.features._partition import Partition, dealt, sample_ids
from curate.shuffle import Exchange
from filters import Batch

NOT_FITTED = "not_fitted"  # of a sample that came after, where `when_changed: freeze`
NOT_FINITE = "not_finite"  # the error class of embeddings so long that no float holds a product
ROWS_PER_WRITER = 131_072  # of a part, in memory twice at once: 0.4 GB each of a ViT-L/14's float16
# A score on its way back to the part its sample is in.
SCORE = np.dtype([("part", "<u4"), ("address", "<u8"), ("score", "<f4")])


class NegClipLoss(FittedFeature):
    """CLIP similarity less what the pair's image and text have in common with others (2405.19547).

    score = s_ii - T/2 log sum_j exp(s_ij / T) - T/2 log sum_j exp(s_ji / T), the sums over a random
    batch that holds the pair, averaged over some random partitions into batches; higher is better.
    s is the inner product of the embeddings as stored, taken to be of length 1, as in the published
    code. T is 0.01 for OpenAI's CLIP and 0.07 for the public DFN.

    A round deals all samples to max(1, round(N / batch)) batches of equal size by a hash of the
    uid. Up to 8 batches' worth of samples stay together in all rounds (the published code never
    mixes those of two metadata files); where there are more, sizes differ by chance, at full size
    by less than 1 %. The embeddings are copied once into the work folder, until the scores are
    there.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True

    name: str = "neg_clip_loss"
    image: str = Setting("clip.image", description="embeddings of the images")
    text: str = Setting("clip.text", description="embeddings of the texts")
    temperature: PositiveFloat = Setting(0.01, description="T, that the model was trained with")
    batch: PositiveInt = Setting(32_768, description="samples of a batch, about")
    rounds: PositiveInt = Setting(10, description="partitions over which a score is averaged")

    def needs(self) -> tuple[str, ...]:
        return (self.image, self.text)

    def gives(self) -> tuple[Field, ...]:
        about = "in the unit of a cosine, below that of the pair; null without both embeddings"
        return (Field("score", "float32", about),)

    def fit(self, rows: Rows, folder: str) -> None:
        counts = np.zeros(rows.parts, dtype=np.int64)
        for number, count in rows.map(partial(_count, self.needs())):
            counts[number] = count
        samples = int(counts.sum())
        partition = Partition.of(samples, self.batch)
        lasts = np.cumsum(-(-counts // ROWS_PER_WRITER))  # of each part's writers, one past it
        writers = int(lasts[-1]) if len(lasts) else 0
        there = Exchange(storage.join(folder, "shuffle"), writers, partition.groups)
        back = _scores(folder, partition.groups, rows.parts)
        for _ in rows.map(partial(_send, self.needs(), partition, there, lasts)):
            pass
        if samples:
            score = partial(_score_group, self, partition, (there, back))
            for _ in rows.each(score, range(partition.groups)):
                pass
        there.remove()
        made = {"samples": samples, "batches": partition.batches, "rounds": self.rounds}
        shape = {"groups": partition.groups if samples else 0, "parts": rows.parts}
        storage.commit_json(storage.join(folder, "batches.json"), {**made, **shape})

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        made = storage.read_json(storage.join(folder, "batches.json"))
        return partial(_assign, self.needs(), _scores(folder, made["groups"], made["parts"]))

    def notes(self, folder: str) -> dict[str, Any]:
        made = storage.read_json(storage.join(folder, "batches.json"))
        return {name: made[name] for name in ("samples", "batches", "rounds")}


def _scores(folder: str, groups: int, parts: int) -> Exchange:
    return Exchange(storage.join(folder, "scores"), groups, parts)


def _usable(batch: Batch, names: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """[N] bool: samples with all embeddings; and those embeddings, [N, D] each."""
    arrays = [embeddings(batch.frame, name) for name in names]
    return np.logical_and.reduce([present(array) for array in arrays]), arrays


def _count(names: Sequence[str], part: Part) -> tuple[int, int]:
    return part.number, int(_usable(part.batch, names)[0].sum())


def _send(
    names: Sequence[str], partition: Partition, there: Exchange, lasts: np.ndarray, part: Part
) -> None:
    """Write a part's embeddings to the groups of its samples, some rows at a time."""
    usable, (image, text) = _usable(part.batch, names)
    rows = np.flatnonzero(usable)
    if len(rows) and image.shape[1] != text.shape[1]:
        raise ConfigError(
            f"{names[0]} is {image.shape[1]} wide and {names[1]} {text.shape[1]}: "
            "they must come from one model"
        )
    group, ids = partition.group(part.batch.uniform("group")), sample_ids(part.batch)
    fields: list[Any] = [("id", "<u8", 2), ("part", "<u4"), ("address", "<u8")]
    fields += [("image", image.dtype, image.shape[1:]), ("text", text.dtype, text.shape[1:])]
    pieces = [rows[at : at + ROWS_PER_WRITER] for at in range(0, len(rows), ROWS_PER_WRITER)]
    for writer, own in enumerate(pieces, int(lasts[part.number]) - len(pieces)):
        records = np.empty(len(own), dtype=fields)
        records["id"][:, 0], records["id"][:, 1] = ids["f0"][own], ids["f1"][own]
        records["part"], records["address"] = part.number, part.batch.addresses[own]
        records["image"], records["text"] = image[own], text[own]
        there.write(writer, records, group[own])


def _score_group(
    feature: NegClipLoss, partition: Partition, legs: tuple[Exchange, Exchange], group: int
) -> None:
    """Score the samples of a group in every round, and send the means back to their parts."""
    from curate.features._contrast import losses  # torch takes seconds to load

    there, back = legs
    pieces = [piece for piece in there.pieces(group) if len(piece)]
    heads = [piece[["id", "part", "address"]] for piece in pieces]
    head = np.concatenate(heads) if heads else np.empty(0, dtype=[("address", "<u8")])
    records = np.empty(len(head), dtype=SCORE)
    if len(head):
        ids = head["id"].view([("f0", "<u8"), ("f1", "<u8")])[:, 0]
        batches = min(partition.batches_in(group), len(head))
        total = np.zeros(len(head))
        for dealing in dealt(ids, head["address"], feature.rounds, batches):
            for rows in dealing:
                image, text = (_gathered(pieces, field, rows) for field in ("image", "text"))
                total[rows] += losses(image, text, feature.temperature)
        records["part"], records["address"] = head["part"], head["address"]
        records["score"] = total / feature.rounds
    back.write(group, records, records["part"].astype(np.int64))


def _gathered(pieces: Sequence[np.ndarray], field: str, rows: np.ndarray) -> np.ndarray:
    """[B, D] float32 of some [B] rows of all pieces, without a copy of the whole."""
    lasts = np.cumsum([len(piece) for piece in pieces])
    owner = np.searchsorted(lasts, rows, side="right")
    gathered = np.empty((len(rows), pieces[0][field].shape[1]), dtype=np.float32)
    for number in np.unique(owner).tolist():
        here = np.flatnonzero(owner == number)
        own = pieces[number]
        gathered[here] = own[field][rows[here] - (lasts[number] - len(own))]
    return gathered


def _assign(names: Sequence[str], scores: Exchange, part: Part) -> Columns:
    """The scores of a part's [N] samples; one that came after a frozen fit has none."""
    addresses = part.batch.addresses
    found = np.full(len(addresses), np.nan, dtype=np.float32)
    usable, _ = _usable(part.batch, names)
    errors = np.where(usable, np.array(NOT_FITTED, object), np.array(NO_EMBEDDING, object))
    for records in scores.pieces(part.number) if part.number < scores.readers else ():
        place = np.searchsorted(addresses, records["address"]).clip(max=max(len(addresses) - 1, 0))
        records = records[addresses[place] == records["address"]] if len(addresses) else records[:0]
        place = np.searchsorted(addresses, records["address"])
        found[place] = records["score"]
        errors[place] = None
        errors[place[~np.isfinite(records["score"])]] = NOT_FINITE
    found[~np.isfinite(found)] = np.nan
    return Columns({"score": found}, errors=errors.tolist())
