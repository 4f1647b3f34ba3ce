"""Who was removed as whose duplicate: the groups of each such filter, and the largest of them.

A removed sample names the uid of the one that it goes for, so those that name the same one are a
group. Samples of one uid cannot be told apart there: of those that could be meant, the first in
the pool is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled
from curate.report.duplicates.likeness import compared, likeness
from curate.report.facts import Facts, looks, stops
from curate.report.samples import describe
from curate.runner import Runner, fold
from curate.sample import UID, format_uids, make_uids
from curate.shuffle import Exchange, partitions
from filters import Filter

LARGEST = 100  # groups of a filter that are shown
SHOWN = 5  # of a group, besides the one that stayed
_BYTES = 256  # of a removed sample while groups are counted
_KEPT, _REMOVED = 0, 1  # sides of a group

_MEMBER: dict[str, Any] = {
    "step": pl.UInt32,
    "group": pl.UInt32,
    "side": pl.UInt8,
    "rank": pl.UInt8,  # of those that could be meant by the uid that stayed: 0 is likelier
    "f0": pl.UInt64,
    "f1": pl.UInt64,
    "block": pl.UInt32,
    "row": pl.UInt32,
}


@dataclass(frozen=True)
class Counted:
    """The groups of one filter, or those of a part of their uids."""

    groups: int
    removed: int
    sizes: Counter[int]  # {smallest size of a bin: groups}
    largest: pl.DataFrame  # (f0, f1, len): at most LARGEST, by (size, uid)

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.groups + other.groups,
            self.removed + other.removed,
            self.sizes + other.sizes,
            _largest(pl.concat([self.largest, other.largest])),
        )


def duplicates(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """What each filter that removes duplicates found, in order: exact, at any size of the pool.

    The uids that stayed are brought together on disk, some 16 bytes for each removed sample; a task
    holds some 256 bytes for each of 2 million.
    """
    steps = [
        index
        for index, step in enumerate(facts.plan.steps)
        if isinstance(step, Filter) and step.removes_duplicates
    ]
    if not steps or not facts.spans():
        return []
    counted = _count(facts, steps, runner)
    sought = pl.concat(
        [
            found.largest.select("f0", "f1").with_row_index("group").with_columns(step=pl.lit(step))
            for step, found in zip(steps, counted, strict=True)
        ]
    ).cast({"step": pl.UInt32})
    members = fold(
        runner.map(partial(_members, facts.plan, facts.after, sought), facts.spans(), "report"),
        _first_ones,
    )
    assert members is not None
    names = {look.index: look.shown.columns for look in looks(facts)}
    wanted = members.select(pl.col("step").cast(pl.Int64).alias("index"), "block", "row")
    samples = describe(facts, wanted, {step: names[step] for step in steps}, runner)
    found = []
    for step, own in zip(steps, counted, strict=True):
        groups = members.filter(pl.col("step") == step).sort("group", "side", "f0", "f1")
        alike = likeness(facts, step, _pairs(groups), runner)
        shown = [
            _group(group, samples, alike, size + 1)
            for group, size in zip(_split(groups, own), own.largest["len"], strict=True)
        ]
        found.append(_section(facts, step, own, shown))
    return found


def _section(
    facts: Facts, index: int, counted: Counted, shown: list[dict[str, Any]]
) -> dict[str, Any]:
    unit, of = compared(facts, index)
    return {
        "step": facts.plan.steps[index].name,
        "of": list(of),
        "unit": unit,
        "groups": counted.groups,
        "removed": counted.removed,
        "sizes": {_bin_name(low): counted.sizes[low] for low in sorted(counted.sizes)},
        "largest": shown,
    }


def _count(facts: Facts, steps: list[int], runner: Runner) -> list[Counted]:
    spans, work = facts.spans(), facts.plan.work
    folder = storage.join(work, "report", "groups")
    exchanges = []
    for index in steps:
        name = facts.plan.steps[index].name
        removed = int(facts.counts.filter(pl.col("step") == name)["rows"].sum())
        readers = partitions(removed, _BYTES)
        exchanges.append(Exchange(storage.join(folder, name), len(spans), readers))
    send = partial(_send, facts.plan, facts.after, dict(zip(steps, exchanges, strict=True)))
    for _ in runner.map(send, list(enumerate(spans)), "report"):
        pass
    counted = []
    for exchange in exchanges:
        parts = runner.map(partial(_count_part, exchange), range(exchange.readers), "report")
        total = fold(parts, Counted.__add__)
        assert total is not None
        counted.append(total)
    storage.remove(folder)
    return counted


def _send(
    plan: Compiled, after: str, exchanges: dict[int, Exchange], job: tuple[int, Span]
) -> None:
    """Write whom the removed samples of a block go for to where equal ones meet."""
    writer, span = job
    found = fates.read(plan.work, after, span)
    for index, exchange in exchanges.items():
        _, uids = _named(found, plan.steps[index].name)
        reader = chance.bits(0, "groups", uids) % np.uint64(exchange.readers)
        exchange.write(writer, uids, reader.astype(np.int64))


def _named(
    found: fates.Fates, step: str, among: pl.Series | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """([K] rows that a step removed as duplicates, [K] UID of whom they go for).

    Args:
        found: The fates of a block.
        step: Which step.
        among: Only those that go for one of these, in hex.
    """
    rows = found.of(step)
    if found.because is None:
        return rows[:0], np.empty(0, dtype=UID)
    texts = found.because.gather(rows)
    wanted = texts.is_not_null() if among is None else texts.is_in(among).fill_null(value=False)
    rows, texts = rows[wanted.to_numpy()], texts.filter(wanted)
    uids = np.empty(len(rows), dtype=UID)
    for half, start in (("f0", 0), ("f1", 16)):
        digits = texts.str.slice(start, 16)
        uids[half] = digits.str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
    return rows, uids


def _count_part(exchange: Exchange, reader: int) -> Counted:
    uids = exchange.read(reader)
    groups = _frame(uids).group_by("f0", "f1").len()
    sizes = groups.group_by("len").len("groups")
    bins: Counter[int] = Counter()
    for length, count in sizes.iter_rows():
        bins[_bin(length + 1)] += count
    return Counted(groups.height, len(uids), bins, _largest(groups))


def _frame(uids: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({half: np.ascontiguousarray(uids[half]) for half in ("f0", "f1")})


def _largest(groups: pl.DataFrame) -> pl.DataFrame:
    if groups.height > LARGEST:  # sorting is for those few that can be among them
        groups = groups.filter(pl.col("len") >= pl.col("len").top_k(LARGEST).min())
    return groups.sort("len", "f0", "f1", descending=[True, False, False]).head(LARGEST)


def _bin(size: int) -> int:
    """The smallest size of its bin: 2, 3, 4, then 5 to 8, 9 to 16 and so on."""
    return size if size <= 4 else (1 << ((size - 1).bit_length() - 1)) + 1


def _bin_name(low: int) -> str:
    return str(low) if low <= 4 else f"{low}-{2 * (low - 1)}"


def _members(plan: Compiled, after: str, sought: pl.DataFrame, span: Span) -> pl.DataFrame:
    """The _MEMBER of a block of the groups that are sought (step, group, f0, f1)."""
    found = fates.read(plan.work, after, span)
    stopped, uids = stops(plan, found), columns.uids(plan.work, span)
    everybody = _frame(uids).with_columns(row=pl.int_range(pl.len(), dtype=pl.UInt32))
    meant = everybody.join(sought, on=["f0", "f1"])
    # A removal may go for the sake of one that goes itself (SemDeDup's rule), of none before that.
    at = pl.Series(stopped[meant["row"].to_numpy()])
    meant = meant.with_columns(at=at, side=pl.lit(_KEPT), rank=(at <= meant["step"]).cast(pl.UInt8))
    frames = [meant.filter(pl.col("at") >= pl.col("step"))]
    for index in sought["step"].unique().sort().to_list():
        own = sought.filter(pl.col("step") == index)
        rows, kept = _named(found, plan.steps[index].name, _in_hex(own))
        gone = _frame(kept).with_columns(row=pl.Series(rows, dtype=pl.UInt32))
        gone = gone.join(own, on=["f0", "f1"])
        places = gone["row"].to_numpy()
        frames.append(
            gone.with_columns(_frame(uids[places]), side=pl.lit(_REMOVED), rank=pl.lit(0))
        )
    chosen = [
        frame.with_columns(block=pl.lit(span.block)).select(*_MEMBER).cast(pl.Schema(_MEMBER))
        for frame in frames
    ]
    return _first_ones(pl.DataFrame(schema=_MEMBER), pl.concat(chosen))


def _in_hex(uids: pl.DataFrame) -> pl.Series:
    halves = make_uids(uids["f0"].to_numpy(), uids["f1"].to_numpy())
    return pl.Series(format_uids(halves), dtype=pl.String)


def _first_ones(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Of both: of each group one that stayed, and the first that were removed."""
    both = pl.concat([left, right]).sort(list(_MEMBER))
    place = pl.int_range(pl.len()).over("step", "group", "side")
    return both.filter(place < pl.when(pl.col("side") == _KEPT).then(1).otherwise(SHOWN))


def _split(groups: pl.DataFrame, counted: Counted) -> Iterator[pl.DataFrame]:
    parts = {key[0]: part for key, part in groups.group_by(["group"], maintain_order=True)}
    for number in range(counted.largest.height):
        yield parts[number]


def _pairs(groups: pl.DataFrame) -> pl.DataFrame:
    """(block, row) of each removed one beside (kept_block, kept_row)."""
    stayed = groups.filter(pl.col("side") == _KEPT)
    kept = stayed.select("group", kept_block="block", kept_row="row")
    return groups.filter(pl.col("side") == _REMOVED).join(kept, on="group")


def _group(
    group: pl.DataFrame,
    samples: dict[tuple[int, int, int], dict[str, Any]],
    alike: dict[tuple[int, int], float | None],
    size: int,
) -> dict[str, Any]:
    places = group.select("step", "block", "row", "side").rows()
    kept = [samples[place[:3]] for place in places if place[3] == _KEPT]
    removed = [place[:3] for place in places if place[3] == _REMOVED]
    return {
        "kept": kept[0] if kept else None,
        "removed": [samples[place] for place in removed],
        "size": size,
        "similarity": [alike.get(place[1:]) for place in removed],
    }
