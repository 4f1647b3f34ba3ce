"""What a file asks of the report, checked before any work: columns, sets, classes, shares."""

from __future__ import annotations

from collections.abc import Iterator

from curate.columns import Registry
from curate.errors import CurateError, did_you_mean
from curate.frequencies.class_names import read_classes
from curate.pipeline_file.schema import Config
from curate.pools.metadata import ARRAY
from curate.subsets.subset_file import form_of, open_subset


def problems(config: Config, registry: Registry) -> Iterator[tuple[str, str]]:
    """(where in the file, what is wrong) of `report:` and `published:`.

    Args:
        config: The file.
        registry: Every column that there is after the last step.
    """
    names = [step.name for step in config.steps]
    for step in config.published.kept if config.published is not None else ():
        if step not in names:
            yield f"published.kept.{step}", did_you_mean(step, names, "no step is called")
    yield from _columns(config, registry)
    yield from _classes(config)
    for name, url in config.report.sets.items():
        try:
            if form_of(url) in ("npy", "raw"):  # else a list of uids, which is read whole
                open_subset(url)
        except CurateError as error:
            yield f"report.sets.{name}", str(error)


def _columns(config: Config, registry: Registry) -> Iterator[tuple[str, str]]:
    for name in config.report.columns:
        if name not in registry:
            yield "report.columns", did_you_mean(name, sorted(registry), "no column is called")
        elif registry[name].dtype.startswith("List") or registry[name].dtype == ARRAY:
            yield "report.columns", f"{name} holds lists: only numbers and words can be counted"


def _classes(config: Config) -> Iterator[tuple[str, str]]:
    source = config.report.classes
    if source is None:
        return
    try:
        read_classes(source)
    except CurateError as error:
        yield "report.classes", str(error)
