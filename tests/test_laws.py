"""Laws about runs in one work folder: identity, reuse, losses, and who works there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from curate.check import compile_pipeline
from curate.errors import BudgetExceeded, RecipeChanged, Stale
from curate.pipeline import Options, identity
from curate.pipeline_file.config import load
from tests.tiny_pool import (
    STEPS,
    Reported,
    digests,
    draw,
    fates,
    ledger_of,
    tar_pool,
    write_shards,
    written,
)

SAMPLES = draw(180)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run, of which each test takes a copy."""
    folder = tmp_path_factory.mktemp("done")
    pipeline = Reported(folder, tar_pool(write_shards(folder / "in", SAMPLES, 3)))
    pipeline.run()
    return pipeline


@pytest.fixture
def copy(done, tmp_path):
    """A work folder of its own that the same run finished."""
    shutil.copytree(done.work, tmp_path / "work")
    return done.where(folder=tmp_path)


def stored_rows(work: Path, step: str) -> int:
    return sum(pl.read_parquet(f).height for f in (work / "features" / step).rglob("*.parquet"))


def stamps(work: Path, folder: str) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again, though it be the same bytes."""
    files = (path for path in (work / folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def command(pipeline: Reported, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "curate.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


# --- identity


def identity_of(pipeline: Reported, *overrides: str) -> str:
    loaded = load(pipeline.file(), overrides)
    return identity(loaded.config, compile_pipeline(loaded))


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_the_order_of_keys_how_to_run_and_where_are_no_part_of_the_identity(done, tmp_path):
    known = identity_of(done)
    assert identity_of(done.where(steps=reversed_keys(STEPS))) == known
    assert identity_of(done.where(folder=tmp_path)) == known
    run = {"engine": "local", "image_file": {"threads": 1}, "error_budget": {"language": 0.5}}
    assert identity_of(done.where(run=run)) == known


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "probe=0.5",
        "rows_per_block=71",
        "steps.caption.min_words=3",
        "steps.caption.max_characters=50",
        "steps.image_size.max_aspect_ratio=3.0",
        "steps.same_url.keep={lowest: score}",
        "steps.same_url.by=[caption]",
        "steps.scored.sql=score >= 0.051",
        "steps.wide.sql=image_file.width > 61",
        "steps.random_sample.fraction=0.51",
        "steps.share.of=pool_count",
        "steps.share.name=another",
        "steps.write.samples_per_shard=17",
    ],
)
def test_every_field_of_a_recipe_is_part_of_the_identity(done, override):
    assert identity_of(done, override) != identity_of(done)


# --- what is there already


FINISHED = """
import sys
from curate.pipeline_file.config import load
from curate.pipeline import Options, run

