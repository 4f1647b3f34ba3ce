"""What the driver costs: memory per shard and time per shard, with stub work.

    python -m tests.benchmarks.driver

Memory is the growth of this process's peak from 10,000 to 100,000 shards through the real shard
table, units and runners. Each size runs in a process of its own, since a peak never falls.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import polars as pl

from curate.pools.pool import Pool
from curate.pools.shard_table import SCHEMA, Unit
from curate.records import Done
from curate.runner import LocalRunner, Needs, RayRunner, Runner, Stage

ROWS = 10_000  # a shard, so that each is a unit and a task of its own


def stub_pool(shards: int) -> Pool:
    """A pool of shards that no file is behind."""
    numbers = pl.int_range(shards, eager=True)
    columns = {
        "number": numbers,
        "source": pl.repeat("pool", shards, eager=True),
        "url": "s3://bucket/shards/" + numbers.cast(pl.String).str.zfill(8) + ".tar",
        "bytes": pl.repeat(500_000_000, shards, eager=True),
        "version": numbers.cast(pl.String).str.zfill(32),
        "first": pl.repeat(0, shards, eager=True),
        "rows": pl.repeat(ROWS, shards, eager=True),
        "block": numbers // 100,
        "offset": (numbers % 100) * ROWS,
        "damage": pl.repeat(None, shards, dtype=pl.String, eager=True),
    }
    return Pool(pl.DataFrame(columns, schema=SCHEMA), {})


def work(unit: Unit) -> Done:
    """Nothing, for one unit."""
    return Done(unit.stop - unit.start, 0, 0.0)


def opener() -> Callable[[Unit], Done]:
    """Nothing to load."""
    return work


def measure(engine: str, shards: int) -> tuple[int, float, float]:
    """(peak bytes of this process, seconds and CPU seconds a shard) of one flow of two stages."""
    runner: Runner = RayRunner(workers=2) if engine == "ray" else LocalRunner()
    pool = stub_pool(shards)
    # What starts once (workers, imports) is no cost of a shard.
    warm = stub_pool(50)
    stages = [Stage("a", opener, Needs(workers=1)), Stage("b", partial(opener), Needs(workers=1))]
    assert sum(1 for _ in runner.flow(stages, warm.units())) == 100
    began, before = time.perf_counter(), time.process_time()
    done = sum(1 for _ in runner.flow(stages, pool.units()))
    per_shard = (time.perf_counter() - began) / shards
    own = (time.process_time() - before) / shards
    assert done == 2 * shards
    runner.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, per_shard, own


def main() -> None:
    """Print the table, or measure one cell of it."""
    if len(sys.argv) == 3:
        sys.stdout.write("{} {} {}\n".format(*measure(sys.argv[1], int(sys.argv[2]))))
        return
    small, large = 10_000, 100_000
    for engine in ("local", "ray"):
        cells = []
        for shards in (small, large):
            command = [sys.executable, "-m", "tests.benchmarks.driver", engine, str(shards)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peak, seconds, own = printed.split()[-3:]
            cells.append((int(peak), float(seconds), float(own)))
        growth = (cells[1][0] - cells[0][0]) / (large - small)
        sys.stdout.write(
            f"{engine}: {growth:.0f} bytes a shard (peaks {cells[0][0] / 1e6:.0f} and "
            f"{cells[1][0] / 1e6:.0f} MB); {cells[1][1] * 1e3:.3f} ms a shard of two stages, "
            f"of which this process computed {cells[1][2] * 1e3:.3f} ms\n"
        )


if __name__ == "__main__":
    main()
