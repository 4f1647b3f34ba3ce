"""Parquet files: read in part, wherever they are, and committed whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any, Literal, cast

import polars as pl

from curate import storage
from curate.errors import ConfigError, first_line

Compression = Literal["zstd", "uncompressed"]


def write_parquet(
    url: str,
    frame: pl.DataFrame,
    compression: Compression = "zstd",
    note: tuple[str, str] | None = None,
) -> None:
    """Commit a frame: the same frame gives the same bytes.

    Args:
        url: Where.
        frame: What.
        compression: `uncompressed` for columns of random bits, which nothing makes smaller.
        note: (name, text) to keep in the file's footer.
    """
    if storage.is_local(url):
        with storage.committing(url) as handle:
            sink = _Sink(handle)
            try:
                _encode(frame, sink, compression, note)
            except pl.exceptions.PolarsError:
                if sink.failure is not None:
                    raise sink.failure from None
                raise
        return
    buffer = io.BytesIO()  # an object is put in one request
    _encode(frame, buffer, compression, note)
    storage.commit(url, buffer.getbuffer())


def _encode(
    frame: pl.DataFrame, sink: io.IOBase, compression: Compression, note: tuple[str, str] | None
) -> None:
    frame.write_parquet(
        cast(IO[bytes], sink),
        compression=compression,
        compression_level=1 if compression == "zstd" else None,
        statistics=False,  # nobody asks for them, and they take a fifth of the time
        row_group_size=131_072,
        metadata=None if note is None else dict([note]),
    )


class _Sink(io.RawIOBase):
    """A file as polars writes it. A failure is kept: polars would make one of its own of it."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.failure: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._handle.write(data)
        except BaseException as error:
            self.failure = error
            raise


def scan_parquet(url: str) -> pl.LazyFrame:
    """A local parquet file of which some will be read; StorageError where there is none."""
    path = storage.local_path(url)
    if not path.exists():
        storage.entry(url)  # raises the error that names it
    return pl.scan_parquet(path, glob=False)


def read_parquet(url: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A frame, or some columns of it; StorageError where the file cannot be read."""
    if storage.is_local(url):
        path = storage.local_path(url)
        if not path.exists():
            storage.entry(url)  # raises the error that names it
        return pl.read_parquet(path, columns=columns, glob=False)
    with storage.opened(url) as handle:
        return pl.read_parquet(handle, columns=columns)


def read_note(url: str, name: str) -> tuple[list[str], str]:
    """(names of the columns, the note of that name) of a file that `write_parquet` wrote."""
    place: Any = storage.local_path(url) if storage.is_local(url) else io.BytesIO(storage.read(url))
    if storage.is_local(url):
        storage.entry(url)  # raises the error that names it
    names = list(pl.read_parquet_schema(place))
    return names, pl.read_parquet_metadata(place)[name]


def head(url: str) -> tuple[dict[str, Any], int]:
    """({column: dtype}, rows) of a parquet file, from its footer; ConfigError where it is none."""
    try:
        if storage.is_local(url):
            storage.entry(url)
            lazy = pl.scan_parquet(storage.local_path(url), glob=False)
            return dict(lazy.collect_schema()), int(lazy.select(pl.len()).collect().item())
        with storage.opened(url) as handle:
            import pyarrow.parquet as pq

            file = pq.ParquetFile(handle)
            frame = pl.from_arrow(file.schema_arrow.empty_table())
            assert isinstance(frame, pl.DataFrame), url
            return dict(frame.schema), int(file.metadata.num_rows)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _damaged(url, error) from None


def read_slice(url: str, columns: Sequence[str], first: int, rows: int) -> pl.DataFrame:
    """Some [rows] of some columns; only the row groups that hold them are read."""
    try:
        if storage.is_local(url):
            return scan_parquet(url).select(columns).slice(first, rows).collect()
        return _ranged(url, columns, first, rows)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _damaged(url, error) from None


def _damaged(url: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{url} cannot be read as parquet: {first_line(error)}; fetch the file again"
    )


def _ranged(url: str, columns: Sequence[str], first: int, rows: int) -> pl.DataFrame:
    """A slice of a file in an object store: pyarrow asks for the byte ranges it needs."""
    import pyarrow.parquet as pq  # 0.2 s, and most files are local

    with storage.opened(url) as handle:
        file = pq.ParquetFile(handle, pre_buffer=True)
        groups, start, skipped = [], 0, 0
        for number in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(number).num_rows
            if stop <= first:
                skipped = stop
            elif start < first + rows:
                groups.append(number)
            start = stop
        frame = pl.from_arrow(file.read_row_groups(groups, columns=list(columns)))
        assert isinstance(frame, pl.DataFrame), url
        return frame.select(columns)[first - skipped : first - skipped + rows]
