"""Subset files of any size as others make them: opened without being read, and written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np

from curate import storage
from curate.errors import ConfigError, StorageError
from curate.sample import UID, parse_uids
from curate.subsets import subset
from curate.subsets.sorted_files import (
    Piece,
    RowFile,
    aligned,
    array_file,
    in_order,
    uids_of,
    write_header,
)

BATCH = 1 << 22  # uids of a list, or of an unsorted file, that are sorted at once: 64 MB
_LINES = 1 << 18  # lines of a text that are parsed at once

Form = Literal["npy", "raw", "text", "csv", "parquet"]
Written = Literal["npy", "text"]

_TEXT = re.compile(rb"\s*[0-9a-fA-F]{32}\s*(\n|$)")


@dataclass(frozen=True)
class Sequential:
    """What is written to a file: parts of sorted uids, made again each time they are asked for."""

    parts: Callable[[], Iterable[np.ndarray]]
    rows: Callable[[], int]  # how many there will be, where that must be known ahead


def form_of(url: str) -> Form:
    """What kind of file it is, by its first bytes, then by the end of its name."""
    with storage.opened(url) as handle:
        head = handle.read(64)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    named: dict[str, Form] = {"txt": "text", "csv": "csv"}
    end = url.rpartition(".")[2].lower()
    if end in named:
        return named[end]
    return "text" if _TEXT.match(head) else "raw"


def open_subset(url: str) -> RowFile:
    """A subset file, of which only the header is read; whether it is sorted is seen when it is.

    Read are DataComp's and DFN's `u8,u8` .npy, and the bare rows that DataComp's resharder maps
    (16 bytes each, upper and lower 64 bits, little-endian, without a header).

    Raises:
        StorageError: It is none of these, or it is truncated.
    """
    if form_of(url) != "npy":
        return _bare(url)
    file = array_file(url)
    if file.dtype != UID:
        raise StorageError(
            f"{url} holds {_dtype_text(file.dtype)}; a subset is `u8,u8`: fields f0 and f1, "
            "little-endian, the upper and the lower 64 bits of each uid"
        )
    return file


def _dtype_text(dtype: np.dtype[Any]) -> str:
    return str(dtype.descr) if dtype.names else dtype.str


def _bare(url: str) -> RowFile:
    size = storage.entry(url).bytes
    if not size:
        raise StorageError(f"{url} has 0 bytes; an empty subset is an .npy file of 0 rows")
    if size % UID.itemsize:
        raise StorageError(
            f"{url} is not a subset: it has no .npy header, and its {size:,} bytes are no whole "
            f"number of rows of {UID.itemsize}"
        )
    return RowFile(url, UID, size // UID.itemsize, 0)


@contextmanager
def opened(urls: Sequence[str], column: str = "uid") -> Iterator[list[RowFile]]:
    """Subset files; lists of uids (text, csv, parquet) are sorted into a scratch file first."""
    with ExitStack() as stack:
        files = []
        for url in urls:
            form = form_of(url)
            if form in ("npy", "raw"):
                files.append(open_subset(url))
                continue
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="curate-"))
            target = storage.join(scratch, "sorted.npy")
            sort_batches(listed(url, form, column), target)
            files.append(array_file(target))
        yield files


def listed(url: str, form: Form, column: str = "uid") -> Iterator[np.ndarray]:
    """[N] UID after [N] UID of a list of uids in hex, in the order of the file."""
    # Blank lines of a text are no rows; in a table, nothing is left out without a word.
    pattern = re.compile("|[0-9a-fA-F]{1,32}" if form == "text" else "[0-9a-fA-F]{1,32}")
    with storage.opened(url) as handle:
        batches = _lines(handle) if form == "text" else _rows(url, handle, form, column)
        for first, texts in batches:
            try:
                yield parse_uids(texts if form != "text" else [text for text in texts if text])
            except (ValueError, AttributeError):
                wrong = (not isinstance(text, str) or not pattern.fullmatch(text) for text in texts)
                row = list(wrong).index(True)
                raise ConfigError(
                    f"{url}, {'line' if form == 'text' else 'row'} {first + row}: {texts[row]!r} "
                    "is not a uid of 1 to 32 hexadecimal digits"
                ) from None


def _lines(handle: IO[bytes]) -> Iterator[tuple[int, Sequence[Any]]]:
    """(number of the first line, from 1; lines) after (number, lines)."""
    first = 1
    while lines := handle.readlines(_LINES * 33):
        yield first, [line.strip().decode("utf-8", "replace") for line in lines]
        first += len(lines)


def _rows(
    url: str, handle: IO[bytes], form: Form, column: str
) -> Iterator[tuple[int, Sequence[Any]]]:
    """(number of the first row, from 0; values) after (number, values)."""
    first = 0
    for batch in _table(url, handle, form, column):
        yield first, batch.column(0).to_pylist()
        first += batch.num_rows


def _table(url: str, handle: IO[bytes], form: Form, column: str) -> Iterator[Any]:
    """Record batches of one column of text."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if form == "parquet":
            file = parquet.ParquetFile(handle)
            if column not in file.schema_arrow.names:
                raise KeyError(f"it has no column {column!r}, but {file.schema_arrow.names}")
            yield from file.iter_batches(batch_size=_LINES, columns=[column])
        else:
            texts = csv.ConvertOptions(include_columns=[column], column_types={column: "string"})
            yield from csv.open_csv(handle, convert_options=texts)
    except KeyError as error:  # pyarrow's as well, for a column that a csv file has not
        raise ConfigError(f"{url}: {error.args[0]}; name the column with --column") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"{url} cannot be read: {error}") from None


