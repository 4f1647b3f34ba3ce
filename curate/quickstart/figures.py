"""The figures that the quickstart draws: each a name and a few shapes in a box from -1 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ShapeKind = Literal["oval", "box", "polygon"]
Points = tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """One filled shape; `colour` is "main", "dark", "light" (shades of the figure's), or a name."""

    kind: ShapeKind
    colour: str
    points: Points  # x0, y0, x1, y1 of a box, or the corners of a polygon; y grows downwards


COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 210, 40),
    "green": (46, 150, 70),
    "blue": (40, 90, 200),
    "purple": (125, 60, 160),
    "pink": (245, 130, 180),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
    "gray": (130, 130, 130),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (12, 12, 12),
    "light blue": (185, 220, 245),
    "light green": (200, 232, 190),
    "cream": (250, 240, 210),
    "light gray": (215, 215, 215),
    "dark blue": (22, 32, 84),
}


def oval(colour: str, *points: float) -> Part:
    """An ellipse in the box x0, y0, x1, y1."""
    return Part("oval", colour, points)


def box(colour: str, *points: float) -> Part:
    """A rectangle x0, y0, x1, y1."""
    return Part("box", colour, points)


def polygon(colour: str, *points: float) -> Part:
    """A polygon by its corners."""
    return Part("polygon", colour, points)


def ring_of_points(count: int, radii: tuple[float, ...]) -> Points:
    """Corners of a regular polygon, or with two radii of a star, the first corner on top."""
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    corners = [(radii[i % len(radii)], angle) for i, angle in enumerate(angles)]
    return tuple(v for r, a in corners for v in (r * math.cos(a), r * math.sin(a)))


def petals(colour: str, count: int, distance: float, radius: float) -> tuple[Part, ...]:
    """Circles around the middle."""
    centres = ring_of_points(count, (distance,))
    return tuple(
        oval(colour, x - radius, y - radius, x + radius, y + radius)
        for x, y in zip(centres[::2], centres[1::2], strict=True)
    )


