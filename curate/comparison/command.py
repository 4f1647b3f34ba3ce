"""`curate diff`: looks at both sides, and leaves diff.json and a page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curate import storage
from curate.comparison import distributions, shares, vocabulary
from curate.comparison.elsewhere import Tally, elsewhere, rows_of
from curate.comparison.funnels import funnels
from curate.comparison.galleries import galleries
from curate.comparison.looking import First, Second, first_look, second_look
from curate.comparison.measures import measures, recipes
from curate.comparison.schema import SCHEMA_VERSION
from curate.comparison.sides import LETTERS, Letter, Pair, names_of, pair_of
from curate.errors import ConfigError
from curate.learnt import learnt
from curate.page.diff import render
from curate.report import pictures
from curate.runner import Runner
from curate.subsets.algebra import Comparison, compare

Json = dict[str, Any]
Shown = dict[str, dict[tuple[int, int], str]]  # {side: thumbnails by shard and row}


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    out: str | None = None  # the folder; absent: `diff-<a>-<b>` where the command is given
    columns: tuple[str, ...] = ()
    words: int = vocabulary.LISTED


def diff(a: str, b: str, asked: Asked, runner: Runner) -> tuple[str, Json]:
    """Compare two places; the folder that was written, and what its diff.json holds.

    Raises:
        CurateError: what the user can mend; see errors.py.
    """
    folder = asked.out or "-".join(["diff", *map(_plain, names_of([a, b]))])
    for place in (a, b):
        _refuse_inside(folder, place)
    with pair_of(a, b, runner) as pair:
        report, shown = _compared(pair, asked, runner)
    page = render(report, shown)
    storage.commit_json(storage.join(folder, "diff.json"), report)
    storage.commit(storage.join(folder, "index.html"), page.encode())
    return folder, report


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def _refuse_inside(folder: str, place: str) -> None:
    """A work folder holds what its run made, and nothing else."""
    inside, outside = (_absolute(each) for each in (folder, place))
    if f"{inside}/".startswith(f"{outside}/"):
        raise ConfigError(
            f"--out {folder} is inside of {place}, which is compared: name a folder elsewhere"
        )


def _absolute(place: str) -> str:
    if not storage.is_local(place):
        return place.rstrip("/")
    return str(storage.local_path(place).resolve())


def _compared(pair: Pair, asked: Asked, runner: Runner) -> tuple[Json, Shown]:
    own = measures(pair, asked.columns)
    sets = compare(pair.a.subset, pair.b.subset)
    with tempfile.TemporaryDirectory(prefix="curate-diff-") as scratch:
        first = first_look(pair, own, scratch, runner)
        away = elsewhere(pair, first.tally, sets, scratch)
    second = second_look(pair, own, first, runner)
    shown = galleries(pair, first.candidates, first.tally, runner)
    small = {gallery["of"]: _thumbnails(pair, gallery, runner) for gallery in shown}
    for gallery in shown:
        for sample in gallery["samples"]:
            sample["tar"] = _without_part(pair, gallery["of"], sample["tar"])
    both = pair.a.report is not None and pair.b.report is not None
    a, b = _sides(pair, sets)
    report = {
        "schema": SCHEMA_VERSION,
        "a": a,
        "b": b,
        "pool": pair.pool,
        "sets": _sets(sets),
        "rows": rows_of(first.tally) if pair.pool == "same" else None,
        "elsewhere": away,
        "steps": funnels(pair.a.report or {}, pair.b.report or {}) if both else [],
        "galleries": shown,
        "distributions": _distributions(pair, first, second),
        "shares": shares.shares(own.words, second.values, second.again, second.named),
        "words": _words(first.tally, second, asked.words),
        "concepts": list(_concepts(pair, second, asked.words)),
    }
    return report, small


def _words(tally: Tally, second: Second, listed: int) -> Json | None:
    contrast = second.contrast
    if second.drawn is None or contrast is None:
        return None
    a, b = (
        (tally.only if only else tally.kept)[letter]
        for only, letter in zip(contrast.only, LETTERS, strict=True)
    )
    if second.drawn["group"].n_unique() != len(LETTERS):
        return None
    return vocabulary.words_of(second.drawn, contrast, (a, b), listed)


def _concepts(pair: Pair, second: Second, listed: int) -> Iterator[Json]:
    facts = pair.read_by("a")
    for look, counts in zip(second.lists, second.entries, strict=True):
        assert facts is not None
        texts = learnt(facts.plan, "diff", f"{look.step}.texts")
        section = vocabulary.entries_of(counts, look, texts, listed)
        if section is not None:
            yield section


def _distributions(pair: Pair, first: First, second: Second) -> list[Json]:
    found = []
    for one, (scale, edges) in second.edges.items():
        drawn = {"scale": scale, "edges": list(edges)}
        sided = distributions.sided_of(one.name, first.sums, second.bins)
        made_alike = recipes(pair, one.columns[0])
        found.append(distributions.distribution(one.name, drawn, sided, made_alike))
    made = distributions.of_lengths(second.lengths)
    if made is not None:
        found.append(distributions.distribution(distributions.CAPTION, *made, "same"))
    return distributions.in_order_of_effect(found)


def _thumbnails(pair: Pair, gallery: Json, runner: Runner) -> dict[tuple[int, int], str]:
    facts = pair.read_by(gallery["of"])
    if facts is None or not gallery["samples"]:
        return {}
    return pictures.load(facts, {"examples": [gallery]}, runner)


def _without_part(pair: Pair, letter: Letter, tar: str | None) -> str | None:
    """A download's tar without its part, which depends on how often a URL was asked for."""
    facts = pair.read_by(letter)
    if tar is None or facts is None or facts.plan.download() is None:
        return tar
    return re.sub(r"-r\d+\.tar$", ".tar", tar)


def _sides(pair: Pair, sets: Comparison) -> Iterator[Json]:
    names = names_of([side.place for side in (pair.a, pair.b)])
    counts = ((sets.uids_a, sets.rows_a), (sets.uids_b, sets.rows_b))
    for side, name, (uids, copies) in zip((pair.a, pair.b), names, counts, strict=True):
        yield {
            "name": name,
            "place": side.place,
            "kind": "run" if side.facts is not None else "subset",
            "pipeline": None if side.facts is None else side.facts.plan.config.name,
            "pool_rows": None if side.facts is None else side.facts.pool.rows,
            "uids": uids,
            "copies": copies,
        }


def _sets(found: Comparison) -> Json:
    share = found.shares()
    return {
        "uids_in_both": found.uids_in_both,
        "uids_only_a": found.uids_only_in_a,
        "uids_only_b": found.uids_only_in_b,
        "uids_with_other_copies": found.uids_with_other_copies,
        "copies_in_both": found.rows_in_both,
        "copies_in_either": found.rows_in_either,
        "jaccard": share["jaccard"],
        "a_in_b": share["a_in_b"],
        "b_in_a": share["b_in_a"],
        "jaccard_copies": share["jaccard_rows"],
        "a_in_b_copies": share["a_in_b_rows"],
        "b_in_a_copies": share["b_in_a_rows"],
    }
