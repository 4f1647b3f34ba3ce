"""report.json -> one self-contained HTML page: no script, nothing fetched, everything escaped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from curate.report.chart import chart
from curate.report.examples import cut
from curate.report.pictures import Place

BRIEF = 140  # characters of a caption that are shown; the rest is in its title
REASONS = 200  # rows of the tables of reasons and of damaged shards

# Controls that would move, hide or override the text around them. Marks that scripts need to be
# read (joiners, left-to-right mark) stay.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
_BREAKS = re.compile("[\t\n\r\u2028\u2029]+")


def render(report: dict[str, Any], pictures: Mapping[Place, str]) -> str:
    """The page; its numbers come from the report alone.

    Args:
        report: As in report.json.
        pictures: {(shard, row): data URI of a small picture}.
    """
    import jinja2  # 0.06 s, and only a finished run needs it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=count,
        number=number,
        visible=visible,
        brief=brief,
        parts=_parts,
        json=_json,
        listed=_listed,
    )
    environment.globals.update(share=share, many=many, chart=chart)
    template = environment.from_string(_file("page.html.j2"))
    return template.render(
        report=report,
        style=_file("page.css"),
        notes=notes(report),
        funnel=funnel(report),
        reasons=reasons(report),
        sections=sections(report, pictures),
        most_reasons=REASONS,
    )


def _file(name: str) -> str:
    return resources.files("curate.report").joinpath(name).read_text(encoding="utf-8")


def count(value: int | None) -> str:
    """12,345."""
    return "not known" if value is None else f"{value:,}"


def number(value: Any) -> str:
    """Four significant digits of a float; anything else as it is."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def many(value: int, noun: str) -> str:
    """1 shard, 12,345 shards."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def share(part: int, whole: int) -> str:
    """12.3 %, never rounded to nothing or to all."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 <= percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %"


def visible(text: str) -> str:
    """A text on one line, with its control characters written out."""
    return _CONTROLS.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", _BREAKS.sub(" ", text))


def brief(text: str, longest: int = BRIEF) -> str:
    """The beginning of a long text."""
    return cut(text, longest)


def _parts(name: str) -> list[str]:
    """The pieces of a column's name between which a line may break."""
    return re.split(r"(?<=[._])", name)


def _json(value: Any) -> str:
    lines = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
    return "\n".join(visible(line) for line in lines)


def _listed(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The commonest first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know first: what is missing, and what was lost."""
    totals, steps, pool = report["totals"], report["steps"], report["pool"]
    found = []
    if totals["rows"] == 0:
        found.append("The pool has no rows, so there is nothing to keep or to remove.")
    elif totals["kept"] == 0:
        last = next((step["name"] for step in steps if not step["kept"]), None)
        why = f"the last ones went at step “{last}”" if totals["usable"] else "no row was usable"
        found.append(f"Nothing was kept: {why}.")
    elif totals["kept"] == totals["rows"]:
        found.append("Everything was kept: no step removed a sample.")
    if totals["lost"]:
        found.append(
            f"Lost to failed work of our own, not by a filter: {many(totals['lost'], 'sample')}. "
            "The same command again retries them."
        )
    if pool["damaged"]:
        found.append(
            f"Damaged: {many(len(pool['damaged']), 'shard')}, listed below. What could not be read "
            "of them is not counted here."
        )
    if not any(step["role"] == "filter" for step in steps):
        found.append("This pipeline has no filter.")
    given = any(source["kind"].endswith("shards") for source in pool["sources"])
    if not given and not any(step["role"] == "download" for step in steps):
        found.append("There are no pictures: the pool has none, and no step downloads them.")
    return found


def funnel(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the pool and for each step: counts, reasons, and the widths of its bar in %."""
    rows = report["totals"]["rows"]
    pool = {
        "name": "pool",
        "kind": many(report["pool"]["shards"], "shard"),
        "role": "pool",
        "in": rows,
        "kept": report["totals"]["usable"],
        "removed": report["pool"]["unusable"],
        "lost": {},
        "copies": report["totals"]["usable"],
    }
    found = []
    for step in [pool, *report["steps"]]:
        removed, lost = sum(step["removed"].values()), sum(step["lost"].values())
        widths = [
            (name, 100 * part / rows)
            for name, part in (("kept", step["kept"]), ("removed", removed), ("lost", lost))
            if part
        ]
        found.append({**step, "removed_rows": removed, "lost_rows": lost, "widths": widths})
    return found


def reasons(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reason of every step, the commonest first."""
    found = [
        {"step": step["name"], "reason": reason, "rows": rows, "fate": fate, "in": step["in"]}
        for step in funnel(report)
        for fate in ("removed", "lost")
        for reason, rows in step[fate].items()
    ]
    return sorted(found, key=lambda one: (-one["rows"], one["step"], one["fate"], one["reason"]))


def sections(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """A section for each filter step: its histograms, and its galleries in pairs."""
    found = []
    for step in report["steps"]:
        if step["role"] != "filter":
            continue
        own = [g for g in report["examples"] if g["step"] == step["name"]]
        found.append(
            {
                "step": step,
                "settings": _settings(step["recipe"]),
                "histograms": [h for h in report["histograms"] if h["step"] == step["name"]],
                "galleries": [_gallery(gallery, pictures) for gallery in own],
            }
        )
    return found


def _settings(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What the pipeline file says of a step, in short."""
    told = {k: v for k, v in recipe.items() if k not in ("kind", "name", "version", "steps")}
    return [
        (key, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        for key, value in sorted(told.items())
        if value not in (None, [], "") and not key.startswith(("resolved.", "plugin_"))
    ]


def _gallery(gallery: dict[str, Any], pictures: Mapping[Place, str]) -> dict[str, Any]:
    samples = [
        {**sample, "picture": pictures.get((sample["shard"], sample["row"]))}
        for sample in gallery["samples"]
    ]
    # Before a download nobody has a picture: a list of captions then reads better than blank cards.
    expected = any(sample["tar"] is not None for sample in samples)
    return {**gallery, "samples": samples, "pictured": expected}
