"""The best of each class: to the row, with what is said of classes that stay short."""

import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.check import compile_pipeline
from curate.errors import InvalidPipeline
from curate.pipeline_file.config import load
from filters import Batch, Counts, Unbound, structured
from filters.retrieve_per_class import RetrievePerClass
from tests.planted_clusters import PLUGIN, planted, uids
from tests.tiny_pool import ledger_of

AVAILABLE = {
    "classes.number": "UInt32",
    "classes.name": "String",
    "classes.similarity": "Float32",
}
NAMES = [f"class {n}" for n in range(400)]


def batch(numbers, similarities):
    series = {
        "classes.number": pl.Series(numbers, dtype=pl.UInt32),
        "classes.name": pl.Series(
            [None if n is None else NAMES[n] for n in numbers], dtype=pl.String
        ),
        "classes.similarity": pl.Series(similarities, dtype=pl.Float32).fill_nan(None),
    }
    rows = np.arange(len(numbers), dtype=np.uint64)
    return Batch(structured(series, len(numbers)), rows, rows, lambda _: rows)


def bound(**fields):
    return RetrievePerClass(name="retrieve", **fields).bind(AVAILABLE)


def fitted(ready, numbers, similarities):
    summary = ready.summarize(batch(numbers, similarities))
    state = ready.fit(summary, Counts(len(numbers), len(numbers)), {})
    return json.loads(json.dumps(state, allow_nan=False))


def test_so_many_of_each_class_and_all_of_a_short_one():
    state = fitted(bound(count=3), [0] * 5 + [2] * 2 + [5], np.linspace(0, 0.7, 8))
    assert state["quota"] == [3, 0, 2, 0, 0, 1]
    assert (state["kept"], state["classes"], state["classes_short"]) == (6, 6, 5)
    assert [(c["number"], c["name"], c["have"], c["wanted"]) for c in state["short"]] == [
        (1, None, 0, 3),
        (3, None, 0, 3),
        (4, None, 0, 3),
        (5, "class 5", 1, 3),
        (2, "class 2", 2, 3),
    ]


def test_those_that_are_not_near_enough_do_not_count():
    """float32 0.2 is above 0.2 in float64, and 0.3 below: both pass as they were written."""
    near = [0.1, 0.2, 0.3, 0.19999, 0.5, float("nan")]
    assert fitted(bound(count=9, at_least=0.2), [1] * 6, near)["quota"] == [0, 3]
    assert fitted(bound(count=9, at_least=0.3), [1] * 6, near)["quota"] == [0, 2]
    state = fitted(bound(count=9, at_least=0.9), [1] * 6, near)
    assert (state["quota"], state["scored"], state["near_enough"]) == ([0, 0], 5, 0)
    assert state["short"][1] == {"number": 1, "name": "class 1", "have": 0, "wanted": 9}


def test_of_many_short_classes_the_shortest_are_listed():
    numbers = np.repeat(np.arange(300), 1 + np.arange(300) % 3)
    state = fitted(bound(count=1000), numbers, np.full(len(numbers), 0.5))
    assert state["classes_short"] == 300
    assert [c["have"] for c in state["short"]] == [1] * 100 + [2] * 100
    assert [c["number"] for c in state["short"][:3]] == [0, 3, 6]


def test_nobody_and_one():
    ready = bound(count=4)
    state = ready.fit(None, Counts(5, 0), {})
    assert (state["quota"], state["classes_short"], state["kept"]) == ([], 0, 0)
    assert fitted(ready, [], [])["quota"] == []
    assert fitted(ready, [None, 3], [0.5, None])["quota"] == []
    assert fitted(ready, [2], [0.5])["quota"] == [0, 0, 1]
    assert ready.group(batch([None, 3, 4], [0.5, None, 0.1])).tolist() == [-1, -1, 4]


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.floats(-1, 1, width=32)), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_what_is_learnt_depends_on_no_order_and_no_division(rows, cuts):
    ready = bound(count=4, at_least=0.2)

    def state(parts):
        total = None
        for part in parts:
            own = ready.summarize(batch([n for n, _ in part], [s for _, s in part]))
            total = own if total is None else ready.merge(own, total)
        return json.dumps(ready.fit(total, Counts(0, len(rows)), {}))

    places = sorted(min(cut, len(rows)) for cut in cuts)
    mixed = rows[::-1]
    parts = [mixed[a:b] for a, b in zip([0, *places], [*places, len(rows)], strict=True)]
    assert state(parts) == state([rows])


