"""How numbers are distributed among the samples that each side kept, on the same edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from curate.comparison.blocks import Block
from curate.comparison.effects import standardised
from curate.comparison.sides import LETTERS, Letter
from curate.features._exact_sums import ExactSums, exact_sums
from curate.report.measured import scores

BINS = 60
LONGEST = 10_000  # characters; longer captions count as so long
WIDE = 100  # a highest value so many times the lowest is drawn on a logarithmic scale
CAPTION = "caption_characters"  # made from the caption
ASPECT = "aspect_ratio"  # longer side / shorter side, made from both

Scale = Literal["linear", "log"]
Json = dict[str, Any]
Key = tuple[Letter, str]  # a side and a column


@dataclass(frozen=True)
class Number:
    """A number that samples have: a column, or the longer of two by the shorter."""

    name: str
    columns: tuple[str, ...]

    def of(self, block: Block) -> np.ndarray:
        """[N] float64 once every step has added its columns; NaN where a row has none."""
        plan = block.view.plan
        found = [scores(plan, len(plan.steps), name, block.span) for name in self.columns]
        if len(found) == 1:
            return found[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.maximum(*found) / np.minimum(*found))


@dataclass(frozen=True)
class Sums:
    """What is known of the values of some samples without looking at them twice."""

    finite: ExactSums
    missing: int = 0
    infinite: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.finite + other.finite,
            self.missing + other.missing,
            self.infinite + other.infinite,
        )


Parts = tuple[Sums, Sums]  # of those that the other side kept as well, and of those it did not


@dataclass(frozen=True)
class Summed:
    """The first look at columns: exact sums, and ranges."""

    numbers: tuple[Number, ...]

    def look(self, block: Block) -> dict[Key, Parts]:
        found: dict[Key, Parts] = {}
        for number in self.numbers:
            values = number.of(block)
            for letter in block.view.of:
                both, only = (_sums(values[rows]) for rows in block.parts(letter))
                found[letter, number.name] = both, only
        return found

    def merge(self, left: dict[Key, Parts], right: dict[Key, Parts]) -> dict[Key, Parts]:
        return merged(left, right, _added)

    def nothing(self) -> dict[Key, Parts]:
        return {}


def merged(left: Mapping[Key, Any], right: Mapping[Key, Any], add: Any) -> dict[Key, Any]:
    """What both have, and what one has."""
    found = dict(left)
    for key, value in right.items():
        found[key] = add(found[key], value) if key in found else value
    return found


def _added(left: Parts, right: Parts) -> Parts:
    return left[0] + right[0], left[1] + right[1]


def _sums(values: np.ndarray) -> Sums:
    finite = np.isfinite(values)
    missing = int(np.isnan(values).sum())
    whole = values if finite.all() else values[finite]
    return Sums(exact_sums(whole), missing, len(values) - len(whole) - missing)


@dataclass(frozen=True)
class Drawn:
    """The second look at columns: how many values are between two edges."""

    edges: tuple[tuple[Number, tuple[float, ...]], ...]

    def look(self, block: Block) -> dict[Key, np.ndarray]:
        """{key: [2, bins] int64 of those that both kept, and of those that only one kept}."""
        found = {}
        for number, edges in self.edges:
            values = number.of(block)
            for letter in block.view.of:
                places = (_places(values[rows], np.array(edges)) for rows in block.parts(letter))
                bins = [_binned(each, len(edges) - 1) for each in places]
                found[letter, number.name] = np.stack(bins)
        return found

    def merge(
        self, left: dict[Key, np.ndarray], right: dict[Key, np.ndarray]
    ) -> dict[Key, np.ndarray]:
        return merged(left, right, np.add)

    def nothing(self) -> dict[Key, np.ndarray]:
        return {}


def _places(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[N] bin of each value, -1 for those that are not finite."""
    places = np.searchsorted(edges, values, "right") - 1
    places[values == edges[-1]] = len(edges) - 2
    return np.asarray(np.where(np.isfinite(values), places, -1))


