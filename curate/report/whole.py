"""report.json whole, section by section, and the page made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate import __version__, storage
from curate.page import Place
from curate.report import numbers
from curate.report.clusters import clusters
from curate.report.concepts import concepts
from curate.report.concepts.classes import classes
from curate.report.downloads import downloads
from curate.report.duplicates import duplicates
from curate.report.evaluation import evaluation
from curate.report.facts import Extent, Facts, unfinished
from curate.report.galleries import choose
from curate.report.histogram import draw
from curate.report.known_sets import known_sets
from curate.report.losses import losses
from curate.report.makeup import makeup
from curate.report.pictures import fewer, load, samples_of
from curate.report.probe import probe
from curate.report.schema import SCHEMA_VERSION
from curate.runner import Runner

LEFT_OUT: dict[str, Any] = {  # of a brief report
    "probe": {
        "of": "nothing",
        "why": "this report is brief",
        "share": 0.0,
        "rows": 0,
        "left_out": 0,
        "filters": [],
        "not_measured": [],
        "overlap": [],
        "correlations": [],
    },
    "makeup": {"words": [], "numbers": [], "shifts": [], "scores": []},
    "downloads": None,
    "duplicates": [],
    "clusters": [],
    "classes": None,
    "sets": [],
    "evaluation": [],
    "examples": [],
}
PAGE_BYTES = 9_900_000  # of a page at most, as far as pictures can be left out


@dataclass(frozen=True)
class Told:
    """What report.json holds, and the small pictures that its page shows besides."""

    report: dict[str, Any]
    pictures: Mapping[Place, str]


def write_report(facts: Facts, runner: Runner, extent: Extent = "whole") -> Told:
    """Commit `report/report.json`, and give what its page is made from.

    It is a byte-exact function of the decisions: no times, hosts or paths of the work folder, and
    the same for any runner, number of workers and size of blocks.

    Args:
        facts: The run.
        runner: Where the work runs.
        extent: A brief report lacks what takes another look at the columns of all samples.
    """
    report = {
        "schema": SCHEMA_VERSION,
        "name": facts.plan.config.name,
        "seed": facts.plan.config.seed,
        "made_with": {"curate": __version__},
        "unfinished": unfinished(facts),
        "extent": extent,
        "totals": numbers.totals(facts, runner),
        "pool": numbers.pool(facts),
        "steps": numbers.steps(facts, runner),
        "histograms": draw(facts, runner, extent),
        "losses": losses(facts, runner),
        "concepts": concepts(facts, runner),
        **(_looks(facts, runner) if extent == "whole" else LEFT_OUT),
    }
    pictures = load(facts, report, runner)
    _leave_out_parts(facts, report)
    storage.commit_json(storage.join(facts.plan.work, "report", "report.json"), report)
    return Told(report, pictures)


def _looks(facts: Facts, runner: Runner) -> dict[str, Any]:
    """The sections that LEFT_OUT has nothing in."""
    return {
        "probe": probe(facts, runner),
        "makeup": makeup(facts, runner),
        "downloads": downloads(facts, runner),
        "duplicates": duplicates(facts, runner),
        "clusters": clusters(facts, runner),
        "classes": classes(facts, runner),
        "sets": known_sets(facts),
        "evaluation": evaluation(facts, runner),
        "examples": choose(facts, runner),
    }


def write_page(work: str, told: Told, timing: Mapping[str, Any] | None = None) -> None:
    """Commit `report/index.html`: a byte-exact function of the report, its pictures and times."""
    from curate.page.render import render  # a second for the charts' library, and no other needs it

    page = render(told.report, told.pictures, timing).encode()
    if len(page) > PAGE_BYTES:  # what else it has is more than is usual
        pictures = fewer(told.report, told.pictures, len(page) - PAGE_BYTES)
        page = render(told.report, pictures, timing).encode()
    storage.commit(storage.join(work, "report", "index.html"), page)


def _leave_out_parts(facts: Facts, report: dict[str, Any]) -> None:
    """Name a download's tar without its part, which depends on how often a URL was asked for."""
    if facts.plan.download() is None:
        return
    for sample in samples_of(report):
        if sample["tar"] is not None:
            sample["tar"] = re.sub(r"-r\d+\.tar$", ".tar", sample["tar"])
