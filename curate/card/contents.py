"""The tables of a card: rows of Markdown cells, made from a report alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate.card.markdown import code, plain
from curate.card.seen import Column, Counted, columns_seen, largest_shifts, medians
from curate.page.texts import count, listed, number, points, share
from curate.report.schema import Estimate, Report

Row = list[str]
_REASONS = 20  # of one step
_DIGITS = 12  # of a hash
_GROUPS = 5  # of one score
_NAMES = ("model", "weights", "detector", "img2dataset")  # fields of a recipe that name versions


def contents(report: Report) -> dict[str, Any]:
    """What the template places, by name."""
    columns = list(columns_seen(report))
    return {
        "sources": list(_sources(report)),
        "steps": list(_steps(report)),
        "published": list(_published(report)),
        "made_from": list(_made_from(report)),
        "removals": list(_removals(report)),
        "learnt": list(_learnt(report)),
        "alone": list(_alone(report)),
        "columns": [column for column in columns if column.about != "licence"],
        "licences": [column for column in columns if column.about == "licence"],
        "column_rows": _column,
        "medians": list(_medians(report)),
        "concepts": list(_concepts(report)),
        "shifts": list(_shifts(report)),
        "scores": list(_scores(report)),
        "losses": [[code(o.step), code(o.kind), count(o.rows), plain(o.remedy)]
                   for o in report.losses],
        "evaluation": [[code(o.step), code(o.set), count(o.rows)] for o in report.evaluation],
        "sets": list(_sets(report)),
        "from_web": any(source.kind != "shards" for source in report.pool.sources),
        "added": _added(report),
        "called": _called,
        "opt_outs": _opt_outs(report),
    }  # fmt: skip


def _sources(report: Report) -> Iterator[Row]:
    for one in report.pool.sources:
        patterns = ", ".join(code(pattern) for pattern in one.patterns[:5])
        more = ", ..." if len(one.patterns) > 5 else ""
        yield [code(one.name), one.kind, count(one.files), count(one.rows), patterns + more]


def _steps(report: Report) -> Iterator[Row]:
    for step in report.steps:
        removed, lost = sum(step.removed.values()), sum(step.lost.values())
        counts = [count(n) for n in (step.in_, step.kept, removed, lost)]
        left = share(step.kept, report.totals.rows)
        yield [code(step.name), code(step.kind), *counts, left, code(step.fingerprint[:_DIGITS])]


def _published(report: Report) -> Iterator[Row]:
    for step in report.steps:
        if step.published is not None:
            off = " (off by more than 0.5 points)" if step.published.off else ""
            ours = share(step.kept, report.totals.rows) + off
            yield [code(step.name), ours, share(step.published.share), plain(step.published.source)]


def _made_from(report: Report) -> Iterator[Row]:
    """Names of models, and hashes of all that a step read besides the samples."""
    for step in report.steps:
        for path, value in _leaves(step.recipe):
            named = path.endswith("sha256") or path in _NAMES
            if named and value:
                yield [code(step.name), code(path), code(value)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{path}.{key}" if path else key)


def _removals(report: Report) -> Iterator[Row]:
    for step in report.steps:
        thresholds = {
            reason if own.name == step.name else f"{own.name}:{reason}": value
            for own in step.filters
            for reason, value in own.thresholds.items()
        }
        reasons = listed(step.removed)
        for reason, rows in reasons[:_REASONS]:
            limit = number(thresholds[reason]) if reason in thresholds else ""
            yield [code(step.name), code(reason), limit, count(rows), share(rows, step.in_)]
        if len(reasons) > _REASONS:
            rows = sum(n for _, n in reasons[_REASONS:])
            yield [code(step.name), "others", "", count(rows), share(rows, step.in_)]


def _learnt(report: Report) -> Iterator[Row]:
    for step in report.steps:
        for own in step.filters:
            for name, value in own.learnt.items():
                yield [code(own.name), code(name), code(value)]
        for name, value in (step.fitted.notes if step.fitted is not None else {}).items():
            if isinstance(value, (bool, int, float, str)):
                yield [code(step.name), code(name), code(value)]


def _alone(report: Report) -> Iterator[Row]:
    for one in report.probe.filters:
        yield [code(one.filter), _estimate(one.alone), _estimate(one.only)]


def _estimate(found: Estimate) -> str:
    if found.share is None or found.low is None or found.high is None:
        return "-"
    return f"{share(found.share)} ({share(found.low)} to {share(found.high)})"


def _called(about: str, column: str) -> str:
    """What a column tells, and its name where that is another."""
    return code(about) if about == column else f"{plain(about.replace('_', ' '))} ({code(column)})"


def _column(column: Column) -> Iterator[Row]:
    for one in column.values:
        yield [code(one.value), *_counts(one)]
    if column.others is not None:
        yield ["all others", *_counts(column.others)]


def _counts(one: Counted) -> Row:
    return [count(one.before), share(one.pool), count(one.after), share(one.kept)]


def _medians(report: Report) -> Iterator[Row]:
    for one in medians(report):
        sides = [
            "-" if side is None else f"{number(side[0])} to {number(side[1])}"
            for side in (one.pool, one.kept)
        ]
        yield [_called(one.about, one.name), plain(one.unit), *sides]


def _concepts(report: Report) -> Iterator[Row]:
    """The concepts of each list, and the classes that were asked for, before and after."""
    for one in report.concepts:
        first, last = one.stages[0], one.stages[-1]
        hit = [count(stage["entries_hit"]) for stage in (first, last)]
        top = ["-" if s["top_share"] is None else share(s["top_share"]) for s in (first, last)]
        yield [code(one.step), count(one.list_["entries"]), *hit, *top]
    if report.classes is not None:
        own = report.classes
        named = [count(own.classes - side) for side in (own.unnamed.before, own.unnamed.after)]
        yield [f"classes of {code(own.source)}", count(own.classes), *named, "-", "-"]


def _shifts(report: Report) -> Iterator[Row]:
    for one in largest_shifts(report):
        yield [
            _called(one.about, one.column),
            code(one.value),
            share(one.pool),
            share(one.kept),
            points(one.kept - one.pool),
            code(one.hardest),
        ]


def _scores(report: Report) -> Iterator[Row]:
    for one in report.makeup.scores:
        largest = sorted(one.groups, key=lambda group: (-group.rows, group.value))[:_GROUPS]
        for group in [group for group in one.groups if group in largest]:
            kept = share(group.kept, group.rows)
            yield [code(one.score), code(one.by), code(group.value), count(group.rows),
                   number(group.mean), kept]  # fmt: skip


def _sets(report: Report) -> Iterator[Row]:
    for one in report.sets:
        shares = ["-" if value is None else number(value)
                  for value in (one.jaccard, one.of_ours, one.of_theirs)]  # fmt: skip
        yield [code(one.name), count(one.uids), count(one.both), *shares]


def _added(report: Report) -> list[str]:
    """Columns that `write` put into each sample's JSON."""
    last = report.steps[-1] if report.steps else None
    return list(last.recipe.get("columns", ())) if last is not None and last.role == "write" else []


def _opt_outs(report: Report) -> list[str]:
    """Headers by which a server opts out, where a download minded them."""
    for step in report.steps:
        if step.role == "download":
            return list(step.recipe.get("disallowed_header_directives") or ())
    return []
