"""The values of a sweep: a pipeline for each of them, and where they begin to differ."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from curate.check import compile_pipeline
from curate.compiled import Compiled, is_barrier, is_scorer
from curate.errors import ConfigError, InvalidPipeline, did_you_mean
from curate.pipeline import full_recipe
from curate.pipeline_file.config import load
from curate.pipeline_file.schema import Step
from curate.pools.pool import pool_columns
from curate.step import canonical, differences
from curate.write import Write

MOST = 200  # values of one sweep: each has a file that is open while all are written
_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})")
_PLAIN = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,59}")  # fit to be a file's name
_PAIRS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}


@dataclass(frozen=True)
class Varied:
    """One field, and the values that it takes, each as it stands behind `--set path=`."""

    path: str
    values: tuple[str, ...]


def varied(text: str) -> Varied:
    """`path=start:stop:step` or `path=a,b,c`; ConfigError where it is neither.

    A range is counted in decimals, as written, and holds its stop where a step hits it.
    """
    path, equals, written = text.partition("=")
    if not equals or not path or not written.strip():
        raise ConfigError(
            f"--vary {text}: write it as path=start:stop:step or path=a,b,c, as in "
            "steps.clip_score.top_fraction=0.05:1.0:0.05"
        )
    if path != "seed" and not path.startswith("steps."):
        raise ConfigError(
            f"--vary {text}: a sweep varies what is decided: a field of a step "
            "(steps.<name>.<field>), or `seed`"
        )
    match = _RANGE.fullmatch(written.strip())
    found = list(_range(text, *match.groups())) if match else list(_split(written))
    return Varied(path, tuple(dict.fromkeys(found)))


def _range(text: str, *written: str) -> Iterator[str]:
    start, stop, step = (Decimal(each) for each in written)
    if step == 0 or (stop - start) / step < 0:
        raise ConfigError(f"--vary {text}: no step of {step} leads from {start} to {stop}")
    count = int((stop - start) // step) + 1
    _refuse_many(text, count)
    places = max(-int(each.as_tuple().exponent) for each in (start, step))
    yield from (f"{start + number * step:.{places}f}" for number in range(count))


def _split(written: str) -> Iterator[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    depth, quote, part = 0, "", ""
    for letter in written:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and depth == 0:
            yield part.strip()
            part = ""
            continue
        depth += 0 if quote else _PAIRS.get(letter, 0)
        part += letter
    yield part.strip()


def _refuse_many(text: str, count: int) -> None:
    if count > MOST:
        raise ConfigError(
            f"--vary {text}: that makes {count:,} values, and a sweep takes at most {MOST}: "
            "take a larger step, or several sweeps"
        )


@dataclass(frozen=True)
class Variants:
    """A pipeline for each value; number 0 is the file as written.

    A branch is the variants that agree so far, and is called by the number of its first.
    """

    varied: tuple[Varied, ...]
    values: tuple[tuple[str, ...], ...]  # [V] of () for number 0, else one a varied path
    plans: tuple[Compiled, ...]  # [V]
    stop: int  # one past the last step that is looked at
    branches: tuple[tuple[int, ...], ...]  # [stop + 1][V] the branch of each before step i

    def children(self, index: int) -> dict[int, list[int]]:
        """{branch before a step: the branches after it that it leads to}."""
        found: dict[int, list[int]] = {}
        for branch in dict.fromkeys(self.branches[index + 1]):
            found.setdefault(self.branches[index][branch], []).append(branch)
        return found

    def step(self, index: int, branch: int) -> Step:
        """A step as the variants of a branch have it."""
        return self.plans[branch].steps[index]

    @property
    def barriers(self) -> list[int]:
        """Steps that must see all survivors, in any variant."""
        steps = range(self.stop)
        return [i for i in steps if any(is_barrier(plan.steps[i]) for plan in self.plans)]

    @property
    def last(self) -> list[int]:
        """The branches in the end."""
        return list(dict.fromkeys(self.branches[self.stop]))

    def label(self, number: int) -> str:
        """What a variant's file is called, without its ending."""
        joined = "+".join(self.values[number])
        return joined if _PLAIN.fullmatch(joined) else f"value-{number:03d}"

    @property
    def slug(self) -> str:
        """What the sweep's folder is called."""
        paths = [one.path.removeprefix("steps.") for one in self.varied]
        return "+".join(re.sub(r"[^A-Za-z0-9._-]", "-", path) for path in paths)


