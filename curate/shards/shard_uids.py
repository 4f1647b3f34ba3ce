"""The uid of each sample of a tar, by a pool's rules: from its parquet, JSON or key, or a hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError, first_line
from curate.parquet import read_parquet
from curate.pipeline_file.schema import Source
from curate.pools import foreign
from curate.pools.intake import PROBLEM, read_file
from curate.sample import UID, canonical_names, make_uids, parse_uids
from curate.shards import shard
from curate.shards.plain_tar import index_of
from curate.shards.shard import TarIndex, TarSample
from curate.shards.tar import DamagedTar, Mapped

Origin = Literal["parquet", "json", "key", "hash", "intake"]
_HEX = re.compile(r"[0-9a-fA-F]{32}")
_GIVEN = re.compile(rb'"uid"\s*:\s*"([0-9a-fA-F]{1,32})"')


@dataclass(frozen=True)
class ShardUids:
    """The N samples of a tar that have a uid and a picture, in tar order."""

    keys: Sequence[str]  # [N]
    uids: np.ndarray  # [N] UID
    origins: dict[Origin, int]  # how many uids came from where
    passed_over: dict[str, int]  # samples that no subset can mean, by reason
    index: TarIndex | None = None  # of a local tar: where its members are
    rows: np.ndarray | None = None  # [N] int64, the sample's place in that index
    damage: str | None = None  # what is wrong with the file: an unknown number of samples is lost


def read_uids(url: str) -> ShardUids:
    """The uids of a tar, reading no body where a parquet beside it gives them, else only JSONs.

    A tar that is not local is not read at all where img2dataset's parquet says what is in it; else
    it is read once from front to back.

    Raises:
        ConfigError: a uid is not 1 to 32 hex digits, or a parquet cannot be read.
        StorageError: a file cannot be read.
    """
    table = _parquet(url)
    if storage.is_local(url):
        try:
            return _local(url, index_of(url), table)
        except DamagedTar as error:
            return _nothing(str(error).removeprefix(f"{url}: "))
    if table is not None and "status" in table.columns and not table["uid"].null_count():
        table = table.filter(pl.col("status") == "success")
        uids = _parsed(table["uid"], companion(url))
        return ShardUids(table["key"].to_list(), uids, {"parquet": len(uids)}, {})
    return _taken_in(url)


def _nothing(damage: str | None) -> ShardUids:
    return ShardUids([], np.zeros(0, dtype=UID), {}, {}, damage=damage)


def companion(url: str) -> str:
    """The parquet that img2dataset leaves beside a tar."""
    return url.removesuffix(".tar") + ".parquet"


def _parquet(url: str) -> pl.DataFrame | None:
    """Columns `key` and `uid`, and `status` if it has one; None where there are no such columns."""
    table = companion(url)
    if not storage.exists(table):
        return None
    place: Any = storage.local_path(table) if storage.is_local(table) else storage.read(table)
    try:
        names = canonical_names(pl.read_parquet_schema(place), {})
        theirs = {ours: name for name, ours in names.items()}
        if not {"key", "uid"} <= theirs.keys():
            return None
        taken = [name for name in ("key", "uid", "status") if name in theirs]
        frame = read_parquet(table, [theirs[name] for name in taken])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{table} cannot be read as .parquet: {first_line(error)}") from None
    return frame.rename(names, strict=False).with_columns(pl.col("key").cast(pl.String))


def _parsed(given: pl.Series, url: str) -> np.ndarray:
    return foreign.uid_array(pl.DataFrame({"uid": given}), url)


def _taken_in(url: str) -> ShardUids:
    """Through the pool's own intake, which reads all of the tar."""
    intake = read_file(Source(shards=url), url)
    problems = intake.frame[PROBLEM].drop_nulls().value_counts()
    frame = intake.frame.filter(pl.col(PROBLEM).is_null())
    uids, keys = _uids_of(frame), frame["key"].to_list()
    passed_over = dict(problems.rows())
    return ShardUids(keys, uids, {"intake": len(keys)}, passed_over, damage=intake.damage)


def _uids_of(frame: pl.DataFrame) -> np.ndarray:
    return make_uids(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy())


def _local(url: str, index: TarIndex, table: pl.DataFrame | None) -> ShardUids:
    rows = _pictured(index)
    keys = [index.keys[row] for row in rows.tolist()]
    passed_over = {"no_image": len(index) - len(rows)}
    if index.truncated and len(rows) and rows[-1] == len(index) - 1:  # it may lack its caption
        rows, keys = rows[:-1], keys[:-1]
        passed_over = {"no_image": passed_over["no_image"], "cut": 1}
    naming = _Naming(url, keys)
    if table is not None:
        naming.from_table("parquet", table, companion(url))
    naming.from_texts("json", lambda unnamed: _in_jsons(index, rows[unnamed]))
    naming.from_texts("key", lambda unnamed: [_in_key(keys[i]) for i in unnamed.tolist()])
    if len(naming.unnamed()):
        frame = read_file(Source(shards=url), url).frame
        naming.take("hash", frame["key"].to_list(), _uids_of(frame))
    named = np.setdiff1d(np.arange(len(keys)), naming.unnamed(), assume_unique=True)
    if len(named) < len(keys):
        passed_over["unlisted"] = len(keys) - len(named)  # in the tar and not in its parquet
        keys = [keys[i] for i in named.tolist()]
    damage = f"cut at byte {index.end}" if index.truncated else None
    origins, uids = naming.origins, naming.uids[named]
    return ShardUids(keys, uids, origins, _counted(passed_over), index, rows[named], damage)


