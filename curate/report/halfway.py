"""The report of a run that ended half-way, or briefly, made when somebody asks for it."""

from __future__ import annotations

from typing import Any

from curate import storage
from curate.lease import held
from curate.report.reading import read_facts
from curate.report.schema import SCHEMA_VERSION
from curate.report.whole import write_page, write_report
from curate.runner import LocalRunner


def report_of(work: str) -> dict[str, Any]:
    """What report.json holds: that of a finished run as it is, if it is whole.

    One of a run that ended half-way tells what was decided so far. It is made now, as is the whole
    one where a brief one is there, and written where it belongs, with its page.

    Raises:
        ConfigError: no run was started there, or it has not decided anything yet.
        WorkInUse: a run is at work there.
    """
    finished = storage.exists(storage.join(work, "manifest.json"))
    if finished:
        found: dict[str, Any] = storage.read_json(storage.join(work, "report", "report.json"))
        if found["schema"] == SCHEMA_VERSION and found.get("extent") == "whole":
            return found
    timing = storage.join(work, "report", "timing.json")
    with held(work, steal="refuse"):
        told = write_report(read_facts(work), LocalRunner())
        write_page(work, told, storage.read_json(timing) if finished else None)
    return told.report
