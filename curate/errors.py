"""The few errors a user sees: each names the place, the values and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass


class CurateError(Exception):
    """What went wrong and what to do; the command line prints it without a traceback."""

    exit_code = 2


class ConfigError(CurateError):
    """The pipeline file, its paths or its columns are wrong."""


class RecipeChanged(CurateError):
    """A work folder holds a step made from another recipe."""


class InputChanged(CurateError):
    """A shard or file of the pool vanished or is not what it was."""


class WorkInUse(CurateError):
    """Another run holds the lease of the work folder."""


class StorageError(CurateError):
    """A path cannot be read or written."""


class Stale(CurateError):
    """The run is complete but the written shards belong to an older selection."""


class BudgetExceeded(CurateError):
    """More was lost, or removed, than the pipeline file allows."""

    exit_code = 4


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with a pipeline file; printed as `file:line: path: problem`."""

    line: int  # 1-based; 0 when it belongs to no line (a command-line override, say)
    path: str  # steps[2].clip_score.top_fraction
    message: str

    def text(self, file: str) -> str:
        """The line a user reads (editors and compilers agree on this form)."""
        where = f"{file}:{self.line}" if self.line else file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class InvalidPipeline(ConfigError):
    """Every problem found in a pipeline file, at once."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(set(problems))
        super().__init__("\n".join(problem.text(file) for problem in self.problems))


def did_you_mean(name: str, known: Sequence[str], what: str) -> str:
    """The end of a message about a name that nobody has: the closest one, or all that there are."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(known))
    return f"{what} {name!r}; {hint}"


def first_line(error: Exception) -> str:
    """What went wrong, without the plan or the advice that a library adds below it."""
    return (str(error).splitlines() or [type(error).__name__])[0]
