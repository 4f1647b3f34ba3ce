"""How fast a subset's samples become shards, beside a plain webdataset loop and a plain copy.

    python tests/benchmarks/reshard.py [folder]

20,000 samples of about 28 kB (with JSON and caption, in tars as webdataset and so img2dataset
write them), of which 30 % are kept. The loop reads with `webdataset.WebDataset`, decodes each
sample's JSON, and writes with `webdataset.TarWriter`; it flushes nothing, and we do. All ways take
turns; ratios are those of the best rounds, for what else a machine does only adds time. With two
workers, the loop has two processes that each take a tar, and we have two threads. Cold: the kernel
was told to forget the tars (POSIX_FADV_DONTNEED), which it does for pages that are on the disk.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import polars as pl
import webdataset

from curate.resharding.reshard import Options, Reshard, reshard
from curate.runner import LocalRunner
from curate.sample import format_uids, parse_uids
from curate.shards import shard
from curate.subsets import subset
from curate.write import Write

SAMPLES, TARS, SHARE, ROUNDS = 20_000, 2, 0.3, 7
SAMPLES_PER_SHARD = 3_000  # of the output: two shards, as two loops write


def make_pool(folder: Path) -> None:
    """Tars without and with img2dataset's parquet beside them, and a subset."""
    chance = random.Random(0)
    (folder / "json").mkdir()
    (folder / "parquet").mkdir()
    uids = []
    for number in range(TARS):
        rows = []
        with webdataset.TarWriter(str(folder / f"json/{number:08d}.tar")) as sink:
            for row in range(SAMPLES // TARS):
                fields = metadata(chance, f"{number:08d}{row:04d}")
                body = chance.randbytes(chance.randrange(14_000, 42_000))
                text = json.dumps(fields, indent=4)
                members = {"jpg": body, "txt": fields["caption"], "json": text}
                sink.write({"__key__": fields["key"], **members})
                rows.append(fields)
        uids += [fields["uid"] for fields in rows]
        pl.DataFrame(rows).write_parquet(folder / f"parquet/{number:08d}.parquet")
        os.link(folder / f"json/{number:08d}.tar", folder / f"parquet/{number:08d}.tar")
    kept = [uid for uid in uids if chance.random() < SHARE]
    subset.save(str(folder / "subset.npy"), subset.sort(parse_uids(kept)))
    os.sync()  # or the kernel cannot forget them


def metadata(chance: random.Random, key: str) -> dict:
    """What img2dataset writes about a sample of DataComp."""
    return {
        "uid": f"{chance.getrandbits(128):032x}",
        "caption": f"a picture of {chance.getrandbits(60)} things on a table",
        "url": f"https://pictures.example/{chance.getrandbits(90):x}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 512,
        "height": 384,
        "original_width": 1024,
        "original_height": 768,
        "exif": '{"Image Orientation": "Horizontal (normal)"}',
        "sha256": f"{chance.getrandbits(256):064x}",
    }


def loop(wanted: set[str], tars: list[str], target: str) -> int:
    """What a script does; the samples that it wrote."""
    written = 0
    with webdataset.TarWriter(target) as sink:
        for sample in webdataset.WebDataset(tars, shardshuffle=False):
            uid = json.loads(sample["json"])["uid"]
            if uid in wanted:
                members = {k: v for k, v in sample.items() if not k.startswith("__")}
                sink.write({"__key__": f"{uid}-0", **members})
                written += 1
    return written


def loops(pool: Pool, wanted: set[str], tars: list[str], out: Path) -> int:
    """The same in two processes, which are there already; a tar each."""
    out.mkdir(exist_ok=True)
    jobs = [(wanted, [tar], str(out / f"{i}.tar")) for i, tar in enumerate(tars)]
    return sum(pool.starmap(loop, jobs))


def ours(folder: Path, shards: str, out: Path, threads: int) -> int:
    write = Write(samples_per_shard=SAMPLES_PER_SHARD)
    spec = Reshard(str(folder / "subset.npy"), str(folder / shards), str(out), write)
    return reshard(spec, LocalRunner(threads), Options()).result.written


def copied(source: Path, target: Path) -> int:
    """The limit: the bytes that are to be written, all in one piece and flushed."""
    shutil.copyfile(source, target)
    with target.open("rb") as handle:
        os.fsync(handle.fileno())
    return 0


def forget(tars: list[str]) -> None:
    for tar in tars:
        with Path(tar).open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(action: Callable[[], int], out: Path, expected: int) -> float:
    """Seconds; what it made is removed, so that every round starts alike."""
    os.sync()
    start = time.perf_counter()
    written = action()
    taken = time.perf_counter() - start
    assert written in (0, expected), (written, expected)
    shutil.rmtree(out, ignore_errors=True)
    return taken


def main(folder: Path) -> None:
    """Measure, and print a line for each way."""
    make_pool(folder)
    tars = [str(folder / f"json/{number:08d}.tar") for number in range(TARS)]
    wanted = set(format_uids(subset.load(str(folder / "subset.npy"))))
    out, reference = folder / "out", folder / "reference.tar"
    loop(wanted, tars, str(reference))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(abs, range(100))
        ways = {
            "loop": lambda: loop(wanted, tars, str(folder / "loop.tar")),
            "loop, two processes": lambda: loops(pool, wanted, tars, out),
            "curate write": partial(ours, folder, "json", out, 1),
            "curate write, two threads": partial(ours, folder, "json", out, 2),
            "curate write, parquet": partial(ours, folder, "parquet", out, 1),
            "copy, flushed": lambda: copied(reference, folder / "copy.tar"),
            "scan of the headers": lambda: sum(0 * len(shard.scan(tar)) for tar in tars),
        }
        seconds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                seconds.setdefault(name, []).append(timed(way, out, len(wanted)))
                if name.startswith(("loop", "curate")):
                    forget(tars)
                    cold = timed(way, out, len(wanted))
                    seconds.setdefault(f"{name}, cold", []).append(cold)
    show({name: min(taken) for name, taken in seconds.items()})


def show(best: dict[str, float]) -> None:
    for name, taken in best.items():
        sys.stdout.write(f"{name:32} {1e3 * taken:8.0f} ms {SAMPLES / taken:10,.0f} samples/s\n")
    for ending in ("", ", cold"):
        one, two = best[f"loop{ending}"], best[f"loop, two processes{ending}"]
        single = one / best[f"curate write{ending}"]
        beside = one / best[f"curate write, parquet{ending}"]
        double = two / best[f"curate write, two threads{ending}"]
        sys.stdout.write(
            f"{single:.1f} x the loop, {beside:.1f} x with a parquet beside the tar, "
            f"{double:.1f} x with two workers each{ending}\n"
        )
    limit = best["curate write"] / best["copy, flushed"]
    sys.stdout.write(f"{limit:.1f} x the time of a flushed copy of what is written\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
