"""The table of a sweep: what each value keeps, what it changes, and what it would need first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curate import fates, storage
from curate.records import rates
from curate.sweep.files import Overlap
from curate.sweep.variants import Variants

NEEDED = "not_computed"  # why a row is out that has no value of a feature in this work folder
_UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Result:
    """What a branch came to."""

    counts: pl.DataFrame  # (step, reason, rows, copies)
    overlap: Overlap

    @property
    def kept(self) -> int:
        """Rows that are kept."""
        return int(self.counts.filter(pl.col("step").is_null())["rows"].sum())

    def removed(self) -> dict[str, dict[str, int]]:
        """{step: {reason: rows}} of what steps removed, but for rows without a value."""
        found: dict[str, dict[str, int]] = {}
        gone = self.counts.filter(pl.col("step").is_not_null()).sort("step", "reason")
        for step, reason, rows, _ in gone.iter_rows():
            if reason != fates.LOST + NEEDED:
                found.setdefault(step, {})[reason] = rows
        return found

    def needs(self) -> dict[str, int]:
        """{feature: rows that reach it and have no value}."""
        wanted = self.counts.filter(pl.col("reason") == fates.LOST + NEEDED).sort("step")
        return dict(wanted.select("step", "rows").iter_rows())


def table_of(
    variants: Variants, results: Mapping[int, Result], again: Mapping[int, Sequence[str]]
) -> dict[str, Any]:
    """The table, in which equal sweeps are equal.

    Args:
        variants: The pipelines.
        results: {branch in the end: what it came to}.
        again: {variant: fitted features that would be fitted again}.
    """
    own = results[0]
    rows = int(own.counts["rows"].sum())
    lines = [
        _row(variants, number, results, again.get(number, ()), rows)
        for number in range(len(variants.plans))
    ]
    return {
        "pipeline": variants.plans[0].config.name,
        "varied": [one.path for one in variants.varied],
        "steps": [step.name for step in variants.plans[0].steps[: variants.stop]],
        "rows": rows,
        "file": lines[0],
        "values": lines[1:],
    }


def _row(
    variants: Variants,
    number: int,
    results: Mapping[int, Result],
    again: Sequence[str],
    rows: int,
) -> dict[str, Any]:
    result, own = results[variants.branches[variants.stop][number]], results[0]
    shared = result.overlap.in_both
    either = result.overlap.rows + own.overlap.rows - shared
    needs, kept = result.needs(), result.kept
    line: dict[str, Any] = {
        "kept": kept,
        "kept_at_most": _at_most(variants, kept, needs, again),
        "share": round(kept / rows, 6) if rows else 0.0,
        "copies": result.overlap.rows,
        "in_both": shared,
        "only_here": result.overlap.rows - shared,
        "only_in_the_file": own.overlap.rows - shared,
        "jaccard_rows": round(shared / either, 6) if either else 1.0,
        "changed": _changed(variants, result, own),
        "needs": needs,
        "fitted_again": list(again),
        "removed": result.removed(),
    }
    if number:
        paths = [one.path for one in variants.varied]
        line["values"] = dict(zip(paths, variants.values[number], strict=True))
        line["subset"] = f"{variants.label(number)}.npy"
    return line


def _at_most(
    variants: Variants, kept: int, needs: Mapping[str, int], again: Sequence[str]
) -> int | None:
    """The most rows that may be kept once every value is there; None where that cannot be said.

    A step that must see all survivors may decide otherwise of those that have their values, too.
    """
    if again:
        return None
    first = min((variants.plans[0].index(step) for step in needs), default=variants.stop)
    if any(index > first for index in variants.barriers):
        return None
    return kept + sum(needs.values())


def _changed(variants: Variants, result: Result, own: Result) -> list[str]:
    """Steps that remove other numbers than in the file as written, in the order of the pipeline."""
    here, there = result.removed(), own.removed()
    names = [step.name for step in variants.plans[0].steps[: variants.stop]]
    return [name for name in names if here.get(name) != there.get(name)]


def estimates_of(work: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """{subset: {feature: seconds or None}}: how long what a value needs would take to compute."""
    return {
        row["subset"]: {step: _seconds(work, step, rows) for step, rows in row["needs"].items()}
        for row in table["values"]
        if row["needs"]
    }


def _seconds(work: str, step: str, rows: int) -> float | None:
    """From the rate of all earlier runs; of a stage of several steps, where it was one of them."""
    folder = storage.join(work, "records", "rates")
    stages = [name.removesuffix(".json") for name in storage.names(folder)]
    stage = next((name for name in stages if step in name.split("+")), "")
    measured = rates(work, stage) if stage else None
    if measured is None or not measured["rows"]:
        return None
    return round(rows * measured["wall_seconds"] / measured["rows"], 3)


def lines_of(table: Mapping[str, Any], estimates: Mapping[str, Any]) -> Iterator[str]:
    """The table for people; the last line is that of the file as written."""
    head = [*table["varied"], "kept", "share", "copies", "in both", "only here", "only there"]
    head += ["Jaccard", "changed", "needs"]
    body = [_cells(table, row, estimates) for row in [*table["values"], table["file"]]]
    widths = [max(len(row[n]) for row in [head, *body]) for n in range(len(head))]
    texts = len(table["varied"])
    for row in [head, *body]:
        cells = [
            text.ljust(width) if n < texts or n > texts + 6 else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _cells(
    table: Mapping[str, Any], row: Mapping[str, Any], estimates: Mapping[str, Any]
) -> list[str]:
    given = row.get("values")
    values = [given[path] for path in table["varied"]] if given else ["(the file)"]
    values += [""] * (len(table["varied"]) - len(values))
    times = estimates.get(row.get("subset", ""), {})
    needs = [
        f"{step} of {rows:,} rows ({_spell(times.get(step))})"
        for step, rows in row["needs"].items()
    ]
    needs += [f"{step} would be fitted again" for step in row["fitted_again"]]
    return [
        *values,
        _kept(row),
        f"{row['share']:.2%}",
        f"{row['copies']:,}",
        *(f"{row[name]:,}" for name in ("in_both", "only_here", "only_in_the_file")),
        f"{row['jaccard_rows']:.4f}",
        ", ".join(row["changed"]) or "-",
        ", ".join(needs) or "-",
    ]


def _kept(row: Mapping[str, Any]) -> str:
    """`12`, `12 to 15` where rows wait for values, or `~12` where others may change places too."""
    kept, most = row["kept"], row["kept_at_most"]
    if most is None:
        return f"~{kept:,}"
    return f"{kept:,}" if most == kept else f"{kept:,} to {most:,}"


def _spell(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    length, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    return f"{seconds / length:,.1f} {unit}"
