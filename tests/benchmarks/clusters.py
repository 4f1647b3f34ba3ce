"""How fast `clusters` runs over embeddings of DataComp's layout, and in what memory.

    python tests/benchmarks/clusters.py --rows 1000000 --width 512 --count 1000

Makes metadata with float16 embeddings around four times `count` centres in a temporary folder, and
runs a pipeline of this one step in a process of its own, imports and reads included. GFLOP are
those of the products that k-means (each iteration, every sample it sees) and the assignment (each
row) must do; they are compared with the best rate of a matrix product of the same width here, in
numpy and in torch, and with FAISS's k-means of the same size in the same process as those.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

PER_FILE = 100_000
SAMPLES = 256  # for each centroid
ROUNDS = 5


def make(folder: Path, rows: int, width: int, count: int) -> None:
    """A folder of metadata: uid and text, and the embeddings of images beside them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4 * count, width)).astype(np.float32)
    for number, first in enumerate(range(0, rows, PER_FILE)):
        own = min(PER_FILE, rows - first)
        image = rng.standard_normal((own, width), dtype=np.float32)
        image += centres[rng.integers(len(centres), size=own)]
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        uids = [f"{value:032x}" for value in range(first, first + own)]
        urls = [f"http://h/{value}.jpg" for value in range(first, first + own)]
        frame = pl.DataFrame({"uid": uids, "url": urls, "text": ["a thing"] * own})
        frame.write_parquet(folder / f"{number:08d}.parquet")
        np.savez(folder / f"{number:08d}.npz", b32_img=image.astype(np.float16))


def run(folder: Path, count: int, iterations: int) -> tuple[float, float, float]:
    """(seconds, CPU seconds, GB resident at the peak) of the pipeline."""
    step = {"of": "b32_img", "count": count, "iterations": iterations}
    step["samples_per_centroid"] = SAMPLES
    fields = {"name": "bench", "work": str(folder / "work"), "steps": [{"clusters": step}]}
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps({**fields, "pool": {"metadata": str(folder / "pool")}}))
    began = time.monotonic()
    command = [sys.executable, "-m", "curate.cli", "run", "--brief", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed:\n{said.decode()[-2000:]}")
    seconds = time.monotonic() - began
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        took.append(time.monotonic() - began)
    return min(took)


def product_rates(width: int, count: int) -> dict[str, float]:
    """GFLOP/s of products [2048, D] @ [D, K]: numpy's, and torch's in one thread for each core."""
    import torch

    rows, times = 2048, 32
    left = np.random.default_rng(0).standard_normal((rows * times, width), dtype=np.float32)
    right = left[:count].copy()
    flop = 2e-9 * rows * times * len(right) * width
    starts = range(0, len(left), rows)
    out = np.empty((rows, len(right)), dtype=np.float32)
    found = {
        "numpy": best(lambda: [np.matmul(left[s : s + rows], right.T, out=out) for s in starts])
    }
    pool = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    one, other = torch.from_numpy(left), torch.from_numpy(right)
    multiply = lambda s: torch.mm(one[s : s + rows], other.T).shape  # noqa: E731
    found["torch"] = best(lambda: list(pool.map(multiply, starts)))
    return {name: flop / seconds for name, seconds in found.items()}


def faiss_seconds(samples: int, width: int, count: int, iterations: int) -> float:
    """Seconds of FAISS's spherical k-means."""
    import faiss

    vectors = np.random.default_rng(0).standard_normal((samples, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    options = {"niter": iterations, "spherical": True, "max_points_per_centroid": SAMPLES}
    model = faiss.Kmeans(width, count, **options)
    began = time.monotonic()
    model.train(vectors)
    return time.monotonic() - began


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--make", type=Path)
    given = parser.parse_args()
    size = (given.rows, given.width, given.count)
    if given.make:
        make(given.make, *size)
        return
    samples = min(given.rows, SAMPLES * given.count)
    learnt = 2e-9 * samples * given.count * given.width * given.iterations
    assigned = 2e-9 * given.rows * given.count * given.width
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as name:
        folder = Path(name)
        # In a process of its own, so that its memory counts nowhere.
        subprocess.run([sys.executable, *sys.argv, "--make", str(folder / "pool")], check=True)
        seconds, busy, gigabytes = run(folder, given.count, given.iterations)
    rates = product_rates(given.width, given.count)
    peak = max(rates.values())
    rate = (learnt + assigned) / seconds
    say(f"{given.rows:,} x {given.width}, K = {given.count:,}, {given.iterations} iterations")
    flop = learnt + assigned
    say(f"clusters: {seconds:.1f} s ({busy:.1f} of CPU), {gigabytes:.2f} GB, {flop:,.0f} GFLOP")
    say(f"rate: {rate:.0f} GFLOP/s, {rate / peak:.0%} of the best product")
    say("products: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()))
    faiss = faiss_seconds(samples, given.width, given.count, given.iterations)
    say(f"FAISS's k-means: {faiss:.1f} s, {learnt / faiss:.0f} GFLOP/s, without assignment")


if __name__ == "__main__":
    main()
