"""A pipeline ready to run: bound steps, and which columns each of them can read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curate.columns import Column, Registry
from curate.downloads.download import Download
from curate.features import Feature, FittedFeature
from curate.pipeline_file import plugins
from curate.pipeline_file.config import LIMIT
from curate.pipeline_file.schema import AnyOf, Config, Step
from curate.pools.metadata import ARRAY
from curate.write import Write
from filters import Filter, GroupFilter, PoolFilter
from filters.random_sample import RandomSample


@dataclass(frozen=True)
class Phase:
    """Steps that flow from shard to shard, then at most one that must see all survivors.

    The first may be a fitted feature: it is fitted before anything flows.
    """

    first: int  # index of the first step
    stop: int  # one past the last step that flows
    barrier: int | None  # index of the pool or group filter that ends the phase


@dataclass(frozen=True)
class Compiled:
    """What every worker knows. Travels to workers with the plugins that its classes come from."""

    config: Config
    work: str
    steps: tuple[Step, ...]  # filters are bound
    registries: tuple[Registry, ...]  # what step i can read; one more for after the last
    plugin_sources: Mapping[str, str]
    recipes: Mapping[str, dict[str, Any]]  # {step name: recipe}
    lost: Mapping[str, Mapping[int, str]]  # {step name: {unit: kind}} of this run
    retry_failed: str = ""  # "retry" where failed URLs are fetched again

    @property
    def limit(self) -> int | None:
        """Rows that `--limit` leaves of the pool, by a step that it puts first."""
        first = next(iter(self.config.steps), None)  # none of a run that decided nothing yet
        return first.count if isinstance(first, RandomSample) and first.name == LIMIT else None

    def __reduce__(self) -> Any:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _revive, (dict(self.plugin_sources), pickle.dumps(fields))

    @property
    def pool_after(self) -> str:
        """The verdict whose survivors are the pool that shares are taken of."""
        return LIMIT if self.limit is not None else "pool"

    def phases(self) -> Iterator[Phase]:
        """The phases in order; `write` is not part of any."""
        first = 0
        for index, step in enumerate(self.steps):
            if isinstance(step, FittedFeature) and index > first:
                yield Phase(first, index, None)  # who survives so far must be known to fit
                first = index
            if is_barrier(step):
                yield Phase(first, index, index)
                first = index + 1
        stop = len(self.steps) - isinstance(self.steps[-1], Write)
        if first < stop:
            yield Phase(first, stop, None)

    def index(self, name: str) -> int:
        """Where the step of that name stands."""
        return next(index for index, step in enumerate(self.steps) if step.name == name)

    def kind(self, step: Step) -> str:
        """The YAML name of a step's kind: its file's name."""
        if isinstance(step, AnyOf):
            return "any_of"
        module = type(step).__module__
        for name, source in self.plugin_sources.items():
            if module == plugins.module_name(name, source):
                return name
        return module.rpartition(".")[2]

    def download(self) -> Download | None:
        """The download step, if there is one."""
        return next((step for step in self.steps if isinstance(step, Download)), None)


def _revive(sources: dict[str, str], fields: bytes) -> Compiled:
    for name, source in sources.items():
        plugins.class_of(name, source)  # registers the module that the pickle refers to
    return Compiled(**pickle.loads(fields))


def is_barrier(step: Step) -> bool:
    """Whether a step must see all survivors before it can say anything of one."""
    if isinstance(step, AnyOf):
        return any(is_barrier(child) for child in step.steps)
    return isinstance(step, (PoolFilter, GroupFilter))


def is_filter(step: Step) -> bool:
    """Whether a step removes samples by a rule."""
    return isinstance(step, (Filter, AnyOf))


def pool_children(step: Step) -> list[PoolFilter]:
    """The pool filters in a step."""
    if isinstance(step, AnyOf):
        return [child for child in step.steps if isinstance(child, PoolFilter)]
    return [step] if isinstance(step, PoolFilter) else []


def is_scorer(step: Step) -> bool:
    """Whether a step makes columns, shard by shard."""
    return isinstance(step, (Feature, Download))


DOWNLOADED = {  # what a download adds under the pool's own names
    "key": "String",
    "width": "Int64",
    "height": "Int64",
    "original_width": "Int64",
    "original_height": "Int64",
    "sha256": "String",
}
DOWNLOAD_OWN = {"status": "String", "error": "String", "part": "UInt32"}
_DTYPES = {
    "float32": "Float32",
    "float64": "Float64",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "int64": "Int64",
    "string": "String",
    "bool": "Boolean",
    "uint32s": "List(UInt32)",
}


def columns_given(step: Step) -> dict[str, Column]:
    """{full name: column} that a step adds."""
    if isinstance(step, Download):
        given = {name: Column(step.name, name, dtype) for name, dtype in DOWNLOADED.items()}
        own = {f"{step.name}.{n}": Column(step.name, n, dtype) for n, dtype in DOWNLOAD_OWN.items()}
        return {**given, **own}
    if isinstance(step, Feature):
        fields = {field.name: _DTYPES[field.dtype] for field in step.gives()}
        fields["error"] = "String"
        fields |= {array.name: ARRAY for array in step.arrays()}
        return {f"{step.name}.{n}": Column(step.name, n, dtype) for n, dtype in fields.items()}
    return {}


def needs_of(step: Step) -> tuple[str, ...]:
    """The columns a bound step reads."""
    if isinstance(step, AnyOf):
        found = [name for child in step.steps for name in needs_of(child)]
        return tuple(dict.fromkeys(found))
    if isinstance(step, (Filter, Feature)):
        return step.needs()
    if isinstance(step, Download):
        return ("url", "caption")
    return step.columns if isinstance(step, Write) else ()
