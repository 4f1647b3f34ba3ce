"""Fitted features: learnt once, from the same samples whatever their order; refitted when due."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from curate import storage
from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features import neg_clip_loss
from curate.pipeline import Options
from curate.pipeline_file.config import load
from curate.pools.pool import Pool
from curate.pools.shard_table import load_table
from tests.embedding_pool import embed, scores
from tests.object_store import object_store
from tests.picture_server import Answer, picture_server
from tests.tiny_clip import encoded, picture
from tests.tiny_pool import Pipeline, digests

SAMPLES = embed(240)
LOSS = {"image": "l14_img", "text": "l14_txt", "batch": 20, "rounds": 3}
RANKED = {"a": 1.0, "b": -0.5, "neg_clip_loss.score": 2.0}
STEPS = (
    {"where": {"name": "apart", "sql": "b > -4"}},
    {"neg_clip_loss": LOSS},
    {"mix": {"of": RANKED, "normalise": "rank"}},
    {"score": {"column": "mix.score", "top_fraction": 0.5, "of": "survivors"}},
)
FITTED = ("neg_clip_loss", "mix")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run over three files in blocks of 70 rows."""
    folder = tmp_path_factory.mktemp("done")
    pipeline = Pipeline(folder, SAMPLES.write(folder / "in", 3), STEPS)
    assert pipeline.run().exit_code == 0
    return pipeline


def seal(pipeline: Pipeline, step: str) -> tuple[dict, int]:
    """What a feature was fitted on, and when."""
    file = pipeline.work / "features" / step / "fitted.json"
    return json.loads(file.read_text()), file.stat().st_mtime_ns


def all_scores(pipeline: Pipeline) -> list[dict]:
    return [scores(pipeline.work, step) for step in FITTED]


