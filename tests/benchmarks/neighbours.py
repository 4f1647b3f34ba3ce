"""How long clusters, neighbours and semantic duplicates take together, and in what memory.

    python tests/benchmarks/neighbours.py [N] [CLUSTERS] [FOLDER]

Makes N embeddings (a million) of 512 float16 around planted topics, of which some are near copies
of another, and runs `clusters` (256 samples per centroid, 20 iterations), `neighbours` and
`semantic_duplicates` over them; then another threshold, a tenth of the samples, and a fifth of them
as one cluster. Every run is a process of its own, imports included. The products are compared in
one process with a straightforward torch loop over the same members, which must find the same, and
with the best rate of a float32 product that numpy or torch reaches here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
from datacomp import Took, run, say

WIDTH = 512
ROWS = 50_000  # of a file
COPIES = 0.2  # of the samples are a near copy of another
FLOOR, THRESHOLD, OTHER = 0.90, 0.95, 0.97


def make(folder: Path, samples: int, topics: int) -> None:
    """Write a pool of metadata with embeddings."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(topics, WIDTH)).astype(np.float32)
    for number, start in enumerate(range(0, samples, ROWS)):
        count = min(ROWS, samples - start)
        rows = centres[rng.integers(topics, size=count)]
        rows = rows + 1.2 * rng.normal(size=rows.shape).astype(np.float32)
        copies = rng.permutation(count)[: int(count * COPIES)]
        of = rng.integers(count, size=len(copies))
        noise = rng.normal(size=(len(copies), WIDTH)).astype(np.float32)
        rows[copies] = rows[of] + noise * rng.uniform(0, 0.8, size=(len(copies), 1))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        name = folder / f"{number:08d}"
        np.savez(f"{name}.npz", l14_img=rows.astype(np.float16))
        numbers = (start + rng.permutation(count)).tolist()
        uids = [f"{value * 0x9E3779B97F4A7C15 << 20:032x}" for value in numbers]
        urls = [f"http://h/{row}" for row in range(start, start + count)]
        pl.DataFrame({"uid": uids, "url": urls, "text": urls}).write_parquet(f"{name}.parquet")


def steps(clusters: int, threshold: float) -> list[object]:
    """The three steps; without clusters, one cluster of all."""
    search: dict[str, object] = {"of": "l14_img", "floor": FLOOR}
    found: list[object] = []
    if clusters:
        found = [{"clusters": {"name": "fine", "of": "l14_img", "count": clusters}}]
        search["within"] = "fine"
    return [*found, {"neighbours": search}, {"semantic_duplicates": threshold}]


def command(folder: Path, pool: Path, clusters: int, threshold: float) -> list[str]:
    """The command that runs them."""
    file = folder / "pipeline.yaml"
    fields = {"name": "bench", "work": str(folder / "work"), "steps": steps(clusters, threshold)}
    file.write_text(json.dumps({**fields, "pool": {"metadata": str(pool)}}))  # JSON is YAML
    return [sys.executable, "-m", "curate.cli", "run", "--brief", str(file)]


def notes(folder: Path) -> dict[str, Any]:
    """What the search says of itself."""
    seal = folder / "work" / "features" / "neighbours" / "fitted.json"
    return dict(json.loads(seal.read_text())["notes"])


def measured(folder: Path, pool: Path, clusters: int) -> Took:
    """A first run in a fresh work folder."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    took = run(command(folder, pool, clusters, THRESHOLD))
    told = notes(folder)
    kept = len(np.load(folder / "work" / "subset.npy"))
    say(
        f"{told['samples']:,} samples, {clusters or 1:,} clusters: {took.seconds:.1f} s, "
        f"{took.gigabytes:.2f} GB; {told['pairs']:,} pairs, "
        f"{told['samples_with_neighbours'] / told['samples']:.1%} have a neighbour, {kept:,} stay; "
        f"recall {told['recall']:.4f} of {told['recall_pairs']:,} pairs; "
        f"{told['gflop_required']:,.0f} GFLOP required, {told['gflop_done']:,.0f} done"
    )
    return took


def best_rate() -> float:
    """GFLOP/s of the fastest product of float32 here: numpy or torch, a few sizes and threads."""
    import torch

    rng, found = np.random.default_rng(0), {}
    for side in (256, 512, 1024, 2048):
        made = rng.normal(size=(2, side, WIDTH)).astype(np.float32)
        left, right = torch.from_numpy(made[0]), torch.from_numpy(made[1])
        flop = 2 * side * side * WIDTH
        threads = torch.get_num_threads()
        found["numpy", side] = flop * _per_second(partial(np.matmul, made[0], made[1].T))
        found["torch", side] = flop * _per_second(partial(torch.mm, left, right.T))
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            work = partial(_per_second, partial(torch.mm, left, right.T))
            found["torch alone", side] = flop * sum(pool.map(_called, [work] * threads))
        torch.set_num_threads(threads)
    who = max(found, key=lambda one: found[one])
    say(f"best rate of a product: {found[who] / 1e9:.0f} GFLOP/s ({who[0]}, {who[1]} rows)")
    return found[who]


def _called(work: Callable[[], float]) -> float:
    return work()


def _per_second(work: Callable[[], object]) -> float:
    began, times = time.monotonic(), 0
    while time.monotonic() - began < 0.7:
        work()
        times += 1
    return times / (time.monotonic() - began)


def ours(groups: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """(nearest of each member at or above the floor, seconds), by the search's own products."""
    from curate.features._products import Products, triangle_at_least

    products = Products("cpu")

    def one(rows: np.ndarray, spread: Callable[..., Any]) -> np.ndarray:
        loaded = products.load(rows)
        nearest = np.full(len(rows), -np.inf, dtype=np.float32)
        triangle = partial(triangle_at_least, loaded, FLOOR)
        for found in spread(triangle, range(loaded.tiles)):
            np.maximum.at(nearest, found.left, found.value)
            np.maximum.at(nearest, found.right, found.value)
        return nearest

    began = time.monotonic()
    if len(groups) > 1:
        found = list(products.map(lambda rows: one(rows, map), groups))
    else:
        found = [one(groups[0], products.map)]
    return found, time.monotonic() - began


