"""Tars in, samples out: against tarfile and webdataset as references, and against hostile files."""

import gzip
import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from object_store import object_store
from webdataset.tariterators import group_by_keys, tar_file_iterator

from curate import storage
from curate.errors import InputChanged, StorageError
from curate.shards import shard
from curate.shards.shard import DamagedTar, read_samples, scan
from curate.shards.tar import Mapped, Members, Source, Streamed, member_header, write_members

LETTERS = st.text("abcé世.-_ ", min_size=1, max_size=12)
NAMES = st.lists(LETTERS.filter(lambda part: part.strip(". ")), min_size=1, max_size=20).map(
    "/".join
)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=12)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


class Trickle(io.BytesIO):
    """A connection that gives a few hundred bytes at a time, however many are asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(700, size or 700))


def packed(files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, body in files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def listed(source: Source) -> list[tuple[str, bytes]]:
    return [(name, bytes(source.read(offset, size))) for name, offset, size in Members(source)]


def saved(folder: Path, data: bytes, name: str = "00000.tar") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def opened(data: bytes) -> Streamed:
    return Streamed("s3://b/00000.tar", Trickle(data))


def samples_of(url: str, **how: object) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (sample.key, {extension: bytes(body) for extension, body in sample.members.items()})
        for sample in read_samples(url, **how)
    ]


def triples(count: int, size: int = 100) -> list[tuple[str, bytes]]:
    chance = random.Random(count)
    return [
        (f"{i:09d}.{extension}", chance.randbytes(chance.randrange(size)))
        for i in range(count)
        for extension in ("jpg", "txt", "json")
    ]


@given(files=FILES, form=FORMATS)
def test_members_are_those_that_tarfile_wrote(files, form, tmp_path_factory):
    data = packed(files, form)
    assert listed(opened(data)) == files
    path = saved(tmp_path_factory.getbasetemp(), data)
    with storage.opened(path) as handle:
        assert listed(Mapped(path, handle)) == files


@given(files=FILES)
def test_tarfile_reads_what_was_written(files):
    buffer = io.BytesIO()
    written = write_members(buffer, files)
    assert written == len(buffer.getvalue())
    assert written % tarfile.RECORDSIZE == 0
    assert len(member_header("é.jpg", 1)) == 3 * 512  # ustar alone knows ASCII only
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        members = tar.getmembers()
        assert [(m.name, tar.extractfile(m).read()) for m in members] == files
    for member in members:
        about = (member.mtime, member.mode, member.uid, member.gid, member.uname, member.gname)
        assert about == (0, 0o644, 0, 0, "", "")
    assert listed(opened(buffer.getvalue())) == files


@given(
    files=st.lists(st.tuples(st.text("ab/._C#2", min_size=1, max_size=7), st.binary(max_size=9)))
)
def test_samples_are_those_of_webdataset(files, tmp_path_factory):
    files = [(n, b) for n, b in files if "//" not in n and n[0] != "/" and n[-1] != "/"]
    files = [(n, b) for n, b in files if "/." not in n]  # webdataset: a sample called `folder/`
    data = packed(files)
    stream = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(data)))
    try:
        theirs = [dict(sample) for sample in group_by_keys(stream)]
    except ValueError:
        return  # the same extension twice: an error there, a second sample here
    if len({sample["__key__"] for sample in theirs}) < len(theirs):
        return  # apart: see the test for that
    expected = [(s.pop("__key__"), {k: v for k, v in s.items() if k != "__url__"}) for s in theirs]
    assert samples_of(saved(tmp_path_factory.getbasetemp(), data)) == expected


@pytest.mark.parametrize("files", [[], triples(1), triples(40)])
def test_the_index_says_where_each_member_is(files, tmp_path):
    data = packed(files)
    index = scan(saved(tmp_path, data))
    found = [
        (f"{key}.{extension}", data[offset : offset + size])
        for i, key in enumerate(index.keys)
        for extension, offset, size in index.members(i)
    ]
    assert found == files
    assert (len(index), index.truncated) == (len(files) // 3, False)
    assert index.end == sum(512 + len(body) + -len(body) % 512 for _, body in files)
    assert shard.picture_keys(index) == list(index.keys)


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(10240)])
def test_a_tar_without_members_is_an_empty_shard(data, tmp_path):
    index = scan(saved(tmp_path, data))
    assert (len(index), index.truncated, shard.picture_keys(index)) == (0, False, [])
    assert samples_of(index.url) == []


@given(cut=st.integers(0, 40 * 1024), streamed=st.booleans())
def test_a_cut_tar_gives_the_members_before_the_cut(cut, streamed, tmp_path_factory):
    files = triples(12)
    data = packed(files)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    whole = [
        (m.name, b)
        for m, (_, b) in zip(members, files, strict=True)
        if m.offset_data + m.size <= cut
    ]
    marker = members[-1].offset_data + 512 * -(-members[-1].size // 512)
    path = saved(tmp_path_factory.getbasetemp(), data[:cut])
    index = scan(path)
    assert index.truncated == (0 < cut < marker + 512)
    found = [(f"{key}.{e}", b) for key, members in samples_of(path) for e, b in members.items()]
    assert found == whole
    assert [f"{k}.{e}" for i, k in enumerate(index.keys) for e, _, _ in index.members(i)] == [
        name for name, _ in whole
    ]
    source = opened(data[:cut])
    cut_off = [name for name, body in listed(source)][: len(whole)]
    assert cut_off == [name for name, _ in whole]


def test_a_damaged_header_is_named(tmp_path):
    files = triples(3)
    data = bytearray(packed(files))
    second = 512 + 512 * -(-len(files[0][1]) // 512)
    data[second + 3] ^= 1
    with pytest.raises(DamagedTar, match=rf"00000\.tar: no valid tar header at byte {second}$"):
        scan(saved(tmp_path, bytes(data)))


def test_what_is_no_tar_is_said_to_be_none(tmp_path):
    with pytest.raises(DamagedTar, match=r"compressed data .* unpack it first"):
        scan(saved(tmp_path, gzip.compress(random.Random(0).randbytes(2000))))
    with pytest.raises(DamagedTar, match="no valid tar header at byte 0"):
        scan(saved(tmp_path, b"<html>not found</html>" * 100))
    with pytest.raises(StorageError, match=r"absent\.tar"):
        scan(str(tmp_path / "absent.tar"))


def test_folders_links_and_devices_are_passed_over(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        kinds = (
            tarfile.DIRTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
        )
        for i, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"a/link{i}.jpg")
            info.type, info.linkname = kind, "../../etc/passwd" * 10
            tar.addfile(info)
        info = tarfile.TarInfo("a/b.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"pic"))
    assert samples_of(saved(tmp_path, buffer.getvalue())) == [("a/b", {"jpg": b"pic"})]


def test_sizes_over_8_gib_are_read_and_written(tmp_path):
    size = 8 * 1024**3 + 5
    for form, start in (("ours", b""), (tarfile.GNU_FORMAT, b""), (tarfile.PAX_FORMAT, b"")):
        if form == "ours":
            start = member_header("big.jpg", size)
        else:
            info = tarfile.TarInfo("big.jpg")
            info.size = size
            start = info.tobuf(format=form)
        path = tmp_path / "big.tar"
        with path.open("wb") as handle:  # a hole on the disk, not 8 GiB
            handle.write(start)
            handle.seek(len(start) + 512 * -(-size // 512))
            write_members(handle, [("small.jpg", b"pic")])
        index = scan(str(path))
        assert (list(index.keys), index.size.tolist()) == (["big", "small"], [size, 3])
        with tarfile.open(path) as tar:
            assert [member.size for member in tar.getmembers()] == [size, 3]
        again = samples_of(str(path), wanted={"small"}, index=index)
        assert again == [("small", {"jpg": b"pic"})]
        path.unlink()


@pytest.mark.parametrize("size", [10**18, 8**11 - 1, 2**87])
def test_a_size_that_lies_is_a_cut(size, tmp_path):
    start = b"".join(member_header(n, len(b)) + b + bytes(-len(b) % 512) for n, b in triples(2))
    url = saved(tmp_path, start + member_header("liar.jpg", size) + b"pic")
    index = scan(url)
    assert (len(index), index.truncated) == (2, True)
    assert samples_of(url) == samples_of(saved(tmp_path, packed(triples(2)), "whole.tar"))
    assert len(listed(opened(Path(url).read_bytes()))) == 7


@pytest.mark.parametrize(
    "record",
    [b"-1 a=b\n", b"0 a=b\n", b"99 path=x\n", b"11 path=x\n", b"x", b"9" * 5000 + b" a=b\n",
     b"12 size=-99\n", b"13 size=12th\n", b"22 GNU.sparse.major=1\n",
     b"5011 size=%b\n" % (b"9" * 5000), b"1048593 comment=%b\n" % (b"x" * (1 << 20))],
)  # fmt: skip
def test_a_malformed_pax_header_is_named(record, tmp_path):
    header = bytearray(member_header("é" * 80, 0))  # a pax header and its record
    size = len(record)
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    body = record + bytes(-size % 512)
    data = bytes(header[:512]) + body + member_header("a.jpg", 3) + b"pic" + bytes(509 + 1024)
    with pytest.raises(DamagedTar, match=r"00000\.tar: .* at byte"):
        scan(saved(tmp_path, data))


def test_a_tar_behind_another_is_read_on(tmp_path):
    files = triples(4)
    data = packed(files[:6]) + packed(files[6:]) + b"whatever lies behind the end" * 50
    index = scan(saved(tmp_path, data))
    assert list(index.keys) == ["000000000", "000000001", "000000002", "000000003"]
    assert not index.truncated


def test_a_repeated_key_is_another_sample(tmp_path):
    files = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"t"), ("b.jpg", b"3"), ("a.jpg", b"4")]
    url = saved(tmp_path, packed([*files, ("a#2.jpg", b"5")]))
    assert samples_of(url) == [
        ("a", {"jpg": b"1"}),
        ("a#2", {"jpg": b"2", "txt": b"t"}),
        ("b", {"jpg": b"3"}),
        ("a#3", {"jpg": b"4"}),
        ("a#2#2", {"jpg": b"5"}),
    ]
    assert samples_of(url, wanted={"a#3"}) == [("a#3", {"jpg": b"4"})]


def test_interleaved_samples_are_refused(tmp_path):
    data = packed([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")])
    with pytest.raises(DamagedTar, match=r"00000\.tar: members of sample 'a' lie apart"):
        scan(saved(tmp_path, data))


def test_many_members_of_one_name_take_no_more_than_linear_time(tmp_path):
    index = scan(saved(tmp_path, packed([("a.jpg", b"")] * 20_000)))
    assert (len(index), index.keys[-1]) == (20_000, "a#20000")


def test_wanted_samples_and_extensions_are_given_and_no_others(tmp_path):
    files = triples(30)
    url = saved(tmp_path, packed(files))
    every = dict(samples_of(url))
    wanted = {"000000007", "000000003", "nowhere"}
    expected = [(key, {"txt": every[key]["txt"]}) for key in ("000000003", "000000007")]
    assert samples_of(url, wanted=wanted, extensions=("txt",)) == expected
    assert samples_of(url, wanted=wanted, extensions=("txt",), index=scan(url)) == expected
    assert samples_of(url, wanted=wanted, extensions=()) == [("000000003", {}), ("000000007", {})]
    assert samples_of(url, wanted=set()) == []


def test_nothing_is_read_behind_the_last_wanted_sample(tmp_path):
    data = bytearray(packed(triples(20)))
    url = saved(tmp_path, bytes(data))
    data[scan(url).offset[30] - 1] ^= 1  # the header of sample 10's first member
    saved(tmp_path, bytes(data))
    assert [key for key, _ in samples_of(url, wanted={"000000002"})] == ["000000002"]
    with pytest.raises(DamagedTar):
        samples_of(url, wanted={"000000002", "nowhere"})


def test_old_and_odd_headers_are_read(tmp_path):
    def header(**fields: object) -> bytearray:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        for name, value in fields.items():
            setattr(info, name, value)
        return bytearray(info.tobuf(tarfile.USTAR_FORMAT))

    def sealed(block: bytearray, total: int) -> bytes:
        block[148:156] = b"%06o\0 " % total
        return bytes(block) + b"pic" + bytes(509)

    signed = header(name="é.jpg")
    blank = signed[:148] + b" " * 8 + signed[156:]
    prefixed = header(name="f" * 90 + "/" + "b.jpg" * 15)
    gnu = header(name="c.jpg")
    gnu[257:265], gnu[345:357] = b"ustar  \0", b"12345670123\0"  # a time where ustar has a prefix
    data = sealed(signed, sum(blank) - 256 * sum(byte > 127 for byte in blank))
    data += bytes(prefixed) + b"pic" + bytes(509)
    data += sealed(gnu, sum(gnu[:148] + b" " * 8 + gnu[156:])) + bytes(1024)
    keys = [key for key, _ in samples_of(saved(tmp_path, data))]
    assert keys == ["é", "f" * 90 + "/b", "c"]


def test_pax_records_for_all_members_hold_until_taken_back(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"path": "x.jpg"}) as tar:
        for name in ("a.jpg", "b.jpg", "é.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"pic"))
    assert [name for name, _ in listed(opened(buffer.getvalue()))] == ["x.jpg", "x.jpg", "é.jpg"]


def test_reading_gives_the_index_that_scanning_gives(tmp_path):
    url = saved(tmp_path, packed(triples(5)))
    samples = read_samples(url)
    assert len(list(samples)) == 5
    shard.save_index(str(tmp_path / "index.npz"), samples.index)
    loaded = shard.load_index(str(tmp_path / "index.npz"))
    for index in (samples.index, loaded):
        assert (index.keys, index.extensions, index.end) == (
            scan(url).keys, scan(url).extensions, scan(url).end,
        )  # fmt: skip
        for name in ("first", "extension", "offset", "size"):
            np.testing.assert_array_equal(getattr(index, name), getattr(scan(url), name))


def test_a_tar_that_changed_after_the_scan_is_refused(tmp_path):
    index = scan(saved(tmp_path, packed(triples(20))))
    saved(tmp_path, packed(triples(19)))
    with pytest.raises(InputChanged, match=r"00000\.tar is not the file that it was: sample '0"):
        samples_of(index.url, index=index)


def test_bodies_of_a_local_tar_are_not_copied(tmp_path):
    url = saved(tmp_path, packed([("a.jpg", b"before")]))
    sample = next(read_samples(url))
    with open(url, "r+b") as handle:  # noqa: PTH123  # in place: pathlib's writers truncate
        handle.seek(512)
        handle.write(b"behind")
    assert bytes(sample.members["jpg"]) == b"behind"


def test_picture_caption_and_metadata():
    view = memoryview
    members = {
        "txt": view(b"caf\xe9"),
        "json": view(b'{"uid": "a"}'),
        "png": view(b"p"),
        "jpg": view(b"j"),
    }
    sample = shard.TarSample("k", members)
    assert shard.picture(sample) == ("png", b"p")
    assert shard.caption(sample) == "caf�"
    assert shard.metadata(sample) == {"uid": "a"}
    none = shard.TarSample("k", {})
    assert (shard.picture(none), shard.caption(none), shard.metadata(none)) == (None, None, None)
    for text in (b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"):
        with pytest.raises(shard.BadMetadata, match=r"^k\.json: "):
            shard.metadata(shard.TarSample("k", {"json": view(text)}))


@pytest.fixture(scope="module")
def bucket():
    with object_store() as url:
        yield url


def test_samples_of_an_object_store_are_the_same(bucket, tmp_path):
    files = [*triples(60, 600_000), ("last.jpg", b"")]  # several pieces of 8 MiB
    data = packed(files)
    local, remote = saved(tmp_path, data), f"{bucket}/00000.tar"
    storage.commit(remote, data)
    index = scan(remote)
    assert index.offset.tolist() == scan(local).offset.tolist()
    assert samples_of(remote) == samples_of(local)
    assert samples_of(remote, index=index) == samples_of(local)
    assert samples_of(remote, wanted={"000000031"}) == samples_of(local, wanted={"000000031"})
    assert samples_of(remote, wanted={"last"}, index=index) == [("last", {"jpg": b""})]


def test_only_ranges_around_wanted_samples_are_read_with_an_index(bucket, tmp_path, caplog):
    data = packed(triples(60, 600_000))
    local = saved(tmp_path, data)
    index = scan(local)
    wanted = {"000000011", "000000012", "000000050"}
    there = np.zeros(len(data), dtype=bool)
    for key in wanted:
        for _, offset, size in index.members(index.keys.index(key)):
            there[offset - 512 : offset + size] = True
    only = np.where(there, np.frombuffer(data, dtype=np.uint8), 255).astype(np.uint8).tobytes()
    remote = f"{bucket}/only.tar"
    storage.commit(remote, only)
    caplog.set_level("INFO", "werkzeug")
    caplog.clear()
    assert samples_of(remote, wanted=wanted, index=index) == samples_of(local, wanted=wanted)
    asked = f"GET {remote.removeprefix('s3:/')}"
    assert sum(asked in message for message in caplog.messages) == 2
    with pytest.raises(DamagedTar, match="at byte 0"):  # to every reader from front to back
        samples_of(remote, wanted=wanted)
    with pytest.raises(InputChanged, match=r"only\.tar is not the file that it was"):
        samples_of(remote, wanted={"000000030"}, index=index)
    storage.commit(remote, only[: len(only) // 2])
    with pytest.raises((InputChanged, StorageError), match=r"only\.tar"):
        samples_of(remote, wanted=wanted, index=index)


def test_a_shard_that_webdataset_wrote_is_read(tmp_path):
    path = str(tmp_path / "w.tar")
    with webdataset.TarWriter(path) as writer:
        for i in range(5):
            writer.write({"__key__": f"s{i}", "jpg": os.urandom(50), "json": {"uid": i}})
    assert [shard.metadata(sample) for sample in read_samples(path)] == [
        {"uid": i} for i in range(5)
    ]
