"""Files appear whole or not at all, on a disk and on an object store, and errors name the file."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import s3fs
from object_store import object_store

from curate import lease, storage
from curate.errors import StorageError, WorkInUse
from curate.lease import held
from curate.parquet import read_parquet, write_parquet


@pytest.fixture(scope="module")
def bucket():
    with object_store() as url:
        yield url


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


class Stop(Exception):
    """What fails in the middle of a write."""


def test_a_commit_is_read_back(root):
    url = storage.join(root, "deep", "er", "file.bin")
    body = os.urandom(3 << 20)
    storage.commit(url, body)
    assert storage.read(url) == body
    assert storage.names(storage.join(root, "deep", "er")) == ["file.bin"]
    assert storage.folders(storage.join(root, "deep")) == ["er"]
    assert storage.entry(url).bytes == storage.size(url) == len(body)


@pytest.mark.parametrize("size", [10, 12 << 20])  # one put, and an upload in several parts
def test_a_write_that_fails_leaves_nothing(root, size):
    url = storage.join(root, "file.bin")
    with pytest.raises(Stop), storage.committing(url) as handle:
        handle.write(bytes(size))
        raise Stop
    assert not storage.exists(url)
    assert storage.names(root) == []


@pytest.mark.parametrize("size", [10, 12 << 20])
def test_a_write_that_fails_leaves_the_old_file(root, size):
    url = storage.join(root, "file.bin")
    storage.commit(url, b"old")
    with pytest.raises(Stop), storage.committing(url) as handle:
        handle.write(bytes(size))
        raise Stop
    assert storage.read(url) == b"old"


@pytest.mark.parametrize("size", [10, 12 << 20])
def test_a_write_that_fails_begins_nothing_when_it_is_finalised(bucket, size, monkeypatch):
    """A finaliser runs anywhere: waiting for a store that is gone, it stopped what ran then."""
    asked = []
    real = s3fs.S3FileSystem.call_s3

    def counted(self, method, *arguments, **more):
        asked.append(method)
        return real(self, method, *arguments, **more)

    with pytest.raises(Stop), storage.committing(f"{bucket}/abandoned.bin") as handle:
        handle.write(bytes(size))
        raise Stop
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", counted)
    handle.__del__()
    assert handle.closed
    assert asked == []


def test_nobody_sees_half_a_file(root):
    url = storage.join(root, "file.bin")
    with storage.committing(url) as handle:
        handle.write(bytes(12 << 20))
        handle.flush()
        assert not storage.exists(url)
        assert storage.names(root) == []
    assert storage.entry(url).bytes == 12 << 20


def test_no_temporary_file_stays(tmp_path):
    with pytest.raises(Stop), storage.committing(str(tmp_path / "a")) as handle:
        handle.write(b"x" * 100)
        raise Stop
    storage.commit(str(tmp_path / "b"), b"x")
    storage.create(str(tmp_path / "b"), b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_create_makes_a_file_only_once(root):
    url = storage.join(root, "lease")
    assert storage.create(url, b"first")
    assert not storage.create(url, b"second")
    assert storage.read(url) == b"first"
    storage.remove(url)
    assert storage.create(url, b"third")


def test_json_is_the_same_bytes_for_the_same_value(root):
    url = storage.join(root, "a.json")
    storage.commit_json(url, {"b": 1, "a": ["é", None]})
    first = storage.read(url)
    storage.commit_json(url, {"a": ["é", None], "b": 1})
    assert storage.read(url) == first
    assert storage.read_json(url) == {"a": ["é", None], "b": 1}


def test_rows_of_an_array_are_read_alone(root):
    url = storage.join(root, "a.npy")
    array = np.arange(200_000, dtype=np.uint64).view([("a", "<u8"), ("b", "<u8")])
    storage.commit_array(url, array)
    assert (storage.read_rows(url, 70_000, 70_010) == array[70_000:70_010]).all()
    assert (np.asarray(storage.read_array(url)) == array).all()
    assert len(storage.read_rows(url, 5, 5)) == 0


def test_parquet_is_the_same_bytes_for_the_same_frame(root):
    url = storage.join(root, "a.parquet")
    frame = pl.DataFrame({"row": np.arange(1000), "text": [str(n) for n in range(1000)]})
    write_parquet(url, frame)
    first = storage.read(url)
    write_parquet(url, frame.clone())
    assert storage.read(url) == first
    assert read_parquet(url, ["text"]).equals(frame.select("text"))


def test_a_file_moves_into_a_new_folder_and_over_another_file(root):
    first, second = storage.join(root, "a.bin"), storage.join(root, "b.bin")
    target = storage.join(root, "deep", "c.bin")
    for url in (first, second):
        storage.commit(url, url.encode())
        storage.move(url, target)
        assert not storage.exists(url)
        assert storage.read(target) == url.encode()
    with pytest.raises(StorageError, match=r"c\.bin|a\.bin"):
        storage.move(first, target)
    odd, beside = storage.join(root, "f?.bin"), storage.join(root, "f1.bin")
    for url in (odd, beside):
        storage.commit(url, url.encode())
    storage.move(odd, target)
    assert storage.read(target) == odd.encode()
    assert storage.read(beside) == beside.encode()


def test_remove_takes_files_folders_and_nothing(root):
    storage.commit(storage.join(root, "folder", "a"), b"1")
    storage.commit(storage.join(root, "folder", "b", "c"), b"2")
    storage.commit(storage.join(root, "folder-2", "a"), b"3")
    storage.remove(storage.join(root, "folder"))
    assert storage.folders(root) == ["folder-2"]
    storage.remove(storage.join(root, "folder-2", "a"))
    storage.remove(storage.join(root, "nothing"))
    assert not storage.exists(storage.join(root, "folder-2", "a"))


def test_what_another_process_wrote_is_seen(root):
    """Listings are not remembered: a worker sees what others added to a folder it has listed."""
    storage.commit(storage.join(root, "parts", "a"), b"1")
    assert storage.names(storage.join(root, "parts")) == ["a"]
    assert not storage.exists(storage.join(root, "parts", "b"))
    write_elsewhere(storage.join(root, "parts", "b"))
    assert storage.exists(storage.join(root, "parts", "b"))
    assert storage.names(storage.join(root, "parts")) == ["a", "b"]
    assert storage.glob(storage.join(root, "parts", "*"))[-1].endswith("/parts/b")
    assert storage.entry(storage.join(root, "parts", "b")).bytes == 5


def write_elsewhere(url):
    if storage.is_local(url):
        Path(url).write_bytes(b"other")
        return
    import boto3
    import fsspec

    own = fsspec.config.conf["s3"]
    client = boto3.client(
        "s3",
        endpoint_url=own["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=own["key"],
        aws_secret_access_key=own["secret"],
    )
    bucket, _, key = url.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=key, Body=b"other")


# --- what cannot be read or written


def test_a_missing_file_is_named(root):
    url = storage.join(root, "missing.bin")
    for act in (storage.read, storage.entry, read_parquet, storage.read_array):
        with pytest.raises(StorageError, match=r"missing\.bin cannot be read"):
            act(url)


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(StorageError, match=r"file\.bin cannot be written"):
        storage.commit(str(tmp_path / "file.bin"), b"x")
    with pytest.raises(StorageError, match=r"file\.bin cannot be read"):
        storage.read(str(tmp_path / "file.bin"))


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "folder").write_bytes(b"")
    for act in (storage.commit, storage.create):
        with pytest.raises(StorageError, match=r"folder/file\.bin cannot be written"):
            act(str(tmp_path / "folder" / "file.bin"), b"x")
    with pytest.raises(StorageError, match="folder cannot be listed"):
        storage.names(str(tmp_path / "folder"))


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(StorageError, match=r"s3://nobucket/a/file\.bin cannot be written"):
        storage.commit("s3://nobucket/a/file.bin", b"x")
    with pytest.raises(StorageError, match=r"s3://nobucket/a/file\.bin cannot be written"):
        storage.create("s3://nobucket/a/file.bin", b"x")


def test_an_unknown_kind_of_storage_is_refused():
    with pytest.raises(StorageError, match="nosuch:// is not a known kind of storage"):
        storage.exists("nosuch://a/b")


FULL = """
import resource, signal, sys
import numpy as np, polars as pl
from curate import storage
from curate.parquet import write_parquet
from curate.errors import StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk: writes fail
noise = np.random.default_rng(0).random(200_000)
acts = {
    "small.bin": lambda url: storage.commit(url, noise.tobytes()[:150_000]),
    "large.bin": lambda url: storage.commit(url, noise.tobytes() * 3),
    "array.npy": lambda url: storage.commit_array(url, noise),
    "table.parquet": lambda url: write_parquet(url, pl.DataFrame({"a": noise})),
}
for name, act in acts.items():
    try:
        act(f"{sys.argv[1]}/{name}")
        print("written", name)
    except StorageError as error:
        print(error)
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines() == [
        f"{tmp_path}/{name} cannot be written: File too large"
        for name in ("small.bin", "large.bin", "array.npy", "table.parquet")
    ]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_unpickled(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="Python objects"):
        storage.read_array(str(tmp_path / "a.npy"))


