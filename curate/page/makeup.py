"""What the section of who is in it shows, from report.json."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from curate.page.texts import brief, many, visible

SHIFTS = 12  # changes that are seen at once; the others unfold
VALUES = 12  # of a column that are drawn, at most
FEW = 4  # that are drawn whatever their share
LEAST = 0.01  # of the largest share: the smallest that is drawn
LONGEST = 36  # characters of a value in a chart
_TITLES = {
    "language": "Languages",
    "domain": "Domains",
    "source": "Sources",
    "licence": "Licences",
    "smaller_side": "Smaller side",
    "aspect_ratio": "Aspect ratio",
    "caption_characters": "Caption characters",
    "caption_words": "Caption words",
    "caption_tokens": "Caption tokens",
}
_ONE = {"Languages": "Language", "Domains": "Domain", "Sources": "Source", "Licences": "Licence"}
_NOTHING = "(none)"  # of a sample without a value


def makeup(report: dict[str, Any]) -> dict[str, Any] | None:
    """The section; None where there is nobody to look at."""
    found = report["makeup"]
    titles = _titles([*found["words"], *found["numbers"]])
    shifts = [_shift(shift, titles) for shift in found["shifts"]]
    words = [_words(one, titles) for one in found["words"]]
    numbers = [_numbers(one, titles) for one in found["numbers"]]
    if not any(one["rows"] for one in [*words, *numbers]):
        return None
    return {
        "first": shifts[:SHIFTS],
        "more": shifts[SHIFTS:],
        "kept": report["totals"]["kept"],
        "changed": report["totals"]["kept"] != report["totals"]["usable"],
        "words": words,
        "numbers": numbers,
        "scores": [_scores(one, titles) for one in found["scores"]],
    }


def _titles(columns: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """{(column, about): its title}; the column's name goes with it where two would be alike."""
    plain = [_TITLES.get(one["about"], visible(one["column"])) for one in columns]
    return {
        (one["column"], one["about"]): title
        if plain.count(title) == 1
        else f"{title} ({visible(one['column'])})"
        for one, title in zip(columns, plain, strict=True)
    }


def _shift(shift: dict[str, Any], titles: dict[tuple[str, str], str]) -> dict[str, Any]:
    title = titles[shift["column"], shift["about"]]
    return {
        **shift,
        "title": _ONE.get(title, title),
        "change": shift["kept"] - shift["pool"],
        "late": shift["since"] != "pool",
    }


def _words(one: dict[str, Any], titles: dict[tuple[str, str], str]) -> dict[str, Any]:
    totals = [sum(rows) for rows in zip(one["rest"], *_reached(one), strict=True)]
    values = [
        {"value": value["value"], "pool": value["reached"][0], "kept": value["reached"][-1]}
        for value in one["values"]
    ]
    names = _distinct([_name(value["value"]) for value in values])
    drawn = [{**value, "name": name} for value, name in zip(values, names, strict=True)]
    return {
        **one,
        "title": titles[one["column"], one["about"]],
        "rows": totals[0],
        "kept": totals[-1],
        "table": values,
        "drawn": _largest(drawn, totals),
        "told": _told(one),
    }


def _reached(one: dict[str, Any]) -> list[list[int]]:
    return [value["reached"] for value in one["values"]]


def _largest(values: list[dict[str, Any]], totals: Sequence[int]) -> list[dict[str, Any]]:
    """Those that are drawn: a bar that nobody can see says nothing."""
    ranked = sorted(values, key=lambda value: -_larger(value, totals))
    seen = [v for v in ranked if _larger(v, totals) >= LEAST * _larger(ranked[0], totals)]
    return ranked[: min(VALUES, max(FEW, len(seen)))]


def _larger(value: dict[str, Any], totals: Sequence[int]) -> float:
    """The larger one of the shares of a value."""
    shares = value["pool"] / max(totals[0], 1), value["kept"] / max(totals[-1], 1)
    return float(max(shares))


def _name(value: str | None) -> str:
    return _NOTHING if value is None else brief(visible(value), LONGEST) or "(empty)"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that a chart can tell apart: those cut to the same beginning get a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} [{seen[name]}]")
    return found


def _told(one: dict[str, Any]) -> str:
    """How many values there are, and whether those shown are surely the commonest."""
    if one["distinct"] is not None:
        return f"{many(one['distinct'], 'different value')}."
    if one["exact"]:
        return "Too many different values to count them; those shown are the commonest, exactly."
    return (
        "Too many different values to count them, and none is common enough to be surely among the "
        "commonest: those shown are exact, but others may be as common."
    )


def _numbers(one: dict[str, Any], titles: dict[tuple[str, str], str]) -> dict[str, Any]:
    pool, kept = one["reached"][0], one["reached"][-1]
    return {
        **one,
        "title": titles[one["column"], one["about"]],
        "rows": sum(pool) + one["missing"][0],
        "kept": sum(kept) + one["missing"][-1],
        "pool_bins": pool,
        "kept_bins": kept,
        "table": [
            {"from": low, "to": high, "pool": before, "kept": after}
            for (low, high), before, after in zip(pairwise(one["edges"]), pool, kept, strict=True)
        ],
        "without": (one["missing"][0], one["missing"][-1]),
    }


def _scores(one: dict[str, Any], titles: dict[tuple[str, str], str]) -> dict[str, Any]:
    own = next((title for (column, about), title in titles.items() if column == one["by"]), None)
    lengths = one["by"] == "caption_characters"
    by = "caption length, in characters" if lengths else "language"
    if own is not None and "(" in own:
        by = f"language ({visible(one['by'])})"
    names = _distinct([_name(group["value"]) for group in one["groups"]])
    drawn = [{**group, "name": name} for group, name in zip(one["groups"], names, strict=True)]
    return {**one, "title": by, "drawn": drawn}
