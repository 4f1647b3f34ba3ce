"""The tar and the key of a sample's picture: in the pool, beside its metadata, or downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Registry, Span
from curate.compiled import Compiled
from curate.pools import pictures
from curate.sample import PICTURE_TAR


@dataclass(frozen=True)
class Whereabouts:
    """Where the pictures of K samples of one shard are."""

    keys: list[str]  # [K] in their tar
    tar: np.ndarray  # [K] int64, index into `tars`
    tars: tuple[str, ...]  # each at most once, in the order that they are to be read


def names(plan: Compiled, registry: Registry) -> tuple[str, ...]:
    """The columns that `locate` asks for."""
    download = plan.download()
    if download is not None:
        return ("key", f"{download.name}.part")
    return ("key", PICTURE_TAR) if PICTURE_TAR in registry else ("key",)


def locate(
    plan: Compiled, registry: Registry, span: Span, shard: tuple[int, str], rows: np.ndarray
) -> Whereabouts:
    """Where the pictures of some samples are.

    Args:
        plan: The pipeline.
        registry: What can be read at its place.
        span: Of the block.
        shard: The number and the URL of the shard that the span is of.
        rows: [K] rows of the span.
    """
    wanted = names(plan, registry)
    frame = columns.load(plan.work, registry, wanted, span)[rows]
    keys = frame["key"].to_list()
    number, url = shard
    download = plan.download()
    if download is not None:
        part = _whole(frame[download.name].struct.field("part"))
        last = int(part.max(initial=0))
        stems = (part_stem(plan.work, download.name, number, each) for each in range(last + 1))
        return Whereabouts(keys, part, tuple(f"{stem}.tar" for stem in stems))
    if len(wanted) == 1 or frame[PICTURE_TAR].null_count() == frame.height:
        return Whereabouts(keys, np.zeros(len(rows), dtype=np.int64), (url,))
    used, tar = np.unique(_whole(frame[PICTURE_TAR]), return_inverse=True)
    return Whereabouts(keys, tar, tuple(pictures.tars_of(plan.work).gather(used).to_list()))


def _whole(values: pl.Series) -> np.ndarray:
    return values.fill_null(0).cast(pl.Int64).to_numpy()


def part_stem(work: str, name: str, number: int, part: int) -> str:
    """The path of a download's part, without its ending: `download/000/00042-r1`."""
    stem = f"{number:05d}" + (f"-r{part}" if part else "")
    return storage.join(work, name, f"{number // 1000:03d}", stem)
