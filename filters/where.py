"""Keep samples for which a SQL condition is true."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import polars as pl
from polars.exceptions import PolarsError
from pydantic import Field

from filters import Available, Filter, Measure, RowFilter, Shown, State, Unbound


class Where(RowFilter):
    """Keeps samples for which a SQL condition over columns is true.

    `where: "language.code = 'en' and clip.similarity > 0.3"`. A condition that is null (a column in
    it is) removes the sample as `unscored`, as SQL does; write `coalesce(...)` to decide otherwise.
    """

    example = "\"language.code = 'en' and clip.similarity > 0.3\""
    shorthand = "sql"

    sql: str = Field(min_length=1, description="a SQL expression that gives true or false")

    def _expression(self) -> pl.Expr:
        return pl.sql_expr(self.sql)

    def problems(self) -> list[str]:
        try:
            tree = _tree(self._expression())
        except PolarsError as error:
            return [f"not a SQL condition: {str(error).splitlines()[0]}"]
        if _looks_around(tree):
            return ["a condition sees one sample: it takes no aggregate, window or sub-query"]
        return []

    def bind(self, available: Available) -> Filter:
        for name in _compared_with_decimals(_tree(self._expression())):
            if available.get(name) == "String":
                raise Unbound(
                    f"{name!r} is text and is compared with a number; if its texts are numbers, "
                    f"write `cast({name} as double)`"
                )
        return self

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_columns(self._expression())))

    def passes(self) -> dict[str, pl.Expr]:
        return {"false": self._expression()}

    def shows(self, state: State) -> Shown:
        found = _comparison(self._expression())
        if found is None:
            return Shown(self.needs(), {})
        value, limit, at_least = found
        name = _left(self.sql)
        limits = {"at_least" if at_least else "at_most": ("false", limit)}
        return Shown(self.needs(), {}, measures=(Measure(name, value, **limits),))


_COMPARISON = re.compile(r"([^<>=]*[^<>=\s])\s*[<>]=?[^<>=]*")  # what is before the only sign


def _left(sql: str) -> str:
    """What a comparison compares, as it is written; all of it where that is hard to tell."""
    sql = sql.strip()
    while sql.startswith("(") and sql.endswith(")") and _balanced(sql[1:-1]):
        sql = sql[1:-1].strip()
    found = _COMPARISON.fullmatch(sql)
    return found[1] if found and _balanced(found[1]) else sql


def _balanced(text: str) -> bool:
    """Whether every parenthesis has its other half."""
    depth = 0
    for mark in re.findall(r"[()]", text):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            return False
    return depth == 0


_LEAST = {"Gt": True, "GtEq": True, "Lt": False, "LtEq": False}


def _comparison(expression: pl.Expr) -> tuple[pl.Expr, float, bool] | None:
    """(value, limit, whether values above it pass) where a condition compares one with the other.

    None for every other condition, and where the number stands first.
    """
    tree = _tree(expression)
    if "BinaryExpr" in tree:
        operator = tree["BinaryExpr"]["op"]
    else:  # a decimal has comparisons of its own
        function = tree.get("Function", {}).get("function", {})
        sql = function.get("Sql") if isinstance(function, dict) else None
        operator = sql.get("Binary") if isinstance(sql, dict) else None
    if operator not in _LEAST:
        return None
    sides = expression.meta.pop()
    values = [side for side in sides if side.meta.root_names()]
    numbers = [side for side in sides if not side.meta.root_names()]
    if len(values) != 1 or len(numbers) != 1 or not _named(_first(tree)):
        return None
    limit = pl.select(numbers[0]).item()
    if isinstance(limit, bool) or not isinstance(limit, (int, float, Decimal)):
        return None
    return values[0], float(limit), _LEAST[operator]


def _first(tree: Any) -> dict[str, Any]:
    """The left side of a comparison."""
    if "BinaryExpr" in tree:
        return dict(tree["BinaryExpr"]["left"])
    return dict(tree["Function"]["input"][0])


def _columns(expression: pl.Expr) -> list[str]:
    """Full column names of an expression: a struct's fields where it reads fields."""
    return _named(_tree(expression))


def _named(tree: object) -> list[str]:
    found: list[str] = []

    def walk(node: object, field: str | None = None) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            if set(node) == {"Column"}:
                found.append(f"{node['Column']}.{field}" if field else str(node["Column"]))
                return
            inner = _field_name(node)
            if inner is not None:
                walk(node["Function"]["input"][0], inner)
                return
            for value in node.values():
                walk(value)

    walk(tree)
    return found


def _compared_with_decimals(node: object) -> list[str]:
    """Columns compared with a literal that has a point: polars compares these as text, silently."""
    if isinstance(node, list):
        return [name for item in node for name in _compared_with_decimals(item)]
    if not isinstance(node, dict):
        return []
    found = [name for value in node.values() for name in _compared_with_decimals(value)]
    kind = node.get("function")
    if isinstance(kind, dict) and "Binary" in (kind.get("Sql") or {}):
        sides = node["input"]
        if any("Decimal" in json.dumps(side.get("Literal", "")) for side in sides):
            found += [side["Column"] for side in sides if set(side) == {"Column"}]
    return found


def _tree(expression: pl.Expr) -> Any:
    return json.loads(expression.meta.serialize(format="json"))


_AROUND = (  # the nodes whose value depends on more than the row
    "Agg", "Correlation", "CumSum", "Explode", "Filter", "Gather", "Len", "NullCount", "Over",
    "Quantile", "Range", "Rank", "Rolling", "Shift", "Slice", "Sort", "SortBy", "SubPlan", "Window",
)  # fmt: skip
_NAMES = ("Literal", "Column", "StructExpr")  # below these stand words of the user's


def _looks_around(node: object) -> bool:
    if isinstance(node, dict):
        inner = {key: value for key, value in node.items() if key not in _NAMES}
        return any(key in _AROUND or _looks_around(value) for key, value in inner.items())
    if isinstance(node, list):
        return any(map(_looks_around, node))
    return isinstance(node, str) and node in _AROUND


def _field_name(node: dict[str, object]) -> str | None:
    function = node.get("Function")
    if not isinstance(function, dict) or not isinstance(function.get("function"), dict):
        return None
    inner = function["function"].get("StructExpr")
    return str(inner["FieldByName"]) if isinstance(inner, dict) and "FieldByName" in inner else None