def _binned(places: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(places + 1, minlength=bins + 1)[1:]


@dataclass(frozen=True)
class Lengths:
    """One look at captions: how many have each number of characters."""

    def look(self, block: Block) -> dict[Key, np.ndarray]:
        """{key: [2, LONGEST + 2] int64}: samples by length, and last those without a caption."""
        lengths = block.captions.str.len_chars().fill_null(LONGEST + 1).to_numpy().astype(np.int64)
        none = block.captions.is_null().to_numpy()
        lengths = np.where(none, LONGEST + 1, np.minimum(lengths, LONGEST))
        return {
            (letter, CAPTION): np.stack(
                [np.bincount(lengths[rows], minlength=LONGEST + 2) for rows in block.parts(letter)]
            )
            for letter in block.view.of
        }

    def merge(
        self, left: dict[Key, np.ndarray], right: dict[Key, np.ndarray]
    ) -> dict[Key, np.ndarray]:
        return merged(left, right, np.add)

    def nothing(self) -> dict[Key, np.ndarray]:
        return {}


@dataclass(frozen=True)
class Sided:
    """A column as one side has it."""

    sums: Parts
    bins: np.ndarray  # [2, B]

    def said(self) -> Json:
        """The fields of `schema.Values`."""
        whole = self.sums[0] + self.sums[1]
        some = whole.finite.count > 0
        return {
            "both": self.bins[0].tolist(),
            "only": self.bins[1].tolist(),
            "count": whole.finite.count,
            "missing": whole.missing,
            "infinite": whole.infinite,
            "mean": whole.finite.mean() if some else None,
            "deviation": whole.finite.deviation() if some else None,
            "low": whole.finite.low + 0.0 if some else None,
            "high": whole.finite.high + 0.0 if some else None,
        }


def edges_of(sums: Mapping[Key, Parts], column: str) -> tuple[Scale, tuple[float, ...]] | None:
    """The scale and edges that hold the values of both sides; None where neither has one."""
    parts = [part.finite for letter in LETTERS for part in sums.get((letter, column), ())]
    low = min((part.low for part in parts), default=math.inf) + 0.0
    high = max((part.high for part in parts), default=-math.inf) + 0.0
    if low > high:
        return None
    if low == high:
        return "linear", _around(low)
    scale: Scale = "log" if low > 0 and high / WIDE > low else "linear"
    shares = np.arange(BINS + 1) / BINS
    inner = low * (1 - shares) + high * shares
    if scale == "log":
        inner = np.exp(math.log(low) * (1 - shares) + math.log(high) * shares)
    edges = np.unique([low, *inner[1:-1].clip(low, high), high])
    return scale, tuple(edges.tolist())


def _around(value: float) -> tuple[float, float]:
    """Edges of the one bin of a value."""
    return float(np.nextafter(value, -np.inf)), float(np.nextafter(value, np.inf))


def of_lengths(counts: Mapping[Key, np.ndarray]) -> tuple[Json, dict[Letter, Sided]] | None:
    """Scale and edges of the lengths of captions, and what each side has between them."""
    lengths = np.arange(LONGEST + 1)
    there = {letter: counts[letter, CAPTION] for letter in LETTERS if (letter, CAPTION) in counts}
    sums: dict[Key, Parts] = {}
    for letter, found in there.items():
        both, only = (_length_sums(part) for part in found)
        sums[letter, CAPTION] = both, only
    made = edges_of(sums, CAPTION)
    if made is None or len(there) < 2:
        return None
    scale, edges = made
    places = _places(lengths.astype(np.float64), np.array(edges))
    sided = {}
    for letter, found in there.items():
        bins = np.zeros((2, len(edges) - 1), dtype=np.int64)
        inside = (places >= 0) & (places < len(edges) - 1)
        for own, part in zip(bins, found, strict=True):
            np.add.at(own, places[inside], part[:-1][inside])
        sided[letter] = Sided(sums[letter, CAPTION], bins)
    return {"scale": scale, "edges": list(edges)}, sided


def _length_sums(counts: np.ndarray) -> Sums:
    """The sums of so many captions of each length."""
    there = np.flatnonzero(counts[:-1])
    single = [exact_sums(np.array([length], dtype=np.float64)) for length in there.tolist()]
    total = ExactSums()
    for one, times in zip(single, counts[there].tolist(), strict=True):
        total = total + replace(
            one, count=times, total=one.total * times, squares=one.squares * times
        )
    return Sums(total, int(counts[-1]))


def distribution(
    column: str, drawn: Json, sided: Mapping[Letter, Sided], recipes: Literal["same", "differ"]
) -> Json:
    """The section of one column."""
    a, b = sided["a"], sided["b"]
    d = standardised(*((side.sums[0].finite, side.sums[1].finite) for side in (a, b)))
    return {
        "column": column,
        **drawn,
        "a": a.said(),
        "b": b.said(),
        "d": None if d is None else dict(zip(("value", "low", "high"), d, strict=True)),
        "ks": _distance(a.bins.sum(axis=0), b.bins.sum(axis=0)),
        "recipes": recipes,
    }


def _distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """The largest difference of the shares below an edge, in whole numbers up to the division."""
    of_a, of_b = int(a.sum()), int(b.sum())
    if not of_a or not of_b:
        return None
    below = zip(np.cumsum(a).tolist(), np.cumsum(b).tolist(), strict=True)
    return float(max(abs(x * of_b - y * of_a) for x, y in below) / (of_a * of_b))


def in_order_of_effect(found: Sequence[Json]) -> list[Json]:
    """The largest difference of means first, then those without any; ties by name."""

    def key(one: Json) -> tuple[float, str]:
        return -abs(one["d"]["value"]) if one["d"] else 0.0, one["column"]

    return sorted(found, key=key)


def sided_of(
    column: str, sums: Mapping[Key, Parts], bins: Mapping[Key, np.ndarray]
) -> dict[Letter, Sided]:
    """A column as each side has it."""
    return {one: Sided(sums[one, column], bins[one, column]) for one in LETTERS}
