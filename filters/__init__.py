"""The filter contract, and lookup by name: one file in this folder is one filter and one YAML name.

A filter decides over columns how many copies of each sample go on. It is a frozen pydantic model
whose fields are its YAML, in one of three shapes by how much it must see: row, pool or group.
It knows nothing of Ray, files or other filters; what it needs is passed in.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

UNSCORED = "unscored"  # the reason of a sample whose deciding value is null or NaN

Available = Mapping[str, str]  # {column name: dtype as polars prints it, or "" where not known yet}
State = dict[str, Any]  # what a filter learnt: JSON values, and arrays for what is long
Summary = Any  # picklable; what one batch contributes to a State


class Unbound(ValueError):
    """A column is missing, ambiguous or of the wrong type; the text says what to write."""


Late = np.ndarray | Callable[[], np.ndarray]  # an array, or what reads it once it is asked for


def _nothing(name: str) -> Any:
    raise KeyError(f"nobody gave {name}: a filter's `learnt` names what it reads")


class Batch:
    """Some N survivors, in row order: what every filter sees."""

    def __init__(
        self,
        frame: pl.DataFrame,
        uids: Late,
        addresses: Late,
        uniform: Callable[[str], np.ndarray],
        learnt: Callable[[str], Any] = _nothing,
    ) -> None:
        """Put a batch together.

        Args:
            frame: The columns of `needs`; a feature's are fields of one struct; NaN is null.
            uids: [N] structured u8,u8.
            addresses: [N] uint64, unique and ascending.
            uniform: salt -> [N] float64 in [0, 1), by (seed, step, salt, uid).
            learnt: `concepts.codes` -> what that step has of that name, for a filter that asks.
        """
        self.frame = frame
        self.uniform = uniform
        self.learnt = learnt
        self._uids = uids
        self._addresses = addresses

    @cached_property
    def uids(self) -> np.ndarray:
        """[N] structured u8,u8; read when first asked for: most filters never do."""
        return self._uids() if callable(self._uids) else self._uids

    @cached_property
    def addresses(self) -> np.ndarray:
        """[N] uint64, unique and ascending: orders samples that share a uid."""
        return self._addresses() if callable(self._addresses) else self._addresses

    def drawing(self, uniform: Callable[[str], np.ndarray]) -> Batch:
        """The same samples with other random numbers."""
        return Batch(self.frame, lambda: self.uids, lambda: self.addresses, uniform, self.learnt)


@dataclass(frozen=True)
class Verdict:
    """What a filter says of N samples."""

    copies: np.ndarray  # [N] uint32; 0 removes
    reason: pl.Series  # [N] string, set where copies is 0
    because: pl.Series | None = None  # [N] string: what else explains it, whoever stays or goes


@dataclass(frozen=True)
class Counts:
    """How many rows there are."""

    pool: int  # usable rows of the whole pool
    survivors: int  # rows that reach this step


@dataclass(frozen=True)
class Measure:
    """A number that a filter makes of a sample's columns, and compares with limits of its own."""

    name: str  # as a report says it: `caption: words`
    value: pl.Expr
    at_least: tuple[str, float] | None = None  # (reason of those below, the limit)
    at_most: tuple[str, float] | None = None

    @property
    def limits(self) -> dict[str, float]:
        """{reason: limit}."""
        return dict(limit for limit in (self.at_least, self.at_most) if limit is not None)

    @property
    def keeps(self) -> Literal["high", "low"] | None:
        """Which values pass, where there is one limit."""
        if len(self.limits) != 1:
            return None
        return "low" if self.at_least is None else "high"


@dataclass(frozen=True)
class Shown:
    """What explains a verdict: the deciding columns, and the numbers they were compared with."""

    columns: tuple[str, ...]
    thresholds: Mapping[str, float]  # {reason: threshold in the unit of its column}
    scores: tuple[str, ...] = ()  # those columns of which a report draws a distribution
    keeps: Literal["high", "low"] | None = None  # which scores stay, where one threshold decides
    measures: tuple[Measure, ...] = ()  # numbers that are no column, each of `columns` alone


