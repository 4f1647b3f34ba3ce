"""What subsets have in common and apart, by streaming sorted files of any size side by side.

A subset is a multiset: a uid stands in it as often as its sample is to be seen (its copies).
Nothing here reads a whole file, and none that is not sorted passes: `NotSorted` names the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import numpy as np

from curate.sample import UID, format_uids
from curate.subsets.sorted_files import NotSorted, Piece, RowFile, aligned, in_order, uids_of
from curate.subsets.subset import gather, ranked
from curate.subsets.subset_file import Sequential


@dataclass(frozen=True)
class Groups:
    """The rows of one chunk, grouped by uid and, within, by the file that they come from.

    G distinct uids, E entries: an entry is a uid in one file.
    """

    uids: np.ndarray  # [G] UID, ascending
    copies: np.ndarray  # [E] int64, how often that file has that uid; at least 1
    file: np.ndarray  # [E] uint16, number of the file
    first: np.ndarray  # [G] int64, the first entry of each uid; its entries lie together
    files: int

    def reduced(self, by: np.ufunc) -> np.ndarray:
        """[G] copies of each uid, those of the files that have it taken together."""
        if len(self.copies) and self.copies.max() == 1:  # the most frequent case, much faster so
            return self.in_files() if by is np.add else np.ones(len(self.uids), dtype=np.int64)
        return np.asarray(by.reduceat(self.copies, self.first))

    def of_first(self) -> np.ndarray:
        """[G] copies in the first file, whose entry is ahead of the others'."""
        return np.asarray(np.where(self.file[self.first] == 0, self.copies[self.first], 0))

    def in_files(self) -> np.ndarray:
        """[G] in how many of the files each uid is."""
        return np.diff(self.first, append=len(self.copies))


Rule = Callable[[Groups], np.ndarray]  # [G] how many copies of each uid are in the result


def union(copies: Literal["max", "sum"]) -> Rule:
    """All uids; as often as in the file with most of them, or as in all files together."""
    by = {"max": np.maximum, "sum": np.add}[copies]
    return lambda groups: groups.reduced(by)


def intersect() -> Rule:
    """The uids that all files have, as often as in the file with fewest of them."""

    def rule(groups: Groups) -> np.ndarray:
        least = groups.reduced(np.minimum)
        return np.asarray(np.where(groups.in_files() == groups.files, least, 0))

    return rule


def minus(copies: Literal["all", "each"]) -> Rule:
    """The uids of the first file without those of the others.

    Args:
        copies: `all`: who is in another file is gone, however many copies there were (so that
            nothing of a test set stays). `each`: every copy there takes away one copy here.
    """

    def rule(groups: Groups) -> np.ndarray:
        own = groups.of_first()
        if copies == "each":
            return np.asarray(
                np.maximum(2 * own - groups.reduced(np.add), 0)
            )  # own less the others'
        return np.asarray(np.where(groups.in_files() == 1, own, 0))

    return rule


def grouped(pieces: Sequence[Piece]) -> Groups:
    """The uids of a chunk and who has how many of them; NotSorted where a file is not."""
    for piece in pieces:
        piece.check()
    if len(pieces) == 1:
        return _grouped_alone(pieces[0].rows)
    uids = uids_of(pieces)
    order, same = ranked(uids, len(pieces))
    counts = [len(piece.rows) for piece in pieces]
    file = np.repeat(np.arange(len(pieces), dtype=np.uint16), counts)[order]  # [N]
    begins = ~same
    begins[1:] |= file[1:] != file[:-1]  # the sort is stable: copies in one file stay together
    entries = np.flatnonzero(begins)  # [E]
    first = np.flatnonzero(~same[entries])  # [G]
    copies = np.diff(entries, append=len(uids))
    return Groups(gather(uids, order[entries[first]]), copies, file[entries], first, len(pieces))


def _grouped_alone(uids: np.ndarray) -> Groups:
    entries = np.flatnonzero(~_repeats(uids))
    copies = np.diff(entries, append=len(uids))
    distinct = uids if len(entries) == len(uids) else gather(uids, entries)
    file = np.zeros(len(entries), dtype=np.uint16)
    return Groups(distinct, copies, file, np.arange(len(entries)), 1)


def _repeats(uids: np.ndarray) -> np.ndarray:
    """[N] bool, which of sorted uids is the one before."""
    same = np.zeros(len(uids), dtype=bool)
    f0, f1 = uids["f0"], uids["f1"]
    same[1:] = (f0[1:] == f0[:-1]) & (f1[1:] == f1[:-1])
    return same


