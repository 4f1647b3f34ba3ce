"""One shard's samples: found in its tar without reading bodies, and given without copying them."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate import storage
from curate.errors import InputChanged
from curate.shards.tar import (
    BLOCK,
    DamagedTar,
    Mapped,
    Members,
    Ranged,
    Source,
    Streamed,
    declares,
    write_members,
)

__all__ = [
    "IMAGE_EXTENSIONS", "BadMetadata", "DamagedTar", "Samples", "TarIndex", "TarSample", "caption",
    "load_index", "metadata", "picture", "picture_keys", "read_samples", "save_index", "scan",
    "split_name", "write_members",
]  # fmt: skip

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_BEYOND = 1 << 62  # no file is so long: what a lying size counts as


class BadMetadata(ValueError):
    """A sample's `.json` holds no JSON object; the message names the sample."""


@dataclass(frozen=True)
class TarSample:
    """Members of one sample. Their views keep the file's map, or the piece read, in memory."""

    key: str
    members: dict[str, memoryview]  # {extension in lower case: body}, in tar order


@dataclass(frozen=True)
class TarIndex:
    """Where the members of each sample of a tar are; samples in tar order.

    A sample is a run of members that share a key, as webdataset has it: the name up to the first
    dot after the last slash. Names without one (no dot, hidden files, `__meta__`) are passed over.
    A sample whose key was there before is a sample of its own, called `key#2`; members that come
    apart from the rest of their sample are an error, for all other readers would make two of it.
    """

    url: str
    keys: Sequence[str]  # [S], all different
    first: np.ndarray  # [S + 1] int64: sample i has members first[i] to first[i + 1] - 1
    extensions: tuple[str, ...]  # those that occur
    extension: np.ndarray  # [M] uint32, index into `extensions`
    offset: np.ndarray  # [M] int64, of the body within the tar
    size: np.ndarray  # [M] int64, bytes
    truncated: bool  # no end marker: samples are missing, and the last one may lack members
    end: int  # the byte where the end marker, or the cut, is

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, sample: int) -> list[tuple[str, int, int]]:
        """(extension, offset, size) of each member of one sample."""
        rows = slice(int(self.first[sample]), int(self.first[sample + 1]))
        columns = [column[rows].tolist() for column in (self.extension, self.offset, self.size)]
        return [
            (self.extensions[e], offset, size) for e, offset, size in zip(*columns, strict=True)
        ]


def split_name(name: str) -> tuple[str, str] | None:
    """(key, extension in lower case) of a member; None for a name that belongs to no sample."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not stem or not dot or (not slash and name.startswith("__") and name.endswith("__")):
        return None
    return folder + slash + stem, extension.lower()


class _Walk:
    """(key, extension, offset, size) of each member, in order, and the index made of them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._members = Members(source)
        self._stem: str | None = None  # of the sample that members are added to
        self._has: set[int] = set()  # its extensions
        self._latest: dict[str, int] = {}  # {stem: the last sample that has it}
        self._taken: dict[str, int] = {}  # {key: how often its stem came again}
        self._keys: list[str] = []
        self._first: list[int] = []
        self._extensions: dict[str, int] = {}
        self._extension, self._offset, self._size = array("q"), array("q"), array("q")

    def __iter__(self) -> Iterator[tuple[str, str, int, int]]:
        numbers = self._extensions
        for name, offset, size in self._members:
            parts = split_name(name)
            if parts is None:
                continue
            stem, extension = parts
            number = numbers.setdefault(extension, len(numbers))
            if stem != self._stem or number in self._has:
                self._begin(stem, number)
            self._has.add(number)
            self._extension.append(number)
            self._offset.append(offset)
            self._size.append(min(size, _BEYOND))
            yield self._keys[-1], extension, offset, size

    def _begin(self, stem: str, extension: int) -> None:
        key = stem
        if stem in self._latest:
            start, *more = self._first[self._latest[stem] : self._latest[stem] + 2]
            if extension not in self._extension[start : more[0] if more else None]:
                raise DamagedTar(
                    f"{self._source.url}: members of sample {stem!r} lie apart, with other samples "
                    "between them: pack the shard again, sorted by name"
                )
        while key in self._taken:
            self._taken[stem] += 1
            key = f"{stem}#{self._taken[stem]}"
        self._taken[key] = 1
        self._stem, self._has, self._latest[stem] = stem, set(), len(self._keys)
        self._keys.append(key)
        self._first.append(len(self._extension))

    def index(self) -> TarIndex:
        """The index of the whole tar, once every member was given."""
        if self._size and self._offset[-1] + self._size[-1] > self._source.size:
            self._extension.pop(), self._offset.pop(), self._size.pop()  # its body is cut
        if self._first and self._first[-1] == len(self._size):
            self._keys.pop(), self._first.pop()
        return TarIndex(
            url=self._source.url,
            keys=self._keys,
            first=np.array([*self._first, len(self._size)], dtype=np.int64),
            extensions=tuple(self._extensions),
            extension=np.array(self._extension, dtype=np.uint32),
            offset=np.array(self._offset, dtype=np.int64),
            size=np.array(self._size, dtype=np.int64),
            truncated=self._members.truncated,
            end=self._members.end,
        )


