"""The tar format: members found by their headers alone, and written the same way every time."""

from __future__ import annotations

import mmap
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

from curate.errors import CurateError, StorageError
from curate.storage import file_system

BLOCK = 512  # bytes: headers take one, bodies are padded to whole ones
_ZEROS = bytes(BLOCK)
_RECORD = 20 * BLOCK  # archives end on a whole record, as tar and tarfile write them
_PIECE = 8 << 20  # bytes asked of an object store in one request
_GAP = 256 << 10  # bytes: reading so many more costs less than another request
_TOGETHER = 4 * _PIECE  # bytes that several requests at once may bring, a gap counted for each
_LONGEST_EXTRA = 1 << 20  # bytes of a long name or pax header; a longer one is a lie
_LONGEST_SIZE = 19  # digits
_REGULAR = frozenset((b"0", b"\0", b"7"))
_EXTRA = frozenset((b"x", b"X", b"g", b"L", b"K"))  # pax headers, GNU long names and link targets
_BODILESS = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # links, devices, directories, pipes
_SPARSE = "sparse members are not read: pack the files again without --sparse"


class DamagedTar(CurateError):
    """A file that is no tar, or whose headers or members make no sense."""


Member = tuple[str, int, int]  # name, offset of the body within the tar, bytes


class Source(Protocol):
    """The bytes of a tar; `size` is known once its end was reached."""

    url: str
    size: int

    def header(self, offset: int) -> bytes:
        """The block at `offset`; less of one at the end of the file."""

    def read(self, offset: int, size: int) -> memoryview:
        """`size` bytes from `offset` on; fewer at the end of the file."""


class Mapped:
    """A local file in memory as the kernel has it: nothing is read that nobody looks at."""

    def __init__(self, url: str, handle: IO[bytes]) -> None:
        self.url = url
        self.size = os.fstat(handle.fileno()).st_size
        whole: mmap.mmap | bytes = b""  # an empty file cannot be mapped
        if self.size:
            whole = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(whole)  # keeps the map open for as long as any part of it is used
        self._file = handle.fileno()

    def header(self, offset: int) -> bytes:
        if offset >= self.size:
            return b""
        return os.pread(self._file, BLOCK, offset)  # a third of the time of a page fault

    def read(self, offset: int, size: int) -> memoryview:
        return self._view[offset : offset + size]


class Streamed:
    """A file read once from front to back; `read` never goes back."""

    def __init__(self, url: str, handle: IO[bytes]) -> None:
        self.url = url
        self.size = 0  # bytes read so far
        self._handle = handle
        self._piece = memoryview(b"")

    def header(self, offset: int) -> bytes:
        return bytes(self.read(offset, BLOCK))

    def read(self, offset: int, size: int) -> memoryview:
        while offset >= self.size and self._next():
            pass
        start = offset - (self.size - len(self._piece))
        parts = [self._piece[start : start + size]]
        missing = size - len(parts[0])
        while missing and self._next():
            parts.append(self._piece[:missing])
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _next(self) -> bool:
        try:
            piece = self._handle.read(_PIECE)
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error}") from error
        if piece:
            self._piece = memoryview(piece)
            self.size += len(piece)
        return bool(piece)


