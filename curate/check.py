"""A pipeline file -> steps ready to run, or everything that is wrong with it, at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata as installed

import polars as pl

from curate import features, storage
from curate.columns import Column, Registry
from curate.compiled import (
    DOWNLOADED,
    Compiled,
    columns_given,
    is_filter,
    needs_of,
    pool_children,
)
from curate.downloads.download import Download
from curate.errors import (
    CurateError,
    InputChanged,
    InvalidPipeline,
    Problem,
    StorageError,
    did_you_mean,
    first_line,
)
from curate.features import Feature, FittedFeature
from curate.pipeline_file import asked
from curate.pipeline_file.config import LIMIT, Loaded
from curate.pipeline_file.schema import AnyOf, Source, Step
from curate.pools import intake, metadata, pictures
from curate.pools.pool_files import list_files, list_pictures, refuse_changes
from curate.pools.shard_table import load_table
from curate.sample import INTERNAL
from curate.step import recipe_of
from curate.write import Write
from filters import Filter, RowFilter, Unbound, structured

ALL_FILES = 64  # so many metadata files have the arrays beside all of them looked at


@dataclass
class _Check:
    loaded: Loaded
    problems: list[Problem] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # sources of unknown columns

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
        if isinstance(step, Feature):
            step = step.made_by(_makers(step, registries[-1], steps))
        bound = _bound(check, step, registries[-1])
        _check_before(check, bound, registries[-1], steps)
        steps.append(bound)
        registries.append({**registries[-1], **columns_given(step)})
    _check_names(check)
    for path, message in asked.problems(config, registries[-1]):
        line = loaded.lines.get(path.partition(".")[0] + ":", 0)
        check.problems.append(Problem(line, path, message))
    for owner in foreign_owners():
        check.add("", owner)
    if check.problems:
        raise InvalidPipeline(loaded.file, check.problems)
    # A filter's recipe is what was written; a feature's is what its columns are made from.
    made = [
        step if isinstance(step, Feature) else own
        for own, step in zip(config.steps, steps, strict=True)
    ]
    recipes = {step.name: recipe_of(step, loaded.plugin_sources) for step in made}
    return Compiled(
        config, config.work, tuple(steps), tuple(registries), loaded.plugin_sources, recipes, {}
    )


def _pool_columns(check: _Check) -> dict[str, Column]:
    found: dict[str, Column] = {}
    listed: dict[tuple[str, str], storage.Entry] = {}
    for source in check.loaded.config.pool:
        try:
            files = list_files(source)
            _open_pictures(source)
            names = intake.check_readable(source, [file.url for file in files])
        except CurateError as error:
            check.add(f"pool.{source.name}", str(error))
            check.unread.append(source.name)
            continue
        if source.urls is not None and "url" not in names:
            there = ", ".join(names)
            message = f"{files[0].url} has no URL column (it has: {there}); name it with `columns:`"
            check.add(f"pool.{source.name}", message)
            check.unread.append(source.name)
        listed |= {(source.name, file.url): file for file in files}
        found.update({name: Column("pool", name, dtype) for name, dtype in names.items()})
    if not check.unread:
        _check_read_before(check, listed)
        found = _with_shared_arrays(check, found, list(listed))
    for name in ("uid", "caption", *(["key"] if _has_pictures(check.loaded.config.pool) else [])):
        found.setdefault(name, Column("pool", name, "String"))
    return found


def _open_pictures(source: Source) -> None:
    """Raise where a tar that is said to hold pictures is not there, or the first are no files."""
    for tar in list_pictures(source)[: intake.HEAD_FILES]:
        with storage.opened(tar.url):
            pass


def _check_read_before(check: _Check, listed: dict[tuple[str, str], storage.Entry]) -> None:
    """A pool may only grow: whatever was read must be there as it was."""
    config = check.loaded.config
    try:
        refuse_changes(load_table(config.work), listed)
        pictures.refuse_other_tars(config.work, pictures.listed(config))
    except InputChanged as error:
        check.add("pool", " ".join(str(error).split()))
    except StorageError:
        return  # `_check_names` says why nothing can be read there


def _with_shared_arrays(
    check: _Check, found: dict[str, Column], listed: Sequence[tuple[str, str]]
) -> dict[str, Column]:
    """The columns without the arrays that a run would not have, as not every row has them."""
    sources = {source.name: source for source in check.loaded.config.pool}
    arrays = {name for name, column in found.items() if column.dtype == metadata.ARRAY}
    if all(source.metadata is not None for source in sources.values()):
        if len(listed) > ALL_FILES:
            return found  # the run looks at all of them before anything else
        try:
            shared = metadata.arrays_in_all([(sources[name], url) for name, url in listed])
        except CurateError as error:
            check.add(f"pool.{listed[0][0]}", str(error))
            check.unread.append(listed[0][0])
            return found
        found |= {name: Column("pool", name, metadata.ARRAY) for name in shared}
        arrays -= set(shared)
    return {name: column for name, column in found.items() if name not in arrays}


def _has_pictures(sources: Sequence[Source]) -> bool:
    return all(source.has_pictures for source in sources)


def _check_place(check: _Check, step: Step, before: Sequence[Step]) -> None:
    """What a step may not stand after, or without."""
    if any(isinstance(earlier, Write) for earlier in before):
        check.add(step.name, "nothing comes after `write`: it is the last step")
    downloads = [earlier.name for earlier in before if isinstance(earlier, Download)]
    if isinstance(step, Download):
        _check_download(check, step, downloads)
    asks = isinstance(step, Write) or (isinstance(step, Feature) and step.pictures)
    if asks and not downloads and not _has_pictures(check.loaded.config.pool):
        check.add(step.name, f"the pool has no pictures yet: {_picture_remedy(check)}")
    if is_filter(step):
        _check_filter(check, step, before)


def _picture_remedy(check: _Check) -> str:
    remedy = "put `- download: {}` before this step"
    without = [source for source in check.loaded.config.pool if not source.has_pictures]
    if all(source.metadata is not None for source in without):
        remedy += ", or name the tars that have them with `shards:` beside `metadata:`"
    return remedy


def _check_download(check: _Check, step: Download, before: Sequence[str]) -> None:
    if before:
        check.add(step.name, f"the pictures were downloaded by {before[0]!r} already")
    if any(source.has_pictures for source in check.loaded.config.pool):
        message = "the pool has pictures: a download takes a pool of `urls:` or `metadata:` alone"
        check.add(step.name, message)


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
    try:
        bound = _bind(step, registry)
    except Unbound as error:
        if not check.unread:
            check.add(step.name, str(error) + _made_later(check, step, registry))
        return step
    known = ", ".join(sorted(registry.keys() - INTERNAL))
    for name in needs_of(bound):
        if name not in registry and not check.unread:
            hint = _producer(check, name) or f"; there are: {known}"
            check.add(step.name, f"nobody produces {name!r} before this step{hint}")
        elif f"{name.partition('.')[0]}" in needs_of(bound) and "." in name:
            outer = name.partition(".")[0]
            message = f"the pool has a column {outer!r}: give the step {outer!r} another `name:`"
            check.add(step.name, message)
    _check_whole_pool(check, bound, registry)
    _check_types(check, bound, registry)
    for name in bound.columns if isinstance(bound, Write) else ():
        if name in registry and registry[name].dtype == metadata.ARRAY:
            message = f"columns: {name} is an array of many numbers, and JSON is no place for it"
            check.add(bound.name, message)
    return bound


def _check_before(check: _Check, bound: Step, registry: Registry, before: Sequence[Step]) -> None:
    """What a filter or a feature asks must be what the steps before it look for, or make."""
    problems: list[str] = []
    if isinstance(bound, Feature):
        problems = bound.refusals(_makers(bound, registry, before))
    fields = {step.name: step.model_dump() for step in before}
    for child in bound.steps if isinstance(bound, AnyOf) else (bound,):
        problems += child.refusals(fields) if isinstance(child, Filter) else []
    for problem in problems:
        check.add(bound.name, problem)


def _makers(feature: Feature, registry: Registry, before: Sequence[Step]) -> dict[str, Feature]:
    """{column: the step that makes it} of those columns of a feature that steps make."""
    steps = {step.name: step for step in before if isinstance(step, Feature)}
    own = {name: registry[name].store for name in feature.needs() if name in registry}
    return {name: steps[owner] for name, owner in own.items() if owner in steps}


def _bind(step: Step, registry: Registry) -> Step:
    available = {name: column.dtype for name, column in registry.items()}
    if isinstance(step, AnyOf):
        children = tuple(child.bind(available) for child in step.steps)
        return step.model_copy(update={"steps": children})
    return step.bind(available) if isinstance(step, Filter) else step


def _made_later(check: _Check, step: Step, registry: Registry) -> str:
    """Which later step makes what a filter looked for in vain."""
    steps = check.loaded.config.steps
    for later in steps[steps.index(step) :]:
        given = columns_given(later)
        if not given:
            continue
        try:
            needed = needs_of(_bind(step, {**registry, **given}))
        except Unbound:
            continue
        if any(name in given for name in needed):
            return f"; {later.name!r} makes it: move that step up"
    return ""


def _producer(check: _Check, name: str) -> str:
    """Which step of the file, or of those that exist, would make a column."""
    for step in check.loaded.config.steps:
        if name in columns_given(step):
            return f"; {step.name!r} makes it: move that step up"
    outer, _, field_name = name.partition(".")
    owner, fields = _fields_of(check, outer)
    if field_name and fields and field_name not in fields:
        return f"; {did_you_mean(field_name, fields, f'{owner} has no field')}"
    if field_name and outer in features.names():
        return f"; `- {outer}: {{...}}` would make it"
    if name in DOWNLOADED:
        own = [field.name for field in features.find("image_file")().gives()]
        also = f", `- image_file: {{}}` makes image_file.{name}" if name in own else ""
        return f"; `- download: {{}}` would make it{also}"
    return ""


def _fields_of(check: _Check, name: str) -> tuple[str, list[str]]:
    """(who, its fields) of the step of that name, or of the feature that no step uses; no fields
    where there is neither, or where they depend on what the step would be given.
    """
    step = next((step for step in check.loaded.config.steps if step.name == name), None)
    prefix = f"{name}."
    given = columns_given(step) if step is not None else {}
    own = [full.removeprefix(prefix) for full in given if full.startswith(prefix)]
    if own:
        return repr(name), own
    if name not in features.names():
        return "", []
    unused = features.find(name).model_construct(name=name)
    own = [made.name for made in unused.gives()] + [made.name for made in unused.arrays()]
    return f"`- {name}: {{...}}`", [*own, "error"] if own else []


def _check_whole_pool(check: _Check, bound: Step, registry: Registry) -> None:
    """A threshold over the pool needs its column for all of it, not for survivors only."""
    config = check.loaded.config
    order = [step.name for step in config.steps]
    whole: list[Filter | Feature] = [child for child in pool_children(bound) if child.over_pool()]
    remedy = "of: pool_count"
    if isinstance(bound, FittedFeature) and bound.fit_on == "pool":
        whole, remedy = [bound], "fit_on: survivors"
    for child in whole if config.probe < 1 else ():
        for name in child.needs():
            maker = registry[name].store if name in registry else "pool"
            before = config.steps[: order.index(maker)] if maker in order else ()
            filtering = [step.name for step in before if is_filter(step)]
            if filtering:
                check.add(
                    bound.name,
                    f"it needs {name} for the whole pool, but {filtering[0]!r} stands before "
                    f"{maker!r}: move {maker!r} up, or write `{remedy}`",
                )


def _check_types(check: _Check, bound: Step, registry: Registry) -> None:
    """Row filters are tried on no rows: a rule that does not fit its columns says so here."""
    for child in bound.steps if isinstance(bound, AnyOf) else (bound,):
        if not isinstance(child, RowFilter) or not registry.keys() >= set(child.needs()):
            continue
        dtypes = {name: getattr(pl, registry[name].dtype, None) for name in child.needs()}
        if None in dtypes.values():
            continue  # tars say what they hold only once they are read; then this is done again
        empty = structured({name: pl.Series([], dtype=given) for name, given in dtypes.items()}, 0)
        try:
            found = {why: empty.select(rule).dtypes[0] for why, rule in child.passes().items()}
        except pl.exceptions.PolarsError as error:
            check.add(bound.name, f"does not fit its columns: {first_line(error)}")
            continue
        for why, dtype in found.items():
            if dtype not in (pl.Boolean, pl.Null):
                check.add(bound.name, f"the rule {why!r} gives {dtype}, not true or false")


def _check_names(check: _Check) -> None:
    work = check.loaded.config.work
    problem = storage.unwritable(work)
    if problem:
        check.problems.append(Problem(0, "work", problem))


def foreign_owners() -> list[str]:
    """Other installed packages that own a top-level `filters` or `curate`, each with the remedy."""
    return [
        f"the installed package {other!r} also has a top-level `{package}`: "
        f"`pip uninstall {other}`, or use a fresh environment"
        for package, other in _foreign(tuple(sys.path))
    ]


@cache
def _foreign(path: tuple[str, ...]) -> list[tuple[str, str]]:
    """(our package, whose it is too); `packages_distributions` would take half a second."""
    found = set()
    for distribution in installed.distributions(path=list(path)):
        listed = distribution.read_text("RECORD") or distribution.read_text("top_level.txt") or ""
        for package in ("filters", "curate"):
            if any(f"\n{package}{end}" in f"\n{listed}" for end in ("/", ".py,", "\n")):
                found.add((package, distribution.metadata["Name"]))
    return sorted((package, name) for package, name in found if name.lower() != "curate")
