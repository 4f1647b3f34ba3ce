"""What one task does with one unit of shards: download its pictures, or score its samples."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate import chance, columns, fates, storage
from curate.columns import ROW, Span, Store
from curate.compiled import Compiled
from curate.decide import apply_rows
from curate.downloads.download import Download, Target, download_part
from curate.features import Feature, FittedFeature
from curate.fitted import Fitting, assign_unit
from curate.parquet import read_parquet
from curate.pools.intake import PROBLEM
from curate.pools.metadata import ARRAY
from curate.pools.pool import Shard, Unit
from curate.pools.whereabouts import locate, part_stem
from curate.records import Done
from curate.sample import format_uids
from curate.score import POLARS, Body, Opened, open_features, score_samples
from curate.shards import shard


@dataclass(frozen=True)
class Place:
    """Where in a pipeline a stage stands."""

    before: str  # the verdict at the beginning of its phase
    first: int  # the phase's first step
    steps: tuple[int, ...]  # the steps that the stage does, together


def open_stage(plan: Compiled, place: Place) -> Callable[[Unit], Done]:
    """The work of a stage, with its models loaded; called once per worker."""
    step = plan.steps[place.steps[0]]
    resources = plan.config.run.steps.get(step.name)
    threads = (resources.threads if resources else None) or os.cpu_count() or 1
    if isinstance(step, Download):
        given = resources.threads if resources else None
        return partial(download_unit, plan, place, step, given or 64)
    if isinstance(step, FittedFeature):
        fitting = Fitting(plan, place.steps[0], place.before)
        return partial(assign_unit, fitting, step.assigner(fitting.artefact))
    features = [plan.steps[index] for index in place.steps]
    opened = open_features([f for f in features if isinstance(f, Feature)], "auto")
    return partial(score_unit, plan, place, opened, threads)


def wanted(plan: Compiled, place: Place, span: Span) -> np.ndarray:
    """[len(span)] bool: survivors at the stage, and the probe, filters or not."""
    step = plan.steps[place.steps[0]]
    if isinstance(step, FittedFeature):  # just who it was fitted on
        seen = Fitting(plan, place.steps[0], place.before).seen
        return fates.read(plan.work, seen, span).alive
    found = fates.read(plan.work, place.before, span)
    alive = apply_rows(plan, found, span, place.first, place.steps[0]).alive
    if plan.config.probe == 0:
        return alive
    draws = chance.uniform(plan.config.seed, "probe", columns.uids(plan.work, span))
    usable = columns.read_pool(plan.work, [PROBLEM], span)[PROBLEM].is_null().to_numpy().copy()
    download = plan.download()
    if download is not None and plan.index(download.name) < place.steps[0]:
        # A picture that did not come may come later: it must not leave a value behind.
        usable &= _downloaded(columns.store(plan.work, download.name), span)
    return np.asarray(alive | ((draws < plan.config.probe) & usable))


def _downloaded(store: Store, span: Span) -> np.ndarray:
    """[len(span)] bool: rows whose picture is there."""
    stored = store.read(span.block, ["status"], span.unit)
    here = stored.filter((pl.col(ROW) >= span.start) & (pl.col(ROW) < span.stop))
    mask = np.zeros(len(span), dtype=bool)
    mask[here.filter(pl.col("status") == "success")[ROW].to_numpy() - span.start] = True
    return mask


def missing(plan: Compiled, place: Place, span: Span) -> dict[str, np.ndarray]:
    """{step: [len(span)] bool}: rows wanted that have no stored value."""
    mask = wanted(plan, place, span)
    found = {}
    for index in place.steps:
        name = plan.steps[index].name
        stored = columns.store(plan.work, name).rows(span.block, span.unit)
        stored = stored[(stored >= span.start) & (stored < span.stop)] - span.start
        absent = mask.copy()
        absent[stored] = False
        found[name] = absent
    return found


def _span(unit: Unit) -> Span:
    return Span(unit.block, unit.start, unit.stop, unit.number)


def score_unit(
    plan: Compiled, place: Place, opened: Sequence[Opened], threads: int, unit: Unit
) -> Done:
    """Compute what is missing of some features for a unit, and commit it."""
    began = time.monotonic()
    span = _span(unit)
    absent = missing(plan, place, span)
    rows = failed = 0
    groups: dict[bytes, list[Opened]] = {}  # features that lack the same rows share one pass
    for one in opened:
        groups.setdefault(absent[one.feature.name].tobytes(), []).append(one)
    for group in groups.values():
        mask = absent[group[0].feature.name]
        parts: dict[str, list[pl.DataFrame]] = {one.feature.name: [] for one in group}
        for each in unit.shards:
            start = each.offset - unit.start
            chosen = np.flatnonzero(mask[start : start + each.rows])
            if len(chosen):
                for name, part in _score_shard(plan, place, group, each, (unit, chosen, threads)):
                    parts[name].append(part)
        for name, frames in parts.items():
            if frames:
                frame = pl.concat(frames)
                rows += frame.height
                failed += frame["error"].count()
                columns.store(plan.work, name).write_part(unit.block, unit.number, frame)
    return Done(rows, failed, time.monotonic() - began)


def _score_shard(
    plan: Compiled,
    place: Place,
    opened: Sequence[Opened],
    each: Shard,
    chosen: tuple[Unit, np.ndarray, int],
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Score some [K] rows of a shard, commit the arrays, and give the scalars of each feature."""
    unit, rows, threads = chosen
    registry = plan.registries[place.steps[0]]
    span = Span(unit.block, each.offset, each.offset + each.rows, unit.number)
    names = [name for one in opened for name in one.feature.needs()]
    frame = columns.load(plan.work, registry, names, span)
    looks = any(one.feature.pictures for one in opened)
    with tempfile.TemporaryDirectory(prefix="curate-") as scratch:
        order, bodies = (
            _pictures(plan, place, span, (each, rows), scratch) if looks else (rows, iter(()))
        )
        scored = score_samples(opened, bodies, frame[order], threads)
    ascending = np.argsort(order, kind="stable")
    for one in opened:
        name = one.feature.name
        result = scored[name]
        fields: dict[str, Any] = {ROW: (order + each.offset).astype(np.uint32)}
        for given in one.feature.gives():
            fields[given.name] = pl.Series(result.scalars[given.name], dtype=POLARS[given.dtype])
        fields["error"] = pl.Series(list(result.errors), dtype=pl.String)
        part = pl.DataFrame(fields)[ascending]
        if one.feature.arrays():
            arrays = {key: array[ascending] for key, array in result.arrays.items()}
            columns.store(plan.work, name).write_arrays(each.number, order[ascending], arrays)
        yield name, part


