"""A small pool with DataComp's columns and every edge that its rules have, and small assets."""

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

UID = np.dtype("u8,u8")
WIDTH = 24  # of the embeddings; DataComp's are 768 wide
CENTROIDS = 40

# {part: {lemma: offsets of its synsets}}. Offsets of nouns are those of WordNet 3.0; `yap`, `furry`
# and `boxily` have, as 36 lemmas of the real one, an offset that is a listed noun's.
LEMMAS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "noun": {
        "dog": (2084071, 10114209), "cat": (2121620,), "man": (10287213,), "box": (2883344,),
        "hot_dog": (7697537,), "run": (189565,), "glass": (3438257,), "wolf": (2114100,),
        "fox": (2118333,), "church": (3028079,), "city": (8524735,), "ox": (2403003,),
        "idea": (5833840,), "sale": (1114824,), "waltz": (534631,), "us": (9044862,),
    },
    "verb": {"run": (1926311, 2075049), "yap": (2084071,), "sit": (1543123,), "bake": (1664172,)},
    "adj": {"red": (381097,), "furry": (2121620,), "large": (1382086,), "fine": (2081114,)},
    "adv": {"boxily": (2883344,), "fast": (86000,)},
}  # fmt: skip
EXCEPTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "noun": {"oxen": ("ox",), "men": ("man",), "mice": ("mouse",), "dogs": ("idea",)},
    "verb": {"ran": ("run",), "sat": ("sit",)},
    "adj": {"redder": ("red",)},
    "adv": {},
}
_LICENCE = "  1 A small part of WordNet 3.0, made for a test.  \n"


def write_wordnet(folder: Path, verb_run: int = 1926311) -> Path:
    """Index and exception files as WordNet 3.0 has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, lemmas in LEMMAS.items():
        lines = [_LICENCE]
        for lemma, given in sorted(lemmas.items()):
            offsets = (verb_run, *given[1:]) if (part, lemma) == ("verb", "run") else given
            listed = " ".join(f"{offset:08d}" for offset in offsets)
            count = len(offsets)
            lines.append(f"{lemma} {part[0]} {count} 2 @ ~ {count} 1 {listed}  \n")
        (folder / f"index.{part}").write_text("".join(lines))
        exceptions = [" ".join([form, *bases]) for form, bases in EXCEPTIONS[part].items()]
        (folder / f"{part}.exc").write_text("".join(f"{line}\n" for line in exceptions))
    return folder


_TEXT = (
    "a the red large dog dogs Dog. hot_dog cats glasses wolves foxes men churches cities oxen ran "
    "sitting baked yaps furry boxily us waltzes photo of and on table beautiful sunset in 2019 - | "
    "der große Hund sitzt auf dem Tisch une belle photo du chat noir 日本 語 собака"
)
_GAPS = (" ",) * 40 + (
    "  ", "\t", "\n", "\r\n", "\n\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85",
    "\xa0", "\u1680", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
    "\ufeff",
)  # fmt: skip
_PLANTED = (
    "", " ", "\n", "a b c", "a b", "ab cde", "ab cd", "abcdef", "a b\xa0c", "a\u3000b\u3000cd",
    "dog\n\n", "dog\nca", "a dog\u2028sat", "x\x1fy zz", "five5", "six666", "the yap yap",
    "a photo of a furry friend in the garden", "a nice photo of the garden of my friend",
)  # fmt: skip


def _caption(chance: random.Random) -> str:
    if chance.random() < 0.15:
        return chance.choice(_PLANTED)
    words = chance.choices(_TEXT.split(), k=chance.randrange(1, 12))
    return "".join(word + chance.choice(_GAPS) for word in words)[: chance.randrange(3, 90)]


@dataclass(frozen=True)
class Rows:
    """[N] rows of metadata."""

    frame: pl.DataFrame  # DataComp's columns
    l14_img: np.ndarray  # [N, WIDTH] float16 or float32


def draw(count: int, seed: int, centroids: np.ndarray) -> Rows:
    """Rows with planted edges: white space, sizes, ties, neighbours of a threshold, NaN, uids."""
    chance = random.Random(seed)
    edges = [np.float32(0.28), np.nextafter(np.float32(0.28), np.float32(0)), np.float32(0.25)]
    scores = [
        chance.choice(edges) if chance.random() < 0.3 else np.float32(chance.gauss(0.25, 0.06))
        for _ in range(2 * count)
    ]
    scores = [np.float32("nan") if chance.random() < 0.04 else score for score in scores]
    sizes = (200, 199, 600, 601, 0, 1024, 300)
    uids = [f"{chance.getrandbits(128):032x}" for _ in range(count)]
    for row in range(count):
        kind = chance.random()
        if kind < 0.1:
            uids[row] = uids[row].lstrip("0")[: chance.choice([31, 30, 17])]
        elif kind < 0.2 and row:
            uids[row] = uids[chance.randrange(row)]
        elif kind < 0.25:
            uids[row] = uids[row].upper()
    frame = pl.DataFrame(
        {
            "uid": uids,
            "url": [f"https://h/{seed}/{row}.jpg" for row in range(count)],
            "text": [_caption(chance) for _ in range(count)],
            "original_width": [float(chance.choice(sizes)) for _ in range(count)],
            "original_height": [float(chance.choice(sizes)) for _ in range(count)],
            "clip_b32_similarity_score": pl.Series(scores[:count], dtype=pl.Float32),
            "clip_l14_similarity_score": pl.Series(scores[count:], dtype=pl.Float32),
        }
    )
    missing = pl.Series([chance.random() < 0.03 for _ in range(count)])
    frame = frame.with_columns(
        original_width=pl.when(missing).then(float("nan")).otherwise(pl.col("original_width"))
    )
    rng = np.random.default_rng(seed)
    near = centroids[rng.integers(0, len(centroids), count)]
    noise = rng.standard_normal((count, centroids.shape[1])) * 0.3
    dtype = np.float16 if seed % 2 else np.float32
    return Rows(frame, (near + noise).astype(dtype))


def centroids() -> np.ndarray:
    """[CENTROIDS, WIDTH] float32 of unequal lengths; the last is the same as the fourth."""
    rng = np.random.default_rng(7)
    made = rng.standard_normal((CENTROIDS, WIDTH)) * rng.uniform(0.5, 1.5, (CENTROIDS, 1))
    made[-1] = made[3]
    return made.astype(np.float32)


def targets(number: int) -> np.ndarray:
    """[30, WIDTH] float16: one of several files of target embeddings."""
    rng = np.random.default_rng(100 + number)
    return rng.standard_normal((30, WIDTH)).astype(np.float16)


def write_metadata(folder: Path, files: Sequence[Rows]) -> Path:
    """Parquet files with a .npz of the same name beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(files):
        rows.frame.write_parquet(folder / f"{number:032x}.parquet")
        np.savez_compressed(folder / f"{number:032x}.npz", l14_img=rows.l14_img)
    return folder


def as_subset(uids: Sequence[tuple[int, int]]) -> bytes:
    """The bytes of a subset file."""
    stream = io.BytesIO()
    np.save(stream, np.array(sorted(uids), dtype=UID))
    return stream.getvalue()