@contextmanager
def _opened(url: str) -> Iterator[Source]:
    with storage.opened(url) as handle:
        yield Mapped(url, handle) if storage.is_local(url) else Streamed(url, handle)


def scan(url: str) -> TarIndex:
    """The index of a tar: a local one by its headers alone, another read once from front to back.

    Raises:
        DamagedTar: no tar, a damaged header, or interleaved samples.
        StorageError: it cannot be read.
    """
    with _opened(url) as source:
        walk = _Walk(source)
        for _ in walk:
            pass
        return walk.index()


def read_samples(
    url: str,
    wanted: Collection[str] | None = None,
    extensions: Collection[str] | None = None,
    index: TarIndex | None = None,
) -> Samples:
    """The samples of a tar, in tar order.

    A local tar is mapped. From an object store the tar is read once, until the last wanted sample
    was seen; with an `index`, only the ranges that hold wanted members are.

    Args:
        url: The tar.
        wanted: Keys of the samples to give (a set, if many), or None for all. A key that is not
            there is not given: the caller knows what that means.
        extensions: Members to give of each sample; a sample that has none of them is given too.
        index: What `scan` said of this tar, which saves doing it again.

    Raises:
        DamagedTar: as `scan`, but only once the damage is reached.
        InputChanged: the tar is not the one that `index` was made of.
        StorageError: it cannot be read.
    """
    return Samples(url, wanted, extensions, index)


