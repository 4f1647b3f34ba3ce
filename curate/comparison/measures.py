"""Which columns of two sides can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from curate.columns import Column, Registry
from curate.comparison.distributions import ASPECT, Number
from curate.comparison.shares import DOMAIN
from curate.comparison.sides import LETTERS, OTHER, Letter, Pair
from curate.errors import ConfigError, did_you_mean
from curate.features import FittedFeature
from curate.features.language import Language
from curate.fitted import content
from curate.pipeline import full_recipe
from curate.sample import INTERNAL
from curate.step import Recipe

MOST = 40  # columns that are compared without being named
_SIZES = (("original_width", "original_height"), ("width", "height"))
_WHOLE = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_FLOAT = ("Float16", "Float32", "Float64")
_WORDS = ("String", "Boolean", "Categorical", "Enum")


@dataclass(frozen=True)
class Measures:
    """The columns that both sides have."""

    numbers: tuple[Number, ...]
    words: tuple[str, ...]
    captions: bool  # whether both have captions, whose words and lengths are compared


def measures(pair: Pair, named: Sequence[str]) -> Measures:
    """Scores and sizes, languages, and the columns that a user names.

    Raises:
        ConfigError: a named column is not there on a side, or cannot be compared.
    """
    registries = [_registry(pair, "a"), _registry(pair, "b")]
    shared = {
        name: column
        for name, column in registries[0].items()
        if name in registries[1] and name not in INTERNAL and name != "uid"
    }
    for name in named:
        _refuse(pair, name, shared)
    named = [*named, *(name for name in _reported(pair) if _can_compare(shared.get(name)))]
    numbers = sorted(name for name, column in shared.items() if _is_score(column))[:MOST]
    numbers = [*(name for name in named if _is_numeric(shared[name])), *numbers]
    words = [*(name for name in named if shared[name].dtype in _WORDS), *_languages(pair, shared)]
    columns = [Number(name, (name,)) for name in numbers]
    return Measures(
        tuple({one.name: one for one in (*columns, *_sizes(shared))}.values()),
        tuple(dict.fromkeys(words)),
        "caption" in shared,
    )


def _reported(pair: Pair) -> list[str]:
    """The columns that the runs' own reports were asked to count."""
    sides = (pair.sides[letter].facts for letter in LETTERS)
    return [name for facts in sides if facts for name in facts.plan.config.report.columns]


def _can_compare(column: Column | None) -> bool:
    return column is not None and (_is_numeric(column) or column.dtype in _WORDS)


def _sizes(shared: Registry) -> list[Number]:
    """Width, height and aspect ratio: the original ones where they are known."""
    for names in _SIZES:
        if all(name in shared and _is_numeric(shared[name]) for name in names):
            single = [Number(name, (name,)) for name in names]
            return single if ASPECT in shared else [*single, Number(ASPECT, names)]
    return []


def _registry(pair: Pair, letter: Letter) -> Registry:
    facts = pair.read_by(letter)
    return {} if facts is None else facts.plan.registries[-1]


def _is_numeric(column: Column) -> bool:
    return column.dtype in (*_WHOLE, *_FLOAT)


def _is_score(column: Column) -> bool:
    """Whether it is compared without being named: not ids, hashes and numbers of clusters."""
    return column.dtype in _FLOAT


def _languages(pair: Pair, shared: Registry) -> list[str]:
    facts = pair.read_by("a")
    steps = () if facts is None else facts.plan.steps
    names = [f"{step.name}.code" for step in steps if isinstance(step, Language)]
    return [*(name for name in names if name in shared), *([DOMAIN] if "url" in shared else [])]


def _refuse(pair: Pair, name: str, shared: Registry) -> None:
    for letter in LETTERS:
        there = _registry(pair, letter)
        if not there:
            raise ConfigError(
                f"--columns {name}: no run is at hand that has columns: a subset file has uids "
                "alone. Give the work folder of a run on one side at least"
            )
        if name not in there:
            place = pair.sides[letter if pair.sides[letter].facts else OTHER[letter]].place
            known = [one for one in there if one not in INTERNAL]
            raise ConfigError(f"--columns {name}: " + did_you_mean(name, known, f"{place} has no"))
    column = shared.get(name)
    if not _can_compare(column):
        kind = "an identifier" if column is None else f"of type {column.dtype}"
        raise ConfigError(f"--columns {name} is {kind}; numbers and words can be compared")


def recipes(pair: Pair, column: str) -> Literal["same", "differ"]:
    """Whether both runs made a column in the same way, and learnt the same from others first."""
    made: list[tuple[Recipe, str]] = []
    for letter in LETTERS:
        facts = pair.sides[letter].facts
        if facts is None:
            return "same"  # one run alone is read
        where = facts.plan.registries[-1].get(column)
        if where is None or where.store == "pool":
            return "same"
        step = facts.plan.steps[facts.plan.index(where.store)]
        learnt = content(facts.plan.work, step.name) if isinstance(step, FittedFeature) else ""
        made.append((full_recipe(facts.plan, step), learnt))
    return "same" if made[0] == made[1] else "differ"
