"""What the hub reads at the top of a card: licence, languages, size, tasks, and files."""

from __future__ import annotations

import re
from typing import Any

import yaml

from curate.card.seen import kept_values
from curate.report.schema import Report

TASKS = ("zero-shot-image-classification", "image-to-text", "text-to-image")
TAGS = ("webdataset", "image-text")
COMMON = 0.01  # share of the samples from which on a language is named
# The hub's sizes, and its licences as of its documentation.
_SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
_CC = ("by-2.0", "by-2.5", "by-3.0", "by-4.0", "by-sa-3.0", "by-sa-4.0", "by-nc-2.0", "by-nc-3.0",
       "by-nc-4.0", "by-nd-4.0", "by-nc-nd-3.0", "by-nc-nd-4.0", "by-nc-sa-2.0", "by-nc-sa-3.0",
       "by-nc-sa-4.0")  # fmt: skip
_OTHERS = ("apache-2.0", "mit", "c-uda", "cc", "cc0-1.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
           "cdla-permissive-2.0", "gfdl", "odc-by", "odbl", "pddl", "unlicense")  # fmt: skip
_LICENCES = frozenset((*_OTHERS, *(f"cc-{kind}" for kind in _CC)))
_CREATIVE_COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/([0-9.]+)(?:/.*)?"
)
_CODE = re.compile(r"[a-z]{2,3}")


def front_matter(report: Report, tars: str | None) -> str:
    """The YAML between the two lines of `---`.

    Args:
        report: The run.
        tars: Which files beside the card are the samples; None where none were written.
    """
    said: dict[str, Any] = {"pretty_name": report.name, "license": licence(report)}
    if said["license"] == "other":
        said["license_name"] = "see-licences-below"
    languages = _languages(report)
    if languages:
        said["language"] = languages
    said |= {
        "size_categories": [size_category(report.totals.copies)],
        "task_categories": list(TASKS),
        "tags": list(TAGS),
    }
    if tars is not None:
        files = [{"split": "train", "path": tars}]
        said["configs"] = [{"config_name": "default", "data_files": files}]
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def size_category(samples: int) -> str:
    """The hub's name for so many."""
    return next((name for bound, name in _SIZES if samples < bound), "n>1T")


def licence(report: Report) -> str:
    """The hub's name of the one licence that every sample has; `other` where it is not one."""
    found = [kept_values(words) for words in report.makeup.words if words.about == "licence"]
    names = [values[0].value for values in found if values is not None and len(values) == 1]
    return next((name for one in names if one and (name := _named(one))), "other")


def _named(value: str) -> str | None:
    """The hub's name of a licence that is written as its name or as its URL."""
    text = value.strip().lower()
    linked = _CREATIVE_COMMONS.fullmatch(text)
    if linked is not None:
        kind, version = linked.groups()
        text = f"cc0-{version}" if kind == "zero" else f"cc-{kind}-{version}"
    text = re.sub(r"[\s_]+", "-", text)
    return text if text in _LICENCES else None


def _languages(report: Report) -> list[str]:
    """ISO 639 codes of the languages that at least one in a hundred of the samples has."""
    codes: set[str] = set()
    for words in report.makeup.words:
        if words.about != "language":
            continue
        for one in kept_values(words, complete=False) or ():
            code = (one.value or "").lower().replace("-", "_").partition("_")[0]
            if _CODE.fullmatch(code) and one.reached[-1] >= COMMON * report.totals.kept:
                codes.add(code)
    return sorted(codes)