def read_variants(
    file: str, changes: Sequence[str], vary: Sequence[Varied], until: str | None
) -> Variants:
    """Load the pipeline once a value.

    Args:
        file: The pipeline file.
        changes: What `--set` says, for every value.
        vary: The fields and their values; of several, every combination.
        until: The last step to look at; None for all.

    Raises:
        ConfigError: What is wrong with each of the values, all at once.
    """
    grid = list(itertools.product(*(one.values for one in vary)))
    _refuse_many(" --vary ".join(f"{v.path}=..." for v in vary), len(grid))
    values = [(), *grid]
    plans: list[Compiled] = []
    problems: dict[str, None] = {}
    for each in values:
        own = [f"{v.path}={value}" for v, value in zip(vary, each, strict=False)]
        try:
            loaded = load(file, [*changes, *own])
            known = pool_columns(loaded.config.work)
            plans.append(compile_pipeline(loaded, columns=known or None))
        except InvalidPipeline as error:
            if not own:
                raise
            problems |= {f"{' '.join(own)}: {one.text(file)}": None for one in error.problems}
    if problems:
        raise ConfigError("\n".join(problems))
    stop = _stop(plans[0], until)
    _refuse_features(plans, values, vary, stop)
    branches = _branches(plans, stop)
    if not any(branches[stop]):
        raise ConfigError(
            f"{' and '.join(v.path for v in vary)} changes nothing that is decided"
            + (f" up to {until}: leave out `--until`, or name a later step" if until else "")
        )
    return Variants(tuple(vary), tuple(values), tuple(plans), stop, branches)


def _stop(plan: Compiled, until: str | None) -> int:
    stop = len(plan.steps) - isinstance(plan.steps[-1], Write)
    if until is None:
        return stop
    names = [step.name for step in plan.steps]
    if until not in names:
        raise ConfigError(f"--until {until}: " + did_you_mean(until, names, "no step is called"))
    return min(stop, names.index(until) + 1)


def _refuse_features(
    plans: Sequence[Compiled],
    values: Sequence[tuple[str, ...]],
    vary: Sequence[Varied],
    stop: int,
) -> None:
    """A sweep decides over stored columns: what makes them cannot be varied."""
    own = plans[0]
    for step in own.steps[:stop]:
        if not is_scorer(step):
            continue
        wanted = full_recipe(own, step)
        for plan, value in zip(plans[1:], values[1:], strict=True):
            there = plan.steps[own.index(step.name)]
            changed = differences(wanted, full_recipe(plan, there))
            if changed:
                said = " ".join(f"{v.path}={x}" for v, x in zip(vary, value, strict=True))
                raise ConfigError(
                    f"--vary {said} changes what {step.name} computes "
                    f"({'; '.join(changed)}), and a sweep computes nothing: put a second step "
                    "with another `name:` into the file, run it, and vary who reads it"
                )


def _branches(plans: Sequence[Compiled], stop: int) -> tuple[tuple[int, ...], ...]:
    """[stop + 1][V]: the first variant that agrees with each before step i."""
    keys = [canonical(plan.config.seed) for plan in plans]
    found = [_first(keys)]
    for index in range(stop):
        steps = [plan.config.steps[index].name for plan in plans]
        keys = [
            canonical([branch, name, plan.recipes[name]])
            for branch, name, plan in zip(found[-1], steps, plans, strict=True)
        ]
        found.append(_first(keys))
    return tuple(found)


def _first(keys: Sequence[str]) -> tuple[int, ...]:
    """[V] the number of the first of each that is the same."""
    firsts: dict[str, int] = {}
    return tuple(firsts.setdefault(key, number) for number, key in enumerate(keys))
