"""Feature: columns made elsewhere, brought in by uid: M-FLYT's score tables, HYPE, T-MARS."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cached_property, partial, reduce
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import ConfigDict
from pydantic import Field as Setting

from curate import storage
from curate.errors import ConfigError, CurateError, did_you_mean
from curate.features import Columns, Dtype, Field, FittedFeature, Part, Rows
from curate.features._given.tables import (
    FORMATS,
    KEY,
    Reading,
    Slice,
    dtype_of,
    files_of,
    grouped,
    name_of,
    nothing,
    read_slice_of,
    schema_of,
    slices_of,
    widest,
)
from curate.join import ROW, TEXT, Join, Settled, partitions
from curate.pools import foreign
from curate.sample import UID, format_uids
from curate.siphash import hashed

NOT_IN_TABLE = "not_in_table"  # the error class of a sample that no table has
_HEADS = 16  # files whose columns are looked at before a run: first, last, and some between
_BYTES = {"string": 48}  # of one value in memory, about; numbers have 8
_JOIN = "join.json"  # how the answers lie, and what the join came to: written last


class TableColumns(FittedFeature):
    """Columns that somebody else computed, from tables keyed by uid.

    The tables are joined to the pool through storage, whatever the size of either. Of a uid that is
    there more than once the first row counts, by file name and row; where later ones differ, the
    report counts them. Changed files (name, size, or time of change) are joined again.
    """

    model_config = ConfigDict(populate_by_name=True)

    version: ClassVar[int] = 1

    name: str = "columns"
    from_: str | tuple[str, ...] = Setting(
        alias="from", description="parquet, csv or tsv files: paths, globs, braces, folders"
    )
    key: str = Setting("uid", description="their name of the column that a sample is found by")
    by: str = Setting(
        "uid",
        description="our name of that column: uid, or one of the pool's that holds text, such as "
        "key (of img2dataset's samples), url or sha256",
    )
    take: dict[str, str] | tuple[str, ...] = Setting(
        description="{our name: their name}, or a list of names: what becomes `columns.<our name>`"
    )
    cover: float = Setting(
        1.0, ge=0, le=1, description="the share of the samples that must be found in the tables"
    )
    fit_on: Literal["survivors", "pool"] = Setting(
        "pool", description="the samples that get values"
    )

    def needs(self) -> tuple[str, ...]:
        return () if self.by == "uid" else (self.by,)

    def gives(self) -> tuple[Field, ...]:
        if "take" not in self.model_fields_set:
            return ()  # on a page about steps, which says what any of them gives
        return tuple(
            Field(ours, dtype, f"{theirs} of the tables; null where they have none")
            for ours, theirs, dtype in self.reading.take
        )

    def problems(self) -> list[str]:
        names = list(self._taken())
        wrong = [name for name in names if not name.isidentifier() or name in ("error", "row")]
        if not names:
            return ["take: name at least one column"]
        if wrong:
            remedy = "{our_name: their name} gives a column another name"
            return [f"take: {wrong[0]!r} cannot be a column's name here: {remedy}"]
        try:
            return self._missing_columns() or self._odd_types()
        except CurateError as error:
            return [f"from: {error}"]

    def _missing_columns(self) -> list[str]:
        problems = []
        for file, schema in self._schemas.items():
            wanted = [("key", self.key), *(("take", theirs) for theirs in self._taken().values())]
            for setting, name in wanted:
                if name not in schema:
                    hint = did_you_mean(name, list(schema), f"{file} has no column")
                    problems.append(f"{setting}: {hint}")
        return problems[:_HEADS]

    def _odd_types(self) -> list[str]:
        return [
            f"take: {theirs!r} is text in some files and numbers in others"
            for ours, theirs in self._taken().items()
            if len(self._kinds(theirs)) > 1 and "string" in self._kinds(theirs)
        ]

    def recipe(self) -> dict[str, Any]:
        """Which files: 20 GB are not read to see whether they changed; their times tell."""
        about = [f"{name_of(f.url)} {f.bytes} {f.version}" for f in self.files]
        digest = hashlib.sha256("\n".join(about).encode()).hexdigest()
        size = sum(file.bytes for file in self.files)
        return {"from": {"files": len(self.files), "bytes": size, "names_sizes_times": digest}}

    def _taken(self) -> dict[str, str]:
        return (
            self.take
            if isinstance(self.take, dict)
            else dict(zip(self.take, self.take, strict=True))
        )

    @cached_property
    def files(self) -> tuple[storage.Entry, ...]:
        """The files of the tables by name; a folder stands for all of its tables.

        Raises:
            ConfigError: there are none, or one is no table.
        """
        found: list[str] = []
        for pattern in (self.from_,) if isinstance(self.from_, str) else self.from_:
            urls = files_of(pattern)
            if not urls:
                raise ConfigError(f"nothing matches {pattern}")
            found += urls
        for url in found:
            if not url.endswith(FORMATS):
                raise ConfigError(f"{url}: a table ends in one of {', '.join(FORMATS)}")
        return tuple(storage.entries(sorted(set(found), key=lambda url: (name_of(url), url))))

    @cached_property
    def _schemas(self) -> dict[str, dict[str, Any]]:
        """{file: its schema} of some of the files."""
        places = np.unique(np.linspace(0, len(self.files) - 1, _HEADS).round().astype(int))
        files = [self.files[place] for place in places.tolist()]
        return {file.url: schema_of(file.url, self.key) for file in files}

    def _kinds(self, theirs: str) -> set[Dtype]:
        dtypes = (schema[theirs] for schema in self._schemas.values())
        return {dtype_of(dtype) for dtype in dtypes if dtype != pl.Null}

    @cached_property
    def reading(self) -> Reading:
        """How the tables are read, with dtypes that hold what all files have."""
        take = [(ours, theirs, widest(self._kinds(theirs))) for ours, theirs in
                self._taken().items()]  # fmt: skip
        return Reading(self.key, self.by, tuple(take))

    def fit(self, rows: Rows, folder: str) -> None:
        slices = list(slices_of(self.files, rows))
        tasks = list(enumerate(grouped(slices))) or [(0, [])]
        offered = sum(one.rows or 0 for one in slices)
        width = sum(_BYTES.get(dtype, 8) for _, _, dtype in self.reading.take)
        join = Join(folder, rows.parts, len(tasks), partitions(rows.count, offered, width))
        blocks = max(rows.map(partial(_ask, join, self.by)), default=0)
        without_key = sum(rows.each(partial(_offer, join, self.reading), tasks))
        join = join.with_blocks(blocks)
        settled: Settled = reduce(
            Settled.plus, rows.each(join.settle, range(join.partitions)), Settled()
        )
        settled = replace(settled, missing=rows.count - settled.found)
        _check_cover(self, settled, rows)
        join.clear()
        how = {"partitions": join.partitions, "blocks": blocks}
        notes = _notes(settled, without_key)
        storage.commit_json(storage.join(folder, _JOIN), {**how, "notes": notes})

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        how = storage.read_json(storage.join(folder, _JOIN))
        join = Join(folder, 0, 0, how["partitions"], how["blocks"])
        return _Answers(join, tuple(ours for ours, _, _ in self.reading.take))

    def notes(self, folder: str) -> dict[str, Any]:
        found: dict[str, Any] = storage.read_json(storage.join(folder, _JOIN))["notes"]
        return found


def _ask(join: Join, by: str, part: Part) -> int:
    """Send a part's samples; how many blocks there are, as far as this part knows."""
    uids, addresses = part.batch.uids, part.batch.addresses
    if by != "uid":
        texts = part.batch.frame[by].cast(pl.String)
        known = texts.is_not_null().to_numpy()
        uids, addresses = _hashed(texts.drop_nulls()), addresses[known]
    return join.ask(part.number, uids, addresses)


