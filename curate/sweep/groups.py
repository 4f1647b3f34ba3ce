"""Group filters of all variants in one shuffle: a sample travels once, with who still has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate import fates
from curate.columns import Span
from curate.groups import Grouping
from curate.shuffle import MEMBER, Exchange
from curate.sweep.blocks import Block, Survivors, verdict
from curate.sweep.variants import Variants
from filters import GroupFilter

TOLD = np.dtype([("address", "<u8"), ("copies", "<u4")])


@dataclass(frozen=True)
class Shuffle:
    """One group filter as several branches have it, and where its samples and decisions go."""

    variants: Variants
    index: int
    branches: tuple[int, ...]  # after the step; its recipe is the same in all of them
    there: Exchange
    back: tuple[Exchange, ...]  # one a branch
    ready: tuple[Grouping, ...]  # the filter with what it learnt, one a branch

    @property
    def record(self) -> np.dtype[np.void]:
        """A sample on its way, and one bit a branch."""
        return member_dtype(len(self.branches))


def member_dtype(branches: int) -> np.dtype[np.void]:
    """A sample on its way to its group, and which of so many branches still have it."""
    return np.dtype([("member", MEMBER), ("who", "u1", (-(-branches // 8),))])


def send(shuffle: Shuffle, span: Span) -> None:
    """Write the samples of a block that any branch still has to the partitions of their groups."""
    variants, index = shuffle.variants, shuffle.index
    work = variants.plans[0].work
    alive = np.empty((len(span), len(shuffle.branches)), dtype=bool)
    known: dict[int, np.ndarray] = {}
    for number, branch in enumerate(shuffle.branches):
        parent = variants.branches[index][branch]
        if parent not in known:
            known[parent] = fates.read(work, verdict(index, parent), span).alive
        alive[:, number] = known[parent]
    survivors = Survivors(Block(work, span), np.flatnonzero(alive.any(axis=1)))
    plan, group = variants.plans[shuffle.branches[0]], shuffle.ready[0]
    members = group.members(survivors.batch(plan, index, group.step.name))
    records = np.empty(len(members), dtype=shuffle.record)
    records["member"] = members
    rows = (members["address"] & np.uint64(2**32 - 1)).astype(np.int64) - span.start
    records["who"] = np.packbits(alive[rows], axis=1)
    shuffle.there.write(span.block, records, group.reader(members, shuffle.there.readers))


def settle(shuffle: Shuffle, partition: int) -> None:
    """Decide the groups of one partition for each branch, and send what was decided back."""
    records = shuffle.there.read(partition)
    members, who = records["member"], records["who"]
    for number, back in enumerate(shuffle.back):
        mine = (who[:, number // 8] >> np.uint8(7 - number % 8)) & 1 == 1
        decided = shuffle.ready[number].decide(members[mine], partition)
        told = np.empty(len(decided), dtype=TOLD)
        told["address"], told["copies"] = decided["address"], decided["copies"]
        told = told[np.argsort(told["address"], kind="stable")]
        back.write(partition, told, (told["address"] >> np.uint64(32)).astype(np.int64))


def recipes(variants: Variants, index: int, branches: Sequence[int]) -> list[tuple[int, ...]]:
    """The branches after a step that have a group filter there, those with the same together."""
    found: dict[str, list[int]] = {}
    for branch in branches:
        step = variants.step(index, branch)
        if isinstance(step, GroupFilter):
            key = step.model_dump_json()
            found.setdefault(key, []).append(branch)
    return [tuple(each) for each in found.values()]
