"""Shards of a selection: each copy once, the same bytes whoever writes them, readable by others."""

import hashlib
import io
import itertools
import json
import random
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_pool
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import object_store
from pydantic import ValidationError

from curate import storage
from curate.errors import InputChanged, InvalidPipeline, StorageError
from curate.output_shard import _with_columns, ordered, write_shard
from curate.sample import make_uids
from curate.shards import shard
from curate.write import Kept, ShardResult, Write, finish, plan_write


@dataclass(frozen=True)
class Selection:
    """A catalogue that lies in memory."""

    by_shard: tuple[Kept, ...]

    @property
    def shards(self) -> int:
        return len(self.by_shard)

    def kept(self, shard: int) -> Kept:
        return self.by_shard[shard]


def kept(number: int, copies: list[int], tars: tuple[str, ...] = ("",), **more: object) -> Kept:
    rows = np.arange(len(copies), dtype=np.uint64)
    fields = {
        "uids": make_uids(rows * 0 + np.uint64(number), rows),
        "copies": np.array(copies, dtype=np.uint32),
        "first_copy": np.zeros(len(copies), dtype=np.uint32),
        "part": np.zeros(len(copies), dtype=np.uint8),
        "keys": [f"{number:05d}{row:04d}" for row in range(len(copies))],
    }
    return Kept(tars=tars, **{**fields, **more})


def order(selection: Selection, samples_per_shard: int) -> list[list[tuple[int, int, int]]]:
    """(input shard, row, copy) of every sample of every output shard."""
    plan = plan_write(Write(samples_per_shard=samples_per_shard), selection, "f")
    shards = []
    for number in range(plan.shards):
        shards.append([])
        for part, rows, numbers in ordered(plan.cut(number), selection):
            for row, copy in zip(rows.tolist(), numbers.tolist(), strict=True):
                shards[-1].append((int(part.uids["f0"][row]), row, copy))
    return shards


SELECTIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 9)), max_size=6), max_size=9
).map(
    lambda shards: Selection(
        tuple(
            kept(
                i, [c for c, _ in rows], first_copy=np.array([f for _, f in rows], dtype=np.uint32)
            )
            for i, rows in enumerate(shards)
        )
    )
)


@given(selection=SELECTIONS, samples_per_shard=st.integers(1, 30))
def test_every_copy_is_planned_exactly_once(selection, samples_per_shard):
    expected = Counter(
        (number, row, first + nth)
        for number, part in enumerate(selection.by_shard)
        for row, (first, copies) in enumerate(
            zip(part.first_copy.tolist(), part.copies.tolist(), strict=True)
        )
        for nth in range(copies)
    )
    shards = order(selection, samples_per_shard)
    assert Counter(sample for samples in shards for sample in samples) == expected
    assert all(len(samples) == samples_per_shard for samples in shards[:-1])
    assert all(shards)


def test_without_copies_the_order_is_that_of_the_input():
    selection = Selection(tuple(kept(i, [1] * (i % 4)) for i in range(11)))
    expected = [(i, row, 0) for i in range(11) for row in range(i % 4)]
    assert [sample for samples in order(selection, 5) for sample in samples] == expected


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_up_to_four_copies_of_a_sample_lie_a_whole_round_apart(copies):
    selection = Selection(tuple(kept(i, [copies] * 5) for i in range(7)))
    flat = [sample[:2] for samples in order(selection, 10) for sample in samples]
    for sample in set(flat):
        places = [place for place, other in enumerate(flat) if other == sample]
        assert np.diff(places).tolist() == [35] * (copies - 1)


def test_more_copies_are_spread_over_each_round():
    popular = 40  # of this shard, one sample has 20 copies; all others have one
    selection = Selection(tuple(kept(i, [20 if i == popular else 1, 1]) for i in range(100)))
    flat = [sample for samples in order(selection, 10) for sample in samples]
    places = [place for place, sample in enumerate(flat) if sample[:2] == (popular, 0)]
    first_round = [place for place in places if place < 200]
    assert len(first_round) == 5
    assert min(np.diff(first_round)) >= 35  # a fifth of the round is 40


@given(
    rows=st.lists(st.integers(1, 4), min_size=1, max_size=9).filter(lambda rows: sum(rows) > 1),
    copies=st.integers(2, 30),
)
def test_copies_of_a_sample_are_never_neighbours(rows, copies):
    selection = Selection(tuple(kept(i, [copies] * count) for i, count in enumerate(rows)))
    flat = [sample[:2] for samples in order(selection, 7) for sample in samples]
    assert all(sample != following for sample, following in itertools.pairwise(flat))


