"""Download the pictures of a shard's URLs through img2dataset, into its own layout."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate import storage
from curate.downloads.gather import MEASURED, Gathered, Outcome, gather
from curate.errors import InputChanged
from curate.shards.tar import write_members

if TYPE_CHECKING:
    import polars as pl

_MADE = ("key", "status", "error", "error_message", *MEASURED, "sha256")
_PLACE = ("_offset", "_size", "_extension")  # of a picture in the spool


class Download(BaseModel):
    """Fetch each sample's picture; a sample whose picture does not come is removed, saying why.

    A picture that need not change stays byte for byte. The others become JPEG, transparency laid
    on white, by img2dataset's resizer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    version: ClassVar[int] = 1
    outside_recipe: ClassVar[tuple[str, ...]] = ("timeout_s", "seconds_per_image", "retries")

    name: str = "download"
    image_size: int = Field(512, ge=1, description="pixels of the side that `resize_mode` fits")
    resize_mode: Literal["keep_ratio_largest", "keep_ratio", "center_crop", "border", "no"] = Field(
        "keep_ratio_largest", description="what img2dataset calls so; keep_ratio fits the shorter"
    )
    resize_only_if_bigger: bool = Field(
        default=True, description="smaller pictures keep their size"
    )
    encode_quality: int = Field(
        95, ge=1, le=100, description="of JPEG, where a picture must change"
    )
    timeout_s: float = Field(10, gt=0, description="seconds for one answer of a host")
    seconds_per_image: float = Field(
        30, gt=0, description="seconds for one attempt, redirects included"
    )
    bytes_per_image: int = Field(50_000_000, ge=1, description="most bytes of one file")
    # Pillow warns above the default, and opens nothing above the maximum.
    max_image_pixels: int = Field(
        89_478_485, ge=1, le=178_956_970, description="most pixels, read from the header"
    )
    min_image_size: int = Field(0, ge=0, description="fewest pixels of the shorter side")
    max_aspect_ratio: float | None = Field(
        None, ge=1, description="most that the longer side may be of the shorter"
    )
    keep_formats: tuple[Literal["jpeg", "png", "webp"], ...] = Field(
        ("jpeg", "png", "webp"),
        description="formats that stay as they came; `[jpeg]` gives shards of `.jpg` alone",
    )
    retries: int = Field(0, ge=0, le=10, description="further attempts at failures that may pass")
    user_agent_token: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]+$", description="names you to the hosts"
    )
    disallowed_header_directives: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that are honoured, as `opted_out`",
    )
    allow_private_addresses: bool = Field(
        default=False, description="also fetch from loopback and private networks"
    )
    verify_sha256: bool = Field(
        default=False,
        description="the column `sha256` must match; a row without one is not fetched",
    )

    def recipe(self) -> dict[str, Any]:
        """What the content depends on beyond the fields."""
        return {"img2dataset": version("img2dataset")}


@dataclass(frozen=True)
class Target:
    """Where a shard's pictures go, and how its files and keys are numbered."""

    folder: str  # URL
    shard: int
    part: int = 0  # 1 and up: what was fetched again
    rows_per_shard: int = 10_000
    shard_digits: int = 5  # at least; a larger shard number takes what it needs

    @property
    def stem(self) -> str:
        """The files' common name: `00042`, or `00042-r1` for the first part fetched again."""
        return f"{self.shard:0{self.shard_digits}d}" + (f"-r{self.part}" if self.part else "")

    def key(self, row: int) -> str:
        """The sample's key, as img2dataset numbers them.

        Raises:
            ValueError: the row does not fit in a shard of `rows_per_shard`.
        """
        digits = len(str(self.rows_per_shard - 1))
        if not 0 <= row < self.rows_per_shard:
            raise ValueError(f"row {row} of a shard of {self.rows_per_shard} rows")
        return f"{self.shard * 10**digits + row:0{digits + self.shard_digits}d}"


@dataclass(frozen=True)
class Counts:
    """What became of a part's rows."""

    rows: int
    successes: int
    failed_to_download: int
    failed_to_resize: int
    errors: Mapping[str, int]  # {error: rows}, of all that failed
    bytes: int  # of the tar

    def __post_init__(self) -> None:
        failed = self.failed_to_download + self.failed_to_resize
        assert self.rows == self.successes + failed, self
        assert failed == sum(self.errors.values()), self


