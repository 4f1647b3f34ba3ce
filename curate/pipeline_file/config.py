"""A pipeline file: YAML -> Config; every problem at once, as `file:line: path: problem`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

import filters
from curate import features
from curate.downloads.download import Download
from curate.errors import InvalidPipeline, Problem, did_you_mean
from curate.pipeline_file import overrides, plugins
from curate.pipeline_file.schema import (
    AnyOf,
    Config,
    Published,
    ReportSettings,
    Resources,
    Run,
    Share,
    Source,
)
from curate.pipeline_file.yaml_lines import Document, Path, dotted, parse
from curate.write import Write
from filters import Filter
from filters.random_sample import RandomSample

M = TypeVar("M", bound=BaseModel)


@dataclass
class _Reading:
    """The problems found so far, and where things are."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # plugin file -> text

    def add(self, path: Path, message: str) -> None:
        self.problems.append(Problem(self.document.line(path), dotted(path), message))


@dataclass(frozen=True)
class Loaded:
    """A valid pipeline file."""

    config: Config
    plugin_sources: dict[str, str]  # {YAML name: source text}
    lines: dict[str, int]  # {step name, or pool.<source name>: line}
    file: str


LIMIT = "limit"  # the name of the step that `--limit` puts first
RESERVED = (  # what a step's folders could be mistaken for
    "features", "lease", "ledger", LIMIT, "plugins", "pool", "records", "report", "shards", "state",
    "subset", "sweep",
)  # fmt: skip
STEP_KINDS = ("download", "write", "any_of")


def load(file: str, changes: Sequence[str] = (), *, limit: int | None = None) -> Loaded:
    """Read a pipeline file; InvalidPipeline lists everything that is wrong with its form.

    Args:
        file: Path of the YAML file.
        changes: `--set` values, `steps.clip_score.top_fraction=0.2`.
        limit: Run on so many samples only, the first by uid hash, in a work folder of their own.
    """
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPipeline(file, [Problem(0, "", f"cannot be read: {error}")]) from None
    reading = _Reading(parse(text))
    reading.problems += reading.document.problems
    raw = reading.document.value
    if not isinstance(raw, dict):
        if not reading.problems:
            reading.add((), "a pipeline is a mapping with name, work, pool and steps")
        raise InvalidPipeline(file, reading.problems)
    for change in changes:
        if problem := overrides.apply(raw, change):
            reading.problems.append(Problem(0, f"--set {change}", problem))
    config = _config(raw, reading, FilePath(file).resolve().parent)
    if config is None or reading.problems:
        raise InvalidPipeline(file, reading.problems)
    lines = _lines(config, reading.document)
    if limit is not None:
        first = RandomSample(name=LIMIT, count=limit)
        work = f"{config.work.rstrip('/')}-limit-{limit}"
        config = config.model_copy(update={"steps": (first, *config.steps), "work": work})
    return Loaded(config, reading.sources, lines, file)


def _lines(config: Config, document: Document) -> dict[str, int]:
    steps = {step.name: document.line(("steps", i)) for i, step in enumerate(config.steps)}
    sources = {f"pool.{s.name}": document.line(("pool", i)) for i, s in enumerate(config.pool)}
    asked = {f"{key}:": document.line((key,)) for key in ("report", "published")}
    return {**steps, **sources, **asked}  # a step's name has neither dot nor colon


def _config(raw: dict[str, Any], reading: _Reading, folder: FilePath) -> Config | None:
    values = dict(raw)
    _unknown_keys(values, Config, (), reading)
    values = {key: value for key, value in values.items() if key in Config.model_fields}
    if values.get("steps") == [] or values.get("pool") == []:
        empty = "steps" if values.get("steps") == [] else "pool"
        reading.add((empty,), f"`{empty}` is empty")
    for key in ("name", "work", "pool", "steps"):
        if values.get(key) is None:
            reading.add((), f"`{key}` is missing")
    plugin_files = values.get("plugins") or []
    kinds = _plugin_kinds(plugin_files, reading, folder)
    values["pool"] = tuple(_sources(values.get("pool"), reading))
    values["steps"] = tuple(_steps(values.get("steps"), ("steps",), kinds, reading))
    _repeated_names(values["steps"], reading)
    for key, model in (("report", ReportSettings), ("published", Published)):
        if isinstance(values.get(key), dict):
            _unknown_keys(values[key], model, (key,), reading)
            values[key] = {k: v for k, v in values[key].items() if k in model.model_fields}
    names = overrides.written_names(raw.get("steps"))  # broken ones are told of only once
    values["run"] = _run(values.get("run") or {}, names, reading)
    values["plugins"] = tuple(plugin_files) if isinstance(plugin_files, list) else ()
    if not values["steps"] or not values["pool"] or reading.problems:
        # Fields beside the broken ones are still worth checking, in the same pass.
        probe = {key: values.get(key) for key in _Scalars.model_fields}
        probe = {key: value for key, value in probe.items() if value is not None}
        _validate(_Scalars, probe, (), reading)
        return None
    return _validate(Config, values, (), reading)