outcome = run(load(sys.argv[1]), Options(), print)
print(outcome.reused, sorted({"ray", "torch", "open_clip", "faiss"} & set(sys.modules)))
"""


def test_a_finished_run_returns_at_once_and_loads_nothing_heavy(done):
    before = stamps(done.work, ".")
    said = subprocess.run(
        [sys.executable, "-c", FINISHED, done.file()],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert said.stdout == "everything []\n"
    assert stamps(done.work, ".") == before


def test_an_output_that_somebody_removed_is_made_again(copy):
    before = digests(copy.work)
    (copy.work / "subset.npy").unlink()
    assert copy.run().reused == "nothing"
    assert digests(copy.work) == before


def test_a_wider_filter_scores_only_who_is_new(copy, done):
    """And a narrower one nobody; either way the result is that of a fresh run."""
    before = stamps(copy.work, "features/image_file")
    rows = stored_rows(copy.work, "image_file")
    with pytest.raises(Stale):
        copy.run("steps.caption.min_words=6")
    assert stamps(copy.work, "features/image_file") == before
    with pytest.raises(Stale):
        copy.run("steps.caption.min_words=0")
    wider = stored_rows(copy.work, "image_file")
    assert wider > rows
    assert digests(copy.work, ("shards",)) == digests(done.work, ("shards",))
    copy.run()
    assert digests(copy.work) == digests(done.work)
    assert stored_rows(copy.work, "image_file") == wider


def test_a_recomputed_feature_is_made_anew_and_changes_nothing(copy, done):
    before = stamps(copy.work, "features/image_file")
    copy.run(options=Options(recompute=("image_file",)))
    assert digests(copy.work) == digests(done.work)
    after = stamps(copy.work, "features/image_file")
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_a_kill_while_a_feature_is_thrown_away_leaves_no_lie(copy, done):
    """The next run, with or without `--recompute`, does not take the rest for a finished one."""
    worker = subprocess.Popen(
        [sys.executable, "-c", KILLED_IN_REMOVAL, copy.file()],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    _, errors = worker.communicate()
    assert worker.returncode == -signal.SIGKILL, errors.decode()
    assert not (copy.work / "features" / "image_file").exists()
    assert copy.run().reused == "nothing"
    assert digests(copy.work) == digests(done.work)


KILLED_IN_REMOVAL = """
import os, signal, sys
from curate import storage
from curate.pipeline_file.config import load
from curate.pipeline import Options, run

remove = storage.remove

def remove_and_die(url):
    remove(url)
    if url.endswith("features/image_file"):
        os.kill(os.getpid(), signal.SIGKILL)

storage.remove = remove_and_die
run(load(sys.argv[1]), Options(recompute=("image_file",)), lambda progress: None)
"""


def test_a_changed_feature_is_refused_with_both_remedies(copy, tmp_path):
    """By the command line: exit 2, the field with both values, and nothing was touched."""
    model = tmp_path / "other.ftz"
    claim = copy.work / "features" / "language" / "recipe.json"
    model.write_bytes(b"another model")
    before = stamps(copy.work, ".")
    done = command(copy, "run", copy.file(), "--set", f"steps.language.model={model}")
    assert done.returncode == 2, done.stderr
    assert re.search(r"recipe\.\S*model_sha256: '[0-9a-f]{64}' -> '[0-9a-f]{64}'", done.stderr)
    assert "another `name:`" in done.stderr
    assert "--recompute language" in done.stderr
    after = stamps(copy.work, ".")
    assert {k for k in after if after[k] != before.get(k)} <= {str(copy.work / "lease")}
    assert str(claim) in after
    with pytest.raises(RecipeChanged):
        copy.run(f"steps.language.model={model}")


def test_a_stale_selection_is_exit_2_and_everything_else_is_new(copy, done):
    changed = "steps.share.fraction=0.3"
    said = command(copy, "run", copy.file(), "--set", changed)
    assert said.returncode == 2
    assert "--recompute write" in said.stderr
    assert digests(copy.work, ("shards",)) == digests(done.work, ("shards",))
    report = json.loads((copy.work / "report" / "report.json").read_text())
    kept = ledger_of(copy.work).filter(fate="kept").height
    assert kept == report["totals"]["kept"] < ledger_of(done.work).filter(fate="kept").height
    said = command(copy, "run", copy.file(), "--set", changed, "--recompute", "write")
    assert said.returncode == 0, said.stderr
    assert len(written(copy.work)) == 3 * kept


def test_another_choice_among_rows_of_one_uid_is_another_selection(tmp_path):
    """The subset's uids are the same, the pictures are not: shards of the old one are stale."""
    chosen = [sample for sample in SAMPLES if sample.jpeg is not None][:2]
    twins = [
        replace(sample, caption="same", metadata={"url": "http://h/same", "score": score})
        for sample, score in zip(chosen, (0.1, 0.9), strict=True)
    ]
    twins[1] = replace(twins[1], jpeg=twins[1].jpeg + b"\0")
    steps = ({"exact_duplicates": {"by": ["url"], "keep": {"highest": "score"}}}, {"write": {}})
    pool = tar_pool(write_shards(tmp_path / "in", twins, 1))
    pipeline = Reported(tmp_path, pool, steps)
    pipeline.run()
    pictures = [body for name, body in written(pipeline.work).items() if name.endswith(".jpg")]
    assert pictures == [twins[1].jpeg]
    with pytest.raises(Stale):
        pipeline.run("steps.exact_duplicates.keep={lowest: score}")


