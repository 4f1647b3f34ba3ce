"""The workers of one stage of a flow: Ray actors that open the stage's work once.

An item is given to a worker that is ready, never to one that still waits for its place on a
machine: so a stage that finds no place can delay a flow, but not stop it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from curate.errors import ConfigError

Opener = Callable[[], Callable[[Any], Any]]  # called once per worker; gives the work on one item

TRIES = {"worker_died": 4, "out_of_memory": 2}  # of an item; machines may be lost more than once
STARTS = 3  # for each place: workers that die while they open, before the flow gives up


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


@dataclass(frozen=True)
class Machines:
    """What a cluster has, now."""

    nodes: int
    cpus: int
    gpus: int
    memory_gb: float  # of the largest node

    def refuse_impossible(self, stage: Stage) -> None:
        """Raise ConfigError where a worker would wait for ever for its place."""
        needs = stage.needs
        asked = {"cpus": needs.cpus, "gpus": needs.gpus, "memory_gb": needs.memory_gb}
        for name, amount in asked.items():
            if amount is not None and amount > getattr(self, name):
                raise ConfigError(
                    f"{stage.name}: a worker asks for {name}: {amount:g}, and this machine has "
                    f"{getattr(self, name):.3g}; change `run.{stage.name.split('+')[0]}.{name}`"
                )


@dataclass(frozen=True)
class _Task:
    item: Any
    tried: int = 0


class _Worker:
    """Lives in an actor. Opening is a call of its own, so that its errors arrive as they are."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._work: Callable[[Any], Any] | None = None

    def open(self) -> Callable[[Any], Any]:
        if self._work is None:
            self._work = self._opener()
        return self._work

    def ready(self) -> None:
        self.open()

    def do(self, item: Any) -> Any:
        return self.open()(item)


class Pool:
    """The workers of one stage, what they are doing, and what waits for them."""

    def __init__(self, ray: Any, get: Callable[[Any], Any], stage: Stage, there: Machines) -> None:
        self._ray, self._get, self._stage = ray, get, stage
        self._largest_gb = there.memory_gb
        needs = stage.needs
        self.cpus = needs.cpus
        self._gpus = needs.gpus if needs.gpus is not None else float(there.gpus > 0)
        if needs.workers is not None:
            self.size = needs.workers
        elif self._gpus:
            self.size = max(1, int(there.gpus / self._gpus))
        else:
            self.size = there.nodes if needs.per == "node" else there.cpus
        self._failed_starts = 0
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference -> actor
        self._running: dict[Any, tuple[Any, _Task]] = {}  # reference -> (actor, task)
        self._waiting: deque[_Task] = deque()
        self._hungry: deque[_Task] = deque()  # ran out of memory, and wait to be alone

    @property
    def room(self) -> bool:
        """Whether there would be a worker for one more item."""
        return len(self._waiting) + len(self._running) < self.size

    @property
    def full(self) -> bool:
        """Whether so much waits here that the stage before should make no more."""
        return len(self._waiting) >= 2 * self.size + 2

    @property
    def left(self) -> bool:
        """Whether anything is still to be done here."""
        return bool(self._waiting or self._running or self._hungry)

    @property
    def busy(self) -> bool:
        """Whether anything is done here, or will be as soon as there is a worker."""
        return bool(self._running or self._waiting)

    @property
    def running(self) -> list[Any]:
        """References of the work under way."""
        return list(self._running)

    @property
    def starting(self) -> list[Any]:
        """References of the workers that are not ready yet."""
        return list(self._starting)

    def add(self, item: Any) -> None:
        """One more item to do."""
        self._waiting.append(_Task(item))

    def send(self) -> None:
        """Give the ready workers what waits, and start more of them where that is not enough."""
        while self._waiting and self._idle:
            self._do(self._idle.pop(), self._waiting.popleft())
        workers = len(self._idle) + len(self._starting) + len(self._running)
        for _ in range(min(len(self._waiting) - len(self._starting), self.size - workers)):
            actor = self._start(self._stage.needs.memory_gb)
            self._starting[actor.ready.remote()] = actor

    def send_hungry(self) -> bool:
        """Try one item again that ran out of memory, with more of it; False where there is none."""
        if not self._hungry:
            return False
        actor = self._start(min(2 * (self._stage.needs.memory_gb or 1.0), self._largest_gb))
        self._do(actor, self._hungry.popleft())
        return True

    def _do(self, actor: Any, task: _Task) -> None:
        self._running[actor.do.remote(task.item)] = (actor, task)

    def _start(self, memory_gb: float | None) -> Any:
        # Ray restarts nothing here: a worker it restarts could wait for a place with its item.
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self._gpus}
        if memory_gb is not None:
            options["memory"] = int(memory_gb * 2**30)
        return self._ray.remote(_Worker).options(**options).remote(self._stage.opener)

    def take(self, reference: Any) -> tuple[Any, Any] | None:
        """(item, result or Lost) of a reference that is ready; None where no item was finished."""
        if reference in self._starting:
            self._take_worker(reference)
            return None
        actor, task = self._running.pop(reference)
        self._idle.append(actor)  # `close` ends it, whatever comes
        try:
            result = self._get(reference)
        except self._deaths() as error:
            self._dismiss(actor)
            return self._failed(_Task(task.item, task.tried + 1), error)
        if task.tried:
            self._dismiss(actor)  # it may have been given more memory than its share
        return task.item, result

    def _take_worker(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        self._idle.append(actor)
        try:
            self._get(reference)
            self._failed_starts = 0
        except self._deaths():
            self._dismiss(actor)
            self._failed_starts += 1
            if self._failed_starts == STARTS * self.size:
                raise

    def _failed(self, task: _Task, error: Exception) -> tuple[Any, Any] | None:
        short = isinstance(error, (self._ray.exceptions.OutOfMemoryError, MemoryError))
        kind = "out_of_memory" if short else "worker_died"
        if task.tried >= TRIES[kind]:
            return task.item, Lost(kind, (str(error).splitlines() or [""])[0])
        (self._hungry if short else self._waiting).append(task)
        return None

    def _deaths(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return (errors.RayActorError, errors.OutOfMemoryError, MemoryError)

    def _dismiss(self, actor: Any) -> None:
        self._idle.remove(actor)
        self._ray.kill(actor)

    def rest(self) -> None:
        """End the workers that have nothing to do, so that others find a place."""
        for actor in list(self._idle):
            self._dismiss(actor)
        if not self._waiting:
            for actor in self._starting.values():
                self._ray.kill(actor)
            self._starting.clear()

    def close(self) -> None:
        """End every worker."""
        busy = [actor for actor, _ in self._running.values()]
        for actor in [*self._idle, *self._starting.values(), *busy]:
            self._ray.kill(actor)


def share_cpus(pools: list[Pool], cpus: int) -> None:
    """Set what a worker reserves where nobody said: workers that take all starve the next stage."""
    taken = sum(pool.size * pool.cpus for pool in pools if pool.cpus)
    sharing = sum(pool.size for pool in pools if not pool.cpus)
    share = max(0.01, min(1.0, 0.95 * (cpus - taken) / max(sharing, 1)))
    for pool in pools:
        pool.cpus = pool.cpus or share
