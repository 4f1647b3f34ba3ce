"""What `curate diff` of two runs over one pool costs, beside a plain read of what it reads.

    python tests/benchmarks/diff.py [rows]

The pool has DataComp's columns, with real captions (tests/real_pictures.py) put together at random;
one run keeps the best 30 % by one score, the other by another. Reading captions, URLs and scores
of both runs once, and nothing else, tells what the machine can do today.
"""

import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from curate import columns
from curate.comparison.command import Asked, diff
from curate.report.reading import read_facts
from curate.runner import LocalRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures
from metadata_pool import uid
from tiny_pool import Pipeline

ROWS, FILE_ROWS = 1_000_000, 100_000
SCORES = ("clip_b32_similarity_score", "clip_l14_similarity_score")


def write_pool(folder: Path, rows: int) -> None:
    """Metadata of so many captions; the two scores agree in part."""
    real_pictures.fetch()
    pairs = [*real_pictures.clipart(), *real_pictures.stamps()]
    real = [pair.caption for pair in pairs if pair.caption]
    draw, numbers = random.Random(0), np.random.default_rng(0)
    for first in range(0, rows, FILE_ROWS):
        count = min(rows, first + FILE_ROWS) - first
        own = range(first, first + count)
        shared = numbers.normal(0.2, 0.05, count)
        frame = {
            "uid": [uid(n) for n in own],
            "url": [f"https://host{n % 9_973}.example/{n}.jpg" for n in own],
            "text": [f"{draw.choice(real)} {draw.choice(real)}" for _ in own],
            "original_width": numbers.integers(100, 4_000, count),
            "original_height": numbers.integers(100, 4_000, count),
            **{name: shared + numbers.normal(0, 0.03, count) for name in SCORES},
        }
        pl.DataFrame(frame).write_parquet(folder / f"{first:09d}.parquet")


def finished(folder: Path, score: str) -> str:
    """The work folder of a run that keeps the best by a score."""
    steps = [{"clip_score": {"column": score, "top_fraction": 0.3, "of": "survivors"}}]
    pool = {"metadata": str(folder / "in"), "arrays": "none"}
    run = Pipeline(folder / score, pool, steps, fields=(("rows_per_block", 1_000_000),))
    run.run()
    return str(run.work)


def read_all(works: list[str]) -> None:
    """Every column that a comparison looks at, once for each run."""
    for work in works:
        facts = read_facts(work)
        for span in facts.spans():
            names = ["caption", "url", "original_width", "original_height", *SCORES]
            columns.load(work, facts.plan.registries[-1], names, span)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and GB that the process held at most."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _measured_apart(name: str, works: list[str], folder: str) -> None:
    """In a process of its own, whose memory nothing else has filled."""
    work = {
        "read": lambda: read_all(works),
        "diff": lambda: diff(*works, Asked(out=f"{folder}/diff"), LocalRunner()),
    }[name]
    seconds, held = measured(work)
    sys.stdout.write(f"{name}: {seconds:.1f} s, at most {held:.2f} GB\n")


def main() -> None:
    """Make the runs, and measure."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    folder = Path(tempfile.mkdtemp(prefix="curate-diff-"))
    try:
        (folder / "in").mkdir()
        write_pool(folder / "in", rows)
        works = [finished(folder, score) for score in SCORES]
        sys.stdout.write(f"{rows:,} rows\n")
        sys.stdout.flush()
        for name in ("read", "diff"):
            process = multiprocessing.get_context("spawn").Process(
                target=_measured_apart, args=(name, works, str(folder))
            )
            process.start()
            process.join()
            assert process.exitcode == 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
