"""The subset beside those that others published: how much both have in common."""

from __future__ import annotations

from typing import Any

from curate import storage
from curate.report.facts import Facts
from curate.subsets.algebra import Comparison, compare
from curate.subsets.subset_file import opened


def known_sets(facts: Facts) -> list[dict[str, Any]]:
    """Jaccard index and containment for each file of `report: sets:`, by different uids.

    An unfinished run has no subset yet, so nothing is said.

    Raises:
        StorageError: a file is missing, no subset, or not sorted.
    """
    given = facts.plan.config.report.sets
    if facts.ended == "half-way" or not given:
        return []
    ours = storage.join(facts.plan.work, "subset.npy")
    found = []
    for name, url in sorted(given.items()):
        with opened([ours, url]) as (a, b):
            found.append(_told(name, compare(a, b)))
    return found


def _told(name: str, found: Comparison) -> dict[str, Any]:
    both = found.uids_in_both
    either = found.uids_a + found.uids_b - both
    return {
        "name": name,
        "uids": found.uids_b,
        "kept": found.uids_a,
        "both": both,
        "jaccard": _share(both, either),
        "of_ours": _share(both, found.uids_a),
        "of_theirs": _share(both, found.uids_b),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
