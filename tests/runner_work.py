"""Work that the runner's tests give to workers, which must be able to import it."""

import os
import signal
import time
from functools import partial
from pathlib import Path


def square(number):
    return number * number


def fail_at(bad, number):
    if number == bad:
        raise LookupError(f"number {bad} is bad")
    return number


def tally(folder, kind):
    """How often something was done, over all processes."""
    return len([path for path in Path(folder).iterdir() if path.name.startswith(f"{kind}-")])


def note(folder, kind):
    """Count one more, and say how many there were before."""
    before = tally(folder, kind)
    (Path(folder) / f"{kind}-{before}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return before


def die_once(folder, bad, number):
    """The worker that gets `bad` is killed the first time."""
    if number == bad and note(folder, "died") == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def opener(function, *arguments):
    """A stage's opener for some work."""
    return partial(_open, function, *arguments)


def _open(function, *arguments):
    return partial(function, *arguments)


def cannot_open():
    raise LookupError("no model")


def counted_opener(folder, function, *arguments):
    """As `opener`, and every opening is counted."""
    return partial(_open_counted, folder, function, *arguments)


def _open_counted(folder, function, *arguments):
    note(folder, "opened")
    return partial(function, *arguments)


def greedy(folder, bad, times, number):
    """Runs out of memory at `bad`, so many times."""
    if number == bad and note(folder, "greedy") < times:
        raise MemoryError("no more")
    return number


def die_always(bad, number):
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(seconds, number):
    time.sleep(seconds)
    return number


def trace(folder, stage, number):
    """Leave the times at which a stage had an item."""
    began = time.monotonic_ns()
    time.sleep(0.02)
    ended = time.monotonic_ns()
    (Path(folder) / f"stage{stage}-{number}").write_text(f"{began} {ended}")
    return number