class Filter(BaseModel):
    """A step that removes samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: ClassVar[int] = 1  # rises when the decisions change
    example: ClassVar[str] = "{}"  # its YAML value; the README shows it, the contract tests try it
    shorthand: ClassVar[str] = ""  # the field that a bare YAML value stands for
    makes_copies: ClassVar[bool] = False  # whether copies may exceed 1
    removes_duplicates: ClassVar[bool] = False  # whether of samples that are alike one stays

    name: str = ""  # the step's name: its kind unless given

    def bind(self, available: Available) -> Filter:
        """The filter with every column it left out filled in; raises Unbound."""
        return self

    def problems(self) -> list[str]:
        """What is wrong that the fields' types cannot say."""
        return []

    def problems_after_filters(self) -> list[str]:
        """What is wrong given that another filter stands before this one."""
        return []

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What is wrong, once bound, given {step name: its fields} of the steps before this one."""
        return []

    def needs(self) -> tuple[str, ...]:
        """The columns it reads, once bound."""
        raise NotImplementedError  # the contract: every filter says so itself

    def balances(self) -> bool:
        """Whether it counts kinds of samples, which duplicates would distort."""
        return False

    def learnt(self) -> tuple[str, ...]:
        """What it reads that earlier steps learnt or were given: `concepts.codes`."""
        return ()

    def shows(self, state: State) -> Shown:
        """What explains its verdicts."""
        return Shown(self.needs(), {})


class RowFilter(Filter):
    """Sees one sample's columns."""

    def passes(self) -> dict[str, pl.Expr]:
        """Ordered {reason: expression that is true where the sample passes}.

        The first false one is the reason; null means `unscored`.
        """
        raise NotImplementedError  # the contract: every row filter says so itself


class PoolFilter(Filter):
    """Sees statistics of all survivors (or the pool), then rows."""

    def over_pool(self) -> bool:
        """Whether `summarize` sees the whole pool, not only the survivors."""
        return False

    def decides_others(self) -> bool:
        """Whether `keep` can decide on rows that `summarize` did not see: by a threshold, say.

        Such a filter can be tried by itself in a report, on rows that earlier ones removed.
        """
        return self.over_pool()

    def start(self, counts: Counts) -> State:
        """The state before anything was seen."""
        raise NotImplementedError  # the contract: every pool filter says so itself

    def again(self, learnt: State) -> State | None:
        """The state to go on from, given what another recipe of it learnt from the very same rows.

        None where all has to be seen anew: its passes count other things, say.
        """
        return None

    def finished(self, state: State) -> bool:
        """Whether `keep` can decide with this state, or another pass is needed."""
        return True

    def summarize(self, batch: Batch, state: State) -> Summary:
        """What one batch contributes."""
        raise NotImplementedError  # the contract: every pool filter says so itself

    def merge(self, left: Summary, right: Summary) -> Summary:
        """Both contributions in one: associative, commutative and exact."""
        raise NotImplementedError  # the contract: every pool filter says so itself

    def fit(self, summary: Summary | None, state: State) -> State:
        """The state after one pass; `summary` is None where there was nothing to see."""
        raise NotImplementedError  # the contract: every pool filter says so itself

    def keep(self, batch: Batch, state: State) -> Verdict:
        """The verdict over survivors."""
        raise NotImplementedError  # the contract: every pool filter says so itself


