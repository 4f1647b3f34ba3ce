"""Neighbours: against brute force over the candidates, however the search is cut up."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate import pairs
from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features._pairing import collapse, near_layout, near_pairs, near_search
from curate.features._pairing.collapse import Leaders, first_equal, hashes
from curate.features._pairing.near_layout import CLUSTER, Layout
from curate.features._products import Products
from curate.pipeline_file.config import load
from tests.embedding_pool import Embedded, embed, scores, unit
from tests.object_store import object_store
from tests.tiny_pool import Pipeline, digests

WIDTH = 16
FLOOR = 0.9
CENTRES = unit(np.random.default_rng(99).normal(size=(24, WIDTH)))
FIELDS = ("count", "nearest", "floor")


def pool_of(image: np.ndarray, seed: int = 0) -> Embedded:
    """Samples with these embeddings."""
    frame = embed(len(image), WIDTH, seed).frame
    return Embedded(frame, image, image)


def near_copies(count: int, seed: int = 0) -> np.ndarray:
    """[N, D] float16 of which a third is near another, at any similarity around the floor."""
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(count, WIDTH)))
    for row in rng.permutation(count)[: count // 3]:
        rows[row] = rows[rng.integers(count)] + rng.normal(size=WIDTH) * rng.uniform(0, 0.2)
    return unit(rows).astype(np.float16)


SAMPLES = pool_of(near_copies(700))


def assigned(samples: Embedded) -> np.ndarray:
    """[N, 2]: numbers of the two centres that each sample is nearest to."""
    near = np.nan_to_num(samples.image.astype(np.float64)) @ CENTRES.T
    return np.argsort(-near, axis=1, kind="stable")[:, :2]


@dataclass(frozen=True)
class Run:
    """A run over samples, and what it found, by uid."""

    pipeline: Pipeline
    samples: Embedded

    @property
    def artefact(self) -> Path:
        return self.pipeline.work / "features" / "neighbours" / "artefact"

    @property
    def notes(self) -> dict:
        return json.loads((self.artefact / "made.json").read_text())

    def values(self) -> dict[str, list]:
        """{column: values in the order of the uids}, but `part` as the groups that it makes."""
        uids = sorted(set(self.samples.frame["uid"]))
        found = {}
        for field in (*FIELDS, "part"):
            of = scores(self.pipeline.work, "neighbours", field)
            found[field] = [of[uid] for uid in uids]
        numbers: dict[int | None, int | None] = {None: None}
        found["part"] = [numbers.setdefault(p, len(numbers)) for p, _ in found["part"]]
        return found

    def uids(self) -> dict[int, str]:
        """{address: uid}."""
        found = {}
        for file in sorted((self.pipeline.work / "pool").glob("block-*.parquet")):
            block = int(file.stem.removeprefix("block-")) << 32
            halves = pl.read_parquet(file, columns=["uid_hi", "uid_lo"]).rows()
            found |= {block + n: "{:016x}{:016x}".format(*pair) for n, pair in enumerate(halves)}
        return found

    def pairs(self) -> tuple[dict[frozenset, float], dict[str, str]]:
        """({pair of uids: similarity}, {twin: whose})."""
        settled, uids = pairs.opened(str(self.artefact)), self.uids()
        near: dict[frozenset, float] = {}
        twins: dict[str, str] = {}
        for partition in range(settled.count):
            some, same = settled.read(partition)
            for left, right, value in some.tolist():
                pair = frozenset((uids[left], uids[right]))
                assert pair not in near
                near[pair] = value
            twins |= {uids[member]: uids[of] for member, of in same.tolist()}
        return near, twins


def run(folder: Path, samples: Embedded, files: int = 3, **step: object) -> Run:
    """Find the neighbours of samples, whose clusters are those of CENTRES."""
    pipeline = prepared(folder, samples, files, **step)
    assert pipeline.run().exit_code == 0
    return Run(pipeline, samples)


def prepared(folder: Path, samples: Embedded, files: int = 3, **step: object) -> Pipeline:
    pool = samples.write(folder / "in", files)
    numbers = assigned(samples).astype(np.uint32)
    table = samples.frame.select("uid").with_columns(cluster=numbers[:, 0], second=numbers[:, 1])
    known = np.isfinite(samples.image).all(axis=1)
    table.filter(known).write_parquet(folder / "fine.parquet")
    columns = {"name": "fine", "from": str(folder / "fine.parquet"), "cover": 0}
    wanted = {"of": "l14_img", "within": "fine", "floor": FLOOR, **step}
    steps = ({"columns": {**columns, "take": ["cluster", "second"]}}, {"neighbours": wanted})
    return Pipeline(folder, pool, steps, fields=(("rows_per_block", 250),))


def similarities(samples: Embedded) -> np.ndarray:
    """[N, N] in float64, of float16 embeddings at length 1."""
    rows = unit(samples.image.astype(np.float64))
    return rows @ rows.T


def meeting(samples: Embedded) -> np.ndarray:
    """[N, N] bool: whose nearest or second nearest clusters meet."""
    number = assigned(samples)
    return np.any(number[:, None, :, None] == number[None, :, None, :], axis=(2, 3))


def brute(samples: Embedded, candidates: np.ndarray, floor: float = FLOOR) -> dict:
    """{pair of uids: similarity}."""
    exact, uid = similarities(samples), samples.frame["uid"].to_list()
    assert not np.any(np.abs(exact - floor) < 1e-6), "no pair is on the edge"
    near = np.argwhere((exact >= floor) & candidates)
    return {frozenset((uid[a], uid[b])): exact[a, b] for a, b in near.tolist() if a < b}


def check(found: dict[frozenset, float], wanted: dict[frozenset, float]) -> None:
    assert set(found) == set(wanted)
    assert all(abs(found[pair] - wanted[pair]) < 1e-6 for pair in wanted)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(tmp_path_factory.mktemp("done"), SAMPLES)


# --- what is found


def test_pairs_are_those_of_brute_force_over_the_candidates(done):
    wanted = brute(SAMPLES, meeting(SAMPLES))
    assert 100 < len(wanted) < len(brute(SAMPLES, np.ones((700, 700), dtype=bool)))
    found, twins = done.pairs()
    check(found, wanted)
    assert not twins


def test_columns_say_how_many_and_how_near(done):
    wanted, values = brute(SAMPLES, meeting(SAMPLES)), done.values()
    own: dict[str, list[float]] = {uid: [] for uid in sorted(SAMPLES.frame["uid"])}
    for pair, value in wanted.items():
        for uid in pair:
            own[uid].append(value)
    assert values["count"] == [(len(near), None) for near in own.values()]
    for (nearest, error), near in zip(values["nearest"], own.values(), strict=True):
        assert error is None
        assert nearest is None if not near else abs(nearest - max(near)) < 1e-6
    assert {value for value, _ in values["floor"]} == {np.float32(FLOOR)}
    told = done.notes
    assert told["pairs"] == len(wanted)
    assert told["samples_with_neighbours"] == sum(bool(near) for near in own.values())
    assert told["parts"] == len(set(values["part"]) - {None})
    assert told["samples"] == 700
    assert told["dense"] == []


def test_parts_are_the_connected_ones(done):
    values = done.values()
    part = dict(zip(sorted(SAMPLES.frame["uid"]), values["part"], strict=True))
    of: dict[str, str] = {uid: uid for uid in part}

    def root(uid: str) -> str:
        while of[uid] != uid:
            uid = of[uid]
        return uid

    for pair in done.pairs()[0]:
        left, right = map(root, pair)
        of[left] = right
    parts = {(root(uid), number) for uid, number in part.items() if number is not None}
    assert len(parts) == len({number for _, number in parts}) == len({top for top, _ in parts})
    sizes = np.unique([p for p in part.values() if p is not None], return_counts=True)[1]
    assert done.notes["largest_part"] == sizes.max()


def test_recall_is_that_over_all_pairs(done):
    """Of a pool smaller than the number of queries every sample is one: it is exact."""
    every = brute(SAMPLES, np.ones((700, 700), dtype=bool))
    assert done.notes["recall_pairs"] == 2 * len(every)
    assert done.notes["recall"] == pytest.approx(done.notes["pairs"] / len(every))


def test_recall_by_some_is_near(tmp_path, monkeypatch, done):
    monkeypatch.setattr(near_search, "QUERIES", 300)
    other = run(tmp_path, SAMPLES)
    assert 50 < other.notes["recall_pairs"] < done.notes["recall_pairs"]
    assert abs(other.notes["recall"] - done.notes["recall"]) < 0.1
    assert other.values() == done.values()


def test_work_is_counted_on_required_pairs(done):
    candidates = meeting(SAMPLES)
    required = (candidates.sum() - len(candidates)) // 2
    assert done.notes["gflop_required"] == pytest.approx(required * 2 * WIDTH / 1e9, abs=1e-6)
    assert done.notes["gflop_done"] > done.notes["gflop_required"]


def test_without_clusters_all_pairs_are_found(tmp_path):
    found = run(tmp_path, SAMPLES, within=None)
    check(found.pairs()[0], brute(SAMPLES, np.ones((700, 700), dtype=bool)))
    assert found.notes["recall"] == 1.0


@pytest.mark.parametrize("floor", [0.5, 0.985])
def test_other_floors(tmp_path, floor):
    found = run(tmp_path, SAMPLES, floor=floor)
    check(found.pairs()[0], brute(SAMPLES, meeting(SAMPLES), floor))


# --- however it is cut up


def cut(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the search do it in smaller pieces."""
    changes = {
        "partitions": {(near_layout, "_SMALLEST"): 5_000, (near_layout, "_PARTITIONS"): 999},
        "one partition": {(near_layout, "_PARTITIONS"): 1},
        "split clusters": {(near_layout, "CHUNK_BYTES"): 4 * WIDTH * 50},
        "senders": {(near_search, "_SENDERS"): 700},
        "one sender": {(near_search, "_SENDERS"): 1},
        "threads for each": {(near_pairs, "_LARGE"): 10, (near_pairs, "_HELD"): 5},
    }
    for (module, constant), value in changes[name].items():
        monkeypatch.setattr(module, constant, value)