class Samples(Iterator[TarSample]):
    """What `read_samples` gives; `index` is that of the tar, once all of it was walked."""

    def __init__(
        self,
        url: str,
        wanted: Collection[str] | None,
        extensions: Collection[str] | None,
        index: TarIndex | None,
    ) -> None:
        self.index = index
        self._url, self._wanted, self._extensions = url, wanted, extensions
        self._samples = self._walked() if index is None else self._indexed(index)

    def __next__(self) -> TarSample:
        return next(self._samples)

    def close(self) -> None:
        """Let go of the tar before its end; samples already given stay readable."""
        self._samples.close()

    def _wants(self, key: str) -> bool:
        return self._wanted is None or key in self._wanted

    def _takes(self, extension: str) -> bool:
        return self._extensions is None or extension in self._extensions

    def _walked(self) -> Generator[TarSample]:
        missing = len(set(self._wanted)) if self._wanted is not None else -1
        with _opened(self._url) as source:
            walk = _Walk(source)
            current, sample = None, None  # key of the walk; the sample of that key, where wanted
            for key, extension, offset, size in walk:
                if key != current:
                    if sample is not None:
                        yield sample
                        missing -= 1
                    if missing == 0:
                        return
                    current, sample = key, TarSample(key, {}) if self._wants(key) else None
                if sample is not None and self._takes(extension):
                    body = source.read(offset, size)
                    if len(body) == size:  # else the tar is cut here
                        sample.members[extension] = body
            self.index = walk.index()
        if sample is not None and sample.key in self.index.keys[-1:]:
            yield sample

    def _indexed(self, index: TarIndex) -> Generator[TarSample]:
        samples = [(i, key) for i, key in enumerate(index.keys) if self._wants(key)]
        with self._source_of(index, [i for i, _ in samples]) as source:
            for i, key in samples:
                members = {}
                for extension, offset, size in index.members(i):
                    if self._takes(extension):
                        members[extension] = self._checked(source, key, offset, size)
                yield TarSample(key, members)

    def _checked(self, source: Source, key: str, offset: int, size: int) -> memoryview:
        header, body = source.header(offset - BLOCK), source.read(offset, size)
        if not declares(header, size) or len(body) < size:
            raise InputChanged(
                f"{self._url} is not the file that it was: sample {key!r} is no longer at byte "
                f"{offset}"
            )
        return body

    @contextmanager
    def _source_of(self, index: TarIndex, samples: list[int]) -> Iterator[Source]:
        # A web server may answer a request for a range with the whole file, so it is streamed.
        if storage.is_local(self._url) or self._url.startswith(("http://", "https://")):
            with _opened(self._url) as source:
                yield source
            return
        spans = [
            (offset - BLOCK, offset + size)
            for i in samples
            for extension, offset, size in index.members(i)
            if self._takes(extension)
        ]
        yield Ranged(self._url, spans)


def picture(sample: TarSample) -> tuple[str, memoryview] | None:
    """(extension, body) of a sample's first image member; None where it has none."""
    return next((item for item in sample.members.items() if item[0] in IMAGE_EXTENSIONS), None)


def picture_keys(index: TarIndex) -> list[str]:
    """Keys of the samples that have an image member, in tar order."""
    is_image = np.array([e in IMAGE_EXTENSIONS for e in index.extensions], dtype=bool)
    images = is_image[index.extension] if len(is_image) else np.zeros(0, dtype=bool)  # [M]
    samples = np.searchsorted(index.first, np.flatnonzero(images), side="right") - 1
    return [index.keys[i] for i in np.unique(samples).tolist()]


def caption(sample: TarSample) -> str | None:
    """The text of the `.txt` member; bytes that are no UTF-8 become U+FFFD."""
    body = sample.members.get("txt")
    return None if body is None else str(body, "utf-8", "replace")


def metadata(sample: TarSample) -> dict[str, Any] | None:
    """The object in the `.json` member; None where there is no such member.

    Raises:
        BadMetadata: it is malformed, too deep, or not an object.
    """
    body = sample.members.get("json")
    if body is None:
        return None
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise BadMetadata(f"{sample.key}.json: {error}") from None
    if not isinstance(value, dict):
        raise BadMetadata(f"{sample.key}.json: {type(value).__name__}, not an object")
    return value


def save_index(url: str, index: TarIndex) -> None:
    """Keep an index, some 20 bytes a member beside the keys: ranges can then be read of the tar."""
    text = {"url": index.url, "extensions": index.extensions, "keys": list(index.keys)}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text=np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
        first=index.first,
        extension=index.extension,
        offset=index.offset,
        size=index.size,
        ends=np.array([index.truncated, index.end], dtype=np.int64),
    )
    storage.commit(url, buffer.getvalue())


def load_index(url: str) -> TarIndex:
    """The index that `save_index` kept."""
    with np.load(io.BytesIO(storage.read(url)), allow_pickle=False) as arrays:
        text = json.loads(arrays["text"].tobytes())
        return TarIndex(
            url=text["url"],
            keys=text["keys"],
            first=arrays["first"],
            extensions=tuple(text["extensions"]),
            extension=arrays["extension"],
            offset=arrays["offset"],
            size=arrays["size"],
            truncated=bool(arrays["ends"][0]),
            end=int(arrays["ends"][1]),
        )
