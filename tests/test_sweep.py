"""A sweep gives, at each value, what a run with that value gives, and leaves all else as it was."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.clean import remove, unused
from curate.errors import ConfigError, CurateError, InvalidPipeline, WorkInUse
from curate.lease import held
from curate.pipeline_file.config import load
from curate.subsets import algebra, sorted_files
from curate.sweep.blocks import VERDICTS
from curate.sweep.command import Options, sweep
from curate.sweep.variants import varied
from tests.embedding_pool import embed
from tests.tiny_pool import Pipeline, draw, ledger_of, tar_pool, write_shards

SAMPLES = draw(180)

# A plugin whose filter makes copies, and a row filter that a value may break.
REPEAT = '''\
"""Repeats samples with a high score."""

import numpy as np
import polars as pl

from filters import Counts, PoolFilter, Verdict


class Repeat(PoolFilter):
    """Gives the upper half of the scores so many copies, and nobody else any."""

    makes_copies = True
    name: str = "repeat"
    times: int

    def needs(self):
        return ("score",)

    def start(self, counts):
        return {"rows": counts.survivors}

    def finished(self, state):
        return "mean" in state

    def summarize(self, batch, state):
        scores = batch.frame["score"].drop_nulls()
        return (int((scores * 100).round().cast(pl.Int64).sum()), len(scores))

    def merge(self, left, right):
        return (left[0] + right[0], left[1] + right[1])

    def fit(self, summary, state):
        return {**state, "mean": summary[0] / summary[1] / 100 if summary else 0.0}

    def keep(self, batch, state):
        high = (batch.frame["score"] > state["mean"]).fill_null(False).to_numpy()
        copies = np.where(high, np.uint32(self.times), np.uint32(0))
        reason = pl.Series(["low"]).new_from_index(0, len(high)).set(pl.Series(high), None)
        return Verdict(copies.astype(np.uint32), reason)
'''

BEFORE = ({"caption": {"min_words": 2}}, {"image_file": {}})
WIDE = {"where": {"name": "wide", "sql": "image_file.width > 60"}}
URLS = {"exact_duplicates": {"name": "same_url", "by": ["url"], "keep": {"highest": "score"}}}
SHARE = {"random_sample": {"name": "share", "fraction": 0.8, "of": "survivors"}}


def best(of: str, fraction: float = 0.5) -> dict:
    return {"score": {"name": "best", "column": "score", "top_fraction": fraction, "of": of}}


PIPELINES = {
    "row": ((*BEFORE, WIDE, SHARE), ("steps.caption.min_words=2:6:2",)),
    "survivors": ((*BEFORE, WIDE, best("survivors"), SHARE), ("steps.best.top_fraction=0.1,0.9",)),
    "pool_threshold": (
        (*BEFORE, best("pool_threshold"), URLS),
        ("steps.best.top_fraction=0.25:1:0.25",),
    ),
    "pool_count": ((*BEFORE, URLS, best("pool_count"), WIDE), ("steps.best.top_fraction=0.1,0.4",)),
    "before_a_group": (
        (*BEFORE, WIDE, URLS, best("survivors")),
        ("steps.wide.sql=image_file.width > 30,'image_file.width in (20, 27, 34, 41)'",),
    ),
    "group": ((*BEFORE, URLS, SHARE), ("steps.same_url.by=[caption],[url, caption]",)),
    "any_of": (
        (
            *BEFORE,
            {"any_of": [WIDE, {"random_sample": {"fraction": 0.5, "of": "survivors"}}]},
            best("survivors"),
        ),
        ("steps.random_sample.fraction=0.2,0.7", "steps.wide.sql=image_file.width > 90"),
    ),
    "sample": ((*BEFORE, SHARE), ("steps.share.fraction=0.2:1:0.4", "seed=0,7")),
    "twins": (
        (*BEFORE, {"where": {"name": "scored", "sql": "score > 0.5"}}),
        ("steps.scored.sql=score <= 0.5",),
    ),
    "copies": (
        (*BEFORE, WIDE, {"repeat": {"times": 2}}),
        ("steps.repeat.times=1:3:1", "steps.caption.min_words=0,5"),
    ),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Tars of samples in which URLs, scores and uids repeat, some of these with another score."""
    twins = [replace(s, metadata={**s.metadata, "score": 0.4}) for s in SAMPLES[30:60]]
    samples = [*SAMPLES, *SAMPLES[20:50], *twins]
    return tar_pool(write_shards(tmp_path_factory.mktemp("in"), samples, 5))


