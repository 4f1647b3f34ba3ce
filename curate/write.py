"""The kept samples as WebDataset shards: their order is planned, then bytes are copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curate import storage
from curate.errors import StorageError

TAR_NAME = "{:08d}.tar"
STATS_NAME = "{:08d}_stats.json"
_ROUNDS = 4  # passes over the pool; a sample of up to so many copies has one in each
_LAPS = 64  # copies of one sample that are spread over one pass of a round
_SHARDS_PER_COUNT = 1000


class Write(BaseModel):
    """Write the samples kept so far as WebDataset shards, every image with its original bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1  # rises when the bytes written change

    name: str = "write"
    samples_per_shard: int = Field(10_000, ge=1, description="samples of one output shard")
    columns: tuple[str, ...] = Field(
        (), description="columns that are added to each sample's JSON, by their full names"
    )


@dataclass(frozen=True)
class Kept:
    """The K kept rows of one input shard, in row order; tar by tar where metadata has many."""

    uids: np.ndarray  # [K] UID
    copies: np.ndarray  # [K] uint32, at least 1
    first_copy: (
        np.ndarray
    )  # [K] uint32: number of the first copy; > 0 where a row before has the uid
    tars: tuple[str, ...]  # the shard's tar and what --retry-failed added to it
    part: np.ndarray  # [K] integer, index into `tars`
    keys: Sequence[str]  # [K] the sample's key in its tar
    indexes: tuple[str, ...] = ()  # saved TarIndex of each tar, where there are any
    added: Sequence[str] = ()  # [K] a JSON object each that is added to the sample's, or none


class Catalogue(Protocol):
    """Which samples were kept, by input shard; picklable, and the same for every worker."""

    @property
    def shards(self) -> int:
        """Number of input shards."""

    def kept(self, shard: int) -> Kept:
        """The kept rows of one of them."""


@dataclass(frozen=True)
class Counted:
    """How many samples of an input shard have a copy for a lap of each round; P pairs."""

    rows: int  # kept rows of all the shards counted
    shard: np.ndarray  # [P] uint32
    lap: np.ndarray  # [P] uint32
    counts: np.ndarray  # [P, 4] uint32


Mapper = Callable[[Callable[[range], Counted], Iterable[range]], Iterable[Counted]]


@dataclass(frozen=True)
class Cut:
    """What one output shard is made of: consecutive pieces of the order."""

    number: int
    fingerprint: str
    skip: int  # samples of the first piece that belong to the output shard before
    samples: int
    rounds: np.ndarray  # [C] uint8
    laps: np.ndarray  # [C] uint32
    shards: np.ndarray  # [C] uint32, input shards


