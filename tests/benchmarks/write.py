"""How fast kept samples become a shard, beside a `tarfile` loop and a plain copy of the same bytes.

    python tests/benchmarks/write.py [folder]

Both write the same 30 % of 10,000 members of about 28 kB each, in turn; medians are shown. The
folder (a new temporary one by default) should be on the disk that matters.
"""

import os
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.output_shard import write_shard
from curate.sample import make_uids
from curate.shards import shard
from curate.write import Kept, Write, plan_write

MEMBERS, SHARE, ROUNDS = 10_000, 0.3, 9


@dataclass(frozen=True)
class Selection:
    """A catalogue of one shard."""

    one: Kept
    shards: int = 1

    def kept(self, shard: int) -> Kept:
        return self.one


def make_pool(folder: Path) -> tuple[str, Selection, set[str]]:
    """One tar, and a selection of 30 % of its samples."""
    chance = random.Random(0)
    keys = [f"{i:09d}" for i in range(MEMBERS)]
    tar = folder / "pool.tar"
    with tar.open("wb") as handle:
        sizes = (chance.randrange(14_000, 42_000) for _ in keys)
        members = ((f"{key}.jpg", chance.randbytes(n)) for key, n in zip(keys, sizes, strict=True))
        shard.write_members(handle, members)
    wanted = [key for key in keys if chance.random() < SHARE]
    rows = np.arange(len(wanted), dtype=np.uint64)
    kept = Kept(
        uids=make_uids(rows, rows),
        copies=np.ones(len(rows), dtype=np.uint32),
        first_copy=np.zeros(len(rows), dtype=np.uint32),
        tars=(str(tar),),
        part=np.zeros(len(rows), dtype=np.uint8),
        keys=wanted,
    )
    return str(tar), Selection(kept), set(wanted)


def with_tarfile(source: str, wanted: set[str], target: Path) -> None:
    """What a script does: read members, write those that are wanted."""
    with tarfile.open(source) as pool, tarfile.open(target, "w") as out:
        for member in pool:
            if member.name.split(".", 1)[0] in wanted:
                out.addfile(member, pool.extractfile(member))


def copied(source: Path, target: Path, *, flushed: str) -> None:
    """The limit: a copy of the shard's bytes, all in one piece."""
    shutil.copyfile(source, target)
    if flushed == "flushed":
        with target.open("rb") as handle:
            os.fsync(handle.fileno())


def timed(action: Callable[[], object], target: Path) -> float:
    """Seconds; what it made is removed, so that every round starts alike."""
    start = time.perf_counter()
    action()
    taken = time.perf_counter() - start
    for path in (target, target.with_name("00000000_stats.json")):
        with suppress(FileNotFoundError):
            path.unlink()
    return taken


def main(folder: Path) -> None:
    """Measure, and print a line for each way."""
    source, selection, wanted = make_pool(folder)
    cut = plan_write(Write(), selection, "f").cut(0)
    out = folder / "out"
    out.mkdir()
    target, reference = out / "00000000.tar", folder / "reference.tar"
    with_tarfile(source, wanted, reference)
    ways: dict[str, Callable[[], object]] = {
        "curate write": lambda: write_shard(cut, selection, str(out)),
        "tarfile loop": lambda: with_tarfile(source, wanted, target),
        "copy": lambda: copied(reference, target, flushed="no"),
        "copy, flushed": lambda: copied(reference, target, flushed="flushed"),
        "scan of the pool's headers": lambda: shard.scan(source),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(timed(way, target))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in medians.items():
        count = MEMBERS if name.startswith("scan") else len(wanted)
        sys.stdout.write(f"{name:28} {1e3 * taken:8.1f} ms {count / taken:10,.0f} members/s\n")
    ours = medians["curate write"]
    sys.stdout.write(
        f"{medians['tarfile loop'] / ours:.1f} x the tarfile loop (which flushes nothing); "
    )
    sys.stdout.write(f"{medians['copy, flushed'] / ours:.2f} x a flushed copy, ")
    sys.stdout.write(f"{medians['copy'] / ours:.2f} x a copy\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
