"""Members copied from tar to tar many at a time: the same bytes, in a third of the time.

Writing one member after the other, most of the time goes into headers: made for the new name, and
looked at where the old one was. Here both are done for a whole batch at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from curate import storage
from curate.errors import InputChanged
from curate.shards.shard import TarIndex
from curate.shards.tar import BLOCK, Mapped, declares, end_of_archive, member_header

_BATCH = 192  # members whose bytes are joined before they are written
_ZEROS = bytes(BLOCK)
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # octal digits
_SIZE_SHIFTS, _SUM_SHIFTS = np.arange(30, -1, -3), np.arange(15, -1, -3)

Body = bytes | memoryview


def write_members(handle: IO[bytes], members: Iterable[tuple[str, Body]]) -> int:
    """Write a whole archive of (name, body) and return its bytes: those of `tar.write_members`."""
    total = 0
    source = iter(members)
    while batch := list(itertools.islice(source, _BATCH)):
        pieces: list[Body] = []
        for header, (_, body) in zip(_headers(batch), batch, strict=True):
            pieces += (header, body, _ZEROS[: -len(body) % BLOCK])
        joined = b"".join(pieces)
        handle.write(joined)
        total += len(joined)
    ending = end_of_archive(total)
    handle.write(ending)
    return total + len(ending)


def _headers(batch: Sequence[tuple[str, Body]]) -> Sequence[Body]:
    """The header of each member."""
    names = [name for name, _ in batch]
    sizes = [len(body) for _, body in batch]
    joined = "".join(names)
    if not joined.isascii() or "\0" in joined or not 0 < max(map(len, names)) <= 100:
        return [member_header(name, size) for name, size in zip(names, sizes, strict=True)]
    if min(map(len, names)) == 0 or max(sizes) >= 8**11:
        return [member_header(name, size) for name, size in zip(names, sizes, strict=True)]
    template = np.frombuffer(member_header("x", 0), dtype=np.uint8)  # [512]
    blocks = np.tile(template, (len(batch), 1))  # [B, 512]
    blocks[:, :100] = np.array(names, dtype="S100").view(np.uint8).reshape(-1, 100)
    blocks[:, _SIZE] = (np.array(sizes)[:, None] >> _SIZE_SHIFTS & 7) + ord("0")
    blocks[:, 148:156] = ord(" ")
    sums = blocks.sum(axis=1, dtype=np.int64)
    blocks[:, _CHECKSUM] = (sums[:, None] >> _SUM_SHIFTS & 7) + ord("0")
    blocks[:, 154:156] = template[154:156]
    whole = memoryview(blocks.tobytes())
    return [whole[start : start + BLOCK] for start in range(0, len(whole), BLOCK)]


def members(index: TarIndex, keys: Sequence[str]) -> Iterator[tuple[int, str, memoryview]]:
    """(place in `keys`, extension, body) of every member of some samples of a local tar, in order.

    Raises:
        InputChanged: the tar is not the one that `index` was made of.
        StorageError: it cannot be read.
    """
    numbers = {key: number for number, key in enumerate(index.keys)}
    samples = np.array([numbers[key] for key in keys], dtype=np.int64)
    starts, counts = index.first[samples], index.first[samples + 1] - index.first[samples]
    before = np.cumsum(counts) - counts
    rows = np.repeat(starts - before, counts) + np.arange(counts.sum())  # [M]
    offsets, sizes = index.offset[rows].tolist(), index.size[rows].tolist()
    owners = np.repeat(np.arange(len(keys)), counts).tolist()
    extensions = [index.extensions[number] for number in index.extension[rows].tolist()]
    with storage.opened(index.url) as handle:
        source = Mapped(index.url, handle)
        places = zip(owners, extensions, offsets, sizes, strict=True)
        while batch := list(itertools.islice(places, _BATCH)):
            _check(source, [(keys[owner], offset, size) for owner, _, offset, size in batch])
            for owner, extension, offset, size in batch:
                yield owner, extension, source.read(offset, size)


def _check(source: Mapped, places: Sequence[tuple[str, int, int]]) -> None:
    """Refuse a tar whose headers are no longer where they were; (key, offset, size) a member."""
    headers = [source.read(offset - BLOCK, BLOCK) for _, offset, _ in places]
    whole = all(len(header) == BLOCK for header in headers)
    if whole and places[-1][1] + places[-1][2] <= source.size and _declare(headers, places):
        return
    for header, (key, offset, size) in zip(headers, places, strict=True):
        if not declares(bytes(header), size) or offset + size > source.size:
            raise InputChanged(
                f"{source.url} is not the file that it was: sample {key!r} is no longer at byte "
                f"{offset}"
            )


def _declare(headers: Sequence[memoryview], places: Sequence[tuple[str, int, int]]) -> bool:
    """Whether all are valid headers, in the usual form, of members of these sizes."""
    blocks = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, BLOCK)
    digits = (np.array([size for *_, size in places])[:, None] >> _SIZE_SHIFTS & 7) + ord("0")
    fields = blocks[:, 148:156].sum(axis=1, dtype=np.int64)
    sums = blocks.sum(axis=1, dtype=np.int64) - fields + 8 * ord(" ")
    checksums = (sums[:, None] >> _SUM_SHIFTS & 7) + ord("0")
    same = (blocks[:, _SIZE] == digits).all() and (blocks[:, _CHECKSUM] == checksums).all()
    return bool(same)