def test_those_that_reach_it_have_values_and_nobody_else(done):
    reached = SAMPLES.frame.filter(pl.col("b") > -4)
    assert set(scores(done.work, "mix")) == set(reached["uid"])
    assert all(error is None for _, error in scores(done.work, "mix").values())
    kept = np.load(done.work / "subset.npy")
    best = sorted(((v, u) for u, (v, _) in scores(done.work, "mix").items()), reverse=True)
    expected = sorted(uid for _, uid in best[: len(best) // 2])
    assert [f"{hi:016x}{lo:016x}" for hi, lo in kept.tolist()] == expected


@pytest.mark.parametrize(("files", "rows_per_block"), [(1, 1000), (7, 1000), (5, 40), (3, 240)])
def test_files_blocks_and_order_change_no_bit(done, tmp_path, files, rows_per_block):
    order = np.random.default_rng(files).permutation(len(SAMPLES))
    pool = SAMPLES[order].write(tmp_path / "in", files)
    other = done.where(folder=tmp_path, pool=pool, rows_per_block=rows_per_block)
    other.run()
    assert all_scores(other) == all_scores(done)
    assert (other.work / "subset.npy").read_bytes() == (done.work / "subset.npy").read_bytes()


def test_a_large_file_is_seen_in_parts_and_changes_no_bit(done, tmp_path, monkeypatch):
    for module in ("curate.pipeline_file.schema", "curate.pools.pool"):
        monkeypatch.setattr(f"{module}.METADATA_ROWS", 25)
    sizes, made = [], neg_clip_loss._usable

    def usable(batch, names):
        sizes.append(batch.frame.height)
        return made(batch, names)

    monkeypatch.setattr(neg_clip_loss, "_usable", usable)
    other = done.where(folder=tmp_path, pool=SAMPLES.write(tmp_path / "in"), rows_per_block=1000)
    other.run()
    (unit,) = read_units(other)
    assert [(part.part, part.start, part.stop) for part in unit.parts()] == [
        (number, 25 * number, min(25 * number + 25, 240)) for number in range(10)
    ]
    assert len(sizes) == 3 * 10, "10 parts are counted, sent and given their scores"
    assert 0 < max(sizes) <= 25
    assert all_scores(other) == all_scores(done)
    assert (other.work / "subset.npy").read_bytes() == (done.work / "subset.npy").read_bytes()


def read_units(pipeline: Pipeline) -> list:
    return list(Pool(load_table(str(pipeline.work)), {}).units())


def test_parts_keep_their_numbers_when_the_pool_grows(done, tmp_path, monkeypatch):
    for module in ("curate.pipeline_file.schema", "curate.pools.pool"):
        monkeypatch.setattr(f"{module}.METADATA_ROWS", 25)
    SAMPLES[range(130)].write(tmp_path / "in", 2)
    pipeline = done.where(folder=tmp_path, pool={"metadata": str(tmp_path / "in")})
    pipeline.run()
    before = [part for unit in read_units(pipeline) for part in unit.parts()]
    SAMPLES[range(130, 240)].write(tmp_path / "more", 2)
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "in" / f"1{file.name}")
    pipeline.run()
    after = [part for unit in read_units(pipeline) for part in unit.parts()]
    assert [part.part for part in after] == list(range(len(after)))
    assert after[: len(before) - 1] == before[:-1], "the last may go on"
    assert len(after) > len(before) > 2
    assert all_scores(pipeline) == all_scores(done)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(done, tmp_path, ray_cluster):
    there = done.where(folder=tmp_path, run={"engine": "ray"})
    there.run()
    names = ("subset.npy", "ledger", "features", "report/report.json")
    assert digests(there.work, names) == digests(done.work, names)
    assert len(digests(there.work, ("features",))) > 10


@pytest.mark.slow
def test_an_object_store_holds_the_same(done):
    with object_store() as bucket:
        assert done.run(f"work={bucket}/run").exit_code == 0
        for name in ("subset.npy", "features/mix/block-0000.parquet"):
            assert storage.read(f"{bucket}/run/{name}") == (done.work / name).read_bytes()


def test_another_seed_is_another_partition(done, tmp_path):
    other = done.where(folder=tmp_path, seed=1)
    other.run()
    differing = [
        mine != theirs for mine, theirs in zip(all_scores(other), all_scores(done), strict=True)
    ]
    assert differing == [True, True]


# --- refitted when due


@pytest.fixture
def fresh(done, tmp_path):
    """A run of the same in a folder of its own."""
    pipeline = done.where(folder=tmp_path)
    pipeline.run()
    return pipeline


def test_later_steps_refit_nothing(fresh):
    before = [seal(fresh, step) for step in FITTED]
    fresh.run("steps.score.top_fraction=0.25")
    longer = fresh.where(steps=(*STEPS, {"where": {"name": "again", "sql": "a > 0"}}))
    longer.run()
    assert [seal(fresh, step) for step in FITTED] == before


def test_a_step_in_between_refits_what_comes_after_it_alone(fresh):
    before = [seal(fresh, step) for step in FITTED]
    between = (*STEPS[:2], {"where": {"name": "between", "sql": "a > -1"}}, *STEPS[2:])
    longer = fresh.where(steps=between)
    longer.run()
    after = [seal(longer, step) for step in FITTED]
    assert after[0] == before[0]
    assert after[1][0]["on"] != before[1][0]["on"]
    assert after[1][0]["samples"] < before[1][0]["samples"]


@pytest.mark.parametrize("change", [{"seed": 7}, "steps.apart.sql=b > -5", "steps.mix.of.a=1.5"])
def test_what_it_is_fitted_on_refits_it_and_equals_a_fresh_run(done, fresh, tmp_path, change):
    overrides = [change] if isinstance(change, str) else []
    fields = change if isinstance(change, dict) else {}
    fresh.where(**fields).run(*overrides)
    anew = done.where(folder=tmp_path / "anew", **fields)
    anew.run(*overrides)
    assert all_scores(fresh) == all_scores(anew) != all_scores(done)
    names = ("subset.npy", "ledger", "report/report.json")
    assert digests(fresh.work, names) == digests(anew.work, names)


def test_a_pool_that_grew_refits(done, tmp_path):
    SAMPLES[range(200)].write(tmp_path / "in")
    pipeline = done.where(folder=tmp_path, pool={"metadata": str(tmp_path / "in")})
    pipeline.run()
    SAMPLES[range(200, 240)].write(tmp_path / "more")
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "in" / f"1{file.name}")
    pipeline.run()
    assert all_scores(pipeline) == all_scores(done)


