"""Group filters in a run: samples travel to where their group is decided, and the say comes back.

Three kinds, by what decides: a rank within equal keys, a quota of each group that statistics of all
survivors gave, or the pairs that a fitted feature found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import chance, fates
from curate.columns import artefact_folder
from curate.compiled import Compiled
from curate.pairs import Partitions, opened, partition_of, representative
from curate.sample import format_uids
from curate.shuffle import DECISION, MEMBER, decide_groups, partitions
from curate.siphash import hashed
from filters import UNSCORED, Batch, GroupFilter, State, Verdict
from filters._pairs import PairFilter
from filters._quota import QuotaFilter


@dataclass(frozen=True)
class Grouping:
    """A group filter that is ready to decide. Travels to workers."""

    step: GroupFilter
    state: State = field(default_factory=dict)  # what a quota filter learnt
    pairs: Partitions | None = None  # of a pair filter

    def readers(self, rows: int, width: int) -> int:
        """Partitions that so many rows of so many bytes travel to."""
        return self.pairs.count if self.pairs is not None else partitions(rows, width)

    def reader(self, members: np.ndarray, readers: int) -> np.ndarray:
        """[K] int64: the partition of each of [K] MEMBER."""
        first = members["key"][:, 0]
        if self.pairs is not None:
            return partition_of(first, readers)
        return (first % np.uint64(readers)).astype(np.int64)

    def members(self, batch: Batch) -> np.ndarray:
        """[K] MEMBER of those of a batch that are in a group."""
        key = self.step.key(batch)
        known = ~_without_key(key)
        members = np.zeros(int(known.sum()), dtype=MEMBER)
        if isinstance(self.step, PairFilter):
            keys = [key.to_series().cast(pl.UInt64).fill_null(0).to_numpy(), self.step.label(batch)]
        elif isinstance(self.step, QuotaFilter):
            keys = [key.to_series().cast(pl.UInt64).fill_null(0).to_numpy(), np.zeros(key.height)]
        else:
            keys = [_hashed(key, seed=half) for half in (0, 1)]
        for half in (0, 1):
            members["key"][:, half] = keys[half][known]
        members["worse"] = _worse(self.step.priority(batch))[known]
        members["f0"], members["f1"] = batch.uids["f0"][known], batch.uids["f1"][known]
        members["address"] = batch.addresses[known]
        return members

    def decide(self, members: np.ndarray, partition: int) -> np.ndarray:
        """[K] DECISION, in any order, on those of [N] MEMBER who do not simply stay."""
        if isinstance(self.step, PairFilter):
            assert self.pairs is not None
            return _decide_pairs(self.step, members, *self.pairs.read(partition))
        decided = decide_groups(members, self._keep())
        return np.asarray(decided[decided["copies"] != 1])

    def _keep(self) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        step = self.step
        if not isinstance(step, QuotaFilter):
            return lambda _, rank, size: step.keep_ranked(rank, size)
        return partial(_within, self.state)

    def verdict(self, batch: Batch, rows: np.ndarray, told: np.ndarray) -> Verdict:
        """The verdict over [K] rows of a block.

        Args:
            batch: Those rows.
            rows: Which they are, ascending.
            told: The decisions on those of them that do not just stay; addresses and copies.
        """
        if isinstance(self.step, PairFilter):
            unknown = ~self.step.scored(batch)
        else:
            unknown = _without_key(self.step.key(batch))
        place = _places(rows, told)
        copies = np.ones(len(rows), dtype=np.uint32)
        copies[place] = told["copies"]
        copies[unknown] = 0
        reason = fates.nothing(len(rows))
        if len(gone := place[told["copies"] == 0]):
            reason = reason.scatter(gone, self.step.reason())
        if unknown.any():
            reason = reason.scatter(np.flatnonzero(unknown), UNSCORED)
        return Verdict(copies, reason)

    def explained(self, said: Verdict, rows: np.ndarray, told: np.ndarray) -> Verdict:
        """The verdict with the uid that is kept in place of each that is removed."""
        gone = told[told["copies"] == 0]
        because = fates.nothing(len(rows))
        if len(gone) and not isinstance(self.step, QuotaFilter):
            firsts = np.empty(len(gone), dtype=[("f0", "<u8"), ("f1", "<u8")])
            firsts["f0"], firsts["f1"] = gone["first_f0"], gone["first_f1"]
            because = because.scatter(_places(rows, gone), format_uids(firsts))
        return replace(said, because=because)


def grouping(plan: Compiled, step: GroupFilter, state: State) -> Grouping:
    """A group filter, with the pairs that it reads."""
    if not isinstance(step, PairFilter):
        return Grouping(step, state)
    return Grouping(step, state, opened(artefact_folder(plan.work, str(step.of))))


def _within(state: State, key: np.ndarray, rank: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[N] copies of samples of groups [N], by quota; more than there are: some stay repeatedly."""
    quota = np.append(np.asarray(state["quota"], dtype=np.int64), 0)  # 0: of all other groups
    if "groups" in state:
        named = np.append(state["groups"], -1).astype(np.uint64)  # the last: no group's name
        place = np.searchsorted(named[:-1], key)
        own = quota[np.where(named[place] == key, place, -1)]
    else:
        own = quota[np.minimum(key, np.uint64(len(quota) - 1)).astype(np.int64)]
    return np.where(own > size, own // size + (rank < own % size), rank < own)


def _without_key(key: pl.DataFrame) -> np.ndarray:
    """[N] bool: rows of a key in which something is null."""
    return key.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()


def _hashed(key: pl.DataFrame, *, seed: int) -> np.ndarray:
    """[N] uint64: equal rows have equal hashes, on any machine; two seeds make 128 bits."""
    total = np.zeros(key.height, dtype=np.uint64)
    for column in key:
        if column.dtype.is_float():
            column = column.set(column == 0, 0.0)  # -0.0 is no other number
        texts = column.cast(pl.String).fill_null("")
        mixed = np.empty(key.height, dtype=[("f0", "<u8"), ("f1", "<u8")])
        mixed["f0"] = total
        mixed["f1"] = hashed(texts, f"curate group {seed:03d}")
        total = chance.bits(seed, "group", mixed)
    return total


def _worse(priority: np.ndarray) -> np.ndarray:
    """[N] uint64 that ascend as the priority falls; NaN comes last."""
    raw = (np.asarray(priority, dtype=np.float64) + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    ascending = np.where(raw & sign, ~raw, raw | sign)
    return np.where(np.isnan(priority), np.uint64(2**64 - 1), ~ascending)


def _places(rows: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Where among [K] rows of a block those of some decisions are."""
    own = (told["address"] & np.uint64(2**32 - 1)).astype(np.int64)
    return np.searchsorted(rows, own)


def _decide_pairs(
    step: PairFilter, members: np.ndarray, pairs: np.ndarray, twins: np.ndarray
) -> np.ndarray:
    """[K] DECISION on whom of [N] MEMBER the pairs between them remove.

    Of twins the best stands for all; the others go for its sake, or for that of whom it goes for.
    """
    order = np.lexsort((members["address"], members["f1"], members["f0"], members["worse"]))
    ordered = members[order]
    group = np.empty(len(ordered), dtype=[("of", "<u8"), ("label", "<u8")])
    group["of"] = representative(ordered["address"], twins)
    group["label"] = ordered["key"][:, 1]
    if group["label"].any():
        groups, first, number = np.unique(group, return_index=True, return_inverse=True)
    else:  # ten times as fast
        of, first, number = np.unique(group["of"], return_index=True, return_inverse=True)
        groups = np.zeros(len(of), dtype=group.dtype)
        groups["of"] = of
    champion = first[number.reshape(-1)]
    better, worse = _ranked(groups, first, pairs[step.alike(pairs["value"])])
    kept, by = step.keep_pairs(len(ordered), better, worse)
    others = champion != np.arange(len(ordered))
    by[others] = np.where(kept[champion], champion, by[champion])[others]
    gone = np.flatnonzero(others | ~kept)
    decisions = np.zeros(len(gone), dtype=DECISION)
    decisions["address"] = ordered["address"][gone]
    decisions["first_f0"], decisions["first_f1"] = (
        ordered[half][by[gone]] for half in ("f0", "f1")
    )
    return decisions


def _ranked(
    groups: np.ndarray, first: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """([E] the better, [E] the worse) of pairs, as ranks of those that stand for their twins.

    A pair counts for each label that both its sides have; who is no member has no rank.
    """
    there = pl.DataFrame({"of": groups["of"], "label": groups["label"], "rank": first})
    found = (
        pl.DataFrame({"left": pairs["left"], "right": pairs["right"]})
        .join(there, left_on="left", right_on="of")
        .join(there, left_on=["right", "label"], right_on=["of", "label"], suffix="_right")
    )
    ends: list[Any] = [found["rank"].to_numpy(), found["rank_right"].to_numpy()]
    return np.minimum(*ends), np.maximum(*ends)
