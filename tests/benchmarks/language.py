"""How fast captions get their language, beside the detector alone on the same captions.

    python tests/benchmarks/language.py [lid.176.bin]

One process. "Alone" is a bare loop over the detector's call for one line, and its own call for many
lines where it has one; ours is the feature as a worker runs it, from a polars column to columns.
The captions are real ones, in 78 languages (tests/real_pictures.py fetches them).
"""

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from curate.features.language import PACKAGED, Language
from curate.score import open_features, score_samples

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_pictures

CAPTIONS, ROUNDS = 40_000, 7


def captions() -> list[str]:
    """Real captions, in random order."""
    real_pictures.fetch()
    found = [pair.caption for pair in real_pictures.clipart()]
    for pair in real_pictures.stamps():
        found += [pair.caption, *pair.translations.values()]
    random.Random(0).shuffle(found)
    return found[:CAPTIONS]


def bare_fasttext(model: str, texts: list[str]) -> dict[str, Callable[[], object]]:
    """The detector's own calls, for a line and for many."""
    import fasttext

    loaded = fasttext.load_model(str(Language(model=model)._file()))
    lines = [text.replace("\n", " ") for text in texts]
    ended = [line + "\n" for line in lines]
    return {
        "a bare loop": lambda: [loaded.predict(line) for line in lines],
        "its call for many": lambda: loaded.f.multilinePredict(ended, 1, 0.0, "strict"),
    }


def bare_cld3(texts: list[str]) -> dict[str, Callable[[], object]]:
    """The detector's own call, in a loop."""
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    lines = [text.replace("\n", " ") for text in texts]
    return {"a bare loop": lambda: [detector.FindLanguage(text=line) for line in lines]}


def rate(action: Callable[[], object]) -> float:
    """Captions a second of CPU time."""
    gc.collect()
    start = time.process_time()
    action()
    return CAPTIONS / (time.process_time() - start)


def compare(feature: Language, alone: dict[str, Callable[[], object]], frame: pl.DataFrame) -> None:
    """Run all in turn, so that a busy machine slows all of them, and print the medians."""
    opened = open_features([feature], "cpu")
    ways = {**alone, "curate": lambda: score_samples(opened, [], frame, threads=1)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(rate(way))
    for name, found in rates.items():
        ratios = [own / other for own, other in zip(rates["curate"], found, strict=True)]
        sys.stdout.write(
            f"{feature.detector:9} {name:20} {statistics.median(found):9,.0f} captions/s; "
            f"curate / this: {statistics.median(ratios):.2f}\n"
        )


def main(model: str) -> None:
    """Compare each detector that is installed."""
    texts = captions()
    frame = pl.DataFrame({"caption": texts})
    sys.stdout.write(f"{len(texts):,} captions, {len(set(texts)):,} of them different\n")
    compare(Language(model=model), bare_fasttext(model, texts), frame)
    if find_spec("gcld3") is not None:
        compare(Language(detector="cld3"), bare_cld3(texts), frame)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else PACKAGED)
