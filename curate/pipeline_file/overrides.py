"""`--set a.b.c=value`: one field of a pipeline file, changed from the command line."""

from __future__ import annotations

from typing import Any

import yaml

from curate.errors import did_you_mean


def apply(raw: dict[str, Any], text: str) -> str | None:
    """Change one field of a file as read; what is wrong, where it cannot be done.

    A step is named by its name, or by its kind where it has none; those inside any_of too.
    """
    path, equals, value = text.partition("=")
    if not equals:
        return "write it as path=value"
    parts = path.split(".")
    target: Any = raw
    if parts[0] == "steps" and len(parts) > 2:
        target = _find_step(raw.get("steps"), parts[1])
        if target is None:
            return did_you_mean(parts[1], written_names(raw.get("steps")), "no step is called")
        parts = parts[2:]
    for part in parts[:-1]:
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}  # `run:` with nothing after it is a place to set too
        target = target[part] if isinstance(target, dict) else None
    if not isinstance(target, dict):
        return "there is no such place to set"
    target[parts[-1]] = _value(value)
    return None


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a date of the 99th month is a ValueError
        return text


def written_names(steps: Any) -> list[str]:
    """The names by which the steps of a file are found, valid or not."""
    found: list[str] = []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, str):
            found.append(step)
        elif isinstance(step, dict) and len(step) == 1:
            kind, fields = next(iter(step.items()))
            given = fields if isinstance(fields, dict) else {}
            found.append(str(given.get("name") or kind))
            if kind == "any_of":
                found += written_names(given.get("steps") if given else fields)
    return found


def _find_step(steps: Any, name: str) -> dict[str, Any] | None:
    """The fields of the step of that name, as a mapping that can be changed."""
    for index, written in enumerate(steps if isinstance(steps, list) else []):
        step = written
        if isinstance(written, str):
            step = steps[index] = {written: None}
        if not isinstance(step, dict) or len(step) != 1:
            continue
        kind, fields = next(iter(step.items()))
        if kind == "any_of":
            children = fields.get("steps") if isinstance(fields, dict) else fields
            inner = _find_step(children, name)
            if inner is not None:
                return inner
            fields = step[kind] = fields if isinstance(fields, dict) else {"steps": fields}
        elif not isinstance(fields, dict):
            fields = step[kind] = {} if fields is None else {"sql": fields}
        if fields.get("name", kind) == name:
            return fields
    return None
