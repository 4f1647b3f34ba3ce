"""How far a run is and how fast it went: small files that only the driver writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from curate import __version__, storage

VERSIONS = (  # of what a result may depend on, or its speed
    *(
        "numpy",
        "polars",
        "pyarrow",
        "Pillow",
        "torch",
        "open_clip_torch",
        "faiss-cpu",
        "faiss-gpu-cu12",
    ),
    *("img2dataset", "ray"),
)
FLUSH_S = 2.0  # how often the files are brought up to date while work goes on


@dataclass(frozen=True)
class Done:
    """What one task did."""

    rows: int  # scored or attempted now
    failed: int  # of those, without a value
    seconds: float
    bytes: int = 0


@dataclass
class Progress:
    """What one step has done in this run."""

    step: str
    units: int = 0  # tasks to do; 0 where not known
    done: int = 0
    rows: int = 0
    failed: int = 0
    seconds: float = 0.0  # of workers, added up
    gpus: float = 0.0  # that one worker holds
    began: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def rate(self) -> float:
        """Rows a second of wall time."""
        elapsed = (self.ended or time.time()) - self.began
        return self.rows / elapsed if elapsed > 0 else 0.0


Observe = Callable[[Progress], None]


class Recorder:
    """Keeps the progress of each step, tells an observer, and keeps rates for `plan`."""

    def __init__(self, work: str, observe: Observe) -> None:
        self._folder = storage.join(work, "records")
        self._observe = observe
        self._steps: dict[str, Progress] = {}
        self._flushed = 0.0

    def begin(self, step: str, units: int) -> None:
        """A step has so many tasks to do now."""
        self._steps[step] = Progress(step, units)
        self._observe(self._steps[step])
        self._flush(force="yes")

    def task(self, step: str, done: Done | None = None) -> None:
        """One task is done."""
        progress = self._steps.setdefault(step, Progress(step))
        progress.done += 1
        if done is not None:
            progress.rows += done.rows
            progress.failed += done.failed
            progress.seconds += done.seconds
        self._observe(progress)
        self._flush(force="no")

    def end(self, step: str, gpus: float = 0.0) -> None:
        """A step is done: its rates are added to those of earlier runs."""
        progress = self._steps[step]
        progress.ended, progress.gpus = time.time(), gpus
        if progress.rows:
            url = storage.join(self._folder, "rates", f"{step}.json")
            before = storage.read_json(url) if storage.exists(url) else {}
            keys = ("rows", "failed", "seconds")
            total = {key: before.get(key, 0) + getattr(progress, key) for key in keys}
            total["wall_seconds"] = before.get("wall_seconds", 0) + progress.ended - progress.began
            total["gpu_seconds"] = before.get("gpu_seconds", 0) + progress.seconds * gpus
            storage.commit_json(url, total)
        self._observe(progress)
        self._flush(force="yes")

    def _flush(self, *, force: str) -> None:
        now = time.monotonic()
        if force == "yes" or now - self._flushed > FLUSH_S:
            self._flushed = now
            storage.commit_json(storage.join(self._folder, "progress.json"), self.timing())

    def keep_timing(self) -> dict[str, Any]:
        """Write times and rates beside the report, which has none so that it can be compared.

        `steps` are of this run; `all_runs` says of each step that scores or fetches what it cost
        in all runs of the work folder together, since its values are computed only once.
        """
        work = self._folder.rsplit("/", 1)[0]
        folder = storage.join(self._folder, "rates")
        known = {name: storage.join(folder, name) for name in storage.names(folder)}
        rates = {name.removesuffix(".json"): storage.read_json(url) for name, url in known.items()}
        timing = {"steps": self.timing(), "all_runs": rates, "versions": _versions()}
        storage.commit_json(storage.join(work, "report", "timing.json"), timing)
        return timing

    def timing(self) -> list[dict[str, Any]]:
        """Each step's times and rates, in the order in which they began."""
        return [
            {**asdict(progress), "rows_per_second": round(progress.rate, 3)}
            for progress in self._steps.values()
        ]


def _versions() -> dict[str, str]:
    """{package: version} of ours and of those that are installed of VERSIONS."""
    found = {"curate": __version__}
    for name in VERSIONS:
        with suppress(metadata.PackageNotFoundError):  # one faiss or the other
            found[name] = metadata.version(name)
    return found


def rates(work: str, step: str) -> dict[str, float] | None:
    """{rows, failed, seconds, wall_seconds} over all runs of a work folder, if it was measured."""
    url = storage.join(work, "records", "rates", f"{step}.json")
    found: dict[str, float] | None = storage.read_json(url) if storage.exists(url) else None
    return found


def read_progress(work: str) -> list[dict[str, Any]]:
    """The progress of the run at work in a folder, or of the last one."""
    url = storage.join(work, "records", "progress.json")
    found: list[dict[str, Any]] = storage.read_json(url) if storage.exists(url) else []
    return found
