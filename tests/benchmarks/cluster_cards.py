"""How long the clusters' section of a report takes, and the named classes', in what memory.

    python tests/benchmarks/cluster_cards.py FOLDER [--rows 2000000] [--clusters 100000]

FOLDER gets a pool of captions with planted clusters and one run over it, once: a million rows take
a quarter of a minute. Then both sections are made from the work folder alone. The last lines are
ratios in the same run: each to reading the columns that it counts once.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent.parent))

from planted_clusters import planted

from curate import columns
from curate.report.clusters import clusters
from curate.report.concepts.classes import classes
from curate.report.facts import Facts
from curate.report.reading import read_facts
from curate.runner import LocalRunner

WORDS, LENGTH = 20_000, 8  # of the captions


def main() -> None:
    """Make what is missing, then time both sections."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--clusters", type=int, default=100_000)
    given = parser.parse_args()
    folder = given.folder / f"{given.rows}-{given.clusters}"
    if not (folder / "work" / "manifest.json").exists():
        make(folder, given.rows, given.clusters)
    facts = read_facts(str(folder / "work"))
    config = facts.plan.config
    asked = config.report.model_copy(update={"classes": "imagenet"})
    plan = replace(facts.plan, config=config.model_copy(update={"report": asked}))
    facts, runner = replace(facts, plan=plan), LocalRunner(2)
    read = timed("columns read", lambda: read_columns(facts))
    section = timed("clusters", lambda: clusters(facts, runner))
    named = timed("classes", lambda: classes(facts, runner))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{facts.pool.rows:,} rows, {given.clusters:,} clusters, peak {peak_mb:,.0f} MB")
    say(f"clusters / columns read: {section / read:.2f}")
    say(f"classes / columns read: {named / read:.2f}")


def make(folder: Path, rows: int, count: int) -> None:
    """A pool of skewed words and skewed clusters, and a run that balances them."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(WORDS)])
    chosen = np.minimum(rng.zipf(1.2, (rows, LENGTH)), WORDS) - 1
    texts = pl.DataFrame({str(n): words[chosen[:, n]] for n in range(LENGTH)})
    samples = texts.select(
        text=pl.concat_str(pl.all(), separator=" "),
        uid=pl.Series([f"{n * 2654435761 + 17:032x}" for n in range(rows)]),
        c=pl.Series((rng.random(rows) ** 3 * count).astype(np.int64)),
        d=pl.Series(rng.random(rows)),
    )
    learnt = {"levels": np.array([count]), "parents": np.zeros(0, dtype=np.int64)}
    steps = ({"cluster_balance": {"keep": 0.4}},)
    files = -(-rows // 100_000)
    pipeline = planted(folder, samples, learnt, *steps, files=files, rows_per_block=1_000_000)
    assert pipeline.run().exit_code == 0


def read_columns(facts: Facts) -> None:
    """What both sections look at, read once."""
    names = ["caption", "coarse.cluster", "coarse.distance"]
    for span in facts.spans():
        columns.load(facts.plan.work, facts.plan.registries[-1], names, span)
        columns.uids(facts.plan.work, span)


def timed(name: str, work: Callable[[], object]) -> float:
    """The seconds that it takes, said."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    say(f"{name}: {seconds:.2f} s")
    return seconds


def say(line: str) -> None:
    """Show it at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
