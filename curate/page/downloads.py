"""What the section of a download shows, from report.json."""

from __future__ import annotations

from typing import Any

from curate.page.texts import brief, listed, many, visible

KINDS = 20  # of failures that are drawn
DOMAINS = 12  # that are seen at once; the others unfold


def downloads(report: dict[str, Any]) -> dict[str, Any] | None:
    """The section; None where nothing was downloaded."""
    found: dict[str, Any] | None = report["downloads"]
    if found is None:
        return None
    return {
        **found,
        "failed": found["asked"] - found["success"],
        "drawn": [(brief(visible(kind), 40), n) for kind, n in listed(found["kinds"])[:KINDS]],
        "most": found["domains"][:DOMAINS],
        "more": found["domains"][DOMAINS:],
        "told": _told(found),
    }


def _told(found: dict[str, Any]) -> str:
    if found["domains_asked"] is not None:
        said = f"{many(found['domains_asked'], 'domain')} in all: "
    else:
        said = "More than a million domains: "
    sure = "" if found["domains_exact"] else "; others may have as many"
    return f"{said}those with most URLs and with most failures{sure}."
