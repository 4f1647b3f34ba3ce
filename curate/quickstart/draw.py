"""Captioned pictures drawn from a seed: the same seed gives the same pictures and captions."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

from curate.quickstart.figures import BACKGROUNDS, COLOURS, FIGURES, Part

RGB = tuple[int, int, int]

LAYOUTS = {"single": 45, "pair": 25, "group": 18, "trio": 12}  # and how often, in a hundred
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
CANVAS_SIZES_PX = ((256, 256), (320, 240), (240, 320), (300, 300), (360, 270), (384, 256))
OVAL_CORNERS = 40
SUPERSAMPLING = 2
# Half extent of a figure as a share of the shorter side of the picture.
SIZES = {"small": (0.16, 0.21), "": (0.27, 0.34), "large": (0.41, 0.46)}
PLACES = {
    "in the upper left corner": (0.24, 0.24),
    "in the upper right corner": (0.76, 0.24),
    "in the lower left corner": (0.24, 0.76),
    "in the lower right corner": (0.76, 0.76),
    "in the middle": (0.5, 0.5),
}
PLURALS = {
    "fish": "fish",
    "butterfly": "butterflies",
    "cactus": "cacti",
    "snowman": "snowmen",
    "cross": "crosses",
    "ice cream cone": "ice cream cones",
}
MEDIA = ("a drawing of", "a picture of", "a simple picture of", "an illustration of", "clip art of")


@dataclass(frozen=True)
class Item:
    """One figure on the canvas; x, y and radius are shares of width, height and shorter side."""

    figure: str
    colour: str
    x: float
    y: float
    radius: float
    degrees: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows, before it is drawn; `phrases` say it in different words."""

    items: tuple[Item, ...]
    background: str
    size_px: tuple[int, int]
    phrases: tuple[str, ...]

    @property
    def figures(self) -> frozenset[str]:
        return frozenset(item.figure for item in self.items)

    @property
    def colours(self) -> frozenset[str]:
        return frozenset(item.colour for item in self.items)


@dataclass(frozen=True)
class Pair:
    """A picture as an encoded file, with its caption and the same said in other words."""

    name: str  # "000012.jpg"
    caption: str
    paraphrase: str
    scene: Scene
    image: bytes


def draw_pairs(count: int, seed: int) -> Iterator[Pair]:
    """`count` pairs; pair i depends on the seed and i only, and one file in eight is a PNG."""
    for index in range(count):
        rng = Random(f"pair {seed} {index}")
        yield make_pair(f"{index:06d}", compose(rng), rng)


def make_pair(stem: str, scene: Scene, rng: Random) -> Pair:
    """Draw and encode a scene, and choose two of its phrases."""
    caption, paraphrase = rng.sample(scene.phrases, 2)
    suffix = rng.choice(["jpg"] * 7 + ["png"])
    image = encode(render(scene, scene.size_px), "PNG" if suffix == "png" else "JPEG")
    return Pair(f"{stem}.{suffix}", caption, paraphrase, scene, image)


def compose(rng: Random) -> Scene:
    """A random scene: one figure, two beside each other, a number of equal ones, or three."""
    layout = rng.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
    background = rng.choice(list(BACKGROUNDS))
    size_px = rng.choice(CANVAS_SIZES_PX)
    if layout == "single":
        return compose_single(rng, rng.choice(list(FIGURES)), _colour(rng, background), background)
    if layout == "group":
        items, phrases = _group(rng, background)
    elif layout == "pair":
        items, phrases = _pair(rng, background)
    else:
        items, phrases = _trio(rng, background)
    return Scene(items, background, size_px, phrases)


def compose_single(rng: Random, figure: str, colour: str, background: str) -> Scene:
    """A scene of one given figure at a random place and size."""
    place = rng.choice(["in the middle"] * 4 + list(PLACES))
    size = rng.choice(["small", ""] if place != "in the middle" else list(SIZES))
    x, y = PLACES[place]
    item = _item(
        rng, (figure, colour), (x, y), rng.uniform(*SIZES[size]) * (0.8 if x != 0.5 else 1)
    )
    thing = " ".join(filter(None, [size, colour, figure]))
    ground = f"on a {background} background"
    phrases = [
        f"{_article(thing)} {thing} {ground}",
        f"{rng.choice(MEDIA)} {_article(thing)} {thing}",
        f"{_article(thing)} {thing} {place} of the picture",
        f"{rng.choice(MEDIA)} {_article(thing)} {thing} {ground}",
        f"this is {_article(thing)} {thing} with a {background} background behind it",
    ]
    return Scene((item,), background, rng.choice(CANVAS_SIZES_PX), tuple(phrases))


