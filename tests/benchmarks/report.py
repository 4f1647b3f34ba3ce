"""How long the report of a finished run takes, in what memory, and which part of it takes it.

    python tests/benchmarks/report.py POOL [--work FOLDER]

POOL is a folder of metadata as `commonpool.py` makes it (12.8 M rows, say). A pipeline of six
filters runs over it once, if FOLDER does not hold it yet; then the report is made again in a
process of its own, from the work folder alone. Shown are the seconds of each section and of the
page, the wall time of the whole process, its peak memory, and the sizes of report.json and page.
The last line is a ratio in the same run: report to reading the columns that it counts once.
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
from functools import wraps
from pathlib import Path
from typing import Any

STEPS: list[Any] = [
    {"caption": {"min_words": 3, "min_characters": 6}},
    {"image_size": {"min_side": 200, "max_aspect_ratio": 3.0}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"]}},
    {"where": {"name": "short", "sql": "LENGTH(caption) < 200"}},
    {
        "clip_score": {
            "name": "b32",
            "column": "clip_b32_similarity_score",
            "at_least": 0.2,
        }
    },
    {
        "clip_score": {
            "column": "clip_l14_similarity_score",
            "top_fraction": 0.3,
            "of": "pool_threshold",
        }
    },
]
READ = ["url", "caption", "original_width", "original_height", "clip_l14_similarity_score"]


def main() -> None:
    """Run what is missing, then report in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pool")
    parser.add_argument("--work", default=tempfile.mkdtemp(prefix="curate-bench-"))
    parser.add_argument("--only-report", action="store_true", help="what the own process does")
    given = parser.parse_args()
    work = str(Path(given.work, "work"))
    if given.only_report:
        report(work)
        return
    file = Path(given.work, "pipeline.yaml")
    fields = {"name": "bench", "work": work, "steps": STEPS, "probe": 0.001}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**fields, "pool": {"metadata": given.pool, "arrays": "none"}}))
    if not Path(work, "manifest.json").exists():
        subprocess.run([sys.executable, "-m", "curate.cli", "run", str(file)], check=True)
    command = [sys.executable, __file__, given.pool, "--work", given.work, "--only-report"]
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"failed with {status}")
    sys.stdout.write(f"{'the whole process':<28}{wall:8.1f} s {usage.ru_maxrss / 1e6:6.2f} GB\n")
    for name in ("report.json", "index.html"):
        size = Path(work, "report", name).stat().st_size
        sys.stdout.write(f"{name:<28}{size / 1e6:8.2f} MB\n")
    reading = read_once(work)
    sys.stdout.write(
        f"{'reading once':<28}{reading:8.1f} s; report / reading {wall / reading:.1f}\n"
    )


def report(work: str) -> None:
    """Make the report again, with the seconds of each section."""
    import curate.report.whole as room
    from curate.report.reading import read_facts
    from curate.runner import LocalRunner

    for name in vars(room).copy():
        value = getattr(room, name)
        module = getattr(value, "__module__", "")
        if callable(value) and module.startswith("curate.report.") and name[0].islower():
            setattr(room, name, timed(name, value))
    for name in ("totals", "pool", "steps"):
        setattr(room.numbers, name, timed(name, getattr(room.numbers, name)))
    began = time.monotonic()
    told = room.write_report(read_facts(work), LocalRunner())
    middle = time.monotonic()
    room.write_page(work, told)
    sys.stdout.write(f"{'report.json':<28}{middle - began:8.1f} s\n")
    sys.stdout.write(f"{'page':<28}{time.monotonic() - middle:8.1f} s\n")


def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, telling how long it took."""

    @wraps(work)
    def told(*given: Any) -> Any:
        began = time.monotonic()
        result = work(*given)
        sys.stdout.write(f"  {name:<26}{time.monotonic() - began:8.2f} s\n")
        return result

    return told


def read_once(work: str) -> float:
    """Seconds for the columns alone, block by block."""
    from curate import columns
    from curate.report.reading import read_facts
    from curate.runner import LocalRunner

    facts = read_facts(work)
    names = [name for name in READ if name in facts.plan.registries[-1]]

    def one(span: columns.Span) -> int:
        return columns.load(facts.plan.work, facts.plan.registries[-1], names, span).height

    began = time.monotonic()
    assert sum(LocalRunner().map(one, facts.spans(), "read")) == facts.pool.rows
    return time.monotonic() - began


if __name__ == "__main__":
    main()
