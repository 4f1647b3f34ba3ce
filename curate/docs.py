"""`filters/README.md`, made from the docstrings: `python -m curate.docs` writes it anew."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import filters
from filters import Filter, GroupFilter, PoolFilter, RowFilter

FILE = Path(filters.__file__).parent / "README.md"
INTRO = """\
# Filters

One file here is one filter and one name in a pipeline file. This page is made from their
docstrings by `python -m curate.docs`; a test says so when it is out of date.

A **row** filter sees one sample, a **pool** filter all survivors, a **group** filter all survivors
that belong together; the last two wait until every sample has come so far. A sample whose deciding
value is missing or NaN is removed as `unscored`. Every filter takes a `name:` too, which is its
kind unless given.
"""
_SHAPES = ((RowFilter, "row"), (PoolFilter, "pool"), (GroupFilter, "group"))


def page() -> str:
    """What `filters/README.md` should hold."""
    table = ["| filter | sees | keeps |", "|---|---|---|"]
    sections = []
    for name in filters.names():
        module = importlib.import_module(f"filters.{name}")
        kind = filters.find(name)
        table.append(f"| [`{name}`](#{name}) | {_shapes(module)} | {_cell(_summary(kind))} |")
        sections.append(_section(name, kind))
    return "\n".join([INTRO, *table, "", *sections])


def _shapes(module: Any) -> str:
    """How much the classes of a filter's file see: one may pick its class by its fields."""
    own = [value for value in vars(module).values() if inspect.isclass(value)]
    own = [value for value in own if value.__module__ == module.__name__]
    found = [shape for base, shape in _SHAPES if any(issubclass(value, base) for value in own)]
    return " or ".join(found)


def _summary(kind: type[Filter]) -> str:
    first = inspect.getdoc(kind) or ""
    return " ".join(first.split("\n\n")[0].split())


def _section(name: str, kind: type[Filter]) -> str:
    lines = [f"## {name}", "", inspect.getdoc(kind) or "", ""]
    lines += ["```yaml", f"- {name}: {kind.example}", "```", ""]
    lines += ["| field | takes | default | is |", "|---|---|---|---|"]
    for field, info in kind.model_fields.items():
        if field == "name":
            continue
        default = "must be given" if info.is_required() else _default(info.default)
        takes, about = _cell(_takes(info.annotation)), _cell(info.description or "")
        lines.append(f"| `{field}` | {takes} | {default} | {about} |")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def _takes(annotation: Any) -> str:
    """A field's type in the words of YAML."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_takes(each) for each in arguments if each is not NoneType)
    if get_origin(annotation) is tuple:
        return f"a list of {_takes(arguments[0])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        inner = (f"{key}: {_takes(i.annotation)}" for key, i in annotation.model_fields.items())
        return "{" + ", ".join(inner) + "}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words.get(annotation, str(annotation))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