def test_a_sample_with_very_many_copies_is_planned_too():
    selection = Selection((kept(0, [1, 5000]), kept(1, [1])))
    flat = [sample for samples in order(selection, 1000) for sample in samples]
    assert Counter(sample[:2] for sample in flat) == {(0, 0): 1, (0, 1): 5000, (1, 0): 1}
    assert [sample[:2] for sample in flat[:3]] == [(0, 0), (0, 1), (1, 0)]


def test_the_plan_does_not_depend_on_how_counting_was_shared_out():
    selection = Selection(tuple(kept(i % 7, [1 + i % 5] * (i % 3)) for i in range(2500)))

    def backwards(function, ranges):
        return [function(part) for part in reversed(list(ranges))]

    plans = [plan_write(Write(), selection, "f", mapper) for mapper in (map, backwards)]
    for name in ("rounds", "laps", "input_shards", "end"):
        np.testing.assert_array_equal(getattr(plans[0], name), getattr(plans[1], name))


@pytest.mark.parametrize("wrong", [{"samples_per_shard": 0}, {"sample_per_shard": 10}])
def test_a_wrong_step_is_refused(wrong):
    with pytest.raises(ValidationError):
        Write(**wrong)


def bodies(number: int, row: int) -> dict[str, bytes]:
    chance = random.Random(f"{number}/{row}")
    image = "png" if row % 5 == 0 else "jpg"
    return {
        image: chance.randbytes(chance.randrange(3000)),
        "txt": f"caption {row}".encode(),
        "json": json.dumps({"row": row}).encode(),
        "cls.npy": bytes(3),
    }


def write_tar(folder: str, name: str, samples: list[tuple[str, dict[str, bytes]]]) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, members in samples:
            for extension, body in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime, info.uname = len(body), 1_700_000_000, "somebody"
                tar.addfile(info, io.BytesIO(body))
    url = storage.join(folder, name)
    storage.commit(url, buffer.getvalue())
    return url


def pool(folder: str, copies: list[list[int]]) -> Selection:
    """Tars of 3 more samples than are kept each, and a selection; the tars' order is their own."""
    parts = []
    for number, of_rows in enumerate(copies):
        part = kept(number, of_rows)
        samples = [(key, bodies(number, row)) for row, key in enumerate(part.keys)]
        samples += [(f"unwanted{i}", bodies(number, 100 + i)) for i in range(3)]
        random.Random(number).shuffle(samples)
        parts.append(replace(part, tars=(write_tar(folder, f"{number:05d}.tar", samples),)))
    return Selection(tuple(parts))


def write_all(
    selection: Selection, folder: str, samples_per_shard: int = 4, fingerprint: str = "f"
):
    plan = plan_write(Write(samples_per_shard=samples_per_shard), selection, fingerprint)
    results = [write_shard(plan.cut(n), selection, folder) for n in range(plan.shards)]
    finish(plan, results, folder)
    return plan


def files(folder: str) -> dict[str, bytes]:
    return {name: storage.read(storage.join(folder, name)) for name in storage.names(folder)}


COPIES = [[1, 1, 2, 1, 5], [], [3, 1, 1, 1], [1]]
SAMPLES = 17


def test_shards_hold_the_original_bytes_of_each_copy(tmp_path):
    selection = pool(str(tmp_path / "pool"), COPIES)
    out = tmp_path / "shards"
    write_all(selection, str(out))
    found = Counter()
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                uid, rest = member.name.split("-")
                j, extension = rest.split(".", 1)
                number, row = int(uid[:16], 16), int(uid[16:], 16)
                assert tar.extractfile(member).read() == bodies(number, row)[extension]
                assert (member.mtime, member.uname) == (0, "")
                found[number, row, int(j)] += 1
    expected = [
        (number, row, j)
        for number, rows in enumerate(COPIES)
        for row, copies in enumerate(rows)
        for j in range(copies)
    ]
    assert found == Counter(dict.fromkeys(expected, 4))  # four members each


def test_other_tools_read_the_shards(tmp_path):
    out = tmp_path / "shards"
    write_all(pool(str(tmp_path / "pool"), COPIES), str(out))
    meta = json.loads((out / "meta.json").read_text())
    tars = [out / meta["output_shard_format"].format(i) for i in range(meta["output_shard_count"])]
    samples = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
    assert len(samples) == meta["output_count"] == SAMPLES
    assert meta["processed_count"] == 10
    assert len({sample["__key__"] for sample in samples}) == SAMPLES
    sizes = json.loads((out / "sizes.json").read_text())
    for tar in tars:
        stats = json.loads((out / f"{tar.stem}_stats.json").read_text())
        within = len({sample["__key__"] for sample in samples if sample["__url__"] == str(tar)})
        assert sizes[tar.name] == stats["successes"] == within
    assert (out / "manifest.json").stat().st_mtime_ns == max(
        path.stat().st_mtime_ns for path in out.iterdir()
    )


