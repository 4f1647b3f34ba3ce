"""Which samples a run kept, shard by shard, and where their files are: what `write` asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from curate import columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled
from curate.pools.shard_table import shards, table_version
from curate.pools.whereabouts import locate
from curate.sample import UID
from curate.write import Kept, Write
from filters import column

SHARED_UIDS = "state/shared_uids.npy"  # kept rows whose uid another kept row has too


@dataclass(frozen=True)
class LedgerCatalogue:
    """The kept samples of a run; the same for every worker."""

    plan: Compiled
    after: str  # the last verdict
    shards: int  # of the pool

    def kept(self, shard: int) -> Kept:
        """The kept rows of one input shard, in row order."""
        place = shards(*table_version(self.plan.work)).row(shard, named=True)
        span = Span(place["block"], place["offset"], place["offset"] + place["rows"])
        if not len(span):
            return _nothing(place["url"])
        work = self.plan.work
        found = fates.read(work, self.after, span)
        rows = found.rows
        place_of = (shard, place["url"])
        there = locate(self.plan, self.plan.registries[-1], span, place_of, rows)
        keys = there.keys
        if self.plan.download() is None:  # each tar is then read once, and one alone is open
            order = np.argsort(there.tar, kind="stable")
            rows, keys = rows[order], [keys[row] for row in order.tolist()]
            there = replace(there, tar=there.tar[order])
        addresses = (np.uint64(span.block) << np.uint64(32)) + (rows + span.start).astype(np.uint64)
        return Kept(
            uids=columns.uids(work, span)[rows],
            copies=found.copies[rows],
            first_copy=self._first_copies(addresses),
            tars=there.tars,
            part=there.tar,
            keys=keys,
            added=self._added(span, rows),
        )

    def _added(self, span: Span, rows: np.ndarray) -> list[str]:
        """[K] a JSON object each of the columns that `write` adds; [] where it adds none."""
        last = self.plan.steps[-1]
        names = last.columns if isinstance(last, Write) else ()
        if not names:
            return []
        frame = columns.load(self.plan.work, self.plan.registries[-1], names, span)[rows]
        flat = frame.select(column(name).alias(name) for name in names)
        return flat.select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list()

    def _first_copies(self, addresses: np.ndarray) -> np.ndarray:
        shared = storage.read_array(storage.join(self.plan.work, SHARED_UIDS))
        first = np.zeros(len(addresses), dtype=np.uint32)
        if len(shared):
            found = np.searchsorted(shared["address"], addresses).clip(max=len(shared) - 1)
            there = shared["address"][found] == addresses
            first[there] = shared["first"][found[there]]
        return first


def _nothing(url: str) -> Kept:
    none = np.zeros(0, dtype=np.uint32)
    return Kept(np.zeros(0, dtype=UID), none, none, (url,), none, [])
