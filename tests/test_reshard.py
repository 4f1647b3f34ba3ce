"""A subset and a pool's shards -> its shards: every copy once, and nothing lost without a word."""

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import object_store
from PIL import Image
from tiny_clip import encoded, many, picture

from curate import cli, storage
from curate.errors import (
    BudgetExceeded,
    ConfigError,
    InputChanged,
    RecipeChanged,
    StorageError,
)
from curate.resharding import membership, reshard_files
from curate.resharding.blur import Blur
from curate.resharding.reshard import Options, Outcome, Reshard, report, reshard
from curate.runner import LocalRunner, RayRunner
from curate.sample import format_uids, parse_uids, uid_of
from curate.shards import bulk, plain_tar, shard
from curate.shards.shard_uids import read_uids
from curate.shards.tar import member_header
from curate.subsets import subset
from curate.write import Write

ONE = LocalRunner(1)
PICTURES = many(12)
Members = dict[str, bytes]


def uid(number: int) -> str:
    return f"{random.Random(number).getrandbits(128):032x}"


def sample(number: int, **fields: object) -> Members:
    metadata = {"uid": uid(number), "url": f"http://h/{number}", "exif": '{"a": "b"}', **fields}
    return {
        "jpg": PICTURES[number % len(PICTURES)],
        "txt": f"picture {number}".encode(),
        "json": json.dumps(metadata, indent=4).encode(),
    }


