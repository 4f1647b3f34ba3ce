"""What goes before pairs are looked for: members are counted, and sent to their clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from curate import storage
from curate.errors import ConfigError
from curate.features import Part
from curate.features._embeddings import embeddings
from curate.features._pairing.collapse import hashes
from curate.features._pairing.dense import Probes, Rules
from curate.features._pairing.near_layout import (
    HEAD,
    NO_CLUSTER,
    Layout,
    fitted,
    fitted_file,
    gathered,
    numbers,
    opened,
    record,
)
from curate.features._products import unit
from filters import Batch

_AT_ONCE = 8192  # rows, while lengths are looked at


@dataclass(frozen=True)
class Source:
    """The columns that are read."""

    of: str
    within: str | None

    def usable(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """([N] bool: who has an embedding with a direction, [N] bool: who has a cluster)."""
        rows = embeddings(batch.frame, self.of)
        slices = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
        known = np.concatenate([np.empty(0, dtype=bool), *(unit(one)[1] for one in slices)])
        return known, numbers(batch, self.within)[0] != NO_CLUSTER


@dataclass(frozen=True)
class Counted:
    """What is known of a part before anything is sent."""

    clusters: np.ndarray  # [C] uint32 that its samples are in, nearest or second nearest
    members: np.ndarray  # [C] int64: how many
    samples: int
    queries: np.ndarray  # [Q] records by which recall is measured


def count(source: Source, share: float, folder: str, part: Part) -> Counted:
    """Count the members of clusters, and take a share of the samples, by a hash, as queries."""
    usable, placed = source.usable(part.batch)
    rows = np.flatnonzero(usable & placed)
    storage.commit_array(fitted_file(folder, part.number), part.batch.addresses[rows])
    head = _head(source, part.batch, rows)
    second = head["second"][head["second"] != NO_CLUSTER]
    clusters, members = np.unique(np.concatenate([head["cluster"], second]), return_counts=True)
    vectors = embeddings(part.batch.frame, source.of)
    asked = np.flatnonzero(head["draw"] < share)
    queries = _records(head, [vectors], asked, rows[asked])
    return Counted(clusters, members, len(rows), queries)


def _head(source: Source, batch: Batch, rows: np.ndarray) -> np.ndarray:
    head = np.empty(len(rows), dtype=HEAD)
    head["address"], head["draw"] = batch.addresses[rows], batch.uniform("draw")[rows]
    head["f0"], head["f1"] = batch.uids["f0"][rows], batch.uids["f1"][rows]
    head["cluster"], head["second"] = (each[rows] for each in numbers(batch, source.within))
    return head


def _records(
    head: np.ndarray, vectors: list[np.ndarray], rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Some [M] rows of a head, with the embeddings that are at these [M] places."""
    made = np.empty(len(rows), dtype=record(vectors[0].shape[1], vectors[0].dtype.str))
    for name, _ in HEAD:
        made[name] = head[name][rows]
    gathered(vectors, places, made["vector"])
    return made


def send(source: Source, rules: Rules, folder: str, writer: int, parts: Iterator[Part]) -> None:
    """Write the samples of some parts to the partitions of their clusters, unless that is done."""
    layout = opened(folder)
    probes = Probes.of(layout, rules)
    if layout.members.written(writer) and (not probes.any or probes.sent.written(writer)):
        return
    heads, vectors = [np.empty(0, dtype=HEAD)], []
    for part in parts:
        rows = np.searchsorted(part.batch.addresses, fitted(folder, part.number))
        heads.append(_head(source, part.batch, rows))
        vectors.append(embeddings(part.batch.frame, source.of)[rows])
    head = np.concatenate(heads)
    rows, readers = _destinations(layout, head, vectors)
    make = partial(_made, head, vectors)
    layout.members.write_made(writer, layout.record, readers, lambda some: make(rows[some]))
    if probes.any:
        probed, to = probes.readers(head)
        probes.sent.write_made(writer, layout.record, to, lambda some: make(probed[some]))


def _made(head: np.ndarray, vectors: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    return _records(head, vectors, rows, rows)


def joined(name: str, queries: Sequence[np.ndarray]) -> np.ndarray:
    """The queries of all parts; ConfigError where their embeddings are not of one kind."""
    kinds = sorted({str(one.dtype["vector"]) for one in queries})
    if len(kinds) > 1:
        raise ConfigError(
            f"{name} is {kinds[0]} in some files and {kinds[1]} in others (dtype and width): "
            "the embeddings must come from one model"
        )
    return np.concatenate(queries) if queries else np.empty(0, dtype=record(1, "<f2"))


def _destinations(
    layout: Layout, head: np.ndarray, vectors: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """([E] rows, [E] partitions): a sample goes to one or two."""
    second = np.flatnonzero(head["second"] != NO_CLUSTER)
    mixed = np.zeros(len(head), dtype=np.uint64)
    split = layout.split(head["cluster"])
    split[second] |= layout.split(head["second"][second])
    for start in range(0, len(head), _AT_ONCE):
        own = start + np.flatnonzero(split[start : start + _AT_ONCE])
        if len(own):
            rows = np.empty((len(own), layout.width), dtype=layout.dtype)
            mixed[own] = hashes(unit(gathered(vectors, own, rows))[0])
    there = layout.partition(head["cluster"], mixed)
    also = layout.partition(head["second"][second], mixed[second])
    apart = also != there[second]
    return (
        np.concatenate([np.arange(len(head)), second[apart]]),
        np.concatenate([there, also[apart]]),
    )
