"""Concepts in a report: how many samples have each entry of a list, before and after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from curate import columns, fates, storage
from curate.columns import Span
from curate.compiled import Compiled, is_filter
from curate.concepts.entry_list import EntryList, of_frame
from curate.downloads.download import Download
from curate.features.concepts import Concepts
from curate.parquet import read_parquet, write_parquet
from curate.report.balances import balances, ranks_of, share
from curate.report.facts import Facts, stops
from curate.runner import Runner, fold
from filters import column

HEAD = 30  # entries shown, the most frequent before
VANISHED = 50  # entries shown of those that nobody has in the end
TAIL = 5  # the tail is one in so many of the entries hit: "Neglected Tails" (2401.12425), 20 %
TOP = 100  # the top is one in so many of them
LONGEST = 100  # characters of an entry


@dataclass(frozen=True)
class Matched:
    """The entries of N consecutive samples."""

    lengths: np.ndarray  # [N] int64: how many each has
    ids: np.ndarray  # [M] uint32, sample by sample
    scored: np.ndarray  # [N] bool: whether there was a caption to look at

    @property
    def starts(self) -> np.ndarray:
        """[K] where the entries of each sample that has any begin."""
        return np.asarray((np.cumsum(self.lengths) - self.lengths)[self.lengths > 0])


@dataclass(frozen=True)
class Track:
    """One `concepts` step, and the steps whose effect on its entries is counted."""

    step: str
    stages: tuple[int, ...]  # [K] indices of steps: its own, then later ones that remove samples

    def levels(self, stopped: np.ndarray) -> np.ndarray:
        """[N] of `stops`: how many of the stages each row got past, 0 to K."""
        return np.searchsorted(np.array(self.stages), stopped)

    def matched(self, plan: Compiled, span: Span) -> Matched:
        """The entries of a span."""
        name = f"{self.step}.entries"
        frame = columns.load(plan.work, plan.registries[-1], [name], span)
        lists = frame.select(column(name)).to_series().cast(pl.List(pl.UInt32))
        lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        scored = lists.is_not_null().to_numpy()
        return Matched(lengths, lists.explode().drop_nulls().to_numpy(), scored)


@dataclass(frozen=True)
class Counted:
    """What the samples past each of K stages have, of a list of E entries."""

    entries: np.ndarray  # [K, E] int64: samples with the entry
    copies: np.ndarray  # [E] int64: the same at the end, copies counted
    samples: np.ndarray  # [K] int64
    matched: np.ndarray  # [K] int64: samples with an entry
    unscored: np.ndarray  # [K] int64: samples without a caption
    total_copies: int

    @cached_property
    def order(self) -> np.ndarray:
        """[H] entries that were hit before, the most frequent first; ties go to the first."""
        before = self.entries[0]
        return np.asarray(np.argsort(-before, kind="stable")[: np.count_nonzero(before)])

    @property
    def tail(self) -> np.ndarray:
        """The last fifth of them, one at least."""
        order = self.order
        return order[len(order) - _part(len(order), TAIL) :]


def concepts(facts: Facts, runner: Runner) -> list[dict[str, Any]]:
    """What became of the concepts of each `concepts` step; every count goes to a file of its own.

    A sample counts for every step that left it in, from the `concepts` step on: so one that the
    probe looked at, but that was removed before, counts nowhere. It counts once for each entry.
    """
    return [_section(facts, track, runner) for track in _tracks(facts)]


def _tracks(facts: Facts) -> list[Track]:
    steps = facts.plan.steps
    removed = set(facts.counts["step"].drop_nulls().to_list())
    found = []
    for index, step in enumerate(steps):
        if isinstance(step, Concepts):
            later = [
                number
                for number in range(index + 1, len(steps))
                if is_filter(steps[number])
                or isinstance(steps[number], Download)
                or steps[number].name in removed
            ]
            found.append(Track(step.name, (index, *later)))
    return found


def _section(facts: Facts, track: Track, runner: Runner) -> dict[str, Any]:
    listed = _list_of(facts.plan.work, track.step)
    counted = count(facts, track, len(listed), runner)
    in_tail = np.zeros(len(listed), dtype=bool)
    in_tail[counted.tail] = True
    names = [facts.plan.steps[index].name for index in track.stages]
    _write_counts(facts.plan.work, track.step, names, (listed, counted))
    return {
        "step": track.step,
        "list": {
            "entries": len(listed),
            "digest": listed.digest,
            "sources": _tally(listed.source),
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
        "tail": _tail(counted, _with_tail(facts, track, in_tail, runner)),
        "vanished": _vanished(listed, counted),
        "curve": _curve(counted),
        "balances": balances(facts, track.step, len(listed), runner),
    }


def _list_of(work: str, step: str) -> EntryList:
    """The list that a step keeps."""
    folder = columns.artefact_folder(work, step)
    names = [name for name in storage.names(folder) if name.startswith("entries-")]
    assert len(names) == 1, (folder, names)
    return of_frame(read_parquet(storage.join(folder, names[0])))


def counts_file(work: str, step: str) -> str:
    """The counts of all entries of a `concepts` step: entry, source, language, before, ..."""
    return storage.join(work, "report", f"concepts-{step}.parquet")


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
    text, language = str(listed.entries[entry]), str(listed.language[entry])
    shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return {"entry": shown, **({"language": language} if language else {})}


# Counting


@dataclass(frozen=True)
class _Part:
    """What one block adds."""

    keys: np.ndarray  # [P] int64: (level - 1) * E + entry, each once
    counts: np.ndarray  # [P] int64
    copies: tuple[np.ndarray, np.ndarray]  # [Q] entries of who is kept, [Q] int64
    samples: np.ndarray  # [3, K + 1] by level: all, matched, unscored
    total_copies: int


def count(facts: Facts, track: Track, size: int, runner: Runner) -> Counted:
    """Count each entry's samples past each stage, exactly.

    Held are 8 bytes for each stage and entry (80 MB for 20 stages of 500,000 entries), and of a
    block only what it has.
    """
    stages = len(track.stages)
    entries = np.zeros((stages, size), dtype=np.int64)
    copies = np.zeros(size, dtype=np.int64)
    samples = np.zeros((3, stages + 1), dtype=np.int64)
    total_copies = 0
    work = partial(_count, facts.plan, facts.after, track, size)
    for part in runner.map(work, facts.spans(), "report"):
        entries.reshape(-1)[part.keys] += part.counts
        copies[part.copies[0]] += part.copies[1]
        samples += part.samples
        total_copies += part.total_copies
    for stage in range(stages - 1, 0, -1):  # who got past a stage got past those before it
        entries[stage - 1] += entries[stage]
        samples[:, stage] += samples[:, stage + 1]
    every, matched, unscored = samples[:, 1:]
    return Counted(entries, copies, every, matched, unscored, total_copies)


def _count(plan: Compiled, after: str, track: Track, size: int, span: Span) -> _Part:
    found = fates.read(plan.work, after, span)
    matched, stages = track.matched(plan, span), len(track.stages)
    assert matched.ids.max(initial=0) < size, f"{track.step} has entries that its list lacks"
    level = track.levels(stops(plan, found))
    of_match = np.repeat(level.astype(np.uint8), matched.lengths)
    keys, counts = [], []
    for number in range(1, stages + 1):  # one level at a time: E numbers are held, not K * E
        here = np.bincount(matched.ids[of_match == number], minlength=size)
        hit = np.flatnonzero(here)
        keys.append((number - 1) * size + hit)
        counts.append(here[hit])
    which = [np.ones(len(span), dtype=bool), matched.lengths > 0, ~matched.scored]
    samples = [np.bincount(level[rows], minlength=stages + 1) for rows in which]
    return _Part(
        np.concatenate(keys),
        np.concatenate(counts),
        _copies(matched, found.copies, (keys[-1] - (stages - 1) * size, counts[-1])),
        np.stack(samples),
        int(found.copies.sum(dtype=np.int64)),  # who was removed has none
    )


def _copies(
    matched: Matched, copies: np.ndarray, kept: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The entries of who is kept and their counts, once copies are counted."""
    if copies.max(initial=0) <= 1:
        return kept
    # Sums of whole numbers below 2 ** 53: exact.
    weights = np.repeat(copies.astype(np.float64), matched.lengths)
    return kept[0], np.bincount(matched.ids, weights).astype(np.int64)[kept[0]]


