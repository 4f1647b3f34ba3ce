"""How fast subsets are sorted, merged and combined, beside numpy and a plain copy of the bytes.

    python tests/benchmarks/subset.py [folder] [millions of uids in each subset]

Each way runs in turn, several times; medians are shown, and ratios of one run. numpy's own
`union1d` takes minutes at full size: it gets a twentieth, and is compared by time per row. The
peak memory is that of a process that does nothing but this union.
"""

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from curate.sample import UID, make_uids
from curate.subsets import algebra, subset, subset_file
from curate.subsets.subset_sample import sample

ROUNDS, BLOCKS, PART = 3, 13, 20
POOL = 12_800_000  # uids: DataComp-small
Ways = dict[str, Callable[[], object]]


def random_uids(count: int, seed: int) -> np.ndarray:
    """[N] UID, hashes in no order."""
    chance = np.random.default_rng(seed)
    halves = chance.integers(0, 2**64, (2, count), dtype=np.uint64)
    return make_uids(*halves)


def copied(sources: list[Path], target: Path) -> None:
    """The limit: read these bytes and write them, flushed to the disk."""
    with target.open("wb") as out:
        for source in sources:
            with source.open("rb") as handle:
                shutil.copyfileobj(handle, out, 8 << 20)
        out.flush()
        os.fsync(out.fileno())


def medians(ways: Ways) -> dict[str, float]:
    """Seconds of each way; all run once in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def show(title: str, seconds: dict[str, float], rows: dict[str, int]) -> None:
    sys.stdout.write(f"{title}\n")
    ours = next(iter(seconds))
    own = seconds[ours] / rows[ours]
    for name, taken in seconds.items():
        each = taken / rows[name]
        sys.stdout.write(
            f"  {name:34} {taken:8.3f} s {1e9 * each:9.1f} ns/row   "
            f"{'' if name == ours else f'{each / own:8.2f} x ours'}\n"
        )


def combine(urls: list[str], out: str) -> None:
    with subset_file.opened(urls) as files:
        subset_file.write(out, algebra.combined(files, algebra.union("max")))


def peak_mib() -> float:
    """Most memory that this process ever held; `ru_maxrss` is inherited by a child."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def watched(urls: list[str], out: str, answer: "multiprocessing.Queue[float]") -> None:
    """A union in a process of its own: its memory before, and at most."""
    answer.put(peak_mib())
    combine(urls, out)
    answer.put(peak_mib())


def sorting(folder: Path) -> None:
    uids = random_uids(POOL, 0)
    ways: Ways = {
        "subset.sort": lambda: subset.sort(uids),
        "np.lexsort": lambda: uids[np.lexsort((uids["f1"], uids["f0"]))],
        "np.argsort of f0 alone": lambda: uids[np.argsort(uids["f0"])],
    }
    show(f"sort {POOL:,} uids", medians(ways), dict.fromkeys(ways, POOL))
    runs = []
    for number, block in enumerate(np.array_split(uids, BLOCKS)):
        addresses = (np.uint64(number) << np.uint64(32)) + np.arange(len(block), dtype=np.uint64)
        runs.append(folder / f"{number}.npy")
        ones = np.ones(len(block), dtype=np.uint32)
        subset.save_run(str(runs[-1]), block, addresses, ones)
    merged, copy = folder / "merged.npy", folder / "copy.npy"
    names = [str(run) for run in runs]
    subset.merge(names, str(merged))
    ways = {
        "subset.merge": lambda: subset.merge(names, str(merged)),
        "copy of the subset, flushed": lambda: copied([merged], copy),
    }
    show(f"merge {BLOCKS} runs", medians(ways), dict.fromkeys(ways, POOL))


def combining(folder: Path, rows: int) -> None:
    everything = random_uids(rows + rows // 2, 1)
    inputs = [folder / "a.npy", folder / "b.npy"]
    pair = [subset.sort(everything[:rows]), subset.sort(everything[rows // 2 :])]
    small = [one[: rows // PART].copy() for one in pair]
    for path, uids in zip(inputs, pair, strict=True):
        subset.save(str(path), uids)
    del everything, pair
    urls = [str(path) for path in inputs]
    out, copy = folder / "union.npy", folder / "copy.npy"
    files = [subset_file.open_subset(url) for url in urls]
    rules = {
        "intersect": algebra.intersect(),
        "minus": algebra.minus("all"),
    }
    ways: Ways = {
        "curate subset union": lambda: combine(urls, str(out)),
        "copy of both inputs, flushed": lambda: copied(inputs, copy),
        "copy of the result, flushed": lambda: copied([out], copy),
        "np.union1d, a twentieth": lambda: np.union1d(*small).astype(UID),
        "curate subset diff": lambda: algebra.compare(*files),
    }
    for name, rule in rules.items():
        content = algebra.combined(files, rule)
        ways[f"curate subset {name}"] = partial(subset_file.write, str(out) + ".part", content)
    ways["curate subset info, of one"] = lambda: algebra.describe(files[0])
    ways["curate subset sample, of one"] = lambda: subset_file.write(
        str(out) + ".part", sample(files[0], rows // 3, 0)
    )
    counts = dict.fromkeys(ways, 2 * rows)
    counts["np.union1d, a twentieth"] //= PART
    counts |= {name: rows for name in ways if name.endswith("of one")}
    show(f"two subsets of {rows:,} that share half", medians(ways), counts)
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=watched, args=(urls, str(out), answer))
    child.start()
    before, after = answer.get(), answer.get()
    child.join()
    size = sum(path.stat().st_size for path in inputs) / 2**20
    sys.stdout.write(
        f"  peak memory of the union: {after:.0f} MiB ({before:.0f} before it), "
        f"of {size:.0f} MiB of files\n"
    )


def main(folder: Path, rows: int) -> None:
    """Measure, and print a line for each way."""
    sorting(folder)
    combining(folder, rows)


if __name__ == "__main__":
    millions = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        main(Path(sys.argv[1]), millions * 10**6)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary), millions * 10**6)