def hex_lines(uids: np.ndarray) -> bytes:
    """One line of 32 lower-case hex digits for each of [N] UID."""
    raw = np.stack([uids["f0"], uids["f1"]], axis=1).astype(">u8").tobytes().hex().encode()
    lines = np.empty((len(uids), 33), dtype=np.uint8)  # [N, 33]
    lines[:, :32] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32)
    lines[:, 32] = ord("\n")
    return lines.tobytes()


def write(url: str, content: Sequential, form: Written = "npy") -> int:
    """Write sorted uids all or nothing, with the header of `np.save` or as text; gives the rows.

    That header holds the number of rows: where nothing can be written in front afterwards (an
    object store), the rows are counted first, and made a second time.
    """
    with storage.committing(url) as handle:
        if form == "text":
            return sum(_put(handle, part, hex_lines(part)) for part in content.parts())
        seekable = handle.seekable()
        expected = 0 if seekable else content.rows()
        write_header(handle, expected)
        rows = sum(_put(handle, part, part.view(np.uint8).data) for part in content.parts())
        if seekable:
            handle.seek(0)
            write_header(handle, rows)
        elif rows != expected:
            raise StorageError(f"{url}: what it is made from changed while it was written")
    return rows


def _put(handle: IO[bytes], part: np.ndarray, data: Any) -> int:
    handle.write(data)
    return len(part)


def sort_listed(url: str, out: str, column: str = "uid", form: Written = "npy") -> int:
    """Write the rows of a subset file or a list of uids in ascending order; gives their number."""
    found = form_of(url)
    if found not in ("npy", "raw"):
        return sort_batches(listed(url, found, column), out, form)
    file = open_subset(url)
    starts = range(0, file.rows, BATCH)
    batches = (file.read(start, min(start + BATCH, file.rows)) for start in starts)
    return sort_batches(batches, out, form)


def sort_batches(batches: Iterable[np.ndarray], url: str, form: Written = "npy") -> int:
    """Write [N] UID after [N] UID as one sorted subset: runs on disk, then merged.

    The runs lie in a folder beside the file, or in the system's temporary one for a URL.
    """
    beside = None
    if storage.is_local(url):
        beside = storage.local_path(url).absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".curate-sort-", dir=beside) as scratch:
        runs: list[str] = []
        for uids in in_order(subset.sort, batches):
            runs.append(storage.join(scratch, f"{len(runs):06d}.npy"))
            subset.save(runs[-1], uids)
        files = [array_file(run) for run in runs]

        def parts() -> Iterator[np.ndarray]:
            return in_order(_merged, aligned(files))

        return write(url, Sequential(parts, lambda: sum(file.rows for file in files)), form)


def _merged(pieces: Sequence[Piece]) -> np.ndarray:
    uids = uids_of(pieces)
    order, _ = subset.ranked(uids, len(pieces))
    return subset.gather(uids, order)
