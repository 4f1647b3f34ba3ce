"""Sorted files of uids, of any size: read side by side in chunks, written as by `np.save`."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

import numpy as np

from curate import storage
from curate.errors import InputChanged, StorageError
from curate.sample import UID, format_uids

CHUNK = 1 << 18  # rows worked on at once by a thread: they stay in its cache
LEAST = 4096  # rows read at once from each of very many files
MOST_COPIES = 1 << 22  # of one uid: all are in memory at once, and no selection has so many
_THREADS = 4
_KEPT = 31 << 20  # bytes

Item = TypeVar("Item")
Result = TypeVar("Result")


class NotSorted(StorageError):
    """A file that must be sorted by uid is not."""

    def __init__(self, url: str, row: int, uids: np.ndarray) -> None:
        self.row = row
        before, after = format_uids(uids)
        super().__init__(
            f"{url} is not sorted: row {row} ({after}) belongs before row {row - 1} ({before}); "
            f"sort it first: curate subset sort {url} --out sorted.npy"
        )


@dataclass(frozen=True)
class RowFile:
    """A one-dimensional array of rows with fields f0 and f1, behind some bytes of header."""

    url: str
    dtype: np.dtype[Any]
    rows: int
    offset: int  # bytes before the first row

    def read(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] rows; of a local file they are mapped, and let go with the array."""
        count, width = stop - start, self.dtype.itemsize
        if not count:
            return np.empty(0, dtype=self.dtype)
        first = self.offset + start * width
        if storage.is_local(self.url):
            return self._mapped(first, count)
        system, path = storage.file_system(self.url)
        try:
            body = system.cat_file(path, start=first, end=first + count * width)
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error}") from error
        if len(body) != count * width:
            raise InputChanged(f"{self.url} became shorter while it was read")
        return np.frombuffer(body, dtype=self.dtype)

    def _mapped(self, first: int, count: int) -> np.ndarray:
        path = storage.local_path(self.url)
        try:
            rows = np.memmap(path, dtype=self.dtype, mode="r", offset=first, shape=(count,))
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error.strerror}") from error
        except ValueError:  # the map is longer than the file
            raise InputChanged(f"{self.url} became shorter while it was read") from None
        return rows.view(np.ndarray)


def array_file(url: str) -> RowFile:
    """A one-dimensional `.npy` file, of which only the header is read.

    Raises:
        StorageError: It is no such array, or holds fewer rows than its header says.
    """
    with storage.opened(url) as handle:
        try:
            shape, dtype = _header(handle)
        except ValueError as error:
            raise StorageError(f"{url} is not an array: {error}") from None
        offset = handle.tell()
    if len(shape) != 1:
        raise StorageError(f"{url} holds {dtype} of shape {shape}, not a list of rows")
    rows = (storage.entry(url).bytes - offset) // max(1, dtype.itemsize)
    if rows < shape[0]:
        raise StorageError(
            f"{url} is truncated: its header promises {shape[0]:,} rows, it holds {rows:,}; "
            "fetch or make it again"
        )
    return RowFile(url, dtype, shape[0], offset)


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a `.npy` file; ValueError where it is none."""
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    start = handle.tell()
    try:
        shape, _, dtype = read(handle)
    except SystemError:  # CPython gh-106905, see `storage`
        handle.seek(start)
        shape, _, dtype = read(handle)
    return shape, dtype


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one file."""

    file: RowFile
    start: int  # number of the first row
    rows: np.ndarray
    before: np.ndarray  # [0 or 1] the row ahead of them

    def check(self) -> None:
        """Raise NotSorted where a row belongs before the one ahead of it."""
        if len(self.before) and len(self.rows):
            edge = np.concatenate([self.before, self.rows[:1]])
            if first_unsorted(edge) is not None:
                raise NotSorted(self.file.url, self.start, edge)
        row = first_unsorted(self.rows)
        if row is not None:
            raise NotSorted(self.file.url, self.start + row, self.rows[row - 1 : row + 1])


def first_unsorted(rows: np.ndarray) -> int | None:
    """The first of [N] rows that belongs before the one ahead of it."""
    f0, f1 = rows["f0"], rows["f1"]
    close = np.flatnonzero(f0[1:] <= f0[:-1])  # few, where most uids are different
    wrong = (f0[close + 1] < f0[close]) | (f1[close + 1] < f1[close])
    return int(close[wrong.argmax()]) + 1 if wrong.any() else None


