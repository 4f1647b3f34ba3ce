"""The steps of two runs side by side, matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.step import differences

Json = dict[str, Any]


def funnels(a: Json, b: Json) -> list[Json]:
    """The section, from both report.json; steps of B alone come after the step before them."""
    there = [{step["name"]: step for step in report["steps"]} for report in (a, b)]
    return [_pair(name, *(own.get(name) for own in there)) for name in _order(*map(list, there))]


def _order(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Every name once, in the order of A; those of B alone after the one that B has before them."""
    found = list(a)
    place = 0
    for name in b:
        if name in found:
            place = found.index(name) + 1
        else:
            found.insert(place, name)
            place += 1
    return found


def _pair(name: str, a: Json | None, b: Json | None) -> Json:
    changed = None
    if a is not None and b is not None:
        changed = differences(a["recipe"], b["recipe"])
    present = a if a is not None else b
    assert present is not None
    return {
        "name": name,
        "kind": present["kind"],
        "a": _side(a),
        "b": _side(b),
        "changed": changed,
    }


def _side(step: Json | None) -> Json | None:
    if step is None:
        return None
    return {
        "entered": step["in"],
        "kept": step["kept"],
        "removed": sum(step["removed"].values()),
        "lost": sum(step["lost"].values()),
    }
