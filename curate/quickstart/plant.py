"""The quickstart's pool: about 400 drawn pairs, some of them spoilt on purpose, each labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random
from typing import Literal

import polars as pl

from curate.quickstart.draw import (
    Pair,
    Scene,
    compose,
    compose_single,
    draw_pairs,
    encode,
    render,
)
from curate.quickstart.foreign import FOREIGN
from curate.quickstart.serve import LOOPBACK, Answer

Defect = Literal[
    "wrong_caption",  # says what another picture shows: other figures in other colours
    "same_bytes",  # another pair's file under another URL, described in other words
    "same_url",  # another pair's URL, described in other words
    "tiny",  # 24 to 48 pixels wide
    "long_and_thin",  # 5:1
    "truncated",  # a JPEG that ends too early
    "not_an_image",  # a web page or random bytes under the name of a JPEG
    "cut_response",  # the server promises more bytes than it sends
    "dead_url",  # 404, 500, connection refused
    "other_language",
    "short_caption",
    "null_caption",
]
GOOD_PAIRS = 230
COUNTS: Mapping[Defect, int] = {
    "wrong_caption": 40,
    "same_bytes": 15,
    "same_url": 10,
    "tiny": 10,
    "long_and_thin": 8,
    "truncated": 8,
    "not_an_image": 10,
    "cut_response": 4,
    "dead_url": 16,
    "other_language": len(FOREIGN),
    "short_caption": 10,
    "null_caption": 8,
}
# Nothing listens on port 1 of an ordinary machine: connections are refused at once.
REFUSED = f"http://{LOOPBACK}:1"
SHORT = ("a", "IMG_0231", "photo", "DSC04417.JPG", "untitled 2", "x", "1", "new file", "pic", "-")
WEB_PAGE = b"<!DOCTYPE html><html><body><h1>Please log in to see this picture</h1></body></html>"


@dataclass(frozen=True)
class Row:
    """One row of the URL list, with what is wrong with it (None: nothing)."""

    address: str  # a path on the quickstart's server, or a whole URL
    caption: str | None
    defect: Defect | None = None
    twin_of: str | None = None  # address of the pair it repeats; either of the two may be removed

    def url(self, base_url: str) -> str:
        """The address as a whole URL."""
        return self.address if self.address.startswith("http") else base_url + self.address


@dataclass(frozen=True)
class Planted:
    """The rows in the order of the URL list, and what the server answers, by path."""

    rows: tuple[Row, ...]
    answers: Mapping[str, Answer]

    @property
    def counts(self) -> Counter[Defect]:
        """How many rows of each defect there are."""
        return Counter(row.defect for row in self.rows if row.defect)


@dataclass(frozen=True)
class Catch:
    """How many of the planted rows of one kind were removed; `defect` None: good ones, wrongly."""

    defect: Defect | None
    planted: int
    removed: int


def plant(seed: int) -> Planted:
    """Draw the pool; everything, the order of rows too, follows from the seed."""
    rng = Random(f"plant {seed}")
    spoilt = {
        kind: count for kind, count in COUNTS.items() if kind not in ("same_bytes", "same_url")
    }
    drawn = iter(list(draw_pairs(GOOD_PAIRS + sum(spoilt.values()), seed)))
    good = [next(drawn) for _ in range(GOOD_PAIRS)]
    rows = [Row(_path(pair), pair.caption) for pair in good]
    answers = {_path(pair): _answer(pair) for pair in good}
    for kind, count in spoilt.items():
        for number in range(count):
            row, answer = _spoil(kind, number, next(drawn), rng)
            rows.append(row)
            answers |= {row.address: answer} if answer else {}
    twins = rng.sample(good, COUNTS["same_bytes"] + COUNTS["same_url"])
    for number, pair in enumerate(twins):
        path = _path(pair)
        if number < COUNTS["same_bytes"]:
            copy = path.replace("/pictures/", "/mirror/")
            answers[copy] = answers[path]
            rows.append(Row(copy, pair.paraphrase, "same_bytes", twin_of=path))
        else:
            rows.append(Row(path, pair.paraphrase, "same_url", twin_of=path))
    rng.shuffle(rows)
    return Planted(tuple(rows), answers)


def write_url_list(planted: Planted, base_url: str, path: Path) -> None:
    """Write the parquet file that the pipeline reads: columns url and caption, one row per pair."""
    urls = [row.url(base_url) for row in planted.rows]
    captions = [row.caption for row in planted.rows]
    pl.DataFrame({"url": urls, "caption": captions}).write_parquet(path)


def catches(planted: Planted, kept: Collection[int]) -> tuple[Catch, ...]:
    """What became of each kind, given the numbers of the rows that were kept.

    Of a pair and its twin either may stay: a twin counts as caught if not both were kept.
    """
    kept_rows = [planted.rows[number] for number in sorted(set(kept))]
    originals = {row.address for row in kept_rows if row.defect is None}
    missed = Counter(
        row.defect for row in kept_rows if row.twin_of is None or row.twin_of in originals
    )
    # A good row that made way for its twin is not lost.
    swapped = sum(row.twin_of is not None and row.twin_of not in originals for row in kept_rows)
    found = [Catch(kind, n, n - missed[kind]) for kind, n in planted.counts.items()]
    good = sum(row.defect is None for row in planted.rows)
    return (*found, Catch(None, good, good - missed[None] - swapped))


def _path(pair: Pair) -> str:
    return f"/pictures/{pair.name}"


def _answer(pair: Pair) -> Answer:
    return Answer(pair.image, "image/png" if pair.name.endswith("png") else "image/jpeg")


def _spoil(kind: Defect, number: int, pair: Pair, rng: Random) -> tuple[Row, Answer | None]:
    """The row of one spoilt pair and what its URL answers (None: the server does not know it)."""
    if kind == "wrong_caption":
        phrases = other_scene(pair.scene, rng).phrases
        return Row(_path(pair), rng.choice(phrases), kind), _answer(pair)
    if kind in ("short_caption", "null_caption"):
        caption = SHORT[number % len(SHORT)] if kind == "short_caption" else None
        return Row(_path(pair), caption, kind), _answer(pair)
    path = str(PurePosixPath(_path(pair)).with_suffix(".jpg"))
    if kind == "other_language":
        return _foreign(path, number, rng)
    if kind in ("tiny", "long_and_thin"):
        side = rng.randint(24, 48)
        size = (side, side) if kind == "tiny" else (600, 120)
        return Row(path, pair.caption, kind), Answer(encode(render(pair.scene, size), "JPEG"))
    if kind == "dead_url":
        address = (path, path, f"{REFUSED}{path}")[number % 3]
        broken = Answer(b"internal server error", "text/plain", 500) if number % 3 == 1 else None
        return Row(address, pair.caption, kind), broken
    return Row(path, pair.caption, kind), _damaged(kind, number, pair, rng)


def _damaged(kind: Defect, number: int, pair: Pair, rng: Random) -> Answer:
    """A file that is not whole, or no picture at all."""
    jpeg = encode(render(pair.scene, pair.scene.size_px), "JPEG")
    if kind == "not_an_image":
        return Answer(WEB_PAGE, "text/html") if number % 2 else Answer(rng.randbytes(4000))
    end = int(len(jpeg) * rng.uniform(0.3, 0.7))
    return Answer(jpeg[:end], missing_bytes=len(jpeg) - end if kind == "cut_response" else 0)


def _foreign(path: str, number: int, rng: Random) -> tuple[Row, Answer]:
    foreign = FOREIGN[number % len(FOREIGN)]
    background = rng.choice(["white", "cream"] if foreign.colour != "yellow" else ["dark blue"])
    scene = compose_single(rng, foreign.figure, foreign.colour, background)
    image = encode(render(scene, scene.size_px), "JPEG")
    return Row(path, foreign.sentence, "other_language"), Answer(image)


def other_scene(scene: Scene, rng: Random) -> Scene:
    """A scene that has no figure and no colour in common with this one."""
    while True:
        other = compose(rng)
        if not (other.figures & scene.figures or other.colours & scene.colours):
            return other