@pytest.mark.parametrize(
    "name",
    ["partitions", "one partition", "split clusters", "senders", "one sender", "threads for each"],
)
def test_no_size_changes_a_bit(done, tmp_path, monkeypatch, name):
    cut(monkeypatch, name)
    tasks, work = [], near_pairs.Search.run
    monkeypatch.setattr(near_pairs.Search, "run", lambda s, t: tasks.append(t) or work(s, t))
    other = run(tmp_path, SAMPLES)
    assert other.values() == done.values()
    assert other.pairs() == done.pairs()
    same = ("gflop_required", "recall", "recall_pairs", "pairs")
    assert [other.notes[n] for n in same] == [done.notes[n] for n in same]
    if name in ("partitions", "split clusters"):
        assert len(tasks) > 20


@pytest.mark.parametrize(("files", "rows_per_block"), [(1, 1000), (7, 90)])
def test_no_order_changes_a_bit(done, tmp_path, files, rows_per_block):
    order = np.random.default_rng(files).permutation(700)
    pipeline = prepared(tmp_path, SAMPLES[order], files).where(rows_per_block=rows_per_block)
    pipeline.run()
    other = Run(pipeline, SAMPLES)
    assert other.values() == done.values()
    assert other.pairs() == done.pairs()


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(done, tmp_path, ray_cluster):
    there = done.pipeline.where(folder=tmp_path, run={"engine": "ray"})
    assert there.run().exit_code == 0
    assert digests(there.work, ("features",)) == digests(done.pipeline.work, ("features",))


