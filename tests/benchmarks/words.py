"""How fast captions are searched for keywords and measured in tokens, beside the usual ways.

    python tests/benchmarks/words.py [captions]

One process, CPU time. Keywords: the filter on so many captions, against one pattern of Python's
`re` with all words between `\\b`, as scripts do it (on fewer captions: it is slow). Tokens: the
feature as a worker runs it, cold and with its words known, against the library's tokenizer called
for each caption, which gives a row of 77 numbers, and against its `encode`, which gives the tokens.
The captions are real ones, in 78 languages and in English (tests/real_pictures.py fetches them).
"""

import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from curate.features.token_length import TokenLength
from curate.score import open_features, score_samples
from filters import Batch, judge
from filters.keyword import Keyword

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures

CAPTIONS, ROUNDS = 1_000_000, 3
FEW = 20_000  # captions for what is slow


def collections() -> dict[str, list[str]]:
    """Real captions, in random order."""
    real_pictures.fetch()
    english = [pair.caption for pair in real_pictures.clipart()]
    every = list(english)
    for pair in real_pictures.stamps():
        english.append(pair.caption)
        every += [pair.caption, *pair.translations.values()]
    found = {"English": english, "78 languages": every}
    for captions in found.values():
        random.Random(0).shuffle(captions)
    return found


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def words_of(captions: list[str], count: int) -> list[str]:
    """Words that captions have, some of them in pairs, and as many more that none has."""
    own = sorted({word.lower() for text in captions for word in re.findall(r"[^\W\d_]+", text)})
    random.Random(1).shuffle(own)
    real = own[: count // 2]
    made = [f"zq{number}" if number % 4 else f"zq{number} x" for number in range(count - len(real))]
    return real + made


def keywords(captions: list[str], count: int) -> None:
    frame = pl.DataFrame({"caption": (captions * (count // len(captions) + 1))[:count]})
    batch = Batch(frame, None, None, None)  # type: ignore[arg-type]  # of no sample's uid
    for number in (10, 1_000, 10_000):
        words = words_of(captions, number)
        ready = Keyword(any_of=tuple(words)).bind({"caption": "String"})
        ask = partial(judge, ready, batch)
        own = statistics.median(seconds(ask) for _ in range(ROUNDS)) / count
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
        texts = frame["caption"][: FEW // max(number // 100, 1)].to_list()
        loop = seconds(partial(_search, pattern, texts)) / len(texts)
        sys.stdout.write(
            f"  keyword, {number:6,} words: {1 / own:12,.0f} captions a second, "
            f"{ask().copies.sum() / count:.1%} kept; Python's re: {1 / loop:10,.0f}, "
            f"ratio {loop / own:,.0f}\n"
        )


def _search(pattern: re.Pattern[str], texts: list[str]) -> list[bool]:
    return [pattern.search(text) is not None for text in texts]


def tokens(captions: list[str]) -> None:
    distinct = list(dict.fromkeys(captions))
    frame = pl.DataFrame({"caption": distinct})
    opened = open_features([TokenLength()], "cpu")
    cold = seconds(lambda: score_samples(opened, [], frame, threads=1))
    from open_clip.tokenizer import SimpleTokenizer

    library = SimpleTokenizer()
    few = distinct[:FEW]
    for text in few:
        library.encode(text)  # so that it knows its words, too
    ways: dict[str, Callable[[], object]] = {
        "curate": lambda: score_samples(opened, [], frame, threads=1),
        "called": lambda: [library([text]) for text in few],
        "encode": lambda: [len(library.encode(text)) + 2 for text in few],
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append((len(distinct) if name == "curate" else len(few)) / seconds(way))
    own, called, encode = (statistics.median(rates[name]) for name in ways)
    sys.stdout.write(
        f"  token_length, {len(distinct):,} different captions: {own:,.0f} a second (cold "
        f"{len(distinct) / cold:,.0f}); the library called: {called:,.0f}, ratio "
        f"{own / called:.1f}; its encode: {encode:,.0f}, ratio {own / encode:.1f}\n"
    )


def main() -> None:
    """Print the rates and the ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CAPTIONS
    for name, captions in collections().items():
        sys.stdout.write(f"{name}:\n")
        tokens(captions)
        keywords(captions, count)


if __name__ == "__main__":
    main()
