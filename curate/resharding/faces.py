"""The samples of one shard whose faces must be blurred, written beside it with them blurred."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from curate import storage
from curate.resharding import boxes as box_tables
from curate.resharding.blur import Blur, Box, Unblurrable, blurred, read_boxes
from curate.resharding.boxes import COLUMN
from curate.sample import format_uids
from curate.shards import shard
from curate.shards.shard import TarIndex, TarSample
from curate.shards.tar import write_members

_Bodies = dict[str, bytes | memoryview]


@dataclass(frozen=True)
class Lost:
    """A sample that is in the subset and cannot be written."""

    tar: str
    key: str
    uid: str
    reason: str


@dataclass(frozen=True)
class Wanted:
    """The K samples of a tar that are in the subset, in tar order."""

    url: str
    uids: np.ndarray  # [K] UID
    keys: Sequence[str]  # [K]
    index: TarIndex | None = None  # of these samples alone

    def with_index(self, index: TarIndex) -> Wanted:
        return replace(self, index=index)


@dataclass(frozen=True)
class Blurring:
    """What became of K samples."""

    is_blurred: np.ndarray  # [K] bool
    is_lost: np.ndarray  # [K] bool
    lost: tuple[Lost, ...]
    unknown: int  # samples whose JSON says nothing about faces


def unchanged(wanted: Wanted) -> Blurring:
    """Nothing was looked at."""
    none = np.zeros(len(wanted.keys), dtype=bool)
    return Blurring(none, none, (), 0)


def blur_samples(wanted: Wanted, spec: Blur, table: str | None, tar: str) -> Blurring:
    """Write the samples that have faces to a tar, blurred; all others stay where they are.

    A sample whose faces cannot be blurred, or whose boxes cannot be read, is lost: it must not go
    out as it is.

    Args:
        wanted: The samples.
        spec: How.
        table: Folder of a BoxTable; its boxes come on top of those in a sample's JSON.
        tar: Where to; not written where no sample has faces.
    """
    faces = _Faces(wanted, table)
    reasons = faces.unreadable
    if faces.boxes:
        writing = _Writing(wanted, spec, faces.boxes)
        with storage.committing(tar) as handle:
            write_members(handle, writing.members())
        reasons = {**reasons, **writing.failed}
    uids = format_uids(wanted.uids)
    lost = [
        Lost(wanted.url, key, uid, reasons[key])
        for key, uid in zip(wanted.keys, uids, strict=True)
        if key in reasons
    ]
    is_lost = np.array([key in reasons for key in wanted.keys], dtype=bool)
    has_faces = np.array([key in faces.boxes for key in wanted.keys], dtype=bool)
    return Blurring(has_faces & ~is_lost, is_lost, tuple(lost), faces.unknown)


class _Faces:
    """The boxes of each sample that has any, from its JSON and from a table."""

    def __init__(self, wanted: Wanted, table: str | None) -> None:
        self.boxes: dict[str, list[Box]] = {}  # {key: at least one}
        self.unreadable: dict[str, str] = {}  # {key: reason}
        self.unknown = 0
        if table is not None:
            for key, found in zip(wanted.keys, box_tables.load(table).of(wanted.uids), strict=True):
                self._add(key, found)
        samples = shard.read_samples(
            wanted.url, set(wanted.keys), extensions=("json",), index=wanted.index
        )
        for sample in samples:
            self._add(sample.key, self._in_json(sample))
        for key in self.unreadable:
            self.boxes.pop(key, None)

    def _in_json(self, sample: TarSample) -> Any:
        try:
            fields = shard.metadata(sample) or {}
        except shard.BadMetadata:
            fields = {}
        self.unknown += COLUMN not in fields
        return fields.get(COLUMN)

    def _add(self, key: str, value: Any) -> None:
        try:
            found = read_boxes(value)
        except Unblurrable as error:
            self.unreadable[key] = str(error)
            return
        if found:
            self.boxes[key] = [*self.boxes.get(key, []), *found]


class _Writing:
    """Samples with their pictures blurred."""

    def __init__(self, wanted: Wanted, spec: Blur, boxes: dict[str, list[Box]]) -> None:
        self.failed: dict[str, str] = {}  # {key: reason}
        self._wanted, self._spec, self._boxes = wanted, spec, boxes

    def members(self) -> Iterator[tuple[str, bytes | memoryview]]:
        """(name, body) of all members of the samples with faces."""
        url, index = self._wanted.url, self._wanted.index
        for sample in shard.read_samples(url, self._boxes.keys(), index=index):
            try:
                bodies = self._changed(sample)
            except Unblurrable as error:
                self.failed[sample.key] = str(error)
                continue
            for extension, body in bodies.items():
                yield f"{sample.key}.{extension}", body

    def _changed(self, sample: TarSample) -> _Bodies:
        bodies: _Bodies = {}
        for extension, body in sample.members.items():
            if extension in shard.IMAGE_EXTENSIONS:
                changed, other = blurred(body, self._boxes[sample.key], self._spec)
                bodies[other or extension] = changed
            else:
                bodies[extension] = body
        return bodies
