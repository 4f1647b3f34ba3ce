"""The shuffle: every record arrives once, and groups do not depend on who brought their members."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.shuffle import MEMBER, PARTITION_BYTES, Exchange, decide_groups, partitions

RECORD = np.dtype([("value", "<u8"), ("to", "<u4")])


@settings(max_examples=40)
@given(
    sent=st.lists(st.lists(st.integers(0, 3), max_size=20), min_size=1, max_size=5),
    readers=st.integers(4, 6),
)
def test_every_record_arrives_once_and_in_order(tmp_path_factory, sent, readers):
    folder = str(tmp_path_factory.mktemp("exchange"))
    exchange = Exchange(folder, len(sent), readers)
    expected = defaultdict(list)
    for writer, targets in enumerate(sent):
        records = np.zeros(len(targets), dtype=RECORD)
        records["value"] = writer * 1000 + np.arange(len(targets))
        records["to"] = targets
        exchange.write(writer, records, np.array(targets, dtype=np.int64))
        for record in records.tolist():
            expected[record[1]].append(record)
    for reader in range(readers):
        assert exchange.read(reader).tolist() == expected[reader]
    exchange.remove()


def test_records_made_some_at_a_time_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.shuffle._BYTES_AT_ONCE", 100)
    rng = np.random.default_rng(0)
    records = np.zeros(300, dtype=[("id", "<u8"), ("vector", "<f2", (9,))])
    records["id"], records["vector"] = np.arange(300), rng.normal(size=(300, 9))
    to, made = rng.integers(0, 4, 300), Exchange(str(tmp_path / "made"), 1, 5)
    whole, sizes = Exchange(str(tmp_path / "whole"), 1, 5), []
    assert not made.written(0)
    made.write_made(0, records.dtype, to, lambda rows: sizes.append(len(rows)) or records[rows])
    whole.write(0, records, to)
    assert made.written(0)
    assert max(sizes) * records.itemsize <= 100
    for reader in range(5):
        assert made.read(reader).tobytes() == whole.read(reader).tobytes()
        assert made.read(reader).dtype == records.dtype


def test_a_writer_that_is_repeated_changes_nothing(tmp_path):
    exchange = Exchange(str(tmp_path), 1, 2)
    records = np.array([(1, 0), (2, 1), (3, 0)], dtype=RECORD)
    for _ in range(2):  # as a task that was killed after it had committed
        exchange.write(0, records, records["to"].astype(np.int64))
    assert exchange.read(0)["value"].tolist() == [1, 3]
    assert exchange.read(1)["value"].tolist() == [2]


def test_a_partition_is_bounded():
    assert partitions(0, 48) == 1
    rows = 12_800_000_000
    count = partitions(rows, MEMBER.itemsize)
    assert rows * MEMBER.itemsize / count <= PARTITION_BYTES


MEMBERS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 2), st.integers(0, 3)),
    max_size=40,
)  # (key, second half of the key, worse, uid)


def members_of(rows):
    members = np.zeros(len(rows), dtype=MEMBER)
    for place, (key, second, worse, uid) in enumerate(rows):
        members[place] = ((key, second), worse, uid // 2, uid % 2, place)
    return members


def first_only(_, rank, size):
    return (rank == 0).astype(np.uint32)


@given(rows=MEMBERS, seed=st.integers(0, 100))
def test_one_of_each_group_stays_whatever_the_order(rows, seed):
    members = members_of(rows)
    shuffled = members[np.random.default_rng(seed).permutation(len(members))]
    decided = decide_groups(shuffled, first_only)
    assert (np.sort(decided, order="address") == np.sort(decide_groups(members, first_only),
            order="address")).all()  # fmt: skip
    groups = defaultdict(list)
    for address, (key, second, worse, uid) in enumerate(rows):
        groups[key, second].append((worse, uid, address))
    best = {min(group)[2] for group in groups.values()}
    assert {int(d["address"]) for d in decided if d["copies"]} == best
    for decision in decided:
        key, second, _, _ = rows[int(decision["address"])]
        uid = min(groups[key, second])[1]
        assert (int(decision["first_f0"]), int(decision["first_f1"])) == (uid // 2, uid % 2)


@given(rows=MEMBERS)
def test_ranks_and_sizes_are_those_of_the_group(rows):
    seen = []

    def keep(_, rank, size):
        seen.append((rank.copy(), np.asarray(size).copy()))
        return np.ones(len(rank), dtype=np.uint32)

    decided = decide_groups(members_of(rows), keep)
    rank, size = seen[0]
    groups = defaultdict(list)
    for address, (key, second, worse, uid) in enumerate(rows):
        groups[key, second].append((worse, uid, address))
    for decision, own_rank, own_size in zip(decided, rank, size, strict=True):
        key, second, worse, uid = rows[int(decision["address"])]
        group = sorted(groups[key, second])
        assert own_size == len(group)
        assert group[own_rank] == (worse, uid, int(decision["address"]))