class _Scalars(BaseModel):
    name: str = Field("x", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    work: str = Field("x", min_length=1)
    rows_per_block: int = Field(1, ge=1)
    probe: Share = 0.0


def _plugin_kinds(files: Any, reading: _Reading, folder: FilePath) -> dict[str, type[Any]]:
    kinds: dict[str, type[Any]] = {}
    if not isinstance(files, list):
        reading.add(("plugins",), "a list of Python files, `[./my_scorer.py]`")
        return kinds
    for index, file in enumerate(files):
        path = folder / str(file)
        try:
            if path.stem in [*step_kinds(), *kinds]:
                raise plugins.PluginError(f"{path.name}: another step is called {path.stem!r}")
            source = path.read_text(encoding="utf-8")
            kinds[path.stem] = plugins.class_of(path.stem, source)
            reading.sources[path.stem] = source
        except (OSError, UnicodeDecodeError) as error:
            reading.add(("plugins", index), f"{file} cannot be read: {error}")
        except plugins.PluginError as error:
            reading.add(("plugins", index), str(error))
    return kinds


def _sources(raw: Any, reading: _Reading) -> Iterator[Source]:
    several = isinstance(raw, list)
    names: set[str] = set()
    for index, item in enumerate(
        raw if isinstance(raw, list) else [raw] if raw is not None else []
    ):
        path: Path = ("pool", index) if several else ("pool",)
        if not isinstance(item, dict):
            reading.add(path, "a source is a mapping such as `urls: data/*.parquet`")
            continue
        _unknown_keys(item, Source, path, reading)
        known = {key: value for key, value in item.items() if key in Source.model_fields}
        if several and "name" not in known:
            reading.add(path, "each source of a list needs a `name`")
        source = _validate(Source, known, path, reading)
        if source is not None and source.name in names:
            reading.add(path, f"two sources are named {source.name!r}")
        elif source is not None:
            names.add(source.name)
            yield source


def _steps(raw: Any, path: Path, kinds: dict[str, type[Any]], reading: _Reading) -> Iterator[Any]:
    if raw is not None and not isinstance(raw, list):
        reading.add(path, "a list of steps, each `- kind: {fields}`")
        return
    for index, item in enumerate(raw or []):
        step = _step(item, (*path, index), kinds, reading)
        if step is not None:
            yield step


def _step(item: Any, path: Path, kinds: dict[str, type[Any]], reading: _Reading) -> Any:
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict) or len(item) != 1:
        reading.add(path, "a step has one kind, as in `- caption: {min_words: 3}`")
        return None
    kind, fields = next(iter(item.items()))
    path = (*path, kind)
    if kind == "any_of":
        return _any_of(fields, path, kinds, reading)
    model = kinds.get(kind) or _built_in(kind)
    if model is None:
        reading.add(path, did_you_mean(kind, [*step_kinds(), *kinds], "no step is called"))
        return None
    fields = {} if fields is None else fields
    shorthand = getattr(model, "shorthand", "")
    if not isinstance(fields, dict):
        if not shorthand:
            reading.add(path, f"the fields of {kind} are a mapping, not {fields!r}")
            return None
        fields = {shorthand: fields}
    _unknown_keys(fields, model, path, reading)
    known = {key: value for key, value in fields.items() if key in _written(model)}
    step = _validate(model, {"name": kind, **known}, path, reading)
    for problem in step.problems() if step is not None and hasattr(step, "problems") else []:
        reading.add(path, problem)
    return step


