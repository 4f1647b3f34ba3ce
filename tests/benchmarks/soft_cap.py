"""How long soft cap sampling takes, the filter alone, and how it compares with batch after batch.

    python tests/benchmarks/soft_cap.py [--rows 12800000] [--threads 2] [--scores normal]

Scores are drawn from a seed: `normal` N(0, 2.5) as in the published demonstration, `wide` N(0, 6),
`cauchy`. There are as many draws as rows. The literal algorithm runs over a hundredth of the rows,
in as many batches; its time grows with the rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

sys.path.insert(0, str(Path(__file__).parent))

from datacomp import say
from soft_cap_reference import soft_cap

from curate import chance
from curate.runner import LocalRunner, fold
from filters import Batch, Counts, structured
from filters.soft_cap import SoftCap

ROWS_PER_BLOCK = 1_000_000
UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])


def draw(kind: str, rows: int, seed: int) -> np.ndarray:
    """[rows] float64 scores."""
    rng = np.random.default_rng((seed, 7))
    if kind == "cauchy":
        return rng.standard_cauchy(rows)
    return rng.normal(0, 2.5 if kind == "normal" else 6.0, rows)


def block(kind: str, rows: int, number: int) -> Batch:
    """A block of scores, with uids as a pool has them."""
    scores = draw(kind, rows, number)
    uids = np.frombuffer(np.random.default_rng((number, 1)).bytes(16 * rows), UID)
    addresses = (np.uint64(number) << np.uint64(32)) + np.arange(rows, dtype=np.uint64)
    frame = structured({"mix.score": pl.Series(scores)}, rows)
    return Batch(frame, uids, addresses, partial(chance.uniform, 0, "soft_cap", uids))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=12_800_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scores", choices=["normal", "wide", "cauchy"], default="normal")
    options = parser.parse_args()
    sizes = [ROWS_PER_BLOCK] * (options.rows // ROWS_PER_BLOCK)
    if options.rows % ROWS_PER_BLOCK:
        sizes.append(options.rows % ROWS_PER_BLOCK)
    blocks = [block(options.scores, rows, number) for number, rows in enumerate(sizes)]
    ready = SoftCap(name="soft_cap", column="mix.score", draws=options.rows)
    runner = LocalRunner(options.threads)
    began, busy = time.perf_counter(), time.process_time()
    state = ready.start(Counts(options.rows, options.rows))
    while not ready.finished(state):
        start = time.perf_counter()
        work = partial(_summarized, ready, state)
        summary = fold(runner.map(work, blocks, "soft_cap"), ready.merge)
        seen = time.perf_counter()
        state = ready.fit(summary, state)
        say(f"pass {seen - start:.2f} s, then fit {time.perf_counter() - seen:.2f} s")
    start = time.perf_counter()
    total = sum(runner.map(partial(_kept, ready, state), blocks, "soft_cap"))
    say(f"keep {time.perf_counter() - start:.2f} s")
    took, busy = time.perf_counter() - began, time.process_time() - busy
    learnt = {k: v for k, v in state.items() if isinstance(v, (int, float))}
    say(
        f"{options.rows} {options.scores} scores to {total} draws: {took:.2f} s ({busy:.2f} of CPU)"
    )
    say(str(learnt))
    few = options.rows // 100
    start = time.perf_counter()
    copies = soft_cap(
        draw(options.scores, few, 0), few, -(-few // 1280), 0.15, np.random.default_rng(0)
    )
    literal = time.perf_counter() - start
    share, most = np.count_nonzero(copies) / few, copies.max()
    say(
        f"literal, {few} rows: {literal:.2f} s, {share:.2%} of rows drawn, at most {most} times; "
        f"for all rows at least {100 * literal:.0f} s, {100 * literal / took:.0f} times as long"
    )


def _summarized(ready: SoftCap, state: dict[str, object], one: Batch) -> object:
    return ready.summarize(one, state)


def _kept(ready: SoftCap, state: dict[str, object], one: Batch) -> int:
    return int(ready.keep(one, state).copies.sum())


if __name__ == "__main__":
    main()
