"""How fast all pairs of near hashes are found, beside FAISS, which finds the same pairs.

    python tests/benchmarks/near_duplicates.py [N hashes] [radius] [flat | hash | both]

A tenth of the hashes are planted near others. The first line is the search alone, in one process;
the second a whole pipeline: hashes read from a pool, pairs found, joined and stored, one of each
group kept. FAISS searches flat (it compares all with all), or by hashing: for the latter the pairs
that it misses are counted. The pairs must be the same; ratios are of one run.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import polars as pl

from curate.features._pairing import hamming, hash_groups
from curate.pipeline import Options, run
from curate.pipeline_file.config import load

PAIR = np.dtype([("left", "<u4"), ("right", "<u4"), ("distance", "u1")])


def planted(count: int, radius: int) -> np.ndarray:
    """[N] uint64, distinct and sorted: random, and a tenth of them near another."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    near = rng.choice(count, count // 10, replace=False)
    copies = hashes[rng.integers(0, count, len(near))]
    for _ in range(radius):
        copies ^= np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64)
    hashes[near] = copies
    return np.unique(hashes)


def ours(hashes: np.ndarray, radius: int) -> np.ndarray:
    found = [np.empty(0, dtype=PAIR)]
    for table in hamming.tables(radius, len(hashes)):
        buckets = hamming.Buckets.of(hashes, table, hash_groups.REACH)
        assert buckets.left_out(hash_groups.REACH) == 0
        found += hamming.matches(hashes, radius, table, buckets, hash_groups.REACH)
    return np.sort(np.concatenate(found))


def by_faiss(index: "faiss.IndexBinary", hashes: np.ndarray, radius: int) -> np.ndarray:
    codes = hashes.view(np.uint8).reshape(len(hashes), 8)
    index.add(codes)
    # Its radius is exclusive.
    limits, distances, others = index.range_search(codes, radius + 1)
    rows = np.repeat(np.arange(len(hashes)), np.diff(limits).astype(np.int64))
    once = rows < others
    found = np.empty(int(once.sum()), dtype=PAIR)
    found["left"], found["right"] = rows[once], others[once]
    found["distance"] = distances[once]
    return np.sort(found)


def flat(hashes: np.ndarray, radius: int) -> np.ndarray:
    return by_faiss(faiss.IndexBinaryFlat(64), hashes, radius)


def multi_hash(hashes: np.ndarray, radius: int) -> np.ndarray:
    """Four tables of 16 bits, each probed one bit around: all pairs up to a distance of 7."""
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 1
    return by_faiss(index, hashes, radius)


def pipeline(hashes: np.ndarray, radius: int, folder: Path) -> None:
    """The whole of it, as a user runs it."""
    pool = folder / "pool"
    pool.mkdir()
    order = np.random.default_rng(1).permutation(len(hashes))
    for number, rows in enumerate(np.array_split(order, max(1, len(hashes) // 100_000))):
        uids = [f"{row:032x}" for row in rows.tolist()]
        frame = pl.DataFrame({"uid": uids, "text": uids, "h": hashes[rows]})
        frame = frame.with_columns(url=pl.lit("http://h/") + pl.col("uid"))
        frame.write_parquet(pool / f"{number:08d}.parquet")
    recipe = folder / "pipeline.yaml"
    recipe.write_text(
        f"name: near\nwork: {folder / 'work'}\npool: {{metadata: {pool}}}\nsteps:\n"
        f"  - hash_neighbours: {{of: h, radius: {radius}}}\n  - near_duplicates: {radius}\n"
    )
    began = time.perf_counter()
    outcome = run(load(str(recipe)), Options(), lambda progress: None)
    taken = time.perf_counter() - began
    notes = outcome.report["steps"][0]["fitted"]["notes"]
    sys.stdout.write(f"  pipeline, from pool to subset        {taken:8.1f} s   {notes}\n")


def timed(name: str, search: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    found = search()
    taken = time.perf_counter() - began
    sys.stdout.write(f"  {name:32} {taken:12.1f} s   {len(found):,} pairs\n")
    sys.stdout.flush()
    return found, taken


def main(count: int, radius: int, which: str) -> None:
    """Measure, and print a line for each way."""
    hashes = planted(count, radius)
    threads = faiss.omp_get_max_threads()
    sys.stdout.write(f"{len(hashes):,} hashes, radius {radius}; FAISS on {threads} threads\n")
    found, own = timed("tables of bands, one thread", lambda: ours(hashes, radius))
    with tempfile.TemporaryDirectory() as folder:
        pipeline(hashes, radius, Path(folder))
    ways = {"flat": flat, "hash": multi_hash}
    for name, way in ways.items():
        if which in (name, "both"):
            theirs, taken = timed(f"FAISS {name}", lambda way=way: way(hashes, radius))  # type: ignore[misc]  # a default binds it
            missed, more = len(np.setdiff1d(found, theirs)), len(np.setdiff1d(theirs, found))
            sys.stdout.write(
                f"    {taken / own:.1f} x ours; it misses {missed:,} pairs, and has {more:,} more\n"
            )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000,
        int(sys.argv[2]) if len(sys.argv) > 2 else 6,
        sys.argv[3] if len(sys.argv) > 3 else "both",
    )
