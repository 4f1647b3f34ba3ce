"""Real captions matched, counted and balanced by whole runs: any sharding, runner, t and sweep."""

import json
import pickle
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import real_pictures
from tiny_pool import Pipeline, digests, fates, ledger_of

from curate import storage
from curate.errors import ConfigError, RecipeChanged
from curate.features.concepts import Concepts
from curate.pipeline import Options
from curate.sweep.command import Options as SweepOptions
from curate.sweep.command import sweep
from filters.metadata_balance import MetadataBalance

pytestmark = pytest.mark.real
SAME = ("ledger", "subset.npy", "report/report.json")


@pytest.fixture(scope="module")
def captions():
    real_pictures.fetch_or_skip()
    return [(pair.name, pair.caption) for pair in real_pictures.clipart(2)]


@pytest.fixture(scope="module")
def entries(captions, tmp_path_factory):
    """Words and pairs of words of some of the captions, and some that none has."""
    words = [caption.replace(",", " , ").split(" ") for _, caption in captions[::7]]
    pairs = [f"{a} {b}" for own in words for a, b in pairwise(own)]
    found = {w for own in words for w in own} | set(pairs[::3]) | {"no such", "nowhere"}
    file = tmp_path_factory.mktemp("list") / "entries.txt"
    file.write_text("\n".join(sorted(word for word in found if word.strip())) + "\n")
    return file


def write_pool(folder, rows, files):
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        own = [rows[row] for row in part]
        frame = {"url": [f"http://h/{name}" for name, _ in own], "caption": [c for _, c in own]}
        pl.DataFrame(frame).write_parquet(folder / f"{number:02d}.parquet")
    return {"urls": str(folder / "*.parquet")}


@pytest.fixture
def pipeline(captions, entries, tmp_path):
    pool = write_pool(tmp_path / "pool", captions, 3)
    steps = [{"concepts": {"entries": str(entries)}}, {"metadata_balance": {"t": 12}}]
    return Pipeline(tmp_path, pool, steps, fields=(("rows_per_block", 1500),))


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(pipeline, tmp_path, ray_cluster):
    pipeline.run()
    spread = pipeline.where(folder=tmp_path / "ray", run={"engine": "ray"})
    spread.run()
    assert digests(spread.work, SAME[:2]) == digests(pipeline.work, SAME[:2])


def test_sharding_and_order_change_no_fate(pipeline, captions, tmp_path):
    pipeline.run()
    there = fates(pipeline.work)
    order = np.random.default_rng(0).permutation(len(captions))
    shuffled = [captions[row] for row in order]
    pool = write_pool(tmp_path / "shuffled", shuffled, 5)
    other = pipeline.where(folder=tmp_path / "other", pool=pool, rows_per_block=700)
    other.run()
    assert fates(other.work) == there


def test_the_ledger_says_by_which_entry_each_stays(pipeline, captions):
    pipeline.run()
    ledger = ledger_of(pipeline.work)
    assert ledger.height == len(captions)
    kept = ledger.filter(pl.col("fate") == "kept")
    assert 200 < kept.height < len(captions) - 200
    assert kept["because"].null_count() == 0
    assert set(ledger.filter(pl.col("fate") == "removed")["reason"]) == {"over_t", "unmatched"}
    pool = pl.concat([pl.read_parquet(f) for f in sorted((pipeline.work / "pool").glob("block-*"))])
    of_row = ledger.with_columns(pool["caption"])
    for because, caption in of_row.filter(pl.col("fate") == "kept")["because", "caption"].rows():
        padded = f" {caption} "
        for sign in ",.;:?!`":
            padded = padded.replace(sign, f" {sign} ")
        assert f" {because} " in padded