def _pictures(
    plan: Compiled, place: Place, span: Span, chosen: tuple[Shard, np.ndarray], scratch: str
) -> tuple[np.ndarray, Iterator[Body]]:
    """Some [K] rows of a shard in the order of the tars they are in, and their picture files."""
    each, rows = chosen
    there = locate(plan, plan.registries[place.steps[0]], span, (each.number, each.url), rows)
    order: list[int] = []
    readers: list[Iterator[Body]] = []
    for number, tar in enumerate(there.tars):
        own = np.flatnonzero(there.tar == number).tolist()
        if not own or not storage.exists(tar):
            continue
        here: dict[str, list[int]] = {}  # rows of metadata that share a uid share a picture
        for i in own:
            here.setdefault(there.keys[i], []).append(int(rows[i]))
        local = _localized(tar, scratch, number)
        index = shard.scan(local)
        found = {key: here[key] for key in index.keys if key in here}
        order += [row for shared in found.values() for row in shared]
        readers.append(_bodies(local, {key: len(shared) for key, shared in found.items()}, index))
    without = sorted(set(rows.tolist()) - set(order))
    bodies = (body for reader in [*readers, iter([None] * len(without))] for body in reader)
    return np.array([*order, *without], dtype=np.int64), bodies


def _localized(url: str, scratch: str, number: int) -> str:
    """The path of a tar on this machine's disk: an object is copied whole, in one read."""
    if storage.is_local(url):
        return url
    target = Path(scratch) / f"{number}.tar"  # two may have the same name
    with storage.opened(url) as source, target.open("wb") as copy:
        while piece := source.read(8 << 20):
            copy.write(piece)
    return str(target)


def _bodies(url: str, times: Mapping[str, int], index: shard.TarIndex) -> Iterator[Body]:
    """The picture files of some samples, in tar order, each so many times."""
    for sample in shard.read_samples(url, times.keys(), shard.IMAGE_EXTENSIONS, index):
        found = shard.picture(sample)
        yield from repeat(found[1] if found is not None else None, times[sample.key])