@pytest.mark.slow
def test_an_object_store_holds_the_same(done):
    with object_store() as bucket:
        assert done.pipeline.run(f"work={bucket}/run").exit_code == 0
        url = f"{bucket}/run/features/neighbours/artefact"
        settled, local = pairs.opened(url), pairs.opened(str(done.artefact))
        for one, other in zip(settled.read(0), local.read(0), strict=True):
            assert one.tobytes() == other.tobytes()


def test_a_layout_has_every_pair_of_chunks_once():
    members = np.array([10, 0, 500, 20, 10**6, 3])
    vector = np.dtype(("<f2", (512,)))
    layout = Layout.planned("", members, 5, vector, (1, 1))
    assert layout.clusters.dtype == CLUSTER
    chunks = int(layout.clusters["chunks"][4])
    assert chunks == -(-(10**6) // (near_layout.CHUNK_BYTES // 2048)) > 10
    first = int(layout.clusters["partition"][4])
    tasks = [(task.left, task.right) for task in layout.tasks()]
    assert sorted(tasks) == sorted(set(tasks))
    assert sum(left != right for left, right in tasks) == chunks * (chunks - 1) // 2
    rows = np.random.default_rng(0).normal(size=(4000, 9)).astype(np.float32)
    where = layout.partition(np.full(4000, 4), hashes(rows)) - first
    sizes = np.bincount(where, minlength=chunks)
    assert len(sizes) == chunks
    assert sizes.min() > 0.7 * sizes.mean()
    assert layout.partition(np.array([0, 5]), hashes(rows[:2])).tolist() == [0, first + chunks]
    assert layout.inside(first + 1).tolist() == [4]
    assert layout.inside(0).tolist() == [0, 2, 3]
    assert [task.number for task in layout.tasks()] == list(range(len(tasks)))


# --- twins


def test_equal_embeddings_are_twins_of_the_smallest_uid(tmp_path):
    image = near_copies(300, 5)
    groups = [[3, 8, 100], [4, 299]]
    for first, *others in groups:
        image[others] = image[first]
    image[50] = image[3] * np.float16(2)  # the same at length 1
    samples = pool_of(image)
    groups[0].append(50)
    found, twins = run(tmp_path, samples).pairs()
    uid = samples.frame["uid"]
    wanted = {}
    for group in groups:
        first, *others = sorted(uid[row] for row in group)
        wanted |= dict.fromkeys(others, first)
    assert twins == wanted
    single = samples[[row for row in range(300) if uid[row] not in twins]]
    check(found, brute(single, meeting(single)))


def test_equal_ones_of_other_clusters_are_a_pair(tmp_path):
    """The same direction at another length may be in another cluster: `l2` looks at lengths."""
    image = near_copies(120, 5)
    image[50] = image[3] * np.float16(2)
    samples = pool_of(image)
    pipeline = prepared(tmp_path, samples)
    table = pl.read_parquet(tmp_path / "fine.parquet")
    lone, shared, other = 77, 78, 79
    number = table["cluster"].to_numpy().copy(), table["second"].to_numpy().copy()
    number[0][[3, 50]], number[1][[3, 50]] = (shared, other), (lone, shared)
    table = table.with_columns(cluster=pl.Series(number[0]), second=pl.Series(number[1]))
    table.write_parquet(tmp_path / "fine.parquet")
    assert pipeline.run().exit_code == 0
    found, twins = Run(pipeline, samples).pairs()
    assert not twins
    assert found[frozenset(samples.frame["uid"].gather([3, 50]))] == pytest.approx(1.0, abs=1e-6)


def test_counts_see_twins(tmp_path):
    image = near_copies(300, 5)
    image[[8, 100]] = image[3]
    samples = pool_of(image)
    done = run(tmp_path, samples)
    exact = (similarities(samples) >= FLOOR) & meeting(samples)
    rows = np.argsort(samples.frame["uid"].to_numpy())
    assert [count for count, _ in done.values()["count"]] == (exact.sum(axis=1) - 1)[rows].tolist()
    values = dict(zip(sorted(samples.frame["uid"]), done.values()["nearest"], strict=True))
    assert all(values[samples.frame["uid"][row]] == (1.0, None) for row in (3, 8, 100))


def test_all_embeddings_equal(tmp_path):
    samples = pool_of(np.repeat(near_copies(1), 400, axis=0))
    done = run(tmp_path, samples, pairs_per_sample=3)
    found, twins = done.pairs()
    assert not found
    assert set(twins.values()) == {min(samples.frame["uid"])}
    assert done.values()["count"] == [(399, None)] * 400
    assert done.notes["twins"] == 399


def test_copies_of_a_uid_are_samples_of_their_own(tmp_path):
    image = near_copies(200, 3)
    image[7] = image[5]
    samples = pool_of(image)
    uid = samples.frame["uid"].to_list()
    uid[7] = uid[5]
    samples = samples.with_columns(uid=pl.Series(uid))
    samples = samples[[*range(200), 9]]  # another one, with the same embedding too
    done = run(tmp_path, samples)
    assert done.notes["twins"] == 2
    assert sum(a != b for a, b in done.pairs()[1].items()) == 0
    assert len(done.pairs()[0]) == done.notes["pairs"]


# --- dense clusters


def crowd(count: int, noise: float, seed: int = 1) -> np.ndarray:
    """[N, D] float16 around one embedding."""
    rng = np.random.default_rng(seed)
    return unit(CENTRES[3] + noise * rng.normal(size=(count, WIDTH))).astype(np.float16)


def crowded(noise: float) -> Embedded:
    return pool_of(np.concatenate([near_copies(400), crowd(1200, noise)]))


def effective(samples: Embedded, run: Run) -> np.ndarray:
    """[N, N] the floor of each pair: the lowest of the clusters where both meet."""
    floors, number = np.load(run.artefact / "floors.npy"), assigned(samples)
    own = floors[number][:, :, None]  # [N, 2, 1]
    pairs_ = np.full((len(samples), len(samples)), np.inf)
    for one in (0, 1):
        for other in (0, 1):
            meet = number[:, one][:, None] == number[:, other][None]
            pairs_ = np.where(meet, np.minimum(pairs_, own[:, one]), pairs_)
    return pairs_


def test_a_crowd_of_nearly_equal_ones_becomes_twins(tmp_path):
    samples = crowded(0.005)
    done = run(tmp_path, samples, pairs_per_sample=20)
    found, twins = done.pairs()
    assert done.notes["dense"][0]["cluster"] == 3
    assert done.notes["dense"][0]["floor"] == pytest.approx(FLOOR)
    assert len(twins) > 1000
    assert len(found) < 20 * 1600
    exact, row = similarities(samples), {u: n for n, u in enumerate(samples.frame["uid"])}
    number = assigned(samples)
    for member, of in twins.items():
        assert exact[row[member], row[of]] >= 0.995 - 1e-6
        assert number[row[member], 0] == number[row[of], 0], "of one cluster"
        assert of not in twins
    values = dict(zip(sorted(row), done.values()["count"], strict=True))
    candidates = (meeting(samples).sum() - 1600) // 2
    assert done.notes["gflop_required"] < 0.3 * candidates * 2 * WIDTH / 1e9, "twins cost nothing"
    many = [values[uid][0] for uid in twins if row[uid] >= 400]
    assert len(many) > 1000
    assert min(many) > 1000, "everybody's neighbours are counted"


def test_a_crowd_that_is_no_copy_gets_a_higher_floor(tmp_path):
    samples = crowded(0.04)
    done = run(tmp_path, samples, pairs_per_sample=20, same=0.9999)
    (first, *_) = done.notes["dense"]
    assert first["cluster"] == 3
    assert FLOOR < first["floor"] < 1
    assert first["floor"] * 200 == pytest.approx(round(first["floor"] * 200))
    found, twins = done.pairs()
    outside = brute(samples[range(400)], np.ones((400, 400), dtype=bool))
    within = [pair for pair in found if pair not in outside]
    assert len(within) < 2 * 20 * first["members"], "as far as a part of the members can tell"
    left = samples[[row for row, uid in enumerate(samples.frame["uid"]) if uid not in twins]]
    assert len(twins) < 20, "of those that are no crowd"
    exact, uid, floor = similarities(left), left.frame["uid"].to_list(), effective(left, done)
    near, edge = (exact >= floor) & meeting(left), np.abs(exact - floor) < 1e-6
    wanted, unsure = (
        {frozenset((uid[a], uid[b])) for a, b in np.argwhere(some).tolist() if a < b}
        for some in (near, edge)
    )
    assert {pair for pair in set(found) ^ wanted if pair not in unsure} == set()
    floors = np.load(done.artefact / "floors.npy")[assigned(samples)].max(axis=1)
    order = np.argsort(samples.frame["uid"].to_numpy())
    assert [value for value, _ in done.values()["floor"]] == floors[order].tolist()
    assert done.notes["recall"] < 0.9, "pairs that were not asked for are not recalled"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A run over a dense cluster, of which a part is nearly equal."""
    whole = run(tmp_path_factory.mktemp("dense"), crowded(0.02), pairs_per_sample=20)
    assert whole.notes["dense_clusters"] > 0
    assert whole.notes["twins"] > 50
    return whole


@pytest.mark.parametrize("name", ["senders", "partitions", "threads for each", "order"])
def test_dense_clusters_do_not_depend_on_sizes(dense, tmp_path, monkeypatch, name):
    samples, whole = dense.samples, dense
    order = np.arange(len(samples))
    if name == "order":
        order = np.random.default_rng(0).permutation(len(samples))
    else:
        cut(monkeypatch, name)
    other = run(tmp_path, samples[order], files=5, pairs_per_sample=20)
    assert other.values() == whole.values()
    assert other.pairs() == whole.pairs()
    assert replaced(other.notes) == replaced(whole.notes)


def replaced(notes: dict) -> dict:
    return {name: value for name, value in notes.items() if name != "gflop_done"}


def test_a_split_dense_cluster_is_thinned_too(tmp_path, monkeypatch):
    monkeypatch.setattr(near_layout, "CHUNK_BYTES", 4 * WIDTH * 300)
    samples = crowded(0.005)
    done = run(tmp_path / "one", samples, pairs_per_sample=20)
    _, twins = done.pairs()
    assert len(twins) > 1000
    order = np.random.default_rng(0).permutation(len(samples))
    other = run(tmp_path / "other", samples[order], 5, pairs_per_sample=20)
    assert other.values() == done.values()
    assert other.pairs() == done.pairs()


def test_leaders_are_met_in_order(monkeypatch):
    rows = unit(crowd(900, 0.05).astype(np.float32)).astype(np.float32)
    exact, leaders, wanted = rows.astype(np.float64) @ rows.T, [], []
    for row in range(900):
        near = [n for n, leader in enumerate(leaders) if exact[row, leader] >= 0.97]
        wanted.append(near[0] if near else len(leaders))
        if not near:
            leaders.append(row)
    assert 20 < len(leaders) < 600
    for pieces in ((900,), (1, 499, 400)):
        for at_once, piece in ((1024, 4096), (50, 7)):
            monkeypatch.setattr(collapse, "_AT_ONCE", at_once)
            monkeypatch.setattr(collapse, "_LEADERS", piece)
            found = Leaders(Products("cpu"), 0.97)
            parts = np.split(rows, np.cumsum(pieces)[:-1])
            assert np.concatenate([found.add(part) for part in parts]).tolist() == wanted


def test_beyond_the_most_leaders_rows_stay_alone(monkeypatch):
    monkeypatch.setattr(collapse, "MOST_LEADERS", 5)
    rows = np.eye(8, dtype=np.float32)[[0, 1, 2, 3, 4, 5, 6, 0, 5, 4]]
    assert Leaders(Products("cpu"), 0.9).add(rows).tolist() == [0, 1, 2, 3, 4, -1, -1, 0, -1, 4]


def test_equal_rows_are_found_though_many_begin_alike():
    rows = np.zeros((6, 9), dtype=np.float32)
    rows[1, 8] = rows[3, 8] = rows[5, 8] = 1.0
    label = np.array([0, 0, 0, 0, 1, 1], dtype=np.uint64)
    assert first_equal(rows, label).tolist() == [0, 1, 0, 1, 4, 5]
    assert len(np.unique(hashes(rows))) == 2
    assert (hashes(rows[[5, 1]]) == hashes(rows)[[5, 1]]).all()


# --- stopped and started again


class Stop(Exception):
    """As if the process was killed."""


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    """A run in many partitions that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, "partitions")
        return run(tmp_path_factory.mktemp("in_parts"), crowded(0.02), pairs_per_sample=20)