# --- whole runs: a step with planted classes, as planted clusters are


CLASSES = (
    PLUGIN.replace(
        '(Field("cluster", "uint32", "planted"), Field("distance", "float32", "planted"))',
        '(Field("number", "uint32", "planted"), Field("name", "string", "planted"), '
        'Field("similarity", "float32", "planted"))',
    )
    .replace('{"cluster": part.batch.frame["c"], "distance": part.batch.frame["d"]}',
             '{"number": part.batch.frame["c"], "similarity": part.batch.frame["d"], '
             '"name": [None if c is None else f"class {c}" for c in part.batch.frame["c"]]}')
)  # fmt: skip


def classified(folder, frame, step, **shape):
    pipeline = planted(folder, frame, {}, {"retrieve_per_class": step}, **shape)
    (folder / "planted.py").write_text(CLASSES)
    return pipeline


def samples(count=300):
    rng = np.random.default_rng(0)
    numbers = rng.choice(12, count, p=rng.dirichlet(np.full(12, 0.5)))
    near = np.round(rng.uniform(-0.2, 0.5, count), 2)
    return pl.DataFrame({"uid": uids(count), "c": numbers, "d": near})


def test_the_nearest_of_each_class_stay(tmp_path):
    frame = samples()
    pipeline = classified(
        tmp_path, frame, {"count": 20, "at_least": 0.1}, files=3, rows_per_block=70
    )
    assert pipeline.run().exit_code == 0
    ranked = frame.filter(pl.col("d").cast(pl.Float32) >= 0.1)
    ranked = ranked.sort("c", "d", "uid", descending=[False, True, False])
    best = ranked.group_by("c", maintain_order=True).head(20)
    ledger = ledger_of(pipeline.work)
    assert sorted(ledger.filter(fate="kept")["uid"]) == sorted(best["uid"])
    assert set(ledger["reason"]) == {None, "over_quota"}
    removed = ledger.filter(reason="over_quota")["values"].to_list()
    assert set(removed[0]) == {"coarse.number", "coarse.name", "coarse.similarity"}


def test_no_order_no_file_and_no_block_changes_who_stays(tmp_path):
    """With uids that repeat, and samples without a class or a similarity."""
    frame = samples(200)
    frame = pl.concat([frame, frame[:30]]).with_columns(
        c=pl.when(pl.int_range(pl.len()) % 23 == 4).then(None).otherwise("c"),
        d=pl.when(pl.int_range(pl.len()) % 29 == 4).then(float("nan")).otherwise("d"),
    )
    found = []
    for number, (files, rows) in enumerate([(1, 1000), (4, 50), (7, 33)]):
        mixed = frame[np.random.default_rng(number).permutation(frame.height)]
        pipeline = classified(
            tmp_path / str(number), mixed, {"count": 7}, files=files, rows_per_block=rows
        )
        assert pipeline.run().exit_code == 0
        ledger = ledger_of(pipeline.work)
        assert set(ledger["reason"]) == {None, "over_quota", "unscored"}
        found.append(sorted(ledger.filter(fate="kept")["uid"]))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "`count` must be given"),
        ({"count": 0}, "greater than 0"),
        ({"count": 5, "classes": "other"}, "other is no step before this one"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, said):
    pipeline = classified(tmp_path, samples(9), fields)
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(pipeline.file()))
    assert re.search(said, str(caught.value))


def test_a_step_of_classes_must_stand_before():
    with pytest.raises(Unbound, match=r"put `- classes: \{...\}` before this step"):
        RetrievePerClass(count=3).bind({"coarse.cluster": "UInt32"})
