"""Subsets: sorted, DataComp's bytes, merged from the runs of blocks without a block too many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import storage
from curate.errors import StorageError
from curate.sample import make_uids
from curate.subsets import sorted_files, subset


def uids_of(numbers):
    halves = np.array(numbers, dtype=object)
    return make_uids(
        np.array([n >> 64 for n in halves], dtype=np.uint64),
        np.array([n & (2**64 - 1) for n in halves], dtype=np.uint64),
    )


# Few values, so that uids repeat; near 2**64, so that both halves decide.
NUMBERS = st.lists(
    st.one_of(
        st.integers(0, 3), st.integers(2**64 - 2, 2**64 + 2), st.integers(2**127, 2**128 - 1)
    ),
    max_size=40,
)


@given(NUMBERS)
def test_sorting_is_that_of_the_128_bits(numbers):
    found = subset.sort(uids_of(numbers))
    whole = [(int(uid["f0"]) << 64) + int(uid["f1"]) for uid in found]
    assert whole == sorted(numbers)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=60),
    st.sampled_from([1, 2**40, 2**62]),
    st.integers(0, 3),
)
def test_ranking_is_a_stable_lexsort(pairs, spread, runs):
    uids = make_uids(
        np.array([high * spread for high, _ in pairs], dtype=np.uint64),
        np.array([low for _, low in pairs], dtype=np.uint64),
    )
    order, same = subset.ranked(uids, runs)
    assert order.tolist() == np.lexsort((uids["f1"], uids["f0"])).tolist()
    ranked = uids[order].tolist()
    assert same.tolist() == [i > 0 and ranked[i] == ranked[i - 1] for i in range(len(ranked))]


@pytest.mark.parametrize("low_bits", [0, 8, 30, 64])
def test_many_rows_are_ranked_exactly_where_upper_bits_tie(low_bits):
    """Of 200,000 rows only 46 bits of f0 are sorted at once: the rest is put right."""
    chance = np.random.default_rng(low_bits)
    f0 = chance.integers(0, 2**64, 200_000, dtype=np.uint64)
    few = chance.integers(0, 2**64, 50, dtype=np.uint64)
    f0[::2] = few[chance.integers(0, 50, 100_000)] & ~np.uint64(2**16 - 1)
    f0[::2] |= chance.integers(0, 2 ** min(low_bits, 16), 100_000, dtype=np.uint64)
    f1 = chance.integers(0, 2**low_bits - 1, 200_000, dtype=np.uint64, endpoint=True)
    uids = make_uids(f0, f1)
    order, same = subset.ranked(uids)
    expected = np.lexsort((f1, f0))
    assert (order == expected).all()
    assert same.sum() == 200_000 - len(np.unique(uids))


@given(NUMBERS)
def test_a_subset_is_read_back(tmp_path_factory, numbers):
    url = str(tmp_path_factory.mktemp("subset") / "a.npy")
    uids = subset.sort(uids_of(numbers))
    subset.save(url, uids)
    assert (subset.load(url) == uids).all()
    raw = np.load(url)  # as DataComp reads it
    assert raw.dtype == np.dtype("u8,u8")
    assert raw.tobytes() == uids.tobytes()


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), dtype="u8,u8")])
def test_what_is_no_subset_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(StorageError, match=r"a\.npy holds .*; a subset is `u8,u8`"):
        subset.load(str(tmp_path / "a.npy"))


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array at all")
    with pytest.raises(StorageError, match=r"a\.npy is not an array: the magic string"):
        subset.load(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("place", ["{folder}/a.npy", "memory://{folder}/a.npy"])
def test_a_truncated_file_is_refused_by_both_numbers(tmp_path, place):
    url = place.format(folder=tmp_path)
    subset.save(url, uids_of(range(1000)))
    whole = storage.read(url)
    storage.commit(url, whole[:-17])
    with pytest.raises(StorageError, match=r"header promises 1,000 rows, it holds 998"):
        subset.load(url)
    for cut in (0, 5, 60):
        storage.commit(url, whole[:cut])
        with pytest.raises(StorageError, match=r"a\.npy is not an array"):
            subset.load(url)


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 5)), max_size=30
)  # (uid, block, copies)


@settings(max_examples=60)
@given(rows=ROWS, chunk=st.sampled_from([1, 3, 1000]), spread=st.sampled_from([1, 2**61]))
def test_merging_runs_is_sorting_all(tmp_path_factory, rows, chunk, spread):
    folder = tmp_path_factory.mktemp("runs")
    runs, everything = [], []
    for block in range(3):
        own = [row for row in rows if row[1] == block]
        uids = make_uids(
            np.array([uid * spread for uid, _, _ in own], dtype=np.uint64),
            np.array([uid % 2 for uid, _, _ in own], dtype=np.uint64),
        )
        addresses = (np.uint64(block) << np.uint64(32)) + np.arange(len(own), dtype=np.uint64)
        copies = np.array([row[2] for row in own], dtype=np.uint32)
        runs.append(str(folder / f"{block}.npy"))
        subset.save_run(runs[-1], uids, addresses, copies)
        everything += list(zip(uids.tolist(), addresses.tolist(), copies.tolist(), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_files, "CHUNK", chunk)
        patch.setattr(sorted_files, "LEAST", 1)
        shared = subset.merge(runs, str(folder / "subset.npy"))
        again = subset.merge(runs[::-1], str(folder / "again.npy"))
    expected = sorted(uid for uid, _, copies in everything for _ in range(copies))
    assert subset.load(str(folder / "subset.npy")).tolist() == expected
    assert again.tolist() == shared.tolist(), "copies are numbered by address, not by run"
    # Names `{uid}-{copy}`: each once, and without a gap for each uid.
    first = dict(zip(shared["address"].tolist(), shared["first"].tolist(), strict=True))
    assert shared["address"].tolist() == sorted(first)
    names = [
        (uid, first.get(address, 0) + copy)
        for uid, address, copies in everything
        for copy in range(copies)
    ]
    assert len(set(names)) == len(names)
    for uid in set(expected):
        assert sorted(n for u, n in names if u == uid) == list(range(expected.count(uid)))


def test_nothing_kept_is_an_empty_subset(tmp_path):
    shared = subset.merge([], str(tmp_path / "subset.npy"))
    assert len(subset.load(str(tmp_path / "subset.npy"))) == len(shared) == 0
    assert storage.entry(str(tmp_path / "subset.npy")).bytes > 0