def test_half_a_shard_of_a_killed_run_does_not_stay_beside_the_whole_ones(copy, done):
    half = copy.work / "shards" / f".00000001.tar.{'0a' * 16}"
    half.write_bytes(b"half")
    own = copy.work / "shards" / ".gitignore"
    own.write_text("*.tar")
    (copy.work / "manifest.json").unlink()
    copy.run()
    assert not half.exists()
    assert own.exists()
    assert digests(copy.work) == digests(done.work)


# --- unscored


def test_nan_and_null_are_unscored_and_never_zero(tmp_path):
    pool = tar_pool(write_shards(tmp_path / "in", SAMPLES, 2))
    pipeline = Reported(tmp_path, pool, ({"where": "score > -1000"},))
    pipeline.run()
    removed = ledger_of(pipeline.work).filter(step="where")
    assert removed["reason"].unique().to_list() == ["unscored"]
    scores = [s.metadata.get("score") for s in SAMPLES if s.jpeg is not None]
    missing = [score for score in scores if score is None or score != score]
    assert removed.height == len(missing) > 10


# --- losses of our own


GREEDY = '''\
"""A feature that runs out of memory at some captions."""

from curate.features import Columns, Feature, Field


class Greedy(Feature):
    """Length of the caption."""

    name: str = "greedy"
    bad: str

    def needs(self):
        return ("caption",)

    def gives(self):
        return (Field("length", "uint32", "characters"),)

    def open(self, device):
        return Scorer(self.bad)


class Scorer:
    batch = 1000

    def __init__(self, bad):
        self.bad = bad

    def score(self, prepared, frame):
        captions = frame["caption"].to_list()
        if self.bad in captions:
            raise MemoryError("no more")
        return Columns({"length": [None if c is None else len(c) for c in captions]})
'''


