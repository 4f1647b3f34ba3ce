"""The subsets of a sweep, all in one merge; and its table on disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from curate import storage
from curate.sample import UID
from curate.subsets.sorted_files import (
    Piece,
    RowFile,
    aligned,
    array_file,
    in_order,
    uids_of,
    write_header,
)
from curate.subsets.subset import gather, ranked
from curate.sweep.blocks import copies_in


@dataclass(frozen=True)
class Overlap:
    """What the subset of a branch has in common with that of the file as written; copies count."""

    rows: int
    in_both: int


def merge(runs: Sequence[str], totals: Sequence[int], targets: Mapping[str, int]) -> list[Overlap]:
    """Write the subsets of several branches from the sorted runs of all; memory is bounded.

    Args:
        runs: Files of rows with a uid and the copies of each branch.
        totals: [B] uids in each subset.
        targets: {file to write: number of its branch}.

    Returns:
        [B] how each compares with branch 0.
    """
    files = [array_file(run) for run in runs]
    found = np.zeros(len(totals), dtype=np.int64)
    wanted = sorted(set(targets.values()))
    with ExitStack() as stack:
        handles: dict[int, list[Any]] = {number: [] for number in wanted}
        for url, number in targets.items():
            handle = stack.enter_context(storage.committing(url))
            write_header(handle, totals[number])
            handles[number].append(handle)
        for parts, shared in _chunks(files, wanted, len(totals)):
            found += shared
            for number, uids in parts.items():
                for handle in handles[number]:
                    handle.write(uids.view(np.uint8).data)
    return [Overlap(total, int(both)) for total, both in zip(totals, found, strict=True)]


def _chunks(
    files: Sequence[RowFile], wanted: Sequence[int], branches: int
) -> Iterator[tuple[dict[int, np.ndarray], np.ndarray]]:
    if files:
        yield from in_order(partial(_merged, wanted, branches), aligned(files))


def _merged(
    wanted: Sequence[int], branches: int, pieces: Sequence[Piece]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """The uids of each wanted branch in one chunk of the runs, and what all share with branch 0."""
    uids = uids_of(pieces)
    order, same = ranked(uids, len(pieces))
    uids = gather(uids, order)
    stored = np.concatenate([copies_in(piece.rows, branches) for piece in pieces])  # [N, B]
    copies = np.ascontiguousarray(stored[order].T)  # [B, N]
    parts = {number: _repeated(uids, copies[number]) for number in wanted}
    return parts, _shared(copies, same)


def _repeated(uids: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Sorted uids, each as often as it has copies."""
    rows = np.flatnonzero(copies)
    if copies.max(initial=0) > 1:
        rows = np.repeat(rows, copies[rows])
    return gather(uids, rows) if len(rows) else np.empty(0, dtype=UID)


def _shared(copies: np.ndarray, same: np.ndarray) -> np.ndarray:
    """[B] rows that each branch shares with branch 0, of [B, N] copies of uids in order.

    Args:
        copies: How often each branch has each row.
        same: [N] bool, whether a row's uid is that of the row before.
    """
    total: np.ndarray = np.minimum(copies, copies[0]).sum(axis=1, dtype=np.int64)
    repeats = np.flatnonzero(same)
    if len(repeats):  # rows of one uid count together, whichever of them a branch has
        members = np.union1d(repeats - 1, repeats)
        own = copies[:, members]
        starts = np.flatnonzero(~same[members])
        grouped = np.add.reduceat(own, starts, axis=1, dtype=np.int64)
        total -= np.minimum(own, own[0]).sum(axis=1, dtype=np.int64)
        total += np.minimum(grouped, grouped[0]).sum(axis=1)
    return total


FIELDS = (
    "kept", "kept_at_most", "share", "copies", "in_both", "only_here", "only_in_the_file",
    "jaccard_rows",
)  # fmt: skip


def commit_table(folder: str, table: dict[str, Any], estimates: dict[str, Any]) -> None:
    """Write the table of a sweep; `table.json` is the proof that it is whole, and comes last."""
    paths = table["varied"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*paths, "subset", *FIELDS, "changed", "needs", "fitted_again"])
    for row in table["values"]:
        needs = [f"{step}:{rows}" for step, rows in row["needs"].items()]
        lists = [" ".join(each) for each in (row["changed"], needs, row["fitted_again"])]
        values = [row["values"][path] for path in paths]
        writer.writerow([*values, row["subset"], *(row[name] for name in FIELDS), *lists])
    storage.commit(storage.join(folder, "table.csv"), text.getvalue().encode())
    storage.commit_json(storage.join(folder, "estimates.json"), estimates)
    storage.commit_json(storage.join(folder, "table.json"), table)
