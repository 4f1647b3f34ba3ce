"""`curate card`: a README.md for the dataset that a run selected, as the hub reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from curate import storage
from curate.card.contents import contents
from curate.card.front_matter import front_matter, licence
from curate.card.markdown import block, code, plain, table
from curate.errors import ConfigError
from curate.page.texts import count, listed, many, share
from curate.report.facts import public
from curate.report.schema import SCHEMA_VERSION, Report

_MADE = "<!-- made by curate card from report.json "  # then the report's SHA-256
_NOT_FINISHED = "finish it first: curate run <file>"


@dataclass(frozen=True)
class Written:
    """A card, and what was there before."""

    url: str
    before: Literal["nothing", "the same", "older"]  # older: of another report, or of other words


def write_card(work: str, out: str | None = None) -> Written:
    """Write the card of a finished run: the same bytes for the same report.

    Args:
        work: The work folder.
        out: The file; absent: README.md beside the written shards, else in the work folder.

    Raises:
        ConfigError: the run is not finished, its report is of another version or of another
            pipeline, or `out` is a file that this did not write.
    """
    url = storage.join(work, "report", "report.json")
    report = _report(work, url)
    written = report.steps[-1:] and report.steps[-1].role == "write"
    folder = storage.join(work, "shards") if written else work
    target = out if out is not None else storage.join(folder, "README.md")
    text = card(report, _pipeline(work, report), storage.sha256(url)).encode()
    before = storage.read(target) if storage.exists(target) else None
    if before is not None and _MADE.encode() not in before:
        raise ConfigError(
            f"{target} is there and was not made by `curate card`: it was left as it is. Name "
            "another file with --out, or move that one away."
        )
    if before != text:
        storage.commit(target, text)
    if before is None:
        return Written(target, "nothing")
    return Written(target, "the same" if before == text else "older")


def card(report: Report, pipeline: dict[str, Any], digest: str) -> str:
    """The card as text.

    Args:
        report: The run.
        pipeline: The pipeline file, as it was resolved.
        digest: Names the report.
    """
    environment = Environment(
        loader=PackageLoader("curate.card", "."),
        autoescape=False,  # Markdown: the filters below escape
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "code": code}
    tars = "*.tar" if report.steps and report.steps[-1].role == "write" else None
    cleaned = _without_secrets(pipeline)
    said = yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True)
    return environment.get_template("card.md.j2").render(
        report=report,
        front_matter=front_matter(report, tars),
        tars=tars,
        licence=licence(report),
        pipeline=block(said, "yaml"),
        redacted=cleaned != pipeline,
        digest=digest,
        count=count, many=many, share=share, listed=listed, table=table,
        **contents(report),
    )  # fmt: skip


def _report(work: str, url: str) -> Report:
    if not storage.exists(url):
        raise ConfigError(f"{work} has no report: no run was finished there; {_NOT_FINISHED}")
    if not storage.exists(storage.join(work, "manifest.json")):
        stale = storage.exists(storage.join(work, "shards", "manifest.json"))
        why = ", or its shards are of an older selection" if stale else ""
        raise ConfigError(
            f"the run in {work} is not finished{why}, so its report may be another run's; "
            f"{_NOT_FINISHED}"
        )
    again = f"delete {work}/report and run the pipeline again, which takes seconds"
    found = storage.read_json(url)
    if found.get("schema") != SCHEMA_VERSION:
        raise ConfigError(
            f"{url} has schema {found.get('schema')}, and a card is made from {SCHEMA_VERSION}: "
            + again
        )
    try:
        return Report.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{url}: {place}: {first['msg']}; {again}") from None


def _pipeline(work: str, report: Report) -> dict[str, Any]:
    """The pipeline file that was run, which must be that of the report."""
    url = storage.join(work, "pipeline.yaml")
    if not storage.exists(url):
        raise ConfigError(f"{work} has no pipeline.yaml; {_NOT_FINISHED}")
    found: dict[str, Any] = yaml.safe_load(storage.read(url))
    names = [next(iter(step.values()))["name"] for step in found["steps"]]
    own = (found["name"], found["seed"], names)
    reported = (report.name, report.seed, [step.name for step in report.steps])
    if own != reported:
        raise ConfigError(
            f"{url} has (name, seed, steps) {own}, and the report {reported}: it is another run's; "
            "run the pipeline again"
        )
    return found


def _without_secrets(value: Any) -> Any:
    """A pipeline without what URLs may hold besides the place: users, passwords, signatures."""
    if isinstance(value, dict):
        return {key: _without_secrets(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    return _public(value) if isinstance(value, str) and "://" in value else value


def _public(text: str) -> str:
    if any(sign.isspace() for sign in text):
        return text  # SQL, say
    try:
        return public(text)
    except ValueError:  # no URL after all
        return text
