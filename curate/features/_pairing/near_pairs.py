"""The tasks that find pairs: all products of a cluster's members, in tiles, and what is high."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from curate import pairs, storage
from curate.features._pairing.collapse import first_equal
from curate.features._pairing.dense import Rules, Twins
from curate.features._pairing.near_layout import HEAD, NO_CLUSTER, Layout, Task, opened
from curate.features._products import (
    Found,
    Loaded,
    Products,
    row_at_least,
    triangle_at_least,
    unit,
)
from curate.pairs import PAIR, TWIN

_LARGE = 16_384  # members: the products of a larger cluster are shared out among the threads
_HELD = 8 << 20  # pairs in memory, about

Spread = Callable[[Callable[[int], Any], Iterable[int]], Iterator[Any]]  # `map`, or one like it

# Pairs that are to be compared (each once, though it meets in two clusters), products that were
# made, and of the pairs of queries at or above the floor: how many there are, how many were found.
TALLY = ("required", "done", "true", "found")


@dataclass(frozen=True)
class Members:
    """The members of a cluster that are nobody's twin, in the order of their uids."""

    address: np.ndarray  # [n] uint64
    other: np.ndarray  # [n] uint32: the other cluster that each is in
    rows: Loaded  # [n, D]

    def compared_before(self, cluster: int) -> tuple[np.ndarray, np.ndarray]:
        """Other clusters that come before this one, where these meet as well; members of each."""
        return np.unique(self.other[self.other < cluster], return_counts=True)


@dataclass(frozen=True)
class Counted:
    """What a task, or a cluster of it, counted, and the twins that it found."""

    twins: np.ndarray  # [T] TWIN
    tally: np.ndarray  # [4] int64, see TALLY

    @staticmethod
    def joined(parts: Iterable[Counted]) -> Counted:
        """All of them."""
        many = [Counted(np.empty(0, TWIN), np.zeros(4, np.int64)), *parts]
        return Counted(
            np.concatenate([part.twins for part in many]),
            np.sum([part.tally for part in many], axis=0),
        )


class Sink:
    """Where the pairs of one task go: to a file each time that there are many."""

    def __init__(self, folder: str, task: int, tasks: int) -> None:
        self._folder = folder
        self._number, self._step = task, tasks
        self._lock = Lock()
        self._held: list[np.ndarray] = []
        self._files = 0

    def add(self, found: np.ndarray) -> None:
        """Take [P] PAIR, from any thread."""
        with self._lock:
            if len(found):
                self._held.append(found)
            if sum(map(len, self._held)) >= _HELD:
                self._write(np.empty(0, dtype=TWIN))

    def close(self, twins: np.ndarray) -> int:
        """Write what is left, and the twins; how many files there are."""
        self._write(twins)
        return self._files

    def _write(self, twins: np.ndarray) -> None:
        held = np.concatenate([np.empty(0, dtype=PAIR), *self._held])
        pairs.write(self._folder, self._number + self._files * self._step, held, twins)
        self._held.clear()
        self._files += 1


def find(rules: Rules, folder: str, tasks: int, task: Task) -> None:
    """Write the pairs and twins of one of so many tasks, unless that is done."""
    done = tally_file(folder, task.number)
    if storage.exists(done):
        return
    sink = Sink(folder, task.number, tasks)
    counted = Search.opened(folder, rules, sink).run(task)
    files = sink.close(counted.twins)
    told = dict(zip(TALLY, counted.tally.tolist(), strict=True))
    storage.commit_json(done, {**told, "files": files})


def tally_file(folder: str, task: int) -> str:
    """What a task counted; written last."""
    return storage.join(folder, "tally", f"{task:06d}.json")