def _counted(reasons: dict[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if count}


def _pictured(index: TarIndex) -> np.ndarray:
    """[P] int64, the samples that have a picture."""
    pictures = [i for i, name in enumerate(index.extensions) if name in shard.IMAGE_EXTENSIONS]
    members = np.flatnonzero(np.isin(index.extension, pictures))
    return np.unique(np.searchsorted(index.first, members, side="right") - 1)


class _Naming:
    """Samples get their uids, from one origin after the other."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self.uids = np.zeros(len(keys), dtype=UID)
        self.origins: dict[Origin, int] = {}
        self._url = url
        self._keys = keys
        self._named = np.zeros(len(keys), dtype=bool)

    def unnamed(self) -> np.ndarray:
        """[U] int64, those that have no uid yet."""
        return np.flatnonzero(~self._named)

    def from_table(self, origin: Origin, table: pl.DataFrame, url: str) -> None:
        given = table.filter(pl.col("key").is_not_null() & pl.col("uid").is_not_null())
        self.take(origin, given["key"].to_list(), _parsed(given["uid"], url))

    def take(self, origin: Origin, keys: Sequence[str], uids: np.ndarray) -> None:
        """Names by key."""
        places = {key: place for place, key in enumerate(keys)}
        unnamed = self.unnamed()
        found = [places.get(self._keys[i], -1) for i in unnamed.tolist()]
        places_of = np.array(found, dtype=np.int64)
        there = places_of >= 0
        self._name(origin, unnamed[there], uids[places_of[there]])

    def from_texts(self, origin: Origin, read: Callable[[np.ndarray], list[str | None]]) -> None:
        """Names by what is read of the samples that have none."""
        unnamed = self.unnamed()
        if not len(unnamed):
            return
        texts = read(unnamed)
        there = np.array([text is not None for text in texts], dtype=bool)
        try:
            uids = parse_uids([text for text in texts if text is not None])
        except ValueError as error:
            raise ConfigError(
                f"{self._url}: the {origin} of a sample there gives it no usable uid: {error}"
            ) from None
        self._name(origin, unnamed[there], uids)

    def _name(self, origin: Origin, rows: np.ndarray, uids: np.ndarray) -> None:
        self.uids[rows] = uids
        self._named[rows] = True
        if len(rows):
            self.origins[origin] = len(rows)


def _in_key(key: str) -> str | None:
    """The uid in a key such as `{uid}` or, as DataComp's resharder writes it, `{uid}-{copy}`."""
    stem = key.rsplit("/", 1)[-1].split("#", 1)[0].split("-", 1)[0]
    return stem if _HEX.fullmatch(stem) else None


def _in_jsons(index: TarIndex, rows: np.ndarray) -> list[str | None]:
    """The uid in the JSON of each of [S] samples; only the JSONs are read."""
    number = {extension: i for i, extension in enumerate(index.extensions)}.get("json")
    found: list[str | None] = [None] * len(rows)
    members = np.flatnonzero(index.extension == (-1 if number is None else number))  # [J]
    owners = np.searchsorted(index.first, members, side="right") - 1
    _, at, of = np.intersect1d(owners, rows, assume_unique=True, return_indices=True)
    offsets, sizes = index.offset[members[at]].tolist(), index.size[members[at]].tolist()
    places = zip(of.tolist(), offsets, sizes, strict=True)
    with storage.opened(index.url) as handle:
        source = Mapped(index.url, handle)
        for i, offset, size in places:
            found[i] = _given(bytes(source.read(offset, size)))
    return found


def _given(body: bytes) -> str | None:
    """The uid in a JSON object; None where there is none, or this is no JSON."""
    # No string holds an unescaped `"uid"`, and objects within objects are left to the parser.
    plain = body.count(b'"uid"') == 1 and body.count(b"{") == 1 + body.count(b'"{')
    match = _GIVEN.search(body) if plain and body[:1] == b"{" and body[-1:] == b"}" else None
    if match is not None:
        return match[1].decode()
    try:
        parsed = shard.metadata(TarSample("", {"json": memoryview(body)})) or {}
    except shard.BadMetadata:
        return None
    names = canonical_names(parsed, {})
    uid = next((value for name, value in parsed.items() if names[name] == "uid"), None)
    if isinstance(uid, int) and not isinstance(uid, bool):
        uid = str(uid)  # as a pool has it
    return uid if isinstance(uid, str) and uid else None
