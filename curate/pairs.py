"""Pairs of samples that are alike: from the tasks that found them to connected parts on disk.

A fitted feature of pairs writes what each of its tasks found, settles it, and looks its columns up;
a filter over the pairs then reads one partition at a time, which holds whole parts. Samples that
are the same for the feature (equal embeddings, equal hashes) are twins of one of them, and pairs
are told of that one alone: a thousand copies are a thousand twins, not half a million pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from curate import storage
from curate.shuffle import Exchange, partitions

if TYPE_CHECKING:
    from curate.features import Rows

PAIR = np.dtype([("left", "<u8"), ("right", "<u8"), ("value", "<f4")])  # addresses of two samples
TWIN = np.dtype([("member", "<u8"), ("of", "<u8")])  # addresses; `of` is no member itself
VERTEX = np.dtype([("address", "<u8"), ("part", "<u8")])  # part: the smallest address in it
MEMBER = np.dtype([("address", "<u8"), ("part", "<u8"), ("count", "<u4"), ("nearest", "<f4")])

COUNTS = ("pairs", "twins", "parts", "largest_part", "samples_with_neighbours")

Better = Literal["highest", "lowest"]  # which value of a pair is the nearer: similarity, distance


def write(folder: str, task: int, pairs: np.ndarray, twins: np.ndarray) -> None:
    """Commit what one task found.

    Args:
        folder: The artefact's folder.
        task: Its number.
        pairs: [P] PAIR in any order; another task may find the same, with the same value.
        twins: [T] TWIN; another task may find the same. `of` is the same in all tasks.
    """
    found = pairs.copy()
    found["left"] = np.minimum(pairs["left"], pairs["right"])
    found["right"] = np.maximum(pairs["left"], pairs["right"])
    storage.commit_array(_found(folder, "pairs", task), found)
    storage.commit_array(_found(folder, "twins", task), twins)


def _found(folder: str, kind: str, task: int) -> str:
    return storage.join(folder, "found", f"{kind}-{task:06d}.npy")


def settle(rows: Rows, folder: str, tasks: int, better: Better) -> dict[str, int]:
    """Join what the tasks found to connected parts, each whole in one partition.

    The driver holds some 130 bytes for each sample that has a neighbour, of which there may be up
    to 2**31; a task holds one partition, and who is in which part.

    Args:
        rows: What runs tasks.
        folder: The artefact's folder; what `write` left there is removed.
        tasks: How many tasks have written.
        better: Whether the highest value is the nearest.

    Returns:
        Counts: `pairs`, `twins`, `parts`, `largest_part`, `samples_with_neighbours`.
    """
    settled = storage.join(folder, "pairs.json")
    if storage.exists(settled):  # by a search that was stopped right after
        return {name: made for name, made in storage.read_json(settled).items() if name in COUNTS}
    for _ in rows.each(partial(_forest, folder), range(tasks)):
        pass
    forests = [storage.read_array(_found(folder, "forest", task)) for task in range(tasks)]
    vertices = _parts(np.concatenate([np.empty(0, VERTEX), *forests]))
    storage.commit_array(storage.join(folder, "found", "parts.npy"), vertices)
    sizes = [storage.size(_found(folder, "pairs", task)) for task in range(tasks)]
    readers = partitions(sum(sizes), 1)
    blocks = int(vertices["address"].max() >> np.uint64(32)) + 1 if len(vertices) else 0
    there = Exchange(storage.join(folder, "found", "there"), tasks, readers)
    twins = Exchange(storage.join(folder, "found", "twins"), tasks, readers)
    back = Exchange(storage.join(folder, "found", "back"), readers, blocks)
    for _ in rows.each(partial(_send, folder, there, twins), range(tasks)):
        pass
    totals = [0, 0]
    settle_one = partial(_settle, folder, (there, twins, back), better)
    for found in rows.each(settle_one, range(readers)):
        totals = [total + more for total, more in zip(totals, found, strict=True)]
    for _ in rows.each(partial(_members, folder, back), range(blocks)):
        pass
    labels, counts = np.unique(vertices["part"], return_counts=True)
    made = {
        "pairs": totals[0],
        "twins": totals[1],
        "parts": len(labels),
        "largest_part": int(counts.max()) if len(counts) else 0,
        "samples_with_neighbours": len(vertices),
    }
    storage.commit_json(settled, {**made, "partitions": readers})
    storage.remove(storage.join(folder, "found"))
    return made


def _union(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[V] VERTEX, sorted by address, of the connected parts of edges between [E] addresses."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return np.empty(0, dtype=VERTEX)
    addresses, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    one, other = places[: len(left)], places[len(left) :]
    shape = (len(addresses), len(addresses))
    links = coo_array((np.ones(len(left), dtype=np.uint8), (one, other)), shape=shape)
    count, label = connected_components(links, directed=False)
    first = np.full(count, len(addresses), dtype=np.int64)
    np.minimum.at(first, label, np.arange(len(addresses)))
    vertices = np.empty(len(addresses), dtype=VERTEX)
    vertices["address"], vertices["part"] = addresses, addresses[first[label]]
    return vertices


def _read_found(folder: str, task: int) -> tuple[np.ndarray, np.ndarray]:
    pairs, twins = (storage.read_array(_found(folder, kind, task)) for kind in ("pairs", "twins"))
    return np.asarray(pairs), np.asarray(twins)


def _forest(folder: str, task: int) -> None:
    """Commit the [V] VERTEX of a task's finds: only who is in which part matters from here on."""
    pairs, twins = _read_found(folder, task)
    forest = _union(
        np.concatenate([pairs["left"], twins["member"]]),
        np.concatenate([pairs["right"], twins["of"]]),
    )
    storage.commit_array(_found(folder, "forest", task), forest)


