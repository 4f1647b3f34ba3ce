"""Run img2dataset's `Downloader` over rows of a shard, our parts in place of its unsafe ones.

Its own: the loop, requests, opt-outs, hashes. Ours, put into a private copy of its module: the
opener (`fetch.py`), the resizer (`resize.py`), which failures are tried again, the threads, and the
sample writer.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Literal

from curate import storage
from curate.downloads import fetch
from curate.downloads.resize import Resize, private_copy
from curate.errors import StorageError

if TYPE_CHECKING:
    import polars as pl

    from curate.downloads.download import Download

Status = Literal["success", "failed_to_download", "failed_to_resize"]
MEASURED = ("width", "height", "original_width", "original_height")

_LOG = logging.getLogger(__name__)
_IMG2DATASET_KINDS = {  # its messages for what it decides itself
    "Use of image disallowed by X-Robots-Tag directive": "opted_out",
    "hash mismatch": "hash_mismatch",
}
_KIND = re.compile(r"([a-z_0-9]+): ")
_SCRATCH = "curate-download-"


@dataclass(frozen=True)
class Outcome:
    """What became of one row, and where its picture lies in the spool."""

    row: int
    status: Status
    error: str | None = None
    error_message: str | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    sha256: str | None = None
    offset: int | None = None
    size: int | None = None
    extension: str | None = None


@dataclass(frozen=True)
class Gathered:
    """What became of rows: `outcomes` lacks those that img2dataset lost."""

    outcomes: dict[int, Outcome]
    start_time: float  # seconds since 1970, as in img2dataset's stats
    end_time: float


class _Stop(BaseException):
    """Leaves img2dataset's loop, which would take any Exception for a broken sample."""


class _Spool:
    """The sample writer given to img2dataset: keeps pictures as they come, in any order."""

    def __init__(self, file: IO[bytes]) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self._file = file
        self._size = 0

    def write(
        self, body: bytes | None, _key: str, _caption: str | None, meta: dict[str, Any]
    ) -> None:
        """Take one sample, whatever became of it."""
        row = meta["row"]
        if body is None:
            message = meta["error_message"] or ""
            kind = _kind(message, meta["status"])
            self.outcomes[row] = Outcome(row, meta["status"], kind, message)
            return
        try:
            self._file.write(body)
        except OSError as error:
            raise _Stop(f"{tempfile.gettempdir()} cannot be written: {error.strerror}") from error
        self.outcomes[row] = Outcome(
            row,
            meta["status"],
            **{name: meta[name] for name in MEASURED},
            sha256=meta["sha256"],
            offset=self._size,
            size=len(body),
            extension=_extension(body),
        )
        self._size += len(body)

    def close(self) -> None:
        """Nothing to do: the file belongs to the caller."""


def _kind(message: str, status: Status) -> str:
    """The class of an error: a closed set, whatever strangers put in the message."""
    known = _IMG2DATASET_KINDS.get(message)
    if known is not None:
        return known
    found = _KIND.match(message)
    kind = found[1] if found else ""
    if status == "failed_to_resize":
        return kind  # every message there comes from resize.py
    is_ours = kind in fetch.KINDS or re.fullmatch(r"http_\d{3}", kind)
    return kind if is_ours else "download_error"


def _extension(body: bytes) -> str:
    if body.startswith(b"\x89PNG"):
        return "png"
    return "webp" if body.startswith(b"RIFF") else "jpg"


def gather(spec: Download, rows: pl.DataFrame, file: IO[bytes], threads: int) -> Gathered:
    """Fetch the pictures of rows with a URL; their bytes go to the end of `file`, in any order.

    Args:
        spec: The step.
        rows: `row`, `url` and, where `spec.verify_sha256`, `sha256`; none is null.
        file: Where pictures wait, so that memory holds no more than twice `threads` of them.
        threads: How many URLs are asked at a time.
    """
    import polars as pl

    spool = _Spool(file)
    columns = ["row", "url", *(["sha256"] if spec.verify_sha256 else [])]
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch:
        feather = Path(scratch) / "rows.feather"
        chosen = rows.select(columns)
        if spec.verify_sha256:
            chosen = chosen.with_columns(pl.col("sha256").str.to_lowercase())
        chosen.write_ipc(feather, compat_level=pl.CompatLevel.oldest())
        downloader = _downloader(spec)(
            sample_writer_class=lambda *_: spool,
            resizer=Resize(spec),
            thread_count=threads,
            save_caption=False,
            extract_exif=False,
            output_folder=scratch,
            column_list=columns,
            timeout=spec.timeout_s,
            number_sample_per_shard=max(2, rows.height),
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type="sha256" if spec.verify_sha256 else None,
            encode_format="jpg",
            retries=spec.retries,
            user_agent_token=spec.user_agent_token,
            disallowed_header_directives=spec.disallowed_header_directives or None,
        )
        try:
            downloader.download_shard((0, str(feather)))
        except _Stop as stop:
            raise StorageError(f"{stop}; make room there, or set TMPDIR") from None
        stats = storage.read_json(str(Path(scratch) / "00000_stats.json"))
    return Gathered(spool.outcomes, stats["start_time"], stats["end_time"])


def _downloader(spec: Download) -> Any:
    """img2dataset's class, in a copy of its module where our parts stand in for unsafe ones."""
    copy = private_copy("downloader")
    limits = fetch.Limits(
        bytes=spec.bytes_per_image,
        seconds=spec.seconds_per_image,
        also_allowed=fetch.PRIVATE_NETWORKS if spec.allow_private_addresses else (),
    )
    opener = fetch.Opener(limits)
    copy.urllib = SimpleNamespace(
        request=SimpleNamespace(Request=fetch.Request, urlopen=opener.urlopen)
    )
    copy.download_image_with_retry = _retrying(copy.download_image)
    copy.ThreadPool = _Threads
    copy.print = _LOG.warning  # "Sample 7 failed to download: ..."
    copy.traceback = SimpleNamespace(print_exc=lambda: _LOG.warning("img2dataset", exc_info=True))
    return copy.Downloader


def _retrying(download_image: Callable[..., Any]) -> Callable[..., Any]:
    """img2dataset's retries, but none for a 404, a refusal or an opt-out."""

    def download_image_with_retry(row: Any, retries: int, **how: Any) -> Any:
        for _ in range(retries + 1):
            key, stream, message = download_image(row, **how)
            if stream is not None or not fetch.worth_retrying(_kind(message, "failed_to_download")):
                break
        return key, stream, message

    return download_image_with_retry


class _Threads:
    """The thread pool given to img2dataset: with its usual one an interrupt waits for ever."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._todo: SimpleQueue[Any] = SimpleQueue()
        self._done: SimpleQueue[Any] = SimpleQueue()

    def imap_unordered(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results as they come; at most twice as many items are under way as there are threads."""
        for _ in range(self._count):
            threading.Thread(target=self._serve, args=(work,), daemon=True).start()
        under_way = 0
        for item in items:
            self._todo.put((item,))
            under_way += 1
            if under_way == 2 * self._count:
                yield self._done.get()
                under_way -= 1
        for _ in range(under_way):
            yield self._done.get()

    def _serve(self, work: Callable[[Any], Any]) -> None:
        for (item,) in iter(self._todo.get, None):
            self._done.put(work(item))

    def terminate(self) -> None:
        """Forget what was not begun, and let the threads end."""
        try:
            while True:
                self._todo.get_nowait()
        except Empty:
            pass
        for _ in range(self._count):
            self._todo.put(None)

    def join(self) -> None:
        """Nobody waits: a thread still busy after an interrupt ends with its request."""

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
