"""Captions matched, counted and balanced from pool to subset, and again at another t.

    python tests/benchmarks/balance.py FOLDER [rows]

Makes a pool of so many captions of 48 characters (default 10 million: 0.3 GB; kept between runs),
each of two real ones cut to a random length, and runs `curate run` on it: with `concepts` against
the English list and `metadata_balance`, then twice with another t. Each command is a process of its
own; seconds of its steps, and its memory with that of its workers.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import real_pictures
import word_lists
from datacomp import say

ROWS, LENGTH, FILE = 10_000_000, 48, 1_000_000
T = (2000, 3000, 1000)


def write_pool(folder: Path, rows: int) -> None:
    """Metadata of so many samples, a million to a file."""
    real_pictures.fetch()
    texts = [p.caption for p in (*real_pictures.clipart(), *real_pictures.stamps()) if p.caption]
    captions = pl.Series(texts)
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, FILE)):
        count = min(FILE, rows - first)
        draws = {f"c{n}": captions.gather(rng.integers(len(texts), size=count)) for n in range(4)}
        cut = pl.Series("cut", rng.integers(5, 40, size=count))
        begun = pl.col("c0").str.slice(0, pl.col("cut"))
        whole = pl.concat_str(begun, "c1", "c2", "c3", separator=" ").str.slice(0, LENGTH)
        halves = rng.integers(2**64, size=(count, 2), dtype=np.uint64)
        uids = [f"{a:016x}{b:016x}" for a, b in halves.tolist()]
        urls = [f"http://h/{first + n}" for n in range(count)]
        text = pl.DataFrame([pl.Series(n, d) for n, d in draws.items()] + [cut]).select(text=whole)
        frame = pl.DataFrame({"uid": uids, "url": urls}).with_columns(text["text"])
        frame.write_parquet(folder / f"{number:03d}.parquet")


def measured(command: list[str]) -> tuple[float, float]:
    """(seconds, GB at most) of a command and the processes that it starts."""
    began, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, sum(proportional(pid) for pid in family(process.pid)))
        time.sleep(0.2)
    assert process.returncode == 0, command
    return time.perf_counter() - began, most / 1e6


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def proportional(pid: int) -> int:
    """kB of a process; of what n processes share, an n-th."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    folder, rows = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    if not (folder / "pool").exists():
        write_pool(folder / "pool", rows)
    steps = [
        {"concepts": {"entries": str(word_lists.english_entries())}},
        {"metadata_balance": {"t": T[0]}},
    ]
    pool = {"metadata": str(folder / "pool"), "arrays": "none"}
    whole = {"name": "balance", "work": str(folder / "work"), "pool": pool, "steps": steps}
    file = folder / "balance.yaml"
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    shutil.rmtree(folder / "work", ignore_errors=True)
    for t in T:
        command = [sys.executable, "-m", "curate.cli", "run", "--brief", str(file)]
        seconds, memory = measured([*command, "--set", f"steps.metadata_balance.t={t}"])
        timing = json.loads((folder / "work" / "report" / "timing.json").read_text())
        each = {one["step"]: one["ended"] - one["began"] for one in timing["steps"]}
        report = json.loads((folder / "work" / "report" / "report.json").read_text())
        say(f"t {t}: {seconds:.1f} s, {memory:.2f} GB; {report['totals']['kept']:,} kept")
        say("  " + ", ".join(f"{name} {spent:.1f} s" for name, spent in each.items()))


if __name__ == "__main__":
    main()
