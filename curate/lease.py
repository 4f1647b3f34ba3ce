"""One run at a time in a work folder: a file that names the holder, made where there is none."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal
from uuid import uuid4

from curate import storage
from curate.errors import WorkInUse

CHECK_S = 10.0  # how often a holder looks whether it was pushed out


class Lease:
    """Held while a run writes; `check` notices that somebody stole it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._checked = time.monotonic()

    def check(self) -> None:
        """Raise WorkInUse if another run took the folder over; looks at most every CHECK_S."""
        if time.monotonic() - self._checked >= CHECK_S:
            self.confirm()

    def confirm(self) -> None:
        """Raise WorkInUse if another run took the folder over."""
        self._checked = time.monotonic()
        holder = _holder(self._url)
        if holder is None or holder.get("token") != self._token:
            raise WorkInUse(f"this run was pushed out by {_described(holder)}: it stops here")


@contextmanager
def held(work: str, *, steal: Literal["refuse", "steal"]) -> Iterator[Lease]:
    """Hold the lease of a work folder; WorkInUse names whoever has it.

    A holder on this machine that is no longer running left its lease behind: it is taken over.
    """
    url = storage.join(work, "lease")
    token = uuid4().hex
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "token": token,
        "born": _born(os.getpid()),
    }
    while not storage.create(url, json.dumps(mine).encode()):
        holder = _holder(url)
        if holder is not None and steal == "refuse" and not _gone(holder):
            raise WorkInUse(
                f"{work} is in use by {_described(holder)}. Wait for it, or if you know that it is "
                "dead, take the folder over with `--steal`."
            )
        _take_away(url, holder)
    try:
        yield Lease(url, token)
    finally:
        holder = _holder(url)
        if holder is not None and holder.get("token") == token:
            storage.remove(url)


def _take_away(url: str, dead: dict[str, Any] | None) -> None:
    """Remove a dead holder's lease; one that somebody else has just made is put back."""
    if not storage.is_local(url):
        storage.remove(url)  # object stores cannot rename; the holder notices at its next check
        return
    path = storage.local_path(url)
    aside = path.with_name(f".lease.{uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another run took it away first
    try:
        if _holder(str(aside)) != dead:
            with suppress(FileExistsError):
                os.link(aside, path)
    finally:
        aside.unlink()


def holder(work: str) -> dict[str, Any] | None:
    """Who holds a work folder, if a running process does."""
    found = _holder(storage.join(work, "lease"))
    return None if found is None or _gone(found) else found


def _holder(url: str) -> dict[str, Any] | None:
    if not storage.exists(url):
        return None
    try:
        found = storage.read_json(url)
    except (ValueError, FileNotFoundError):
        return None
    return found if isinstance(found, dict) else None


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and runs no more."""
    if holder.get("host") != socket.gethostname():
        return False
    pid = int(holder.get("pid", 0))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    state = _stat(pid)
    if state[:1] in (["Z"], ["X"]):  # dead, and its parent has not asked yet how it died
        return True
    return _born(pid) != holder.get("born")  # the number was given to another process since


def _born(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where /proc does not say."""
    state = _stat(pid)
    return state[19] if len(state) > 19 else ""


def _stat(pid: int) -> list[str]:
    """What /proc says of a process from its state on; [] where it says nothing."""
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _described(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another run"
    return f"process {holder.get('pid')} on {holder.get('host')}"