def _hashed(texts: pl.Series) -> np.ndarray:
    """[N] UID of [N] texts: 128 bits of SipHash, the same on any machine."""
    uids = np.empty(len(texts), dtype=UID)
    for half in ("f0", "f1"):
        uids[half] = hashed(texts, f"curate column {half}")
    return uids


def _offer(join: Join, reading: Reading, task: tuple[int, list[Slice]]) -> int:
    """Send a task's rows of the table; how many have no key."""
    number, slices = task
    frames = [nothing(reading), *(read_slice_of(one, reading) for one in slices)]
    keys = [np.empty(0, dtype=UID)]
    keys += [_keys(frame[KEY], one, reading) for frame, one in zip(frames[1:], slices, strict=True)]
    whole = pl.concat(frames)
    there = whole[KEY].is_not_null()
    values = whole.filter(there).select([ours for ours, _, _ in reading.take])
    if reading.by != "uid":
        texts = whole[KEY].filter(there).alias(TEXT)
        values = values.with_columns(texts)
    join.offer(number, np.concatenate(keys), values)
    return int((~there).sum())


def _keys(given: pl.Series, one: Slice, reading: Reading) -> np.ndarray:
    """[K] UID of the rows that have a key."""
    given = given.drop_nulls()
    if reading.by != "uid":
        return _hashed(given)
    return foreign.uid_array(pl.DataFrame({"uid": given}), one.file.url)


