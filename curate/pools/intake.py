"""One file of the pool -> the columns of its samples: URL lists, tars, img2dataset's output."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate import chance, storage
from curate.errors import ConfigError, did_you_mean, first_line
from curate.pipeline_file.schema import Source
from curate.pools import foreign, metadata
from curate.pools.foreign import TEXT
from curate.sample import canonical_names, make_uids
from curate.shards import shard
from curate.shards.tar import DamagedTar

URL_FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
HEAD_FILES, HEAD_ROWS, HEAD_SAMPLES = 3, 100, 20  # what `check` looks at
PROBLEM = "pool_problem"  # why a row of the pool can never be used; null where it can


@dataclass(frozen=True)
class Intake:
    """The samples of one file, in row order, and what was wrong with the file itself."""

    frame: pl.DataFrame  # uid_hi, uid_lo, our columns, pool_problem, and anything else it had
    damage: str | None = None  # "cut at byte 1234", say: an unknown number of samples is not here


def read_file(source: Source, url: str) -> Intake:
    """Read one URL list or one shard; ConfigError names the file and what to write."""
    assert source.metadata is None, "metadata is read where it lies"
    return _read_urls(source, url) if source.urls is not None else _read_shard(source, url)


def columns_of(source: Source, url: str) -> dict[str, str]:
    """{our column name: dtype} of a file, read from its head: what `check` knows before a run."""
    if source.metadata is not None:
        return {**metadata.columns_of(source, url), **({"key": "String"} if source.shards else {})}
    if source.shards is not None:
        names = ["key", "caption"]
        if storage.exists(_companion(url)):
            names += _table_schema(source, _companion(url))
        else:
            names += _json_fields(url)
        return dict.fromkeys(canonical_names(names, source.columns).values(), "")
    schema = _table_schema(source, url)
    _refuse_absent(source, url, list(schema))
    mapping = canonical_names(schema, source.columns)
    return foreign.dtypes({ours: schema[theirs] for theirs, ours in mapping.items()})


def _local_or_bytes(url: str) -> Path | bytes:
    return storage.local_path(url) if storage.is_local(url) else storage.read(url)


def _json_fields(url: str) -> list[str]:
    """The scalar metadata fields of a shard's first samples."""
    first = itertools.islice(shard.read_samples(url), HEAD_SAMPLES)
    return list(dict.fromkeys(name for sample in first for name in _texts(sample)[1]))


def _table_schema(source: Source, url: str) -> dict[str, Any]:
    suffix = _format(url)
    place = _local_or_bytes(url)
    try:
        if suffix == ".parquet":
            return dict(pl.read_parquet_schema(place))
        if suffix in (".csv", ".tsv"):
            return dict(_read_csv(source, url, place, rows=HEAD_ROWS).schema)
        return dict(pl.read_ndjson(place, n_rows=HEAD_ROWS).schema)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{url} cannot be read as {suffix}: {first_line(error)}") from None


def _format(url: str) -> str:
    suffix = next((s for s in URL_FORMATS if url.lower().endswith(s)), None)
    if suffix is None:
        listed = ", ".join(URL_FORMATS)
        raise ConfigError(f"{url}: a URL list ends in one of {listed}")
    return suffix


def _read_csv(source: Source, url: str, place: Any, rows: int | None = None) -> pl.DataFrame:
    """A table in which text is text: a caption of digits, or a uid such as 1e10, is no number."""
    separator = "\t" if url.lower().endswith(".tsv") else ","
    names = pl.read_csv(place, separator=separator, n_rows=0).columns
    mapping = canonical_names(names, source.columns)
    texts = [theirs for theirs in names if mapping[theirs] in (*TEXT, "uid")]
    return pl.read_csv(
        place,
        separator=separator,
        n_rows=rows,
        infer_schema_length=None,
        schema_overrides=dict.fromkeys(texts, pl.String),
    )


def _read_table(source: Source, url: str) -> pl.DataFrame:
    suffix = _format(url)
    place = _local_or_bytes(url)
    try:
        if suffix == ".parquet":
            return (
                pl.read_parquet(place, glob=False)
                if storage.is_local(url)
                else pl.read_parquet(place)
            )
        if suffix in (".csv", ".tsv"):
            return _read_csv(source, url, place)
        return pl.read_ndjson(place, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{url} cannot be read as {suffix}: {first_line(error)}") from None


def _read_urls(source: Source, url: str) -> Intake:
    frame = _renamed(_read_table(source, url), source, url)
    if "url" not in frame.columns:
        listed = ", ".join(frame.columns)
        raise ConfigError(
            f"{url} has no column that looks like a URL (it has: {listed}); "
            "name it in the pool: `columns: {url: its_name}`"
        )
    if frame.height == 0:
        return Intake(_finished(frame, url))
    frame = frame.drop(
        [name for name in ("key", "status", "error_message") if name in frame.columns]
    )
    frame = _finished(frame, url)
    if source.order == "shuffled":
        order = np.argsort(chance.bits(0, "pool", _uids(frame)), kind="stable")
        frame = frame[order]
    return Intake(frame)


def _renamed(frame: pl.DataFrame, source: Source, url: str) -> pl.DataFrame:
    _refuse_absent(source, url, frame.columns)
    return frame.rename(canonical_names(frame.columns, source.columns))


def _refuse_absent(source: Source, url: str, names: Sequence[str]) -> None:
    for theirs in source.columns.values():
        if theirs not in names:
            hint = did_you_mean(theirs, names, f"{url} has no column")
            raise ConfigError(f"{hint} (the pool's `columns:` names it)")


def _uids(frame: pl.DataFrame) -> np.ndarray:
    return make_uids(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy())


def _finished(frame: pl.DataFrame, url: str) -> pl.DataFrame:
    """Give every column of ours its type, and every sample its uid."""
    for name in ("caption", PROBLEM):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(name))
    frame = foreign.converted(frame, url)
    uids = foreign.uid_array(frame, url)
    halves = pl.DataFrame({"uid_hi": uids["f0"], "uid_lo": uids["f1"]})
    return pl.concat([halves, frame.drop("uid", strict=False)], how="horizontal")


