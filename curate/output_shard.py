"""One output shard: the bytes of its samples are copied, then its stats prove that it is whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np

from curate import storage
from curate.errors import InputChanged
from curate.sample import format_uids
from curate.shards import bulk
from curate.shards.shard import TarIndex, TarSample, load_index, read_samples
from curate.write import STATS_NAME, TAR_NAME, Catalogue, Cut, Kept, ShardResult, rows_of


def write_shard(cut: Cut, catalogue: Catalogue, folder: str) -> ShardResult:
    """Write one output shard, then its stats as the proof; one that is there is left alone.

    Raises:
        InputChanged: a tar no longer holds a sample, or the selection is not the planned one.
        DamagedTar: a tar of the pool cannot be understood.
        StorageError: a file cannot be read or written.
    """
    tar = storage.join(folder, TAR_NAME.format(cut.number))
    stats = storage.join(folder, STATS_NAME.format(cut.number))
    written = _written(tar, stats, cut)
    if written is not None:
        return written
    with storage.committing(tar) as handle:
        size = bulk.write_members(handle, _members(cut, catalogue))
    proof = {"successes": cut.samples, "bytes": size, "fingerprint": cut.fingerprint}
    storage.commit_json(stats, proof)
    return ShardResult(cut.number, cut.samples, size)


def _written(tar: str, stats: str, cut: Cut) -> ShardResult | None:
    if not storage.exists(stats):
        return None
    proof = storage.read_json(stats)
    if proof.get("fingerprint") != cut.fingerprint or proof.get("successes") != cut.samples:
        return None
    if not storage.exists(tar) or storage.entry(tar).bytes != proof.get("bytes"):
        return None
    return ShardResult(cut.number, cut.samples, storage.entry(tar).bytes)


def ordered(cut: Cut, catalogue: Catalogue) -> Iterator[tuple[Kept, np.ndarray, np.ndarray]]:
    """What an output shard holds, in order: (an input shard's kept, its rows, their copy numbers).

    Raises:
        InputChanged: there are fewer samples than were counted.
    """
    skip, left = cut.skip, cut.samples
    for place in zip(cut.rounds.tolist(), cut.laps.tolist(), cut.shards.tolist(), strict=True):
        round_, lap, shard = place
        kept = catalogue.kept(shard)
        rows, numbers = (found[skip : skip + left] for found in rows_of(kept, lap, round_))
        skip, left = 0, left - len(rows)
        yield kept, rows, numbers
    if left:
        raise InputChanged(
            f"output shard {cut.number} lacks {left} of {cut.samples} samples: what is kept "
            "changed while it was written; run the same command again"
        )


def _members(cut: Cut, catalogue: Catalogue) -> Iterator[tuple[str, memoryview]]:
    """(name, body) of every member of an output shard."""
    for kept, rows, numbers in ordered(cut, catalogue):
        uids = format_uids(kept.uids[rows])
        if _is_mapped(kept, rows):
            keys = [kept.keys[row] for row in rows.tolist()]
            copies = numbers.tolist()
            for place, extension, body in bulk.members(load_index(kept.indexes[0]), keys):
                yield f"{uids[place]}-{copies[place]}.{extension}", body
            continue
        added = [kept.added[row] for row in rows.tolist()] if kept.added else [""] * len(rows)
        samples = zip(uids, numbers.tolist(), _samples(kept, rows), added, strict=True)
        for uid, j, sample, more in samples:
            members = sample.members
            if more:
                members = {**members, "json": _with_columns(members.get("json"), more)}
            for extension, body in members.items():
                yield f"{uid}-{j}.{extension}", body


def _with_columns(body: memoryview | None, more: str) -> memoryview:
    """A sample's JSON as it was, with columns at its end; what is no JSON object is replaced."""
    try:
        known = json.loads(bytes(body)) if body is not None else {}
    except ValueError:  # of a stranger's file
        known = {}
    if not isinstance(known, dict) or not known:
        return memoryview(more.encode())
    before = bytes(body or b"").rstrip().removesuffix(b"}").rstrip()
    return memoryview(before + b", " + more.encode().removeprefix(b"{"))


def _is_mapped(kept: Kept, rows: np.ndarray) -> bool:
    """Whether some rows all lie in a shard's own tar, on this machine, at known places."""
    local = bool(kept.indexes) and storage.is_local(kept.tars[0]) and not kept.added
    return local and not kept.part[rows].any()


def _samples(kept: Kept, rows: np.ndarray) -> Iterator[TarSample]:
    """The samples of some rows, in their order."""
    parts, keys = kept.part[rows].tolist(), [kept.keys[row] for row in rows.tolist()]
    wanted: dict[int, Counter[str]] = {}
    for part, key in zip(parts, keys, strict=True):
        wanted.setdefault(part, Counter())[key] += 1
    pulls: dict[int, _Pull] = {}
    for part, key in zip(parts, keys, strict=True):
        if part not in pulls:
            index = load_index(kept.indexes[part]) if kept.indexes else None
            pulls[part] = _Pull(kept.tars[part], wanted[part], index)
        yield pulls[part].take(key)
        if not pulls[part].left:
            pulls.pop(part).close()  # metadata may need more tars than files may be open


class _Pull:
    """Samples of one tar in another order than the tar's: those met too early are held."""

    def __init__(self, tar: str, wanted: Counter[str], index: TarIndex | None) -> None:
        self.left = wanted.total()
        self._tar = tar
        self._samples = read_samples(tar, set(wanted), index=index)
        self._wanted = wanted
        self._held: dict[str, TarSample] = {}

    def close(self) -> None:
        """Let go of the tar."""
        self._samples.close()

    def take(self, key: str) -> TarSample:
        """The sample of that key, which rows that share a uid may share."""
        while key not in self._held:
            sample = next(self._samples, None)
            if sample is None:
                raise InputChanged(
                    f"{self._tar} has no sample {key!r} any more: put the file back as it was, or "
                    "start from the changed one in another work folder"
                )
            self._held[sample.key] = sample
        self.left -= 1
        self._wanted[key] -= 1
        return self._held[key] if self._wanted[key] else self._held.pop(key)
