"""How work is spread: in this process, or on Ray. The only module that imports ray.

References go through Ray, bytes go through storage: tasks take and return small values. The driver
holds a bounded window of tasks, never a list of all of them.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from curate.actors import Lost, Machines, Needs, Pool, Stage, share_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 4
PATIENCE_S = 10.0  # how long a worker may wait for its place before idle ones must make room
__all__ = ["LocalRunner", "Lost", "Needs", "RayRunner", "Runner", "Stage", "fold"]


class Runner(Protocol):
    """Where work runs. Results never depend on which one it is."""

    def map(
        self, work: Callable[[Item], Result], items: Iterable[Item], label: str
    ) -> Iterator[Result]:
        """Results in the order of completion; an exception of the work ends it."""

    def flow(
        self, stages: Sequence[Stage], items: Iterable[Item]
    ) -> Iterator[tuple[int, Item, Any]]:
        """(stage, item, result or Lost) as they complete; a lost item goes no further."""

    @property
    def gpus(self) -> int:
        """How many there are."""

    def close(self) -> None:
        """Give back what was started."""


def fold(results: Iterator[Result], merge: Callable[[Result, Result], Result]) -> Result | None:
    """All results in one; only one is held."""
    total: Result | None = None
    for result in results:
        total = result if total is None else merge(total, result)
    return total


class LocalRunner:
    """Everything in this process: tests, debugging, and decisions over millions of rows."""

    def __init__(self, threads: int | None = None) -> None:
        """Tasks of `map` run in so many threads: polars and numpy leave Python alone for long.

        Args:
            threads: Absent: one a CPU, but no more than 4, for each holds a block in memory.
        """
        self._threads = threads or min(os.cpu_count() or 1, _THREADS)

    def map(
        self, work: Callable[[Item], Result], items: Iterable[Item], label: str
    ) -> Iterator[Result]:
        """Results in order."""
        source = iter(items)
        first = list(itertools.islice(source, 2))
        if self._threads == 1 or len(first) < 2:
            yield from map(work, first)
            yield from map(work, source)
            return
        with ThreadPoolExecutor(self._threads, "map") as pool:
            waiting: deque[Future[Result]] = deque()
            try:
                for item in itertools.chain(first, source):
                    waiting.append(pool.submit(work, item))
                    if len(waiting) > self._threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:  # whatever failed, what still waits is worth nothing
                pool.shutdown(wait=True, cancel_futures=True)

    def flow(
        self, stages: Sequence[Stage], items: Iterable[Item]
    ) -> Iterator[tuple[int, Item, Any]]:
        """One item through all stages, then the next."""
        opened: dict[int, Callable[[Any], Any]] = {}
        for item in items:
            for number, stage in enumerate(stages):
                if number not in opened:
                    opened[number] = stage.opener()
                result = _tried(opened[number], item)
                yield number, item, result
                if isinstance(result, Lost):
                    break

    @property
    def gpus(self) -> int:
        """Those that torch sees, once a step has loaded it."""
        torch: Any = sys.modules.get("torch")
        return int(torch.cuda.device_count()) if torch is not None else 0

    def close(self) -> None:
        """Nothing was started."""


def _tried(work: Callable[[Any], Any], item: Any) -> Any:
    """The result, or Lost where memory does not suffice a second time either."""
    try:
        return work(item)
    except MemoryError:
        pass  # what it held is free again once the handler is left
    try:
        return work(item)
    except MemoryError as error:
        return Lost("out_of_memory", str(error))


class RayRunner:
    """Ray tasks and actors, on this machine or a cluster."""

    def __init__(self, address: str | None = None, *, workers: int | None = None) -> None:
        """Connect to a cluster, or start Ray on this machine (3 to 5 s).

        Args:
            address: `auto`, `ray://...` or `host:port`; None for this machine.
            workers: CPUs to use on this machine.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # telemetry is the user's to turn on
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray: Any = ray
        self._grows = address is not None  # a cluster may get more machines when they are asked for
        self._owns = not ray.is_initialized()
        if self._owns:
            options: dict[str, Any] = {"log_to_driver": False, "address": address}
            if address is None:  # "local": never somebody else's Ray that happens to run here
                options |= {"address": "local", "include_dashboard": False, "num_cpus": workers}
            ray.init(**options)

    @property
    def cpus(self) -> int:
        """CPUs of the whole cluster, now."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def gpus(self) -> int:
        """GPUs of the whole cluster, now."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _machines(self) -> Machines:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        largest = max((node["Resources"].get("memory", 0) for node in nodes), default=0)
        return Machines(max(1, len(nodes)), self.cpus, self.gpus, largest / 2**30)

    def map(
        self, work: Callable[[Item], Result], items: Iterable[Item], label: str
    ) -> Iterator[Result]:
        """Results as they complete; at most a few tasks per CPU are in flight."""
        ray = self._ray
        remote = ray.remote(_call).options(max_retries=3, name=label)
        shared = ray.put(work)
        pending: set[Any] = set()
        window = 4 * self.cpus
        for item in items:
            if len(pending) >= window:
                yield from self._one(pending)
            pending.add(remote.remote(shared, item))
        while pending:
            yield from self._one(pending)

    def _one(self, pending: set[Any]) -> Iterator[Any]:
        done, _ = self._ray.wait(list(pending), num_returns=1)
        pending.difference_update(done)
        yield self._get(done[0])

    def _get(self, reference: Any) -> Any:
        """The result, or the work's own exception as it was raised."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, BaseException) else error) from error

    def flow(
        self, stages: Sequence[Stage], items: Iterable[Item]
    ) -> Iterator[tuple[int, Item, Any]]:
        """Every stage has its own workers; a bounded queue stands between two stages."""
        there = self._machines()
        if not self._grows:
            for stage in stages:
                there.refuse_impossible(stage)
        pools = [Pool(self._ray, self._get, stage, there) for stage in stages]
        share_cpus(pools, self.cpus)
        source = iter(items)
        more = True
        try:
            while more or any(pool.left for pool in pools):
                more = self._feed(pools, source, more=more)
                pool, reference = self._first_ready(pools)
                taken = pool.take(reference) if pool is not None else None
                if pool is None or taken is None:
                    continue
                item, result = taken
                number = pools.index(pool)
                yield number, item, result
                if not isinstance(result, Lost) and number + 1 < len(pools):
                    pools[number + 1].add(item)
        finally:
            for pool in pools:
                pool.close()

    def _feed(self, pools: list[Pool], source: Iterator[Any], *, more: bool) -> bool:
        """Give free workers work; whether the source has any left.

        A stage whose successor has enough waiting gets no more: shards on the disk are bounded too.
        """
        for pool, successor in zip(pools, [*pools[1:], None], strict=True):
            if successor is None or not successor.full:
                while more and pool is pools[0] and pool.room:
                    more = _add_next(pool, source)
                pool.send()
        if not any(pool.busy for pool in pools):
            # What ran out of memory is tried again when nothing else takes any.
            for pool in pools:
                pool.rest()
            next((True for pool in pools if pool.send_hungry()), False)
        return more

    def _first_ready(self, pools: list[Pool]) -> tuple[Pool | None, Any]:
        """A reference that is ready, and the pool it belongs to; None where there is nothing."""
        running = [reference for pool in pools for reference in pool.running]
        owners = {r: pool for pool in pools for r in (*pool.running, *pool.starting)}
        if not owners:
            return None, None
        patience = None if running else PATIENCE_S
        done, _ = self._ray.wait(list(owners), num_returns=1, timeout=patience)
        if done:
            return owners[done[0]], done[0]
        for pool in pools:
            pool.rest()  # nothing runs, and a worker finds no place: idle ones hold it
        return None, None

    def close(self) -> None:
        """Shut Ray down if this runner started it."""
        if self._owns:
            self._ray.shutdown()


def _add_next(pool: Pool, source: Iterator[Any]) -> bool:
    """Give a pool the source's next item; False where there is none."""
    try:
        pool.add(next(source))
    except StopIteration:
        return False
    return True


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)
