"""Features over a run of samples: one decode for all, in threads, ahead of the models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl

from curate.features import Columns, Feature, Picture, Scorer, Unscorable

Body = bytes | memoryview | None  # a picture file; None where there is none

POLARS: dict[str, Any] = {
    "float32": pl.Float32,
    "float64": pl.Float64,
    "uint32": pl.UInt32,
    "uint64": pl.UInt64,
    "int64": pl.Int64,
    "string": pl.String,
    "bool": pl.Boolean,
    "uint32s": pl.List(pl.UInt32),
}

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Opened:
    """A feature and its scorer, kept by a worker for its whole life.

    A scorer is asked for N samples at once, 0 <= N <= `scorer.batch`, from one thread at a time.
    """

    feature: Feature
    scorer: Scorer


def open_features(features: Iterable[Feature], device: str) -> list[Opened]:
    """Load what each feature needs. `device`: "auto", "cpu", "cuda:0", ..."""
    return [Opened(feature, feature.open(device)) for feature in features]


def score_samples(
    opened: Sequence[Opened], bodies: Iterable[Body], frame: pl.DataFrame, threads: int
) -> dict[str, Columns]:
    """Columns of N samples by step name: scalars as [N] polars series, arrays [N, D], [N] errors.

    A sample without a picture, or with one that cannot be prepared, is null in the features that
    look at pictures, with the reason `no_image` or that of `Unscorable`. NaN becomes null. Batches
    are formed in row order from the samples that have a picture, so the result does not depend on
    `threads`.

    Args:
        opened: The features; their step names differ.
        bodies: N picture files in the order of `frame`; untouched where no feature needs them.
        frame: The samples' columns, N rows.
        threads: How many pictures are prepared at the same time.
    """
    lanes = [_Lane(one, frame) for one in opened]
    looking = [lane for lane in lanes if lane.feature.pictures]
    for lane in lanes:
        if not lane.feature.pictures:
            lane.read_all()
    if looking:
        _look(looking, bodies, frame.height, threads)
    return {lane.feature.name: lane.columns() for lane in lanes}


def _look(lanes: Sequence[_Lane], bodies: Iterable[Body], count: int, threads: int) -> None:
    """Prepare every picture once, in `threads`, and hand it to all lanes in row order."""
    scorers = [lane.scorer for lane in lanes]
    # While a model is busy with one batch, the threads prepare the next one and start another.
    window = 2 * max(scorer.batch for scorer in scorers) + threads

    def prepare(body: Body) -> list[Any]:
        return _prepare(scorers, body)

    row = -1
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads, "prepare"))
        # Whatever fails, nothing that still waits is worth its time.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        models = [stack.enter_context(ThreadPoolExecutor(1, "score")) for _ in lanes]
        for row, outcomes in enumerate(_in_order(pool, prepare, bodies, window)):
            if row == count:
                raise ValueError(f"more than {count} picture files were given for {count} samples")
            for lane, model, outcome in zip(lanes, models, outcomes, strict=True):
                lane.add(row, outcome, model)
        for lane, model in zip(lanes, models, strict=True):
            lane.send(model)
        for lane in lanes:
            lane.collect()
    if row + 1 != count:
        raise ValueError(f"{row + 1} picture files were given for {count} samples")


@dataclass(frozen=True)
class _Failed:
    """Why a sample has no place in a batch."""

    kind: str


def _prepare(scorers: Sequence[Scorer], body: Body) -> list[Any]:
    if body is None:
        return [_Failed("no_image")] * len(scorers)
    picture = Picture(body)
    return [_prepare_for(scorer, picture) for scorer in scorers]


def _prepare_for(scorer: Scorer, picture: Picture) -> Any:
    try:
        return scorer.prepare(picture)
    except Unscorable as error:
        return _Failed(error.kind)


def _in_order(
    pool: Executor, function: Callable[[T], U], items: Iterable[T], window: int
) -> Iterator[U]:
    """`function` of each item, in order, with at most `window` items under way."""
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Lane:
    """One feature: the batch in the making, the one being scored, and what came of the others."""

    def __init__(self, opened: Opened, frame: pl.DataFrame) -> None:
        self.feature = opened.feature
        self.scorer = opened.scorer
        self._frame = frame
        self._rows: list[int] = []
        self._prepared: list[Any] = []
        self._running: tuple[list[int], Future[Columns]] | None = None
        self._done: list[tuple[Sequence[int], Columns]] = []
        self._errors: list[str | None] = [None] * frame.height

    def read_all(self) -> None:
        """Score every sample by its columns alone."""
        for start in range(0, self._frame.height, self.scorer.batch):
            part = self._frame.slice(start, self.scorer.batch)
            columns = self.scorer.score([], part)
            self._keep(range(start, start + part.height), columns)

    def add(self, row: int, outcome: Any, model: Executor) -> None:
        """Put a prepared sample into the batch, and send it off when it is full."""
        if isinstance(outcome, _Failed):
            self._errors[row] = outcome.kind
            return
        self._rows.append(row)
        self._prepared.append(outcome)
        if len(self._rows) == self.scorer.batch:
            self.send(model)

    def send(self, model: Executor) -> None:
        """Score the batch in the making, once the one before it is done."""
        self.collect()
        if self._rows:
            future = model.submit(self.scorer.score, self._prepared, self._frame[self._rows])
            self._running = (self._rows, future)
            self._rows, self._prepared = [], []

    def collect(self) -> None:
        """Wait for the batch being scored, if any."""
        if self._running is not None:
            rows, future = self._running
            self._running = None
            self._keep(rows, future.result())

    def _keep(self, rows: Sequence[int], columns: Columns) -> None:
        self._check(len(rows), columns)
        self._done.append((rows, columns))
        for row, error in zip(rows, columns.errors, strict=False):
            self._errors[row] = error

    def _check(self, count: int, columns: Columns) -> None:
        """A scorer that breaks its promise would shift values from one sample to another."""
        promised = [given.name for given in self.feature.gives()]
        arrays = [given.name for given in self.feature.arrays()]
        if sorted(columns.scalars) != sorted(promised) or sorted(columns.arrays) != sorted(arrays):
            raise ValueError(
                f"{self.feature.name} promises {promised + arrays} and returned "
                f"{[*columns.scalars, *columns.arrays]}"
            )
        lengths = {name: len(part) for name, part in {**columns.scalars, **columns.arrays}.items()}
        if columns.errors:
            lengths["errors"] = len(columns.errors)
        if wrong := {name: length for name, length in lengths.items() if length != count}:
            raise ValueError(f"{self.feature.name} returned {wrong} values for {count} samples")

    def columns(self) -> Columns:
        """What came of all samples, in row order; null where a sample was not scored."""
        if not self._done:  # nobody was scored: only the scorer knows how wide its arrays are
            self._keep([], self.scorer.score([], self._frame.head(0)))
        rows = np.concatenate([np.asarray(rows, dtype=np.int64) for rows, _ in self._done])
        return Columns(
            scalars={g.name: self._scalar(g.name, g.dtype, rows) for g in self.feature.gives()},
            arrays={given.name: self._array(given.name, rows) for given in self.feature.arrays()},
            errors=self._errors,
        )

    def _scalar(self, name: str, dtype: str, rows: np.ndarray) -> pl.Series:
        kind = POLARS[dtype]
        parts = [pl.Series(name, columns.scalars[name], dtype=kind) for _, columns in self._done]
        if np.array_equal(rows, np.arange(self._frame.height)):  # everybody, in order: no join
            whole = pl.concat(parts)
            return whole.fill_nan(None) if kind.is_float() else whole
        scored = pl.DataFrame({"row": pl.Series(rows), name: pl.concat(parts)})
        all_rows = pl.DataFrame({"row": pl.int_range(self._frame.height, eager=True)})
        values = all_rows.join(scored, on="row", how="left", maintain_order="left")[name]
        return values.fill_nan(None) if kind.is_float() else values

    def _array(self, name: str, rows: np.ndarray) -> np.ndarray:
        parts = np.concatenate([columns.arrays[name] for _, columns in self._done])  # [M, D]
        values = np.full((self._frame.height, parts.shape[1]), np.nan, dtype=np.float16)  # [N, D]
        values[rows] = parts
        return values