@pytest.mark.parametrize(
    "place",
    [
        (near_search, "send", 2),
        (near_search, "thin", 1),
        (near_search, "find", 6),
        (near_search.pairs, "_members", 1),
    ],
)
def test_what_was_stopped_goes_on(in_parts, tmp_path, monkeypatch, place):
    cut(monkeypatch, "partitions")
    module, name, calls = place
    left, work = [calls], getattr(module, name)
    pipeline = prepared(tmp_path, in_parts.samples, pairs_per_sample=20)

    def stops(*given):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return work(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stops)
        with pytest.raises(Stop):
            pipeline.run()
    made = []
    searched = near_pairs.Search.run
    monkeypatch.setattr(near_pairs.Search, "run", lambda s, t: made.append(t) or searched(s, t))
    assert pipeline.run().exit_code == 0
    names = ("features/neighbours/artefact", "subset.npy")
    assert digests(pipeline.work, names) == digests(in_parts.pipeline.work, names)
    if module is not near_search:
        assert not made, "no product is made again"
    if name == "find":
        assert 0 < len(made) < sum(1 for _ in Layout.load(str(in_parts.artefact)).tasks())


# --- bad input


def test_who_has_no_direction_says_so(tmp_path):
    image = near_copies(200, 4)
    image[3], image[5, 2], image[9] = np.nan, np.inf, 0
    samples = pool_of(image)
    done = run(tmp_path, samples)
    found = scores(done.pipeline.work, "neighbours", "count")
    uid = samples.frame["uid"]
    assert found[uid[3]] == found[uid[5]] == (None, "no_embedding")
    assert found[uid[9]] == (None, "no_direction")
    assert sum(error is not None for _, error in found.values()) == 3
    rest = samples[[row for row in range(200) if row not in (3, 5, 9)]]
    check(done.pairs()[0], brute(rest, meeting(rest)))
    assert done.notes["samples"] == 197


