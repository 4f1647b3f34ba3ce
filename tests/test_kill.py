"""`kill -9` at any moment, then the same command: every byte that is promised is as if undisturbed.

    CURATE_KILLS=20 python -m pytest tests/test_kill.py -s

The moments are spread over the whole duration of an undisturbed run, by a fixed seed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from curate.quickstart.command import pipeline_file
from curate.quickstart.plant import plant, write_url_list
from curate.quickstart.serve import serve
from tests.tiny_pool import Pipeline, digests, draw, tar_pool, write_shards

KILLS = int(os.environ.get("CURATE_KILLS", "6"))


@dataclass(frozen=True)
class Command:
    """`curate run` of one pipeline, in a work folder of choice."""

    file: str
    overrides: tuple[str, ...]

    def start(self, work: Path) -> subprocess.Popen:
        """Start it in a process group of its own."""
        sets = [word for one in (*self.overrides, f"work={work}") for word in ("--set", one)]
        return subprocess.Popen(
            [sys.executable, "-m", "curate.cli", "run", self.file, *sets],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self, work: Path) -> float:
        """Run it to its end; the seconds it took."""
        began = time.monotonic()
        process = self.start(work)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-3000:]
        return time.monotonic() - began

    def kill_at(self, work: Path, seconds: float) -> float:
        """Run it, and kill all of it after so many seconds: earlier if it was over then."""
        process = self.start(work)
        time.sleep(seconds)
        if process.poll() is not None:
            process.communicate()
            shutil.rmtree(work)
            return self.kill_at(work, 0.9 * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return seconds


def tiny(folder: Path) -> Command:
    """A pool of tars through features, filters of every shape and `write`."""
    pool = tar_pool(write_shards(folder / "in", draw(240), 5))
    return Command(Pipeline(folder, pool).file(), ())


@pytest.fixture(params=["tiny", "quickstart", pytest.param("ray", marks=pytest.mark.ray)])
def command(request, tmp_path) -> Iterator[Command]:
    if request.param == "tiny":
        yield tiny(tmp_path)
        return
    if request.param == "ray":
        yield Command(tiny(tmp_path).file, ("run.engine=ray",))
        return
    planted = plant(0)
    with serve(planted.answers) as base_url:
        write_url_list(planted, base_url, tmp_path / "urls.parquet")
        yield Command(str(pipeline_file()), (f"pool.urls={tmp_path / 'urls.parquet'}",))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_bytes(command, tmp_path):
    whole = tmp_path / "whole"
    duration = command.finish(whole)
    expected = digests(whole)
    assert len(expected) >= 5
    kills = max(2, KILLS // 3) if "run.engine=ray" in command.overrides else KILLS
    chance = random.Random(0)
    for number in range(kills):
        moment = (number + chance.random()) / kills * 0.97 * duration
        work = tmp_path / f"killed-{number}"
        moment = command.kill_at(work, moment)
        state = "sealed" if (work / "manifest.json").exists() else "unfinished"
        command.finish(work)
        assert digests(work) == expected, f"killed after {moment:.2f} s"
        sys.stdout.write(f"killed after {moment:.2f} of {duration:.2f} s ({state}): the same\n")


@pytest.mark.slow
def test_a_run_killed_again_and_again_comes_to_its_end(tmp_path):
    """Each time it gets a little further; nothing that a kill leaves behind adds up to a loss."""
    command = tiny(tmp_path)
    duration = command.finish(tmp_path / "whole")
    work = tmp_path / "killed"
    for share in (0.3, 0.5, 0.6, 0.7, 0.8):
        process = command.start(work)
        time.sleep(share * duration)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    command.finish(work)
    assert digests(work) == digests(tmp_path / "whole")
