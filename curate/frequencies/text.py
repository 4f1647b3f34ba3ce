"""What `curate concepts` prints: tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curate.frequencies.command import FEW

Json = dict[str, Any]
_WIDTH = 100  # of a line of names
_SHOWN = 40  # characters of an entry or class
_RANKS = (1, 10, 100, 1_000, 10_000, 100_000)  # of which a curve is told
_VANISHED = 10  # entries and terms that a line names


def lines_of(found: Json, top: int) -> list[str]:
    """The answer of `curate concepts`, with so many classes at each end."""
    lines: list[str] = []
    for section in found["concepts"]:
        lines += ["", *_section(section)] if lines else _section(section)
    if found["classes"] is not None:
        lines += (
            ["", *_classes(found["classes"], top)] if lines else _classes(found["classes"], top)
        )
    return lines


def _section(whole: Json) -> list[str]:
    section = whole if len(whole["list"]["languages"]) > 1 else _without_languages(whole)
    listed, stages = section["list"], section["stages"]
    sources = ", ".join(f"{name} {count:,}" for name, count in listed["sources"].items())
    count = len(listed["languages"])
    languages = f", {count} languages" if count > 1 else ""
    return [
        f"{section['step']}: {listed['entries']:,} entries ({sources}{languages}), "
        f"list {listed['digest'][:12]}",
        *_unlikely(listed["hardly_match"]),
        *_stages(section),
        "",
        *_head(section),
        "",
        *_curve(section),
        *_balances(section),
        *_vanished(section, stages),
    ]


def _unlikely(count: int) -> list[str]:
    if not count:
        return []
    return [f"  {count:,} of them can hardly match: a sign inside a word, or a blank at an end"]


def _without_languages(section: Json) -> Json:
    """A section whose entries do not say the one language that there is."""
    head = [{**row, "language": ""} for row in section["head"]]
    gone = [{**row, "language": ""} for row in section["vanished"]["most_frequent"]]
    return {**section, "head": head, "vanished": {**section["vanished"], "most_frequent": gone}}


def _stages(section: Json) -> list[str]:
    """One row a stage, and one of copies where there are any."""
    tail = section["tail"]
    rows = [
        [
            f"after {stage['after']}",
            f"{stage['samples']:,}",
            _percent(stage["unmatched_share"]),
            f"{stage['matches']:,}",
            f"{stage['entries_hit']:,}",
            _percent(stage["top_share"]),
            _percent(tail["match_share"][number]),
            _percent(tail["sample_share"][number]),
        ]
        for number, stage in enumerate(section["stages"])
    ]
    copies = section["copies"]
    if copies["samples"] != section["stages"][-1]["samples"]:
        counts = [f"{copies['samples']:,}", "", f"{copies['matches']:,}"]
        rows.append(["... copies counted", *counts, "", "", "", ""])
    names = ["samples", "unmatched", "matches", "entries hit", "top 1 %", "tail", "tail samples"]
    without = section["stages"][0]["unscored"]
    said = (
        f"; {without:,} samples were not matched: no caption, language or list" if without else ""
    )
    return [
        *_table(["", *names], rows),
        f"  top 1 %, tail: their share of all matches; the tail is {tail['entries']:,} entries "
        f"that were hit least before, at most {tail['most_frequent']:,} each{said}",
    ]


def _head(section: Json) -> list[str]:
    rows = [
        [_named(row), *_sides(row["samples"][0], row["samples"][-1], row["copies"])]
        for row in section["head"]
    ]
    return _table(["most frequent before", "before", "after", "copies", "after/before"], rows)


def _sides(before: int, after: int, copies: int) -> list[str]:
    ratio = f"{after / before:.1%}" if before else "-"
    return [f"{before:,}", f"{after:,}", f"{copies:,}", ratio]


def _curve(section: Json) -> list[str]:
    """Counts by rank, at a few ranks."""
    ranks, samples = section["curve"]["ranks"], section["curve"]["samples"]
    places = _places(ranks)
    rows = [
        [f"after {stage['after']}", *(f"{counts[place]:,}" for place in places)]
        for stage, counts in zip(section["stages"], samples, strict=True)
    ]
    return _table(["samples of the entry of rank", *(f"{ranks[p]:,}" for p in places)], rows)


def _places(ranks: Sequence[int]) -> list[int]:
    """Where the powers of ten are, and the last rank."""
    return [n for n, rank in enumerate(ranks) if rank in _RANKS or n == len(ranks) - 1]


def _balances(section: Json) -> Iterator[str]:
    for own in section["balances"]:
        low, high = own["t"]
        t = (
            "none: all stay"
            if low is None
            else f"{low:,.6g}"
            if low == high
            else f"{low:,.6g} to {high:,.6g}"
        )
        head, kept = own["head"], own["kept"]
        before, after = (_percent(one) for one in head["match_share"])
        told = "" if kept is None else f"; {kept:,} of {own['in']:,} samples kept"
        yield ""
        yield (
            f"{own['filter']}: t {t}{told}, {own['expected']:,.1f} expected; "
            f"the {head['entries']:,} entries above t held {before} of the matches, now {after}"
        )
        ranks = own["p"]["ranks"]
        said = ", ".join(f"{ranks[p]:,}: {own['p']['chances'][p]:.4f}" for p in _places(ranks))
        yield f"  p by rank: {said or '-'}"


def _vanished(section: Json, stages: Sequence[Json]) -> Iterator[str]:
    own = section["vanished"]
    if not own["entries"]:
        return
    shown = own["most_frequent"][:_VANISHED]
    named = ", ".join(f"{_named(row)} ({row['before']:,})" for row in shown)
    more = ", ..." if own["entries"] > len(shown) else ""
    hit = stages[0]["entries_hit"]
    yield ""
    yield f"vanished: {own['entries']:,} of {hit:,} entries that were hit before: {named}{more}"


def _classes(own: Json, top: int) -> list[str]:
    table = own["classes"]
    order = sorted(range(len(table)), key=lambda n: (-table[n]["before"], n))
    first = order[:top]
    last = [number for number in order[-top:] if number not in set(first)]
    samples, named, without = (own[k] for k in ("samples", "naming_a_class", "without_caption"))
    lines = [
        f"classes of {own['of']}: {len(table):,}; plurals and lemmas by {own['forms_by']}",
        *_table(
            ["", "before", "after", "copies"],
            [
                [what, *(f"{counts[side]:,}" for side in ("before", "after", "copies"))]
                for what, counts in (
                    ("usable samples", samples),
                    ("that name a class", named),
                    ("without a caption", without),
                )
            ],
        ),
        "",
        *_class_rows("most frequent before", [table[number] for number in first]),
    ]
    if last:
        lines += ["", *_class_rows("least frequent before", [table[number] for number in last])]
    return [*lines, "", *_rare(own), *_terms(own)]


def _class_rows(title: str, rows: Sequence[Json]) -> list[str]:
    cells = [
        [_short(row["class"]), *_sides(row["before"], row["after"], row["copies"])] for row in rows
    ]
    return _table([title, "before", "after", "copies", "after/before"], cells)


def _rare(own: Json) -> Iterator[str]:
    """Every class with none, or few, before and after."""
    for side in ("before", "after"):
        count = {row["class"]: row[side] for row in own["classes"]}
        yield from _listed(f"classes with no sample {side}", own["none"][side])
        few = [f"{name} {count[name]}" for name in own["few"][side]]
        yield from _listed(f"classes with 1 to {FEW - 1} samples {side}", few)


def _terms(own: Json) -> Iterator[str]:
    unseen = [row["term"] for row in own["unseen_terms"]]
    yield from _listed("terms that no caption has in any form", unseen)
    shared = [
        f"{row['term']} {row['before']:,} ({' | '.join(row['classes'])})"
        for row in own["shared_terms"]
    ]
    yield from _listed("words that count for several classes", shared)


def _listed(what: str, names: Sequence[str]) -> Iterator[str]:
    """All of them: what is left out is what was looked for."""
    yield f"{len(names):,} {what}{':' if names else ''}"
    line = ""
    for number, name in enumerate(names, start=1):
        item = _clean(name) + ("," if number < len(names) else "")
        if line and len(line) + len(item) > _WIDTH:
            yield f"  {line}"
            line = ""
        line = f"{line} {item}" if line else item
    if line:
        yield f"  {line}"


def _named(row: Json) -> str:
    language = f" [{row['language']}]" if row.get("language") else ""
    return f"{_short(row['entry'])}{language}"


def _short(text: str) -> str:
    shown = _clean(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def _clean(text: str) -> str:
    """A stranger's text on a terminal: nothing that it would obey."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first one to the left."""
    widths = [max(len(row[n]) for row in (names, *rows)) for n in range(len(names))]
    lines = []
    for row in (names, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