def test_nothing_to_be_fitted_on(done, tmp_path):
    none = ({"where": {"name": "nobody", "sql": "b > 100"}}, *STEPS[1:])
    nobody = done.where(folder=tmp_path / "nobody", steps=none)
    assert nobody.run().exit_code == 0
    assert all_scores(nobody) == [{}, {}]
    empty = done.where(folder=tmp_path / "empty", pool=SAMPLES[[]].write(tmp_path / "none"))
    assert empty.run().exit_code == 0
    assert len(np.load(empty.work / "subset.npy")) == 0


def test_on_the_pool_it_does_not_see_filters(done, tmp_path):
    mix = {"mix": {"of": {"a": 1.0}, "fit_on": "pool"}}
    pipeline = done.where(folder=tmp_path, steps=(*STEPS[:1], mix))
    pipeline.run()
    assert len(scores(pipeline.work, "mix")) == len(SAMPLES)
    before = seal(pipeline, "mix")
    pipeline.run("steps.apart.sql=b > 0")
    assert seal(pipeline, "mix") == before
    pipeline.run("seed=1")
    assert seal(pipeline, "mix")[0]["on"] != before[0]["on"], "a feature may draw from the seed"


def test_on_the_pool_it_needs_its_columns_for_all_of_it(done, tmp_path):
    steps = (*STEPS[:2], {"mix": {"of": RANKED, "fit_on": "pool"}})
    with pytest.raises(InvalidPipeline, match=r"needs neg_clip_loss\.score for the whole pool"):
        compile_pipeline(load(done.where(folder=tmp_path, steps=steps).file()))


# --- killed

MEAN = '''\
"""How far from the mean, by a feature that can be killed."""

import os
import signal
from pathlib import Path

import numpy as np

from curate import storage
from curate.features import Columns, Field, FittedFeature


class Mean(FittedFeature):
    """The distance of `a` from its mean."""

    marker: str

    def needs(self):
        return ("a",)

    def gives(self):
        return (Field("score", "float64", "distance"),)

    def fit(self, rows, folder):
        parts = sorted(rows.map(total), key=lambda part: part[0])
        storage.commit_json(folder + "/half.json", 0)
        assert storage.names(folder) == ["half.json"], "the folder was not empty"
        die(self.marker, "fit")
        sums = [(number, count) for _, number, count in parts]
        mean = sum(number for number, _ in sums) / sum(count for _, count in sums)
        storage.commit_json(folder + "/mean.json", mean)

    def assigner(self, folder):
        mean = storage.read_json(folder + "/mean.json")

        def assign(part):
            if part.number == 1:
                die(self.marker, "assign")
            return Columns({"score": np.abs(part.batch.frame["a"].to_numpy() - mean)})

        return assign

    def notes(self, folder):
        die(self.marker, "seal")
        return {"mean": storage.read_json(folder + "/mean.json")}


def total(part):
    return part.number, float((part.batch.frame["a"] * 10).round().sum()), part.batch.frame.height


def die(marker, where):
    if Path(marker, where).exists():
        Path(marker, where).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.mark.parametrize("where", ["fit", "seal", "assign"])
def test_killed_it_comes_to_the_same(tmp_path, where):
    pool = SAMPLES.write(tmp_path / "in", 3)
    marker = tmp_path / "marker"
    marker.mkdir()
    steps = ({"mean": {"marker": str(marker)}}, {"where": "mean.score < 8"})
    made = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mean.py").write_text(MEAN)
        made[name] = Pipeline(folder, pool, steps).where(plugins=["./mean.py"])
    made["undisturbed"].run()
    killed = made["killed"]
    (marker / where).touch()
    path = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.run(
        [sys.executable, "-m", "curate.cli", "run", killed.file()],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert process.returncode == -9, process.stderr.decode()[-2000:]
    folder = killed.work / "features" / "mean"
    assert (folder / "fitted.json").exists() == (where == "assign")
    began = (folder / "fitted.json").stat().st_mtime_ns if where == "assign" else None
    assert killed.run().exit_code == 0
    if began is not None:
        assert (folder / "fitted.json").stat().st_mtime_ns == began, "it was fitted again"
    names = ("subset.npy", "ledger", "features", "report/report.json")
    assert digests(killed.work, names) == digests(made["undisturbed"].work, names)


HUNGRY = '''\
"""A feature that asks for more memory than there is."""

