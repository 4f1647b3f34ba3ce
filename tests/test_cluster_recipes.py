"""The recipes over clusters, run on small pools: what each removes is what plain loops remove."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from embedding_pool import Embedded, embed, unit
from test_pictures import metadata_of, samples_of, write_tars
from tiny_pool import Pipeline, draw, ledger_of, write_shards
from tiny_timm import write_weights

from curate.pipeline import Options, Outcome, run
from curate.pipeline_file.config import load

FOLDER = Path(__file__).parent.parent / "pipelines"
COUNT, WIDTH = 600, 24


def run_recipe(file: str, *overrides: str) -> Outcome:
    outcome = run(load(str(FOLDER / file), overrides), Options(), lambda progress: None)
    assert outcome.exit_code == 0
    return outcome


def alike(count: int, seed: int) -> np.ndarray:
    """[N, D] float16 about some directions, in which one of three is nearly another one."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, WIDTH))[rng.integers(6, size=count)]
    vectors = vectors + rng.normal(size=(count, WIDTH)) * 0.7
    for row in range(count):
        if row % 3 == 2:
            noise = rng.choice([0.0, 0.02, 0.1, 0.2]) * rng.normal(size=WIDTH)
            vectors[row] = vectors[rng.integers(row)] + noise
    return unit(vectors).astype(np.float16)


@pytest.fixture
def retrieval(tmp_path):
    """clip-retrieval's folder, and its embeddings."""
    image = alike(COUNT, 1)
    names = [f"thing {n}" for n in range(COUNT)]
    frame = pl.DataFrame({"url": [f"http://h/{name}" for name in names], "caption": names})
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "pool" / name).mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(COUNT), 3)):
        np.save(tmp_path / "pool" / "img_emb" / f"img_emb_{number}.npy", image[rows])
        np.save(tmp_path / "pool" / "text_emb" / f"text_emb_{number}.npy", image[rows])
        frame[rows].write_parquet(tmp_path / "pool" / "metadata" / f"metadata_{number}.parquet")
    return tmp_path, image


def column(work: Path, step: str, *names: str) -> pl.DataFrame:
    files = sorted((work / "features" / step).glob("block-*.parquet"))
    return pl.concat(pl.read_parquet(file, columns=["row", *names]).sort("row") for file in files)


def test_semdedup_is_its_published_rule(retrieval):
    folder, image = retrieval
    work = folder / "work"
    own = (f"work={work}", f"pool.metadata={folder / 'pool'}", "steps.fine.count=8")
    run_recipe("semdedup.yaml", *own)
    uids = pl.read_parquet(work / "pool" / "block-0000.parquet")
    found = column(work, "fine", "cluster", "distance").with_columns(uids["uid_hi", "uid_lo"])
    long = unit(image.astype(np.float64))
    gone = set()
    for _, members in found.group_by("cluster"):
        order = members.sort(["distance", "uid_hi", "uid_lo"], descending=[True, False, False])
        rows = order["row"].to_list()
        for place, row in enumerate(rows):
            if max((long[row] @ long[before] for before in rows[:place]), default=0) > 0.97:
                gone.add(row)
    fate = ledger_of(work).sort("shard", "row")["fate"].to_list()
    assert {row for row, one in enumerate(fate) if one != "kept"} == gone
    assert len(gone) > COUNT // 8


def test_another_epsilon_takes_nothing_new(retrieval):
    folder, _ = retrieval
    work = folder / "work"
    own = (f"work={work}", f"pool.metadata={folder / 'pool'}", "steps.fine.count=8")
    first = run_recipe("semdedup.yaml", *own).report["totals"]["kept"]
    seals = [work / "features" / step / "fitted.json" for step in ("fine", "neighbours")]
    before = [seal.stat().st_mtime_ns for seal in seals]
    wider = run_recipe("semdedup.yaml", *own, "steps.semantic_duplicates.threshold=0.9")
    assert wider.report["totals"]["kept"] < first
    assert [seal.stat().st_mtime_ns for seal in seals] == before


