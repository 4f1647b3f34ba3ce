"""What counting who is in a pool costs, beside reading the same columns.

    python tests/benchmarks/makeup.py [rows]

Captions are real ones (tests/real_pictures.py), put together to 48 characters and more; hosts are
as frequent as Zipf has it, 200,000 at most; then come width, height, a licence and two scores that
two filters read. The section is made in a process of its own, without and with a column of
different values (`number`, as text), and what its memory grew by at most is told.
"""

import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from curate import columns
from curate.report.downloads import downloads
from curate.report.makeup import makeup
from curate.runner import LocalRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures
from metadata_pool import uid
from test_report import facts_of
from tiny_pool import Pipeline

ROWS, FILE_ROWS, HOSTS = 1_000_000, 100_000, 200_000
READ = ("url", "caption", "original_width", "original_height", "one", "other", "License")


def write_pool(folder: Path, rows: int) -> dict:
    """Metadata of so many samples."""
    real_pictures.fetch()
    real = [pair.caption for pair in real_pictures.stamps() if pair.caption]
    draw, rng = random.Random(0), np.random.default_rng(0)
    for first in range(0, rows, FILE_ROWS):
        numbers = range(first, min(rows, first + FILE_ROWS))
        texts = []
        for _ in numbers:
            text = draw.choice(real)
            while len(text) < 48:
                text += " " + draw.choice(real)
            texts.append(text)
        size = len(numbers)
        hosts = rng.zipf(1.3, size) % HOSTS
        frame = {
            "uid": [uid(n) for n in numbers],
            "url": [
                f"https://www.h{h}.example/a/b{n}.jpg" for h, n in zip(hosts, numbers, strict=True)
            ],
            "text": texts,
            "original_width": rng.integers(50, 3000, size),
            "original_height": rng.integers(50, 3000, size),
            "one": rng.random(size, dtype=np.float32),
            "other": rng.random(size, dtype=np.float32),
            "License": rng.choice(["by", "by-sa", "cc0", "unknown"], size).tolist(),
            "number": [str(n) for n in numbers],
        }
        pl.DataFrame(frame).write_parquet(folder / f"{first:09d}.parquet")
    return {"metadata": str(folder / "*.parquet")}


def pipeline_of(folder: Path, rows: int, *named: str) -> Pipeline:
    """A pipeline of four filters."""
    steps = [
        {"caption": {"min_words": 2}},
        {"image_size": {"min_side": 200, "max_aspect_ratio": 3.0}},
        {"score": {"name": "first", "column": "one", "at_least": 0.1}},
        {"score": {"name": "second", "column": "other", "at_least": 0.3}},
    ]
    pool = {"metadata": str(folder / "*.parquet")}
    return Pipeline(folder, pool, steps).where(
        rows_per_block=1_000_000, run={"engine": "local"}, report={"columns": list(named)}
    )


def memory_mb(field: str) -> float:
    """Memory of this process; rusage would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def measure(
    folder: Path, rows: int, named: tuple[str, ...], answers: multiprocessing.Queue
) -> None:
    """Seconds and MB of the section, and seconds of reading its columns alone."""
    facts = facts_of(pipeline_of(folder, rows, *named))
    runner = LocalRunner()
    before, start = memory_mb("VmRSS"), time.perf_counter()
    found = makeup(facts, runner)
    took = time.perf_counter() - start
    grew = memory_mb("VmHWM") - before
    assert downloads(facts, runner) is None
    assert found["words"]
    registry, start = facts.plan.registries[0], time.perf_counter()
    for span in facts.spans():
        for name in READ:
            columns.load(facts.plan.work, registry, [name], span)
    answers.put((took, grew, time.perf_counter() - start))


def main(rows: int) -> None:
    """Write, run and measure."""
    folder = Path(tempfile.mkdtemp())
    try:
        write_pool(folder, rows)
        pipeline_of(folder, rows).run()
        for named in ((), ("number",)):
            spawn = multiprocessing.get_context("spawn")  # its memory begins with itself
            answers = spawn.Queue()
            process = spawn.Process(target=measure, args=(folder, rows, named, answers))
            process.start()
            took, grew, read = answers.get()
            process.join()
            which = "with a column of different values" if named else "without it"
            sys.stdout.write(
                f"{which}: {took:.1f} s, {took / rows * 1e6:.2f} s a million rows, {grew:.0f} MB; "
                f"{took / read:.1f} times reading its columns in one thread\n"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
