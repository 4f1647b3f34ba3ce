"""How long `curate explain` takes by uid, by its beginning, by URL, and for what is not there.

    python tests/benchmarks/explain.py WORK

WORK is the work folder of a run, finished or not, of 12.8 M rows say; nothing is written to it.
Each command is a process of its own; shown are its wall time and its peak memory. The last line is
a ratio in the same run: finding by uid to reading every uid of the pool once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from curate import columns
from curate.columns import Span
from curate.report.reading import read_facts
from curate.sample import format_uids


def main() -> None:
    """Explain the last row of the pool in every way."""
    work = sys.argv[1]
    facts = read_facts(work)
    spans = facts.spans()
    last = Span(spans[-1].block, spans[-1].stop - 1, spans[-1].stop)
    uid = format_uids(columns.uids(work, last))[0]
    asked = {"uid": uid, "beginning": uid[:12], "nobody": "f" * 32}
    if "url" in facts.pool.columns:
        asked["url"] = columns.read_pool(work, ["url"], last)["url"][0]
    took = {name: explain(work, name, what) for name, what in asked.items()}
    began = time.monotonic()
    rows = sum(len(columns.uid_halves(work, span)[0]) for span in spans)
    reading = time.monotonic() - began
    ratio = took["uid"] / reading
    sys.stdout.write(f"{rows:,} uids read in {reading:.2f} s; explain / reading {ratio:.1f}\n")


def explain(work: str, name: str, asked: str) -> float:
    """Seconds of one command."""
    command = [sys.executable, "-m", "curate.cli", "explain", work, asked, "--no-picture"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    sys.stdout.write(f"{name:<10}{took:6.2f} s {usage.ru_maxrss / 1e6:6.2f} GB\n")
    return took


if __name__ == "__main__":
    main()