def test_who_has_no_cluster_says_so(tmp_path):
    samples = pool_of(near_copies(100, 4))
    pipeline = prepared(tmp_path, samples)
    table = pl.read_parquet(tmp_path / "fine.parquet")
    table[10:].write_parquet(tmp_path / "fine.parquet")
    assert pipeline.run().exit_code == 0
    found = scores(pipeline.work, "neighbours", "count")
    gone = set(table["uid"][:10])
    assert {uid for uid, pair in found.items() if pair == (None, "no_cluster")} == gone
    assert sum(error is not None for _, error in found.values()) == 10


def test_one_cluster_has_no_second(tmp_path):
    samples = pool_of(near_copies(100, 4))
    pipeline = prepared(tmp_path, samples)
    table = pl.read_parquet(tmp_path / "fine.parquet")
    table = table.with_columns(cluster=0, second=pl.lit(None, dtype=pl.UInt32))
    table.write_parquet(tmp_path / "fine.parquet")
    assert pipeline.run().exit_code == 0
    check(Run(pipeline, samples).pairs()[0], brute(samples, np.ones((100, 100), dtype=bool)))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_tiny_pools(tmp_path, count):
    """Fewer samples than clusters, or none."""
    samples = pool_of(near_copies(5)[:count])
    done = run(tmp_path, samples, files=1)
    check(done.pairs()[0], brute(samples, meeting(samples)) if count else {})
    assert done.notes["samples"] == count
    assert (done.notes["recall"] is None) == (done.notes["recall_pairs"] == 0)