class Ranged:
    """Parts of an object, joined where they lie close and asked for several at a time.

    `read` never goes back, and is given a part, or a piece of one, of the `spans` (start, stop).
    """

    def __init__(self, url: str, spans: Iterable[tuple[int, int]]) -> None:
        self.url = url
        self.size = 0  # byte up to which parts were asked for
        self._waiting = deque(_joined(spans))
        self._parts: deque[tuple[int, memoryview]] = deque()  # (offset, bytes)

    def header(self, offset: int) -> bytes:
        return bytes(self.read(offset, BLOCK))

    def read(self, offset: int, size: int) -> memoryview:
        while offset + size > self.size:  # an empty body may lie right behind the last part
            self._ask()
        while len(self._parts) > 1 and self._parts[1][0] <= offset:
            self._parts.popleft()
        start, part = self._parts[0]
        return part[offset - start : offset - start + size]

    def _ask(self) -> None:
        spans: list[tuple[int, int]] = []
        total = 0
        while self._waiting and (not spans or total < _TOGETHER):
            spans.append(self._waiting.popleft())
            total += spans[-1][1] - spans[-1][0] + _GAP
        system, path = file_system(self.url)
        starts, stops = zip(*spans, strict=True)
        try:
            parts = system.cat_ranges(
                [path] * len(spans), list(starts), list(stops), on_error="raise"
            )
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error}") from error
        self._parts = deque(
            (start, memoryview(part)) for start, part in zip(starts, parts, strict=True)
        )
        self.size = stops[-1]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Fewer spans that cover the same bytes: what is between two is read too where it is little."""
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if joined and start - joined[-1][1] <= _GAP and stop - joined[-1][0] <= _PIECE:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


class Members(Iterator[Member]):
    """(name, offset of the body, bytes) of the regular members of a tar, in order.

    Once all were given, `truncated` says whether the archive has no end marker (it was cut, or its
    writer was killed), and `end` is the byte where that marker or the file's end is. The last
    member of a truncated archive may reach beyond `source.size`. What follows an end marker is
    read on where it is an archive again (`cat a.tar b.tar`); other tools stop without a word.

    Raises:
        DamagedTar: not a tar, a damaged header, or a sparse member.
    """

    def __init__(self, source: Source) -> None:
        self.truncated = False
        self.end = 0
        self._source = source
        self._next = 0  # offset of the next header
        self._own: dict[str, str] = {}  # pax records and the long name of the next member
        self._shared: dict[str, str] = {}  # pax records of all members that follow
        self._walk = self._regular()

    def __iter__(self) -> Iterator[Member]:
        return self._walk  # a generator is faster than `__next__` here

    def __next__(self) -> Member:
        return next(self._walk)

    def _regular(self) -> Iterator[Member]:
        for position, header, size in self._headers():
            kind, name = header[156:157], _name(header)
            if kind in _EXTRA:
                self._next = position + BLOCK + _padded(size)
                self._take_extra(kind, position, size)
                continue
            if self._own or self._shared:
                name, size = self._overridden(name, size, position)
            if kind == b"S":
                raise self._damaged(position, _SPARSE)
            if kind in _BODILESS or (kind == b"\0" and name.endswith("/")):
                self._next = position + BLOCK
                continue
            self._next = position + BLOCK + _padded(size)
            if kind in _REGULAR:
                yield name, position + BLOCK, size

    def _headers(self) -> Iterator[tuple[int, bytes, int]]:
        """(offset, header, size) of each valid header; the consumer sets `_next`."""
        ended = True  # nothing at all is an archive without members
        header_at = self._source.header
        while True:
            position = self._next
            header = header_at(position)
            size = _declared_size(header)
            if size is not None:
                ended = False
                yield position, header, size
            elif header == _ZEROS:
                self.end = self.end if ended else position
                ended, self._next = True, position + BLOCK
            elif len(header) == BLOCK and (not ended or position == 0):
                raise self._damaged(position, _what_is_it(header))
            else:
                break
        self.truncated = not ended or (position == 0 and len(header) > 0)
        if self.truncated:
            self.end = self._source.size

    def _take_extra(self, kind: bytes, position: int, size: int) -> None:
        if size > _LONGEST_EXTRA:
            raise self._damaged(position, f"a name or attribute of {size} bytes")
        body = bytes(self._source.read(position + BLOCK, size))
        if len(body) < size or kind == b"K":
            return  # cut here, or the target of a link
        if kind == b"L":
            self._own["path"] = _text(body)
            return
        try:
            records = _pax_records(body)
        except ValueError:
            raise self._damaged(position, "a malformed pax header") from None
        (self._shared if kind == b"g" else self._own).update(records)

    def _overridden(self, name: str, size: int, position: int) -> tuple[str, int]:
        records = {**self._shared, **self._own}
        self._own = {}
        if any(key.startswith("GNU.sparse.") for key in records):
            raise self._damaged(position, _SPARSE)
        given = records.get("size")  # an empty value takes an earlier one back
        if given:
            if not given.isdecimal() or len(given) > _LONGEST_SIZE:
                raise self._damaged(position, f"a size of {given[:20]!r}")
            size = int(given)
        return records.get("path") or name, size

    def _damaged(self, position: int, what: str) -> DamagedTar:
        return DamagedTar(f"{self._source.url}: {what} at byte {position}")


def declares(header: bytes, size: int) -> bool:
    """Whether a block is the header of a member of so many bytes."""
    return _declared_size(header) in (size, 0)  # 0: the size is in a pax header


def _declared_size(header: bytes) -> int | None:
    """The size in a header; None if the block is no header, by its checksum or its size."""
    if len(header) < BLOCK:
        return None
    # The lower half of Adler-32 is 1 + the sum of the bytes modulo 65,521: as telling as the sum,
    # and ten times as fast. The checksum's own field counts as eight blanks.
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * ord(" ")
    try:
        stored = _number(header[148:156])
        if (stored - total) % 65521 != 0 and stored != _signed_sum(header):
            return None
        return _number(header[124:136])
    except ValueError:
        return None


def _signed_sum(header: bytes) -> int:
    """The checksum as some old tars wrote it: bytes above 127 count as negative."""
    blank = header[:148] + b" " * 8 + header[156:]
    return sum(blank) - 256 * sum(byte > 127 for byte in blank)


def _number(field: bytes) -> int:
    """A number field: octal text, or base 256 where the first byte is 128.

    Raises:
        ValueError: it is neither, or negative.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    value = int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    if value < 0:
        raise ValueError(value)
    return value