class GroupFilter(Filter):
    """Sees all survivors that share a key."""

    def key(self, batch: Batch) -> pl.DataFrame:
        """[N] rows: columns whose equality makes a group; a null makes the sample `unscored`."""
        raise NotImplementedError  # the contract: every group filter says so itself

    def priority(self, batch: Batch) -> np.ndarray:
        """[N] float64: within a group higher comes first, NaN last; ties go to the smaller uid."""
        return np.zeros(batch.frame.height)

    def keep_ranked(self, rank: np.ndarray, size: np.ndarray) -> np.ndarray:
        """[N] uint32 copies, of each sample's rank in its group (0 = first) and its size."""
        raise NotImplementedError  # the contract: every group filter says so itself

    def reason(self) -> str:
        """Why a sample that is not kept was removed."""
        return "duplicate"


def column(name: str) -> pl.Expr:
    """The expression of a column by its full name: `caption`, `clip.similarity`."""
    struct, dot, inner = name.partition(".")
    return pl.col(struct).struct.field(inner) if dot else pl.col(name)


def structured(series: Mapping[str, pl.Series], rows: int) -> pl.DataFrame:
    """[rows] columns by their full names: `clip.similarity` is a field of the struct `clip`."""
    plain: list[pl.Series] = []
    structs: dict[str, list[pl.Series]] = {}
    for name, values in series.items():
        outer, dot, inner = name.partition(".")
        if dot:
            structs.setdefault(outer, []).append(values.alias(inner))
        else:
            plain.append(values.alias(name))
    columns = plain + [pl.DataFrame(inner).to_struct(outer) for outer, inner in structs.items()]
    return pl.DataFrame(columns) if columns else pl.DataFrame({"_": np.zeros(rows, dtype=np.uint8)})


def judge(filter_: RowFilter, batch: Batch) -> Verdict:
    """The verdict of a row filter."""
    rules = filter_.passes()
    # Each rule once, as a column: in the chain below it would be computed twice.
    passed = batch.frame.select(rule.alias(name) for name, rule in rules.items())
    reason = pl.lit(None, dtype=pl.String)
    for name in reversed(rules):
        unknown, failed = pl.col(name).is_null(), ~pl.col(name)
        reason = (
            pl.when(unknown)
            .then(pl.lit(UNSCORED))
            .otherwise(pl.when(failed).then(pl.lit(name)).otherwise(reason))
        )
    reasons = passed.select(reason=reason).to_series()
    if len(reasons) != batch.frame.height:  # a rule over no column gives one value
        reasons = reasons.new_from_index(0, batch.frame.height)
    return Verdict(reasons.is_null().cast(pl.UInt32).to_numpy(), reasons)


def reasons_of(removed: Mapping[str, np.ndarray]) -> pl.Series:
    """[N] string, null for who stays, of {reason: [N] bool}; the first reason wins."""
    masks = list(removed.values())
    code = np.zeros(len(masks[0]), dtype=np.uint32)
    for number in reversed(range(len(masks))):
        code[masks[number]] = number + 1
    words = pl.Series([None, *removed], dtype=pl.String)
    return words.gather(pl.Series(code))


def names() -> list[str]:
    """The YAML names of all filters that ship."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )


def find(name: str) -> type[Filter]:
    """The filter of that YAML name; KeyError says which names are close."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        raise KeyError(f"no filter {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return class_in(importlib.import_module(f"{__name__}.{name}"), Filter)


def classes_in(module: ModuleType, base: type[Any]) -> list[type[Any]]:
    """The public subclasses of `base` that a module defines."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]


def class_in(module: ModuleType, base: type[Any]) -> type[Any]:
    """The one public subclass of `base` that a module defines."""
    found = classes_in(module, base)
    if len(found) != 1:
        listed = ", ".join(value.__name__ for value in found) or "none"
        raise TypeError(f"{module.__name__} must define one {base.__name__}; it defines {listed}")
    return found[0]


def one_of(candidates: Sequence[str], what: str, remedy: str, field: str = "column") -> str:
    """The only candidate; Unbound where there is none or a choice, which `field` makes."""
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise Unbound(f"no column gives {what}: {remedy}")
    kind = "columns" if field == "column" else "steps"
    raise Unbound(f"several {kind} give {what}: {', '.join(candidates)}; name one with `{field}:`")
