"""What a report says of a sample that it shows: its caption, place, fate and deciding values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates
from curate.columns import Span
from curate.compiled import Compiled
from curate.page.texts import brief
from curate.pools.metadata import ARRAY
from curate.pools.pictures import tars_of
from curate.pools.whereabouts import part_stem
from curate.report.facts import Facts, plain, public
from curate.runner import Runner
from curate.sample import PICTURE_TAR, format_uids

NEAR = (8_192, 32_768, 131_072)  # rows around a chosen one that may be read with it
_READ = 65_536  # rows that are read in the time that it takes to begin reading
LONGEST = 4_000  # characters of a caption; deciding values have a tenth of that

Address = tuple[int, int, int]  # step, block, row of the block


def describe(
    facts: Facts, wanted: pl.DataFrame, names: Mapping[int, tuple[str, ...]], runner: Runner
) -> dict[Address, dict[str, Any]]:
    """What a report says of each wanted sample, read from those blocks alone that have one.

    Args:
        facts: The run.
        wanted: (index, block, row), any order and number of times: index of a step, which tells
            what columns there are; block of the pool; row of the block.
        names: {index of a step: columns whose values are said}.
        runner: Who reads.

    Returns:
        {(index, block, row): the fields of `schema.Sample`}.
    """
    wanted = wanted.unique().sort("index", "block", "row")
    rows = facts.pool.block_rows()
    size = reach(wanted)
    near = wanted.with_columns(near=pl.col("row") // size)
    jobs = [
        (_near(block, number, size, int(rows[block])), part.select("index", "row"))
        for (block, number), part in near.group_by(["block", "near"])
    ]
    samples: dict[Address, dict[str, Any]] = {}
    for found in runner.map(partial(_describe, facts.plan, facts.after, names), jobs, "report"):
        samples.update(found)
    table = facts.pool.table.filter(pl.col("rows") > 0).sort("block", "offset")
    places = {key[0]: part for key, part in table.group_by(["block"])}
    for (_, block, row), sample in samples.items():
        part = places[block]
        shard = part.row(int(part["offset"].search_sorted(row, side="right")) - 1, named=True)
        sample["shard"], sample["row"] = shard["number"], row - shard["offset"]
        sample["tar"] = _tar(facts.plan, sample.pop("part"), shard, sample["key"])
    return samples


def reach(wanted: pl.DataFrame) -> int:
    """How many rows are best read together for some chosen ones, (block, row).

    Texts of a whole block are too much to read for a few; for many, so is beginning each time.
    """
    chosen = [wanted.select("block", pl.col("row") // size).n_unique() for size in NEAR]
    costs = [count * (_READ + size) for count, size in zip(chosen, NEAR, strict=True)]
    return NEAR[costs.index(min(costs))]


def _near(block: Any, number: Any, size: int, rows: int) -> Span:
    """The rows around some chosen ones."""
    return Span(block, number * size, min((number + 1) * size, rows))


def _tar(plan: Compiled, part: int | None, shard: dict[str, Any], key: str | None) -> str | None:
    """The tar of a sample's picture: a URL, or within the work folder; None where there is none."""
    if key is None:
        return None
    download = plan.download()
    if download is None:
        return public(shard["url"] if part is None else tars_of(plan.work)[part])
    stem = part_stem("", download.name, shard["number"], part or 0)
    return stem.removeprefix("/") + ".tar"


def _describe(
    plan: Compiled, after: str, names: Mapping[int, tuple[str, ...]], job: tuple[Span, pl.DataFrame]
) -> dict[Address, dict[str, Any]]:
    span, wanted = job
    rows = wanted["row"].unique().sort()
    here = rows.to_numpy() - span.start
    found = fates.read(plan.work, after, span)
    because = found.because if found.because is not None else fates.nothing(len(span))
    uids = format_uids(columns.uids(plan.work, span)[here])
    samples = {
        row: {**where, "uid": uid, "removed_by": by, "because": because}
        for row, uid, where, by, because in zip(
            rows.to_list(),
            uids,
            _whereabouts(plan, span, here),
            found.steps().gather(here).to_list(),
            because.gather(here).to_list(),
            strict=True,
        )
    }
    described = {}
    for (index,), part in wanted.group_by(["index"]):
        step = int(str(index))
        shown = [name for name in names[step] if _can_show(plan, step, name)]
        frame = columns.load(plan.work, plan.registries[step], shown, span)
        records = _records(frame[part["row"].to_numpy() - span.start], shown, LONGEST // 10)
        for row, record in zip(part["row"].to_list(), records, strict=True):
            described[step, span.block, row] = {**samples[row], "values": record}
    return described


def _can_show(plan: Compiled, step: int, name: str) -> bool:
    return plan.registries[step][name].dtype != ARRAY


def _whereabouts(plan: Compiled, span: Span, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """Caption, key and part of some rows; the part says which download, or tar, has the picture."""
    download = plan.download()
    part = f"{download.name}.part" if download is not None else PICTURE_TAR
    registry = plan.registries[-1]
    names = tuple(name for name in ("caption", "key", part) if name in registry)
    frame = columns.load(plan.work, registry, names, span)[rows]
    for record in _records(frame, names, LONGEST):
        yield {
            "caption": record["caption"],
            "key": record.get("key"),
            "part": record.get(part),
        }


def _records(frame: pl.DataFrame, names: Sequence[str], longest: int) -> list[dict[str, Any]]:
    """{column: value} of each row; long texts are cut."""
    records: list[dict[str, Any]] = [{} for _ in range(frame.height)]
    for name in names:
        outer, dot, inner = name.partition(".")
        series = frame[outer].struct.field(inner) if dot else frame[outer]
        for record, value in zip(records, series.to_list(), strict=True):
            record[name] = brief(value, longest) if isinstance(value, str) else plain(value)
    return records
