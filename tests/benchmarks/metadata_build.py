"""How fast a list of entries is built from counts, beside a loop over the lines.

    python tests/benchmarks/metadata_build.py [folder] [millions of words, and of pairs]

Words and pairs of a Zipf-like language are counted; both ways take the words counted 100 times and
the pairs with a PMI of 20. The loop (a dictionary of words, one of pairs, sorted) gets a tenth of
the lines and is compared by time per line. Each way runs in a process of its own, whose peak memory
is shown; the lists of the tenth must be the same.
"""

import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from curate.concepts.presets import Thresholds
from curate.concepts.word_files import Choice, WordFiles, build_list, word_file

MIN_COUNT, MIN_PMI, PART = 100, 20.0, 10


def write_counts(folder: Path, count: int) -> None:
    """`count` words and as many pairs of them, each once."""
    chance = np.random.default_rng(0)
    words = "wörd" + pl.Series(np.arange(count)).cast(pl.String)
    counts = pl.Series((1 + 1e8 / np.arange(1, count + 1)).astype(np.int64))
    _write(folder / "words.txt", [words, counts])
    first, second = (chance.random((2, count)) ** 4 * count).astype(np.int64)
    pairs = pl.DataFrame({"first": words[first], "second": words[second]}).unique()
    counts = pl.Series((1 + chance.pareto(0.7, len(pairs))).clip(1, 1e6).astype(np.int64))
    _write(folder / "pairs.txt", [pairs["first"] + " " + pairs["second"], counts])


def _write(path: Path, columns: list[pl.Series]) -> None:
    lines = columns[0] + "\t" + columns[1].cast(pl.String)
    lines.to_frame().write_csv(path, include_header=False, quote_style="never")


def built(folder: Path) -> list[str]:
    """Our list."""
    named = {"unigrams": "words.txt", "bigrams": "pairs.txt"}
    files = {kind: [word_file(str(folder / name))] for kind, name in named.items()}
    choice = Choice("metaclip1", Thresholds(MIN_COUNT, MIN_PMI), numbers="none")
    return build_list(WordFiles(**files), choice).entries.entries.to_list()


def looped(folder: Path) -> list[str]:
    """The list, a line at a time."""
    words, pairs = {}, {}
    with (folder / "words.txt").open() as file:
        for line in file:
            word, count = line.split()
            words[word] = words.get(word, 0) + int(count)
    with (folder / "pairs.txt").open() as file:
        for line in file:
            first, second, count = line.split()
            pairs[first, second] = pairs.get((first, second), 0) + int(count)
    total = sum(words.values())
    scored = {
        f"{first} {second}": count * total / (words[first] * words[second])
        for (first, second), count in pairs.items()
    }
    enough = [word for word, count in words.items() if count >= MIN_COUNT]
    close = [pair for pair, lift in scored.items() if math.log2(lift) >= MIN_PMI]
    enough.sort(key=lambda word: (-words[word], word))
    return enough + sorted(close, key=lambda pair: (-scored[pair], pair))


@dataclass(frozen=True)
class Cost:
    """What one way took."""

    seconds: float
    cpu_s: float  # of all threads
    peak_gb: float

    def line(self, name: str, lines: float) -> str:
        each = self.seconds / lines * 1e9
        return (
            f"  {name:<8}{self.seconds:7.2f} s ({self.cpu_s:.2f} s of CPU)  "
            f"{self.peak_gb:5.2f} GB  {each:6.0f} ns a line\n"
        )


def _measured(way: Callable[[Path], list[str]], folder: Path) -> tuple[Cost, list[str]]:
    start, cpu = time.perf_counter(), time.process_time()
    found = way(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Cost(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20), found


def measured(way: Callable[[Path], list[str]], folder: Path) -> tuple[Cost, list[str]]:
    """What one way took in a process of its own, and its list."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (way, folder))


def main(where: str | None, millions: float) -> None:
    with tempfile.TemporaryDirectory(dir=where) as scratch:
        folders = {name: Path(scratch, name) for name in ("whole", "part")}
        for folder, count in zip(folders.values(), (millions, millions / PART), strict=True):
            folder.mkdir()
            write_counts(folder, int(count * 1e6))
        lines = {name: 2 * millions * 1e6 / (1 if name == "whole" else PART) for name in folders}
        whole, entries = measured(built, folders["whole"])
        _, ours = measured(built, folders["part"])
        loop, theirs = measured(looped, folders["part"])
    assert ours == theirs
    show = sys.stdout.write
    show(f"{lines['whole']:,.0f} lines -> {len(entries):,} entries\n")
    show(whole.line("built", lines["whole"]))
    show(loop.line("looped", lines["part"]))
    ratio = (loop.seconds / lines["part"]) / (whole.seconds / lines["whole"])
    show(f"  {ratio:.1f} times as fast by line; the lists of the tenth are the same\n")


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else None, float(sys.argv[2]) if len(sys.argv) > 2 else 10
    )
