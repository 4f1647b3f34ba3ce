"""A join by uid: the first row wins, everybody is counted, and no order of tasks matters."""

import random
from functools import reduce

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import object_store

from curate.join import ASK, KEYS, PARTITION_BYTES, ROW, FrameExchange, Join, Settled, partitions
from curate.sample import UID, format_uids

UIDS = st.integers(0, 12)
ASKED = st.lists(st.lists(UIDS, max_size=15), min_size=1, max_size=4)
OFFERED = st.lists(
    st.lists(st.tuples(UIDS, st.integers(0, 2)), max_size=15), min_size=1, max_size=4
)


def uids_of(numbers):
    """Uids that differ in the upper half, the lower half, or both."""
    made = np.zeros(len(numbers), dtype=UID)
    made["f0"], made["f1"] = [n // 4 for n in numbers], [n % 4 << 62 for n in numbers]
    return made


def values_of(rows):
    return pl.DataFrame(
        {
            "score": pl.Series([0.5 if v else None for _, v in rows], dtype=pl.Float32),
            "word": pl.Series([f"words {v}" * v for _, v in rows], dtype=pl.String),
        }
    )


def joined(folder, asked, offered, count, order=None):
    """(what it came to, {address: values}) with the tasks of each pass in a random order."""
    shuffled = random.Random(order).sample if order is not None else lambda items, k: items
    join = Join(folder, len(asked), len(offered), count, unused="keep")
    blocks = []
    for number in shuffled(range(len(asked)), len(asked)):
        addresses = (np.uint64(number) << np.uint64(32)) + np.arange(
            len(asked[number]), dtype=np.uint64
        )
        blocks.append(join.ask(number, uids_of(asked[number]), addresses))
    for number in shuffled(range(len(offered)), len(offered)):
        rows = offered[number]
        join.offer(number, uids_of([n for n, _ in rows]), values_of(rows))
    join = join.with_blocks(max(blocks))
    settled = [join.settle(partition) for partition in shuffled(range(count), count)]
    found = {}
    for block in range(join.blocks):
        answers = join.answers(block)
        assert answers[ROW].is_sorted()
        found |= {(block, row): rest for row, *rest in answers.iter_rows()}
    return join, reduce(Settled.plus, settled), found


def expected(asked, offered):
    first, said, repeated = {}, {}, 0
    for rows in offered:
        for uid, value in rows:
            repeated += uid in first
            first.setdefault(uid, value)
            said.setdefault(uid, set()).add(value)
    everybody = [(b, r, uid) for b, rows in enumerate(asked) for r, uid in enumerate(rows)]
    answers = {
        (b, r): [0.5 if first[uid] else None, f"words {first[uid]}" * first[uid]]
        for b, r, uid in everybody
        if uid in first
    }
    missing = sorted((b << 32) + r for b, r, uid in everybody if uid not in first)
    wanted = {uid for _, _, uid in everybody}
    unused = [(uid, value) for rows in offered for uid, value in rows if uid not in wanted]
    conflicts = sorted(uid for uid, values in said.items() if len(values) > 1)
    return answers, repeated, missing, unused, conflicts


@settings(max_examples=60)
@given(asked=ASKED, offered=OFFERED, count=st.integers(1, 5), order=st.integers(0, 9))
def test_a_join_is_a_look_up_in_a_dictionary(tmp_path_factory, asked, offered, count, order):
    folder = str(tmp_path_factory.mktemp("join"))
    join, settled, found = joined(folder, asked, offered, count, order)
    answers, repeated, missing, unused, conflicts = expected(asked, offered)
    assert found == answers
    assert (settled.found, settled.missing) == (len(answers), len(missing))
    assert (settled.repeated, settled.unused) == (repeated, len(unused))
    assert settled.without == tuple(missing[:3])
    assert settled.conflicting == len(conflicts)
    assert (settled.conflict is None) == (not conflicts)
    if conflicts:
        smallest = format_uids(uids_of(conflicts[:1]))[0]
        assert settled.conflict[0] == smallest, "of all partitions, the smallest uid"
        assert settled.conflict[1] != settled.conflict[2]
    kept = pl.concat([pl.read_parquet(join.unused_file(p)) for p in range(count)])
    assert sorted(kept.select(KEYS.values()).rows()) == sorted(
        uids_of([uid for uid, _ in unused]).tolist()
    )


def test_number_of_partitions_and_order_of_tasks_change_no_result(tmp_path):
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, 500, 300).tolist() for _ in range(3)]
    offered = [[(int(n), int(n) % 3) for n in rng.integers(0, 500, 200)] for _ in range(4)]
    results = [
        joined(str(tmp_path / f"{count}-{order}"), asked, offered, count, order)[1:]
        for count, order in ((1, None), (7, 1), (7, 2), (64, 3))
    ]
    assert results[0][0].found > 100
    assert all(result == results[0] for result in results)


def test_a_repeated_task_changes_nothing(tmp_path):
    asked, offered = [[1, 2, 3]], [[(2, 1), (3, 2)], [(2, 2)]]
    join, settled, found = joined(str(tmp_path), asked, offered, 2)
    join.ask(0, uids_of(asked[0]), np.arange(3, dtype=np.uint64))
    join.offer(1, uids_of([2]), values_of(offered[1]))
    again = reduce(Settled.plus, [join.settle(p) for p in (1, 0, 1, 0)][2:])
    assert again == settled
    assert dict(enumerate(join.answers(0)["score"].to_list())) == {0: 0.5, 1: 0.5}
    join.clear()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers", "unused"]
    assert found == {(0, 1): [0.5, "words 1"], (0, 2): [0.5, "words 2words 2"]}


def test_every_row_of_a_frame_arrives_once_and_in_order_in_an_object_store():
    with object_store() as bucket:
        exchange = FrameExchange(f"{bucket}/exchange", 3, 4)
        rng = np.random.default_rng(1)
        sent = []
        for writer in range(3):
            size = (0, 50, 7)[writer]
            reader = rng.integers(0, 3, size)  # nobody writes to the last
            frame = pl.DataFrame(
                {
                    "n": pl.Series(range(size), dtype=pl.Int64) + 100 * writer,
                    "text": pl.Series([None if n % 5 == 0 else "é" * n for n in range(size)],
                                      dtype=pl.String),
                    "to": pl.Series(reader, dtype=pl.Int64),
                }
            )  # fmt: skip
            exchange.write(writer, frame, reader)
            sent.append(frame)
        whole = pl.concat(sent)
        for reader in range(4):
            assert exchange.read(reader).equals(whole.filter(pl.col("to") == reader))
        exchange.remove()


def test_a_partition_is_bounded():
    assert partitions(0, 0, 8) == 1
    count = partitions(1_280_000_000, 1_280_000_000, 16)
    assert 1_280_000_000 * (2 * ASK.itemsize + 8) / count <= PARTITION_BYTES