from curate.features import Field, FittedFeature


class Hungry(FittedFeature):
    """Fits on a GPU, if at all."""

    gpu = True

    def needs(self):
        return ("a",)

    def gives(self):
        return (Field("score", "float64", "nothing"),)

    def fit(self, rows, folder):
        list(rows.each(ask, range(3)))


def ask(number):
    raise MemoryError(f"task {number}")
'''


def test_a_fit_does_without_none_of_its_tasks(tmp_path):
    pool = SAMPLES.write(tmp_path / "in")
    (tmp_path / "hungry.py").write_text(HUNGRY)
    pipeline = Pipeline(tmp_path, pool, ({"hungry": {}},)).where(plugins=["./hungry.py"])
    with pytest.raises(
        ConfigError, match=r"hungry cannot be fitted.*task 0.*run\.hungry\.memory_gb"
    ):
        pipeline.run()
    assert not (pipeline.work / "features" / "hungry" / "fitted.json").exists()


# --- downloaded


def test_a_picture_that_comes_later_refits_what_is_fitted_on_the_pool(tmp_path):
    bodies = [encoded(picture((width, 40)), "JPEG") for width in (30, 40, 60)]
    answers = {f"/{n}.jpg": body for n, body in enumerate(bodies[:2])}
    with picture_server({**answers, "/2.jpg": Answer(bodies[2], failures=1)}) as server:
        urls = [server.url(f"/{number}.jpg") for number in range(3)]
        pl.DataFrame({"url": urls, "caption": ["a"] * 3}).write_parquet(tmp_path / "urls.parquet")
        mix = {"of": {"image_file.width": 1.0}, "fit_on": "pool", "normalise": "minmax"}
        download = {"allow_private_addresses": True, "timeout_s": 2}
        steps = ({"download": download}, {"image_file": {}}, {"mix": mix})
        pipeline = Pipeline(tmp_path, {"urls": str(tmp_path / "urls.parquet")}, steps)
        pipeline.run()
        assert sorted(v for v, _ in scores(pipeline.work, "mix").values() if v is not None) == [
            0,
            1,
        ]
        pipeline.run(options=Options(failed="retry"))
    found = sorted(value for value, _ in scores(pipeline.work, "mix").values())
    assert found == [0, pytest.approx(1 / 3), 1]


# --- frozen


def test_what_is_frozen_stays_and_new_samples_get_what_can_be_given(done, tmp_path):
    frozen = [
        {kind: {**fields, "when_changed": "freeze"} if kind in FITTED else fields}
        for step in STEPS
        for kind, fields in step.items()
    ]
    few, many = SAMPLES[np.arange(160)], SAMPLES
    pipeline = Pipeline(tmp_path, few.write(tmp_path / "in", 2), frozen)
    pipeline.run()
    before, seals = all_scores(pipeline), [seal(pipeline, step) for step in FITTED]
    many[np.arange(160, 240)].write(tmp_path / "more", 1)
    for file in (tmp_path / "more").rglob("*"):
        if file.is_file():
            file.rename(next((tmp_path / "in").rglob("*.parquet")).parent / f"z-{file.name}")
    pipeline.run()
    assert [seal(pipeline, step) for step in FITTED] == seals
    for old, new in zip(before, all_scores(pipeline), strict=True):
        assert {uid: new[uid] for uid in old} == old
        assert len(new) > len(old)
    fresh = all_scores(pipeline)[0].keys() - before[0].keys()
    assert {all_scores(pipeline)[0][uid] for uid in fresh} == {(None, "not_fitted")}

    pipeline.run(*(f"steps.{step}.when_changed=refit" for step in FITTED))  # and thawed
    assert [seal(pipeline, step)[0]["on"] for step in FITTED] != [one["on"] for one, _ in seals]
    assert all(error is None for _, error in all_scores(pipeline)[0].values())
