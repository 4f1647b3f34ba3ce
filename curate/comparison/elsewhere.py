"""What became, in the other run, of the samples that only one side kept, and how many there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate import storage
from curate.comparison.blocks import Block
from curate.comparison.sides import LETTERS, OTHER, Letter, Pair
from curate.subsets.algebra import Comparison, describe
from curate.subsets.sorted_files import array_file
from curate.subsets.subset import save, sort
from curate.subsets.subset_file import sort_batches

Json = dict[str, Any]


@dataclass(frozen=True)
class Tally:
    """What some blocks add."""

    kept: Counter[Letter]  # rows of each side, where its samples are read
    only: Counter[Letter]
    both: int  # rows of the pool that both runs began with
    rows: int  # all of that pool
    reasons: Counter[tuple[Letter, str, str]]  # (who kept them, step and reason of the other run)


@dataclass(frozen=True)
class Tallies:
    """Counts rows by who kept them, and by what the other run says of them."""

    scratch: str  # where the uids that were found are left, to be counted
    same_pool: str  # "same" where both runs began with the same rows

    def look(self, block: Block) -> Tally:
        members, own = block.members, block.view.own
        kept = Counter({one: int(members.kept[one].sum()) for one in block.view.of})
        only = Counter({one: int(members.only[one].sum()) for one in block.view.of})
        first = own == "a" and self.same_pool == "same"
        both = int((members.kept["a"] & members.kept["b"]).sum()) if first else 0
        guest = OTHER[own]  # whose samples this run says something of
        theirs = np.flatnonzero(members.only[guest])
        fates = members.said[own]
        codes = np.bincount(fates.code[theirs], minlength=len(fates.known) + 1)[1:]
        reasons = Counter(
            {
                (guest, step, reason): rows
                for (step, reason), rows in zip(fates.known, codes.tolist(), strict=True)
                if rows
            }
        )
        if self.same_pool != "same":
            name = f"{own}-{block.span.block:06d}.npy"
            save(storage.join(self.scratch, name), sort(block.uids[theirs]))
        return Tally(kept, only, both, len(block.span) if first else 0, reasons)

    def merge(self, left: Tally, right: Tally) -> Tally:
        return Tally(
            left.kept + right.kept,
            left.only + right.only,
            left.both + right.both,
            left.rows + right.rows,
            left.reasons + right.reasons,
        )

    def nothing(self) -> Tally:
        return Tally(Counter(), Counter(), 0, 0, Counter())


def rows_of(tally: Tally) -> Json:
    """Rows of the pool that both began with, by who kept them."""
    only_a, only_b = tally.only["a"], tally.only["b"]
    return {
        "both": tally.both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": tally.rows - tally.both - only_a - only_b,
    }


def elsewhere(pair: Pair, tally: Tally, sets: Comparison, scratch: str) -> list[Json]:
    """The section of each side."""
    found = []
    for letter in LETTERS:
        own = [(key, n) for key, n in tally.reasons.items() if key[0] == letter]
        own.sort(key=lambda item: (-item[1], item[0]))
        known = pair.sides[OTHER[letter]].facts is not None
        reasons = [{"step": step, "reason": reason, "rows": n} for (_, step, reason), n in own]
        absent = None
        if pair.pool == "same":
            absent = 0
        elif known:
            only = sets.uids_only_in_a if letter == "a" else sets.uids_only_in_b
            absent = only - _uids(scratch, OTHER[letter])
        rows = sum(n for _, n in own)
        section = {"of": letter, "known": known, "rows": rows, "reasons": reasons}
        found.append({**section, "uids_absent": absent})
    return found


def _uids(scratch: str, own: Letter) -> int:
    """How many different uids the blocks of a run left."""
    names = [name for name in storage.names(scratch) if name.startswith(f"{own}-")]
    files = [array_file(storage.join(scratch, name)) for name in names]
    if not files:
        return 0
    target = storage.join(scratch, f"sorted-{own}.npy")
    sort_batches((file.read(0, file.rows) for file in files), target)
    return describe(array_file(target)).uids or 0