def test_nobody_has_an_embedding(tmp_path):
    samples = pool_of(np.full((30, WIDTH), np.nan, dtype=np.float16))
    done = run(tmp_path, samples, within=None)
    assert set(done.values()["count"]) == {(None, "no_embedding")}
    assert done.notes["samples"] == 0


def test_widths_of_two_models_do_not_mix(tmp_path):
    pipeline = prepared(tmp_path, SAMPLES, within=None)
    with np.load(tmp_path / "in" / "00000001.npz") as arrays:
        kept = {name: array[:, :8] for name, array in arrays.items()}
    np.savez(tmp_path / "in" / "00000001.npz", **kept)
    with pytest.raises(ConfigError):
        pipeline.run()


def test_scores_are_no_embeddings(tmp_path):
    with pytest.raises(ConfigError, match="a is of type Float64"):
        prepared(tmp_path, SAMPLES, of="a").run()


@pytest.mark.parametrize(
    "step",
    [
        {"floor": 0},
        {"floor": 1},
        {"floor": -0.5},
        {"same": 0.9},
        {"same": 1.5},
        {"pairs_per_sample": 0},
        {"within": "coarse"},
        {"of": "b32_img"},
    ],
)
def test_check_says_what_is_wrong(tmp_path, step):
    with pytest.raises((InvalidPipeline, ConfigError)):
        compile_pipeline(load(prepared(tmp_path, pool_of(near_copies(5)), **step).file()))


