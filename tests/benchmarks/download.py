"""Our download against img2dataset's bare `Downloader`, on the same URLs, in the same run.

    python tests/benchmarks/download.py [--pictures 2000] [--threads 32] [--rounds 5]

Rounds alternate, the server is a process of its own, and the ratio is that of the medians. Both
verify by decoding, resize what is larger than 512 px and write a tar and a parquet; the bare one
is timed as it comes (it re-encodes everything) and with `skip_reencode`, which does least.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from picture_server import picture_server

from curate.downloads.download import Download, Target, download_part

IMAGE_SIZE = 512


def picture(seed: int) -> bytes:
    """A JPEG with about the sizes of pictures on the web; a third is larger than 512 px."""
    rng = np.random.default_rng(seed)
    width, height = (int(rng.lognormal(6.0, 0.5)) + 32 for _ in range(2))
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    file = io.BytesIO()
    noise.resize((min(width, 2000), min(height, 2000)), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def ours(rows: pl.DataFrame, folder: Path, threads: int) -> int:
    spec = Download(image_size=IMAGE_SIZE, allow_private_addresses=True)
    return download_part(spec, rows, Target(str(folder), 0), threads).successes


def bare(rows: pl.DataFrame, folder: Path, threads: int, reencode: str) -> int:
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    feather = folder / "rows.feather"
    names = ["uid", "caption", "url"]
    rows.select(names).write_ipc(feather, compat_level=pl.CompatLevel.oldest())
    resizer = Resizer(
        IMAGE_SIZE,
        "keep_ratio_largest",
        resize_only_if_bigger=True,
        skip_reencode=reencode == "skip",
    )
    Downloader(
        WebDatasetSampleWriter, resizer, threads, save_caption=True, extract_exif=False,
        output_folder=str(folder), column_list=names, timeout=10, number_sample_per_shard=10_000,
        oom_shard_count=5, compute_hash="sha256", verify_hash_type=None, encode_format="jpg",
        retries=0, user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    ).download_shard((0, str(feather)))  # fmt: skip
    return int((pl.read_parquet(folder / "00000.parquet")["status"] == "success").sum())


def seconds(work: Callable[[Path], int], expected: int) -> tuple[float, float]:
    """(seconds on the clock, seconds of this process's CPU)."""
    folder = Path(tempfile.mkdtemp())
    began, spent = time.perf_counter(), time.process_time()
    successes = work(folder)
    took = time.perf_counter() - began, time.process_time() - spent
    shutil.rmtree(folder)
    assert successes == expected, (successes, expected)
    return took


def table(count: int, times: dict[str, list[tuple[float, float]]]) -> str:
    clock = {name: statistics.median(wall for wall, _ in each) for name, each in times.items()}
    cpu = {name: statistics.median(spent for _, spent in each) for name, each in times.items()}
    lines = []
    for name, each in times.items():
        walls = [wall for wall, _ in each]
        lines.append(
            f"{name:20} {clock[name]:6.2f} s ({min(walls):.2f} to {max(walls):.2f}), "
            f"CPU {cpu[name]:6.2f} s, {count / clock[name]:7,.0f} pictures/s"
        )
    for name in list(times)[1:]:
        wall, spent = clock[name] / clock["ours"], cpu[name] / cpu["ours"]
        lines.append(f"speed, ours / {name}: {wall:.2f} on the clock, {spent:.2f} in CPU time")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    answers = {f"/{n}.jpg": picture(n) for n in range(options.pictures)}
    with picture_server(answers, where="process") as server:
        rows = pl.DataFrame(
            {
                "row": pl.Series(range(len(answers)), dtype=pl.UInt32),
                "uid": [f"{n:032x}" for n in range(len(answers))],
                "url": [server.url(path) for path in answers],
                "caption": ["a caption of a few words"] * len(answers),
            }
        )
        ways: dict[str, Callable[[Path], int]] = {
            "ours": lambda folder: ours(rows, folder, options.threads),
            "bare, skip_reencode": lambda folder: bare(rows, folder, options.threads, "skip"),
            "bare": lambda folder: bare(rows, folder, options.threads, "all"),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):  # the first one warms up, and is not counted
            for name, work in ways.items():
                took = seconds(work, len(answers))
                times[name] += [took] if number else []
    size = sum(map(len, answers.values())) / len(answers)
    sys.stdout.write(f"{len(answers)} pictures of {size:,.0f} bytes, {options.threads} threads\n")
    sys.stdout.write(table(len(answers), times))


if __name__ == "__main__":
    main()