def pipeline_of(folder: Path, pool: dict, steps: tuple, **fields: object) -> Pipeline:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "repeat.py").write_text(REPEAT)
    fields = {"plugins": ["./repeat.py"], "probe": 1.0, "rows_per_block": 70, **fields}
    return Pipeline(folder, pool, steps).where(**fields)


def swept(pipeline: Pipeline, *vary: str, **options: object):
    return sweep(pipeline.file(), Options(vary, **options), lambda progress: None)


def all_files(work: Path) -> dict[str, tuple]:
    """Everything in a work folder but the sweeps: contents, and when each was written."""
    found = {}
    for file in sorted(work.rglob("*")):
        name = str(file.relative_to(work))
        if file.is_file() and not name.startswith("sweep/"):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found[name] = (digest, file.stat().st_mtime_ns, file.stat().st_ino)
    return found


def removed_in(report: dict) -> dict:
    steps = {step["name"]: step["removed"] for step in report["steps"] if step["removed"]}
    return steps


def shared(one: Path, other: Path) -> algebra.Comparison:
    files = [sorted_files.array_file(str(path)) for path in (one, other)]
    return algebra.compare(*files)


RAY = pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])


@pytest.mark.parametrize("engine", ["local", RAY])
@pytest.mark.parametrize("name", PIPELINES)
def test_each_value_keeps_what_a_run_with_it_keeps(tmp_path, shards, name, engine, request):
    if engine == "ray":
        if name not in ("any_of", "before_a_group", "copies"):
            pytest.skip("the others differ in nothing that a runner could spoil")
        request.getfixturevalue("ray_cluster")
    steps, vary = PIPELINES[name]
    pipeline = pipeline_of(tmp_path / "one", shards, steps)
    own = pipeline.run()
    before = all_files(pipeline.work)
    came = swept(pipeline.where(run={"engine": engine}), *vary)
    assert all_files(pipeline.work) == before
    folder = Path(came.folder)
    table = json.loads((folder / "table.json").read_text())
    assert table == came.table
    assert table["file"]["kept"] == own.report["totals"]["kept"]
    assert {path.name for path in folder.glob("*.npy")} == {v["subset"] for v in table["values"]}
    fresh = pipeline_of(tmp_path / "other", shards, steps)
    for value in table["values"]:
        outcome = fresh.run(*(f"{path}={text}" for path, text in value["values"].items()))
        subset = fresh.work / "subset.npy"
        assert (folder / value["subset"]).read_bytes() == subset.read_bytes(), value
        totals = outcome.report["totals"]
        assert (value["kept"], value["kept_at_most"]) == (totals["kept"], totals["kept"])
        gone = {step: n for step, n in value["removed"].items() if step != "pool"}
        assert gone == removed_in(outcome.report)
        both = shared(subset, pipeline.work / "subset.npy")
        assert value["copies"] == both.rows_a
        assert value["in_both"] == both.rows_in_both
        assert value["only_here"] == both.rows_a - both.rows_in_both
        assert value["only_in_the_file"] == both.rows_b - both.rows_in_both
        assert value["jaccard_rows"] == pytest.approx(both.shares()["jaccard_rows"], abs=1e-6)
        assert (value["changed"] == []) == (removed_in(outcome.report) == removed_in(own.report))


@pytest.fixture(scope="module")
def done(tmp_path_factory, shards):
    """A finished run that each test may sweep."""
    pipeline = pipeline_of(
        tmp_path_factory.mktemp("done"), shards, (*BEFORE, WIDE, URLS, best("survivors"), SHARE)
    )
    pipeline.run()
    return pipeline


VARY = "steps.wide.sql=image_file.width > 30,image_file.width > 80"