# "cut" is the colour of the background: what it covers looks like a hole.
FIGURES: dict[str, tuple[Part, ...]] = {
    "circle": (oval("main", -0.9, -0.9, 0.9, 0.9),),
    "square": (box("main", -0.85, -0.85, 0.85, 0.85),),
    "triangle": (polygon("main", 0, -0.9, 0.95, 0.8, -0.95, 0.8),),
    "star": (polygon("main", *ring_of_points(10, (1.0, 0.42))),),
    "diamond": (polygon("main", 0, -1, 0.65, 0, 0, 1, -0.65, 0),),
    "hexagon": (polygon("main", *ring_of_points(6, (0.95,))),),
    "ring": (oval("main", -0.9, -0.9, 0.9, 0.9), oval("cut", -0.5, -0.5, 0.5, 0.5)),
    "cross": (box("main", -0.3, -0.9, 0.3, 0.9), box("main", -0.9, -0.3, 0.9, 0.3)),
    "heart": (
        oval("main", -0.9, -0.8, 0.05, 0.15),
        oval("main", -0.05, -0.8, 0.9, 0.15),
        polygon("main", -0.84, -0.1, 0.84, -0.1, 0, 0.95),
    ),
    "moon": (oval("main", -0.9, -0.9, 0.9, 0.9), oval("cut", -0.35, -0.95, 1.25, 0.65)),
    "arrow": (
        box("main", -0.95, -0.22, 0.2, 0.22),
        polygon("main", 0.1, -0.65, 0.95, 0, 0.1, 0.65),
    ),
    "house": (
        box("light", -0.7, -0.1, 0.7, 0.9),
        polygon("main", -0.95, -0.1, 0, -0.95, 0.95, -0.1),
        box("brown", -0.15, 0.35, 0.2, 0.9),
        box("blue", -0.55, 0.1, -0.25, 0.4),
        box("blue", 0.3, 0.1, 0.6, 0.4),
    ),
    "tree": (
        box("brown", -0.15, 0.2, 0.15, 0.95),
        oval("main", -0.75, -0.4, 0.15, 0.45),
        oval("main", -0.15, -0.4, 0.75, 0.45),
        oval("main", -0.5, -0.95, 0.5, 0.1),
    ),
    "car": (
        polygon("main", -0.5, -0.15, -0.3, -0.6, 0.3, -0.6, 0.55, -0.15),
        box("main", -0.95, -0.2, 0.95, 0.35),
        box("light", -0.25, -0.48, 0.0, -0.2),
        box("light", 0.08, -0.48, 0.3, -0.2),
        oval("black", -0.7, 0.1, -0.2, 0.6),
        oval("black", 0.2, 0.1, 0.7, 0.6),
    ),
    "truck": (
        box("main", -0.95, -0.65, 0.3, 0.4),
        box("dark", 0.35, -0.25, 0.95, 0.4),
        box("light", 0.6, -0.15, 0.88, 0.1),
        oval("black", -0.75, 0.2, -0.3, 0.65),
        oval("black", 0.35, 0.2, 0.8, 0.65),
    ),
    "boat": (
        polygon("main", -0.95, 0.35, 0.95, 0.35, 0.6, 0.85, -0.6, 0.85),
        box("brown", -0.05, -0.95, 0.05, 0.35),
        polygon("light", 0.1, -0.9, 0.75, 0.2, 0.1, 0.2),
        polygon("light", -0.1, -0.7, -0.6, 0.2, -0.1, 0.2),
    ),
    "fish": (
        oval("main", -0.9, -0.5, 0.55, 0.5),
        polygon("dark", 0.35, 0, 0.95, -0.5, 0.95, 0.5),
        oval("white", -0.7, -0.25, -0.45, 0.0),
        oval("black", -0.64, -0.18, -0.52, -0.06),
    ),
    "bird": (
        oval("main", -0.65, -0.25, 0.55, 0.5),
        oval("main", -0.9, -0.65, -0.3, -0.05),
        polygon("orange", -0.85, -0.4, -1.0, -0.25, -0.82, -0.2),
        polygon("dark", -0.2, 0.0, 0.85, -0.6, 0.3, 0.25),
        oval("black", -0.75, -0.5, -0.63, -0.38),
        box("orange", -0.2, 0.45, -0.12, 0.85),
        box("orange", 0.05, 0.45, 0.13, 0.85),
    ),
    "cat": (
        polygon("main", -0.75, -0.2, -0.7, -0.95, -0.15, -0.55),
        polygon("main", 0.75, -0.2, 0.7, -0.95, 0.15, -0.55),
        oval("main", -0.8, -0.65, 0.8, 0.75),
        oval("yellow", -0.5, -0.25, -0.15, 0.1),
        oval("yellow", 0.15, -0.25, 0.5, 0.1),
        oval("black", -0.38, -0.2, -0.26, 0.06),
        oval("black", 0.26, -0.2, 0.38, 0.06),
        polygon("pink", -0.12, 0.2, 0.12, 0.2, 0, 0.38),
    ),
    "butterfly": (
        oval("main", -0.95, -0.8, -0.05, 0.1),
        oval("main", 0.05, -0.8, 0.95, 0.1),
        oval("light", -0.75, 0.0, -0.05, 0.75),
        oval("light", 0.05, 0.0, 0.75, 0.75),
        oval("black", -0.1, -0.75, 0.1, 0.75),
    ),
    "snail": (
        oval("dark", -0.95, 0.35, 0.7, 0.75),
        oval("dark", -0.95, -0.1, -0.55, 0.65),
        oval("main", -0.5, -0.7, 0.75, 0.55),
        oval("light", -0.2, -0.4, 0.5, 0.3),
        oval("main", 0.0, -0.2, 0.3, 0.1),
    ),
    "flower": (
        box("green", -0.06, 0.0, 0.06, 0.98),
        polygon("green", 0, 0.8, 0.5, 0.45, 0.1, 0.75),
        *(
            oval(part.colour, *(v - 0.35 * (i % 2) for i, v in enumerate(part.points)))
            for part in petals("main", 6, 0.38, 0.24)
        ),
        oval("yellow", -0.2, -0.55, 0.2, -0.15),
    ),
    "sun": (
        polygon("main", *ring_of_points(24, (1.0, 0.66))),
        oval("light", -0.55, -0.55, 0.55, 0.55),
    ),
    "cloud": (
        oval("main", -0.95, -0.2, -0.1, 0.5),
        oval("main", -0.5, -0.6, 0.35, 0.3),
        oval("main", 0.05, -0.35, 0.95, 0.5),
        box("main", -0.55, 0.1, 0.55, 0.5),
    ),
    "balloon": (
        oval("main", -0.6, -0.95, 0.6, 0.4),
        polygon("dark", 0, 0.35, -0.12, 0.5, 0.12, 0.5),
        oval("light", -0.35, -0.7, -0.1, -0.35),
        box("gray", -0.025, 0.5, 0.025, 1.0),
    ),
    "umbrella": (
        box("brown", -0.05, -0.2, 0.05, 0.9),
        box("brown", 0.05, 0.78, 0.3, 0.9),
        oval("main", -0.95, -0.85, 0.95, 0.75),
        box("cut", -1.0, -0.05, -0.05, 0.77),
        box("cut", 0.05, -0.05, 1.0, 0.77),
        box("brown", -0.05, -0.05, 0.05, 0.9),
    ),
    "mushroom": (
        polygon("light", -0.25, 0.0, 0.25, 0.0, 0.35, 0.9, -0.35, 0.9),
        oval("main", -0.9, -0.85, 0.9, 0.25),
        oval("white", -0.55, -0.5, -0.25, -0.2),
        oval("white", 0.2, -0.6, 0.5, -0.3),
        oval("white", -0.1, -0.25, 0.15, 0.0),
    ),
    "apple": (
        box("brown", -0.05, -0.9, 0.06, -0.4),
        oval("main", -0.8, -0.55, 0.2, 0.85),
        oval("main", -0.2, -0.55, 0.8, 0.85),
        polygon("green", 0.05, -0.6, 0.55, -0.95, 0.45, -0.6),
    ),
    "ice cream cone": (
        polygon("brown", -0.45, 0.0, 0.45, 0.0, 0, 0.98),
        oval("main", -0.6, -0.65, 0.6, 0.3),
        oval("light", -0.4, -0.98, 0.4, -0.25),
    ),
    "cup": (
        oval("main", 0.25, -0.4, 0.9, 0.35),
        oval("cut", 0.42, -0.22, 0.72, 0.17),
        box("main", -0.7, -0.6, 0.5, 0.6),
        oval("main", -0.7, 0.4, 0.5, 0.8),
        oval("light", -0.7, -0.75, 0.5, -0.45),
    ),
    "bottle": (
        box("dark", -0.18, -0.98, 0.18, -0.8),
        box("main", -0.14, -0.8, 0.14, -0.2),
        oval("main", -0.4, -0.4, 0.4, 0.1),
        box("main", -0.4, -0.15, 0.4, 0.95),
        box("light", -0.4, 0.15, 0.4, 0.6),
    ),
    "candle": (
        oval("orange", -0.18, -0.98, 0.18, -0.4),
        oval("yellow", -0.09, -0.8, 0.09, -0.42),
        box("main", -0.25, -0.35, 0.25, 0.8),
        box("dark", -0.6, 0.75, 0.6, 0.95),
    ),
    "flag": (
        box("brown", -0.8, -0.95, -0.68, 0.98),
        box("main", -0.68, -0.9, 0.9, -0.55),
        box("white", -0.68, -0.55, 0.9, -0.2),
        box("main", -0.68, -0.2, 0.9, 0.15),
    ),
    "face": (
        oval("main", -0.9, -0.9, 0.9, 0.9),
        oval("black", -0.45, -0.4, -0.2, -0.05),
        oval("black", 0.2, -0.4, 0.45, -0.05),
        oval("black", -0.5, 0.0, 0.5, 0.65),
        box("main", -0.55, -0.02, 0.55, 0.3),
    ),
    "robot": (
        box("dark", -0.04, -0.98, 0.04, -0.7),
        box("main", -0.5, -0.75, 0.5, -0.05),
        box("yellow", -0.32, -0.55, -0.1, -0.35),
        box("yellow", 0.1, -0.55, 0.32, -0.35),
        box("dark", -0.6, 0.0, 0.6, 0.7),
        box("main", -0.9, 0.05, -0.65, 0.6),
        box("main", 0.65, 0.05, 0.9, 0.6),
        box("main", -0.4, 0.7, -0.1, 0.98),
        box("main", 0.1, 0.7, 0.4, 0.98),
    ),
    "rocket": (
        polygon("orange", -0.2, 0.55, 0.2, 0.55, 0, 1.0),
        polygon("dark", -0.3, 0.1, -0.7, 0.7, -0.3, 0.55),
        polygon("dark", 0.3, 0.1, 0.7, 0.7, 0.3, 0.55),
        box("main", -0.3, -0.45, 0.3, 0.58),
        polygon("dark", -0.3, -0.45, 0, -1.0, 0.3, -0.45),
        oval("light", -0.17, -0.3, 0.17, 0.04),
    ),
    "kite": (
        polygon("main", 0, -0.98, 0.6, -0.3, 0, 0.4, -0.6, -0.3),
        polygon("light", 0, -0.98, 0.6, -0.3, 0, -0.3),
        polygon("light", 0, 0.4, -0.6, -0.3, 0, -0.3),
        box("gray", -0.025, 0.4, 0.025, 0.98),
        polygon("main", -0.2, 0.6, 0.2, 0.75, 0.2, 0.6, -0.2, 0.75),
    ),
    "clock": (
        oval("main", -0.92, -0.92, 0.92, 0.92),
        oval("white", -0.72, -0.72, 0.72, 0.72),
        polygon("black", -0.05, 0.05, -0.05, -0.58, 0.05, -0.58, 0.05, 0.05),
        polygon("black", -0.03, -0.05, 0.45, 0.2, 0.42, 0.28, -0.05, 0.05),
    ),
    "key": (
        oval("main", -0.95, -0.45, -0.05, 0.45),
        oval("cut", -0.7, -0.2, -0.3, 0.2),
        box("main", -0.1, -0.12, 0.95, 0.12),
        box("main", 0.45, 0.1, 0.6, 0.45),
        box("main", 0.75, 0.1, 0.9, 0.4),
    ),
    "book": (
        polygon("main", 0, -0.5, -0.95, -0.7, -0.95, 0.6, 0, 0.8),
        polygon("dark", 0, -0.5, 0.95, -0.7, 0.95, 0.6, 0, 0.8),
        polygon("white", -0.06, -0.45, -0.82, -0.6, -0.82, 0.45, -0.06, 0.62),
        polygon("white", 0.06, -0.45, 0.82, -0.6, 0.82, 0.45, 0.06, 0.62),
    ),
    "envelope": (
        box("main", -0.95, -0.6, 0.95, 0.6),
        polygon("light", -0.95, -0.6, 0.95, -0.6, 0, 0.15),
    ),
    "lamp": (
        polygon("main", -0.35, -0.9, 0.35, -0.9, 0.75, 0.0, -0.75, 0.0),
        box("gray", -0.06, 0.0, 0.06, 0.75),
        box("gray", -0.45, 0.75, 0.45, 0.92),
    ),
    "chair": (
        box("main", -0.6, -0.95, -0.42, 0.95),
        box("light", -0.42, -0.85, -0.25, -0.1),
        box("main", -0.6, 0.0, 0.6, 0.22),
        box("main", 0.42, 0.2, 0.6, 0.95),
    ),
    "table": (
        box("main", -0.95, -0.4, 0.95, -0.15),
        box("dark", -0.8, -0.15, -0.62, 0.8),
        box("dark", 0.62, -0.15, 0.8, 0.8),
    ),
    "mountain": (
        polygon("main", -0.98, 0.8, -0.2, -0.85, 0.6, 0.8),
        polygon("dark", 0.0, 0.8, 0.5, -0.2, 0.98, 0.8),
        polygon("white", -0.42, -0.4, -0.2, -0.85, 0.02, -0.4, -0.2, -0.25),
    ),
    "cactus": (
        box("main", -0.2, -0.85, 0.2, 0.9),
        oval("main", -0.2, -1.0, 0.2, -0.65),
        box("main", -0.7, -0.3, -0.45, 0.25),
        box("main", -0.7, 0.1, -0.1, 0.3),
        box("main", 0.45, -0.5, 0.7, 0.1),
        box("main", 0.1, -0.05, 0.7, 0.15),
    ),
    "snowman": (
        oval("main", -0.65, 0.0, 0.65, 0.98),
        oval("main", -0.45, -0.65, 0.45, 0.2),
        box("black", -0.35, -0.98, 0.35, -0.6),
        box("black", -0.55, -0.65, 0.55, -0.55),
        oval("black", -0.22, -0.45, -0.1, -0.33),
        oval("black", 0.1, -0.45, 0.22, -0.33),
        polygon("orange", -0.05, -0.25, 0.4, -0.15, -0.05, -0.1),
    ),
    "crown": (
        polygon("main", -0.9, 0.6, -0.95, -0.6, -0.45, 0, 0, -0.8, 0.45, 0, 0.95, -0.6, 0.9, 0.6),
        box("dark", -0.9, 0.45, 0.9, 0.7),
        oval("light", -0.1, 0.05, 0.1, 0.35),
    ),
}
