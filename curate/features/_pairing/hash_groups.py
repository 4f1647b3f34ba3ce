"""Hashes brought together: equal ones first, then those that are equal in a band of their bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate import pairs, storage
from curate.features._pairing import hamming
from curate.pairs import PAIR, TWIN
from curate.shuffle import Exchange

AT_ONCE = 8_000_000  # entries that a task compares with each other: 1 GB while it does
ROWS_PER_GROUP = 4_000_000  # of entries that are equal in a band, about
REACH = 32_768  # entries of equal bands that each one is compared with
_TASKS = 32  # that share the tables, where all entries fit into one

# A hash to be compared, and the sample that it stands for. `own` is that sample's own hash, and
# differs from `hash` where that is of the mirrored picture.
ENTRY = np.dtype([("hash", "<u8"), ("own", "<u8"), ("address", "<u8")])


def once(url: str, make: Callable[[], Any]) -> Any:
    """The JSON value of a file; made first, where a search that was stopped did not come so far."""
    if not storage.exists(url):
        storage.commit_json(url, make())
    return storage.read_json(url)


def state(folder: str, task: str) -> str:
    """The file that says that a task of a search is done."""
    return storage.join(folder, "state", f"{task}.json")


def clear(folder: str) -> None:
    """Delete what only a search needs."""
    for name in ("bands", "entries", "state"):
        storage.remove(storage.join(folder, name))


def collapse(there: Exchange, folder: str, partition: int) -> dict[str, int]:
    """Make twins of samples with equal hashes; the one with the smallest uid is an entry.

    Returns:
        Counts: `hashed` (samples), `distinct` (hashes), `entries` (those, and mirrored ones), and
        the `commonest` hash with its `copies`.
    """
    records = there.read(partition)
    keys = (records["address"], records["f1"], records["f0"], records["hash"])
    records = records[np.lexsort(keys)]
    starts = np.flatnonzero(np.r_[True, records["hash"][1:] != records["hash"][:-1]])
    starts = starts[: len(records)]
    sizes = np.diff(np.r_[starts, len(records)])
    firsts = np.repeat(starts, sizes)
    twin = firsts != np.arange(len(records))
    twins = np.empty(int(twin.sum()), dtype=TWIN)
    twins["member"], twins["of"] = records["address"][twin], records["address"][firsts[twin]]
    pairs.write(folder, partition, np.empty(0, PAIR), twins)
    entries = np.empty(len(starts), dtype=ENTRY)
    entries["hash"] = entries["own"] = records["hash"][starts]
    entries["address"] = records["address"][starts]
    if "mirrored" in (records.dtype.names or ()):
        entries = np.concatenate([entries, _mirrored(records, firsts)])
    storage.commit_array(_entries(folder, partition), entries)
    told = {"hashed": len(records), "distinct": len(starts), "entries": len(entries)}
    if not len(starts):
        return {**told, "commonest": 0, "copies": 0}
    commonest = int(np.argmax(sizes))
    hash_ = int(records["hash"][starts[commonest]])
    return {**told, "commonest": hash_, "copies": int(sizes[commonest])}


def _mirrored(records: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """[M] ENTRY of mirrored pictures: each hash once for all twins."""
    found = np.empty(len(records), dtype=ENTRY)
    found["hash"], found["own"] = records["mirrored"], records["hash"]
    found["address"] = records["address"][firsts]
    return np.unique(found[found["hash"] != found["own"]])


def _entries(folder: str, partition: int) -> str:
    return storage.join(folder, "entries", f"{partition:05d}.npy")


@dataclass(frozen=True)
class Plan:
    """How entries meet: all of them in each task, or those that are equal in one of some bands."""

    folder: str
    files: int  # of entries
    entries: int
    radius: int
    groups: int  # partitions of each band; 0 where all entries fit into a task

    @staticmethod
    def of(folder: str, files: int, entries: int, radius: int) -> Plan:
        """The plan for so many entries in so many files."""
        groups = 0 if entries <= AT_ONCE else -(-entries // ROWS_PER_GROUP)
        return Plan(folder, files, entries, radius, groups)

    @property
    def bands(self) -> list[int]:
        """Masks, in one of which a pair has equal bits; () where entries need not travel."""
        return hamming.bands(self.radius + 1) if self.groups else []

    def exchange(self, band: int) -> Exchange:
        """Entries on their way to where those are that are equal in a band."""
        folder = storage.join(self.folder, "bands", f"{band:02d}")
        return Exchange(folder, self.files, self.groups)

    @property
    def spreads(self) -> int:
        """Tasks of `spread`."""
        return len(self.bands) * self.files

    @property
    def matches(self) -> int:
        """Tasks of `match`."""
        if self.groups:
            return len(self.bands) * self.groups
        return min(len(hamming.tables(self.radius, self.entries)), _TASKS)

    def share(self, task: int) -> tuple[np.ndarray, list[hamming.Table]]:
        """([N] ENTRY by hash, the tables that a task of `match` sorts them by)."""
        if self.groups:
            band, group = divmod(task, self.groups)
            entries = _in_order(self.exchange(band).read(group))
            mask = self.bands[band]
            alike = len(entries) // max(1, len(np.unique(entries["hash"] & np.uint64(mask))))
            return entries, hamming.tables(self.radius, alike, mask, self.bands[:band])
        files = (_entries(self.folder, file) for file in range(self.files))
        entries = _in_order(np.concatenate([storage.read_array(file) for file in files]))
        return entries, hamming.tables(self.radius, self.entries)[task :: self.matches]


def _in_order(entries: np.ndarray) -> np.ndarray:
    if (entries["hash"] == entries["own"]).all():  # then no two hashes are equal
        return np.asarray(entries[np.argsort(entries["hash"])])
    return np.asarray(entries[np.lexsort((entries["own"], entries["hash"]))])


def spread(plan: Plan, task: int) -> None:
    """Send the entries of a file to where those are that are equal in a band."""
    once(state(plan.folder, f"spread-{task:06d}"), lambda: _spread(plan, task))


def _spread(plan: Plan, task: int) -> None:
    band, file = divmod(task, plan.files)
    entries = storage.read_array(_entries(plan.folder, file))
    values = entries["hash"] & np.uint64(plan.bands[band])
    plan.exchange(band).write(file, entries, pairs.partition_of(values, plan.groups))


def match(plan: Plan, limit: int, task: int) -> tuple[int, int]:
    """Write the pairs of a task.

    Args:
        plan: How entries meet.
        limit: Of an entry with more pairs than this, the nearest stay.
        task: Its number.

    Returns:
        (pairs beyond the limit, comparisons left out).
    """
    done = state(plan.folder, f"match-{task:06d}")
    beyond, left_out = once(done, lambda: _match(plan, limit, task))
    return beyond, left_out


def _match(plan: Plan, limit: int, task: int) -> tuple[int, int]:
    entries, tables = plan.share(task)
    hashes = np.ascontiguousarray(entries["hash"])
    found, left_out = hamming.Nearest(len(hashes), limit), 0
    for table in tables:
        buckets = hamming.Buckets.of(hashes, table, REACH)
        left_out += buckets.left_out(REACH)
        for some in hamming.matches(hashes, plan.radius, table, buckets, REACH):
            found.add(_meant(entries, some))
    kept = found.kept()
    told = np.empty(len(kept), dtype=PAIR)
    told["left"], told["right"] = (entries["address"][kept[end]] for end in ("left", "right"))
    told["value"] = kept["distance"]
    pairs.write(plan.folder, plan.files + task, told, np.empty(0, TWIN))
    return found.seen - len(kept), left_out


def _meant(entries: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Those of [M] MATCH of two samples, of which one at most is mirrored."""
    left, right = entries[found["left"]], entries[found["right"]]
    upright = (left["hash"] == left["own"]) | (right["hash"] == right["own"])
    return np.asarray(found[upright & (left["own"] != right["own"])])
