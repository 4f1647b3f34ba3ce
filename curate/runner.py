"""How work is spread: inline, or on Ray. The only module that imports ray.

References go through Ray, bytes go through storage: tasks take and return small values. The driver
holds a bounded window of tasks, never a list of all of them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Opener = Callable[[], Callable[[Any], Any]]  # called once per worker; gives the work on one item


@dataclass(frozen=True)
class Needs:
    """What one worker of a stage reserves."""

    cpus: float = 1.0
    gpus: float | None = 0.0  # None: one, where the cluster has any
    memory_gb: float | None = None
    workers: int | None = None  # at most so many at once; None: one per GPU, else `per`
    per: Literal["cpu", "node"] = "cpu"  # work that fills a machine with threads: one per node


@dataclass(frozen=True)
class Stage:
    """One station of a flow: every item passes through it once."""

    name: str
    opener: Opener
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Lost:
    """An item whose task failed through our own fault, retries and more memory included."""

    kind: str  # out_of_memory, worker_died
    message: str


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

    def close(self) -> None:
        """Give back what was started."""


def fold(results: Iterator[Result], merge: Callable[[Result, Result], Result]) -> Result | None:
    """All results in one; only one is held."""
    total: Result | None = None
    for result in results:
        total = result if total is None else merge(total, result)
    return total


class LocalRunner:
    """Everything inline, in this process: tests, debugging, small pools."""

    def map(
        self, work: Callable[[Item], Result], items: Iterable[Item], label: str
    ) -> Iterator[Result]:
        """Results in order."""
        for item in items:
            yield work(item)

    def flow(
        self, stages: Sequence[Stage], items: Iterable[Item]
    ) -> Iterator[tuple[int, Item, Any]]:
        """One item through all stages, then the next."""
        opened: dict[int, Callable[[Any], Any]] = {}
        for item in items:
            for number, stage in enumerate(stages):
                if number not in opened:
                    opened[number] = stage.opener()
                try:
                    result = opened[number](item)
                except MemoryError as error:
                    yield number, item, Lost("out_of_memory", str(error))
                    break
                yield number, item, result

    def close(self) -> None:
        """Nothing was started."""


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
        self._owns = not ray.is_initialized()
        if self._owns:
            options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
            if address is None:
                options["num_cpus"] = workers
            else:
                options = {"address": address, "log_to_driver": False}
            ray.init(**options)

    @property
    def cpus(self) -> int:
        """CPUs of the whole cluster, now."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def gpus(self) -> int:
        """GPUs of the whole cluster, now."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    @property
    def nodes(self) -> int:
        """Machines of the cluster, now."""
        return max(1, sum(1 for node in self._ray.nodes() if node["Alive"]))

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
        pools = [_Pool(self, stage) for stage in stages]
        queues: list[deque[Any]] = [deque() for _ in stages]
        source = iter(items)
        more = True
        try:
            while more or any(queues) or any(pool.busy for pool in pools):
                more = self._feed(pools, queues, source, more=more)
                running = [reference for pool in pools for reference in pool.running]
                done, _ = self._ray.wait(running, num_returns=1)
                number = next(n for n, pool in enumerate(pools) if done[0] in pool.running)
                item, result = pools[number].finish(done[0])
                if result is None and item is None:
                    continue  # it was sent again with more memory
                yield number, item, result
                if not isinstance(result, Lost) and number + 1 < len(stages):
                    queues[number + 1].append(item)
        finally:
            for pool in pools:
                pool.close()

    def _feed(
        self, pools: list[_Pool], queues: list[deque[Any]], source: Iterator[Any], *, more: bool
    ) -> bool:
        """Give free workers work, last stage first; whether the source has any left."""
        for number in reversed(range(1, len(pools))):
            while queues[number] and pools[number].free:
                pools[number].send(queues[number].popleft())
        full = len(pools) > 1 and len(queues[1]) >= 2 * pools[1].size + 2
        while more and pools[0].free and not full:
            try:
                pools[0].send(next(source))
            except StopIteration:
                more = False
        return more

    def close(self) -> None:
        """Shut Ray down if this runner started it."""
        if self._owns:
            self._ray.shutdown()


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)


class _Worker:
    """Lives in a Ray actor: opens the stage's work once, then does it item by item."""

    def __init__(self, opener: Opener) -> None:
        self._work = opener()

    def do(self, item: Any) -> Any:
        return self._work(item)


class _Pool:
    """The actors of one stage, and what they are doing."""

    def __init__(self, runner: RayRunner, stage: Stage) -> None:
        self._runner = runner
        self._ray: Any = runner._ray
        self._stage = stage
        needs = stage.needs
        self._gpus = needs.gpus if needs.gpus is not None else float(runner.gpus > 0)
        if needs.workers is not None:
            self.size = needs.workers
        elif self._gpus:
            self.size = max(1, int(runner.gpus / self._gpus))
        else:
            self.size = runner.nodes if needs.per == "node" else runner.cpus
        self._idle: list[Any] = []
        self._started = 0
        self._memory = needs.memory_gb
        self.running: dict[Any, tuple[Any, Any, int]] = {}  # reference -> (actor, item, attempt)

    @property
    def busy(self) -> int:
        """Items in work."""
        return len(self.running)

    @property
    def free(self) -> bool:
        """Whether another item can be sent."""
        return len(self.running) < self.size

    def _start(self, memory_gb: float | None) -> Any:
        needs = self._stage.needs
        options: dict[str, Any] = {
            # Fractions, so that the stages of one flow never starve each other of CPUs.
            "num_cpus": min(needs.cpus, 0.5) if needs.workers is None else needs.cpus,
            "num_gpus": self._gpus,
            "max_restarts": 3,
            "max_task_retries": 3,
        }
        if memory_gb is not None:
            options["memory"] = int(memory_gb * 2**30)
        return self._ray.remote(_Worker).options(**options).remote(self._stage.opener)

    def send(self, item: Any, attempt: int = 0) -> None:
        """Start work on an item."""
        actor = self._idle.pop() if self._idle else self._start(self._memory)
        self.running[actor.do.remote(item)] = (actor, item, attempt)

    def finish(self, reference: Any) -> tuple[Any, Any]:
        """(item, result or Lost); (None, None) where the item was sent again."""
        actor, item, attempt = self.running.pop(reference)
        errors = self._ray.exceptions
        try:
            result = self._runner._get(reference)
        except (errors.RayActorError, errors.OutOfMemoryError, MemoryError) as error:
            self._ray.kill(actor)
            if attempt == 0:
                self._memory = (
                    2 * (self._memory or 1.0) if _is_memory(error, errors) else self._memory
                )
                self.send(item, attempt=1)
                return None, None
            kind = "out_of_memory" if _is_memory(error, errors) else "worker_died"
            return item, Lost(kind, str(error).splitlines()[0])
        self._idle.append(actor)
        return item, result

    def close(self) -> None:
        """End every actor."""
        for actor in self._idle + [actor for actor, _, _ in self.running.values()]:
            self._ray.kill(actor)


def _is_memory(error: BaseException, errors: Any) -> bool:
    return isinstance(error, (errors.OutOfMemoryError, MemoryError))