@pytest.mark.slow
def test_the_trainer_of_open_clip_counts_the_samples(tmp_path):
    from open_clip_train.data import get_dataset_size

    out = tmp_path / "shards"
    plan = write_all(pool(str(tmp_path / "pool"), COPIES), str(out))
    shards = f"{out}/{{00000000..{plan.shards - 1:08d}}}.tar"
    assert get_dataset_size(shards) == (SAMPLES, plan.shards)


@settings(max_examples=25)
@given(data=st.data())
def test_any_order_of_writing_and_any_interruption_give_the_same_bytes(data, tmp_path_factory):
    base = tmp_path_factory.mktemp("any")
    selection = pool(str(base / "pool"), COPIES)
    plan = write_all(selection, str(base / "reference"))
    cuts = [plan.cut(number) for number in range(plan.shards)]
    out = base / "out"
    for cut in data.draw(st.lists(st.sampled_from(cuts)), label="written before"):
        write_shard(cut, selection, str(out))
    for path in data.draw(st.lists(st.sampled_from(sorted(out.glob("*")) or [out])), label="lost"):
        path.unlink(missing_ok=True) if path != out else None
    half = data.draw(st.sampled_from(sorted(out.glob("*.tar")) or [None]), label="cut")
    if half is not None:
        half.write_bytes(half.read_bytes()[:-512])
    results = [write_shard(cut, selection, str(out)) for cut in data.draw(st.permutations(cuts))]
    finish(plan, results, str(out))
    assert files(str(out)) == files(str(base / "reference"))


def test_a_shard_that_is_there_is_not_written_again(tmp_path):
    selection = pool(str(tmp_path / "pool"), COPIES)
    out = tmp_path / "shards"
    plan = write_all(selection, str(out))
    before = {path: path.stat().st_mtime_ns for path in out.glob("0*")}
    results = [write_shard(plan.cut(n), selection, str(out)) for n in range(plan.shards)]
    assert results[0] == ShardResult(0, 4, (out / "00000000.tar").stat().st_size)
    assert {path: path.stat().st_mtime_ns for path in out.glob("0*")} == before


def test_a_shard_of_another_selection_is_written_again(tmp_path):
    write_all(pool(str(tmp_path / "pool"), COPIES), str(tmp_path / "shards"))
    other = pool(str(tmp_path / "pool"), [rows[::-1] for rows in COPIES])
    write_all(other, str(tmp_path / "shards"), fingerprint="g")
    write_all(other, str(tmp_path / "fresh"), fingerprint="g")
    assert files(str(tmp_path / "shards")) == files(str(tmp_path / "fresh"))


def test_shards_left_over_from_a_larger_selection_are_refused(tmp_path):
    write_all(pool(str(tmp_path / "pool"), COPIES), str(tmp_path / "shards"))
    smaller = pool(str(tmp_path / "pool"), COPIES[:1])
    with pytest.raises(StorageError, match=r"2 tars of another selection, 00000003\.tar for one"):
        write_all(smaller, str(tmp_path / "shards"), fingerprint="g")


def test_nothing_kept_gives_an_empty_but_complete_folder(tmp_path):
    plan = write_all(Selection((kept(0, []),)), str(tmp_path))
    assert (plan.shards, plan.samples) == (0, 0)
    assert json.loads((tmp_path / "sizes.json").read_text()) == {}
    assert json.loads((tmp_path / "manifest.json").read_text())["samples"] == 0
    assert plan_write(Write(), Selection(()), "f").shards == 0


def test_a_sample_that_is_gone_is_named_and_no_shard_appears(tmp_path):
    selection = pool(str(tmp_path / "pool"), COPIES)
    tar = selection.by_shard[2].tars[0]
    Path(tar).write_bytes(Path(selection.by_shard[0].tars[0]).read_bytes())
    with pytest.raises(InputChanged, match=r"00002\.tar has no sample '000020000'"):
        write_all(selection, str(tmp_path / "shards"))
    assert storage.names(str(tmp_path / "shards")) == ["00000000.tar", "00000000_stats.json"]


def test_a_tar_that_vanished_is_named(tmp_path):
    selection = pool(str(tmp_path / "pool"), COPIES)
    Path(selection.by_shard[2].tars[0]).unlink()
    with pytest.raises(StorageError, match=r"00002\.tar cannot be read"):
        write_all(selection, str(tmp_path / "shards"))