def test_who_came_after_a_frozen_fit_says_so(tmp_path):
    pipeline = prepared(tmp_path, SAMPLES[range(500)], within=None, when_changed="freeze")
    pipeline.run()
    before = scores(pipeline.work, "neighbours", "count")
    SAMPLES[range(500, 700)].write(tmp_path / "more", 1)
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "in" / f"1{file.name}")
    assert pipeline.run().exit_code == 0
    after = scores(pipeline.work, "neighbours", "count")
    assert {uid: after[uid] for uid in before} == before
    assert {after[uid] for uid in set(after) - set(before)} == {(None, "not_fitted")}


@pytest.mark.parametrize("threshold", [0.93, 0.97])
def test_semantic_duplicates_decide_over_them(done, tmp_path, threshold):
    """Greedy by uid: who stays has no neighbour that stays, who goes has one."""
    pipeline = done.pipeline.where(folder=tmp_path)
    pipeline = replace(pipeline, steps=(*pipeline.steps, {"semantic_duplicates": threshold}))
    assert pipeline.run().exit_code == 0
    kept = {f"{hi:016x}{lo:016x}" for hi, lo in np.load(pipeline.work / "subset.npy").tolist()}
    near = [pair for pair, value in done.pairs()[0].items() if value >= threshold]
    wanted: set[str] = set()
    of: dict[str, set[str]] = {}
    for left, right in map(sorted, near):
        of.setdefault(right, set()).add(left)
    for uid in sorted(SAMPLES.frame["uid"]):
        if not of.get(uid, set()) & wanted:
            wanted.add(uid)
    assert kept == wanted
    assert len(kept) < 700
