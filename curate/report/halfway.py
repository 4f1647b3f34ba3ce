"""The report of a run that ended half-way, made when somebody asks for it."""

from __future__ import annotations

from typing import Any

from curate import storage
from curate.lease import held
from curate.report.reading import read_facts
from curate.report.whole import write_page, write_report
from curate.runner import LocalRunner


def report_of(work: str) -> dict[str, Any]:
    """What report.json holds: that of a finished run as it is, else one of what was decided so far.

    The latter is written where the former will be, with its page, and says what is missing.

    Raises:
        ConfigError: no run was started there, or it has not decided anything yet.
        WorkInUse: a run is at work there.
    """
    if storage.exists(storage.join(work, "manifest.json")):
        found: dict[str, Any] = storage.read_json(storage.join(work, "report", "report.json"))
        return found
    with held(work, steal="refuse"):
        told = write_report(read_facts(work), LocalRunner())
        write_page(work, told)
    return told.report
