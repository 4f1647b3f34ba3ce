"""Pairs of near hashes in a pipeline: the columns of comparing all with all, however it runs."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from curate import pairs
from curate.features import hash_neighbours
from curate.features._pairing import hash_groups
from curate.features.hash_neighbours import HashNeighbours
from tests.embedding_pool import embed, scores
from tests.near_hashes import brute_force, clustered, flipped, random_hashes
from tests.tiny_pool import Pipeline, ledger_of

STEP = "hash_neighbours"


def hash_pool(hashes, mirrored=None):
    """Samples with these hashes, None where they have none."""
    columns = {"h": pl.Series("h", hashes, dtype=pl.UInt64)}
    if mirrored is not None:
        columns["m"] = pl.Series("m", mirrored, dtype=pl.UInt64)
    return embed(len(hashes)).with_columns(**columns)


def pipeline(folder, pool, files=1, rows_per_block=100, **fields):
    steps = [{STEP: {"of": "h", **fields}}]
    written = pool.write(folder / "pool", files)
    return Pipeline(folder / "run", written, steps, fields=(("rows_per_block", rows_per_block),))


def run(folder, pool, **how):
    """The work folder of a finished run."""
    made = pipeline(folder, pool, **how)
    assert made.run().exit_code == 0
    return made.work


def notes(work):
    report = json.loads((work / "report/report.json").read_text())
    return report["steps"][0]["fitted"]["notes"]


def columns_of(work):
    """{uid: (same part, count, nearest, error)}; a part is told by its uids."""
    fields = {field: scores(work, STEP, field) for field in ("part", "count", "nearest")}
    parts: dict[int, set[str]] = {}
    for uid, (part, _) in fields["part"].items():
        parts.setdefault(part, set()).add(uid)
    return {
        uid: (
            None if part is None else frozenset(parts[part]),
            fields["count"][uid][0],
            fields["nearest"][uid][0],
            error,
        )
        for uid, (part, error) in fields["part"].items()
    }


def expected_columns(uids, hashes, radius, mirrored=None):
    """The same by comparing all with all."""
    known = np.array([value is not None for value in hashes])
    filled = np.array([value or 0 for value in hashes], dtype=np.uint64)
    distance = np.bitwise_count(filled[:, None] ^ filled[None, :])
    if mirrored is not None:
        across = np.bitwise_count(filled[:, None] ^ np.array(mirrored, dtype=np.uint64)[None, :])
        distance = np.minimum(distance, np.minimum(across, across.T))
    near = (distance <= radius) & known[:, None] & known[None, :]
    np.fill_diagonal(near, val=False)
    found = {}
    for row, uid in enumerate(uids):
        if not known[row]:
            found[uid] = (None, None, None, "no_hash")
            continue
        chain, fresh = {row}, {row}
        while fresh:
            fresh = {int(other) for one in fresh for other in np.flatnonzero(near[one])} - chain
            chain |= fresh
        part = frozenset(uids[one] for one in chain) if len(chain) > 1 else None
        own = distance[row][near[row]]
        found[uid] = (part, len(own), float(own.min()) if len(own) else None, None)
    return found


@pytest.fixture(scope="module")
def hashes():
    """500 of them, clustered, some equal and some missing."""
    made: list = clustered(500, 3).tolist()
    made[40:60] = made[:20]
    made[100:110] = [0] * 10
    made[::23] = [None] * len(made[::23])
    return made


@pytest.mark.parametrize("radius", [0, 4, 9])
def test_columns_are_those_of_comparing_all_with_all(tmp_path, hashes, radius):
    pool = hash_pool(hashes)
    work = run(tmp_path, pool, files=3, radius=radius)
    expected = expected_columns(pool.frame["uid"].to_list(), hashes, radius)
    assert columns_of(work) == expected
    told = notes(work)
    known = [value for value in hashes if value is not None]
    assert told["hashed"] == len(known)
    assert told["distinct_hashes"] == len(set(known))
    assert told["twins"] == len(known) - len(set(known))
    assert told["pairs"] == len(brute_force(np.unique(np.array(known, np.uint64)), radius))
    assert (told["commonest_hash"], told["samples_with_commonest_hash"]) == ("0" * 16, 10)
    assert (told["not_compared"], told["pairs_beyond_limit"]) == (0, 0)
    assert told["samples_with_neighbours"] == sum(
        part is not None for part, *_ in expected.values()
    )
    left = {path.name for path in (work / f"features/{STEP}/artefact").iterdir() if path.is_dir()}
    assert left == {"fitted"}  # nothing that only the search needs


def test_hashes_that_do_not_fit_into_a_task_are_brought_together_by_bands(
    tmp_path, hashes, monkeypatch
):
    pool = hash_pool(hashes)
    whole = columns_of(run(tmp_path / "whole", pool, radius=5))
    monkeypatch.setattr(hash_groups, "AT_ONCE", 100)
    monkeypatch.setattr(hash_groups, "ROWS_PER_GROUP", 60)
    assert columns_of(run(tmp_path / "bands", pool, radius=5)) == whole


def test_neither_order_nor_sharding_decides_anything(tmp_path, hashes):
    pool = hash_pool(hashes)
    first = columns_of(run(tmp_path / "a", pool, files=1, radius=6))
    order = np.random.default_rng(0).permutation(len(pool))
    again = run(tmp_path / "b", pool[order], files=7, rows_per_block=60, radius=6)
    assert columns_of(again) == first


@pytest.mark.parametrize("stage", ["collapse", "spread", "match", "settle"])
def test_a_killed_search_goes_on_where_it_was(tmp_path, hashes, monkeypatch, stage):
    monkeypatch.setattr(hash_groups, "AT_ONCE", 100)
    monkeypatch.setattr(hash_groups, "ROWS_PER_GROUP", 60)
    pool = hash_pool(hashes)
    whole = run(tmp_path / "whole", pool, radius=5)
    made = pipeline(tmp_path / "killed", pool, radius=5)
    module = pairs if stage == "settle" else hash_neighbours
    real, calls = getattr(module, stage), []

    def killed(*given):
        calls.append(given)
        if stage in ("collapse", "settle") or len(calls) > 5:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, stage, killed)
        with pytest.raises(KeyboardInterrupt):
            made.run()
    work = []
    with monkeypatch.context() as patch:
        for name in ("_spread", "_match"):
            inner = getattr(hash_groups, name)
            told = lambda plan, *given, n=name, f=inner: work.append(n) or f(plan, *given)  # noqa: E731
            patch.setattr(hash_groups, name, told)
        assert made.run().exit_code == 0
    assert columns_of(made.work) == columns_of(whole)
    assert notes(made.work) == notes(whole)
    left = {"collapse": {"_spread", "_match"}, "spread": {"_spread", "_match"}, "match": {"_match"}}
    assert set(work) == left.get(stage, set())
    assert sorted(path.name for path in (made.work / f"features/{STEP}/artefact").iterdir()) == (
        sorted(path.name for path in (whole / f"features/{STEP}/artefact").iterdir())
    )


@pytest.mark.ray
def test_ray_changes_nothing(tmp_path, hashes, ray_cluster):
    pool = hash_pool(hashes)
    made = pipeline(tmp_path / "here", pool, files=3, radius=5)
    assert made.run().exit_code == 0
    there = made.where(folder=tmp_path / "there", run={"engine": "ray"})
    assert there.run().exit_code == 0
    assert columns_of(there.work) == columns_of(made.work)
    assert notes(there.work) == notes(made.work)


def test_mirrored_pictures_count_where_they_are_asked_for(tmp_path):
    upright = random_hashes(60, 0)
    mirrored = random_hashes(60, 1)
    upright[30:45] = flipped(mirrored[:15], 3, 2)  # these are the first ones, mirrored
    mirrored[30:45] = flipped(upright[:15], 3, 3)
    upright[50:55] = upright[0]  # twins whose mirrored hashes differ a little
    mirrored[50:55] = flipped(np.repeat(mirrored[0], 5), 2, 4)
    mirrored[20:25] = upright[20:25]  # their own mirror image
    mirrored[25:30] = flipped(upright[25:30], 1, 5)  # nearly so
    mirrored[57] = mirrored[56]  # which makes their upright pictures no more alike
    pool = hash_pool(upright.tolist(), mirrored.tolist())
    work = run(tmp_path, pool, files=2, radius=4, mirrored="m")
    uids = pool.frame["uid"].to_list()
    found = columns_of(work)
    expected = expected_columns(uids, upright.tolist(), 4, mirrored.tolist())
    parts = {uid: (part, error) for uid, (part, _, _, error) in found.items()}
    assert parts == {uid: (part, error) for uid, (part, _, _, error) in expected.items()}
    assert {uids[row]: found[uids[row]][2] for row in range(30, 45)} == {
        uids[row]: expected[uids[row]][2] for row in range(30, 45)
    }
    assert notes(work)["samples_with_neighbours"] == sum(
        part is not None for part, *_ in expected.values()
    )
    alone = run(tmp_path / "alone", pool, radius=4)
    assert notes(alone)["pairs"] == 0
    assert notes(alone)["twins"] == 5


def test_a_thousand_equal_hashes_are_one_group_without_a_pair(tmp_path):
    pool = hash_pool([77] * 1000)
    work = run(tmp_path, pool, radius=6)
    told = notes(work)
    assert (told["twins"], told["pairs"], told["largest_part"]) == (999, 0, 1000)
    assert {values[1:] for values in columns_of(work).values()} == {(999, 0.0, None)}


def test_a_crowd_keeps_so_many_pairs_and_says_how_many_it_lost(tmp_path, monkeypatch):
    crowd = np.unique(flipped(np.zeros(800, dtype=np.uint64), 2, 0))
    pool = hash_pool(crowd.tolist())
    whole = notes(run(tmp_path / "whole", pool, radius=4, pairs_per_sample=10_000))
    told = notes(run(tmp_path / "few", pool, radius=4, pairs_per_sample=5))
    assert whole["pairs"] > 10 * told["pairs"]
    assert told["pairs"] + told["pairs_beyond_limit"] == whole["pairs"]
    assert told["largest_part"] == len(crowd)
    monkeypatch.setattr(hash_groups, "REACH", 50)
    bounded = notes(run(tmp_path / "reach", pool, radius=4, pairs_per_sample=10_000))
    assert bounded["not_compared"] > 0
    assert bounded["pairs"] + bounded["not_compared"] >= whole["pairs"]


@pytest.mark.parametrize("values", [[None, None, None], [5], [None, 5]])
def test_nothing_to_compare_is_no_error(tmp_path, values):
    work = run(tmp_path, hash_pool(values), radius=3)
    assert notes(work)["pairs"] == 0
    expected = [None if value is None else 0 for value in values]
    assert sorted(map(str, (row[1] for row in columns_of(work).values()))) == sorted(
        map(str, expected)
    )


def test_no_survivor_is_no_error(tmp_path):
    pool = hash_pool([1, 2, 3])
    made = pipeline(tmp_path, pool, radius=3)
    made = made.where(steps=[{"where": {"sql": "h > 5"}}, *made.steps])
    assert made.run().exit_code == 0
    assert columns_of(made.work) == {}


def test_who_comes_after_a_frozen_fit_is_told_apart(tmp_path):
    pool = hash_pool([1, 3, 2**63, None, 7])
    made = pipeline(tmp_path, pool, radius=1, when_changed="freeze")
    fewer = made.where(steps=[{"where": {"sql": "h IS NULL OR h <> 7"}}, *made.steps])
    assert fewer.run().exit_code == 0
    assert made.where(steps=[{"where": {"sql": "a < 1000"}}, *made.steps]).run().exit_code == 0
    found = columns_of(made.work)
    uids = pool.frame["uid"].to_list()
    assert [found[uid][3] for uid in uids] == [None, None, None, "no_hash", "not_fitted"]
    assert [found[uid][1] for uid in uids] == [1, 1, 0, None, None]


def test_a_column_of_other_numbers_is_refused(tmp_path):
    made = pipeline(tmp_path, hash_pool([1, 2]), of="b")
    with pytest.raises(Exception, match="UInt64"):
        made.run()


@pytest.mark.parametrize("radius", [-1, 17, "six"])
def test_a_radius_that_means_nothing_is_refused(radius):
    with pytest.raises(ValidationError):
        HashNeighbours(radius=radius)


def test_near_duplicates_leave_no_two_that_are_near(tmp_path: Path, hashes):
    pool = hash_pool([value for value in hashes if value is not None])
    made = pipeline(tmp_path, pool, files=2, radius=6)
    made = made.where(steps=[*made.steps, {"near_duplicates": {"distance": 4}}])
    assert made.run().exit_code == 0
    ledger = ledger_of(made.work)
    value = dict(zip(pool.frame["uid"], pool.frame["h"], strict=True))
    kept = np.array([value[uid] for uid in ledger.filter(fate="kept")["uid"]], dtype=np.uint64)
    assert brute_force(kept, 4) == set()
    gone = ledger.filter(pl.col("fate") == "removed")
    assert 0 < gone.height < len(pool)
    for uid, because in gone.select("uid", "because").iter_rows():
        assert value[because] in kept
        assert (value[uid] ^ value[because]).bit_count() <= 4
