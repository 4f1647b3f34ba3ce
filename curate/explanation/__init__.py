"""`curate explain`: the whole fate of one sample."""

from __future__ import annotations

from curate import chance
from curate.explanation.company import Company, company
from curate.explanation.finding import find, shard_of
from curate.explanation.matched import matched
from curate.explanation.picture import Wish, picture_of, write_picture
from curate.explanation.row import Row
from curate.explanation.schema import Explanation, Fate, SampleFate
from curate.explanation.steps import way
from curate.explanation.values import of_features, of_pool
from curate.fates import LOST
from curate.report.facts import public
from curate.report.reading import read_facts
from curate.runner import Runner
from curate.sample import format_uids

__all__ = ["Explanation", "Wish", "explain"]


def explain(work: str, asked: str, wish: Wish, runner: Runner) -> Explanation:
    """Everything that is known of the rows that a uid, URL or key names; writes their pictures.

    A run that is not finished tells as much as it decided.

    Raises:
        ConfigError: no run was started there, nothing in its pool has that name, or the picture's
            file cannot be written.
        StorageError: what the run wrote down does not agree with itself.
    """
    facts = read_facts(work)
    found = find(facts, asked, runner)
    rows = [Row(facts, block, row) for block, row in found.first]
    around = company(facts, rows, runner)
    taken: dict[str, bytes] = {}
    return Explanation(
        asked=asked,
        by=found.by,
        rows=found.rows,
        not_reached=list(facts.not_reached),
        samples=[_sample(row, around, wish, taken) for row in rows],
    )


def _sample(row: Row, around: Company, wish: Wish, taken: dict[str, bytes]) -> SampleFate:
    facts, found = row.facts, row.fates
    shard = shard_of(facts.pool.table, row.span)
    uid = format_uids(row.uids)[0]
    steps = way(row)
    pool, arrays = of_pool(row)
    return SampleFate(
        uid=uid,
        shard=shard["number"],
        row=row.row - shard["offset"],
        source=shard["source"],
        file=public(shard["url"]),
        fate=_fate(row),
        removed_by=found.steps()[0],
        reason=found.reasons()[0],
        because=found.because[0] if found.because is not None else None,
        copies=int(found.copies[0]),
        probe=_in_probe(row),
        pool=pool,
        pool_arrays=arrays,
        features=of_features(row),
        steps=steps,
        duplicates=around.groups(row),
        clusters=around.clusters(row),
        concepts=matched(row, steps),
        picture=write_picture(picture_of(row), uid, wish, taken),
    )


def _fate(row: Row) -> Fate:
    reason = row.fates.reasons()[0]
    if reason is None:
        return "undecided" if row.facts.not_reached else "kept"
    return "lost" if reason.startswith(LOST) else "removed"


def _in_probe(row: Row) -> bool | None:
    """Whether every row feature was computed of it, whatever the filters said.

    Of a row that the pool cannot use none is; of one whose picture did not come, none behind that.
    """
    config = row.facts.plan.config
    if config.probe == 0:
        return None
    return row.stop >= 0 and bool(chance.uniform(config.seed, "probe", row.uids)[0] < config.probe)
