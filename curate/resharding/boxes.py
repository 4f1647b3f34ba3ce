"""Face boxes of a subset's samples, gathered from metadata tables and looked up by uid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError, first_line
from curate.parquet import read_parquet
from curate.pools import foreign
from curate.resharding.blur import Box, Unblurrable, read_boxes
from curate.resharding.membership import find
from curate.sample import UID

COLUMN = "face_bboxes"
_FILES = ("uids", "first", "boxes")


@dataclass(frozen=True)
class BoxTable:
    """The boxes of the R samples that have any, sorted by uid; local arrays are mapped."""

    uids: np.ndarray  # [R] UID; one repeated has the boxes of all its rows
    first: np.ndarray  # [R + 1] int64, into `boxes`
    boxes: np.ndarray  # [B, 4] float64; a row of NaN where they could not be read

    def of(self, uids: np.ndarray) -> list[list[Box]]:
        """The boxes of each of [S] UID; [] for a uid that has none here."""
        start, count = find(self.uids, uids)
        rows = zip(start.tolist(), (start + count).tolist(), strict=True)
        spans = ((int(self.first[a]), int(self.first[b])) if a < b else (0, 0) for a, b in rows)
        return [[(x, y, z, w) for x, y, z, w in self.boxes[a:b].tolist()] for a, b in spans]


def gather(files: Sequence[str], subset: np.ndarray, folder: str) -> int:
    """Keep the boxes that tables give samples of a sorted subset, and count the rows that match.

    About 50 bytes for each picture with faces are held while they are sorted.

    Args:
        files: Parquet files with columns `uid` and `face_bboxes`, lists of four numbers.
        subset: [N] UID.
        folder: Where `load` finds them.

    Raises:
        ConfigError: a file lacks a column, or a uid there is none.
    """
    matched = 0
    uids, counts, boxes = [np.empty(0, dtype=UID)], [np.empty(0, dtype=np.int64)], [_none()]
    for file in files:
        frame = _read(file)
        there = find(subset, foreign.uid_array(frame.select("uid"), file))[1] > 0
        matched += int(there.sum())
        frame = frame.filter(pl.Series(there))
        found = [_readable(value) for value in frame[COLUMN].to_list()]
        counts.append(np.array([len(each) for each in found], dtype=np.int64))
        boxes += found
        uids.append(foreign.uid_array(frame.select("uid"), file))
    _save(np.concatenate(uids), np.concatenate(counts), np.concatenate(boxes), folder)
    return matched


def _none() -> np.ndarray:
    return np.empty((0, 4), dtype=np.float64)


def _readable(value: Any) -> np.ndarray:
    """[B, 4] boxes of one row."""
    try:
        found = read_boxes(value)
    except Unblurrable:
        return np.full((1, 4), np.nan)
    return np.array(found, dtype=np.float64).reshape(-1, 4)


def _read(file: str) -> pl.DataFrame:
    try:
        frame = read_parquet(file, ["uid", COLUMN])
    except pl.exceptions.ColumnNotFoundError:
        raise ConfigError(
            f"{file} lacks `uid` or `{COLUMN}`: name the metadata files that have both"
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as .parquet: {first_line(error)}") from None
    return frame.filter(pl.col("uid").is_not_null())


def _save(uids: np.ndarray, counts: np.ndarray, boxes: np.ndarray, folder: str) -> None:
    some = counts > 0
    uids, counts = uids[some], counts[some]
    order = np.lexsort((uids["f1"], uids["f0"]))
    stops = np.cumsum(counts)
    starts = (stops - counts)[order]
    counts = counts[order]
    first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    rows = np.repeat(starts - first[:-1], counts) + np.arange(len(boxes))
    for name, array in zip(_FILES, (uids[order], first, boxes[rows]), strict=True):
        storage.commit_array(storage.join(folder, f"{name}.npy"), array)


def load(folder: str) -> BoxTable:
    """What `gather` kept."""
    uids, first, boxes = (storage.read_array(storage.join(folder, f"{n}.npy")) for n in _FILES)
    return BoxTable(uids, first, boxes)
