"""The samples of a subset in one input shard: found, blurred where they must be, and written down.

What a shard gives lies in a few small files of the work folder; the last one is the proof.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from curate import storage
from curate.resharding import faces, membership
from curate.resharding.blur import Blur
from curate.resharding.faces import Lost
from curate.sample import UID
from curate.shards import shard
from curate.shards.shard import TarIndex
from curate.shards.shard_uids import read_uids
from curate.subsets import subset

SAMPLE_IDS = "sample_ids.npy"
_SHARDS_PER_FOLDER = 1000


@dataclass(frozen=True)
class Found:
    """What one input shard gave, in numbers."""

    number: int
    url: str
    fingerprint: str
    samples: int  # with a uid and a picture
    origins: dict[str, int]  # where their uids came from
    passed_over: dict[str, int]  # samples that no subset can mean, by reason
    damage: str | None  # why an unknown number of samples is not there
    rows: int  # samples in the subset, but for the lost ones
    blurred: int  # of these rows
    faces_unknown: int  # rows whose JSON says nothing about faces
    lost: tuple[Lost, ...]


@dataclass(frozen=True)
class FoundRows:
    """The K rows of an input shard that are in the subset, in row order."""

    summary: Found
    uids: np.ndarray  # [K] UID
    position: np.ndarray  # [K] int64, the first row of the subset that holds the uid
    copies: np.ndarray  # [K] int64, how often it does
    part: np.ndarray  # [K] uint8, 1 where the sample was blurred
    keys: Sequence[str]  # [K]


@dataclass(frozen=True)
class Search:
    """What is looked for in every input shard; the same for every worker."""

    out: str
    work: str
    fingerprint: str
    blur: Blur | None = None
    boxes: str | None = None  # folder of a BoxTable

    def __call__(self, item: tuple[int, str]) -> Found:
        """Look through one input shard, (number, tar), unless that was done before.

        Raises:
            ConfigError: a uid there is none, or a parquet cannot be read.
            StorageError: a file cannot be read or written.
        """
        number, url = item
        if storage.exists(proof(self.work, number)):
            done = load(self.work, number).summary
            if done.fingerprint == self.fingerprint:
                return done
        there = read_uids(url)
        ids = storage.join(self.out, SAMPLE_IDS)
        uids = _sample_ids(ids, storage.entry(ids).version)
        position, copies = membership.find(uids, there.uids)
        rows = np.flatnonzero(copies)
        wanted = faces.Wanted(url, there.uids[rows], [there.keys[i] for i in rows.tolist()])
        if there.index is not None and there.rows is not None:
            wanted = wanted.with_index(_restricted(there.index, there.rows[rows]))
        blurring = self._blur(wanted, number)
        stays = ~blurring.is_lost
        rows, part = rows[stays], blurring.is_blurred[stays].astype(np.uint8)
        if wanted.index is not None:
            shard.save_index(index_of_part(self.work, number, 0), wanted.index)
        found = Found(
            number=number,
            url=url,
            fingerprint=self.fingerprint,
            samples=len(there.keys),
            origins={str(origin): count for origin, count in there.origins.items()},
            passed_over=there.passed_over,
            damage=there.damage,
            rows=len(rows),
            blurred=int(part.sum()),
            faces_unknown=blurring.unknown,
            lost=blurring.lost,
        )
        keys = [there.keys[i] for i in rows.tolist()]
        _save(
            self.work, FoundRows(found, there.uids[rows], position[rows], copies[rows], part, keys)
        )
        return found

    def _blur(self, wanted: faces.Wanted, number: int) -> faces.Blurring:
        if self.blur is None or not len(wanted.keys):
            return faces.unchanged(wanted)
        tar = blurred_tar(self.work, number)
        blurring = faces.blur_samples(wanted, self.blur, self.boxes, tar)
        if blurring.is_blurred.any():
            shard.save_index(index_of_part(self.work, number, 1), shard.scan(tar))
        return blurring


@lru_cache(maxsize=1)
def _sample_ids(url: str, version: str) -> np.ndarray:
    """The subset, mapped, or read once by a worker where it is not local."""
    del version  # another version is another subset
    return subset.load(url)


def _restricted(index: TarIndex, rows: np.ndarray) -> TarIndex:
    """The index of some of a tar's samples, [K] in order."""
    starts, counts = index.first[rows], index.first[rows + 1] - index.first[rows]
    first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    members = np.repeat(starts - first[:-1], counts) + np.arange(first[-1])
    return TarIndex(
        url=index.url,
        keys=[index.keys[row] for row in rows.tolist()],
        first=first,
        extensions=index.extensions,
        extension=index.extension[members],
        offset=index.offset[members],
        size=index.size[members],
        truncated=index.truncated,
        end=index.end,
    )


def _stem(work: str, number: int) -> str:
    return storage.join(work, "found", f"{number // _SHARDS_PER_FOLDER:04d}", f"{number:08d}")


def proof(work: str, number: int) -> str:
    """What is written last of an input shard."""
    return f"{_stem(work, number)}.npz"


def index_of_part(work: str, number: int, part: int) -> str:
    """The saved index of the tar itself (0), or of its blurred samples (1)."""
    return f"{_stem(work, number)}-{part}.npz"


def blurred_tar(work: str, number: int) -> str:
    """The blurred samples of an input shard, whole."""
    return f"{_stem(work, number)}-blurred.tar"


def _save(work: str, found: FoundRows) -> None:
    text = {"summary": asdict(found.summary), "keys": list(found.keys)}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text=np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
        uids=found.uids.view(np.uint64),
        position=found.position,
        copies=found.copies,
        part=found.part,
    )
    storage.commit(proof(work, found.summary.number), buffer.getvalue())


def positions(work: str, number: int) -> np.ndarray:
    """[K] int64 `FoundRows.position` alone."""
    with np.load(io.BytesIO(storage.read(proof(work, number))), allow_pickle=False) as arrays:
        found: np.ndarray = arrays["position"]
        return found


def load(work: str, number: int) -> FoundRows:
    """What a search wrote down of one input shard."""
    with np.load(io.BytesIO(storage.read(proof(work, number))), allow_pickle=False) as arrays:
        text: dict[str, Any] = json.loads(arrays["text"].tobytes())
        lost = tuple(Lost(**each) for each in text["summary"].pop("lost"))
        return FoundRows(
            summary=Found(**text["summary"], lost=lost),
            uids=arrays["uids"].view(UID),
            position=arrays["position"],
            copies=arrays["copies"],
            part=arrays["part"],
            keys=text["keys"],
        )
