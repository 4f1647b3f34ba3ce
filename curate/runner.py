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

    cpus: float | None = None  # None: a share, so that all stages of a flow fit side by side
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
        share = _share(pools, self.cpus)
        for pool in pools:
            pool.cpus = pool.cpus or share
        queues: list[deque[Any]] = [deque() for _ in stages]
        source = iter(items)
        more = True
        try:
            while more or any(queues) or any(pool.busy for pool in pools):
                more = self._feed(pools, queues, source, more=more)
                running = [reference for pool in pools for reference in pool.running]
                if not running:
                    continue  # the source has just turned out to be at its end
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
        """Give free workers work, last stage first; whether the source has any left.

        A stage whose successor has enough waiting gets no more: shards on the disk are bounded too.
        """
        for number in reversed(range(len(pools))):
            pool = pools[number]
            while pool.free and not _is_full(pools, queues, number + 1):
                if number and queues[number]:
                    pool.send(queues[number].popleft())
                elif number == 0 and more:
                    more = _send_next(pool, source)
                else:
                    break
        return more

    def close(self) -> None:
        """Shut Ray down if this runner started it."""
        if self._owns:
            self._ray.shutdown()


def _share(pools: list[_Pool], cpus: int) -> float:
    """CPUs that a worker reserves where nobody said: actors that take all starve the next stage."""
    taken = sum(pool.size * pool.cpus for pool in pools if pool.cpus)
    sharing = sum(pool.size for pool in pools if not pool.cpus)
    return max(0.01, min(1.0, 0.95 * (cpus - taken) / max(sharing, 1)))


def _is_full(pools: list[_Pool], queues: list[deque[Any]], number: int) -> bool:
    """Whether a stage has enough waiting for it; there is no stage after the last."""
    return number < len(pools) and len(queues[number]) >= 2 * pools[number].size + 2


def _send_next(pool: _Pool, source: Iterator[Any]) -> bool:
    """Start work on the source's next item; False where there is none."""
    try:
        pool.send(next(source))
    except StopIteration:
        return False
    return True


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
        self.cpus = needs.cpus
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
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
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