def _check_cover(feature: TableColumns, settled: Settled, rows: Rows) -> None:
    needed = math.ceil(Decimal(str(feature.cover)) * rows.count)
    if settled.found >= needed:
        return
    share = settled.found / rows.count
    examples = sorted(
        text for found in rows.map(partial(_labels, feature.by, settled.without)) for text in found
    )
    listed = f" ({feature.by} {', '.join(examples)}, for some)" if examples else ""
    pattern = feature.from_ if isinstance(feature.from_, str) else ", ".join(feature.from_)
    raise ConfigError(
        f"{feature.name}: {settled.missing} of {rows.count} samples{listed} are not in {pattern}; "
        f"`cover: {feature.cover:g}` asks for {needed} and {settled.found} are found. Add the "
        f"tables that are missing, or write `cover: {math.floor(share * 10_000) / 10_000:g}`"
    )


def _labels(by: str, addresses: Sequence[int], part: Part) -> list[str]:
    """What those samples of a part are called that have one of some addresses."""
    rows = np.flatnonzero(np.isin(part.batch.addresses, np.array(addresses, dtype=np.uint64)))
    if by != "uid":
        return [str(text) for text in part.batch.frame[by][rows].to_list()]
    return format_uids(part.batch.uids[rows])


def _notes(settled: Settled, without_key: int) -> dict[str, Any]:
    found = {
        "found": settled.found,
        "missing": settled.missing,
        "repeated_rows": settled.repeated,
        "conflicting_keys": settled.conflicting,
        "rows_of_nobody": settled.unused,
        "rows_without_key": without_key,
    }
    if settled.conflict is None:
        return found
    key, first, other = settled.conflict
    return {**found, "conflict": {"key": key, "taken": first, "passed_over": other}}


class _Answers:
    """Gives parts their values; what a block was answered is read once, for units follow it."""

    def __init__(self, join: Join, fields: Sequence[str]) -> None:
        self._join = join
        self._fields = fields
        self._block = -1
        self._found = pl.DataFrame()

    def __call__(self, part: Part) -> Columns:
        addresses = part.batch.addresses
        if not len(addresses):
            return Columns({name: [] for name in self._fields})
        block = int(addresses[0] >> np.uint64(32))
        if block != self._block:
            self._found = self._join.answers(block) if block < self._join.blocks else pl.DataFrame()
            self._block = block
        return self._values((addresses & np.uint64(2**32 - 1)).astype(np.uint32))

    def _values(self, rows: np.ndarray) -> Columns:
        if not self._found.height:
            nothing = [None] * len(rows)
            return Columns(dict.fromkeys(self._fields, nothing), errors=[NOT_IN_TABLE] * len(rows))
        known = self._found[ROW].to_numpy()
        place = np.searchsorted(known, rows).clip(max=len(known) - 1)
        there = known[place] == rows
        index = pl.Series(place).set(~pl.Series(there), None)
        scalars = {name: self._found[name].gather(index) for name in self._fields}
        errors: list[str | None] = []
        if not there.all():
            errors = [None if found else NOT_IN_TABLE for found in there.tolist()]
        return Columns(scalars, errors=errors)
