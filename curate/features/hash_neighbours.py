"""Feature: which samples have hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field as Setting
from pydantic import PositiveInt

from curate import pairs, storage
from curate.errors import ConfigError
from curate.features import Columns, Field, FittedFeature, Part, Rows
from curate.features._pairing.hash_groups import Plan, clear, collapse, match, once, spread, state
from curate.pairs import partition_of
from curate.shuffle import Exchange, partitions
from filters import Batch, column

NO_HASH = "no_hash"  # the error class of a sample without one
NOT_FITTED = "not_fitted"  # of a sample that came after, where `when_changed: freeze`
ROWS_PER_TASK = 4_000_000  # of the pool: 160 MB of hashes and uids
BYTES_PER_ROW = 120  # of a sample while equal hashes are sought: 40, and to sort them


class HashNeighbours(FittedFeature):
    """All pairs of samples whose 64-bit hashes differ in at most `radius` bits.

    Exact: hashes are brought together by bands of their bits, of which such a pair has some in
    common, and compared (Manku et al., WWW 2007). Samples with one and the same hash are twins of
    the one with the smallest uid, which alone is compared; they are at distance 0. With `mirrored`,
    x and y are also a pair where the hash of one is near that of the other mirrored.

    What crowds has bounds: of a hash with more neighbours, a task keeps the `pairs_per_sample`
    nearest (a pair stays that is among those of either side), and of more than 32,768 hashes with
    equal bands each is compared with so many that follow it. Then a filter keeps some that it would
    remove, and removes nobody for it; the report says how many pairs (`pairs_beyond_limit`) and
    comparisons (`not_compared`) were left out.
    """

    version: ClassVar[int] = 1
    resumes: ClassVar[bool] = True

    name: str = "hash_neighbours"
    of: str = Setting("perceptual_hash.phash", description="the column of 64-bit hashes")
    radius: int = Setting(6, ge=0, le=16, description="most bits in which neighbours differ")
    mirrored: str | None = Setting(
        None, description="the column of hashes of the mirrored pictures, if they count"
    )
    pairs_per_sample: PositiveInt = Setting(
        256, description="nearest neighbours of a hash that are kept where there are more"
    )

    def needs(self) -> tuple[str, ...]:
        return (self.of,) if self.mirrored is None else (self.of, self.mirrored)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("part", "uint64", "which chain of pairs it is in; null without a neighbour"),
            Field("count", "uint32", "of its neighbours, twins included; null without a hash"),
            Field("nearest", "float32", "bits to its nearest neighbour; null without one"),
        )

    def fit(self, rows: Rows, folder: str) -> None:
        once(_made(folder), lambda: self._search(rows, folder))
        clear(folder)

    def _search(self, rows: Rows, folder: str) -> dict[str, Any]:
        """Find and settle all pairs; what a search that was stopped has done is not done again."""
        told = once(state(folder, "collapsed"), lambda: self._collapsed(rows, folder))
        plan = Plan.of(folder, len(told), sum(each["entries"] for each in told), self.radius)
        for _ in rows.each(partial(spread, plan), range(plan.spreads)):
            pass
        beyond = left_out = 0
        for found in rows.each(partial(match, plan, self.pairs_per_sample), range(plan.matches)):
            beyond, left_out = beyond + found[0], left_out + found[1]
        settled = pairs.settle(rows, folder, len(told) + plan.matches, "lowest")
        copies, commonest = max((each["copies"], each["commonest"]) for each in told)
        return {
            "hashed": sum(each["hashed"] for each in told),
            "distinct_hashes": sum(each["distinct"] for each in told),
            "commonest_hash": f"{commonest:016x}" if copies else None,
            "samples_with_commonest_hash": copies,
            "pairs_beyond_limit": beyond,
            "not_compared": left_out,
            **settled,
        }

    def _collapsed(self, rows: Rows, folder: str) -> list[dict[str, int]]:
        """What became of the hashes of each partition."""
        readers = partitions(rows.count, BYTES_PER_ROW)
        there = Exchange(storage.join(folder, "hashes"), rows.gathers(ROWS_PER_TASK), readers)
        for _ in rows.gather(partial(_send, self.needs(), there, folder), ROWS_PER_TASK):
            pass
        told = list(rows.each(partial(collapse, there, folder), range(readers)))
        there.remove()
        return told

    def assigner(self, folder: str) -> Callable[[Part], Columns]:
        return partial(_assign, self.needs(), folder, pairs.lookup(folder))

    def notes(self, folder: str) -> dict[str, Any]:
        return dict(storage.read_json(_made(folder)))


def _made(folder: str) -> str:
    return storage.join(folder, "made.json")


def _hashes(batch: Batch, names: tuple[str, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """[N] bool: samples with all hashes; and those hashes, [N] uint64 each."""
    found = [batch.frame.select(column(name)).to_series() for name in names]
    for name, values in zip(names, found, strict=True):
        if values.dtype != pl.UInt64:
            raise ConfigError(
                f"hashes of 64 bits are needed (UInt64, as perceptual_hash gives them), and {name} "
                f"is of type {values.dtype}"
            )
    there = np.logical_and.reduce([values.is_not_null().to_numpy() for values in found])
    return there, [values.fill_null(0).to_numpy() for values in found]


def _send(
    names: tuple[str, ...], there: Exchange, folder: str, number: int, parts: Iterator[Part]
) -> None:
    """Write the hashes of a task's samples to the partitions where equal ones meet."""
    fields: list[Any] = [(name, "<u8") for name in ("hash", "mirrored")[: len(names)]]
    dtype = np.dtype([*fields, ("f0", "<u8"), ("f1", "<u8"), ("address", "<u8")])
    found = [np.empty(0, dtype=dtype)]
    for part in parts:
        usable, hashes = _hashes(part.batch, names)
        records = np.empty(int(usable.sum()), dtype=dtype)
        for (field, _), values in zip(fields, hashes, strict=True):
            records[field] = values[usable]
        uids = part.batch.uids[usable]
        records["f0"], records["f1"] = uids["f0"], uids["f1"]
        records["address"] = part.batch.addresses[usable]
        storage.commit_array(_seen(folder, part.number), _rows(records["address"]))
        found.append(records)
    records = np.concatenate(found)
    there.write(number, records, partition_of(records["hash"], there.readers))


