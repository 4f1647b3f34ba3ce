"""How long DataComp's baselines take over metadata of CommonPool-small's shape, and in what memory.

    python tests/benchmarks/datacomp.py POOL [SMALLER_POOL]

POOL and SMALLER_POOL are folders of metadata as `commonpool.py` makes them, with `--language`; the
second has a tenth of the rows. Every command is a process of its own, imports included; wall time
and peak memory are its own, and the median of ROUNDS is shown; reports are brief. The last lines
are ratios: of the first run to the least that any program must do (read the two columns, write the
subset and the ledger's bytes), of another threshold to the first run, and of the time a row takes
at both sizes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

ROUNDS = 3
SCORE = "clip_l14_similarity_score"


@dataclass(frozen=True)
class Took:
    """One process."""

    seconds: float
    gigabytes: float  # resident at the peak


def run(command: list[str]) -> Took:
    """Run a command to its end."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said.decode()[-2000:]}")
    return Took(time.monotonic() - began, usage.ru_maxrss / 1e6)


def pipeline(folder: Path, pool: Path, steps: list[object]) -> list[str]:
    """The command that runs these steps in a fresh work folder."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    file = folder / "pipeline.yaml"
    fields = {"name": "bench", "work": str(folder / "work"), "steps": steps}
    file.write_text(json.dumps({**fields, "pool": {"metadata": str(pool)}}))  # JSON is YAML
    return [sys.executable, "-m", "curate.cli", "run", "--brief", str(file)]


def top(fraction: float) -> list[object]:
    """CLIP score by fraction, as DataComp's best baseline does it."""
    return [{"clip_score": {"column": SCORE, "top_fraction": fraction}}]


def basic(pool: Path) -> list[object]:
    """Basic filtering, the language column being there already."""
    language = {"name": "language", "from": f"{pool}-language/*.parquet", "key": "uid"}
    return [
        {"columns": {**language, "take": {"code": "language"}}},
        {"where": {"name": "english", "sql": "language.code = 'en'"}},
        {"caption": {"min_words": 3, "min_characters": 6}},
        {"image_size": {"min_side": 200, "max_aspect_ratio": 3.0}},
    ]


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def median(found: list[Took]) -> Took:
    """The median of both figures."""
    return Took(
        statistics.median(one.seconds for one in found),
        max(one.gigabytes for one in found),
    )


FLOOR = """
import sys, numpy as np, polars as pl
pool, out, column = sys.argv[1:]
frame = pl.read_parquet(f"{pool}/*.parquet", columns=["uid", column])
np.save(out, np.zeros(int(frame.height * .3), dtype="u8,u8"))
with open(out + ".ledger", "wb") as file:
    file.write(bytes(24 * frame.height))
"""


def measure(folder: Path, pool: Path) -> dict[str, Took]:
    """Every figure of one pool."""
    found: dict[str, list[Took]] = {}
    for _ in range(ROUNDS):
        floor = [sys.executable, "-c", FLOOR, str(pool), str(folder / "floor.npy"), SCORE]
        found.setdefault("the least", []).append(run(floor))
        first = pipeline(folder, pool, top(0.3))
        found.setdefault("clip_score 30 %", []).append(run(first))
        again = [*first, "--set", "steps.clip_score.top_fraction=0.2"]
        found.setdefault("then 20 %", []).append(run(again))
        none = pipeline(folder, pool, [{"where": {"name": "all", "sql": "true"}}])
        found.setdefault("no_filter", []).append(run(none))
        if Path(f"{pool}-language").exists():
            command = pipeline(folder, pool, basic(pool))
            found.setdefault("basic, first run", []).append(run(command))
            words = [*command, "--set", "steps.caption.min_words=4"]
            found.setdefault("basic, language there", []).append(run(words))
    return {name: median(took) for name, took in found.items()}


def main(pools: list[str]) -> None:
    """Measure and print."""
    rows, tables = [], []
    for pool in pools:
        with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
            tables.append(measure(Path(folder), Path(pool)))
        rows.append(int(pl.scan_parquet(f"{pool}/*.parquet").select(pl.len()).collect().item()))
        say(f"{pool}: {rows[-1]:,} rows, {len(list(Path(pool).glob('*.parquet')))} files")
        for name, took in tables[-1].items():
            say(f"  {name:24}{took.seconds:8.2f} s {took.gigabytes:6.2f} GB")
    first = tables[0]
    share = first["clip_score 30 %"].seconds / first["the least"].seconds
    say(f"clip_score / the least that must be done: {share:.1f}")
    say(f"another threshold / the first: {_ratio(first, 'then 20 %', 'clip_score 30 %'):.2f}")
    if len(tables) > 1:
        start = run([sys.executable, "-m", "curate.cli", "version"]).seconds
        cost = [t["clip_score 30 %"].seconds - start for t in tables]
        say(f"time a row at {rows[0]:,} / at {rows[1]:,}, start-up taken off: "
              f"{cost[0] / rows[0] / (cost[1] / rows[1]):.2f}")  # fmt: skip


def _ratio(table: dict[str, Took], above: str, below: str) -> float:
    return table[above].seconds / table[below].seconds


if __name__ == "__main__":
    main(sys.argv[1:])
