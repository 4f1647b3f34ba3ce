"""What the concepts in a report, and the frequencies of classes, cost beside the run itself.

    python tests/benchmarks/concept_report.py [rows]

Captions are real ones (tests/real_pictures.py), drawn at random and put together to 48 characters
and more; the list is the English one (tests/word_lists.py), filled up to 500,000 entries; 20 filters
stand behind `concepts`. Then come the parts of the report, each in a process of its own, with what
its memory grew by at most.
"""

import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from curate.concepts.concepts_command import Asked, answer
from curate.concepts.entry_list import read_entries
from curate.report.concepts import concepts
from curate.runner import LocalRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures
import word_lists
from metadata_pool import uid
from test_report import facts_of
from tiny_pool import Pipeline

ROWS, ENTRIES, FILTERS, FILE_ROWS = 1_000_000, 500_000, 20, 100_000


def write_pool(folder: Path, rows: int) -> dict:
    """Metadata of so many captions."""
    real_pictures.fetch()
    pairs = [*real_pictures.clipart(), *real_pictures.stamps()]
    real = [pair.caption for pair in pairs if pair.caption]
    draw = random.Random(0)
    for first in range(0, rows, FILE_ROWS):
        numbers = range(first, min(rows, first + FILE_ROWS))
        texts = []
        for _ in numbers:
            text = draw.choice(real)
            while len(text) < 48:
                text += " " + draw.choice(real)
            texts.append(text)
        frame = {"uid": [uid(n) for n in numbers], "text": texts, "number": list(numbers)}
        pl.DataFrame(frame).write_parquet(folder / f"{first:09d}.parquet")
    return {"metadata": str(folder / "*.parquet")}


def pipeline_of(folder: Path, rows: int) -> Pipeline:
    """A pipeline whose filters take about a twentieth of the pool, each."""
    entries = read_entries(str(word_lists.english_entries())).entries.to_list()
    entries += [f"no such thing {n}" for n in range(ENTRIES - len(entries))]
    (folder / "entries.txt").write_text("".join(f"{entry}\n" for entry in entries))
    sql = [f"number % {FILTERS + 5} <> {n}" for n in range(FILTERS - 1)]
    steps = [
        {"concepts": {"entries": str(folder / "entries.txt")}},
        {"metadata_balance": {"t": rows // 1_000}},
        *({"where": {"name": f"part_{n}", "sql": one}} for n, one in enumerate(sql)),
    ]
    return Pipeline(folder, write_pool(folder, rows), steps).where(rows_per_block=ROWS)


def peak_mb() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(what: str, pipeline: Pipeline) -> None:
    """Time one part, and tell its memory."""
    facts, before, began = facts_of(pipeline), peak_mb(), time.perf_counter()
    size = 0
    if what == "report":
        size = len(json.dumps(concepts(facts, LocalRunner()), indent=1))
        began_again = time.perf_counter()
        concepts(facts, LocalRunner(1))
        print(f"  in one thread: {time.perf_counter() - began_again:.1f} s, {size / 1e3:.0f} kB")
        began += time.perf_counter() - began_again
    else:
        answer(str(pipeline.work), Asked(classes="imagenet"), LocalRunner())
    taken = time.perf_counter() - began
    print(f"{what}: {taken:.1f} s, {peak_mb() - before:.0f} MB above {before:.0f}", flush=True)


def main(rows: int) -> None:
    """Run the pipeline, then measure the parts."""
    folder = Path(tempfile.mkdtemp(prefix="concept-report-"))
    try:
        pipeline = pipeline_of(folder, rows)
        began = time.perf_counter()
        pipeline.run()
        print(f"{rows:,} rows; the whole run: {time.perf_counter() - began:.1f} s", flush=True)
        for what in ("report", "classes"):
            process = multiprocessing.get_context("spawn").Process(
                target=measure, args=(what, pipeline)
            )
            process.start()
            process.join()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
