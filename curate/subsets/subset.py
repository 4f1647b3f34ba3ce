"""A subset: the sorted uids that a selection kept, a uid repeated for a sample repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from curate import storage
from curate.errors import StorageError
from curate.sample import UID
from curate.subsets.sorted_files import (
    CHUNK,
    Piece,
    RowFile,
    aligned,
    array_file,
    in_order,
    uids_of,
    write_header,
)

Kind = Literal["quicksort", "stable"]
Copies = Literal["one each", "as stored"]


def sort(uids: np.ndarray) -> np.ndarray:
    """[N] UID in ascending order of their 128 bits."""
    order, _ = ranked(uids)
    return gather(uids, order)


def gather(uids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[M] UID at [M] row numbers, in one piece each, where numpy copies field by field."""
    return np.take(uids.view("V16"), rows, mode="clip").view(UID)


def ranked(uids: np.ndarray, runs: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The stable order of [N] uids by their 128 bits.

    The upper bits of f0 and the row number are sorted as one number; neighbours that these bits
    do not tell apart (hardly any but repeated uids) are then put right.

    Args:
        uids: [N] UID.
        runs: How many sorted runs the rows consist of; 0 where that is not known.

    Returns:
        [N] int64, the row numbers in order; [N] bool, true where that row's uid is the one before.
    """
    same = np.zeros(len(uids), dtype=bool)
    order, near = _packed(uids["f0"], "stable" if runs in (1, 2) else "quicksort")
    if not len(near):
        return order, same
    first, second = gather(uids, order[near]), gather(uids, order[near + 1])
    if _exceeds(first, second).any():
        rows = np.union1d(near, near + 1)
        unsure = order[rows]
        by_low = unsure[_argsort(uids["f1"][unsure])]
        order[rows] = by_low[_argsort(uids["f0"][by_low])]
        first, second = gather(uids, order[near]), gather(uids, order[near + 1])
    same[near + 1] = (first["f0"] == second["f0"]) & (first["f1"] == second["f1"])
    return order, same


def _exceeds(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    high, low = first["f0"] == second["f0"], first["f1"] > second["f1"]
    return np.asarray((first["f0"] > second["f0"]) | (high & low))


def _argsort(keys: np.ndarray) -> np.ndarray:
    """The stable order of [N] uint64."""
    order, near = _packed(keys, "quicksort")
    if (keys[order[near]] > keys[order[near + 1]]).any():
        rows = np.union1d(near, near + 1)
        unsure = order[rows]
        order[rows] = unsure[np.argsort(keys[unsure], kind="stable")]
    return order


def _packed(keys: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """The order of [N] uint64 by their upper bits and row, and those that the next is alike to."""
    if not len(keys):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    least = keys.min()
    unused = 64 - int(keys.max() - least).bit_length()
    numbers = np.uint64((1 << (len(keys) - 1).bit_length()) - 1)  # all bits of row numbers
    packed = keys - least
    packed <<= np.uint64(min(unused, 63))
    packed &= ~numbers
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort(kind=kind)  # numbers alone: five times as fast as an argsort
    near = np.flatnonzero((packed[1:] ^ packed[:-1]) <= numbers)
    packed &= numbers
    return packed.view(np.int64), near


def save(url: str, uids: np.ndarray) -> None:
    """Write a sorted subset as DataComp's `u8,u8` .npy."""
    storage.commit_array(url, np.ascontiguousarray(uids, dtype=UID))


def load(url: str) -> np.ndarray:
    """[N] UID of a subset file; StorageError where it is not one, or truncated."""
    try:
        uids = storage.read_array(url)
    except (ValueError, EOFError) as error:
        array_file(url)  # says it in numbers where rows are cut off
        raise StorageError(f"{url} is not a subset: {error}") from None
    if uids.dtype != UID or uids.ndim != 1:
        raise StorageError(
            f"{url} holds {uids.dtype} of shape {uids.shape}; a subset is `u8,u8`, [N]"
        )
    return uids


RUN = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("address", "<u8"), ("copies", "<u4")])
SHARED = np.dtype([("address", "<u8"), ("first", "<u4")])


