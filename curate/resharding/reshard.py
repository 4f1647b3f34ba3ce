"""A subset and the shards of a pool -> WebDataset shards of that subset, without a pipeline."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from curate import lease, storage
from curate.errors import BudgetExceeded, ConfigError
from curate.output_shard import write_shard
from curate.resharding import allotment, boxes, membership, reshard_files
from curate.resharding.blur import Blur
from curate.resharding.finding import SAMPLE_IDS, Found, Search
from curate.step import Recipe, fingerprint
from curate.subsets import subset
from curate.subsets.sorted_files import write_header
from curate.write import Cut, ShardResult, Write, plan_write
from curate.write import finish as finish_writing

_LOG = logging.getLogger(__name__)
_MISSING, _LOST, _RESULT = "missing.npy", "lost.jsonl", "reshard.json"
_CHUNK = 16_000_000  # uids copied at once
_TELL_S = 10.0


@dataclass(frozen=True)
class Reshard:
    """What to write where; `subset` and the tars are given by their URLs."""

    subset: str
    shards: str  # a folder, or a path, glob or brace pattern of tars
    out: str
    write: Write = field(default_factory=Write)
    blur: Blur | None = None
    boxes: str | None = None  # parquet files with `uid` and `face_bboxes`: as `shards`


@dataclass(frozen=True)
class Options:
    """How to go about it; none changes what is written."""

    existing: Literal["refuse", "overwrite"] = "refuse"  # what another run wrote there
    lease: Literal["refuse", "steal"] = "refuse"
    absent: Literal["list", "refuse"] = "list"  # uids of the subset that no shard has


@dataclass
class Result:
    """What came of it. `asked == written + missing`: each copy is accounted for."""

    asked: int  # rows of the subset: copies
    sorted_here: bool  # the subset file was not sorted
    written: int = 0  # copies
    missing: int = 0  # copies whose uid no written sample bears
    samples: int = 0  # of the pool: with a uid and a picture
    tars: int = 0  # of the pool
    rows: int = 0  # of these samples, written at least once
    shards: int = 0  # written
    blurred: int = 0  # rows
    faces_unknown: int = 0  # rows whose JSON says nothing about faces; nobody asked without --blur
    boxes_matched: int | None = None  # rows of the box tables whose uid is in the subset
    lost: int = 0  # samples that had to be blurred and could not be
    shared_uids: int = 0  # uids that several samples of the pool bear
    origins: dict[str, int] = field(default_factory=dict)  # where the pool's uids came from
    passed_over: dict[str, int] = field(default_factory=dict)  # samples no subset can mean
    damaged: dict[str, str] = field(default_factory=dict)  # {tar: what is wrong with it}

    @property
    def exit_code(self) -> int:
        """0, or 3 where something was lost that should have been there."""
        return 3 if self.lost or self.damaged else 0


@dataclass(frozen=True)
class Outcome:
    """The result, and whether it was there before."""

    result: Result
    reused: bool


class Maps(Protocol):
    """Where work runs: any runner."""

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], label: str) -> Iterator[Any]:
        """Results in the order of completion; an exception of the work ends it."""


def reshard(
    spec: Reshard, runner: Maps, options: Options, tell: Callable[[str], object] = _LOG.info
) -> Outcome:
    """Write the samples of a subset as shards; the same bytes for every runner.

    Killed at any moment, the same call goes on where it was. The first pass looks for the uids and
    writes down where the samples are; the second copies bytes. Copies of a sample lie far apart,
    as `write` has them.

    Args:
        spec: What to write.
        runner: Where.
        options: How.
        tell: Is given a line for people when a pass begins.

    Raises:
        ConfigError: nothing matches, a uid there is none, or every tar is damaged.
        RecipeChanged: the folder holds another selection.
        BudgetExceeded: a uid is missing, and `options.absent` is `refuse`.
        StorageError: a file cannot be read or written.
        WorkInUse: another process writes there.
    """
    place = reshard_files.Folder(spec.out)
    subset.load(spec.subset)  # is it one? The folder is claimed for it
    tars = reshard_files.tars(spec.shards)
    place.refuse_input([*(tar.url for tar in tars), spec.subset])
    tables = reshard_files.tables(spec.boxes) if spec.boxes is not None else []
    recipe = _recipe(spec, place, tars, tables)
    with lease.held(spec.out, steal=options.lease) as held, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # a line for every odd picture
        done = place.claim(recipe, options.existing)
        if done is not None:
            return Outcome(Result(**done), reused=True)
        run = _Run(spec, place, runner, fingerprint(recipe), tell)
        result = run.all(tars, [table.url for table in tables], options, held)
    return Outcome(result, reused=False)


def _recipe(
    spec: Reshard,
    place: reshard_files.Folder,
    tars: list[storage.Entry],
    tables: list[storage.Entry],
) -> Recipe:
    blur = None
    if spec.blur is not None:
        blur = {"version": spec.blur.version, **spec.blur.model_dump()}
    return {
        "kind": "reshard",
        "version": 1,
        "subset": reshard_files.content(spec.subset, place.remembered()),
        "inputs": reshard_files.listing([*tars, *reshard_files.companions(tars)]),
        "samples_per_shard": spec.write.samples_per_shard,
        "write": spec.write.version,
        "blur": blur,
        "boxes": reshard_files.listing(tables) if tables else None,
    }


@dataclass(frozen=True)
class _Run:
    spec: Reshard
    place: reshard_files.Folder
    runner: Maps
    fingerprint: str
    tell: Callable[[str], object]

    def all(
        self,
        tars: list[storage.Entry],
        tables: list[str],
        options: Options,
        held: lease.Lease,
    ) -> Result:
        """Both passes, and the files that say what came of them; the manifest is last."""
        result = self._take_subset()
        uids = subset.load(self.place.file(SAMPLE_IDS))
        search = Search(self.spec.out, self.place.work, self.fingerprint, self.spec.blur)
        if tables:
            folder = storage.join(self.place.work, "boxes")
            result.boxes_matched = boxes.gather(tables, uids, folder)
            search = replace(search, boxes=folder)
        self._search(search, [tar.url for tar in tars], result, held)
        bearers = allotment.allot(self.place.work, len(tars), uids)
        result.shared_uids = int((bearers > 1).sum())
        self._write_missing(uids, bearers, result)
        if result.missing and options.absent == "refuse":
            raise BudgetExceeded(
                f"{result.missing:,} of {result.asked:,} copies cannot be written: no sample of "
                f"{self.spec.shards} bears their uid. They are listed in "
                f"{self.place.file(_MISSING)}; without `--require-all` the others are written"
            )
        self._write_shards(len(tars), result, held)
        return result

    def _take_subset(self) -> Result:
        """Copy the subset, sorted, to the folder: DataComp's `sample_ids.npy`."""
        given = subset.load(self.spec.subset)
        is_sorted = membership.is_sorted(given)
        result = Result(asked=len(given), sorted_here=not is_sorted)
        if not is_sorted:
            self.tell(f"{self.spec.subset} is not sorted; a sorted copy of it is used.")
        if storage.exists(self.place.file(SAMPLE_IDS)):
            return result  # of a run that was killed
        if not is_sorted:
            given = subset.sort(np.asarray(given))
        with storage.committing(self.place.file(SAMPLE_IDS)) as handle:
            write_header(handle, len(given))
            for start in range(0, len(given), _CHUNK):
                handle.write(given[start : start + _CHUNK].tobytes())
        return result

    def _search(self, search: Search, tars: list[str], result: Result, held: lease.Lease) -> None:
        self.tell(f"Looking for {result.asked:,} uids in {len(tars):,} shards.")
        lost = []
        result.tars = len(tars)
        for found in self._watched(self.runner.map(search, enumerate(tars), "find"), len(tars)):
            held.check()
            _add(result, found)
            lost += [(found.number, each) for each in found.lost]
        if len(result.damaged) == len(tars) and not result.samples:
            url, damage = next(iter(result.damaged.items()))
            raise ConfigError(f"{url} is not a tar: {damage}; nor is any other of {len(tars)}")
        lost.sort(key=lambda pair: pair[0])  # by input shard; each is in order already
        lines = [json.dumps(asdict(each), sort_keys=True) + "\n" for _, each in lost]
        storage.commit(self.place.file(_LOST), "".join(lines).encode())

    def _watched(self, results: Iterator[Any], count: int) -> Iterator[Any]:
        """The results, with a line for people now and then."""
        told = time.monotonic()
        for done, result in enumerate(results, start=1):
            if time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                self.tell(f"  {done:,} of {count:,}")
            yield result

    def _write_missing(self, uids: np.ndarray, bearers: np.ndarray, result: Result) -> None:
        for piece in allotment.missing(uids, bearers):
            result.missing += len(piece)
        with storage.committing(self.place.file(_MISSING)) as handle:
            write_header(handle, result.missing)
            for piece in allotment.missing(uids, bearers):
                handle.write(piece.tobytes())

    def _write_shards(self, tars: int, result: Result, held: lease.Lease) -> None:
        catalogue = allotment.FoundCatalogue(self.place.work, tars)
        mapper = partial(_mapped, self.runner)
        plan = plan_write(self.spec.write, catalogue, self.fingerprint, mapper)
        self.tell(f"Writing {plan.samples:,} samples to {plan.shards:,} shards.")
        cuts = (plan.cut(number) for number in range(plan.shards))
        results = []
        writing = self.runner.map(_Writer(catalogue, self.spec.out), cuts, "write")
        for written in self._watched(writing, plan.shards):
            held.check()
            results.append(written)
        result.written, result.rows, result.shards = plan.samples, plan.rows, plan.shards
        assert result.asked == result.written + result.missing, result
        storage.commit_json(self.place.file(_RESULT), asdict(result))
        finish_writing(plan, results, self.spec.out)
        storage.remove(self.place.work)


