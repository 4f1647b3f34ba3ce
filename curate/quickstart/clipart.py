"""Openclipart as training pairs: pictures of the PNG tree, captions from the SVG tree's RDF."""

from __future__ import annotations

import hashlib
import html
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

log = logging.getLogger(__name__)

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
LICENCE = re.compile(rb"""license[^>]*resource=["'][^"']*(PublicDomain|publicdomain)""", re.I)
# Words in titles and keywords that say nothing about the picture.
NOISE = re.compile(
    r"\S+@\S+|https?:\S+|\bby nicu buculei\b|[():;,]|[\d_#]+|"
    r"\b(converted|clip ?art|svg|png|eps|aiga|openclipart|various|unknown|image|externalsource|"
    r"published|hash|theme|unsorted|jean victor(?: balin)?|com|contour|lineart|recoloured|remix)\b",
    re.I,
)
MAX_PIXELS = 20_000_000
KEYWORD_LIMIT = 8
SAME_TITLE_LIMIT = 8


@dataclass(frozen=True)
class Clipart:
    """One openclipart picture: RGBA, [side, side, 4] uint8, squashed to a square, and its words."""

    path: Path
    rgba: NDArray[np.uint8]
    title: str
    keywords: tuple[str, ...]
    description: str

    def caption(self, rng: Random) -> str:
        """One of the ways in which this picture's words make a caption."""
        way = rng.random()
        if way < 0.12 and len(self.description.split()) >= 3:
            return self.description
        words = list(rng.sample(self.keywords, min(len(self.keywords), rng.randint(1, 3))))
        if way < 0.35 and words:
            return f"{self.title}, {', '.join(words)}"
        if way < 0.55 and words:
            return " ".join(words)
        return f"a picture of {self.title}" if way > 0.85 else self.title


def read_clipart(folder: Path, side_px: int) -> Iterator[Clipart]:
    """Every public-domain picture once (by the PNG's bytes) that has a title, in path order.

    Of pictures with the same title only the first few are taken: large series ("gramastar",
    "part of the flat icon collection") say nothing about what is to be seen.
    """
    seen: set[bytes] = set()
    titles: Counter[str] = Counter()
    for svg in sorted((folder / "svg").rglob("*.svg")):
        png = folder / "png" / svg.relative_to(folder / "svg").with_suffix(".png")
        if not png.is_file():
            continue
        digest = hashlib.sha256(png.read_bytes()).digest()
        words = read_words(svg)
        if digest in seen or words is None:
            continue
        seen.add(digest)
        title = words[0]
        if titles[title] >= SAME_TITLE_LIMIT:
            title = _clean(svg.stem)
            words = (title, *words[1:])
        titles[title] += 1
        if titles[title] > SAME_TITLE_LIMIT or not title:
            continue
        rgba = read_rgba(png, side_px)
        if rgba is not None:
            yield Clipart(png, rgba, *words)


def read_words(svg: Path) -> tuple[str, tuple[str, ...], str] | None:
    """Title, keywords and description; None without a title or a public-domain licence."""
    text = svg.read_bytes()
    if not LICENCE.search(text):
        return None
    try:
        work = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        log.info("not XML: %s", svg)
        return None
    title = _clean(work.findtext(f".//{DC}title") or "") or _clean(svg.stem)
    keywords = (_clean(li.text or "") for li in work.iterfind(f".//{DC}subject//{RDF}li"))
    unique = tuple(dict.fromkeys(k for k in keywords if len(k) > 2))[:KEYWORD_LIMIT]
    if len(title) < 3:
        title = " ".join(unique[:2])
    return (title, unique, _clean(work.findtext(f".//{DC}description") or "")) if title else None


def read_rgba(png: Path, side_px: int) -> NDArray[np.uint8] | None:
    """The picture squashed to a square; None if it is too large or broken."""
    try:
        with warnings.catch_warnings(), Image.open(png) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if image.width * image.height > MAX_PIXELS:
                return None
            small = image.convert("RGBA").resize((side_px, side_px), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        log.info("not readable: %s: %s", png, error)
        return None
    return np.asarray(small)


def _clean(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-/.]+", " ", html.unescape(text))
    return " ".join(NOISE.sub(" ", spaced).lower().split())