def _parts(forest: np.ndarray) -> np.ndarray:
    """[V] VERTEX of all tasks' parts together."""
    return _union(forest["address"], forest["part"])


def partition_of(parts: np.ndarray, partitions: int) -> np.ndarray:
    """[N] int64: where [N] uint64 parts are; a whole part is in one place."""
    mixed = (parts ^ (parts >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((mixed >> np.uint64(33)) % np.uint64(partitions), dtype=np.int64)


def _send(folder: str, there: Exchange, twins_there: Exchange, task: int) -> None:
    vertices = storage.read_array(storage.join(folder, "found", "parts.npy"))
    pairs, twins = _read_found(folder, task)
    for exchange, records, end in ((there, pairs, "left"), (twins_there, twins, "member")):
        place = np.searchsorted(vertices["address"], records[end])
        exchange.write(task, records, partition_of(vertices["part"][place], exchange.readers))


def _settle(
    folder: str, legs: tuple[Exchange, Exchange, Exchange], better: Better, partition: int
) -> tuple[int, int]:
    """Commit a partition's pairs, each once, between samples that are nobody's twin."""
    there, twins_there, back = legs
    pairs, twins = there.read(partition), np.unique(twins_there.read(partition))
    pairs = _once(_between_representatives(pairs, twins), better)
    storage.commit_array(_settled(folder, "pairs", partition), pairs)
    storage.commit_array(_settled(folder, "twins", partition), twins)
    vertices = storage.read_array(storage.join(folder, "found", "parts.npy"))
    members = _described(pairs, twins, better)
    place = np.searchsorted(vertices["address"], members["address"])
    members["part"] = vertices["part"][place]
    back.write(partition, members, (members["address"] >> np.uint64(32)).astype(np.int64))
    return len(pairs), len(twins)


def _settled(folder: str, kind: str, partition: int) -> str:
    return storage.join(folder, f"{kind}-{partition:05d}.npy")


def _between_representatives(pairs: np.ndarray, twins: np.ndarray) -> np.ndarray:
    ends = np.stack([representative(pairs[end], twins) for end in ("left", "right")])
    told = pairs.copy()
    told["left"], told["right"] = ends.min(axis=0), ends.max(axis=0)
    return np.asarray(told[told["left"] != told["right"]])


def representative(addresses: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """[N] uint64: whose twin each of [N] addresses is, or itself; [T] TWIN sorted by member."""
    if not len(twins):
        return addresses
    place = np.searchsorted(twins["member"], addresses).clip(max=len(twins) - 1)
    return np.where(twins["member"][place] == addresses, twins["of"][place], addresses)


def _once(pairs: np.ndarray, better: Better) -> np.ndarray:
    """Each pair once, with its best value, sorted by (left, right)."""
    value = -pairs["value"] if better == "highest" else pairs["value"]
    pairs = pairs[np.lexsort((value, pairs["right"], pairs["left"]))]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = (pairs["left"][1:] != pairs["left"][:-1]) | (
        pairs["right"][1:] != pairs["right"][:-1]
    )
    return pairs[first]


def _described(pairs: np.ndarray, twins: np.ndarray, better: Better) -> np.ndarray:
    """[M] MEMBER of all samples of a partition but for their parts, sorted by address."""
    own = np.unique(np.concatenate([pairs["left"], pairs["right"], twins["of"]]))
    place = {end: np.searchsorted(own, pairs[end]) for end in ("left", "right")}
    twin_of = np.searchsorted(own, twins["of"])
    size = 1 + np.bincount(twin_of, minlength=len(own))  # of a sample and its twins
    count, best = size - 1, np.full(len(own), -np.inf, dtype=np.float32)
    sign = np.float32(1 if better == "highest" else -1)
    for end, other in (("left", "right"), ("right", "left")):
        count = count + np.bincount(
            place[end], weights=size[place[other]], minlength=len(own)
        ).astype(np.int64)
        np.maximum.at(best, place[end], sign * pairs["value"])
    best *= sign
    best[size > 1] = 1.0 if better == "highest" else 0.0
    everybody = np.concatenate([own, twins["member"]])
    source = np.concatenate([np.arange(len(own)), twin_of])
    members = np.empty(len(everybody), dtype=MEMBER)
    members["address"], members["count"] = everybody, count[source]
    members["nearest"] = best[source]
    return members[np.argsort(everybody)]


def _members(folder: str, back: Exchange, block: int) -> None:
    found = back.read(block)
    storage.commit_array(_block(folder, block), found[np.argsort(found["address"])])


def _block(folder: str, block: int) -> str:
    return storage.join(folder, f"members-{block:05d}.npy")


def lookup(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """What gives [N] addresses of one block, ascending, [N] MEMBER; `count` is 0 for who has none.

    For one thread: it keeps the block that it read last.
    """
    known: dict[int, np.ndarray] = {}

    def look(addresses: np.ndarray) -> np.ndarray:
        found = np.zeros(len(addresses), dtype=MEMBER)
        found["address"] = addresses
        if not len(addresses):
            return found
        block = int(addresses[0] >> np.uint64(32))
        if block not in known:
            known.clear()
            there = storage.exists(_block(folder, block))
            known[block] = storage.read_array(_block(folder, block)) if there else found[:0]
        own = known[block]
        place = np.searchsorted(own["address"], addresses).clip(max=max(len(own) - 1, 0))
        if len(own):
            hit = own["address"][place] == addresses
            found[hit] = own[place[hit]]
        return found

    return look


@dataclass(frozen=True)
class Partitions:
    """Settled pairs, as a filter reads them."""

    folder: str
    count: int

    def read(self, partition: int) -> tuple[np.ndarray, np.ndarray]:
        """([P] PAIR sorted by (left, right), [T] TWIN sorted by member) of a partition."""
        pairs, twins = (
            np.asarray(storage.read_array(_settled(self.folder, kind, partition)))
            for kind in ("pairs", "twins")
        )
        return pairs, twins


def opened(folder: str) -> Partitions:
    """The settled pairs of an artefact's folder."""
    made = storage.read_json(storage.join(folder, "pairs.json"))
    return Partitions(folder, made["partitions"])
