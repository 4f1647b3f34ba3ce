"""What became of the URLs that a download asked for: by failure, domain and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from curate import fates
from curate.compiled import Compiled
from curate.report import frequent
from curate.report.facts import Facts, stops
from curate.report.frequent import Levels, Tally
from curate.report.makeup.blocks import Job, jobs, sources_of
from curate.report.makeup.columns import Known, domains, host_parts, known_of
from curate.runner import Runner, fold


def downloads(facts: Facts, runner: Runner) -> dict[str, Any] | None:
    """The section of a report: `schema.Downloads`; None where nothing was downloaded."""
    download = facts.plan.download()
    urls = known_of(facts, "url")
    if download is None or urls is None or download.name in facts.not_reached:
        return None
    look = _Look(facts.plan.index(download.name), _kinds(facts, download.name), urls)
    work = partial(_block, facts.plan, facts.after, look)
    found = fold(runner.map(work, jobs(facts), "report"), _both) or look.nothing()
    by_domain, by_source = (side.settled() for side in found)
    counted = None
    if by_domain.buckets is not None:
        again = partial(_named, facts.plan, facts.after, look, frequent.fullest(by_domain))
        counted = fold(runner.map(again, jobs(facts), "report"), frequent.merge_named)
    hosts = frequent.frequent(by_domain, counted)
    success, *failed = by_source.totals.tolist()
    return {
        "step": download.name,
        "asked": success + sum(failed),
        "success": success,
        "kinds": {kind: n for kind, n in zip(look.kinds, failed, strict=True) if n},
        "domains": [_fetched(host, rows, look.kinds) for host, rows in hosts.values],
        "domains_asked": hosts.distinct,
        "domains_exact": hosts.exact,
        "sources": [
            _fetched(source.name, frequent.of_value(by_source, source.name), look.kinds)
            for source in facts.plan.config.pool
        ],
    }


def _kinds(facts: Facts, step: str) -> tuple[str, ...]:
    """Why pictures did not come, sorted; work of our own that failed asked for none."""
    own = facts.counts.filter(pl.col("step") == step)["reason"]
    return tuple(sorted(own.filter(~own.str.starts_with(fates.LOST))))


@dataclass(frozen=True)
class _Look:
    """What is counted."""

    index: int  # of the download
    kinds: tuple[str, ...]
    urls: Known

    @property
    def levels(self) -> Levels:
        """0: the picture came; else one more than its kind of failure."""
        return Levels(len(self.kinds) + 1, 1)

    def nothing(self) -> tuple[Tally, Tally]:
        """What no row adds."""
        none = pl.Series([], dtype=pl.String)
        empty = frequent.tally(none, np.zeros(0, dtype=np.int64), self.levels)
        return empty, empty

    def level(self, plan: Compiled, found: fates.Fates) -> np.ndarray:
        """[N] level of each row; -1 where its URL was not asked for."""
        code = np.full(len(found.known) + 1, -1, dtype=np.int64)
        for place, (step, reason) in enumerate(found.known, 1):
            if step == plan.steps[self.index].name and reason in self.kinds:
                code[place] = self.kinds.index(reason) + 1
        return np.where(stops(plan, found) > self.index, 0, code[found.code])


def _block(plan: Compiled, after: str, look: _Look, job: Job) -> tuple[Tally, Tally]:
    span, runs = job
    level = look.level(plan, fates.read(plan.work, after, span))
    rows = np.flatnonzero(level >= 0)
    hosts = host_parts(look.urls.load(plan, span)[0].gather(rows))
    sources = sources_of(runs).gather(rows)
    by_domain = frequent.tally(hosts, level[rows], look.levels, domains)
    return by_domain, frequent.tally(sources, level[rows], look.levels)


def _both(left: tuple[Tally, Tally], right: tuple[Tally, Tally]) -> tuple[Tally, Tally]:
    return left[0].plus(right[0]), left[1].plus(right[1])


def _named(plan: Compiled, after: str, look: _Look, chosen: np.ndarray, job: Job) -> pl.DataFrame:
    span, _ = job
    level = look.level(plan, fates.read(plan.work, after, span))
    rows = np.flatnonzero(level >= 0)
    hosts = host_parts(look.urls.load(plan, span)[0].gather(rows))
    return frequent.named(hosts, level[rows], chosen, domains)


def _fetched(name: str | None, rows: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    success, *failed = rows
    most = max(failed, default=0)
    return {
        "name": name,
        "asked": success + sum(failed),
        "success": success,
        "failure": kinds[failed.index(most)] if most else None,
    }
