"""Clusters with too many pairs: found by a random part of their members, thinned, and told of.

A cluster of 300,000 pictures that say "image not found" has 45 billion pairs. Its members that are
nearly equal become twins of one of them; where that is not enough, only higher similarities count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from curate import storage
from curate.features._pairing.collapse import Leaders, first_equal
from curate.features._pairing.near_layout import Layout, opened
from curate.features._products import Products, triangle_at_least, unit
from curate.pairs import TWIN
from curate.shuffle import Exchange, partitions

PROBES = 1024  # members of a cluster that tell how many pairs it has, about
_SHARE = 8  # of its members, one in so many at most
_GRID = (*np.arange(1, 200).tolist(), 199.8, 199.98)  # in units of 0.005: where floors may be


@dataclass(frozen=True)
class Rules:
    """What is looked for, and how much of it."""

    floor: float
    same: float
    pairs_per_sample: int

    def floors(self) -> np.ndarray:
        """[G] float32 ascending: the floor, and what it may be raised to."""
        grid = np.array([step / 200 for step in _GRID])
        return np.array([self.floor, *grid[grid > self.floor]], dtype=np.float32)


@dataclass(frozen=True)
class Probes:
    """Who of a cluster's members is probed, and where these lie."""

    rate: np.ndarray  # [K] float64: the share of each cluster's members
    sent: Exchange

    @staticmethod
    def of(layout: Layout, rules: Rules) -> Probes:
        """The probes of all clusters that could have more pairs than the rules allow."""
        members = layout.clusters["members"].astype(np.float64)
        rate = np.minimum(PROBES / np.maximum(members, 1), 1 / _SHARE)
        rate[(members - 1) / 2 <= rules.pairs_per_sample] = 0.0
        readers = partitions(int((members * rate).sum()), layout.record.itemsize)
        folder = storage.join(layout.folder, "probes")
        return Probes(rate, Exchange(folder, layout.writers, readers))

    @property
    def any(self) -> bool:
        """Whether there is a cluster to probe."""
        return bool((self.rate > 0).any())

    def readers(self, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([E] rows, [E] readers) of those of [N] records' heads that are probed."""
        where = []
        for end in ("cluster", "second"):
            number = np.minimum(head[end], len(self.rate) - 1)  # no cluster: its rate is 0 below
            wanted = (head["draw"] < self.rate[number]) & (head[end] == number)
            where.append(np.where(wanted, number.astype(np.int64) % self.sent.readers, -1))
        where[1][where[1] == where[0]] = -1
        rows = [np.flatnonzero(reader >= 0) for reader in where]
        return np.concatenate(rows), np.concatenate(
            [reader[own] for reader, own in zip(where, rows, strict=True)]
        )

    def read(self, reader: int, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(cluster, its probed members) of those clusters of a reader that are wanted."""
        records = self.sent.read(reader)
        there = wanted[(wanted % self.sent.readers == reader) & (self.rate[wanted] > 0)]
        for cluster in there.tolist():
            member = (records["cluster"] == cluster) | (records["second"] == cluster)
            own = records[member & (records["draw"] < self.rate[cluster])]
            yield cluster, own[np.lexsort((own["address"], own["f1"], own["f0"]))]


@dataclass(frozen=True)
class Expected:
    """How many pairs a cluster has, by its probed members."""

    cluster: int
    members: float
    pairs: np.ndarray  # [G] at or above each floor

    def most(self, rules: Rules) -> np.ndarray:
        """[G] bool: floors above which it has no more pairs than the rules allow."""
        return np.asarray(self.pairs <= rules.pairs_per_sample * self.members)


def expected(folder: str, rules: Rules, wanted: np.ndarray, reader: int) -> list[Expected]:
    """What those of some clusters that are a reader's are expected to have, twins left out."""
    layout = opened(folder)
    probes, twins, products = Probes.of(layout, rules), Twins(folder), Products()
    count = partial(_expected, rules, probes.rate, products)
    probed = ((cluster, twins.left(own)) for cluster, own in probes.read(reader, wanted))
    return list(products.map(count, probed))


def _expected(
    rules: Rules, rate: np.ndarray, products: Products, probed: tuple[int, np.ndarray]
) -> Expected:
    cluster, own = probed
    rows, _ = unit(own["vector"])
    label = own["cluster"].astype(np.uint64) << np.uint64(32) | own["second"]
    rows = rows[first_equal(rows, label) == np.arange(len(rows))]
    loaded, floors = products.load(rows), rules.floors()
    above = np.zeros(len(floors), dtype=np.int64)
    for tile in range(loaded.tiles):
        found = np.sort(triangle_at_least(loaded, rules.floor, tile).value)
        above += len(found) - np.searchsorted(found, floors)
    share = rate[cluster]
    return Expected(cluster, len(rows) / share, above / share**2)


class Twins:
    """The tables of twins of the dense clusters that were thinned, read as they are asked for."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        url = _thinned(folder)
        known = storage.exists(url)
        self.clusters = np.asarray(storage.read_array(url)) if known else np.empty(0, np.int64)
        self._tables: dict[int, np.ndarray] = {}

    def of(self, cluster: int) -> np.ndarray:
        """[T] TWIN, sorted by member, of samples of a thinned cluster."""
        if cluster not in self._tables:
            self._tables[cluster] = np.asarray(storage.read_array(_table(self._folder, cluster)))
        return self._tables[cluster]

    def told(self, records: np.ndarray) -> np.ndarray:
        """[N] bool: records whose cluster was thinned, so that a table says who is a twin."""
        return np.isin(records["cluster"], self.clusters)

    def has(self, records: np.ndarray) -> np.ndarray:
        """[N] bool: records that are a twin by a table."""
        found = np.zeros(len(records), dtype=bool)
        for cluster in np.intersect1d(records["cluster"], self.clusters).tolist():
            own = np.flatnonzero(records["cluster"] == cluster)
            found[own] = np.isin(records["address"][own], self.of(cluster)["member"])
        return found

    def left(self, records: np.ndarray) -> np.ndarray:
        """The records that are no twin by a table."""
        return np.asarray(records[~self.has(records)])


def _thinned(folder: str) -> str:
    return storage.join(folder, "thinned.npy")


def _table(folder: str, cluster: int) -> str:
    return storage.join(folder, "thinned", f"twins-{cluster:08d}.npy")


def thin(folder: str, rules: Rules, cluster: int) -> None:
    """Commit the twins among the samples whose nearest cluster this is."""
    if storage.exists(_table(folder, cluster)):
        return
    layout = opened(folder)
    leaders, known = Leaders(Products(), rules.same), np.empty(0, dtype=np.uint64)
    tables = [np.empty(0, dtype=TWIN)]
    first = int(layout.clusters["partition"][cluster])
    for partition in range(first, first + int(layout.clusters["chunks"][cluster])):
        records = layout.members.read(partition)
        own = records[records["cluster"] == cluster]
        own = own[np.lexsort((own["address"], own["f1"], own["f0"]))]
        rows, _ = unit(own["vector"])
        equal = first_equal(rows, own["second"].astype(np.uint64))
        single = np.flatnonzero(equal == np.arange(len(rows)))
        number = leaders.add(rows[single])
        fresh, place = np.unique(number, return_index=True)
        later = fresh >= len(known)  # the first of a number that is new is the leader itself
        known = np.concatenate([known, own["address"][single[place[later]]]])
        stands = own["address"].copy()
        stands[single[number >= 0]] = known[number[number >= 0]]
        table = np.empty(len(own), dtype=TWIN)
        table["member"], table["of"] = own["address"], stands[equal]
        tables.append(table[table["member"] != table["of"]])
    storage.commit_array(_table(folder, cluster), np.sort(np.concatenate(tables), order="member"))


def save_thinned(folder: str, clusters: list[int]) -> None:
    """Commit which clusters were thinned, once all were."""
    storage.commit_array(_thinned(folder), np.array(sorted(clusters), dtype=np.int64))
