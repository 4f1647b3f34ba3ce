"""Sampling in whole runs: any sharding, runner and sweep draws the same."""

import numpy as np
import polars as pl
import pytest
from tiny_pool import Pipeline, digests, fates

from curate.errors import InvalidPipeline
from curate.sweep.command import Options as SweepOptions
from curate.sweep.command import sweep

COUNT = 600
KINDS = {
    "soft_cap": {"column": "score", "draws": 900, "batch": 20},
    "weighted_sample": {"column": "weight", "count": 400, "replacement": True},
    "balanced_by": {"column": "url", "part": "domain", "keep_count": 200, "power": 0.5},
}


def write_pool(folder, order, files):
    rng = np.random.default_rng(3)
    hosts = (rng.pareto(0.8, COUNT) * 3).astype(int)
    frame = pl.DataFrame(
        {
            "url": [f"http://www.h{host}.org/{n}" for n, host in enumerate(hosts)],
            "caption": [f"thing {n}" for n in range(COUNT)],
            "score": rng.normal(0, 2, COUNT),
            "weight": rng.pareto(1.5, COUNT),
        }
    )[order]
    folder.mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(COUNT), files)):
        frame[rows].write_parquet(folder / f"{number:02d}.parquet")
    return {"urls": str(folder / "*.parquet")}


def pipeline_of(folder, kind, order=None, files=2, rows_per_block=250):
    order = np.arange(COUNT) if order is None else order
    pool = write_pool(folder / "pool", order, files)
    return Pipeline(
        folder, pool, [{kind: KINDS[kind]}], fields=(("rows_per_block", rows_per_block),)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sharding_and_order_change_no_fate(kind, tmp_path):
    here = pipeline_of(tmp_path / "here", kind)
    assert here.run().exit_code == 0
    order = np.random.default_rng(0).permutation(COUNT)
    there = pipeline_of(tmp_path / "there", kind, order, 5, 100)
    there.run()
    assert fates(here.work) == fates(there.work)
    assert 0 < len(np.load(here.work / "subset.npy")) != COUNT


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("kind", KINDS)
def test_ray_changes_no_byte(kind, tmp_path, ray_cluster):
    here = pipeline_of(tmp_path / "here", kind)
    here.run()
    there = here.where(folder=tmp_path / "there", run={"engine": "ray"})
    there.run()
    names = ("ledger", "subset.npy", "report/report.json")
    assert digests(here.work, names) == digests(there.work, names)


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("soft_cap", "draws", (100, 900, 1500)),
        ("weighted_sample", "count", (10, 400)),
        ("balanced_by", "keep_count", (50, 300)),
    ],
)
def test_a_sweep_keeps_what_runs_keep(kind, field, values, tmp_path):
    pipeline = pipeline_of(tmp_path, kind)
    pipeline.run()
    vary = (f"steps.{kind}.{field}={','.join(map(str, values))}",)
    swept = sweep(pipeline.file(), SweepOptions(vary, (), None, "each", "refuse"), lambda _: None)
    for value in values:
        pipeline.run(f"steps.{kind}.{field}={value}")
        own = np.load(pipeline.work / "subset.npy")
        assert len(own) == value
        assert (np.load(f"{swept.folder}/{value}.npy") == own).all()


def test_any_of_adds_the_copies_of_its_filters(tmp_path):
    pool = write_pool(tmp_path / "pool", np.arange(COUNT), 2)
    steps = [
        {
            "any_of": {
                "copies": "sum",
                "steps": [{"soft_cap": KINDS["soft_cap"]}, {"random_sample": {"count": 50}}],
            }
        }
    ]
    pipeline = Pipeline(tmp_path, pool, steps, fields=())
    pipeline.run()
    assert len(np.load(pipeline.work / "subset.npy")) == 950
    late = pipeline.where(folder=tmp_path / "late", steps=[*steps, {"caption": {"min_words": 1}}])
    with pytest.raises(InvalidPipeline, match="'any_of' makes copies: no filter may come after it"):
        late.run()