# --- the lease


def test_a_lease_keeps_others_out_and_is_given_back(root):
    with lease.held(root, steal="refuse"):
        holder = storage.read_json(storage.join(root, "lease"))
        assert holder["pid"] == os.getpid()
        with (
            pytest.raises(WorkInUse, match=f"in use by process {os.getpid()} .*--steal"),
            lease.held(root, steal="refuse"),
        ):
            pass
        assert storage.read_json(storage.join(root, "lease")) == holder
    assert not storage.exists(storage.join(root, "lease"))


def test_a_dead_process_that_nobody_has_buried_holds_nothing(tmp_path):
    script = "import sys, time; from curate.lease import held\n"
    script += "with held(sys.argv[1], steal='refuse'): print('here', flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "here\n"
    with pytest.raises(WorkInUse), held(str(tmp_path), steal="refuse"):
        pass
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    with held(str(tmp_path), steal="refuse"):
        child.wait()  # only now it is buried


def test_a_lease_is_given_back_when_a_run_fails(root):
    with pytest.raises(Stop), lease.held(root, steal="refuse"):
        raise Stop
    assert not storage.exists(storage.join(root, "lease"))


def test_a_stolen_lease_is_noticed_and_stays_with_the_thief(root, monkeypatch):
    monkeypatch.setattr(lease, "CHECK_S", 0.0)
    with lease.held(root, steal="refuse") as first:
        first.check()
        with lease.held(root, steal="steal") as second:
            second.check()
            with pytest.raises(WorkInUse, match="pushed out by process"):
                first.check()
        assert not storage.exists(storage.join(root, "lease"))