@dataclass(frozen=True)
class WritePlan:
    """The order of all copies, as P pieces of one (round, lap, input shard) each.

    The driver holds 17 bytes a piece: one piece an input shard, or four where there are copies.
    """

    samples_per_shard: int
    fingerprint: str
    rows: int  # kept rows; each is written as often as it has copies
    rounds: np.ndarray  # [P] uint8
    laps: np.ndarray  # [P] uint32
    input_shards: np.ndarray  # [P] uint32
    end: np.ndarray  # [P] int64, samples up to the end of each piece

    @property
    def samples(self) -> int:
        """Copies in all."""
        return int(self.end[-1]) if len(self.end) else 0

    @property
    def shards(self) -> int:
        """Output shards."""
        return -(-self.samples // self.samples_per_shard)

    def samples_in(self, number: int) -> int:
        """Samples of one output shard; all but the last are full."""
        return min(self.samples_per_shard, self.samples - number * self.samples_per_shard)

    def cut(self, number: int) -> Cut:
        """What a worker needs to write one output shard: small, whatever the size of the plan."""
        start = number * self.samples_per_shard
        samples = self.samples_in(number)
        first, last = np.searchsorted(self.end, [start, start + samples - 1], side="right").tolist()
        pieces = slice(first, last + 1)
        return Cut(
            number=number,
            fingerprint=self.fingerprint,
            skip=start - (int(self.end[first - 1]) if first else 0),
            samples=samples,
            rounds=self.rounds[pieces].copy(),
            laps=self.laps[pieces].copy(),
            shards=self.input_shards[pieces].copy(),
        )


@dataclass(frozen=True)
class ShardResult:
    """One output shard as it was written."""

    number: int
    samples: int
    bytes: int


def plan_write(
    spec: Write, catalogue: Catalogue, fingerprint: str, mapper: Mapper = map
) -> WritePlan:
    """The order of all copies, the same for any number of workers.

    Input order; copy j of a sample goes to round j % 4. The copies that one sample has in a round
    are its laps: lap k of m comes k/m of the round further on, behind what the input shard there
    has. Laps beyond m, which is at most 64 and less than the number of input shards, pass through
    the round again.

    Args:
        spec: The step.
        catalogue: What was kept.
        fingerprint: Of the step and all that it reads: a shard with another one is written again.
        mapper: Applies a function to ranges of input shards, in any order: the runner's, so that
            workers do the counting.
    """
    ranges = (
        range(start, min(start + _SHARDS_PER_COUNT, catalogue.shards))
        for start in range(0, catalogue.shards, _SHARDS_PER_COUNT)
    )
    found = list(mapper(partial(count_copies, catalogue), ranges))
    shard, lap, counts = _concatenated(found)
    laps = min(int(lap.max(initial=0)) + 1, _LAPS, max(catalogue.shards - 1, 1))
    shift = (lap % laps).astype(np.int64) * catalogue.shards // laps
    order = np.lexsort((shard, lap, (shard + shift) % catalogue.shards, lap // laps))
    pieces = [order[counts[order, r] > 0] for r in range(_ROUNDS)]
    sizes = [counts[piece, r] for r, piece in enumerate(pieces)]
    every = np.concatenate(pieces)
    return WritePlan(
        samples_per_shard=spec.samples_per_shard,
        fingerprint=fingerprint,
        rows=sum(counted.rows for counted in found),
        rounds=np.repeat(np.arange(_ROUNDS, dtype=np.uint8), [len(piece) for piece in pieces]),
        laps=lap[every],
        input_shards=shard[every],
        end=np.cumsum(np.concatenate(sizes), dtype=np.int64),
    )


def _concatenated(found: Sequence[Counted]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    none = np.zeros(0, dtype=np.uint32)
    return (
        np.concatenate([none, *(counted.shard for counted in found)]),
        np.concatenate([none, *(counted.lap for counted in found)]),
        np.concatenate([none.reshape(0, _ROUNDS), *(counted.counts for counted in found)]),
    )


def count_copies(catalogue: Catalogue, shards: range) -> Counted:
    """Count the copies of some input shards by lap and round."""
    rows = 0
    found = []
    for shard in shards:
        kept = catalogue.kept(shard)
        rows += len(kept.copies)
        counts = _counts(kept)
        place = np.full((len(counts), 2), shard)
        place[:, 1] = np.arange(len(counts))
        found.append(np.concatenate([place, counts], axis=1).astype(np.uint32))
    table = np.concatenate([np.zeros((0, 2 + _ROUNDS), dtype=np.uint32), *found])
    return Counted(rows, table[:, 0], table[:, 1], table[:, 2:])


def _counts(kept: Kept) -> np.ndarray:
    """[L, 4] rows that have a copy in each of L laps of each round: how many `rows_of` gives."""
    laps = -(-int(kept.copies.max(initial=0)) // _ROUNDS)
    counts = np.empty((laps, _ROUNDS), dtype=np.int64)
    for round_ in range(_ROUNDS):
        skipped = (round_ - kept.first_copy.astype(np.int64)) % _ROUNDS  # [K]
        own_laps = (np.maximum(kept.copies - skipped, 0) + _ROUNDS - 1) // _ROUNDS  # [K]
        at_most = np.cumsum(np.bincount(own_laps, minlength=laps + 1))  # [L + 1]
        counts[:, round_] = len(own_laps) - at_most[:laps]
    return counts


def rows_of(kept: Kept, lap: int, round_: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a copy in a lap of a round, and the numbers of these copies."""
    first = kept.first_copy.astype(np.int64)
    nth = _ROUNDS * lap + (round_ - first) % _ROUNDS  # [K] which of the row's copies that would be
    rows = np.flatnonzero(nth < kept.copies)
    return rows, (first + nth)[rows]


def finish(plan: WritePlan, results: Iterable[ShardResult], folder: str) -> None:
    """Write `sizes.json`, `meta.json` and, last, `manifest.json`: the proof that all is there.

    Raises:
        StorageError: the folder holds output shards that are not of this plan.
    """
    sizes = np.full(plan.shards, -1, dtype=np.int64)  # bytes
    for result in results:
        assert result.samples == plan.samples_in(result.number), result
        sizes[result.number] = result.bytes
    assert (sizes >= 0).all(), (
        f"output shards {np.flatnonzero(sizes < 0).tolist()} were not written"
    )
    tars = [TAR_NAME.format(number) for number in range(plan.shards)]
    _refuse_others(folder, set(tars))
    samples = [plan.samples_in(number) for number in range(plan.shards)]
    storage.commit_json(storage.join(folder, "sizes.json"), dict(zip(tars, samples, strict=True)))
    meta = {
        "output_count": plan.samples,
        "output_shard_count": plan.shards,
        "output_shard_format": TAR_NAME,
        "output_shard_stats_format": STATS_NAME,
        "processed_count": plan.rows,
        "shard_size": plan.samples_per_shard,
        "shard_table": "sizes.json",
    }
    storage.commit_json(storage.join(folder, "meta.json"), meta)
    manifest = {
        "fingerprint": plan.fingerprint,
        "shards": plan.shards,
        "samples": plan.samples,
        "rows": plan.rows,
        "bytes": dict(zip(tars, sizes.tolist(), strict=True)),
    }
    storage.commit_json(storage.join(folder, "manifest.json"), manifest)


def all_written(folder: str) -> bool:
    """Whether a sealed folder still has every tar that its manifest names."""
    manifest = storage.join(folder, "manifest.json")
    if not storage.exists(manifest):
        return False
    return set(storage.read_json(manifest)["bytes"]) <= set(storage.names(folder))


def _refuse_others(folder: str, tars: set[str]) -> None:
    others = [name for name in storage.names(folder) if name.endswith(".tar") and name not in tars]
    if others:
        raise StorageError(
            f"{folder} holds {len(others)} tars of another selection, {others[0]} for one: a "
            "reader that takes all tars there would mix them in; remove them and run again"
        )
