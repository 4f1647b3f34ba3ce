"""Cards of clusters: every number and every sample is that of a recount by hand."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from planted_clusters import planted
from tiny_pool import Reported, ledger_of

from curate.report.clusters import RANKS, clusters, ranks_of
from curate.report.reading import read_facts
from curate.report.schema import Clusters
from curate.runner import LocalRunner

COUNT = 700
LEVELS = {"levels": np.array([40])}
NO_PARENTS = {"parents": np.zeros(0, dtype=np.int64)}

PLUGIN = '''\
"""Clusters by the length of captions."""

import polars as pl
from curate.features import Columns, Feature, Field


class Lengths(Feature):
    """Clusters by the length of captions."""

    name: str = "lengths"

    def needs(self):
        return ("caption",)

    def gives(self):
        return (Field("cluster", "uint32", "number"), Field("distance", "float32", "length"))

    def open(self, device):
        return Scorer()


class Scorer:
    batch = 64

    def score(self, prepared, frame):
        length = frame["caption"].str.len_chars()
        return Columns({"cluster": length % 3, "distance": length.cast(pl.Float32)})
'''


def samples(count: int = COUNT, seed: int = 0) -> pl.DataFrame:
    """Clusters from large to small; equal distances, and some without one, or without a cluster."""
    rng = np.random.default_rng(seed)
    cluster = np.minimum(rng.geometric(0.12, count) - 1, 39)
    distance = np.round(rng.random(count) * (0.2 + cluster % 4 * 0.5), 1)
    words = np.array(["red", "blue", "dog", "cat", "the", "a", "of", "東京塔"])
    frame = pl.DataFrame(
        {
            # The first halves repeat, and the second ones are in another order.
            "uid": [f"{(n * 7919) % 31:016x}{n:016x}" for n in rng.permutation(count).tolist()],
            "text": [
                None if n % 19 == 3 else f"{' '.join(rng.choice(words, 4))} {c}"
                for n, c in enumerate(cluster.tolist())
            ],
            "c": [None if n % 23 == 1 else c for n, c in enumerate(cluster.tolist())],
            "d": [None if n % 29 == 2 else d for n, d in enumerate(distance.tolist())],
            "n": range(count),
        }
    )
    return frame


def cards_of(pipeline: Reported) -> list[dict]:
    found = json.loads((pipeline.work / "report" / "report.json").read_text())["clusters"]
    for section in found:
        Clusters.model_validate(section)
    return found


def recount(pipeline: Reported, frame: pl.DataFrame) -> pl.DataFrame:
    """Who reached the step `coarse`, with its fate."""
    ledger = ledger_of(pipeline.work).select("uid", "fate", "step")
    return frame.join(ledger, on="uid").filter(pl.col("step").ne_missing("where"))


@pytest.fixture(scope="module")
def balanced(tmp_path_factory) -> tuple[Reported, pl.DataFrame]:
    frame = samples()
    steps = (
        {"cluster_balance": {"keep": 0.6}},
        {"random_sample": {"fraction": 0.9, "of": "survivors"}},
    )
    learnt = {**LEVELS, **NO_PARENTS}
    folder = tmp_path_factory.mktemp("balanced")
    pipeline = planted(folder, frame, learnt, *steps, files=3, rows_per_block=200)
    first = [{"where": "n % 10 > 0"}]
    pipeline = pipeline.where(steps=[*first, *pipeline.steps])
    assert pipeline.run().exit_code == 0
    return pipeline, frame


def test_sizes_and_kept_are_those_of_a_recount(balanced):
    (said,) = cards_of(balanced[0])
    rows = recount(*balanced)
    assert (said["step"], said["measure"]) == ("coarse", "coarse.distance")
    assert said["samples"] == rows.height
    assert said["without"] == rows["c"].null_count()
    sizes = Counter(rows["c"].drop_nulls().to_list())
    kept = Counter(rows.filter(fate="kept")["c"].drop_nulls().to_list())
    order = sorted(sizes, key=lambda c: (-sizes[c], c))
    assert said["ranks"] == list(range(1, len(order) + 1))
    assert said["sizes"] == [sizes[c] for c in order]
    assert said["kept"] == [kept[c] for c in order]
    assert (said["clusters"], said["empty"]) == (len(order), None)
    tenths = Counter(min(9, 10 * kept[c] // sizes[c]) for c in order if sizes[c] >= 20)
    assert said["kept_shares"] == [tenths[n] for n in range(10)]
    some = [c for c in order if sizes[c] >= 20]
    least = sorted(some, key=lambda c: (kept[c] / sizes[c], c))[:6]
    most = sorted(some, key=lambda c: (-kept[c] / sizes[c], c))[:6]
    chosen = {"largest": order[:12], "kept_least": least, "kept_most": most}
    wanted = [c for c in order if any(c in own for own in chosen.values())]
    assert [card["cluster"] for card in said["cards"]] == wanted
    for card in said["cards"]:
        c = card["cluster"]
        assert (card["size"], card["kept"]) == (sizes[c], kept[c])
        assert card["chosen"] == [why for why, own in chosen.items() if c in own]


def test_central_and_outlying_samples_are_the_nearest_and_the_farthest(balanced):
    rows = recount(*balanced).drop_nulls(["c", "d"])
    for card in cards_of(balanced[0])[0]["cards"]:
        own = rows.filter(c=card["cluster"])
        central = own.sort("d", "uid").head(4)["uid"].to_list()
        outlying = own.sort("d", "uid", descending=[True, False]).head(4)["uid"].to_list()
        assert [one["uid"] for one in card["central"]] == central
        assert [one["uid"] for one in card["outlying"]] == [u for u in outlying if u not in central]
        facts = {row["uid"]: row for row in own.iter_rows(named=True)}
        for one in card["central"] + card["outlying"]:
            row = facts[one["uid"]]
            assert one["caption"] == row["text"]
            assert one["removed_by"] == row["step"]
            assert one["values"] == {"coarse.distance": pytest.approx(row["d"])}


def test_words_are_those_of_the_captions(balanced):
    rows = recount(*balanced).drop_nulls(["c", "text"])
    for card in cards_of(balanced[0])[0]["cards"]:
        texts = rows.filter(c=card["cluster"])["text"].to_list()
        assert card["captions"] == len(texts)
        spelt = [set(text.replace("東京塔", "東京 京塔").split()) for text in texts]
        counts = Counter(word for words in spelt for word in words - {"the", "a", "of"})
        order = sorted(counts, key=lambda word: (-counts[word], word))[:10]
        assert card["words"] == [{"word": word, "captions": counts[word]} for word in order]


def test_captions_of_a_large_cluster_are_drawn_by_uid(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.report.clusters.cards.CAPTIONS", 25)
    frame = samples()
    found = []
    for files, rows in ((1, 1000), (5, 64)):
        own = planted(tmp_path / str(files), frame, {}, files=files, rows_per_block=rows)
        assert own.run().exit_code == 0
        found.append(cards_of(own))
        frame = frame.sample(fraction=1, shuffle=True, seed=4)
    assert max(card["captions"] for card in found[0][0]["cards"]) == 25
    for section in found:
        for card in section[0]["cards"]:
            for one in card["central"] + card["outlying"]:
                del one["shard"], one["row"]
    assert found[0] == found[1]


class Backwards(LocalRunner):
    """Gives results in another order, as many workers would."""

    def map(self, work, items, label):
        return iter([work(item) for item in reversed(list(items))])


def test_the_order_of_results_changes_nothing(balanced):
    found = clusters(read_facts(str(balanced[0].work)), Backwards())
    assert json.loads(json.dumps(found)) == cards_of(balanced[0])


def test_a_balance_holds_clusters_at_their_cap(balanced):
    rows = recount(*balanced)
    before = Counter(rows["c"].drop_nulls().to_list())
    after = Counter(
        rows.filter(pl.col("step").ne_missing("cluster_balance"))["c"].drop_nulls().to_list()
    )
    marks = set()
    for card in cards_of(balanced[0])[0]["cards"]:
        capped = after[card["cluster"]] < before[card["cluster"]]
        if capped:
            assert (card["mark"], card["mark_by"]) == ("cap", "cluster_balance")
        else:
            whole = {0: "nothing", card["size"]: "everything"}
            assert card["mark"] == whole.get(card["kept"], "none")
            assert card["mark_by"] is None
        marks.add(card["mark"])
    assert {"cap"} < marks


def marks_of(folder: Path, *steps: dict) -> dict[int, str]:
    frame = samples()
    centroids = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    learnt = {**LEVELS, **NO_PARENTS, "centroids": centroids}
    pipeline = planted(folder, frame, learnt, *steps)
    assert pipeline.run().exit_code == 0
    (said,) = cards_of(pipeline)
    return {card["cluster"]: card["mark"] for card in said["cards"]}


def test_pruning_holds_clusters_at_their_floor(tmp_path):
    prune = {"keep": 0.2, "temperature": 0.3, "balance": 1.0}
    marks = marks_of(tmp_path, {"concept_prune": prune})
    report = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    (learnt,) = [f["learnt"] for step in report["steps"] for f in step["filters"]]
    assert learnt["clusters_at_floor"] > 5
    (said,) = report["clusters"]
    for card in said["cards"]:
        if card["mark"] == "floor":
            assert card["kept"] == min(learnt["floor"], card["size"] - 1)
        else:
            assert card["kept"] > min(learnt["floor"], card["size"] - 1)
    assert set(marks.values()) == {"floor", "none"}


def test_a_cluster_smaller_than_the_floor_is_at_it_with_all_but_one(tmp_path):
    c = [0] * 300 + [1] * 5 + [2] * 6
    frame = samples(len(c)).with_columns(c=pl.Series(c), d=pl.Series([0.5] * 300 + [0.0] * 11))
    centroids = np.eye(3, dtype=np.float32)
    prune = {"concept_prune": {"keep": 0.5, "balance": 1.0}}
    pipeline = planted(tmp_path, frame, {"centroids": centroids}, prune)
    assert pipeline.run().exit_code == 0
    (said,) = cards_of(pipeline)
    found = {card["cluster"]: (card["kept"], card["mark"]) for card in said["cards"]}
    assert found == {0: (146, "none"), 1: (4, "floor"), 2: (5, "floor")}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"cap": 20}, lambda size: "cap" if size > 20 else "everything"),
        ({"keep_count": 350, "power": 1.0, "cap": 40, "floor": 15}, None),
    ],
)
def test_groups_by_a_column_of_clusters_are_read_by_the_hash_of_their_name(
    tmp_path, rule, expected
):
    marks = marks_of(tmp_path, {"balanced_by": {"column": "coarse.cluster", **rule}})
    (said,) = json.loads((tmp_path / "work" / "report" / "report.json").read_text())["clusters"]
    for card in said["cards"]:
        if expected is not None:
            assert card["mark"] == expected(card["size"])
        elif card["kept"] in (15, 40) and card["kept"] < card["size"]:
            assert card["mark"] == {15: "floor", 40: "cap"}[card["kept"]]
        else:
            assert card["mark"] in ("none", "everything")
    assert len(set(marks.values())) > 1


def test_a_pool_without_captions_or_distances_has_cards_of_numbers(tmp_path):
    frame = samples().drop("text").with_columns(d=None)
    pipeline = planted(tmp_path, frame, {}, {"where": "coarse.cluster < 0"})
    assert pipeline.run().exit_code == 0
    (said,) = cards_of(pipeline)
    assert all(card["central"] == card["outlying"] == card["words"] == [] for card in said["cards"])
    assert {card["mark"] for card in said["cards"]} == {"nothing"}
    assert {tuple(card["chosen"]) for card in said["cards"]} == {("largest",)}  # all kept nothing


@pytest.mark.parametrize("cluster", [0, None, 4_000_000_000])
def test_one_cluster_or_none(tmp_path, cluster):
    frame = samples(40).with_columns(c=pl.lit(cluster, dtype=pl.UInt32))
    pipeline = planted(tmp_path, frame, {})
    assert pipeline.run().exit_code == 0
    (said,) = cards_of(pipeline)
    assert said["samples"] == 40
    if cluster is None:
        assert (said["clusters"], said["without"], said["cards"]) == (0, 40, [])
    else:
        assert [card["size"] for card in said["cards"]] == [40]
        assert said["kept_shares"] == [0] * 9 + [1]
        assert len(said["cards"][0]["central"]) == len(said["cards"][0]["outlying"]) == 4


def test_rows_that_only_the_probe_looked_at_are_in_no_cluster(tmp_path):
    frame = samples(200)
    (tmp_path / "in").mkdir()
    frame.with_columns(url="uid").write_parquet(tmp_path / "in" / "0.parquet")
    (tmp_path / "lengths.py").write_text(PLUGIN)
    steps = ({"where": "n % 2 = 0"}, {"lengths": {}})
    pipeline = Reported(tmp_path, {"metadata": str(tmp_path / "in")}, steps)
    pipeline = pipeline.where(plugins=["./lengths.py"], probe=0.9)
    assert pipeline.run().exit_code == 0
    (said,) = cards_of(pipeline)
    own = frame.filter(pl.col("n") % 2 == 0)["text"]
    assert (said["samples"], said["without"]) == (100, own.null_count())
    assert sum(card["size"] for card in said["cards"]) == 100 - own.null_count()
    assert sum(card["captions"] for card in said["cards"]) == 100 - own.null_count()


@pytest.mark.parametrize("count", [0, 1, RANKS, RANKS + 1, 100_000])
def test_ranks_are_all_or_evenly_spaced_logarithms(count):
    found = ranks_of(count).tolist()
    assert found == sorted(set(found))
    assert len(found) == count if count <= RANKS else len(found) <= RANKS
    assert not count or (found[0], found[-1]) == (1, count)