def write_tar(file: Path, samples: dict[str, Members]) -> None:
    """As webdataset, and so img2dataset, writes it: a pax header before each member."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(file)) as sink:
        for key, members in samples.items():
            sink.write({"__key__": key, **members})


def write_pool(folder: Path, shards: int = 3, rows: int = 10) -> list[str]:
    """Tars whose JSON gives the uids, which are returned in order."""
    for number in range(shards):
        samples = {f"{number:05d}{row:04d}": sample(number * rows + row) for row in range(rows)}
        write_tar(folder / f"{number:05d}.tar", samples)
    return [uid(number) for number in range(shards * rows)]


def write_subset(file: Path, uids: list[str]) -> str:
    subset.save(str(file), subset.sort(parse_uids(uids)))
    return str(file)


def run(folder: Path, uids: list[str] | None = None, options: Options | None = None, **fields):
    """Reshard `pool` to `out` of a folder."""
    if uids is not None:
        write_subset(folder / "s.npy", uids)
    spec = Reshard(str(folder / "s.npy"), str(folder / "pool"), str(folder / "out"), **fields)
    return reshard(spec, ONE, options or Options())


def samples_in(folder: Path) -> dict[str, Members]:
    found: dict[str, Members] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                key, extension = member.name.split(".", 1)
                assert extension not in found.setdefault(key, {})
                found[key][extension] = tar.extractfile(member).read()
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def accounted(outcome: Outcome) -> None:
    result = outcome.result
    assert result.asked == result.written + result.missing


def test_every_copy_is_written_once_with_its_bytes(tmp_path):
    uids = write_pool(tmp_path / "pool")
    outcome = run(
        tmp_path, [*uids[::3], uids[6], uids[6], uids[9]], write=Write(samples_per_shard=4)
    )
    accounted(outcome)
    expected = {f"{uids[i]}-0": sample(i) for i in range(0, 30, 3)}
    expected |= {f"{uids[6]}-1": sample(6), f"{uids[6]}-2": sample(6), f"{uids[9]}-1": sample(9)}
    assert samples_in(tmp_path / "out") == expected
    assert outcome.result.origins == {"json": 30}
    assert (outcome.result.shards, outcome.result.rows, outcome.result.exit_code) == (4, 10, 0)


def test_the_folder_is_datacomps(tmp_path):
    uids = write_pool(tmp_path / "pool")
    run(tmp_path, [*uids[:7], uids[0]], write=Write(samples_per_shard=3))
    out = tmp_path / "out"
    assert (out / "sample_ids.npy").read_bytes() == (tmp_path / "s.npy").read_bytes()
    meta = json.loads((out / "meta.json").read_text())
    assert (meta["output_shard_count"], meta["output_shard_format"]) == (3, "{:08d}.tar")
    sizes = json.loads((out / "sizes.json").read_text())
    assert sizes == {"00000000.tar": 3, "00000001.tar": 3, "00000002.tar": 2}
    assert json.loads((out / "00000002_stats.json").read_text())["successes"] == 2
    assert not (out / "work").exists()
    assert not (out / "lease").exists()


def test_copies_lie_far_apart(tmp_path):
    uids = write_pool(tmp_path / "pool", shards=4)
    run(tmp_path, uids * 3, write=Write(samples_per_shard=40))
    keys = [key.split("-")[0] for key in samples_in(tmp_path / "out")]
    for name in uids:
        assert np.diff([i for i, key in enumerate(keys) if key == name]).tolist() == [40, 40]


def test_an_unsorted_subset_loses_nothing(tmp_path, capsys):
    uids = write_pool(tmp_path / "pool")
    shuffled = random.Random(1).sample(uids, 20)
    np.save(tmp_path / "s.npy", parse_uids(shuffled))
    outcome = run(tmp_path)
    assert outcome.result.sorted_here
    assert outcome.result.written == 20
    assert {key[:32] for key in samples_in(tmp_path / "out")} == set(shuffled)
    ids = np.load(tmp_path / "out/sample_ids.npy")
    assert format_uids(ids) == sorted(shuffled)


def test_uids_that_are_nowhere_are_listed(tmp_path):
    uids = write_pool(tmp_path / "pool")
    absent = [uid(1000), uid(1001), uid(1001), "f" * 32, "0" * 32]
    outcome = run(tmp_path, [*uids[:4], *absent])
    accounted(outcome)
    assert (outcome.result.missing, outcome.result.exit_code) == (5, 0)
    assert format_uids(np.load(tmp_path / "out/missing.npy")) == sorted(absent)


def test_a_missing_uid_can_be_an_error(tmp_path):
    uids = write_pool(tmp_path / "pool")
    with pytest.raises(BudgetExceeded, match=r"2 of 4 copies cannot be written"):
        run(tmp_path, [*uids[:2], uid(1000), uid(1001)], Options(absent="refuse"))
    assert len(np.load(tmp_path / "out/missing.npy")) == 2
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.parametrize("uids", [[], [uid(99_999)]])
def test_nothing_asked_for_or_nothing_found_is_an_empty_folder(tmp_path, uids):
    write_pool(tmp_path / "pool")
    outcome = run(tmp_path, uids)
    accounted(outcome)
    assert outcome.result.shards == 0
    assert json.loads((tmp_path / "out/sizes.json").read_text()) == {}


def test_samples_that_share_a_uid_share_its_copies(tmp_path):
    same = uid(0)
    for number in range(3):
        rows = {f"{number}{row}": sample(10 * number + row, uid=same) for row in range(2)}
        write_tar(tmp_path / f"pool/{number}.tar", {**rows, f"{number}x": sample(100 + number)})
    outcome = run(tmp_path, [same] * 8 + [uid(101)])
    accounted(outcome)
    assert outcome.result.shared_uids == 1
    found = samples_in(tmp_path / "out")
    assert set(found) == {f"{same}-{j}" for j in range(8)} | {f"{uid(101)}-0"}
    captions = Counter(found[f"{same}-{j}"]["txt"] for j in range(8))
    assert sorted(captions.values()) == [1, 1, 1, 1, 2, 2]
    one = tmp_path / "one"
    (one / "pool").mkdir(parents=True)
    for path in (tmp_path / "pool").iterdir():
        (one / "pool" / path.name).write_bytes(path.read_bytes())
    run(one, [same])
    assert samples_in(one / "out") == {f"{same}-0": sample(0, uid=same)}


ORIGINS = {
    "json": lambda n: (f"{n:09d}", sample(n)),
    "json, upper case": lambda n: (f"{n:09d}", sample(n, uid=uid(n).upper())),
    "json, nested": lambda n: (f"{n:09d}", sample(n, more={"uid": uid(n + 500)})),
    "json, another name": lambda n: (
        f"{n:09d}",
        {**sample(n), "json": json.dumps({"sample_id": uid(n), "note": '"uid"'}).encode()},
    ),
    "key": lambda n: (uid(n), {**sample(n), "json": b"{}"}),
    "key, nested": lambda n: (uid(n), sample(n, uid=None, more={"uid": uid(n + 500)})),
    "key, nested alone": lambda n: (
        uid(n),
        {**sample(n), "json": json.dumps({"more": {"uid": uid(n + 500)}}).encode()},
    ),
    "key of a copy": lambda n: (f"{uid(n)}-3", {"jpg": PICTURES[0], "txt": b"x"}),
    "key in a folder": lambda n: (f"a/b/{uid(n)}", {"jpg": PICTURES[0], "json": b"broken"}),
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_uids_are_found_where_they_are(tmp_path, origin):
    write_tar(tmp_path / "pool/0.tar", dict(ORIGINS[origin](n) for n in range(6)))
    outcome = run(tmp_path, [uid(n) for n in range(1, 6, 2)])
    assert {key[:32] for key in samples_in(tmp_path / "out")} == {uid(n) for n in (1, 3, 5)}
    assert outcome.result.origins == {origin.split(",")[0].split(" ")[0]: 6}


def test_a_short_uid_is_padded(tmp_path):
    short = "0" + uid(3)[1:]
    write_tar(tmp_path / "pool/0.tar", {"a": sample(3, uid=short[1:]), "b": sample(4)})
    run(tmp_path, [short])
    assert samples_in(tmp_path / "out") == {f"{short}-0": sample(3, uid=short[1:])}


def test_without_any_uid_it_is_the_hash_that_a_pool_takes(tmp_path):
    bare = {f"k{n}": {**sample(n), "json": json.dumps({"url": f"u{n}"}).encode()} for n in range(3)}
    write_tar(tmp_path / "pool/0.tar", bare)
    hashed = uid_of("picture 1", "u1")
    outcome = run(tmp_path, [hashed])
    assert samples_in(tmp_path / "out") == {f"{hashed}-0": bare["k1"]}
    assert outcome.result.origins == {"hash": 3}


def write_parquet(file: Path, keys: list[str], uids: list[str | None], **columns: list) -> None:
    pl.DataFrame({"key": keys, "uid": uids, **columns}).write_parquet(file)


def test_a_parquet_goes_before_the_json_and_no_body_is_read(tmp_path, monkeypatch):
    write_pool(tmp_path / "pool", shards=1)
    keys = [f"00000{row:04d}" for row in range(10)]
    named = [uid(100 + row) for row in range(10)]
    # img2dataset's rows of failed downloads have no sample; one sample has no row.
    write_parquet(
        tmp_path / "pool/00000.parquet",
        [*keys[5:], "000009999", *keys[:4]],
        [*named[5:], uid(7777), *named[:4]],
        status=["success"] * 5 + ["failed_to_download"] + ["success"] * 4,
    )
    found = read_uids(str(tmp_path / "pool/00000.tar"))
    assert found.origins == {"parquet": 9, "json": 1}
    assert dict(zip(found.keys, format_uids(found.uids), strict=True)) == {
        **dict(zip(keys, named, strict=True)), keys[4]: uid(4)
    }  # fmt: skip
    outcome = run(tmp_path, [named[0], named[4], uid(4), uid(7777)])
    assert {key[:32] for key in samples_in(tmp_path / "out")} == {named[0], uid(4)}
    assert outcome.result.missing == 2


def test_a_broken_parquet_is_named(tmp_path):
    write_pool(tmp_path / "pool", shards=1)
    (tmp_path / "pool/00000.parquet").write_bytes(b"PAR1, no more")
    with pytest.raises(ConfigError, match=r"00000\.parquet cannot be read"):
        run(tmp_path, [uid(0)])


def test_a_uid_that_is_none_is_named(tmp_path):
    write_tar(tmp_path / "pool/0.tar", {"a": sample(1), "b": sample(2, uid="not-a-uid")})
    with pytest.raises(ConfigError, match=r"0\.tar: the json .* uid 'not-a-uid' is not 1 to 32"):
        run(tmp_path, [uid(1)])


def test_a_sample_without_a_picture_is_passed_over(tmp_path):
    write_tar(tmp_path / "pool/0.tar", {"a": sample(1), "b": {"json": sample(2)["json"]}})
    outcome = run(tmp_path, [uid(1), uid(2)])
    assert outcome.result.passed_over == {"no_image": 1}
    assert (outcome.result.written, outcome.result.missing) == (1, 1)


@pytest.mark.parametrize("cut", [1536, 5000, 20_000])
def test_a_truncated_tar_gives_what_is_whole_and_says_so(tmp_path, cut):
    uids = write_pool(tmp_path / "pool")
    tar = tmp_path / "pool/00001.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    outcome = run(tmp_path, uids)
    accounted(outcome)
    assert outcome.result.exit_code == 3
    assert list(outcome.result.damaged) == [str(tar)]
    found = samples_in(tmp_path / "out")
    assert set(found) >= {f"{name}-0" for name in uids[:10] + uids[20:]}
    for key, members in found.items():
        assert members == sample(uids.index(key[:32]))


def test_a_sample_that_is_cut_in_its_middle_is_not_written(tmp_path):
    write_tar(tmp_path / "pool/0.tar", {uid(n): sample(n) for n in range(3)})
    index = shard.scan(str(tmp_path / "pool/0.tar"))
    picture_end = index.offset[6] + index.size[6]
    body = (tmp_path / "pool/0.tar").read_bytes()
    (tmp_path / "pool/0.tar").write_bytes(body[: picture_end + 600])
    outcome = run(tmp_path, [uid(n) for n in range(3)])
    assert set(samples_in(tmp_path / "out")) == {f"{uid(0)}-0", f"{uid(1)}-0"}
    assert outcome.result.passed_over == {"cut": 1}


def test_damaged_tars_alone_are_the_users_mistake(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/0.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ConfigError, match=r"0\.tar is not a tar: no valid tar header"):
        run(tmp_path, [uid(0)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \.tar file is there"):
        reshard(
            Reshard(str(tmp_path / "s.npy"), str(tmp_path / "empty"), str(tmp_path / "o")),
            ONE,
            Options(),
        )


def test_a_subset_of_another_dtype_is_refused(tmp_path):
    write_pool(tmp_path / "pool", shards=1)
    np.save(tmp_path / "s.npy", np.arange(5))
    with pytest.raises(StorageError, match="holds int64"):
        run(tmp_path)
    (tmp_path / "s.npy").write_bytes(b"nothing")
    with pytest.raises(StorageError, match="is not a"):
        run(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    uids = write_pool(tmp_path / "pool", shards=1)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="out"):
        run(tmp_path, uids)


def test_the_pool_itself_is_no_place_to_write(tmp_path):
    uids = write_pool(tmp_path / "pool", shards=1)
    write_subset(tmp_path / "s.npy", uids)
    for out in (tmp_path / "pool", tmp_path):
        spec = Reshard(str(tmp_path / "s.npy"), str(tmp_path / "pool"), str(out))
        with pytest.raises(ConfigError, match="which is read; give another --out"):
            reshard(spec, ONE, Options())


def test_a_finished_one_returns_at_once_and_a_lost_tar_is_made_again(tmp_path):
    uids = write_pool(tmp_path / "pool")
    first = run(tmp_path, uids[:20], write=Write(samples_per_shard=6))
    before = files(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(tmp_path, write=Write(samples_per_shard=6))
    assert again.reused
    assert again.result == first.result
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"")):
        spoil(tmp_path / "out/00000001.tar")
        assert not run(tmp_path, write=Write(samples_per_shard=6)).reused
        assert files(tmp_path / "out") == before


def test_another_subset_is_refused_and_overwrite_starts_anew(tmp_path):
    uids = write_pool(tmp_path / "pool")
    run(tmp_path, uids[:20], write=Write(samples_per_shard=5))
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(RecipeChanged, match=r"(?s)subset holds other uids.*--overwrite") as refused:
        run(tmp_path, uids[5:10], write=Write(samples_per_shard=5))
    old, new = (
        hashlib.sha256((tmp_path / n).read_bytes()) for n in ("out/sample_ids.npy", "s.npy")
    )
    assert f"subset.sha256 {old.hexdigest()[:8]}... -> {new.hexdigest()[:8]}..." in str(
        refused.value
    )
    assert not re.search("[0-9a-f]{9}", str(refused.value).replace(str(tmp_path), ""))
    assert "version" not in str(refused.value)
    outcome = run(tmp_path, options=Options("overwrite"), write=Write(samples_per_shard=5))
    assert outcome.result.written == 5
    assert {key[:32] for key in samples_in(tmp_path / "out")} == set(uids[5:10])
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_a_sorted_copy_is_the_same_subset(tmp_path):
    uids = write_pool(tmp_path / "pool")
    shuffled = [*uids[10::-1], uids[4], uids[20]]
    np.save(tmp_path / "s.npy", parse_uids(shuffled))
    assert run(tmp_path).result.sorted_here
    again = run(tmp_path, shuffled)  # sorts what it writes
    assert again.reused
    assert "was not sorted" not in "".join(report(again, Reshard("s.npy", "pool", "out")))
    recipe = json.loads((tmp_path / "out/recipe.json").read_text())
    ids = (tmp_path / "out/sample_ids.npy").read_bytes()
    assert recipe["subset"]["sha256"] == hashlib.sha256(ids).hexdigest()
    with pytest.raises(RecipeChanged, match="holds other uids"):
        run(tmp_path, shuffled[1:])


def test_a_truncated_subset_is_refused_by_both_numbers(tmp_path):
    uids = write_pool(tmp_path / "pool", shards=1)
    url = Path(write_subset(tmp_path / "s.npy", uids))
    url.write_bytes(url.read_bytes()[:-17])
    with pytest.raises(StorageError, match=r"header promises 10 rows, it holds 8"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    uids = write_pool(tmp_path / "pool")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/00000007.tar").write_bytes(b"theirs")
    with pytest.raises(RecipeChanged, match="1 files that were not written by this command"):
        run(tmp_path, uids)
    assert (tmp_path / "out/00000007.tar").read_bytes() == b"theirs"


def test_a_changed_pool_is_noticed(tmp_path):
    uids = write_pool(tmp_path / "pool")
    run(tmp_path, uids[:20])
    write_tar(tmp_path / "pool/00009.tar", {"a": sample(900)})
    with pytest.raises(RecipeChanged, match="inputs"):
        run(tmp_path)


class _StopsAfter(LocalRunner):
    def __init__(self, tasks: int) -> None:
        super().__init__(1)
        self.left = tasks

    def map(self, work, items, label):
        def once(item):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return work(item)

        return super().map(once, items, label)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupted_run_ends_as_if_nothing_had_been(tmp_path, threads):
    uids = write_pool(tmp_path / "pool", shards=4)
    wanted = [*uids, *uids[::2], *uids[::2], uid(5555)]
    run(tmp_path, wanted, write=Write(samples_per_shard=7))
    expected = files(tmp_path / "out")
    spec = Reshard(
        str(tmp_path / "s.npy"), str(tmp_path / "pool"), str(tmp_path / "again"),
        Write(samples_per_shard=7),
    )  # fmt: skip
    for tasks in (2, 3, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            reshard(spec, _StopsAfter(tasks), Options())
    reshard(spec, LocalRunner(threads), Options())
    assert files(tmp_path / "again") == expected


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(tmp_path):
    uids = write_pool(tmp_path / "pool", shards=40, rows=25)
    write_subset(tmp_path / "s.npy", [*uids[::2], *uids[::4], uid(5555)])
    run(tmp_path, write=Write(samples_per_shard=30))
    expected = files(tmp_path / "out")
    command = [
        sys.executable, "-m", "curate.cli", "write", "--subset", str(tmp_path / "s.npy"),
        "--shards", str(tmp_path / "pool"), "--out", str(tmp_path / "again"),
        "--samples-per-shard", "30",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = 0
    for _ in range(6):
        there = set((tmp_path / "again").rglob("*"))
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and len({*(tmp_path / "again").rglob("*")} - there) < 20:
            time.sleep(0.002)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed > 2
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "again") == expected


@pytest.mark.ray
@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path, ray_cluster):
    uids = write_pool(tmp_path / "pool", shards=4)
    run(tmp_path, [*uids, *uids[::3]], write=Write(samples_per_shard=7))
    spec = Reshard(
        str(tmp_path / "s.npy"), str(tmp_path / "pool/*.tar"), str(tmp_path / "ray"),
        Write(samples_per_shard=7),
    )  # fmt: skip
    reshard(spec, RayRunner(), Options())
    assert files(tmp_path / "ray") == files(tmp_path / "out")


@pytest.fixture(scope="module")
def bucket():
    with object_store() as url:
        yield url


@pytest.mark.parametrize("beside", ["json", "parquet"])
def test_buckets_give_and_take_the_same(bucket, tmp_path, beside):
    uids = write_pool(tmp_path / "pool")
    if beside == "parquet":
        for number in range(3):
            rows = range(10 * number, 10 * number + 10)
            keys = [f"{number:05d}{row:04d}" for row in range(10)]
            write_parquet(
                tmp_path / f"pool/{number:05d}.parquet", keys, [uid(r) for r in rows],
                status=["success"] * 10,
            )  # fmt: skip
    for path in (tmp_path / "pool").iterdir():
        storage.commit(f"{bucket}/{beside}/pool/{path.name}", path.read_bytes())
    run(tmp_path, [*uids[::2], *uids[::4]], write=Write(samples_per_shard=6))
    storage.commit(f"{bucket}/{beside}/s.npy", (tmp_path / "s.npy").read_bytes())
    spec = Reshard(
        f"{bucket}/{beside}/s.npy", f"{bucket}/{beside}/pool", f"{bucket}/{beside}/out",
        Write(samples_per_shard=6),
    )  # fmt: skip
    outcome = reshard(spec, ONE, Options())
    accounted(outcome)
    for name, body in files(tmp_path / "out").items():
        if name.endswith((".tar", ".npy")):
            assert storage.read(f"{bucket}/{beside}/out/{name}") == body
    assert reshard(spec, ONE, Options()).reused


FACE = [[0.2, 0.2, 0.6, 0.7]]


def face_pool(folder: Path) -> None:
    samples = {
        "plain": sample(0, face_bboxes=[]),
        "face": sample(1, face_bboxes=FACE),
        "table": sample(2),
        "odd": sample(3, face_bboxes=[["left", 0, 1, 1]]),
        "broken": {**sample(4, face_bboxes=FACE), "jpg": b"no picture at all"},
        "png": {
            "png": encoded(picture((80, 60), "RGBA")),
            "json": sample(5, face_bboxes=FACE)["json"],
        },
    }
    write_tar(folder / "pool/0.tar", samples)
    pl.DataFrame({"uid": [uid(2), uid(900)], "face_bboxes": [FACE, FACE]}).write_parquet(
        folder / "boxes.parquet"
    )


def test_faces_are_blurred_and_nothing_else_changes(tmp_path):
    face_pool(tmp_path)
    outcome = run(
        tmp_path,
        [uid(n) for n in range(6)] + [uid(1)],
        blur=Blur(),
        boxes=str(tmp_path / "*.parquet"),
    )
    accounted(outcome)
    result = outcome.result
    assert (result.blurred, result.lost, result.missing, result.exit_code) == (3, 2, 2, 3)
    found = samples_in(tmp_path / "out")
    assert set(found) == {f"{uid(n)}-0" for n in (0, 1, 2, 5)} | {f"{uid(1)}-1"}
    assert found[f"{uid(0)}-0"] == sample(0, face_bboxes=[])
    assert found[f"{uid(1)}-0"] == found[f"{uid(1)}-1"]
    for number, original in ((1, sample(1, face_bboxes=FACE)), (2, sample(2))):
        members = found[f"{uid(number)}-0"]
        assert list(members) == ["jpg", "json", "txt"]
        assert (members["txt"], members["json"]) == (original["txt"], original["json"])
        image = Image.open(io.BytesIO(members["jpg"]))
        assert (image.format, image.size) == ("JPEG", Image.open(io.BytesIO(original["jpg"])).size)
        assert members["jpg"] != original["jpg"]
    assert Image.open(io.BytesIO(found[f"{uid(5)}-0"]["png"])).mode == "RGBA"
    lines = [json.loads(line) for line in (tmp_path / "out/lost.jsonl").read_text().splitlines()]
    assert [(each["key"], each["reason"]) for each in lines] == [
        ("odd", "bad_boxes"), ("broken", "undecodable")
    ]  # fmt: skip
    assert format_uids(np.load(tmp_path / "out/missing.npy")) == sorted([uid(3), uid(4)])


def test_blurred_pictures_can_become_webp(tmp_path):
    face_pool(tmp_path)
    run(tmp_path, [uid(0), uid(1)], blur=Blur(format="webp"))
    found = samples_in(tmp_path / "out")
    assert list(found[f"{uid(1)}-0"]) == ["webp", "json", "txt"]
    assert list(found[f"{uid(0)}-0"]) == ["jpg", "json", "txt"]


def test_without_blur_boxes_are_not_looked_at(tmp_path):
    face_pool(tmp_path)
    outcome = run(tmp_path, [uid(3), uid(4)])
    assert outcome.result.written == 2
    assert outcome.result.exit_code == 0


def command(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["write", *map(str, arguments)])
    return stop.value.code


def test_the_command_says_what_it_did(tmp_path, capsys):
    uids = write_pool(tmp_path / "pool")
    np.save(tmp_path / "s.npy", parse_uids([uid(4321), uids[7], *uids[:3]]))
    where = ("--subset", tmp_path / "s.npy", "--shards", tmp_path / "pool", "--out", tmp_path / "o")
    assert command(*where) == 0
    said = capsys.readouterr()
    assert "4 samples in 1 shards" in said.out
    assert "MISSING: 1 rows of the subset that no sample is for" in said.out
    assert "was not sorted" in said.out
    assert "json 30" in said.out
    assert command(*where) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert command(*where, "--samples-per-shard", 2) == 2
    assert "samples_per_shard: 10000 -> 2" in capsys.readouterr().err
    assert command(*where, "--samples-per-shard", 2, "--overwrite", "--require-all") == 4
    assert command(*where, "--samples-per-shard", 2, "--overwrite", "--blur") == 0
    assert "UNKNOWN FACES: the JSON of 4 samples" in capsys.readouterr().out


# The parts.


@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_membership_counts_like_a_counter(held, asked):
    names = [
        "0" * 32,
        "0" * 31 + "1",
        "f" * 32,
        f"{2**64 - 1:032x}",
        f"{2**64:032x}",
        uid(1),
        uid(2),
    ]
    uids = subset.sort(parse_uids([names[i] for i in held]))
    first, count = membership.find(uids, parse_uids([names[i] for i in asked]))
    assert count.tolist() == [held.count(i) for i in asked]
    for i, start, several in zip(asked, first.tolist(), count.tolist(), strict=True):
        assert format_uids(uids[start : start + several]) == [names[i]] * several
        assert start == sum(names[j] < names[i] for j in held)


def test_sorted_or_not():
    uids = subset.sort(parse_uids([uid(n) for n in range(50)] * 2))
    assert membership.is_sorted(uids)
    assert membership.is_sorted(uids[:0])
    assert not membership.is_sorted(uids[::-1])
    uids = uids.copy()
    uids[[3, 7]] = uids[[7, 3]]
    assert not membership.is_sorted(uids)


NAMES = st.sampled_from([
    "a.jpg", "a.json", "a.seg.png", "a", "b.jpg", "b.JPG", "d/a.jpg", ".x.jpg", "d/.b.jpg", "__m__",
    "_c.jpg", "é.jpg", "x" * 98 + ".j", "y" * 140 + ".jpg", "a.extension_long", "c.", "d.e/f.g",
])  # fmt: skip


@settings(max_examples=150)
@given(
    names=st.lists(NAMES, max_size=7),
    style=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
    mtime=st.sampled_from([0, 1.5, 1_700_000_000.123]),
    cut=st.sampled_from([0, 0, 512, 1024, 9000, 10_300]),
)
def test_the_quick_index_is_the_exact_one(tmp_path_factory, names, style, mtime, cut):
    file = tmp_path_factory.mktemp("quick") / "a.tar"
    if style == tarfile.USTAR_FORMAT:
        names = [name for name in names if len(name) < 100]
    with tarfile.open(file, "w", format=style) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 100 * number, mtime if style == tarfile.PAX_FORMAT else 0
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    body = file.read_bytes()
    file.write_bytes(body[: len(body) - cut])
    same_index(file)


def same_index(file: Path) -> None:
    outcomes = []
    for make in (plain_tar.index_of, shard.scan):
        try:
            outcomes.append(make(str(file)))
        except shard.DamagedTar as error:
            outcomes.append(str(error))
    quick, exact = outcomes
    if isinstance(exact, str):
        assert quick == exact
        return
    for name in ("url", "keys", "extensions", "truncated", "end"):
        assert getattr(quick, name) == getattr(exact, name), name
    for name in ("first", "extension", "offset", "size"):
        assert getattr(quick, name).dtype == getattr(exact, name).dtype
        np.testing.assert_array_equal(getattr(quick, name), getattr(exact, name))


@settings(max_examples=100)
@given(place=st.integers(0, 9000), value=st.integers(0, 255))
def test_one_wrong_byte_never_makes_the_quick_index_differ(tmp_path_factory, place, value):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.exists():
        write_pool(folder, shards=1, rows=3)
    body = bytearray((folder / "00000.tar").read_bytes())
    body[place % len(body)] = value
    (folder / "flipped.tar").write_bytes(body)
    same_index(folder / "flipped.tar")


def test_tars_of_webdataset_take_the_quick_way(tmp_path):
    write_pool(tmp_path, shards=1)
    assert plain_tar._scan_plain(str(tmp_path / "00000.tar")) is not None
    with (tmp_path / "ours.tar").open("wb") as handle:
        shard.write_members(handle, [("k/a.jpg", b"1"), ("k/a.json", b"{}"), ("k/b.jpg", b"2")])
    assert plain_tar._scan_plain(str(tmp_path / "ours.tar")) is not None


def test_a_tar_in_a_tar_does_not_mislead_the_quick_index(tmp_path):
    inner = io.BytesIO()
    shard.write_members(inner, [("c.jpg", b"inside")])
    with (tmp_path / "outer.tar").open("wb") as handle:
        members = [("a.jpg", b"1"), ("a.bin", inner.getvalue()), ("b.jpg", b"2")]
        shard.write_members(handle, members)
    same_index(tmp_path / "outer.tar")
    assert shard.scan(str(tmp_path / "outer.tar")).keys == ["a", "b"]


def test_large_members_are_indexed_without_reading_them(tmp_path):
    with (tmp_path / "a.tar").open("wb") as handle:
        samples = ((f"{n}.jpg", bytes(3_000_000)) for n in range(4))
        shard.write_members(handle, samples)
    assert plain_tar._scan_plain(str(tmp_path / "a.tar")) is not None
    same_index(tmp_path / "a.tar")


@pytest.mark.parametrize("where", ["header", "size", "end"])
def test_a_tar_that_changed_after_it_was_indexed_is_noticed(tmp_path, where):
    write_pool(tmp_path, shards=1)
    file = tmp_path / "00000.tar"
    index = shard.scan(str(file))
    assert next(body for *_, body in bulk.members(index, index.keys[4:5])) == PICTURES[4]
    body = bytearray(file.read_bytes())
    header = int(index.offset[13]) - 512
    if where == "header":
        body[header : header + 512] = bytes(512)
    if where == "size":
        body[header : header + 512] = member_header("other.json", 7)
    if where == "end":
        del body[int(index.offset[13]) + 5 :]
    file.write_bytes(body)
    with pytest.raises(InputChanged, match="sample '000000004' is no longer at byte"):
        list(bulk.members(index, index.keys))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a.jpg", "é.jpg", "x" * 120, "k" * 100]), st.binary(max_size=1100)
        ),
        max_size=8,
    )
)
def test_many_at_once_are_written_as_one_by_one(members):
    many_, one = io.BytesIO(), io.BytesIO()
    assert bulk.write_members(many_, members) == shard.write_members(one, members)
    assert many_.getvalue() == one.getvalue()


def test_a_listing_notices_what_changes(tmp_path):
    write_pool(tmp_path, shards=2)
    first = reshard_files.listing(reshard_files.tars(str(tmp_path)))
    braces = reshard_files.listing(reshard_files.tars(f"{tmp_path}/{{00000..00001}}.tar"))
    assert first == braces
    os.utime(tmp_path / "00000.tar", ns=(1, 1))
    assert reshard_files.listing(reshard_files.tars(str(tmp_path))) != first
