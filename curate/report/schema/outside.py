"""What did not come, and what others have: downloads, losses, known sets."""

from __future__ import annotations

from pydantic import Field

from curate.report.schema.part import Part
from curate.report.schema.shown import Sample


class Fetched(Part):
    """URLs of one kind: a domain, or a source."""

    name: str | None = Field(description="null: URLs without a host")
    asked: int
    success: int
    failure: str | None = Field(description="its commonest failure; null where none failed")


class Downloads(Part):
    """What became of the URLs that were asked for."""

    step: str
    asked: int
    success: int
    kinds: dict[str, int] = Field(description="{failure: rows}")
    domains: list[Fetched] = Field(
        description="the 20 with most URLs, and the 20 with most failures, most URLs first"
    )
    domains_asked: int | None = Field(description="different ones; null above a million")
    domains_exact: bool = Field(description="whether no domain left out can be among those")
    sources: list[Fetched]


class Loss(Part):
    """Rows that no filter removed, but failed work of our own."""

    step: str
    kind: str
    rows: int
    examples: list[Sample]
    remedy: str = Field(description="what retries them")


class KnownSet(Part):
    """A subset file beside ours, by different uids."""

    name: str
    uids: int
    kept: int = Field(description="ours")
    both: int
    jaccard: float | None = Field(description="both / either")
    of_ours: float | None = Field(description="both / kept")
    of_theirs: float | None = Field(description="both / uids")


class Evaluation(Part):
    """Samples that are in an evaluation set, found by a step that compares with references."""

    step: str
    set: str
    rows: int = Field(description="samples removed because of it")
