"""How the copies that a subset asks for are shared out among the samples that bear the uid."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from curate import storage
from curate.resharding import finding
from curate.sample import UID
from curate.write import Kept

_CHUNK = 16_000_000  # uids of the subset looked at at once
_SHARED = "shared.npz"


@dataclass(frozen=True)
class Shared:
    """Rows of the pool whose uid another row there has too."""

    position: np.ndarray  # [D] int64, sorted: first row in the subset of each such uid
    bearers: np.ndarray  # [D] int64, samples that have it, at least 2
    address: np.ndarray  # [R] uint64, sorted: shard << 32 | row of all bearers but the first
    nth: np.ndarray  # [R] int64, how many bearers come before


def allot(work: str, shards: int, subset: np.ndarray) -> np.ndarray:
    """Find uids that several samples bear, and count the bearers of each uid of a sorted subset.

    The driver holds 4 bytes for each uid of the subset, and 16 for each bearer but the first.

    Returns:
        [N] uint32, at the first row of each uid in the subset: samples that bear it.
    """
    bearers = np.zeros(len(subset), dtype=np.uint32)
    addresses, nths = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for number in range(shards):
        position = finding.positions(work, number)
        nth = bearers[position] + _ranks(position)
        np.add.at(bearers, position, np.uint32(1))
        later = np.flatnonzero(nth)
        addresses.append((np.uint64(number) << np.uint64(32)) + later.astype(np.uint64))
        nths.append(nth[later].astype(np.int64))
    several = np.flatnonzero(bearers > 1)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        position=several,
        bearers=bearers[several].astype(np.int64),
        address=np.concatenate(addresses),
        nth=np.concatenate(nths),
    )
    storage.commit(storage.join(work, _SHARED), buffer.getvalue())
    return bearers


def _ranks(values: np.ndarray) -> np.ndarray:
    """[K] how many earlier elements equal each one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return ranks


def missing(subset: np.ndarray, bearers: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of a sorted subset whose uid no sample bears, UID in pieces, in order."""
    start = 0
    while start < len(subset):
        stop = min(start + _CHUNK, len(subset))
        piece = np.asarray(subset[start:stop])
        while stop < len(subset) and subset[stop] == piece[-1]:  # a uid's rows stay together
            piece = np.append(piece, subset[stop : stop + 1])
            stop += 1
        new = np.append(
            True, (piece["f0"][1:] != piece["f0"][:-1]) | (piece["f1"][1:] != piece["f1"][:-1])
        )
        first = np.maximum.accumulate(np.where(new, np.arange(len(piece)), 0))
        yield piece[bearers[start:stop][first] == 0]
        start = stop


@dataclass(frozen=True)
class FoundCatalogue:
    """The samples of a subset in all input shards; the same for every worker.

    Of m copies, each of n bearers gets m // n, and the first m % n in pool order one more: a subset
    made from a pool in which two samples share a uid is written as it was selected.
    """

    work: str
    shards: int

    def kept(self, shard: int) -> Kept:
        """The rows of one input shard that get a copy, in row order."""
        found = finding.load(self.work, shard)
        copies, first = self._shares(shard, found.position, found.copies)
        rows = np.flatnonzero(copies)
        tars: tuple[str, ...] = (found.summary.url,)
        if found.part.any():
            tars = (*tars, finding.blurred_tar(self.work, shard))
        saved = [finding.index_of_part(self.work, shard, part) for part in range(len(tars))]
        return Kept(
            uids=found.uids[rows].view(UID),
            copies=copies[rows].astype(np.uint32),
            first_copy=first[rows].astype(np.uint32),
            tars=tars,
            part=found.part[rows],
            keys=[found.keys[row] for row in rows.tolist()],
            indexes=tuple(saved) if storage.is_local(found.summary.url) else (),
        )

    def _shares(
        self, shard: int, position: np.ndarray, asked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """([K] copies of each row, [K] the number of the first)."""
        url = storage.join(self.work, _SHARED)
        shared = _load(url, storage.entry(url).version)
        bearers = np.ones(len(position), dtype=np.int64)
        _fill(bearers, shared.position, position, shared.bearers)
        nth = np.zeros(len(position), dtype=np.int64)
        rows = np.arange(len(position), dtype=np.uint64)
        addresses = (np.uint64(shard) << np.uint64(32)) + rows
        _fill(nth, shared.address, addresses, shared.nth)
        share, rest = np.divmod(asked, bearers)
        return share + (nth < rest), nth * share + np.minimum(nth, rest)


def _fill(target: np.ndarray, names: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> None:
    """Set the elements whose name is among sorted `names`."""
    if not len(names):
        return
    place = np.searchsorted(names, wanted).clip(max=len(names) - 1)
    there = names[place] == wanted
    target[there] = values[place[there]]


@lru_cache(maxsize=1)
def _load(url: str, version: str) -> Shared:
    """The table, read once by a worker."""
    del version  # another version is another table
    with np.load(io.BytesIO(storage.read(url)), allow_pickle=False) as arrays:
        return Shared(**{name: arrays[name] for name in arrays.files})
