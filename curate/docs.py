"""The pages of filters, steps and report.json, made from docstrings by `python -m curate.docs`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import filters
from curate import features
from curate.downloads.download import Download
from curate.features import Feature
from curate.report import schema
from curate.write import Write
from filters import GroupFilter, PoolFilter, RowFilter

FILE = Path(filters.__file__).parent / "README.md"
STEPS_FILE = Path(features.__file__).parent / "README.md"
STEPS_INTRO = """\
# Features, download and write

Steps that remove nothing by a rule of yours. This page is made from their docstrings by
`python -m curate.docs`; a test says so when it is out of date. The columns of a feature are
`<step name>.<field>`; each also has `error`, which says why a sample has no value. Every step takes
a `name:` too, which is its kind unless given.
"""
REPORT_FILE = Path(schema.__file__).parent.parent / "README.md"
REPORT_INTRO = f"""\
# report.json, schema {schema.SCHEMA_VERSION}

What a run writes to `<work>/report/report.json`, and all that its page is made from, but for times
and rates: these are in `timing.json`, so that reports can be compared. This page is made from
`schema/` by `python -m curate.docs`; a test says so when it is out of date, and others hold the
reports of whole runs against it. `schema` rises when a field changes its meaning or goes; fields
may be added. The file is the same, byte for byte, for the same decisions.

Shares are of 0 to 1, intervals are of 95 %, and a sample counts once, however many copies of it go
on, unless a field says `copies`.
"""
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
        table.append(f"| [`{name}`](#{name}) | {_shapes(kind, module)} | {_cell(_summary(kind))} |")
        sections.append(_section(name, kind))
    return "\n".join([INTRO, *table, "", *sections])


def steps_page() -> str:
    """What `curate/features/README.md` should hold."""
    kinds: dict[str, type[Any]] = {name: features.find(name) for name in features.names()}
    kinds |= {"download": Download, "write": Write}
    sections = []
    for name, kind in sorted(kinds.items()):
        sections.append(_section(name, kind))
        if issubclass(kind, Feature):
            made = kind.model_construct(name=name)
            rows = [f"| `{name}.{g.name}` | {g.dtype} | {_cell(g.about)} |" for g in made.gives()]
            rows += [f"| {g.name} (array) | float16 | {_cell(g.about)} |" for g in made.arrays()]
            if rows:  # else its fields say what it gives
                sections.append("\n".join(["| gives | type | is |", "|---|---|---|", *rows, ""]))
    return "\n".join([STEPS_INTRO, *sections])


def report_page() -> str:
    """What `curate/report/README.md` should hold: the whole, then each of its parts."""
    parts = [
        kind
        for kind in vars(schema).values()
        if inspect.isclass(kind) and issubclass(kind, schema.Part) and kind is not schema.Part
    ]
    parts.sort(key=lambda kind: kind is not schema.Report)  # the others as they stand
    return "\n".join([REPORT_INTRO, *(_part(kind) for kind in parts)])


def _part(kind: type[BaseModel]) -> str:
    inherited = {name for base in kind.__bases__ for name in getattr(base, "model_fields", {})}
    lines = [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", ""]
    lines += [f"All of {b.__name__}, and:\n" for b in kind.__bases__ if b is not schema.Part]
    lines += ["| field | is | about |", "|---|---|---|"]
    lines += [
        f"| `{info.alias or name}` | {_form(info.annotation)} | {_cell(info.description or '')} |"
        for name, info in kind.model_fields.items()
        if name not in inherited
    ]
    return "\n".join([*lines, ""])


def _form(annotation: Any) -> str:
    """A field's type in the words of JSON."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_form(each) for each in arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_form(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(_form(each) for each in arguments) + "]"
    if origin is dict:
        return f"object of {_form(arguments[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, schema.Part):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words = {NoneType: "null", str: "text", Any: "anything", int: "whole number", float: "number"}
    return {**words, bool: "true or false"}[annotation]


def _shapes(kind: type[Any], module: Any) -> str:
    """How much the classes of a filter's file see: one may pick its class by its fields."""
    own = [value for value in vars(module).values() if inspect.isclass(value)]
    own = [value for value in own if value.__module__ == module.__name__]
    own += getattr(kind, "becomes", ())  # several files may share what their filters turn into
    found = [shape for base, shape in _SHAPES if any(issubclass(value, base) for value in own)]
    return " or ".join(found)


def _summary(kind: type[Any]) -> str:
    first = inspect.getdoc(kind) or ""
    return " ".join(first.split("\n\n")[0].split())


def _section(name: str, kind: type[Any]) -> str:
    lines = [f"## {name}", "", inspect.getdoc(kind) or "", ""]
    if hasattr(kind, "example"):
        lines += ["```yaml", f"- {name}: {kind.example}", "```", ""]
    lines += ["| field | takes | default | is |", "|---|---|---|---|"]
    for field, info in kind.model_fields.items():
        if field == "name":
            continue
        default = "must be given" if info.is_required() else _default(info.default)
        takes, about = _cell(_takes(info.annotation)), _cell(info.description or "")
        lines.append(f"| `{info.alias or field}` | {takes} | {default} | {about} |")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    value = str(value).lower() if isinstance(value, bool) else value
    return "" if value is None else f"`{value}`"


_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "anything",
}


def _takes(annotation: Any) -> str:
    """A field's type in the words of YAML."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _takes(arguments[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_takes(each) for each in arguments if each is not NoneType)
    if get_origin(annotation) is tuple:
        return f"a list of {_takes(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"a mapping to {_takes(arguments[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        inner = (f"{key}: {_takes(i.annotation)}" for key, i in annotation.model_fields.items())
        return "{" + ", ".join(inner) + "}"
    words: dict[Any, str] = {
        Any: "anything",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
    }
    return words.get(annotation, str(annotation))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    STEPS_FILE.write_text(steps_page(), encoding="utf-8")
    REPORT_FILE.write_text(report_page(), encoding="utf-8")
