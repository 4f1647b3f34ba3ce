"""What a step is made from: its recipe, its fingerprint, and the refusal when they changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from curate import storage
from curate.errors import RecipeChanged
from curate.pipeline_file import plugins

Recipe = dict[str, Any]


def canonical(value: Any) -> str:
    """JSON in which equal values are equal text: keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value!r} has no place in a recipe")


def fingerprint(value: Any) -> str:
    """64 hex digits that change whenever the value does."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def recipe_of(step: Any, plugin_sources: Mapping[str, str]) -> Recipe:
    """All that a step's result depends on, but for what it reads; plugins by their text.

    Never its name's position, `run:`, a path of the work folder or a time.
    """
    outside = getattr(step, "outside_recipe", ())  # what changes no fresh result
    dumped = step.model_dump(mode="json", by_alias=True)
    fields = {name: value for name, value in dumped.items() if name not in outside}
    recipe: Recipe = {"kind": type(step).__name__, "version": step.version, **fields}
    if "steps" in fields:
        recipe["steps"] = [recipe_of(child, plugin_sources) for child in step.steps]
    extra = getattr(step, "recipe", None)
    if extra is not None:
        recipe.update(extra())  # a path is replaced by what it leads to: names and hashes
    for name, source in plugin_sources.items():
        if type(step).__module__ == plugins.module_name(name, source):
            recipe["plugin_sha256"] = hashlib.sha256(source.encode()).hexdigest()
    return json.loads(canonical(recipe))  # type: ignore[no-any-return]  # a dict went in


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`recipe.model: 'ViT-B-32' -> 'ViT-L-14'` for each field that differs, in order."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += [f"{key}.{line}" for line in differences(before, after)]
        elif before != after:
            lines.append(f"{key}: {_shown(old, key)} -> {_shown(new, key)}")
    return lines


def _shown(recipe: Recipe, key: str) -> str:
    return repr(recipe[key]) if key in recipe else "(absent)"


def refuse(folder: str, name: str, recipe: Recipe) -> None:
    """Refuse a step's folder that was made from another recipe.

    Raises:
        RecipeChanged: with each field that differs, and both remedies.
    """
    url = storage.join(folder, "recipe.json")
    changed = differences(storage.read_json(url), recipe) if storage.exists(url) else []
    if changed:
        listed = "\n".join(f"  recipe.{line}" for line in changed)
        raise RecipeChanged(
            f"{folder} was made from a different recipe:\n{listed}\n"
            f"Give the step another `name:` to have both, or run with `--recompute {name}` "
            "to throw the old one away."
        )


def claim(folder: str, recipe: Recipe) -> None:
    """Say what a step's folder is made from."""
    url = storage.join(folder, "recipe.json")
    if not storage.exists(url):
        storage.commit_json(url, recipe)