def save_run(url: str, uids: np.ndarray, addresses: np.ndarray, copies: np.ndarray) -> None:
    """Write the [K] kept rows of a block, sorted by uid and address."""
    if (addresses[1:] < addresses[:-1]).any():
        ascending = np.argsort(addresses, kind="stable")
        uids, addresses, copies = uids[ascending], addresses[ascending], copies[ascending]
    order, _ = ranked(uids)
    run = np.empty(len(uids), dtype=RUN)
    run["f0"], run["f1"] = uids["f0"][order], uids["f1"][order]
    run["address"], run["copies"] = addresses[order], copies[order]
    storage.commit_array(url, run)


def merge(runs: Sequence[str], url: str) -> np.ndarray:
    """Merge sorted runs into one subset file; memory is bounded whatever their number and size.

    Returns:
        [S] SHARED, sorted by address: for every kept row whose uid another kept row has too, the
        number of its first copy, so that `{uid}-{copy}` names each copy once.
    """
    files = [array_file(run) for run in runs]
    total = sum(_copies(file) for file in files)
    # Each row stands for one copy at least.
    copies: Copies = "one each" if total == sum(file.rows for file in files) else "as stored"
    shared = [np.empty(0, dtype=SHARED)]
    with storage.committing(url) as handle:
        write_header(handle, total)
        for uids, names in in_order(partial(_merged, copies), aligned(files)):
            handle.write(uids.view(np.uint8).data)
            shared.append(names)
    found = np.concatenate(shared)
    return found[np.argsort(found["address"])]


def _copies(file: RowFile) -> int:
    """How many copies the rows of a run stand for."""
    starts = range(0, file.rows, CHUNK)
    parts = (file.read(start, min(start + CHUNK, file.rows)) for start in starts)
    return sum(int(part["copies"].sum(dtype=np.int64)) for part in parts)


def _merged(copies: Copies, pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """The uids of one chunk of the runs, as often as there are copies, and those that are shared.

    Rows that share a uid are numbered by address, whatever run they are in.
    """
    uids = uids_of(pieces)
    order, same = ranked(uids, len(pieces))
    uids = gather(uids, order)
    shared = _shared(pieces, order, same)
    if copies == "as stored":
        counts = np.concatenate([piece.rows["copies"] for piece in pieces])
        uids = np.repeat(uids.view("V16"), counts[order]).view(UID)
    return uids, shared


def _shared(pieces: Sequence[Piece], order: np.ndarray, same: np.ndarray) -> np.ndarray:
    """[S] SHARED of the rows whose uid is not theirs alone."""
    repeats = np.flatnonzero(same)
    members = np.union1d(repeats - 1, repeats)  # in order: each group one behind the other
    group = np.cumsum(~same[members])
    found = _rows(pieces, order[members])
    found = found[np.lexsort((found["address"], group))]  # which keeps groups where they are
    copies = found["copies"].astype(np.int64)
    ahead = np.cumsum(copies) - copies
    shared = np.empty(len(found), dtype=SHARED)
    shared["address"] = found["address"]
    shared["first"] = ahead - ahead[np.searchsorted(group, group)]
    return shared


def _rows(pieces: Sequence[Piece], numbers: np.ndarray) -> np.ndarray:
    """[M] RUN at [M] row numbers, counted through all pieces."""
    stops = np.cumsum([len(piece.rows) for piece in pieces])
    which = np.searchsorted(stops, numbers, "right")
    found = np.empty(len(numbers), dtype=RUN)
    for number in np.unique(which).tolist():
        own = which == number
        rows = pieces[number].rows
        found[own] = rows[numbers[own] - (stops[number] - len(rows))]
    return found
