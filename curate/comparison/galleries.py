"""Samples that one side alone kept, drawn by uid hash, and what the other run did with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import chance
from curate.comparison.blocks import Block
from curate.comparison.elsewhere import Tally
from curate.comparison.sides import LETTERS, OTHER, Letter, Pair
from curate.report.facts import Facts, looks
from curate.report.samples import describe
from curate.runner import Runner

SHOWN = 24  # samples of one gallery
_ORDER = ("side", "rank", "f0", "f1", "block", "row")

Json = dict[str, Any]

_SCHEMA: dict[str, Any] = {
    "side": pl.String,
    "rank": pl.UInt64,
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
    "step": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class Candidates:
    """The first SHOWN by uid hash of each side's own; rows of one uid by their place."""

    def look(self, block: Block) -> pl.DataFrame:
        frames = [_candidates(block, letter) for letter in block.view.of]
        return self._first(pl.concat(frames))

    def merge(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        return self._first(pl.concat([left, right]))

    def nothing(self) -> pl.DataFrame:
        return pl.DataFrame(schema=_SCHEMA)

    def _first(self, found: pl.DataFrame) -> pl.DataFrame:
        ordered = found.sort(_ORDER)
        return ordered.group_by("side", maintain_order=True).head(SHOWN).select(list(_SCHEMA))


def _candidates(block: Block, letter: Letter) -> pl.DataFrame:
    rows = np.flatnonzero(block.members.only[letter])
    uids = block.uids[rows]
    rank = chance.bits(0, "diff", uids)
    if len(rows) > SHOWN:
        few = np.flatnonzero(rank <= np.partition(rank, SHOWN - 1)[SHOWN - 1])
        rows, uids, rank = rows[few], uids[few], rank[few]
    fates = block.members.only_fate(letter)
    pairs = [(None, None)] * len(rows)
    if fates is not None:
        known = [(None, None), *fates.known]
        pairs = [known[code] for code in fates.code[rows].tolist()]
    frame = {
        "side": [letter] * len(rows),
        "rank": rank,
        "f0": uids["f0"],
        "f1": uids["f1"],
        "block": np.full(len(rows), block.span.block),
        "row": rows,
        "step": [step for step, _ in pairs],
        "reason": [reason for _, reason in pairs],
    }
    return pl.DataFrame(frame, schema=_SCHEMA)


def galleries(pair: Pair, found: pl.DataFrame, tally: Tally, runner: Runner) -> list[Json]:
    """What is said of each sample, side by side."""
    sections = []
    for letter in LETTERS:
        facts = pair.read_by(letter)
        own = found.filter(pl.col("side") == letter)
        deciding = _deciding(pair, letter, own["step"].drop_nulls().unique().to_list())
        samples = [] if facts is None else _samples(facts, own, deciding, runner)
        sections.append(
            {
                "of": letter,
                "readable": facts is not None,
                "rows": tally.only[letter],
                "samples": samples,
            }
        )
    return sections


def _deciding(pair: Pair, letter: Letter, steps: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{step of the other run: the columns it looked at}, as far as the reading run has them too."""
    reader, other = pair.read_by(letter), pair.sides[OTHER[letter]].facts
    if reader is None or other is None:
        return {}
    there = reader.plan.registries[-1]
    found: dict[str, tuple[str, ...]] = {}
    for look in looks(other):
        names = (name for name in look.shown.columns if name in there and name != "caption")
        if look.step in steps:
            found[look.step] = tuple(dict.fromkeys((*found.get(look.step, ()), *names)))
    return found


def _samples(
    facts: Facts, chosen: pl.DataFrame, deciding: dict[str, tuple[str, ...]], runner: Runner
) -> list[Json]:
    last = len(facts.plan.steps)
    names = tuple(sorted({name for own in deciding.values() for name in own}))
    wanted = chosen.select(pl.lit(last).alias("index"), "block", "row")
    described = describe(facts, wanted, {last: names}, runner)
    samples = []
    for row in chosen.iter_rows(named=True):
        sample = described[last, row["block"], row["row"]]
        own = deciding.get(row["step"], ())
        values = {name: value for name, value in sample["values"].items() if name in own}
        fate = {"step": row["step"], "reason": row["reason"]} if row["step"] else None
        samples.append({**sample, "values": values, "fate": fate})
    return samples