def _any_of(
    fields: Any, path: Path, kinds: dict[str, type[Any]], reading: _Reading
) -> AnyOf | None:
    inner = path if isinstance(fields, list) else (*path, "steps")
    fields = {"steps": fields} if isinstance(fields, list) else fields
    if not isinstance(fields, dict):
        reading.add(path, "any_of holds a list of filters")
        return None
    _unknown_keys(fields, AnyOf, path, reading)
    found = len(reading.problems)
    children = list(_steps(fields.get("steps"), inner, kinds, reading))
    for child in children:
        if not isinstance(child, Filter) or isinstance(child, filters.GroupFilter):
            reading.add(path, f"{child.name}: any_of holds row and pool filters only")
            return None
    if not children:
        if len(reading.problems) == found:  # else each of them was reported already
            reading.add(path, "any_of holds a list of filters")
        return None
    known = {key: value for key, value in fields.items() if key in AnyOf.model_fields}
    return _validate(AnyOf, {**known, "steps": tuple(children)}, path, reading)


def _built_in(kind: str) -> type[Any] | None:
    if kind == "download":
        return Download
    if kind == "write":
        return Write
    if kind in filters.names():
        return filters.find(kind)
    if kind in features.names():
        return features.find(kind)
    return None


def step_kinds() -> list[str]:
    """Every YAML name a step can have, plugins apart."""
    return sorted([*filters.names(), *features.names(), *STEP_KINDS])


def _run(raw: Any, names: list[str], reading: _Reading) -> Run:
    if not isinstance(raw, dict):
        reading.add(("run",), "a mapping")
        return Run()
    own = {key: value for key, value in raw.items() if key in Run.model_fields and key != "steps"}
    resources = {}
    for key, value in raw.items():
        if key not in own:
            found = _resources(key, value, names, reading)
            if found is not None:
                resources[key] = found
    for budget in ("max_removed", "error_budget"):
        given = own.get(budget)
        for step in given if isinstance(given, dict) else ():
            if step not in names:
                reading.add(("run", budget, step), did_you_mean(step, names, "no step is called"))
    return _validate(Run, {**own, "steps": resources}, ("run",), reading) or Run()


def _resources(key: str, value: Any, names: list[str], reading: _Reading) -> Resources | None:
    if key not in names:
        known = [*(name for name in Run.model_fields if name != "steps"), *names]
        reading.add(("run", key), did_you_mean(key, known, "neither a setting nor a step:"))
        return None
    if not isinstance(value, dict):
        reading.add(("run", key), "a mapping such as `{actors: 8, gpus: 1}`")
        return None
    _unknown_keys(value, Resources, ("run", key), reading)
    fields = {name: given for name, given in value.items() if name in Resources.model_fields}
    return _validate(Resources, fields, ("run", key), reading)


def _repeated_names(steps: Sequence[Any], reading: _Reading) -> None:
    seen: set[str] = set()
    for index, step in enumerate(steps):
        for name in [step.name, *(child.name for child in getattr(step, "steps", ()))]:
            if name in RESERVED:
                reading.add(("steps", index), f"{name!r} cannot be a step's name: it is ours")
            elif not name.replace("_", "a").replace("-", "a").isalnum():
                reading.add(
                    ("steps", index), f"{name!r} cannot be a step's name: letters, digits, _ and -"
                )
            elif name in seen:
                message = f"two steps are named {name!r}: give one another `name:`"
                reading.add(("steps", index), message)
            seen.add(name)


def _unknown_keys(
    raw: dict[str, Any], model: type[BaseModel], path: Path, reading: _Reading
) -> None:
    known = _written(model)
    for key in raw:
        if key not in known:
            reading.add((*path, key), did_you_mean(key, known, "there is no field"))


def _written(model: type[BaseModel]) -> list[str]:
    """The fields as YAML has them: `from` is no name in Python."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _validate(model: type[M], values: Any, path: Path, reading: _Reading) -> M | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for found in error.errors():
            inner = _places(values, found["loc"])
            message = found["msg"].removeprefix("Value error, ")
            message = message.replace("valid tuple", "list").replace("Tuple", "The list")
            given = found.get("input")
            if found["type"] != "value_error" and isinstance(given, (str, int, float, bool)):
                message += f" (got {given!r})"
            if found["type"] == "missing":
                message = f"`{found['loc'][-1]}` must be given"
            reading.add((*path, *inner), message)
        return None


def _places(values: Any, loc: tuple[str | int, ...]) -> Path:
    """The parts of a pydantic location that are keys of the YAML, not names of union members."""
    found: list[str | int] = []
    for part in loc:
        if isinstance(values, dict):
            inside = part in values
        else:
            inside = isinstance(values, list | tuple) and part in range(len(values))
        if inside:
            values = values[part]
            found.append(part)
    return tuple(found)
