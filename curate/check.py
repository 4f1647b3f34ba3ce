"""A pipeline file -> steps ready to run, or everything that is wrong with it, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from curate import intake, storage
from curate.columns import Column, Registry
from curate.compiled import Compiled, columns_given, is_filter, needs_of
from curate.config import LIMIT, AnyOf, Loaded, Source, Step
from curate.download import Download
from curate.errors import CurateError, InvalidPipeline, Problem
from curate.features import Feature
from curate.pool import list_files
from curate.step import recipe_of
from curate.write import Write
from filters import Filter, Unbound


@dataclass
class _Check:
    loaded: Loaded
    problems: list[Problem] = field(default_factory=list)

    def add(self, step: str, message: str) -> None:
        line = self.loaded.lines.get(step, 0)
        self.problems.append(Problem(line, step, message))


def compile_pipeline(loaded: Loaded, *, columns: Registry | None = None) -> Compiled:
    """Bind every filter to its columns and check the whole; InvalidPipeline lists what is wrong.

    Args:
        loaded: The pipeline file.
        columns: The pool's columns where it was read before; else each source's head is read.
    """
    check = _Check(loaded)
    config = loaded.config
    if columns is None:
        columns = _pool_columns(check)
    steps: list[Step] = []
    registries: list[Registry] = [dict(columns)]
    for step in config.steps:
        _check_place(check, step, steps)
        steps.append(_bound(check, step, registries[-1]))
        registries.append({**registries[-1], **columns_given(step)})
    _check_names(check)
    for owner in foreign_owners():
        check.add("", owner)
    if check.problems:
        raise InvalidPipeline(loaded.file, check.problems)
    recipes = {
        step.name: recipe_of(step, loaded.plugin_sources.get(kind_of(loaded, step)))
        for step in config.steps
    }
    return Compiled(
        config, config.work, tuple(steps), tuple(registries), loaded.plugin_sources, recipes, {}
    )


def kind_of(loaded: Loaded, step: Step) -> str:
    """The plugin a step comes from, or its class name."""
    module = type(step).__module__
    for name in loaded.plugin_sources:
        if module.startswith(f"curate_plugin_{name}_"):
            return name
    return type(step).__name__


def _pool_columns(check: _Check) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for source in check.loaded.config.pool:
        try:
            files = list_files(source)
            names = intake.check_readable(source, files[0].url) if files else {}
        except CurateError as error:
            check.problems.append(Problem(0, f"pool.{source.name}", str(error)))
            continue
        if source.urls is not None and "url" not in names:
            listed = ", ".join(names)
            message = (
                f"{files[0].url} has no URL column (it has: {listed}); name it with `columns:`"
            )
            check.problems.append(Problem(0, f"pool.{source.name}", message))
        found.update({name: Column("pool", name, dtype) for name, dtype in names.items()})
    for name in ("uid", "caption", *(["key"] if _has_pictures(check.loaded.config.pool) else [])):
        found.setdefault(name, Column("pool", name, "String"))
    return found


def _has_pictures(sources: Sequence[Source]) -> bool:
    return all(source.shards is not None for source in sources)


def _check_place(check: _Check, step: Step, before: Sequence[Step]) -> None:
    """What a step may not stand after, or without."""
    if any(isinstance(earlier, Write) for earlier in before):
        check.add(step.name, "nothing comes after `write`: it is the last step")
    downloads = [earlier.name for earlier in before if isinstance(earlier, Download)]
    if isinstance(step, Download):
        _check_download(check, step, downloads)
    asks = isinstance(step, Write) or (isinstance(step, Feature) and step.pictures)
    if asks and not downloads and not _has_pictures(check.loaded.config.pool):
        check.add(step.name, "the pool has no pictures yet: put `- download: {}` before this step")
    if is_filter(step):
        _check_filter(check, step, before)


def _check_download(check: _Check, step: Download, before: Sequence[str]) -> None:
    if before:
        check.add(step.name, f"the pictures were downloaded by {before[0]!r} already")
    if any(source.shards is not None for source in check.loaded.config.pool):
        check.add(step.name, "the pool has pictures: a download takes a pool of `urls:` only")


def _check_filter(check: _Check, step: Step, before: Sequence[Step]) -> None:
    copying = [earlier.name for earlier in before if getattr(earlier, "makes_copies", False)]
    if copying:
        check.add(step.name, f"{copying[0]!r} makes copies: no filter may come after it")
    if not any(is_filter(earlier) and earlier.name != LIMIT for earlier in before):
        return
    for child in step.steps if isinstance(step, AnyOf) else [step]:
        for problem in child.problems_after_filters() if isinstance(child, Filter) else []:
            check.add(step.name, problem)


def _bound(check: _Check, step: Step, registry: Registry) -> Step:
    available = {name: column.dtype for name, column in registry.items()}
    try:
        if isinstance(step, AnyOf):
            children = tuple(child.bind(available) for child in step.steps)
            step = step.model_copy(update={"steps": children})
        elif isinstance(step, Filter):
            step = step.bind(available)
    except Unbound as error:
        check.add(step.name, str(error) + _producer(check, str(error)))
        return step
    absent = [name for name in needs_of(step) if name not in registry]
    if absent:
        known = ", ".join(sorted(name for name in registry if not name.startswith("uid_")))
        for name in absent:
            hint = _producer(check, name) or f"; there are: {known}"
            check.add(step.name, f"nobody produces {name!r} before this step{hint}")
    return step


def _producer(check: _Check, text: str) -> str:
    """Which step of the file, or of those that exist, would make a column named in the text."""
    for step in check.loaded.config.steps:
        for name in columns_given(step):
            if name in text.replace(",", " ").split() or name == text:
                return f"; {step.name!r} makes it: move that step up"
    outer = text.split(".", 1)[0]
    from curate import features

    if "." in text and outer in features.names():
        return f"; `- {outer}: {{...}}` would make it"
    if text in ("width", "height", "original_width", "original_height", "sha256"):
        return "; `- download: {}` or `- image_file: {}` would make it"
    return ""


def _check_names(check: _Check) -> None:
    work = check.loaded.config.work
    if storage.is_local(work) and storage.local_path(work).is_file():
        check.problems.append(Problem(0, "work", f"{work} is a file, not a folder"))


def foreign_owners() -> list[str]:
    """Other installed packages that own a top-level `filters` or `curate`, each with the remedy."""
    owners: dict[str, Any] = dict(metadata.packages_distributions())
    found = []
    for package in ("filters", "curate"):
        others = sorted({name for name in owners.get(package, []) if name.lower() != "curate"})
        found += [
            f"the installed package {other!r} also has a top-level `{package}`: "
            f"`pip uninstall {other}`, or use a fresh environment"
            for other in others
        ]
    return found