def test_a_selection_that_changed_after_the_plan_is_noticed(tmp_path):
    selection = pool(str(tmp_path / "pool"), COPIES)
    plan = plan_write(Write(), selection, "f")
    fewer = pool(str(tmp_path / "pool"), [*COPIES[:3], []])
    with pytest.raises(InputChanged, match="output shard 0 lacks 1 of 17 samples"):
        write_shard(plan.cut(0), fewer, str(tmp_path / "shards"))


def test_samples_come_from_every_tar_of_a_shard(tmp_path):
    folder = str(tmp_path)
    first = write_tar(folder, "00000.tar", [("a", {"jpg": b"1"}), ("c", {"jpg": b"3"})])
    added = write_tar(folder, "00000-r1.tar", [("d", {"jpg": b"4"}), ("b", {"jpg": b"2"})])
    one = kept(0, [1] * 4, (first, added), part=np.array([0, 1, 0, 1]), keys=["a", "b", "c", "d"])
    write_all(Selection((one,)), str(tmp_path / "shards"))
    samples = shard.read_samples(str(tmp_path / "shards/00000000.tar"))
    assert [bytes(sample.members["jpg"]) for sample in samples] == [b"1", b"2", b"3", b"4"]


@pytest.fixture(scope="module")
def bucket():
    with object_store() as url:
        yield url


def test_shards_go_from_one_bucket_folder_to_another(bucket, tmp_path):
    remote = pool(f"{bucket}/pool", COPIES)
    write_all(remote, f"{bucket}/shards")
    write_all(pool(str(tmp_path / "pool"), COPIES), str(tmp_path / "shards"))
    assert files(f"{bucket}/shards") == files(str(tmp_path / "shards"))


def test_shards_are_the_same_with_saved_indexes(bucket):
    remote = pool(f"{bucket}/pool", COPIES)
    write_all(remote, f"{bucket}/streamed")
    indexed = []
    for part in remote.by_shard:
        shard.save_index(f"{part.tars[0]}.index", shard.scan(part.tars[0]))
        indexed.append(replace(part, indexes=(f"{part.tars[0]}.index",)))
    write_all(Selection(tuple(indexed)), f"{bucket}/ranges")
    assert files(f"{bucket}/ranges") == files(f"{bucket}/streamed")


def test_an_upload_that_fails_leaves_nothing(bucket):
    remote = pool(f"{bucket}/broken", COPIES)
    missing = replace(remote.by_shard[0], keys=["nowhere"] * 5)
    with pytest.raises(InputChanged, match=r"00000\.tar has no sample 'nowhere'"):
        write_all(Selection((missing, *remote.by_shard[1:])), f"{bucket}/nothing")
    assert storage.names(f"{bucket}/nothing") == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"uid": "a",  "x": 1 }\n', b'{"uid": "a",  "x": 1, "fine.nearest":[1,2]}'),
        (b"{}", b'{"fine.nearest":[1,2]}'),
        (None, b'{"fine.nearest":[1,2]}'),
        (b"[1]", b'{"fine.nearest":[1,2]}'),
        (b"\xff broken", b'{"fine.nearest":[1,2]}'),
    ],
)
def test_columns_are_added_to_the_json_as_it_was(body, found):
    given = memoryview(body) if body is not None else None
    assert bytes(_with_columns(given, '{"fine.nearest":[1,2]}')) == found


def test_a_run_adds_columns_to_the_json_of_what_it_writes(tmp_path):
    folder = tiny_pool.write_shards(tmp_path / "in", tiny_pool.draw(30), 3)
    steps = (
        {"caption": {"min_words": 2}},
        {"image_file": {}},
        {"write": {"samples_per_shard": 50, "columns": ["image_file.sha256", "score"]}},
    )
    pool = tiny_pool.tar_pool(folder)
    pipe = tiny_pool.Pipeline(tmp_path, pool, steps)
    assert pipe.run().exit_code == 0
    seen = 0
    for tar in sorted((pipe.work / "shards").glob("*.tar")):
        for sample in shard.read_samples(str(tar)):
            said = json.loads(bytes(sample.members["json"]))
            picture = next(b for e, b in sample.members.items() if e in ("jpg", "jpeg", "png"))
            assert said.pop("image_file.sha256") == hashlib.sha256(picture).hexdigest()
            seen += 1
    assert seen > 10
    there = replace(pipe, steps=(*steps[:2], {"write": {"columns": ["image_file.nothing"]}}))
    with pytest.raises(InvalidPipeline, match=r"nobody produces .image_file\.nothing."):
        there.run()
