"""Concepts in a report: how the entries of a list fared, before and after each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from curate import columns, storage
from curate.concepts.entry_list import EntryList, of_frame
from curate.concepts.matching import hardly_match
from curate.parquet import read_parquet, write_parquet
from curate.report.concepts.balances import balances, balances_of
from curate.report.concepts.counts import (
    Counted,
    Track,
    count,
    part_of,
    ranks_of,
    share,
    tracks,
    with_tail,
)
from curate.report.facts import Facts
from curate.runner import Runner

HEAD = 30  # entries shown, the most frequent before
VANISHED = 50  # entries shown of those that nobody has in the end
TOP = 100  # the top is one in so many of them
LONGEST = 100  # characters of an entry
_COUNTS = "concepts-"  # begins the names of the files of counts


def concepts(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """What became of the concepts of each `concepts` step; every count goes to a file of its own.

    A sample counts for every step that left it in, from the `concepts` step on: so one that the
    probe looked at, but that was removed before, counts nowhere. It counts once for each entry.
    """
    found = tracks(facts)
    own = {_file_name(track.step) for track in found}
    folder = storage.join(facts.plan.work, "report")
    for name in storage.names(folder):
        if name.startswith(_COUNTS) and name not in own:  # of a step that there is no more
            storage.remove(storage.join(folder, name))
    return [_section(facts, track, runner) for track in found]


def _section(facts: Facts, track: Track, runner: Runner) -> dict[str, Any]:
    listed = _list_of(facts.plan.work, track.step)
    found = list(balances_of(facts, track.step, len(listed)))
    draws = [balance.draw for balance in found if balance.draw is not None]
    counted = count(facts, track, len(listed), draws, runner)
    in_tail = np.zeros(len(listed), dtype=bool)
    in_tail[counted.tail] = True
    names = [facts.plan.steps[index].name for index in track.stages]
    _write_counts(facts.plan.work, track.step, names, (listed, counted))
    return {
        "step": track.step,
        "list": {
            "entries": len(listed),
            "digest": facts.plan.recipes[track.step]["entries"]["sha256"],
            "sources": _tally(listed.source),
            "hardly_match": int(hardly_match(listed.entries).sum()),
            "languages": _tally(listed.language.filter(listed.language != "")),
        },
        "stages": [_stage(counted, number, name) for number, name in enumerate(names)],
        "copies": {"samples": counted.total_copies, "matches": int(counted.copies.sum())},
        "head": [
            {
                **_named(listed, entry),
                "samples": counted.entries[:, entry].tolist(),
                "copies": int(counted.copies[entry]),
            }
            for entry in counted.order[:HEAD].tolist()
        ],
        "tail": _tail(counted, with_tail(facts, track, in_tail, runner)),
        "vanished": _vanished(listed, counted),
        "curve": _curve(counted),
        "balances": balances(facts, found, track, counted, runner),
    }


def _list_of(work: str, step: str) -> EntryList:
    """The list that a step keeps."""
    folder = columns.artefact_folder(work, step)
    names = [name for name in storage.names(folder) if name.startswith("entries-")]
    assert len(names) == 1, (folder, names)
    return of_frame(read_parquet(storage.join(folder, names[0])))


def counts_file(work: str, step: str) -> str:
    """The counts of all entries of a `concepts` step: entry, source, language, before, ..."""
    return storage.join(work, "report", _file_name(step))


def _file_name(step: str) -> str:
    return f"{_COUNTS}{step}.parquet"


def _write_counts(
    work: str, step: str, names: Sequence[str], found: tuple[EntryList, Counted]
) -> None:
    """Commit the counts of every entry in the order of the list, those that nobody has too."""
    listed, counted = found
    stages = [f"after {name}" for name in names]
    whole = {
        "entry": listed.entries,
        "source": listed.source,
        "language": listed.language,
        **dict(zip(stages, counted.entries, strict=True)),
        "copies": counted.copies,
    }
    write_parquet(counts_file(work, step), pl.DataFrame(whole))


def _tally(words: pl.Series) -> dict[str, int]:
    """{word: how often}, sorted."""
    counts = words.cast(pl.String).alias("word").value_counts().sort("word")
    return {word: int(rows) for word, rows in counts.iter_rows()}


def _named(listed: EntryList, entry: int) -> dict[str, Any]:
    """An entry, and its language where it has one."""
    text, language = str(listed.entries[entry]), str(listed.language[entry])
    shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return {"entry": shown, **({"language": language} if language else {})}


def _stage(counted: Counted, number: int, name: str) -> dict[str, Any]:
    own = counted.entries[number]
    samples, matched = int(counted.samples[number]), int(counted.matched[number])
    unscored, matches = int(counted.unscored[number]), int(own.sum())
    top = part_of(len(counted.order), TOP)
    return {
        "after": name,
        "samples": samples,
        "matched": matched,
        "unscored": unscored,
        "unmatched": samples - matched - unscored,
        "unmatched_share": share(samples - matched - unscored, samples - unscored),
        "matches": matches,
        "entries_hit": int(np.count_nonzero(own)),
        "top_share": share(counted.descending(number)[:top].sum(), matches),
    }


def _tail(counted: Counted, with_tail: np.ndarray) -> dict[str, Any]:
    tail = counted.tail
    matches, samples = counted.entries[:, tail].sum(axis=1), with_tail
    every = counted.entries.sum(axis=1)
    return {
        "entries": len(tail),
        "most_frequent": int(counted.entries[0, tail].max(initial=0)),
        "hit": np.count_nonzero(counted.entries[:, tail], axis=1).tolist(),
        "matches": matches.tolist(),
        "match_share": [share(a, b) for a, b in zip(matches, every, strict=True)],
        "samples": samples.tolist(),
        "sample_share": [share(a, b) for a, b in zip(samples, counted.samples, strict=True)],
    }


def _vanished(listed: EntryList, counted: Counted) -> dict[str, Any]:
    order = counted.order
    gone = order[counted.entries[-1, order] == 0]
    shown = [
        {**_named(listed, entry), "before": int(counted.entries[0, entry])}
        for entry in gone[:VANISHED].tolist()
    ]
    return {"entries": len(gone), "most_frequent": shown}


def _curve(counted: Counted) -> dict[str, Any]:
    """At each rank the count of the entry that has it after a stage: another entry each time."""
    ranks = ranks_of(len(counted.order))
    stages = range(len(counted.entries))
    samples = [counted.descending(number)[ranks - 1].tolist() for number in stages]
    return {"ranks": ranks.tolist(), "samples": samples}
