"""What a run came to, for people and programs: report.json, and the page made from it."""

from __future__ import annotations

import re
from typing import Any

from curate import storage
from curate.page.render import render
from curate.report import numbers
from curate.report.concepts import concepts
from curate.report.examples import choose
from curate.report.facts import Facts
from curate.report.histogram import draw
from curate.report.pictures import load
from curate.runner import Runner

__all__ = ["SCHEMA_VERSION", "Facts", "write_report"]

SCHEMA_VERSION = 1  # rises when a field of report.json changes its meaning or goes


def write_report(facts: Facts, runner: Runner) -> dict[str, Any]:
    """Commit `report/report.json`, then `report/index.html`, and give what the first one holds.

    Both are byte-exact functions of the decisions: no times, hosts or paths of the work folder, and
    the same for any runner, number of workers and size of blocks.
    """
    report = {
        "schema": SCHEMA_VERSION,
        "name": facts.plan.config.name,
        "seed": facts.plan.config.seed,
        "totals": numbers.totals(facts, runner),
        "pool": numbers.pool(facts),
        "steps": numbers.steps(facts, runner),
        "histograms": draw(facts, runner),
        "concepts": concepts(facts, runner),
        "examples": choose(facts, runner),
    }
    folder = storage.join(facts.plan.work, "report")
    pictures = load(facts, report, runner)
    _leave_out_parts(facts, report)
    storage.commit_json(storage.join(folder, "report.json"), report)
    page = render(report, pictures)
    storage.commit(storage.join(folder, "index.html"), page.encode())
    return report


def _leave_out_parts(facts: Facts, report: dict[str, Any]) -> None:
    """Name a download's tar without its part, which depends on how often a URL was asked for."""
    if facts.plan.download() is None:
        return
    for gallery in report["examples"]:
        for sample in gallery["samples"]:
            if sample["tar"] is not None:
                sample["tar"] = re.sub(r"-r\d+\.tar$", ".tar", sample["tar"])