def _rows(addresses: np.ndarray) -> np.ndarray:
    """[N] uint32: rows of a block, of addresses in it."""
    return addresses.astype(np.uint32)  # the lower half


def _seen(folder: str, part: int) -> str:
    """The file of the rows that the feature was fitted on, of a part."""
    return storage.join(folder, "fitted", f"{part:06d}.npy")


def _assign(
    names: tuple[str, ...],
    folder: str,
    look: Callable[[np.ndarray], np.ndarray],
    part: Part,
) -> Columns:
    """The values of a part's [N] samples; one that came after a frozen fit has none."""
    hashed, _ = _hashes(part.batch, names)
    addresses = part.batch.addresses
    there = storage.exists(_seen(folder, part.number))
    seen = storage.read_array(_seen(folder, part.number)) if there else _rows(addresses[:0])
    fitted = hashed & np.isin(_rows(addresses), seen)
    members = look(addresses)
    alone = pl.Series(members["count"] == 0)
    errors = np.where(hashed, np.array(NOT_FITTED, object), np.array(NO_HASH, object))
    errors[fitted] = None
    scalars = {
        "part": pl.Series(members["part"]).set(alone, None),
        "count": pl.Series(members["count"]).set(pl.Series(~fitted), None),
        "nearest": pl.Series(members["nearest"]).set(alone, None),
    }
    return Columns(scalars, errors=errors.tolist())