def download_part(spec: Download, rows: pl.DataFrame, target: Target, threads: int) -> Counts:
    """Fetch the pictures of some rows of a shard; commits a tar, its stats, and a parquet last.

    Pictures wait for their turn in one unnamed file in the temporary folder (`TMPDIR`).

    Args:
        spec: The step.
        rows: `row` (unique, within the shard), `uid` (32 hex digits), `url`, perhaps `caption`
            (both may be null) and `sha256`; what else there is goes along.
        target: Where to, and under which numbers.
        threads: How many URLs are asked at a time.

    Raises:
        InputChanged: `verify_sha256` is asked for and the rows have no `sha256`.
        StorageError: the target or the temporary folder cannot be written.
    """
    import polars as pl

    if spec.verify_sha256 and "sha256" not in rows.columns:
        raise InputChanged("verify_sha256: the pool has no column `sha256`")
    rows = rows.sort("row")
    outcomes = {outcome.row: outcome for outcome in _not_asked(spec, rows)}
    with tempfile.TemporaryFile(prefix="curate-download-") as spool:
        asked = rows.filter(~pl.col("row").is_in(list(outcomes)))
        gathered = gather(spec, asked, spool, threads)
        table = _table(rows, {**outcomes, **gathered.outcomes}, target)
        return _write(table, spool, target, gathered)


def _not_asked(spec: Download, rows: pl.DataFrame) -> Iterator[Outcome]:
    """Rows that fail without a request."""
    for row in rows.filter(rows["url"].is_null())["row"]:
        yield Outcome(row, "failed_to_download", "no_url", "no_url: the row has none")
    if spec.verify_sha256:
        bare = rows.filter(rows["sha256"].is_null() & rows["url"].is_not_null())
        for row in bare["row"]:
            message = "no_sha256: verify_sha256 is asked for, and the row has none"
            yield Outcome(row, "failed_to_download", "no_sha256", message)


def _table(rows: pl.DataFrame, outcomes: Mapping[int, Outcome], target: Target) -> pl.DataFrame:
    """All rows with what became of them, and where their pictures lie in the spool."""
    import polars as pl

    text = dict.fromkeys(("status", "error", "error_message"), pl.String())
    measured = dict.fromkeys(MEASURED, pl.Int32())
    place = dict(zip(_PLACE, (pl.Int64(), pl.Int64(), pl.String()), strict=True))
    message = "downloader_error: img2dataset gave no result"
    lost = Outcome(0, "failed_to_resize", "downloader_error", message)
    found = [astuple(outcomes.get(row, lost))[1:] for row in rows["row"]]
    results = pl.DataFrame(
        found, schema={**text, **measured, "sha256": pl.String(), **place}, orient="row"
    )
    if "caption" not in rows.columns:
        rows = rows.with_columns(caption=pl.lit(None, pl.String))
    keys = pl.Series("key", [target.key(row) for row in rows["row"]], pl.String)
    first = ("row", "uid", "url", "caption")
    extra = [name for name in rows.columns if name not in {*_MADE, *first}]
    given = rows.select("row", keys, "uid", "url", "caption", *extra)
    return pl.concat([given, results], how="horizontal")


def _write(table: pl.DataFrame, spool: IO[bytes], target: Target, gathered: Gathered) -> Counts:
    """Commit the three files; the parquet last, for it is the proof of the others."""
    place = storage.join(target.folder, target.stem)
    kept = table.filter(table["status"] == "success")
    with storage.committing(f"{place}.tar") as handle:
        size = write_members(handle, _members(kept, spool))
    by_status = Counter(table["status"])
    errors = Counter(table["error"].drop_nulls())
    counts = Counts(
        rows=table.height,
        successes=by_status["success"],
        failed_to_download=by_status["failed_to_download"],
        failed_to_resize=by_status["failed_to_resize"],
        errors=dict(sorted(errors.items())),
        bytes=size,
    )
    storage.commit_json(f"{place}_stats.json", _stats(counts, gathered))
    columns = io.BytesIO()
    table.drop(_PLACE).write_parquet(columns)
    storage.commit(f"{place}.parquet", columns.getvalue())
    return counts


def _stats(counts: Counts, gathered: Gathered) -> dict[str, Any]:
    """The fields that img2dataset's readers expect."""
    success = {"success": counts.successes} if counts.successes else {}
    return {
        "count": counts.rows,
        "successes": counts.successes,
        "failed_to_download": counts.failed_to_download,
        "failed_to_resize": counts.failed_to_resize,
        "duration": gathered.end_time - gathered.start_time,
        "start_time": gathered.start_time,
        "end_time": gathered.end_time,
        "status_dict": {**success, **counts.errors},
    }


def _members(kept: pl.DataFrame, spool: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    hidden = ("row", "error", *_PLACE)
    names = [name for name in kept.columns if name not in hidden]
    places = kept.select(_PLACE).iter_rows()
    for meta, (offset, size, extension) in zip(
        kept.select(names).iter_rows(named=True), places, strict=True
    ):
        spool.seek(offset)
        key = meta["key"]
        yield f"{key}.{extension}", spool.read(size)
        yield f"{key}.txt", (meta["caption"] or "").encode()
        yield f"{key}.json", json.dumps(_plain(meta), indent=4, default=str).encode()


def _plain(meta: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in meta.items()
    }