@dataclass(frozen=True)
class Search:
    """All that a task needs, opened once for it."""

    layout: Layout
    rules: Rules
    floors: np.ndarray  # [K] float32
    twins: Twins
    products: Products
    queries: np.ndarray  # [Q] records
    asked: Loaded  # [Q, D]
    sink: Sink

    @staticmethod
    def opened(folder: str, rules: Rules, sink: Sink) -> Search:
        """From what the passes before committed."""
        products = Products()
        queries = np.asarray(storage.read_array(storage.join(folder, "queries.npy")))
        floors = np.asarray(storage.read_array(storage.join(folder, "floors.npy")))
        asked = products.load(unit(queries["vector"])[0])
        layout, twins = opened(folder), Twins(folder)
        return Search(layout, rules, floors, twins, products, queries, asked, sink)

    def run(self, task: Task) -> Counted:
        """Find all pairs of a task."""
        records = self.layout.members.read(task.left)
        if task.left != task.right:
            return self._between(task, records, self.layout.members.read(task.right))
        lists = sorted(
            _members(records, self.layout.inside(task.left)), key=lambda one: -len(one[1])
        )
        large = [one for one in lists if len(one[1]) > _LARGE]
        in_turn = [self._within(task, records, self.products.map, one) for one in large]
        alone = partial(self._within, task, records, map)
        return Counted.joined([*in_turn, *self.products.map(alone, lists[len(large) :])])

    def _within(
        self, task: Task, records: np.ndarray, spread: Spread, member: tuple[int, np.ndarray]
    ) -> Counted:
        """All pairs of a cluster's members in one partition."""
        cluster, places = member
        head, rows = _in_order(records, places)
        own = head["cluster"] == cluster
        true, found = self._recall(head[own], self.products.load(rows[own]), spread)
        members, twins = self._members(cluster, head, rows)
        if cluster in self.twins.clusters:
            first = task.left == self.layout.clusters["partition"][cluster]
            twins = self.twins.of(cluster) if first else twins[:0]
        triangle = partial(triangle_at_least, members.rows, float(self.floors[cluster]))
        self._keep((members, members), triangle, spread)
        count, tiles = len(members.address), members.rows.tiles
        before = members.compared_before(cluster)[1]
        required = count * (count - 1) // 2 - int((before * (before - 1) // 2).sum())
        done = tiles * (tiles + 1) // 2 * members.rows.side**2
        return Counted(twins, np.array([required, done, true, found], dtype=np.int64))

    def _between(self, task: Task, one: np.ndarray, other: np.ndarray) -> Counted:
        """All pairs of a member in one part of a cluster and one in another."""
        cluster = int(self.layout.inside(task.left)[0])
        sides = [
            self._members(cluster, *_in_order(records, np.arange(len(records))))[0]
            for records in (one, other)
        ]
        left, right = sides
        row = partial(row_at_least, left.rows, right.rows, float(self.floors[cluster]))
        self._keep((left, right), row, self.products.map)
        counted = [dict(zip(*side.compared_before(cluster), strict=True)) for side in sides]
        before = sum(int(many) * int(counted[1].get(to, 0)) for to, many in counted[0].items())
        required = len(left.address) * len(right.address) - before
        done = left.rows.tiles * right.rows.tiles * left.rows.side**2
        return Counted(np.empty(0, TWIN), np.array([required, done, 0, 0], dtype=np.int64))

    def _keep(
        self, sides: tuple[Members, Members], work: Callable[[int], Found], spread: Spread
    ) -> None:
        """Find pairs in each tile of left rows."""

        def keep(tile: int) -> None:
            self.sink.add(_pairs(sides, work(tile)))

        for _ in spread(keep, range(sides[0].rows.tiles)):
            pass

    def _members(
        self, cluster: int, head: np.ndarray, rows: np.ndarray
    ) -> tuple[Members, np.ndarray]:
        """Who stands for itself, and the [T] TWIN of those whose nearest cluster this is."""
        label = head["cluster"].astype(np.uint64) << np.uint64(32) | head["second"]
        first = first_equal(rows, label)
        equal = (first != np.arange(len(first))) & ~self.twins.told(head)
        here = np.flatnonzero(equal & (head["cluster"] == cluster))
        twins = np.empty(len(here), dtype=TWIN)
        twins["member"], twins["of"] = head["address"][here], head["address"][first[here]]
        left = ~(equal | self.twins.has(head))
        if not left.all():
            head, rows = head[left], rows[left]
        other = np.where(head["cluster"] == cluster, head["second"], head["cluster"])
        return Members(head["address"], other, self.products.load(rows)), twins

    def _recall(self, head: np.ndarray, own: Loaded, spread: Spread) -> tuple[int, int]:
        """How many of these are as near to a query as the floor, and how many clusters tell."""
        mine = Numbers(head, NO_CLUSTER)
        asked = Numbers(self.queries, NO_CLUSTER - 1)  # who has no second meets nobody by it
        counts = spread(partial(self._recalled, mine, asked, own), range(own.tiles))
        total = np.sum([(0, 0), *counts], axis=0)
        return int(total[0]), int(total[1])

    def _recalled(self, mine: Numbers, asked: Numbers, own: Loaded, tile: int) -> tuple[int, int]:
        near = row_at_least(own, self.asked, self.rules.floor, tile)
        floor = np.full(len(near.value), np.inf, dtype=np.float32)
        for number in (mine.cluster[near.left], mine.second[near.left]):
            for other in (asked.cluster, asked.second):
                meet = np.flatnonzero(number == other[near.right])
                floor[meet] = np.minimum(floor[meet], self.floors[number[meet]])
        another = mine.address[near.left] != asked.address[near.right]
        return int(another.sum()), int((another & (near.value >= floor)).sum())


class Numbers:
    """Who records are and in which clusters, each contiguous: many rows are taken of them."""

    def __init__(self, records: np.ndarray, no_second: int) -> None:
        self.address = np.ascontiguousarray(records["address"])
        self.cluster = np.ascontiguousarray(records["cluster"])
        second = records["second"]
        self.second = np.where(second == NO_CLUSTER, np.uint32(no_second), second)


def _members(records: np.ndarray, clusters: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(cluster, places of its members) of a partition's records."""
    number = np.concatenate([records["cluster"], records["second"]])
    order = np.argsort(number, kind="stable")
    ends = [np.searchsorted(number[order], clusters, side=side) for side in ("left", "right")]
    for cluster, start, stop in zip(
        clusters.tolist(), *(end.tolist() for end in ends), strict=True
    ):
        yield cluster, order[start:stop] % max(len(records), 1)


def _in_order(records: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([M] HEAD, [M, D] float32 of length 1) of some records, in the order of their uids."""
    head = np.empty(len(places), dtype=HEAD)
    for name, _ in HEAD:
        head[name] = records[name][places]
    order = np.lexsort((head["address"], head["f1"], head["f0"]))
    return head[order], unit(records["vector"][places[order]])[0]


def _pairs(sides: tuple[Members, Members], found: Found) -> np.ndarray:
    """[P] PAIR of what was found between members."""
    left, right = sides
    made = np.empty(len(found.left), dtype=PAIR)
    made["left"], made["right"] = left.address[found.left], right.address[found.right]
    made["value"] = found.value
    return made
