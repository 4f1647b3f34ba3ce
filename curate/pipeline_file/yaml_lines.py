"""YAML with the line of every value, so that a problem can say where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from curate.errors import Problem

Path = tuple[str | int, ...]  # ("steps", 2, "clip_score", "top_fraction")


@dataclass(frozen=True)
class Document:
    """A parsed YAML file."""

    value: Any
    lines: dict[Path, int]  # 1-based; the line of the key where there is one
    problems: list[Problem]

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it; 0 for one not from the file."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 0)


def dotted(path: Path) -> str:
    """steps[2].clip_score.top_fraction."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def parse(text: str) -> Document:
    """Read YAML safely; syntax errors and repeated keys become problems."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, {}, [Problem(1, "", "the file is empty")])
        reader = _Reader(loader)
        value = reader.read(node, ())
        return Document(value, reader.lines, reader.problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        return Document(None, {}, [Problem(line, "", f"not YAML: {error.problem}")])
    except yaml.YAMLError as error:
        return Document(None, {}, [Problem(0, "", f"not YAML: {error}")])
    except RecursionError:
        return Document(None, {}, [Problem(0, "", "not YAML: an alias stands within its anchor")])
    finally:
        loader.dispose()


class _Reader:
    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node, path)
        self._report_repeated(node, path)
        self.loader.flatten_mapping(node)
        result = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node, deep=True)
            inner = (*path, key if isinstance(key, int) else str(key))
            self.lines[inner] = key_node.start_mark.line + 1
            result[str(key)] = self.read(value_node, inner)
        return result

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except ValueError as error:  # 2020-99-99 looks like a date; a tag may promise a number
            line = node.start_mark.line + 1
            self.problems.append(Problem(line, dotted(path), f"not a value: {error}"))
            return None

    def _report_repeated(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in seen and key != "<<":
                message = f"{key!r} is given twice (first on line {seen[key]})"
                self.problems.append(Problem(line, dotted((*path, key)), message))
            seen.setdefault(key, line)
