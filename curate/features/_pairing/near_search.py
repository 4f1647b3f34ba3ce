"""The search for pairs from end to end: count, send, thin dense clusters, multiply, settle."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from curate import pairs, storage
from curate.features import Rows
from curate.features._pairing.dense import (
    Expected,
    Probes,
    Rules,
    Twins,
    expected,
    save_thinned,
    thin,
)
from curate.features._pairing.near_layout import Layout
from curate.features._pairing.near_pairs import TALLY, find, tally_file
from curate.features._pairing.near_sending import Source, count, joined, send
from curate.pairs import PAIR, TWIN

QUERIES = 1024  # samples, those of the smallest draws, whose neighbours tell the recall
_MORE = 1.25  # times as many are looked at, so that hardly ever there are too few
_GATHERED = 1 << 30  # bytes of embeddings that a task sends
_SENDERS = 8  # at least, where there are enough samples
_LISTED = 100  # dense clusters in the report

__all__ = ["Rules", "Source", "clear", "search"]


def search(source: Source, rules: Rules, rows: Rows, folder: str) -> dict[str, Any]:
    """Find and settle all pairs; what is there from a search that was stopped is not done again.

    Returns:
        What a report says of them.
    """
    layout = Layout.load(folder) or _laid_out(source, rules, rows, folder)
    for _ in rows.gather(partial(send, source, rules, folder), layout.rows):
        pass
    dense = _thinned(rules, rows, layout)
    tasks = list(layout.tasks()) if layout.samples else []
    for _ in rows.each(partial(find, rules, folder, len(tasks)), tasks):
        pass
    tallies = [storage.read_json(tally_file(folder, task.number)) for task in tasks]
    settled = _settled(rows, folder, [tally["files"] for tally in tallies])
    total = {name: sum(tally[name] for tally in tallies) for name in TALLY}
    return {"samples": layout.samples, **settled, **_work(total, layout.width), **dense}


def _settled(rows: Rows, folder: str, files: list[int]) -> dict[str, int]:
    """Settle what the tasks wrote to so many files each; those that one lacks are empty."""
    most, tasks = max(files, default=1), max(len(files), 1)
    for task in range(tasks):
        for number in range(files[task] if files else 0, most):
            nothing = (np.empty(0, dtype=PAIR), np.empty(0, dtype=TWIN))
            pairs.write(folder, task + number * tasks, *nothing)
    return pairs.settle(rows, folder, tasks * most, "highest")


def clear(folder: str) -> None:
    """Remove what was needed only to find the pairs."""
    for left in ("shuffle", "probes", "queries.npy", "thinned", "thinned.npy", "tally", "found"):
        storage.remove(storage.join(folder, left))


def _laid_out(source: Source, rules: Rules, rows: Rows, folder: str) -> Layout:
    members, samples, queries = np.zeros(1, dtype=np.int64), 0, list[np.ndarray]()
    share = _MORE * QUERIES / max(rows.count, 1)
    for found in rows.map(partial(count, source, share, folder)):
        more = int(found.clusters.max(initial=0)) + 1 - len(members)
        members = np.concatenate([members, np.zeros(max(more, 0), dtype=np.int64)])
        members[found.clusters] += found.members
        samples += found.samples
        queries.append(found.queries)
    asked = joined(source.of, queries)
    asked = asked[np.lexsort([asked[name] for name in ("address", "f1", "f0", "draw")])][:QUERIES]
    floors = np.full(len(members), rules.floor, dtype=np.float32)
    storage.commit_array(storage.join(folder, "queries.npy"), asked)
    storage.commit_array(storage.join(folder, "floors.npy"), floors)
    vector = asked.dtype["vector"]
    taken = max(1, min(_GATHERED // vector.itemsize, -(-rows.count // _SENDERS)))
    senders = (rows.gathers(taken), taken)
    layout = Layout.planned(folder, members, samples, vector, senders)
    layout.save()
    return layout


def _work(total: dict[str, int], width: int) -> dict[str, Any]:
    """Products in GFLOP (two for each number of an embedding), and the recall."""
    gflop = {
        f"gflop_{name}": round(total[name] * 2 * width / 1e9, 6) for name in ("required", "done")
    }
    recall = total["found"] / total["true"] if total["true"] else None
    return {**gflop, "recall": recall, "recall_pairs": total["true"]}


def _thinned(rules: Rules, rows: Rows, layout: Layout) -> dict[str, Any]:
    """Thin the clusters that have too many pairs, and raise the floors of those that still do."""
    probes, folder = Probes.of(layout, rules), layout.folder
    dense: list[int] = []
    if probes.any:
        dense = Twins(folder).clusters.tolist()
        if not dense:
            first = _expected(rules, rows, probes, np.arange(len(probes.rate)))
            dense = sorted(one.cluster for one in first if not one.most(rules)[0])
    if not dense:
        return {"dense": []}
    for _ in rows.each(partial(thin, folder, rules), dense):
        pass
    save_thinned(folder, dense)
    floors = np.full(len(layout.clusters), rules.floor, dtype=np.float32)
    for one in _expected(rules, rows, probes, np.array(dense)):
        fits = np.flatnonzero(one.most(rules))
        floors[one.cluster] = rules.floors()[fits[0] if len(fits) else -1]
    storage.commit_array(storage.join(folder, "floors.npy"), floors)
    return {"dense": _listed(layout, floors, dense), "dense_clusters": len(dense)}


def _expected(rules: Rules, rows: Rows, probes: Probes, wanted: np.ndarray) -> list[Expected]:
    work = partial(expected, probes.sent.folder.rpartition("/")[0], rules, wanted)
    return [one for found in rows.each(work, range(probes.sent.readers)) for one in found]


def _listed(layout: Layout, floors: np.ndarray, dense: list[int]) -> list[dict[str, Any]]:
    """The largest dense clusters, and what was done about them."""
    members, twins = layout.clusters["members"], Twins(layout.folder)
    largest = sorted(dense, key=lambda one: (-int(members[one]), one))[:_LISTED]
    return [
        {
            "cluster": one,
            "members": int(members[one]),
            "twins": len(twins.of(one)),
            "floor": round(float(floors[one]), 6),
        }
        for one in largest
    ]