def download_unit(plan: Compiled, place: Place, spec: Download, threads: int, unit: Unit) -> Done:
    """Fetch what is missing of a unit's pictures, and commit tars and columns."""
    began = time.monotonic()
    span = _span(unit)
    store = columns.store(plan.work, spec.name)
    for each in unit.shards:
        _adopt(plan, spec, store, unit, each)
    absent = missing(plan, place, span)[spec.name]
    if plan.retry_failed:
        absent |= failed_rows(store, span) & wanted(plan, place, span)
    rows = failed = 0
    frames = []
    for each in unit.shards:
        start = each.offset - unit.start
        chosen = np.flatnonzero(absent[start : start + each.rows])
        if not len(chosen):
            continue
        part = len(_parts(plan.work, spec.name, each.number))
        frame = _requests(plan, spec, unit, each)[chosen]
        folder = storage.join(plan.work, spec.name, f"{each.number // 1000:03d}")
        target = Target(folder, each.number, part, rows_per_shard=_most_rows(plan))
        download_part(spec, frame, target, threads)
        frames.append(_outcome(plan, spec, each, part))
    if frames:
        whole = pl.concat(frames)
        store.write_part(unit.block, unit.number, whole)
        rows, failed = whole.height, int((whole["status"] != "success").sum())
    return Done(rows, failed, time.monotonic() - began)


def failed_rows(store: Store, span: Span) -> np.ndarray:
    """[len(span)] bool: rows that were asked for and did not come."""
    stored = store.read(span.block, ["status"], span.unit)
    here = stored.filter((pl.col(ROW) >= span.start) & (pl.col(ROW) < span.stop))
    mask = np.zeros(len(span), dtype=bool)
    mask[here.filter(pl.col("status") != "success")[ROW].to_numpy() - span.start] = True
    return mask


def _parts(work: str, name: str, number: int) -> list[int]:
    """The numbers of a shard's complete parts: those whose parquet is there."""
    folder = storage.join(work, name, f"{number // 1000:03d}")
    stem = f"{number:05d}"
    found = []
    for file in storage.names(folder):
        base = file.removesuffix(".parquet")
        if file.endswith(".parquet") and (base == stem or base.startswith(f"{stem}-r")):
            found.append(int(base[len(stem) + 2 :]) if base != stem else 0)
    return sorted(found)


def _most_rows(plan: Compiled) -> int:
    """Rows that a shard may have: keys have room for so many."""
    return max(10_000, *(source.rows_per_shard for source in plan.config.pool))


def _adopt(plan: Compiled, spec: Download, store: Store, unit: Unit, each: Shard) -> None:
    """Take over parts that were committed just before a run was killed."""
    parts = _parts(plan.work, spec.name, each.number)
    if not parts:
        return
    stored = store.read(unit.block, ["part"], unit.number)
    inside = (pl.col(ROW) >= each.offset) & (pl.col(ROW) < each.offset + each.rows)
    known = stored.filter(inside)["part"].max() if stored.height else None
    fresh = [part for part in parts if known is None or part > known]  # type: ignore[operator]  # an int
    for part in fresh:
        store.write_part(unit.block, unit.number, _outcome(plan, spec, each, part))


def _outcome(plan: Compiled, spec: Download, each: Shard, part: int) -> pl.DataFrame:
    """The columns that a part of a download adds, from its parquet."""
    url = part_stem(plan.work, spec.name, each.number, part) + ".parquet"
    names = [
        "status",
        "error",
        "key",
        "width",
        "height",
        "original_width",
        "original_height",
        "sha256",
    ]
    frame = read_parquet(url, [ROW, *names])
    return frame.select(
        (pl.col(ROW) + each.offset).cast(pl.UInt32),
        *(
            pl.col(name).cast(pl.Int64 if name.endswith(("width", "height")) else pl.String)
            for name in names
        ),
        pl.lit(part, dtype=pl.UInt32).alias("part"),
    )


def _requests(plan: Compiled, spec: Download, unit: Unit, each: Shard) -> pl.DataFrame:
    """A shard's rows as a download sees them: row, uid, url, caption, all else the pool has."""
    span = Span(unit.block, each.offset, each.offset + each.rows)
    pool = plan.registries[0]
    made = {"key", "width", "height", "original_width", "original_height"}
    if not spec.verify_sha256:
        made.add("sha256")
    made |= {"uid_hi", "uid_lo", "uid", PROBLEM}
    extra = [name for name, of in pool.items() if name not in made and of.dtype != ARRAY]
    frame = columns.read_pool(plan.work, extra, span)
    return frame.with_columns(
        pl.Series("uid", format_uids(columns.uids(plan.work, span))),
        pl.Series(ROW, np.arange(each.rows, dtype=np.uint32)),
    )