@pytest.fixture(params=["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def greedy(request, tmp_path):
    """Every unit (one shard of 30 rows) with the caption "bad" is lost, and no other."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    (tmp_path / "greedy.py").write_text(GREEDY)
    samples = [replace(sample, caption=f"caption {n}") for n, sample in enumerate(SAMPLES)]
    samples[40] = replace(samples[40], caption="bad")
    pool = tar_pool(write_shards(tmp_path / "in", samples, 6))
    steps = ({"greedy": {"bad": "bad"}}, {"where": "greedy.length > 3"}, {"write": {}})
    fields = {"plugins": ["./greedy.py"], "rows_per_block": 30, "run": {"engine": request.param}}
    return Reported(tmp_path, pool, steps).where(**fields)


@pytest.mark.slow
def test_a_shard_that_is_lost_is_counted_and_loses_nothing_else(greedy):
    usable = [n for n, sample in enumerate(SAMPLES) if sample.jpeg is not None]
    gone = [n for n in usable if 30 <= n < 60]
    with pytest.raises(BudgetExceeded, match=rf"greedy lost {len(gone)} of {len(usable)} rows"):
        greedy.run()
    run = {**dict(greedy.fields)["run"], "error_budget": {"greedy": 0.5}}
    tolerant = greedy.where(run=run)
    outcome = tolerant.run()
    assert outcome.exit_code == 3
    step = outcome.report["steps"][0]
    assert step["lost"] == {"out_of_memory": len(gone)}
    assert outcome.report["totals"]["lost"] == len(gone)
    lost = ledger_of(tolerant.work).filter(fate="lost")
    assert lost["shard"].unique().to_list() == [1]
    assert lost["reason"].unique().to_list() == ["lost:out_of_memory"]
    assert ledger_of(tolerant.work).filter(fate="kept").height == len(usable) - len(gone)
    # It is no finished run: the next one tries again, and now there is memory enough.
    mended = tolerant.where(steps=({"greedy": {"bad": "bad"}}, {"where": "greedy.length > 3"}))
    plugin = greedy.folder / "greedy.py"
    assert mended.run().exit_code == 3
    plugin.write_text(GREEDY.replace("if self.bad in captions", "if self.bad == 'never'"))
    with pytest.raises(RecipeChanged):
        mended.run()
    healed = mended.run(options=Options(recompute=("greedy",)))
    assert healed.exit_code == 0
    assert ledger_of(mended.work).filter(fate="lost").height == 0


# --- who works there


SLOW = GREEDY.replace(
    "        captions = frame",
    "        import time\n\n        time.sleep(0.25)\n        captions = frame",
)


@pytest.fixture
def slow(tmp_path):
    """A run of some ten seconds, in many units."""
    (tmp_path / "greedy.py").write_text(SLOW)
    pool = tar_pool(write_shards(tmp_path / "in", SAMPLES, 12))
    fields = {"plugins": ["./greedy.py"], "rows_per_block": 15, "run": {"engine": "local"}}
    steps = ({"greedy": {"bad": "never"}}, {"random_sample": {"fraction": 0.5}})
    return Reported(tmp_path, pool, steps).where(**fields)


def started(pipeline: Reported) -> subprocess.Popen:
    """The pipeline in a process of its own, once it is at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "curate.cli", "run", pipeline.file()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    deadline = time.monotonic() + 60
    while not list((pipeline.work / "features" / "greedy").rglob("*.parquet")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_one_run_at_a_time_and_a_dead_one_is_followed(slow):
    process = started(slow)
    try:
        refused = command(slow, "run", slow.file())
        assert refused.returncode == 2
        assert f"in use by process {process.pid}" in refused.stderr
        assert "--steal" in refused.stderr
        status = command(slow, "status", str(slow.work))
        assert f"process {process.pid}" in status.stdout
        assert "greedy: " in status.stdout
        assert " of 12 tasks" in status.stdout
    finally:
        process.kill()
        process.communicate()
    assert (slow.work / "lease").exists()
    assert "no run at work" in command(slow, "status", str(slow.work)).stdout
    followed = command(slow, "run", slow.file())
    assert followed.returncode == 0, followed.stderr
    assert not (slow.work / "lease").exists()
    assert ledger_of(slow.work).height == len(SAMPLES)


def test_what_a_pipeline_no_longer_uses_can_be_removed(copy, done):
    fewer = copy.where(steps=[step for step in STEPS if "language" not in step])
    listed = command(fewer, "clean", fewer.file())
    assert listed.returncode == 0, listed.stderr
    assert str(copy.work / "features" / "language") in listed.stdout
    assert (copy.work / "features" / "language").exists()
    removed = command(fewer, "clean", fewer.file(), "--delete")
    assert removed.returncode == 0, removed.stderr
    assert not (copy.work / "features" / "language").exists()
    assert fates(copy.work) == fates(done.work)
    copy.run(options=Options(recompute=("write",)))
    assert digests(copy.work) == digests(done.work)


def test_a_fresh_run_is_what_a_run_after_others_comes_to(copy, done):
    """Other seeds, filters, probes and steps before; then the pipeline of the start again."""
    for override in (
        "seed=7",
        "probe=0.4",
        "steps.same_url.by=[caption]",
        "steps.scored.sql=1 = 1",
    ):
        with suppress(Stale):  # a probe changes nothing that is written
            copy.run(override)
    fewer = copy.where(steps=[step for step in STEPS if "any_of" not in step])
    with pytest.raises(Stale):
        fewer.run()
    copy.run()
    assert digests(copy.work) == digests(done.work)
