"""report.json -> the page of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import Place, clock, galleries, probe, summary
from curate.page.charts.clusters import shares_chart, sizes_chart
from curate.page.charts.concepts import chances_chart, head_chart, rank_chart, tail_chart
from curate.page.charts.makeup import (
    bars_chart,
    distribution_chart,
    failures_chart,
    scores_chart,
)
from curate.page.charts.probe import correlation_chart, overlap_chart
from curate.page.charts.scores import curve_chart, histogram_chart
from curate.page.clusters import clusterings
from curate.page.concepts import class_section, concept_sections
from curate.page.document import document
from curate.page.downloads import downloads
from curate.page.filters import sections
from curate.page.funnel import funnel, reasons
from curate.page.losses import losses
from curate.page.makeup import makeup

REASONS = 200  # rows of the tables of reasons and of damaged shards


def render(
    report: dict[str, Any],
    pictures: Mapping[Place, str],
    timing: Mapping[str, Any] | None = None,
) -> str:
    """The page; its numbers come from report.json alone, but for times and rates.

    Args:
        report: As in report.json.
        pictures: {(shard, row): data URI of a small picture}.
        timing: As in timing.json; without it the page has no times.
    """
    steps = funnel(report, timing or {})
    given = {
        "report": report,
        "totals": report["totals"],
        "timing": clock.whole(timing or {}),
        "pictures": pictures,
        "galleries": galleries,
        "summary": summary,
        "notes": summary.notes(report),
        "funnel": steps,
        "reasons": reasons(steps),
        "sections": sections(report, pictures),
        "alone": probe.alone(report),
        "overlap_chart": overlap_chart,
        "correlation_chart": correlation_chart,
        "clusterings": clusterings(report, pictures),
        "sizes_chart": sizes_chart,
        "shares_chart": shares_chart,
        "concept_sections": concept_sections(report),
        "named_classes": class_section(report),
        "rank_chart": rank_chart,
        "chances_chart": chances_chart,
        "head_chart": head_chart,
        "tail_chart": tail_chart,
        "makeup": makeup(report),
        "downloads": downloads(report),
        "losses": losses(report, pictures),
        "bars_chart": bars_chart,
        "distribution_chart": distribution_chart,
        "scores_chart": scores_chart,
        "failures_chart": failures_chart,
        "most_reasons": REASONS,
        "histogram_chart": histogram_chart,
        "curve_chart": curve_chart,
    }
    return document("report.html.j2", given)