def _mapped(runner: Maps, work: Any, items: Iterable[Any]) -> Iterator[Any]:
    return runner.map(work, items, "count")


@dataclass(frozen=True)
class _Writer:
    catalogue: allotment.FoundCatalogue
    out: str

    def __call__(self, cut: Cut) -> ShardResult:
        return write_shard(cut, self.catalogue, self.out)


def _add(result: Result, found: Found) -> None:
    result.samples += found.samples
    result.blurred += found.blurred
    result.faces_unknown += found.faces_unknown
    result.lost += len(found.lost)
    for total, part in (
        (result.origins, found.origins), (result.passed_over, found.passed_over)
    ):  # fmt: skip
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    if found.damage is not None:
        result.damaged[found.url] = found.damage


def report(outcome: Outcome, spec: Reshard) -> list[str]:
    """What came of it, as lines for people."""
    result, out = outcome.result, spec.out
    lines = [
        f"{result.written:,} samples in {result.shards:,} shards: {out}",
        f"  {result.asked:,} asked for, {result.missing:,} missing, {result.lost:,} samples lost; "
        f"{result.rows:,} different samples of the {result.samples:,} in {result.tars:,} tars",
        "  uids from: " + (_counted(result.origins) or "nowhere"),
    ]
    if result.sorted_here and not outcome.reused:  # or it tells of another file
        lines.append(f"  {spec.subset} was not sorted: sample_ids.npy is a sorted copy of it")
    if result.passed_over:
        lines.append(f"  passed over: {_counted(result.passed_over)}")
    if result.shared_uids:
        lines.append(
            f"  {result.shared_uids:,} uids are borne by several samples, which share their copies"
        )
    if spec.blur is not None:
        lines += _about_faces(result)
    if result.missing:
        missing = f"MISSING: {result.missing:,} rows of the subset that no sample is for"
        lines.append(f"{missing}: {out}/{_MISSING}")
    if result.lost:
        lines.append(f"LOST: {result.lost:,} samples that could not be blurred: {out}/{_LOST}")
    lines += [f"DAMAGED: {url}: {damage}" for url, damage in sorted(result.damaged.items())]
    if outcome.reused:
        lines.append("Nothing to do: this was written before.")
    return lines


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _about_faces(result: Result) -> list[str]:
    lines = [f"  {result.blurred:,} samples have faces, which were blurred"]
    if result.boxes_matched is not None:
        lines.append(f"  {result.boxes_matched:,} rows of the box tables are of this subset")
    elif result.faces_unknown:
        lines.append(
            f"UNKNOWN FACES: the JSON of {result.faces_unknown:,} samples says nothing about "
            "faces; they were written as they are: give the metadata with `--boxes`"
        )
    return lines
