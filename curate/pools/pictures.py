"""Where the pictures of metadata are: an index from samples to tars and keys, built by uid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.columns import Span
from curate.join import KEYS, Join, Settled, partitions
from curate.parquet import read_parquet, write_parquet
from curate.pipeline_file.schema import Config
from curate.pools.intake import PROBLEM
from curate.pools.pool_files import list_pictures, refuse_changes
from curate.pools.shard_table import picture_block, pictures_folder
from curate.runner import Runner
from curate.sample import PICTURE_TAR, format_uids, make_uids
from curate.shards.shard_uids import read_uids
from curate.step import fingerprint

NO_PICTURE = "no_picture"  # why the pool cannot use a row of its metadata
COLUMNS = {"key": "String", PICTURE_TAR: "UInt32"}  # that an index adds to a pool
_TARS_AT_ONCE = 16  # read by one task
_ROWS_AT_ONCE = 1_000_000  # of pictures, sent by one task
_TARS: dict[str, Any] = {
    "source": pl.String,
    "url": pl.String,
    "bytes": pl.Int64,
    "version": pl.String,
}
_PICTURES: dict[str, Any] = {
    "tar": pl.UInt32,
    "key": pl.String,
    "uid_hi": pl.UInt64,
    "uid_lo": pl.UInt64,
}

Listed = Mapping[tuple[str, str], storage.Entry]  # {(source, URL): a tar}


@dataclass(frozen=True)
class Scanned:
    """Consecutive tars that one task read: their pictures are in a file, in order."""

    url: str
    pictures: int
    damaged: tuple[tuple[str, str], ...]  # (tar, what is wrong with it)
    passed_over: Mapping[str, int]  # {reason: samples}


@dataclass(frozen=True)
class _Asked:
    """The rows of one source in one block."""

    number: int  # which task asks for them
    block: int
    ranges: tuple[tuple[int, int], ...]  # (first row of the block, rows)

    def rows(self) -> np.ndarray:
        """[K] uint64, ascending."""
        each = (np.arange(first, first + rows, dtype=np.uint64) for first, rows in self.ranges)
        return np.concatenate(list(each))


def _file(work: str, name: str) -> str:
    return storage.join(pictures_folder(work), name)


def listed(config: Config) -> Listed:
    """Every tar that is said to hold pictures of metadata."""
    return {
        (source.name, entry.url): entry
        for source in config.pool
        if source.picture_patterns()
        for entry in list_pictures(source)
    }


def load_tars(work: str) -> pl.DataFrame:
    """The tars of the index, in the order of their numbers; no rows where there is none."""
    url = _file(work, "tars.parquet")
    return read_parquet(url) if storage.exists(url) else pl.DataFrame(schema=_TARS)


def tars_of(work: str) -> pl.Series:
    """The URL of each tar of the index, by number."""
    return _tars_of(work, storage.entry(_file(work, "tars.parquet")).version)


@lru_cache(maxsize=2)
def _tars_of(work: str, version: str) -> pl.Series:
    del version  # another version is another list
    return load_tars(work)["url"]


def found(work: str) -> dict[str, Any]:
    """What the index came to; {} where there is none."""
    seal = _file(work, "index.json")
    facts: dict[str, Any] = storage.read_json(seal) if storage.exists(seal) else {}
    return facts


def unchanged(work: str, config: Config) -> bool:
    """Whether the tars are those of the index."""
    records = load_tars(work).iter_rows(named=True)
    there = {(r["source"], r["url"]): (r["bytes"], r["version"]) for r in records}
    return there == {place: (e.bytes, e.version) for place, e in listed(config).items()}


def refuse_other_tars(work: str, now: Listed) -> None:
    """Raise InputChanged where a tar of the index is gone or altered; new ones are welcome."""
    refuse_changes(load_tars(work), dict(now))


def index(work: str, runner: Runner, table: pl.DataFrame, now: Listed) -> dict[str, Any]:
    """Bring the index up to date, and give what it came to; {} where there are no tars.

    Tars keep their numbers, so that a row keeps its picture when new ones have the same uid: of
    several pictures that share a uid the first counts, by tar and position.

    Args:
        work: The work folder, whose blocks of uids are there.
        runner: Reads the tars.
        table: The shards of the pool.
        now: The tars, all of them as they were when they were read before.
    """
    if not now:
        return {}
    before = load_tars(work)
    known = set(before.select("source", "url").rows())
    fresh = [(s, u, e.bytes, e.version) for (s, u), e in now.items() if (s, u) not in known]
    tars = pl.concat([before, pl.DataFrame(fresh, schema=_TARS, orient="row")])
    wanted = fingerprint(
        [
            [list(row) for row in tars.select("source", "url", "bytes").rows()],
            [list(row) for row in table.select("source", "url", "bytes", "rows").rows()],
        ]
    )
    seal = _file(work, "index.json")
    if storage.exists(seal):
        facts: dict[str, Any] = storage.read_json(seal)
        if facts["of"] == wanted:
            return facts
    storage.remove(seal)
    facts = {"of": wanted, **_build(work, runner, table, tars)}
    write_parquet(_file(work, "tars.parquet"), tars)
    storage.remove(_file(work, "join"))
    storage.commit_json(seal, facts)
    return facts


def _build(work: str, runner: Runner, table: pl.DataFrame, tars: pl.DataFrame) -> dict[str, Any]:
    """Read the tars, join them to the rows source by source, and write the blocks."""
    storage.remove(_file(work, "join"))
    numbered = tars.with_row_index("number")
    joins: dict[str, tuple[Join, list[_Asked]]] = {}
    came_to, scanned = Settled(), []
    for (source,), own in numbered.group_by(["source"], maintain_order=True):
        name = str(source)
        read = sorted(runner.map(partial(_scan, work), _groups(own), "pictures"), key=_url_of)
        asked = _asked(table, name)
        join = _joined(work, runner, name, (asked, read))
        joins[name] = (join, asked)
        settled = runner.map(join.settle, range(join.partitions), "pictures")
        came_to = reduce(Settled.plus, settled, came_to)
        scanned += read
    jobs = _block_jobs(table, joins)
    for _ in runner.map(partial(_write_block, work), jobs, "pictures"):
        pass
    _list_unmatched(work, [join for join, _ in joins.values()], tars["url"])
    return _facts(tars, came_to, scanned)


def _url_of(scanned: Scanned) -> str:
    return scanned.url


def _facts(tars: pl.DataFrame, came_to: Settled, scanned: Sequence[Scanned]) -> dict[str, Any]:
    passed_over: dict[str, int] = {}
    for one in scanned:
        for reason, count in one.passed_over.items():
            passed_over[reason] = passed_over.get(reason, 0) + count
    return {
        "tars": tars.height,
        "pictures": sum(one.pictures for one in scanned),
        "rows_with_picture": came_to.found,
        "rows_without_picture": came_to.missing,
        "pictures_of_nobody": came_to.unused,
        "repeated_pictures": came_to.repeated,
        "passed_over": passed_over,
        "damaged": [{"url": url, "damage": why} for one in scanned for url, why in one.damaged],
    }


def _groups(tars: pl.DataFrame) -> Iterator[list[tuple[int, str, str]]]:
    """(number, URL, version) of the tars of each task: new ones change the last group at most."""
    rows = tars.select("number", "url", "version").rows()
    group: list[tuple[int, str, str]] = []
    for row in rows:
        if group and row[0] // _TARS_AT_ONCE != group[0][0] // _TARS_AT_ONCE:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _scan(work: str, tars: list[tuple[int, str, str]]) -> Scanned:
    """The uids of some tars, unless they were read before; the small file is the proof."""
    digest = hashlib.sha256(repr(tars).encode()).hexdigest()[:10]
    stem = _file(work, f"scanned/{tars[0][0]:07d}-{digest}")
    url, proof = f"{stem}.parquet", f"{stem}.json"
    if not storage.exists(proof):
        frames, damaged = [pl.DataFrame(schema=_PICTURES)], []
        passed_over: dict[str, int] = {}
        for number, tar, _ in tars:
            found = read_uids(tar)
            halves = {"uid_hi": found.uids["f0"], "uid_lo": found.uids["f1"]}
            frame = pl.DataFrame({"tar": number, "key": pl.Series(found.keys), **halves},
                                 schema=_PICTURES)  # fmt: skip
            frames.append(frame)
            if found.damage is not None:
                damaged.append((tar, found.damage))
            for reason, count in found.passed_over.items():
                passed_over[reason] = passed_over.get(reason, 0) + count
        whole = pl.concat(frames)
        write_parquet(url, whole)
        about = {"pictures": whole.height, "damaged": damaged, "passed_over": passed_over}
        storage.commit_json(proof, about)
    said = storage.read_json(proof)
    broken = tuple((tar, why) for tar, why in said["damaged"])
    return Scanned(url, said["pictures"], broken, said["passed_over"])


def _asked(table: pl.DataFrame, source: str) -> list[_Asked]:
    own = table.filter((pl.col("source") == source) & (pl.col("rows") > 0))
    asked: list[_Asked] = []
    for (block,), part in own.group_by(["block"], maintain_order=True):
        ranges = tuple((first, rows) for first, rows in part.select("offset", "rows").rows())
        asked.append(_Asked(len(asked), int(str(block)), ranges))
    return asked


def _joined(
    work: str, runner: Runner, source: str, sides: tuple[list[_Asked], list[Scanned]]
) -> Join:
    """Send the rows of a source, and its pictures, to where they meet."""
    asked, scanned = sides
    offers = list(enumerate(_offers(scanned)))
    rows = sum(count for one in asked for _, count in one.ranges)
    count = partitions(rows, sum(one.pictures for one in scanned), 32)
    folder = _file(work, f"join/{source}")
    join = Join(folder, len(asked), len(offers), count, unused="keep")
    for _ in runner.map(partial(_ask, work, join), asked, "pictures"):
        pass
    for _ in runner.map(partial(_offer, join), offers, "pictures"):
        pass
    return join.with_blocks(max((one.block + 1 for one in asked), default=0))


def _offers(scanned: Iterable[Scanned]) -> Iterator[list[str]]:
    """Files of pictures for one task each, in order."""
    waiting: list[str] = []
    rows = 0
    for one in scanned:
        if waiting and rows + one.pictures > _ROWS_AT_ONCE:
            yield waiting
            waiting, rows = [], 0
        waiting.append(one.url)
        rows += one.pictures
    if waiting:
        yield waiting


def _ask(work: str, join: Join, asked: _Asked) -> None:
    rows = asked.rows()
    stop = int(rows[-1]) + 1
    uids = columns.uids(work, Span(asked.block, 0, stop))[rows.astype(np.int64)]
    join.ask(asked.number, uids, (np.uint64(asked.block) << np.uint64(32)) + rows)


def _offer(join: Join, task: tuple[int, list[str]]) -> None:
    number, files = task
    frame = pl.concat([read_parquet(url) for url in files])
    uids = make_uids(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy())
    join.offer(number, uids, frame.select("tar", "key"))


_BlockJob = tuple[int, int, list[tuple[Join, _Asked]]]  # block, its rows, who asked


def _block_jobs(
    table: pl.DataFrame, joins: Mapping[str, tuple[Join, list[_Asked]]]
) -> Iterator[_BlockJob]:
    by_block: dict[int, list[tuple[Join, _Asked]]] = {}
    for join, asked in joins.values():
        for one in asked:
            by_block.setdefault(one.block, []).append((join, one))
    sizes = dict(table.group_by("block").agg(pl.col("rows").sum()).rows())
    for block, sides in sorted(by_block.items()):
        yield block, sizes[block], sides


def _write_block(work: str, job: _BlockJob) -> None:
    """Where the picture of each row of a block is; rows of other sources are left as they are."""
    block, size, sides = job
    asked = np.zeros(size, dtype=bool)
    found = []
    for join, one in sides:
        asked[one.rows().astype(np.int64)] = True
        found.append(join.answers(block))
    answers = pl.concat(found).rename({"#row": "row"})
    every = pl.DataFrame({"row": np.arange(size, dtype=np.uint32), "asked": asked})
    whole = every.join(answers, on="row", how="left", maintain_order="left")
    problem = pl.when(pl.col("asked") & pl.col("key").is_null()).then(pl.lit(NO_PICTURE))
    write_parquet(
        picture_block(work, block),
        whole.select("key", pl.col("tar").alias(PICTURE_TAR), problem.alias(PROBLEM)),
    )


def _list_unmatched(work: str, joins: Sequence[Join], tars: pl.Series) -> None:
    """List the pictures that no row has: partition after partition, each in order of the tars."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("tar", pa.string()), ("key", pa.string()), ("uid", pa.string())])
    with (
        storage.committing(_file(work, "unmatched.parquet")) as handle,
        pq.ParquetWriter(handle, schema, compression="zstd") as out,
    ):
        for join in joins:
            for partition in range(join.partitions):
                rows = read_parquet(join.unused_file(partition))
                hi, lo = (rows[name].to_numpy() for name in KEYS.values())
                named = pl.DataFrame(
                    {
                        "tar": tars.gather(rows["tar"]),
                        "key": rows["key"],
                        "uid": pl.Series(format_uids(make_uids(hi, lo)), dtype=pl.String),
                    }
                )
                out.write_table(named.to_arrow().cast(schema))