def straightforward(groups: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The same by a loop over clusters: whole matrix, upper triangle, largest."""
    import torch

    began, found = time.monotonic(), []
    for rows in groups:
        tensor = torch.from_numpy(rows)
        similarity = torch.triu(tensor @ tensor.T, diagonal=1)
        nearest = torch.maximum(similarity.max(dim=0).values, similarity.max(dim=1).values)
        found.append(torch.where(nearest >= FLOOR, nearest, -torch.inf).numpy())
    return found, time.monotonic() - began


def compared(name: str, groups: list[np.ndarray], best: float) -> None:
    """Print the rate of both over the same members."""
    flop = sum(len(rows) * (len(rows) - 1) * WIDTH for rows in groups)
    rounds = [(ours(groups), straightforward(groups)) for _ in range(3)]
    for (mine, _), (theirs, _) in rounds:
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    seconds = [min(one[1] for one in some) for some in zip(*rounds, strict=True)]
    say(
        f"{name}: {flop / seconds[0] / 1e9:.0f} GFLOP/s on required pairs, "
        f"{flop / seconds[0] / best:.0%} of the best rate; torch loop "
        f"{flop / seconds[1] / 1e9:.0f}; {seconds[1] / seconds[0]:.1f} x as fast, same result"
    )


def clusters_of(folder: Path, pool: Path, most: int) -> list[np.ndarray]:
    """Members, nearest or second, of some clusters of a run, as float32 of length 1."""
    blocks = sorted((folder / "work" / "features" / "fine").glob("block-*.parquet"))
    number = pl.concat([pl.read_parquet(block) for block in blocks])
    rows = np.concatenate([np.load(file)["l14_img"] for file in sorted(pool.glob("*.npz"))])
    nearest, second = number["cluster"].to_numpy(), number["second"].to_numpy()
    groups = []
    for cluster in range(min(most, int(nearest.max()) + 1)):
        own = rows[(nearest == cluster) | (second == cluster)].astype(np.float32)
        groups.append(own / np.linalg.norm(own, axis=1, keepdims=True))
    return groups


def compare(root: str) -> None:
    """Print how fast the products are, over the clusters of the whole pool's run."""
    best = best_rate()
    groups = clusters_of(Path(root), Path(root) / "whole", 40)
    compared(f"{len(groups)} clusters", groups, best)
    many = np.concatenate(groups)[:20_000]
    compared(f"a cluster of {len(many):,}", [many], best)


def main(samples: int = 1_000_000, clusters: int = 1000, kept: str = "") -> None:
    """Measure and print."""
    root = Path(kept or tempfile.mkdtemp(prefix="curate-bench-"))
    sizes = {"whole": samples, "tenth": samples // 10, "fifth": samples // 5}
    for name, count in sizes.items():
        if not (root / name).exists():
            itself("make", str(root / name), str(count), str(2 * clusters))
    tenth = measured(root, root / "tenth", clusters)
    measured(root, root / "fifth", 0)
    whole = measured(root, root / "whole", clusters)
    say(f"growth of time from {samples // 10:,}: {whole.seconds / tenth.seconds:.1f} x")
    again = run(command(root, root / "whole", clusters, OTHER))
    say(f"another threshold: {again.seconds:.1f} s, {again.gigabytes:.2f} GB")
    itself("compare", str(root))
    if not kept:
        shutil.rmtree(root)


def itself(*words: str) -> None:
    """Run a part of this in a process of its own: a child's peak memory begins at its parent's."""
    subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["make"]:
        make(Path(given[1]), int(given[2]), int(given[3]))
    elif given[:1] == ["compare"]:
        compare(given[1])
    else:
        samples_, clusters_ = (*map(int, given[:2]), *(1_000_000, 1000)[len(given) :])
        main(samples_, clusters_, *given[2:])