def _group(rng: Random, background: str) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    figure, colour = rng.choice(list(FIGURES)), _colour(rng, background)
    count = rng.randint(2, 6)
    columns = 2 if count in (2, 4) else 3
    rows = math.ceil(count / columns)
    radius = 0.4 / max(columns, rows)
    items = tuple(
        _item(
            rng,
            (figure, colour),
            ((i % columns + 0.5) / columns, (i // columns + 0.5) / rows),
            radius * rng.uniform(0.85, 1.05),
        )
        for i in range(count)
    )
    things = f"{NUMBERS[count]} {colour} {plural(figure)}"
    ground = f"on a {background} background"
    phrases = [
        f"{things} {ground}",
        f"{rng.choice(MEDIA)} {things}",
        f"there are {things} in this picture",
        f"{rng.choice(MEDIA)} {things} {ground}",
    ]
    return items, tuple(phrases)


def _pair(rng: Random, background: str) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    first, second = ((f, _colour(rng, background)) for f in rng.sample(list(FIGURES), 2))
    radius = rng.uniform(0.21, 0.25)
    one, two = _described(first), _described(second)
    if rng.random() < 0.5:
        items = (_item(rng, first, (0.26, 0.5), radius), _item(rng, second, (0.74, 0.5), radius))
        ways = (f"{one} to the left of {two}", f"{two} to the right of {one}")
    else:
        items = (_item(rng, first, (0.5, 0.26), radius), _item(rng, second, (0.5, 0.74), radius))
        ways = (f"{one} above {two}", f"{two} below {one}")
    ground = f"on a {background} background"
    phrases = [
        *ways,
        f"{rng.choice(MEDIA)} {one} and {two}",
        f"{one} next to {two} {ground}",
        f"{one} together with {two}",
    ]
    return items, tuple(phrases)


def _trio(rng: Random, background: str) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    looks = [(f, _colour(rng, background)) for f in rng.sample(list(FIGURES), 3)]
    places = rng.choice(
        [((0.26, 0.27), (0.74, 0.27), (0.5, 0.75)), ((0.5, 0.25), (0.26, 0.73), (0.74, 0.73))]
    )
    items = tuple(
        _item(rng, look, place, rng.uniform(0.19, 0.23))
        for look, place in zip(looks, places, strict=True)
    )
    a, b, c = (_described(look) for look in looks)
    phrases = [
        f"{a}, {b} and {c}",
        f"{rng.choice(MEDIA)} {b}, {a} and {c}",
        f"a scene with {c}, {a} and {b}",
        f"{a} together with {c} and {b} on a {background} background",
    ]
    return items, tuple(phrases)


def plural(figure: str) -> str:
    """The English plural of a figure's name."""
    return PLURALS.get(figure, f"{figure}s")


def _article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


def _described(look: tuple[str, str]) -> str:
    thing = f"{look[1]} {look[0]}"
    return f"{_article(thing)} {thing}"


def _colour(rng: Random, background: str) -> str:
    """A colour that can be seen on the background."""
    ground = BACKGROUNDS[background]
    visible = [name for name, rgb in COLOURS.items() if math.dist(rgb, ground) > 110]
    return rng.choice(visible)


def _item(rng: Random, look: tuple[str, str], place: tuple[float, float], radius: float) -> Item:
    x, y = (p + rng.uniform(-0.02, 0.02) for p in place)
    return Item(*look, x, y, radius, rng.uniform(-12, 12))


def render(scene: Scene, size_px: tuple[int, int]) -> Image.Image:
    """Draw at twice the size and shrink, for smooth edges."""
    width, height = (side * SUPERSAMPLING for side in size_px)
    image = Image.new("RGB", (width, height), BACKGROUNDS[scene.background])
    canvas = ImageDraw.Draw(image)
    for item in scene.items:
        scale = item.radius * min(width, height)
        cos, sin = math.cos(math.radians(item.degrees)), math.sin(math.radians(item.degrees))
        for part in FIGURES[item.figure]:
            corners = [
                (
                    item.x * width + scale * (x * cos - y * sin),
                    item.y * height + scale * (x * sin + y * cos),
                )
                for x, y in outline(part)
            ]
            canvas.polygon(corners, fill=shade(part.colour, item.colour, scene.background))
    return image.reduce(SUPERSAMPLING)


def outline(part: Part) -> list[tuple[float, float]]:
    """The corners of a part; an oval becomes a polygon of many."""
    if part.kind == "polygon":
        return list(zip(part.points[::2], part.points[1::2], strict=True))
    x0, y0, x1, y1 = part.points
    if part.kind == "box":
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    turns = [2 * math.pi * i / OVAL_CORNERS for i in range(OVAL_CORNERS)]
    return [
        ((x0 + x1) / 2 + (x1 - x0) / 2 * math.cos(t), (y0 + y1) / 2 + (y1 - y0) / 2 * math.sin(t))
        for t in turns
    ]


def shade(part_colour: str, item_colour: str, background: str) -> RGB:
    """The colour of a part: of its own, of the item (darker, lighter) or of the background."""
    if part_colour == "cut":
        return BACKGROUNDS[background]
    if part_colour not in ("main", "dark", "light"):
        return (COLOURS | BACKGROUNDS)[part_colour]
    red, green, blue = COLOURS[item_colour]
    towards, share = {"main": (0, 0.0), "dark": (0, 0.3), "light": (255, 0.55)}[part_colour]
    mix = [round(v + (towards - v) * share) for v in (red, green, blue)]
    return (mix[0], mix[1], mix[2])


def encode(image: Image.Image, image_format: Literal["JPEG", "PNG"]) -> bytes:
    """The picture as a file; JPEG at quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"quality": 90} if image_format == "JPEG" else {}))
    return buffer.getvalue()