def _name(header: bytes) -> str:
    name = header[:100]
    if header[345] and header[257:263] == b"ustar\0":  # GNU's "ustar  " keeps times there
        return f"{_text(header[345:500])}/{_text(name)}"
    return _text(name)


def _text(field: bytes) -> str:
    """Names are UTF-8; other bytes are kept as `\\xff`, so that different names stay different."""
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _pax_records(body: bytes) -> dict[str, str]:
    """Records of the form `length key=value`, newline at the end of each."""
    records = {}
    start = 0
    while start < len(body):
        blank = body.index(b" ", start)
        stop = start + int(body[start:blank])
        key, equals, value = body[blank + 1 : stop - 1].partition(b"=")
        if stop <= blank or not equals or body[stop - 1 : stop] != b"\n":
            raise ValueError(start)
        records[_text(key)] = _text(value)
        start = stop
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _what_is_it(header: bytes) -> str:
    if header.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "compressed data where a tar header should be; unpack it first"
    return "no valid tar header"


def write_members(handle: IO[bytes], members: Iterable[tuple[str, bytes | memoryview]]) -> int:
    """Write a whole archive of (name, body) and return its bytes.

    The same members give the same bytes: owner 0, time 0, mode 0644, and nothing of this machine.
    Bodies go to the handle as they are, not through a copy.
    """
    total = 0
    for name, body in members:
        size = len(body)
        header = member_header(name, size)
        padding = -size % BLOCK
        handle.write(header)
        handle.write(body)
        handle.write(_ZEROS[:padding])
        total += len(header) + size + padding
    ending = end_of_archive(total)
    handle.write(ending)
    return total + len(ending)


def end_of_archive(total: int) -> bytes:
    """What follows so many bytes of members: two blocks of zeros, up to a whole record."""
    return bytes(2 * BLOCK + -(total + 2 * BLOCK) % _RECORD)


def member_header(name: str, size: int) -> bytes:
    """The header of a regular file; a pax header comes first where ustar cannot say the name."""
    encoded = name.encode("utf-8")
    if b"\0" in encoded or not encoded:
        raise ValueError(f"{name!r} cannot be the name of a tar member")
    if len(encoded) <= 100 and name.isascii():
        return _ustar(encoded, size, b"0")
    record = _pax_record(b"path", encoded)
    ascii_name = name.encode("ascii", "replace")[:100]
    extra = _ustar(b"PaxHeader", len(record), b"x") + record + bytes(-len(record) % BLOCK)
    return extra + _ustar(ascii_name, size, b"0")


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`length key=value`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2  # mode, owner, group
_AFTER_SIZE = b"0" * 11 + b"\0"  # time
_AFTER_KIND = bytes(100) + b"ustar\x0000" + bytes(247)  # no link, no owner's name, no prefix
_CONSTANT_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_AFTER_KIND)


def _ustar(name: bytes, size: int, kind: bytes) -> bytes:
    digits = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    checksum = _CONSTANT_SUM + sum(name) + sum(digits) + kind[0]
    fields = (_BEFORE_SIZE, digits, _AFTER_SIZE, b"%06o\0 " % checksum, kind, _AFTER_KIND)
    return name.ljust(100, b"\0") + b"".join(fields)