def test_a_second_sweep_is_the_same_to_the_byte(done):
    folder = Path(swept(done, VARY).folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(first) == 2 + 3
    swept(done, VARY)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    with (folder / "table.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    table = json.loads(first["table.json"])
    assert [int(row["kept"]) for row in rows] == [value["kept"] for value in table["values"]]
    assert [row["steps.wide.sql"] for row in rows] == VARY.partition("=")[2].split(",")
    swept(done, VARY.rpartition(",")[0])  # what an older sweep of the same field left is gone
    assert len(list(folder.iterdir())) == 1 + 3


def test_a_sweep_and_a_run_do_not_work_in_one_folder(done):
    with held(str(done.work), steal="refuse"), pytest.raises(WorkInUse, match="--steal"):
        swept(done, VARY)
    swept(done, VARY)
    assert not (done.work / "lease").exists()


KILLED = """
import os, signal, sys
from curate import storage
from curate.sweep import blocks, command, files

where = sys.argv[2]

def dying(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "blocks":
    blocks._save_run = dying
elif where == "subsets":
    files.write_header = dying
else:
    storage.commit_json = dying
command.sweep(sys.argv[1], command.Options((sys.argv[3],)), lambda progress: None)
"""


@pytest.mark.parametrize("where", ["blocks", "subsets", "table"])
def test_a_kill_leaves_nothing_that_matters(tmp_path, shards, where):
    steps = (*BEFORE, WIDE, URLS, best("survivors"))
    pipeline = pipeline_of(tmp_path / "one", shards, steps)
    pipeline.run()
    undisturbed = swept(pipeline, VARY)
    expected = {path.name: path.read_bytes() for path in Path(undisturbed.folder).iterdir()}
    before = all_files(pipeline.work)
    said = subprocess.run(
        [sys.executable, "-c", KILLED, pipeline.file(), where, VARY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert said.returncode == -signal.SIGKILL, said.stderr.decode()
    left = all_files(pipeline.work)
    assert {name: left[name] for name in before} == before
    assert all(n == "lease" or n.startswith("state/sweep.") for n in left.keys() - before.keys())
    if where != "blocks":  # else nothing of the old one was touched yet
        assert not (Path(undisturbed.folder) / "table.json").exists()
    assert pipeline.run().reused == "everything"
    swept(pipeline, VARY)
    assert {p.name: p.read_bytes() for p in Path(undisturbed.folder).iterdir()} == expected
    assert all_files(pipeline.work) == before


def test_rows_without_a_value_are_counted_and_what_they_would_take(tmp_path, shards):
    """A wider filter ahead of a feature lets rows through that it never saw."""
    steps = ({"caption": {"min_words": 5}}, {"image_file": {}}, WIDE)
    pipeline = pipeline_of(tmp_path, shards, steps, probe=0.0)
    pipeline.run()
    came = swept(pipeline, "steps.caption.min_words=0,5,6")
    wider, same, narrower = came.table["values"]
    assert came.table["file"]["needs"] == same["needs"] == narrower["needs"] == {}
    assert narrower["kept"] == narrower["kept_at_most"]
    short = ledger_of(pipeline.work).filter(step="caption").filter(pl.col("reason") != "unscored")
    stored = short.height
    assert wider["needs"] == {"image_file": stored}
    assert wider["kept"] == came.table["file"]["kept"]
    assert wider["kept_at_most"] == wider["kept"] + stored
    assert came.estimates["0.npy"]["image_file"] > 0
    kept = pipeline.run("steps.caption.min_words=0").report["totals"]["kept"]
    assert wider["kept"] < kept <= wider["kept_at_most"]
    assert swept(pipeline, "steps.caption.min_words=0").table["values"][0]["kept"] == kept


def test_a_share_of_survivors_that_wait_for_values_is_no_bound(tmp_path, shards):
    steps = ({"caption": {"min_words": 5}}, {"image_file": {}}, best("survivors"))
    pipeline = pipeline_of(tmp_path, shards, steps, probe=0.0)
    pipeline.run()
    wider = swept(pipeline, "steps.caption.min_words=0").table["values"][0]
    assert wider["needs"]
    assert wider["kept_at_most"] is None


def test_frozen_states_keep_the_thresholds_of_the_file(tmp_path):
    pool = tar_pool(write_shards(tmp_path / "in", SAMPLES, 3))
    pipeline = pipeline_of(tmp_path, pool, (*BEFORE, WIDE, best("survivors")))
    loose = "steps.wide.sql=image_file.width > 30"
    pipeline.run(loose, "steps.best.top_fraction=1.0")
    reached = ledger_of(pipeline.work).filter(fate="kept")["uid"].to_list()
    pipeline.run()
    score = {sample.uid: sample.metadata.get("score", np.nan) for sample in SAMPLES}
    kept = ledger_of(pipeline.work).filter(fate="kept")["uid"].to_list()
    bound = min(score[uid] for uid in kept)
    anew = swept(pipeline, loose).table["values"][0]
    frozen = swept(pipeline, loose, fits="frozen").table["values"][0]
    above, equal = sum(score[u] > bound for u in reached), sum(score[u] == bound for u in reached)
    assert above < frozen["kept"] <= above + equal
    assert frozen["only_in_the_file"] == 0
    assert anew["kept"] != frozen["kept"]


def test_features_that_would_be_fitted_again_are_named(tmp_path):
    samples = embed(120)
    steps = (
        {"where": {"name": "apart", "sql": "b > -4"}},
        {"mix": {"of": {"a": 1.0, "b": -0.5}, "normalise": "rank"}},
        {"score": {"column": "mix.score", "top_fraction": 0.5, "of": "survivors"}},
    )
    pipeline = Pipeline(tmp_path, samples.write(tmp_path / "in", 3), steps)
    pipeline.run()
    vary = ("steps.apart.sql=b > -4,b > 0", "steps.score.top_fraction=0.2,0.5")
    table = swept(pipeline, *vary).table
    again = {tuple(v["values"].values()): v["fitted_again"] for v in table["values"]}
    shares = ("0.2", "0.5")
    assert [again["b > -4", share] for share in shares] == [[], []]
    assert [again["b > 0", share] for share in shares] == [["mix"], ["mix"]]
    assert all(v["kept_at_most"] is None for v in table["values"] if v["fitted_again"])
    pipeline.run("steps.apart.sql=b > 0")
    table = swept(pipeline, *vary).table
    assert table["file"]["fitted_again"] == ["mix"]
    assert [v["fitted_again"] for v in table["values"]] == [["mix"]] * 2 + [[]] * 2


def test_the_varied_filter_itself_is_always_fitted(done):
    vary = ("steps.best.top_fraction=0.2,0.9", VARY)
    frozen = swept(done, *vary, fits="frozen", until="best").table["values"]
    assert frozen == swept(done, *vary, until="best").table["values"]


def test_until_leaves_out_what_comes_later(done):
    table = swept(done, VARY, until="wide").table
    assert table["steps"] == ["caption", "image_file", "wide"]
    with pytest.raises(ConfigError, match=r"changes nothing that is decided up to image_file"):
        swept(done, VARY, until="image_file")
    with pytest.raises(ConfigError, match="did you mean 'wide'"):
        swept(done, VARY, until="wid")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=1,2", ["1", "2"]),
        ("steps.a.b=0.05:0.2:0.05", ["0.05", "0.10", "0.15", "0.20"]),
        ("steps.a.b=0.1:0.35:0.1", ["0.1", "0.2", "0.3"]),
        ("steps.a.b=1:0:-0.5", ["1.0", "0.5", "0.0"]),
        ("steps.a.b=10:10:5", ["10"]),
        ("steps.a.by=[url],[url, caption]", ["[url]", "[url, caption]"]),
        ("steps.a.sql=x in (1, 2),'y = \"a,b\"'", ["x in (1, 2)", "'y = \"a,b\"'"]),
        ("steps.a.b=1,1,2", ["1", "2"]),
    ],
)
def test_values_are_written_as_for_set(text, values):
    assert list(varied(text).values) == values


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("steps.best.top_fraction", "write it as path=start:stop:step"),
        ("steps.best.top_fraction=", "write it as path=start:stop:step"),
        ("steps.best.top_fraction=0.1:0.5:0", "no step of 0 leads from 0.1 to 0.5"),
        ("steps.best.top_fraction=0.1:0.5:-0.1", "no step of -0.1 leads"),
        ("steps.best.top_fraction=0.001:1:0.001", "makes 1,000 values"),
        ("steps.best.top_fraction=0.5:1.5:0.5", r"top_fraction=1.5: .*less than or equal to 1"),
        ("steps.bst.top_fraction=0.5", "did you mean 'best'"),
        ("steps.best.top_frction=0.5", "did you mean 'top_fraction'"),
        ("steps.wide.sql=image_file.widht > 3", "image_file.widht"),
        ("work=a,b", "a sweep varies what is decided"),
        ("name=a,b", "a sweep varies what is decided"),
        ("steps.best.top_fraction=0.5", "changes nothing that is decided"),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(done, vary, message):
    before = all_files(done.work)
    with pytest.raises(CurateError, match=message):
        swept(done, vary)
    assert all_files(done.work) == before


def test_every_wrong_value_is_named_at_once(done):
    with pytest.raises(ConfigError) as error:
        swept(done, "steps.best.top_fraction=0.5,2,3")
    assert str(error.value).count("less than or equal to 1") == 2
    assert "top_fraction=2" in str(error.value)
    assert "top_fraction=3" in str(error.value)


def test_what_was_never_run_is_an_error_with_the_remedy(tmp_path, shards):
    pipeline = pipeline_of(tmp_path, shards, (*BEFORE, WIDE))
    with pytest.raises(ConfigError, match=r"never read.*curate run"):
        swept(pipeline, VARY)
    assert not pipeline.work.exists()
    pipeline.where(steps=(*BEFORE[:1], SHARE)).run()
    with pytest.raises(ConfigError, match=r"image_file has no values.*curate run"):
        swept(pipeline, VARY)
    with pytest.raises(InvalidPipeline):
        swept(pipeline.where(steps=(*BEFORE, {"wher": "a > 1"})), VARY)


def test_what_features_compute_cannot_be_varied(tmp_path, shards):
    steps = (*BEFORE, {"language": {}}, WIDE)
    pipeline = pipeline_of(tmp_path, shards, steps)
    pipeline.run()
    model = tmp_path / "other.ftz"
    model.write_bytes(b"another model")
    with pytest.raises(ConfigError, match=r"changes what language computes .*model_sha256"):
        swept(pipeline, f"steps.language.model={model}")


def test_a_pool_that_grew_is_read_by_a_run_first(tmp_path):
    folder = write_shards(tmp_path / "in", SAMPLES, 3)
    pipeline = pipeline_of(tmp_path, tar_pool(folder), (*BEFORE, WIDE))
    pipeline.run()
    (folder / "00009.tar").write_bytes((folder / "00000.tar").read_bytes())
    with pytest.raises(ConfigError, match=r"1 files of the pool were not read.*00009.tar"):
        swept(pipeline, VARY)


def test_the_command_prints_the_table(done):
    said = subprocess.run(
        [
            *(sys.executable, "-m", "curate.cli", "sweep", done.file(), "--vary", VARY),
            *("--until", "best", "--frozen-state", "--set", "steps.best.top_fraction=0.4"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].split() == [
        *("steps.wide.sql", "kept", "share", "copies", "in", "both", "only", "here"),
        *("only", "there", "Jaccard", "changed", "needs"),
    ]
    table = json.loads((done.work / "sweep" / "wide.sql" / "table.json").read_text())
    assert (table["until"], table["fits"]) == ("best", "frozen")
    assert [line.split("  ")[0] for line in lines[1:3]] == VARY.partition("=")[2].split(",")
    assert f" {table['values'][0]['kept']} " in lines[1]
    assert lines[-1].endswith("sweep/wide.sql")


def test_empty_selections_are_empty_files(done):
    folder = Path(
        swept(done, "steps.wide.sql=image_file.width > 99999,image_file.width > 1").folder
    )
    assert len(np.load(folder / "value-001.npy")) == 0


def test_clean_lists_sweeps_by_themselves_and_nothing_that_is_used(tmp_path, shards):
    pipeline = pipeline_of(tmp_path, shards, (*BEFORE, WIDE))
    pipeline.run()
    assert unused(load(pipeline.file()).config) == []
    folder = Path(swept(pipeline, VARY).folder)
    stale = pipeline.work / "state" / VERDICTS
    stale.mkdir()
    config = load(pipeline.file()).config
    assert [url for url, _ in unused(config)] == [str(stale), str(folder.parent)]
    remove(config)
    assert not folder.parent.exists()
    assert pipeline.run().reused == "everything"
