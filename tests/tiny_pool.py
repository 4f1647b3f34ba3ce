"""Small pools of drawn pictures, pipeline files over them, and what a run left behind."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import yaml
from PIL import Image

from curate.ledger import spelt
from curate.pipeline import Options, Outcome
from curate.pipeline import run as run_pipeline
from curate.pipeline_file.config import load
from curate.report.whole import Extent
from curate.sample import uid_of

RESULTS = ("subset.npy", "ledger", "shards", "report/report.json")


@dataclass(frozen=True)
class Drawn:
    """One sample as it stands in a tar."""

    key: str
    caption: str | None
    metadata: dict
    jpeg: bytes | None

    @property
    def uid(self) -> str:
        return uid_of(self.caption, self.metadata["url"])


def _jpeg(width: int, height: int, seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).resize((width, height)).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def draw(count: int, seed: int = 0) -> list[Drawn]:
    """Samples with planted defects: short, empty and repeated captions, repeated URLs, scores that
    are NaN or absent, small pictures, repeated pictures, no picture at all."""
    rng = np.random.default_rng(seed)
    pictures = [_jpeg(20 + 7 * n, 30 + 5 * (n % 4), n) for n in range(12)]
    drawn = []
    for number in range(count):
        caption: str | None = f"a drawn thing number {rng.integers(count // 2)}"
        if number % 9 == 4:
            caption = "x"
        if number % 31 == 7:
            caption = None
        metadata: dict = {"url": f"http://h/{rng.integers(count)}"}
        metadata["score"] = float(np.round(rng.random(), 2))
        if number % 13 == 5:
            metadata["score"] = float("nan")
        if number % 17 == 6:
            del metadata["score"]
        picture = None if number % 37 == 11 else pictures[rng.integers(len(pictures))]
        drawn.append(Drawn(f"{number:09d}", caption, metadata, picture))
    return drawn


def write_tar(file: Path, samples: Sequence[Drawn]) -> None:
    """A shard, as webdataset would write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for sample in samples:
            for extension, body in _members(sample):
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))


def _members(sample: Drawn) -> Iterator[tuple[str, bytes]]:
    if sample.jpeg is not None:
        yield "jpg", sample.jpeg
    if sample.caption is not None:
        yield "txt", sample.caption.encode()
    yield "json", json.dumps(sample.metadata).encode()


def write_shards(folder: Path, samples: Sequence[Drawn], shards: int) -> Path:
    """The samples in so many tars of nearly the same size, in order."""
    for number, rows in enumerate(np.array_split(np.arange(len(samples)), shards)):
        write_tar(folder / f"{number:05d}.tar", [samples[row] for row in rows])
    return folder


STEPS = (
    {"caption": {"min_words": 2}},
    {"image_file": {}},
    {"image_size": {"min_side": 31}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"], "keep": {"highest": "score"}}},
    {"language": {}},
    {"where": {"name": "scored", "sql": "score >= 0.05"}},
    {
        "any_of": [
            {"where": {"name": "wide", "sql": "image_file.width > 60"}},
            {"random_sample": {"fraction": 0.5, "of": "survivors"}},
        ]
    },
    {"random_sample": {"name": "share", "fraction": 0.8, "of": "survivors"}},
    {"write": {"samples_per_shard": 16}},
)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline file in the making."""

    folder: Path
    pool: object
    steps: Sequence[object] = STEPS
    name: str = "tiny"
    fields: tuple[tuple[str, object], ...] = (("rows_per_block", 70),)
    report: ClassVar[Extent] = "brief"  # half the time of a run; see Reported

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def where(self, **changes: object) -> "Pipeline":
        """The same with other fields of the file, or another folder, pool or steps."""
        own = {k: changes.pop(k) for k in ("folder", "pool", "steps", "name") if k in changes}
        return replace(self, fields=tuple({**dict(self.fields), **changes}.items()), **own)

    def file(self) -> str:
        """Write the YAML file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {
            "name": self.name,
            "work": str(self.work),
            "pool": self.pool,
            "steps": list(self.steps),
            **dict(self.fields),
        }
        path = self.folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        return str(path)

    def run(self, *overrides: str, options: Options | None = None, **more: object) -> Outcome:
        """Run it here, in this process."""
        loaded = load(self.file(), overrides, **more)
        options = options or Options(report=self.report)
        return run_pipeline(loaded, options, lambda progress: None)


class Reported(Pipeline):
    """One whose report is whole."""

    report: ClassVar[Extent] = "whole"


def tar_pool(folder: Path) -> dict:
    """The pool of a folder of tars."""
    return {"shards": str(folder / "*.tar")}


def digests(work: Path, names: Sequence[str] = RESULTS) -> dict[str, str]:
    """{path: sha256} of what a run promises byte for byte."""
    found = {}
    for name in names:
        place = work / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and not file.name.startswith("."):
                body = file.read_bytes()
                found[str(file.relative_to(work))] = hashlib.sha256(body).hexdigest()
    return found


def ledger_of(work: Path) -> pl.DataFrame:
    """The whole ledger in the order of the pool."""
    files = sorted((work / "ledger").glob("*.parquet"))
    return spelt(pl.concat([pl.read_parquet(file) for file in files]))


def fates(work: Path) -> list[tuple]:
    """The ledger without where a sample lies: the same for any way to shard the same samples."""
    return sorted(ledger_of(work).drop("shard", "row").rows(), key=str)


def written(work: Path) -> dict[str, bytes]:
    """{member name: body} of all written shards, in order."""
    found = {}
    for tar in sorted((work / "shards").glob("*.tar")):
        with tarfile.open(tar) as handle:
            for member in handle:
                assert member.name not in found, member.name
                found[member.name] = handle.extractfile(member).read()
    return found
