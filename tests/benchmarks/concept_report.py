"""What the concepts in a report, and the frequencies of classes, cost beside the run itself.

    python tests/benchmarks/concept_report.py [rows]

Captions are real ones (tests/real_pictures.py), drawn at random and put together to 48 characters
and more; the list is the English one (tests/word_lists.py), filled up to 500,000 entries; behind
`concepts` stand 20 filters. Then come the parts of the report, each in a process of its own, and
what its memory grew by at most. Matching the list again tells what the machine can do today.
"""

import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import polars as pl

from curate import columns
from curate.concepts.entry_list import read_entries
from curate.concepts.matching import Matcher
from curate.frequencies.command import Asked, answer
from curate.report.concepts import concepts
from curate.report.facts import Facts
from curate.runner import LocalRunner
from curate.verdicts import sealed

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
    return Pipeline(folder, write_pool(folder, rows), steps).where(
        rows_per_block=ROWS, run={"engine": "local"}
    )


def peak_mb() -> float:
    """The most memory that this process ever had; rusage would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def facts(pipeline: Pipeline) -> Facts:
    """What a run knows when it reports, arrays and all."""
    found = facts_of(pipeline)
    states = sealed(str(pipeline.work), "metadata_balance")["states"]
    return replace(found, states={**found.states, **states})


def measure(what: str, pipeline: Pipeline) -> None:
    """Time one part, and tell its memory."""
    known, runner = facts(pipeline), LocalRunner()
    texts = columns.load(str(pipeline.work), known.pool.columns, ["caption"], known.spans()[0])
    work = {
        "report": lambda: len(json.dumps(concepts(known, runner), indent=1)),
        "classes": lambda: answer(str(pipeline.work), Asked(classes="imagenet"), runner) and 0,
        "matching one block again": lambda: match_again(pipeline, texts["caption"]),
    }
    before, began = peak_mb(), time.perf_counter()
    size = work[what]()
    taken = time.perf_counter() - began
    more = f", {size / 1e3:.0f} kB of JSON" if size else ""
    say(f"  {what}: {taken:.1f} s{more}; {peak_mb() - before:.0f} MB more than {before:.0f}")


def match_again(pipeline: Pipeline, captions: pl.Series) -> int:
    """Match a block's captions, in one thread."""
    entries = read_entries(pipeline.steps[0]["concepts"]["entries"]).entries
    Matcher(entries).match(captions)
    return 0


def main(rows: int) -> None:
    """Run the pipeline, then measure the parts."""
    folder = Path(tempfile.mkdtemp(prefix="concept-report-"))
    try:
        pipeline = pipeline_of(folder, rows)
        began = time.perf_counter()
        pipeline.run()
        say(f"{rows:,} rows; the whole run: {time.perf_counter() - began:.1f} s")
        for what in ("report", "classes", "matching one block again"):
            process = multiprocessing.get_context("spawn").Process(
                target=measure, args=(what, pipeline)
            )
            process.start()
            process.join()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
