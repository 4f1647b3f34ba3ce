"""A subset: the sorted uids that a selection kept, a uid repeated for a sample repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from curate import storage
from curate.errors import StorageError
from curate.sample import UID

CHUNK = 25_000_000  # uids sorted at once: 400 MB


def sort(uids: np.ndarray) -> np.ndarray:
    """[N] UID in ascending order of their 128 bits."""
    return uids[np.lexsort((uids["f1"], uids["f0"]))]


def save(url: str, uids: np.ndarray) -> None:
    """Write a sorted subset as DataComp's `u8,u8` .npy."""
    storage.commit_array(url, np.ascontiguousarray(uids, dtype=UID))


def load(url: str) -> np.ndarray:
    """[N] UID of a subset file; StorageError where it is not one."""
    try:
        uids = storage.read_array(url)
    except ValueError as error:
        raise StorageError(f"{url} is not a subset: {error}") from None
    if uids.dtype != UID or uids.ndim != 1:
        raise StorageError(
            f"{url} holds {uids.dtype} of shape {uids.shape}; a subset is `u8,u8`, [N]"
        )
    return uids


RUN = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("address", "<u8"), ("copies", "<u4")])
SHARED = np.dtype([("address", "<u8"), ("first", "<u4")])


def save_run(url: str, uids: np.ndarray, addresses: np.ndarray, copies: np.ndarray) -> None:
    """Write the [K] kept rows of a block, sorted by uid."""
    run = np.empty(len(uids), dtype=RUN)
    run["f0"], run["f1"] = uids["f0"], uids["f1"]
    run["address"], run["copies"] = addresses, copies
    storage.commit_array(url, run[np.lexsort((addresses, run["f1"], run["f0"]))])


def merge(runs: Sequence[str], url: str) -> np.ndarray:
    """Merge sorted runs into one subset file; memory is bounded by CHUNK rows.

    Returns:
        [S] SHARED, sorted by address: for every kept row whose uid another kept row has too, the
        number of its first copy, so that `{uid}-{copy}` names each copy once.
    """
    total = sum(int(storage.read_array(run)["copies"].sum(dtype=np.int64)) for run in runs)
    rows = sum(len(storage.read_array(run)) for run in runs)
    shared = [np.empty(0, dtype=SHARED)]
    with storage.committing(url) as handle:
        header = {
            "descr": np.lib.format.dtype_to_descr(UID),
            "fortran_order": False,
            "shape": (total,),
        }
        np.lib.format.write_array_header_1_0(handle, header)
        for chunk in _ranges(runs, -(-rows // CHUNK) or 1):
            uids = np.empty(len(chunk), dtype=UID)
            uids["f0"], uids["f1"] = chunk["f0"], chunk["f1"]
            handle.write(np.repeat(uids, chunk["copies"]).tobytes())
            shared.append(_shared(chunk))
    found = np.concatenate(shared)
    return found[np.argsort(found["address"])]


def _shared(chunk: np.ndarray) -> np.ndarray:
    """[S] SHARED of the rows of a sorted chunk whose uid is not theirs alone."""
    same = (chunk["f0"][1:] == chunk["f0"][:-1]) & (chunk["f1"][1:] == chunk["f1"][:-1])
    after, before = np.append(False, same), np.append(same, False)
    copies = chunk["copies"].astype(np.int64)
    ahead = np.cumsum(copies) - copies  # copies of all rows before, in the chunk
    start = (
        np.maximum.accumulate(np.where(after, 0, np.arange(len(chunk)))) if len(chunk) else after
    )
    rows = np.flatnonzero(after | before)
    shared = np.empty(len(rows), dtype=SHARED)
    shared["address"] = chunk["address"][rows]
    shared["first"] = (ahead - ahead[start])[rows] if len(chunk) else 0
    return shared


def _ranges(runs: Sequence[str], pieces: int) -> Iterator[np.ndarray]:
    """The rows of all runs by ascending uid, one range of the upper 64 bits after the other."""
    edges = np.array([piece * 2**64 // pieces for piece in range(1, pieces)], dtype=np.uint64)
    arrays = [storage.read_array(run) for run in runs]
    cuts = [[0, *np.searchsorted(a["f0"], edges).tolist(), len(a)] for a in arrays]
    for piece in range(pieces):
        parts = [a[cut[piece] : cut[piece + 1]] for a, cut in zip(arrays, cuts, strict=True)]
        chunk = np.concatenate([np.empty(0, dtype=RUN), *parts])
        yield chunk[np.lexsort((chunk["address"], chunk["f1"], chunk["f0"]))]
