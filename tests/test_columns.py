"""Columns on disk: parts, their compaction, what a crash leaves, and nulls."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import columns, parquet, storage
from curate.columns import ROW, Column, Span, Store
from curate.errors import StorageError


def part(rows, value, field="score"):
    return pl.DataFrame(
        {ROW: np.array(rows, dtype=np.uint32), field: np.full(len(rows), float(value))}
    )


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "features" / "clip"))


def stored(store, block=0, unit=None):
    return dict(store.read(block, ["score"], unit).rows())


def test_nothing_stored_is_no_rows(store):
    assert stored(store) == {}
    assert store.rows(0).tolist() == []
    store.compact(0)
    assert not storage.exists(store.folder)


def test_parts_of_all_units_are_read_together(store):
    store.write_part(0, 3, part([30, 31], 3))
    store.write_part(0, 0, part([0, 2], 1))
    assert stored(store) == {0: 1, 2: 1, 30: 3, 31: 3}
    assert stored(store, unit=3) == {30: 3, 31: 3}
    assert store.rows(0, 0).tolist() == [0, 2]
    assert stored(store, block=1) == {}


def test_the_last_part_wins(store):
    store.write_part(0, 0, part([0, 1, 2], 1))
    store.write_part(0, 0, part([1], 2))
    assert stored(store) == {0: 1, 1: 2, 2: 1}
    store.compact(0)
    assert stored(store) == {0: 1, 1: 2, 2: 1}
    store.write_part(0, 0, part([2, 9], 3))
    assert stored(store) == {0: 1, 1: 2, 2: 3, 9: 3}


def test_compaction_leaves_one_file_of_the_same_rows(store):
    for unit in (0, 4, 2):
        store.write_part(7, unit, part([unit * 10 + 1, unit * 10 + 5], unit))
    before = store.read(7, ["score"])
    store.compact(7)
    assert storage.names(store.folder) == ["block-0007.parquet"]
    assert storage.names(store.part_folder(7)) == []
    assert store.read(7, ["score"]).equals(before)
    assert before[ROW].is_sorted()


def test_a_block_of_one_part_is_that_part_as_it_was_written(store):
    store.write_part(2, 0, part([3, 4], 1))
    (name,) = storage.names(store.part_folder(2))
    written = storage.entry(storage.join(store.part_folder(2), name))
    store.compact(2)
    assert storage.names(store.folder) == ["block-0002.parquet"]
    assert storage.names(store.part_folder(2)) == []
    assert storage.entry(store.block_file(2)).version == written.version  # not written anew


def test_a_crash_between_the_compacted_file_and_the_removal_of_its_parts(store):
    store.write_part(0, 0, part([0, 1], 1))
    store.write_part(0, 0, part([1], 2))
    left = {name: storage.read(storage.join(store.part_folder(0), name))
            for name in storage.names(store.part_folder(0))}  # fmt: skip
    store.compact(0)
    whole = storage.read(store.block_file(0))
    for gone in ([], [min(left)], [max(left)]):  # the folder may be half removed
        for name in set(left) - set(gone):
            storage.commit(storage.join(store.part_folder(0), name), left[name])
        assert stored(store) == ({0: 1, 1: 1} if gone == [max(left)] else {0: 1, 1: 2})
        storage.remove(store.part_folder(0))
        store.compact(0)
        assert storage.read(store.block_file(0)) == whole


@settings(max_examples=50)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 2), st.sets(st.integers(0, 9), min_size=1)), max_size=6
    ),
    compacted=st.sets(st.integers(0, 5)),
)
def test_when_a_block_is_compacted_makes_no_difference(tmp_path_factory, parts, compacted):
    store = Store(str(tmp_path_factory.mktemp("store")))
    expected = {}
    for number, (unit, rows) in enumerate(parts):
        own = [unit * 10 + row for row in sorted(rows)]
        store.write_part(0, unit, part(own, number))
        expected.update(dict.fromkeys(own, number))
        if number in compacted:
            store.compact(0)
    assert stored(store) == expected
    store.compact(0)
    assert stored(store) == expected


def test_a_crash_between_arrays_and_scalars_is_made_good(store):
    """Arrays come first: without scalars they prove nothing, and the same work overwrites them."""
    rows = np.array([0, 4, 5])
    store.write_arrays(12, rows, {"image": np.full((3, 2), 7.0)})
    assert store.rows(0).tolist() == []
    before = storage.names(storage.join(store.folder, "000"))
    store.write_arrays(12, rows, {"image": np.full((3, 2), 8.0)})
    store.write_part(0, 12, part(rows, 1))
    assert storage.names(storage.join(store.folder, "000")) == before
    stem = store.array_stem(12, rows)
    assert storage.read_array(f"{stem}.rows.npy").tolist() == [0, 4, 5]
    image = storage.read_array(f"{stem}.image.npy")
    assert image.dtype == np.float16
    assert image.tolist() == [[8, 8]] * 3


def test_arrays_of_other_rows_stand_beside(store):
    store.write_arrays(1001, np.array([0]), {"image": np.zeros((1, 2))})
    store.write_arrays(1001, np.array([1]), {"image": np.zeros((1, 2))})
    names = storage.names(storage.join(store.folder, "001"))
    assert len(names) == 4
    assert all(name.startswith("01001-") for name in names)


# --- what steps read


@pytest.fixture
def work(tmp_path):
    work = str(tmp_path)
    frame = pl.DataFrame(
        {
            "uid_hi": np.arange(6, dtype=np.uint64),
            "uid_lo": np.arange(6, dtype=np.uint64),
            "caption": ["a", "b", None, "d", "e", "f"],
            "score": [0.1, float("nan"), None, 0.4, 0.5, 0.6],
        }
    )
    parquet.write_parquet(columns.store(work, "pool").block_file(0), frame)
    return work


REGISTRY = {
    "uid": Column("pool", "uid", "String"),
    "caption": Column("pool", "caption", "String"),
    "score": Column("pool", "score", "Float64"),
    "extra": Column("pool", "extra", "Float64"),
    "note": Column("pool", "note", "String"),
    "clip.score": Column("clip", "score", "Float64"),
    "clip.error": Column("clip", "error", "String"),
}


def test_nan_is_null(work):
    scores = part([0, 1, 3], 0.2).with_columns(score=pl.Series([0.2, float("nan"), 0.3]))
    columns.store(work, "clip").write_part(0, 0, scores)
    frame = columns.load(work, REGISTRY, ["score", "clip.score"], Span(0, 0, 6))
    assert frame["score"].to_list() == [0.1, None, None, 0.4, 0.5, 0.6]
    assert frame["clip"].struct.field("score").to_list() == [0.2, None, None, 0.3, None, None]


def test_a_span_is_a_part_of_its_block(work):
    columns.store(work, "clip").write_part(0, 2, part([2, 4], 1))
    frame = columns.load(work, REGISTRY, ["uid", "caption", "clip.score"], Span(0, 2, 5, 2))
    assert frame["caption"].to_list() == [None, "d", "e"]
    assert frame["uid"].to_list() == [f"{n:016x}{n:016x}" for n in (2, 3, 4)]
    assert frame["clip"].struct.field("score").to_list() == [1, None, 1]
    uids = columns.uids(work, Span(0, 2, 5))
    assert uids["f1"].tolist() == [2, 3, 4]


def test_a_column_that_an_older_block_lacks_is_null_of_its_type(work):
    frame = columns.load(work, REGISTRY, ["caption", "extra", "note"], Span(0, 0, 6))
    assert frame["extra"].to_list() == [None] * 6
    assert frame.schema["extra"] == pl.Float64
    assert frame.schema["note"] == pl.String
    only = columns.load(work, REGISTRY, ["note"], Span(0, 1, 3))
    assert only.schema["note"] == pl.String
    assert only.height == 2


def test_a_column_that_a_later_file_made_wider_is_read_as_that(work):
    wider = {**REGISTRY, "score": Column("pool", "score", "String")}
    frame = columns.load(work, wider, ["score"], Span(0, 0, 1))
    assert frame["score"].to_list() == ["0.1"]


@pytest.mark.parametrize("span", [Span(0, 0, 0), Span(0, 3, 3), Span(1, 0, 0)])
def test_a_span_of_no_rows_has_none(work, span):
    parquet.write_parquet(
        columns.store(work, "pool").block_file(1),
        parquet.read_parquet(columns.store(work, "pool").block_file(0))[:0],
    )
    frame = columns.load(work, REGISTRY, ["caption", "clip.score"], span)
    assert frame.height == 0
    assert len(columns.uids(work, span)) == 0


def test_a_missing_block_of_the_pool_is_named(work):
    with pytest.raises(StorageError, match=r"block-0009\.parquet cannot be read"):
        columns.load(work, REGISTRY, ["caption"], Span(9, 0, 3))


def test_no_columns_are_still_so_many_rows(work):
    assert columns.load(work, REGISTRY, [], Span(0, 1, 4)).height == 3
