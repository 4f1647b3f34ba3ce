"""Forward passes of one fixed size: the same numbers however many samples there are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# On a CPU each thread takes this many samples, however many threads there are.
CPU_SLICE = 32


class Passes:
    """Runs a network on one device, a slice of samples at a time.

    Every pass has the same shape (the last one is padded), so that a sample's numbers do not depend
    on how many others there are. On a CPU each pass runs in one thread, several at a time: torch's
    own threads change the last bits with their number, and wait for each other where other threads
    (that decode, say) need the cores.
    """

    def __init__(self, device: str, batch: int) -> None:
        """Take a device: "auto" (the GPU that this worker sees, if any), "cpu", "cuda:0", ..."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        # Samples in one forward pass; halved, for good, when the GPU's memory does not suffice.
        self.slice = min(CPU_SLICE, batch) if on_cpu else batch
        self._threads = _single_threads(torch.get_num_threads()) if on_cpu else None

    def padded(self, count: int) -> int:
        """How many rows `run` is to be given for so many samples: a multiple of the slice."""
        return -(-max(count, 1) // self.slice) * self.slice

    def run(self, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """[N, D] of [N, ...] padded inputs, one call of `encode` per slice."""
        while (outputs := self._attempt(encode, inputs)) is None:
            torch.cuda.empty_cache()
            self.slice = -(-self.slice // 2)
            log.warning("out of memory on %s: %d samples at a time", self.device, self.slice)
        return outputs

    def _attempt(self, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor | None:
        slices = torch.split(inputs, self.slice)
        try:
            return torch.cat(list((self._threads.map if self._threads else map)(encode, slices)))
        except torch.OutOfMemoryError:
            if self.slice == 1:
                raise
            return None


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes alone."""
    pool = ThreadPoolExecutor(count, "pass")
    ready = Barrier(count)

    def alone(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # else its first work would take the number that is set last
        ready.wait()  # so that every thread of the pool does this once

    list(pool.map(alone, range(count)))
    # A thread that says how many threads it wants says so for all that start after it.
    torch.set_num_threads(count)
    return pool