def test_another_t_counts_nothing_again_and_gives_what_a_fresh_run_gives(
    pipeline, tmp_path, monkeypatch
):
    pipeline.run()
    with monkeypatch.context() as patch:
        patch.setattr(MetadataBalance, "summarize", lambda *_: pytest.fail("it counted again"))
        pipeline.run("steps.metadata_balance.t=30")
    fresh = pipeline.where(folder=tmp_path / "fresh", pool=pipeline.pool)
    fresh.run("steps.metadata_balance.t=30")
    assert digests(fresh.work, SAME) == digests(pipeline.work, SAME)
    pipeline.run("steps.metadata_balance.t=null", "steps.metadata_balance.count=777")
    assert len(np.load(pipeline.work / "subset.npy")) == 777


def test_others_before_it_are_counted_anew(pipeline):
    before = {"where": {"name": "long", "sql": "LENGTH(caption) > 20"}}
    pipeline = pipeline.where(steps=[pipeline.steps[0], before, pipeline.steps[1]])
    pipeline.run()
    some = json.loads((pipeline.work / "state" / "metadata_balance.json").read_text())
    pipeline.run("steps.long.sql=LENGTH(caption) > 40")
    fewer = json.loads((pipeline.work / "state" / "metadata_balance.json").read_text())
    assert (
        fewer["states"]["metadata_balance"]["matches"]
        < (some["states"]["metadata_balance"]["matches"])
    )


def test_a_sweep_over_t_keeps_what_runs_keep(pipeline):
    pipeline.run()
    vary = ("steps.metadata_balance.t=3,12,40",)
    swept = sweep(pipeline.file(), SweepOptions(vary, (), None, "each", "refuse"), lambda _: None)
    for t in (3, 12, 40):
        pipeline.run(f"steps.metadata_balance.t={t}")
        own = np.load(f"{swept.folder}/{t}.npy")
        assert (own == np.load(pipeline.work / "subset.npy")).all()


def test_a_renamed_list_is_the_same_list(pipeline, entries, tmp_path):
    pipeline.run()
    there = tmp_path / "renamed.txt"
    there.write_bytes(entries.read_bytes())
    assert pipeline.run(f"steps.concepts.entries={there}").reused == "everything"


def test_a_list_that_is_replaced_while_workers_start_is_noticed(entries, tmp_path):
    there = tmp_path / "entries.txt"
    there.write_bytes(entries.read_bytes())
    feature = Concepts(entries=str(there))
    travelling = pickle.dumps(feature)
    there.write_text("another\n")
    with pytest.raises(ConfigError, match="is another list than when the run began"):
        pickle.loads(travelling).open("cpu")


def test_what_is_thrown_away_leaves_no_column_without_its_recipe(pipeline, entries, monkeypatch):
    pipeline.run()
    entries = entries.with_name("other.txt")
    entries.write_text("computer\n")
    removed = []
    real = storage.remove

    def until_the_folder(url):
        if url.endswith("features/concepts"):
            raise KeyboardInterrupt
        removed.append(url)
        real(url)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", until_the_folder)
        with pytest.raises(KeyboardInterrupt):
            other = f"steps.concepts.entries={entries}"
            pipeline.run(other, options=Options(recompute=("concepts",)))
    assert not list((pipeline.work / "features" / "concepts").rglob("*.parquet"))
    with pytest.raises(RecipeChanged, match=r"recipe\.entries"):
        pipeline.run(other)
    assert pipeline.run(other, options=Options(recompute=("concepts",))).exit_code == 0


def test_any_of_says_by_which_entry_one_stays(pipeline):
    both = [{"metadata_balance": {"t": 3}}, {"random_sample": {"count": 5}}]
    pipeline = pipeline.where(steps=[pipeline.steps[0], {"any_of": {"steps": both}}])
    pipeline.run()
    ledger = ledger_of(pipeline.work)
    kept = ledger.filter(pl.col("fate") == "kept")
    assert kept["because"].null_count() <= 5
    assert ledger.filter(pl.col("fate") == "removed")["because"].null_count() > 0