def test_a_hierarchy_of_clusters_is_balanced_from_the_top(tmp_path):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, WIDTH)) * 4
    sizes = (700, 150, 50)
    rows = [c + rng.normal(size=(n, WIDTH)) for c, n in zip(centres, sizes, strict=True)]
    pool = embed(sum(sizes), WIDTH)
    pool = Embedded(pool.frame, unit(np.concatenate(rows)), pool.text)[rng.permutation(sum(sizes))]
    steps = (
        {"clusters": {"name": "fine", "of": "l14_img", "count": 24, "levels": [3]}},
        {"cluster_balance": {"clusters": "fine", "keep_count": 200}},
    )
    pipe = Pipeline(tmp_path, pool.write(tmp_path / "in", 2), steps)
    assert pipe.run().exit_code == 0
    found = column(pipe.work, "fine", "cluster", "level2")
    fate = ledger_of(pipe.work).sort("shard", "row")["fate"]
    kept = found.with_columns(kept=fate == "kept").group_by("level2").agg(pl.col("kept").sum())
    whole = found.group_by("level2").len().sort("len")["len"].to_list()
    assert sum(whole) == 900
    room = 200
    expected = []
    for place, size in enumerate(whole):  # smallest first: each gets its share of what is left
        share = min(size, room // (len(whole) - place))
        expected.append(share)
        room -= share
    assert sorted(kept["kept"].to_list()) == pytest.approx(sorted(expected), abs=1)
    assert kept["kept"].sum() == 200


@pytest.mark.parametrize(("most", "there"), [(5, True), (1000, False)])
def test_duplicates_that_were_not_looked_for_are_told(tmp_path, most, there):
    rng = np.random.default_rng(4)
    crowd = rng.normal(size=WIDTH) + 0.2 * rng.normal(size=(300, WIDTH))
    pool = embed(400, WIDTH)
    pool = Embedded(pool.frame, unit(np.concatenate([crowd, pool.image[300:]])), pool.text)
    steps = (
        {"neighbours": {"of": "l14_img", "floor": 0.8, "pairs_per_sample": most, "same": 0.9999}},
        {"semantic_duplicates": 0.85},
    )
    outcome = Pipeline(tmp_path, pool.write(tmp_path / "in"), steps).run()
    (said,) = steps_of(outcome)["semantic_duplicates"]["filters"]
    assert ("rows_not_compared" in said["learnt"]) is there
    if there:
        assert said["learnt"]["rows_not_compared"] >= 300


def steps_of(outcome: Outcome) -> dict[str, dict]:
    return {step["name"]: step for step in outcome.report["steps"]}


def test_dbp_laion_prunes_what_duplicates_and_score_leave(tmp_path):
    tars = write_shards(tmp_path / "in", draw(120), 3)
    weights = write_weights(tmp_path / "tiny.safetensors")
    work = tmp_path / "work"
    outcome = run_recipe(
        "dbp_laion.yaml", f"work={work}", f"pool.shards={tars}/*.tar",
        "steps.clip.model=quickstart", "steps.clip.weights=null", "steps.fine.count=4",
        "steps.dinov2.model=test_efficientnet", f"steps.dinov2.weights={weights}",
        "steps.coarse.count=3", "steps.clip_score.at_least=-1", "steps.neighbours.floor=0.5",
    )  # fmt: skip
    steps = steps_of(outcome)
    assert steps["fine"]["fitted"]["samples"] > steps["coarse"]["fitted"]["samples"] > 5
    prune = steps["concept_prune"]
    assert prune["kept"] == prune["in"] * 4 // 10
    fine, coarse = (
        np.load(work / "features" / step / "artefact" / "centroids.npy")
        for step in ("fine", "coarse")
    )
    assert (len(fine), len(coarse)) == (4, 3)
    assert json.loads((work / "shards" / "sizes.json").read_text()) == {
        "00000000.tar": prune["kept"]
    }


def test_dbp_datacomp_medium_looks_at_the_pictures_of_whom_the_score_left(tmp_path):
    samples = samples_of(60)
    image = alike(len(samples), 2)
    scores = np.linspace(0.1, 0.4, len(samples)).astype(np.float32)
    (tmp_path / "metadata").mkdir()
    table = metadata_of(samples).with_columns(clip_l14_similarity_score=pl.Series(scores))
    table.write_parquet(tmp_path / "metadata" / "0.parquet")
    np.savez(tmp_path / "metadata" / "0.npz", l14_img=image, l14_txt=image)
    write_tars(tmp_path / "shards", samples[::-1], 3)
    weights = write_weights(tmp_path / "tiny.safetensors")
    outcome = run_recipe(
        "dbp_datacomp_medium.yaml", f"work={tmp_path / 'work'}",
        f"pool.metadata={tmp_path / 'metadata'}", f"pool.shards={tmp_path}/shards/*.tar",
        "steps.fine.count=4", "steps.coarse.count=2",
        "steps.dinov2.model=test_efficientnet", f"steps.dinov2.weights={weights}",
    )  # fmt: skip
    steps = steps_of(outcome)
    assert steps["semantic_duplicates"]["removed"] == {"duplicate": 60 - steps["clip_score"]["in"]}
    assert steps["clip_score"]["kept"] == 24
    assert len(column(tmp_path / "work", "dinov2")) == 24
    assert steps["concept_prune"]["kept"] == 24 * 6 // 10
