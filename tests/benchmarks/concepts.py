"""How fast captions are matched with a list of entries, beside Aho-Corasick and brute force.

    python tests/benchmarks/concepts.py [captions]

The list is the English one (tests/word_lists.py), the captions are real ones (real_pictures.py)
put together and cut to 24, 48 and 200 characters. All run in one thread of one process, in turn,
and give the same matches. pyahocorasick and ahocorasick_rs are called for each caption: "alone" on
captions that were spaced before, "spaced" with the spacing in Python that MetaCLIP's code has.
Ours begins at the column as it is. Then come the stages of ours, on a chunk that fits the cache,
and the feature as a worker runs it.
"""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # before polars is there: ours is to be one thread as well

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ahocorasick
import ahocorasick_rs
import numpy as np
import polars as pl

from curate.concepts import _spacing, matching
from curate.concepts.entry_list import read_entries
from curate.concepts.matching import Matcher
from curate.features.concepts import Concepts
from curate.score import open_features, score_samples

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures
import word_lists

CAPTIONS, ROUNDS, BRUTE = 100_000, 5, 20
LENGTHS = (24, 48, 200)


def captions_of(length: int, count: int) -> list[str]:
    """So many captions of so many characters, each of one real caption or several."""
    real_pictures.fetch()
    pairs = [*real_pictures.clipart(), *real_pictures.stamps()]
    real = [pair.caption for pair in pairs if pair.caption]
    draw = random.Random(length)
    found = []
    for _ in range(count):
        text = draw.choice(real)
        while len(text) < length:
            text += " " + draw.choice(real)
        found.append(text[:length])
    return found


def spaced(text: str) -> str:
    """A caption as the published code spaces it."""
    text = f" {text} "
    for sign in ",.;:?!`":
        text = text.replace(sign, f" {sign} ")
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    return text


class Automata:
    """The others, ready for captions."""

    def __init__(self, entries: list[str]) -> None:
        self.entries = [f" {entry} " for entry in entries]
        self.first = ahocorasick.Automaton()
        for number, entry in enumerate(self.entries):
            self.first.add_word(entry, number)
        self.first.make_automaton()
        self.second = ahocorasick_rs.AhoCorasick(self.entries)

    def by_first(self, texts: list[str]) -> list[list[int]]:
        search = self.first.iter
        return [[number for _, number in search(text)] for text in texts]

    def by_second(self, texts: list[str]) -> list[list[int]]:
        search = self.second.find_matches_as_indexes
        return [[number for number, _, _ in search(text, overlapping=True)] for text in texts]

    def brute(self, texts: list[str]) -> list[list[int]]:
        return [[n for n, entry in enumerate(self.entries) if entry in text] for text in texts]


def rate(action: Callable[[], object], count: int) -> float:
    """Captions a second of CPU time."""
    start = time.process_time()
    action()
    return count / (time.process_time() - start)


def compare(length: int, others: Automata, matcher: Matcher, count: int) -> None:
    """All ways in turn, so that a busy machine slows all of them: medians, and of ratios."""
    texts = captions_of(length, count)
    column, ready = pl.Series(texts), list(map(spaced, texts))
    ways: dict[str, Callable[[], object]] = {
        "curate": lambda: matcher.match(column),
        "pyahocorasick alone": lambda: others.by_first(ready),
        "pyahocorasick spaced": lambda: others.by_first(list(map(spaced, texts))),
        "ahocorasick_rs alone": lambda: others.by_second(ready),
        "ahocorasick_rs spaced": lambda: others.by_second(list(map(spaced, texts))),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(rate(way, count))
    rates["brute force"] = [rate(lambda: others.brute(ready[:BRUTE]), BRUTE)] * ROUNDS
    offsets, ids = matcher.match(column)
    ours = [part.tolist() for part in np.split(ids, offsets[1:-1])]
    assert ours == [sorted(set(found)) for found in others.by_first(ready)]
    assert ours == [sorted(set(found)) for found in others.by_second(ready)]
    assert ours[:BRUTE] == others.brute(ready[:BRUTE])
    sys.stdout.write(f"\n{count:,} captions of {length}, {len(ids) / count:.1f} matches each\n")
    for name, found in rates.items():
        ratios = [own / other for own, other in zip(rates["curate"], found, strict=True)]
        median = statistics.median(ratios)
        sys.stdout.write(
            f"{name:22} {statistics.median(found):11,.0f} captions/s; ours / this: {median:,.1f}\n"
        )


def stages(length: int, matcher: Matcher) -> None:
    """Where a chunk's time goes, in ns for each caption: the best of many."""
    whole = _spacing.texts_of(pl.Series(captions_of(length, matching.CHUNK)))
    _, texts = next(whole.chunks(matching.CHUNK, matching.CHUNK_BYTES))
    column = pl.Series(captions_of(length, len(texts.ends)))

    def timed(name: str, action: Callable[[], Any]) -> Any:
        best = float("inf")
        for _ in range(100):
            start = time.process_time()
            found = action()
            best = min(best, time.process_time() - start)
        sys.stdout.write(f"{name:40} {best / len(column) * 1e9:6.0f} ns\n")
        return found

    sys.stdout.write(f"\nstages, captions of {length}\n")
    timed("bytes of a column", lambda: _spacing.texts_of(column))
    tokens = timed("tokens and their first words", lambda: _spacing.tokens_of(texts))
    trie = matcher._trie
    timed("look-up of all first words", lambda: trie.first.find(tokens.words[:-1]))
    timed("all walks, those look-ups included", lambda: list(matching._walk(trie, tokens)))
    timed("all but the column's bytes", lambda: matcher._matched(texts, None))


def main(count: int) -> None:
    """Compare on captions of each length."""
    path = str(word_lists.english_entries())
    entries = read_entries(path).entries
    start = time.process_time()
    matcher = Matcher(entries)
    built = time.process_time() - start
    sys.stdout.write(f"{len(entries):,} entries, prepared in {built:.2f} s\n")
    others = Automata(entries.to_list())
    for length in LENGTHS:
        compare(length, others, matcher, count)
    for length in LENGTHS:
        stages(length, matcher)
    opened = open_features([Concepts(entries=path)], "cpu")
    frame = pl.DataFrame({"caption": captions_of(48, count)})
    ratios = []
    for _ in range(ROUNDS):
        alone = rate(lambda: matcher.match(frame["caption"]), count)
        ratios.append(alone / rate(lambda: score_samples(opened, [], frame, threads=1), count))
    sys.stdout.write(f"\nthe feature takes {statistics.median(ratios):.2f} x the matcher's time\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CAPTIONS)