def _companion(url: str) -> str:
    return url.removesuffix(".tar") + ".parquet"


def _read_shard(source: Source, url: str) -> Intake:
    """Rows are the parquet's where img2dataset left one beside the tar, else the tar's samples."""
    table = None
    if storage.exists(_companion(url)):
        table = _renamed(_read_table(source, _companion(url)), source, _companion(url))
        if "key" not in table.columns:
            raise ConfigError(f"{_companion(url)} has no column `key` that joins it to {url}")
    try:
        frame, index = _from_members(source, url) if table is None else (table, shard.scan(url))
    except DamagedTar as error:
        nothing = pl.DataFrame({"key": pl.Series([], dtype=pl.String)})
        frame = nothing if table is None else _joined(table, [])
        return Intake(_finished(frame, url), str(error).removeprefix(f"{url}: "))
    if table is not None:
        frame = _joined(table, shard.picture_keys(index))
    damage = f"cut at byte {index.end}" if index.truncated else None
    return Intake(_finished(frame, url), damage)


def _joined(table: pl.DataFrame, with_picture: Sequence[str]) -> pl.DataFrame:
    """The parquet's rows, each with the reason why its picture is not in the tar."""
    pictures = pl.DataFrame({"key": with_picture}, schema={"key": pl.String})
    table = table.with_columns(pl.col("key").cast(pl.String))
    there = table.select(pl.col("key").is_in(pictures["key"].implode())).to_series()
    failed = pl.lit(None, dtype=pl.String)
    if "status" in table.columns:
        failed = pl.when(pl.col("status") != "success").then(pl.col("status"))
    table = table.with_columns(there.alias("_there"))
    problem = pl.coalesce(failed, pl.when(~pl.col("_there")).then(pl.lit("no_image")))
    dropped = [name for name in ("_there", "status", "error_message") if name in table.columns]
    return table.with_columns(problem.alias(PROBLEM)).drop([*dropped, "exif"], strict=False)


def _from_members(source: Source, url: str) -> tuple[pl.DataFrame, shard.TarIndex]:
    samples = shard.read_samples(url)
    frame = _members_frame(source, samples)
    assert samples.index is not None, url  # it is there once every sample was seen
    if samples.index.truncated and frame.height:  # the last one may lack its caption, and its uid
        last = pl.int_range(pl.len()) == pl.len() - 1
        cut = pl.when(last).then(pl.lit("cut")).otherwise(pl.col(PROBLEM).cast(pl.String))
        frame = frame.with_columns(cut.alias(PROBLEM))
    return frame, samples.index


def _members_frame(source: Source, samples: shard.Samples) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for sample in samples:
        caption, metadata = _texts(sample)
        mapping = canonical_names(metadata, source.columns)
        row = {mapping[name]: value for name, value in metadata.items()}
        for name in ("status", "error_message", "exif"):
            row.pop(name, None)
        row["key"] = sample.key
        if caption is not None:
            row["caption"] = caption
        row[PROBLEM] = None if shard.picture(sample) is not None else "no_image"
        if "uid" not in row:
            row["uid"] = _uid_in_key(sample.key)
        rows.append(row)
    if not rows:
        return pl.DataFrame({"key": pl.Series([], dtype=pl.String)})
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        texts = [{k: v if v is None else str(v) for k, v in row.items()} for row in rows]
        return pl.DataFrame(texts, infer_schema_length=None)


def _uid_in_key(key: str) -> str | None:
    """The uid in a key as DataComp's resharder writes it, `{uid}-{copy}`."""
    uid = key.rsplit("/", 1)[-1].split("-", 1)[0]
    return (
        uid.lower() if len(uid) == 32 and all(c in "0123456789abcdefABCDEF" for c in uid) else None
    )


def _texts(sample: shard.TarSample) -> tuple[str | None, dict[str, Any]]:
    """The caption and the scalar metadata fields of a sample of a tar; none where it is no JSON."""
    try:
        found = shard.metadata(sample) or {}
    except shard.BadMetadata:
        found = {}
    scalars = {k: v for k, v in found.items() if isinstance(v, (str, int, float)) or v is None}
    return shard.caption(sample), scalars


def check_readable(source: Source, urls: Sequence[str]) -> dict[str, str]:
    """Columns of a list, or of the first shards; ConfigError or StorageError where none opens.

    An empty or damaged shard is for the run to count, unless the first ones all are damaged: then
    the user named something else.
    """
    found: dict[str, str] = {}
    damaged: list[ConfigError] = []
    for url in urls[: HEAD_FILES if source.urls is None else 1]:
        storage.entry(url)
        try:
            found = {**columns_of(source, url), **found}
        except DamagedTar as error:
            reason = str(error).removeprefix(f"{url}: ")
            damaged.append(ConfigError(f"{url} is not a tar: {reason}"))
    if not found:
        raise damaged[0]
    return found