def test_the_one_pushed_out_does_not_take_the_thief_s_lease(root):
    first, second = lease.held(root, steal="refuse"), lease.held(root, steal="steal")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert storage.exists(storage.join(root, "lease"))
    second.__exit__(None, None, None)
    assert not storage.exists(storage.join(root, "lease"))


def test_the_lease_of_a_dead_process_is_taken_over(root):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    import socket

    dead = {"host": socket.gethostname(), "pid": int(done.stdout), "token": "x", "born": "1"}
    storage.create(storage.join(root, "lease"), json.dumps(dead).encode())
    assert lease.holder(root) is None
    with lease.held(root, steal="refuse"):
        assert lease.holder(root)["pid"] == os.getpid()


def test_a_pid_given_to_another_process_is_not_the_holder(root):
    import socket

    reused = {"host": socket.gethostname(), "pid": os.getpid(), "token": "x", "born": "1"}
    storage.create(storage.join(root, "lease"), json.dumps(reused).encode())
    with lease.held(root, steal="refuse"):
        pass


def test_a_holder_elsewhere_is_believed(root):
    there = {"host": "another-machine", "pid": 1, "token": "x", "born": "1"}
    storage.create(storage.join(root, "lease"), json.dumps(there).encode())
    with (
        pytest.raises(WorkInUse, match="process 1 on another-machine"),
        lease.held(root, steal="refuse"),
    ):
        pass
    with lease.held(root, steal="steal"):
        pass