def _with_tail(facts: Facts, track: Track, in_tail: np.ndarray, runner: Runner) -> np.ndarray:
    """[K] int64: samples past each stage that have an entry of the tail; [E] bool says which are.

    It takes a second look, for the tail is known only once everything was counted.
    """
    work = partial(_look_for, facts.plan, facts.after, track, in_tail)
    by_level = fold(runner.map(work, facts.spans(), "report"), np.add)
    if by_level is None:
        by_level = np.zeros(len(track.stages) + 1, dtype=np.int64)
    return np.asarray(np.cumsum(by_level[::-1])[::-1][1:])


def _look_for(
    plan: Compiled, after: str, track: Track, in_tail: np.ndarray, span: Span
) -> np.ndarray:
    """[K + 1] int64: samples of a block that have one of some entries, by level."""
    level = track.levels(stops(plan, fates.read(plan.work, after, span)))
    matched = track.matched(plan, span)
    starts = matched.starts
    if not len(starts):
        return np.zeros(len(track.stages) + 1, dtype=np.int64)
    has = np.logical_or.reduceat(in_tail[matched.ids], starts)
    return np.bincount(level[matched.lengths > 0][has], minlength=len(track.stages) + 1)


# Summing up


def _part(whole: int, parts: int) -> int:
    """One in so many, rounded down; one at least where there is any."""
    return min(whole, max(1, whole // parts))


def _stage(counted: Counted, number: int, name: str) -> dict[str, Any]:
    own = counted.entries[number]
    samples, matched = int(counted.samples[number]), int(counted.matched[number])
    unscored, matches = int(counted.unscored[number]), int(own.sum())
    top = _part(len(counted.order), TOP)
    return {
        "after": name,
        "samples": samples,
        "matched": matched,
        "unscored": unscored,
        "unmatched": samples - matched - unscored,
        "unmatched_share": share(samples - matched - unscored, samples),
        "matches": matches,
        "entries_hit": int(np.count_nonzero(own)),
        "top_share": share(np.sort(own)[len(own) - top :].sum(), matches),
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
    """At each rank the count of the entry that has it after a stage: its own order each time."""
    ranks = ranks_of(len(counted.order))
    samples = [(-np.sort(-own))[ranks - 1].tolist() for own in counted.entries]
    return {"ranks": ranks.tolist(), "samples": samples}