def combined(files: Sequence[RowFile], rule: Rule) -> Sequential:
    """The uids that a rule selects from sorted files, to be written."""
    return Sequential(
        lambda: in_order(partial(_selected, rule), aligned(files)),
        lambda: sum(in_order(partial(_count, rule), aligned(files))),
    )


def _selected(rule: Rule, pieces: Sequence[Piece]) -> np.ndarray:
    groups = grouped(pieces)
    copies = rule(groups)
    if len(copies) and copies.min() == copies.max() == 1:
        return groups.uids
    return np.repeat(groups.uids.view("V16"), copies).view(UID)


def _count(rule: Rule, pieces: Sequence[Piece]) -> int:
    return int(rule(grouped(pieces)).sum())


@dataclass(frozen=True)
class Comparison:
    """Two subsets side by side: as sets of uids, and as multisets of rows (copies counted)."""

    rows_a: int = 0
    rows_b: int = 0
    uids_a: int = 0
    uids_b: int = 0
    uids_in_both: int = 0
    uids_only_in_a: int = 0
    uids_only_in_b: int = 0
    uids_with_other_copies: int = 0  # in both, but not as often
    rows_in_both: int = 0  # the smaller number of copies of each uid
    rows_in_either: int = 0  # the larger

    def __add__(self, other: Comparison) -> Comparison:
        names = [field.name for field in fields(self)]
        return Comparison(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def shares(self) -> dict[str, float]:
        """Jaccard index and containment; an empty subset is contained in any, and equals another.

        `jaccard` is uids in both / uids in either, `a_in_b` is uids in both / uids of A. The same
        with `_rows` counts copies: smaller numbers / larger numbers, smaller numbers / rows of A.
        """
        either = self.uids_in_both + self.uids_only_in_a + self.uids_only_in_b
        return {
            "jaccard": _share(self.uids_in_both, either),
            "a_in_b": _share(self.uids_in_both, self.uids_a),
            "b_in_a": _share(self.uids_in_both, self.uids_b),
            "jaccard_rows": _share(self.rows_in_both, self.rows_in_either),
            "a_in_b_rows": _share(self.rows_in_both, self.rows_a),
            "b_in_a_rows": _share(self.rows_in_both, self.rows_b),
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def compare(a: RowFile, b: RowFile) -> Comparison:
    """What two sorted subsets share."""
    return sum(in_order(_compared, aligned([a, b])), Comparison())


def _compared(pieces: Sequence[Piece]) -> Comparison:
    groups = grouped(pieces)
    a = groups.of_first()
    b = groups.reduced(np.add) - a
    in_a, in_b = a > 0, b > 0
    both = in_a & in_b
    rows_a, rows_b, rows_in_both = int(a.sum()), int(b.sum()), int(np.minimum(a, b).sum())
    uids_a, uids_b, uids_in_both = (int(np.count_nonzero(each)) for each in (in_a, in_b, both))
    return Comparison(
        rows_a=rows_a,
        rows_b=rows_b,
        uids_a=uids_a,
        uids_b=uids_b,
        uids_in_both=uids_in_both,
        uids_only_in_a=uids_a - uids_in_both,
        uids_only_in_b=uids_b - uids_in_both,
        uids_with_other_copies=int(np.count_nonzero(both & (a != b))),
        rows_in_both=rows_in_both,
        rows_in_either=rows_a + rows_b - rows_in_both,
    )


@dataclass(frozen=True)
class Info:
    """What one subset file holds."""

    rows: int
    first_uid: str | None  # of the first and the last row as they stand; None where there is none
    last_uid: str | None
    unsorted_row: int | None  # the first row that belongs before the one ahead of it
    uids: int | None  # distinct; unknown where it is not sorted
    most_copies: int | None  # of one uid; unknown where it is not sorted


def describe(file: RowFile) -> Info:
    """Rows, distinct uids, largest multiplicity and order of one subset file."""
    uids, most, wrong = 0, 0, None
    try:
        for distinct, copies in in_order(_multiplicity, aligned([file])):
            uids, most = uids + distinct, max(most, copies)
    except NotSorted as error:
        wrong = error.row
    ends = [file.read(row, row + 1) for row in ((0, file.rows - 1) if file.rows else ())]
    first, last = [format_uids(end)[0] for end in ends] or (None, None)
    return Info(
        rows=file.rows,
        first_uid=first,
        last_uid=last,
        unsorted_row=wrong,
        uids=None if wrong is not None else uids,
        most_copies=None if wrong is not None else most,
    )


def _multiplicity(pieces: Sequence[Piece]) -> tuple[int, int]:
    """(distinct uids, most copies of one) of a chunk."""
    groups = grouped(pieces)
    return len(groups.uids), int(groups.copies.max(initial=0))