def uids_of(pieces: Sequence[Piece]) -> np.ndarray:
    """[N] UID of all pieces, one behind the other."""
    whole = np.empty(sum(len(piece.rows) for piece in pieces), dtype="V16")
    stop = 0
    for piece in pieces:
        start, stop = stop, stop + len(piece.rows)
        # In one piece each: numpy copies structured rows field by field.
        layout = np.dtype([("uid", "V16"), ("rest", f"V{piece.rows.itemsize - 16}")])
        np.copyto(whole[start:stop], piece.rows.view(layout)["uid"])
    return whole.view(UID)


@dataclass
class _Reader:
    """A file read from front to back, `step` rows in memory."""

    file: RowFile
    step: int
    start: int = 0
    block: np.ndarray = field(init=False)
    before: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.block = self.before = np.empty(0, dtype=self.file.dtype)

    @property
    def ends(self) -> bool:
        """Whether the block reaches the end of the file."""
        return self.start + len(self.block) == self.file.rows

    def fill(self) -> None:
        """Have `step` rows, where less than half of them are left."""
        if self.ends or len(self.block) > self.step // 2:
            return
        stop = min(self.start + self.step, self.file.rows)
        if storage.is_local(self.file.url):
            self.block = self.file.read(self.start, stop)  # mapped anew: nothing is copied
        else:
            more = self.file.read(self.start + len(self.block), stop)
            self.block = np.concatenate([self.block, more])

    def grow(self) -> None:
        """Have more rows: those in memory are nothing but copies of one uid."""
        self.step *= 2
        if self.step > 2 * MOST_COPIES:
            raise StorageError(
                f"{self.file.url} repeats uid {format_uids(self.block[:1])[0]} from row "
                f"{self.start:,} on more than {MOST_COPIES:,} times: is it damaged?"
            )

    def take(self, count: int) -> Piece:
        """The next rows."""
        piece = Piece(self.file, self.start, self.block[:count], self.before)
        if count:
            self.before = self.block[count - 1 : count].copy()
        self.start += count
        self.block = self.block[count:]
        return piece

    def below(self, uid: tuple[int, int]) -> int:
        """How many rows of the block have a smaller uid."""
        f0, f1 = self.block["f0"], self.block["f1"]
        low = bisect_left(f0, uid[0])  # numpy's own copies rows of an odd width first
        return bisect_left(f1, uid[1], low, bisect_right(f0, uid[0], low))

    def last(self) -> tuple[int, int]:
        """The uid of the last row in memory."""
        return int(self.block["f0"][-1]), int(self.block["f1"][-1])


def aligned(files: Sequence[RowFile]) -> Iterator[list[Piece]]:
    """Sorted files side by side by ascending uid: in each chunk, one piece of each file.

    All rows of one uid are in one chunk, which has about CHUNK rows, or as many as one uid has.
    The pieces are not checked for order: `Piece.check` does that, in the thread that works on it.

    Raises:
        StorageError: A uid has more than MOST_COPIES copies in one file, which is then damaged.
    """
    readers = [_Reader(file, max(LEAST, CHUNK // len(files))) for file in files]
    while any(reader.start < reader.file.rows for reader in readers):
        for reader in readers:
            reader.fill()
        limited = [reader for reader in readers if not reader.ends]
        if not limited:
            yield [reader.take(len(reader.block)) for reader in readers]
            return
        horizon = min(reader.last() for reader in limited)
        counts = [reader.below(horizon) for reader in readers]
        if any(counts):
            yield [reader.take(count) for reader, count in zip(readers, counts, strict=True)]
            continue
        for reader in limited:
            if reader.last() == horizon and first_unsorted(reader.block) is None:
                reader.grow()
            elif reader.last() == horizon:
                yield [reader.take(len(reader.block))]  # whose check names the row, in its turn


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `work` makes of each item, in order, by as many threads as there are processors."""
    threads = min(_THREADS, os.cpu_count() or 1)
    # Having seen such a block freed, glibc keeps freed memory up to twice its size for what comes
    # next, where else it returns it and has the kernel clear it anew: 40 % of the time.
    np.empty(_KEPT, dtype=np.uint8)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write_header(handle: IO[bytes], rows: int) -> None:
    """The header that `np.save` writes before so many uids; its length is the same for any."""
    header = {
        "descr": np.lib.format.dtype_to_descr(UID),
        "fortran_order": False,
        "shape": (rows,),
    }
    np.lib.format.write_array_header_1_0(handle, header)
