"""What a person sees of a run: live bars on a terminal, plain lines elsewhere, and summaries."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TextIO

from curate import lease, records, storage
from curate.errors import CurateError
from curate.records import Progress

LINE_S = 10.0  # how often a plain line says how far a step is


class Display:
    """Shows progress on a stream, for as long as it is open."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live: Any = None
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Display:
        if self._stream.isatty():
            self._live = _bars(self._stream)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Bring what is shown of one step up to date."""
        if self._live is not None:
            self._show_bar(progress)
        else:
            self._show_line(progress)

    def _show_bar(self, progress: Progress) -> None:
        total = progress.units or None
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._live.add_task(progress.step, total=total, rate="")
        rate = f"{progress.rate:,.0f} rows/s" if progress.rows else ""
        self._live.update(
            self._tasks[progress.step],
            completed=(total or 1) if progress.ended else progress.done,
            total=total or (1 if progress.ended else None),
            rate=rate,
        )

    def _show_line(self, progress: Progress) -> None:
        now = time.monotonic()
        last = self._said.get(progress.step, 0.0)
        if progress.ended is None and now - last < LINE_S:
            return
        if progress.ended is None and progress.done == 0:
            self._said[progress.step] = now
            return
        self._said[progress.step] = now
        self._stream.write(line_of(progress) + "\n")
        self._stream.flush()


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description:>24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )


def line_of(progress: Progress) -> str:
    """One plain line about a step."""
    text = f"{progress.step}: {progress.done}"
    if progress.units:
        text += f" of {progress.units}"
    text += " tasks"
    if progress.rows:
        text += f", {progress.rows:,} rows ({progress.rate:,.0f}/s)"
    if progress.failed:
        text += f", {progress.failed:,} without a value"
    if progress.ended is None and progress.units and progress.done:
        left = (time.time() - progress.began) * (progress.units - progress.done) / progress.done
        text += f", {_duration(left)} left"
    if progress.ended is not None:
        text += f", done in {_duration(progress.ended - progress.began)}"
    return text


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def status_lines(work: str) -> list[str]:
    """How far the run in a work folder is, or how the last one ended; [] where none was.

    Raises:
        CurateError: it is a pipeline file.
    """
    if work.endswith((".yaml", ".yml")):
        raise CurateError(f"{work} is a pipeline file: give the folder that its `work:` names")
    found = records.read_progress(work)
    if not found:
        return []
    holder = lease.holder(work)
    state = (
        f"process {holder['pid']} on {holder['host']} is running" if holder else "no run at work"
    )
    lines = [f"{work}: {state}"]
    for entry in found:
        entry.pop("rows_per_second", None)
        lines.append("  " + line_of(Progress(**entry)))
    return lines


def summary(report: dict[str, Any], work: str) -> str:
    """The funnel of a run as text."""
    totals = report["totals"]
    width = max([len(step["name"]) for step in report["steps"]] + [8])
    lines = [f"{'step':<{width}}  {'in':>12}  {'kept':>12}  removed"]
    for step in [*_pool_row(report), *report["steps"]]:
        reasons = {**step["removed"], **{f"lost: {k}": v for k, v in step["lost"].items()}}
        listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
        lines.append(
            f"{step['name']:<{width}}  {step['in']:>12,}  {step['kept']:>12,}  {listed or '-'}"
        )
    share = totals["kept"] / totals["rows"] if totals["rows"] else 0.0
    copies = f", {totals['copies']:,} copies" if totals["copies"] != totals["kept"] else ""
    lines.append(
        f"{totals['kept']:,} of {totals['rows']:,} samples kept ({share:.1%}){copies}; "
        f"report: {work}/report/index.html"
    )
    stopped = report["unfinished"]
    if stopped is None:
        lines[-1] += f", subset: {work}/subset.npy"
    else:
        missing = ", ".join(stopped["not_reached"]) or "what is made of the last step"
        lines.append(
            f"The run did not finish. Not reached: {missing}. Run it again to go on; if a budget "
            "stopped it, raise that in `run:` or mend the step first."
        )
    if report["extent"] == "brief":
        lines.append(f"The report is brief: `curate report {work}` makes it whole.")
    lines += [
        f"Not one of {step['in']:,} pictures came: is the network reachable?"
        for step in report["steps"]
        if step["role"] == "download" and step["in"] and not step["kept"]
    ]
    if totals["lost"]:
        lines.append(
            f"{totals['lost']:,} samples were lost to failed work; run again to retry them"
        )
    unmatched = report["pool"].get("pictures", {}).get("pictures_of_nobody", 0)
    if unmatched:
        url = storage.join(work, "pool", "pictures", "unmatched.parquet")
        lines.append(f"{unmatched:,} pictures belong to no row of the metadata: listed in {url}")
    lines += [f"damaged: {d['url']}: {d['damage']}" for d in report["pool"].get("damaged", [])]
    return "\n".join(lines)


def _pool_row(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the pool itself cannot use, as a step; nothing where it can use all."""
    totals = report["totals"]
    if totals["usable"] == totals["rows"]:
        return []
    removed = report["pool"]["unusable"]
    counts = {"in": totals["rows"], "kept": totals["usable"]}
    return [{"name": "pool", **counts, "removed": removed, "lost": {}}]
