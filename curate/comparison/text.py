"""A comparison in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate.page.texts import share, visible

_FEW = 8  # reasons, columns and words that are said

Json = dict[str, Any]


def lines_of(report: Json) -> Iterator[str]:
    """The sets, why they differ, and the largest differences."""
    sets = report["sets"]
    for letter in ("a", "b"):
        own = report[letter]
        copies = f", {own['copies']:,} with copies" if own["copies"] != own["uids"] else ""
        kind = f"run of {own['pipeline']}" if own["kind"] == "run" else "subset"
        yield f"{letter.upper()} = {own['place']} ({kind}): {own['uids']:,} uids{copies}"
    yield f"  in both   {sets['uids_in_both']:>15,}   Jaccard index {sets['jaccard']:.4f}"
    yield f"  only in A {sets['uids_only_a']:>15,}   {share(sets['a_in_b'])} of A is in B"
    yield f"  only in B {sets['uids_only_b']:>15,}   {share(sets['b_in_a'])} of B is in A"
    if sets["uids_with_other_copies"]:
        yield f"  in both, in other numbers {sets['uids_with_other_copies']:,}"
    for one in report["elsewhere"]:
        yield from _reasons(one)
    for step in report["steps"]:
        for line in step["changed"] or ():
            yield f"step {step['name']}: {visible(line)}"
    yield from _numbers(report["distributions"])
    for one in [report["words"], *report["concepts"]]:
        if one is not None:
            yield from _words(one)


def _reasons(one: Json) -> Iterator[str]:
    own, other = ("A", "B") if one["of"] == "a" else ("B", "A")
    for reason in one["reasons"][:_FEW]:
        why = visible(f"{reason['step']}, {reason['reason']}")
        yield f"kept by {own}, removed by {other}: {reason['rows']:>12,}  {why}"
    rest = len(one["reasons"]) - _FEW
    if rest > 0:
        yield f"  and {rest} more reasons"
    if one["uids_absent"]:
        yield f"kept by {own}, not in the pool of {other}: {one['uids_absent']:,} uids"


def _numbers(found: list[Json]) -> Iterator[str]:
    for one in found[:_FEW]:
        d = one["d"]
        if d is not None and d["value"]:
            a, b = one["a"]["mean"], one["b"]["mean"]
            apart = f"d {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
            yield f"{one['column']}: mean {a:.4g} in A, {b:.4g} in B; {apart}"


def _words(one: Json) -> Iterator[str]:
    noun = f"entries of {one['step']}" if one["step"] else "words"
    for letter in ("a", "b"):
        sure = [visible(word["word"]) for word in one[f"more_in_{letter}"] if word["sure"]]
        if sure:
            more = f" and {len(sure) - _FEW} more" if len(sure) > _FEW else ""
            yield f"{noun} commoner in {letter.upper()}: {', '.join(sure[:_FEW])}{more}"
