"""Whatever the blocks, shards, order and runner: the same samples stay, for the same reasons."""

import json
import random

import polars as pl
import pytest

from curate.errors import BudgetExceeded, RecipeChanged, Stale
from curate.pipeline import Options
from curate.subsets import subset
from tests.tiny_pool import (
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
def whole(tmp_path_factory):
    """The reference: three shards, all in one block, inline."""
    folder = tmp_path_factory.mktemp("whole")
    pool = tar_pool(write_shards(folder / "in", SAMPLES, 3))
    pipeline = Reported(folder, pool, fields=(("rows_per_block", 1_000_000),))
    pipeline.run()
    return pipeline


def test_every_row_has_one_fate_and_every_step_adds_up(whole):
    report = json.loads((whole.work / "report" / "report.json").read_text())
    ledger = ledger_of(whole.work)
    assert ledger.height == len(SAMPLES) == report["totals"]["rows"]
    assert (ledger["step"].is_null() == (ledger["fate"] == "kept")).all()
    gone = {(s, r): n for s, r, n in ledger.group_by("step", "reason").len().rows() if s}
    said = {(s["name"], r): n for s in report["steps"] for r, n in s["removed"].items()}
    usable = {key: n for key, n in gone.items() if key[0] != "pool"}
    assert usable == said
    assert len({step for step, _ in gone}) >= 6, "the pool's defects should meet most steps"
    for step, after in zip(report["steps"], report["steps"][1:], strict=False):
        assert step["in"] == step["kept"] + sum(step["removed"].values())
        assert after["in"] == step["kept"]
    kept = ledger.filter(fate="kept")["uid"].sort().to_list()
    stored = subset.load(str(whole.work / "subset.npy"))
    assert kept == [f"{hi:016x}{lo:016x}" for hi, lo in stored.tolist()]


@pytest.mark.parametrize("rows_per_block", [7, 70])
def test_blocks_change_nothing(whole, tmp_path, rows_per_block):
    parts = whole.where(folder=tmp_path, rows_per_block=rows_per_block)
    parts.run()
    assert len(list((parts.work / "ledger").glob("*.parquet"))) > 1
    assert fates(parts.work) == fates(whole.work)
    names = ("subset.npy", "shards")
    assert digests(parts.work, names)["subset.npy"] == digests(whole.work, names)["subset.npy"]
    assert written(parts.work) == written(whole.work)


@pytest.mark.parametrize("shards", [1, 7])
def test_shards_change_nothing(whole, tmp_path, shards):
    pool = tar_pool(write_shards(tmp_path / "in", SAMPLES, shards))
    other = whole.where(folder=tmp_path, pool=pool)
    other.run()
    assert fates(other.work) == fates(whole.work)
    assert written(other.work) == written(whole.work)  # input order is still the samples' order


def test_order_changes_nothing_but_the_order(whole, tmp_path):
    shuffled = random.Random(3).sample(SAMPLES, len(SAMPLES))
    pool = tar_pool(write_shards(tmp_path / "in", shuffled, 4))
    other = whole.where(folder=tmp_path, pool=pool, rows_per_block=50)
    other.run()
    assert fates(other.work) == fates(whole.work)
    assert (other.work / "subset.npy").read_bytes() == (whole.work / "subset.npy").read_bytes()
    assert sorted(written(other.work)) == sorted(written(whole.work))


@pytest.mark.ray
def test_ray_changes_no_byte(tmp_path, ray_cluster):
    pool = tar_pool(write_shards(tmp_path / "in", SAMPLES, 6))
    here = Reported(tmp_path / "here", pool)
    there = Reported(tmp_path / "there", pool, fields=(*here.fields, ("run", {"engine": "ray"})))
    here.run()
    there.run()
    assert digests(here.work) == digests(there.work)
    assert len(digests(here.work)) > 8


def test_a_threshold_costs_no_feature_and_leaves_shards_alone(whole, tmp_path):
    pipeline = whole.where(folder=tmp_path)
    pipeline.run()
    before = digests(pipeline.work, ("features", "shards"))
    with pytest.raises(Stale, match="--recompute write"):
        pipeline.run("steps.share.fraction=0.5")
    assert digests(pipeline.work, ("features", "shards")) == before
    fresh = whole.where(folder=tmp_path / "fresh")
    fresh.run("steps.share.fraction=0.5")
    for name in ("subset.npy", "ledger"):
        assert digests(pipeline.work, (name,)) == digests(fresh.work, (name,))
    pipeline.run("steps.share.fraction=0.5", options=Options(recompute=("write",)))
    assert digests(pipeline.work, ("shards",)) == digests(fresh.work, ("shards",))


def test_another_recipe_under_the_same_name_is_refused(whole, tmp_path):
    pipeline = whole.where(folder=tmp_path, steps=({"language": {}}, {"image_file": {}}))
    pipeline.run()
    claim = pipeline.work / "features" / "language" / "recipe.json"
    recipe = json.loads(claim.read_text())
    claim.write_text(json.dumps({**recipe, "version": 99}))
    with pytest.raises(RecipeChanged, match=r"recipe.version: 99 -> .*\n.*--recompute language"):
        pipeline.run("name=again")
    pipeline.run("name=again", options=Options(recompute=("language",)))


def test_the_probe_is_scored_and_decides_nothing(whole, tmp_path):
    probing = whole.where(folder=tmp_path, probe=0.5)
    probing.run()
    assert fates(probing.work) == fates(whole.work)
    files = "features/image_file/*.parquet"
    scored = pl.concat([pl.read_parquet(f) for f in sorted(probing.work.glob(files))])
    fewer = pl.concat([pl.read_parquet(f) for f in sorted(whole.work.glob(files))])
    assert scored.height > fewer.height


def test_a_budget_stops_the_run(whole, tmp_path):
    strict = whole.where(folder=tmp_path, run={"max_removed": {"caption": 0.01}})
    with pytest.raises(BudgetExceeded, match=r"caption removed \d+ of \d+ rows"):
        strict.run()
    assert BudgetExceeded.exit_code == 4


def test_any_of_keeps_what_any_keeps(whole, tmp_path):
    rules = [{"where": {"name": "a", "sql": "score > 0.9"}}, {"caption": {"min_words": 5}}]
    alone = []
    for number, rule in enumerate(rules):
        one = whole.where(folder=tmp_path / str(number), steps=(rule,))
        one.run()
        alone.append(set(ledger_of(one.work).filter(fate="kept")["uid"]))
    both = whole.where(folder=tmp_path / "both", steps=({"any_of": rules},))
    both.run()
    assert set(ledger_of(both.work).filter(fate="kept")["uid"]) == alone[0] | alone[1]
