"""Pictures fetched over real HTTP into img2dataset's layout: what stays, changes and fails."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from picture_server import HTML, SILENT, Answer, opted_out, picture_server, redirect, truncated
from PIL import Image
from pydantic import ValidationError

from curate.downloads.download import Counts, Download, Target, _table, download_part
from curate.errors import InputChanged, StorageError

LOCAL = Download(allow_private_addresses=True, timeout_s=2, seconds_per_image=5)


def picture(size=(300, 200), mode="RGB", form="JPEG", seed=0, **how) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise, "RGBA").resize(size).convert(mode).save(file, form, **how)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none: decoding it would fail."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))


def request_rows(urls, **columns) -> pl.DataFrame:
    count = len(urls)
    given = {
        "row": pl.Series(range(count), dtype=pl.UInt32),
        "uid": [f"{n:032x}" for n in range(count)],
        "url": pl.Series(urls, dtype=pl.String),
        "caption": [f"caption {n}" for n in range(count)],
    }
    return pl.DataFrame({**given, **columns})


class Part:
    """What a part holds, as any reader sees it."""

    def __init__(self, folder: Path, stem: str = "00000") -> None:
        self.table = pl.read_parquet(folder / f"{stem}.parquet")
        self.stats = json.loads((folder / f"{stem}_stats.json").read_text())
        self.bytes = (folder / f"{stem}.tar").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(self.bytes)) as tar:
            self.members = {m.name: tar.extractfile(m).read() for m in tar}
            self.times = {m.mtime for m in tar}

    def column(self, name: str) -> list:
        return self.table[name].to_list()

    def image(self, row: int) -> tuple[str, bytes]:
        key = self.table.row(row, named=True)["key"]
        found = [(n.split(".")[1], b) for n, b in self.members.items() if n.startswith(key)]
        return next((end, body) for end, body in found if end not in ("txt", "json"))


def download(answers, folder, spec=LOCAL, **columns) -> Part:
    """The answers' paths downloaded, in their order, as shard 0."""
    with picture_server(answers) as server:
        rows = request_rows([server.url(path) for path in answers], **columns)
        counts = download_part(spec, rows, Target(str(folder), 0), 8)
    part = Part(folder)
    assert counts.rows == part.table.height
    assert counts.bytes == len(part.bytes)
    return part


@pytest.mark.parametrize(
    ("form", "mode", "extension"),
    [
        ("JPEG", "RGB", "jpg"), ("JPEG", "L", "jpg"), ("JPEG", "CMYK", "jpg"),
        ("PNG", "RGB", "png"),
        ("PNG", "RGBA", "png"), ("PNG", "LA", "png"), ("PNG", "P", "png"), ("PNG", "1", "png"),
        ("WEBP", "RGB", "webp"), ("WEBP", "RGBA", "webp"),
    ],
)  # fmt: skip
def test_a_picture_that_need_not_change_keeps_every_byte(tmp_path, form, mode, extension):
    body = picture((512, 300), mode, form)
    part = download({"/lying-extension.gif": body}, tmp_path)
    assert part.image(0) == (extension, body)
    assert part.table.select("width", "height", "original_width", "original_height").row(0) == (
        512, 300, 512, 300,
    )  # fmt: skip
    assert part.column("sha256") == [hashlib.sha256(body).hexdigest()]


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("keep_ratio_largest", (1000, 500), (512, 256)),
        ("keep_ratio_largest", (300, 1200), (128, 512)),
        ("keep_ratio", (1000, 600), (853, 512)),
        ("keep_ratio", (1000, 300), (1000, 300)),
        ("center_crop", (1000, 600), (512, 512)),
        ("border", (1000, 600), (512, 512)),
        ("no", (1000, 600), (1000, 600)),
    ],
)
def test_larger_pictures_are_resized_in_img2datasets_ways(tmp_path, mode, size, expected):
    body = picture(size)
    spec = LOCAL.model_copy(update={"resize_mode": mode})
    part = download({"/a.jpg": body}, tmp_path, spec)
    extension, stored = part.image(0)
    assert extension == "jpg"
    with Image.open(io.BytesIO(stored)) as image:
        image.load()
        assert image.size == expected
    row = part.table.row(0, named=True)
    assert (row["width"], row["height"]) == expected
    assert (row["original_width"], row["original_height"]) == size
    assert row["sha256"] == hashlib.sha256(body).hexdigest()
    assert (stored == body) == (expected == size)


@pytest.mark.parametrize(("form", "mode"), [("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB")])
def test_other_formats_become_jpeg_at_their_own_size(tmp_path, form, mode):
    body = picture((200, 100), mode, form)
    part = download({"/a": body}, tmp_path)
    extension, stored = part.image(0)
    assert (extension, stored[:2]) == ("jpg", b"\xff\xd8")
    with Image.open(io.BytesIO(stored)) as image, Image.open(io.BytesIO(body)) as original:
        apart = np.abs(np.asarray(image, float) - np.asarray(original.convert("RGB"), float))
    assert apart.mean() < 12


def test_formats_not_kept_become_jpeg(tmp_path):
    spec = LOCAL.model_copy(update={"keep_formats": ("jpeg",)})
    answers = {"/a.png": picture(form="PNG"), "/a.jpg": picture()}
    part = download(answers, tmp_path, spec)
    assert [part.image(0)[0], part.image(1)] == ["jpg", ("jpg", answers["/a.jpg"])]


def test_transparency_is_laid_on_white_where_a_picture_must_change(tmp_path):
    clear = Image.new("RGBA", (900, 1600), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 800, 900, 1600))
    file = io.BytesIO()
    clear.save(file, "PNG")
    part = download({"/a.png": file.getvalue()}, tmp_path)
    with Image.open(io.BytesIO(part.image(0)[1])) as image:
        assert image.size == (288, 512)
        assert min(image.getpixel((144, 100))) > 250
        red, green, _ = image.getpixel((144, 400))
        assert (red > 230, green < 30) == (True, True)


def test_sixteen_bit_pictures_do_not_turn_white(tmp_path):
    grey = np.full((600, 800), 0x4000, np.uint16)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    part = download({"/a.png": file.getvalue()}, tmp_path)
    with Image.open(io.BytesIO(part.image(0)[1])) as image:
        assert abs(np.asarray(image, float).mean() - 0x40) < 2


def test_bombs_are_refused_by_their_header_alone(tmp_path):
    answers = {
        "/bomb.png": png_header(30_000, 30_000),
        "/over.png": png_header(10_000, 10_000),  # Pillow would only warn of it
        "/hollow.png": png_header(9_000, 9_000),
    }
    part = download(answers, tmp_path)
    # The last is within the limit and fails in the decoder: the others did not get so far.
    assert part.column("error") == ["too_many_pixels", "too_many_pixels", "undecodable"]
    assert set(part.column("status")) == {"failed_to_resize"}
    assert not part.members


def test_a_narrow_picture_enlarged_to_a_bomb_is_refused(tmp_path):
    spec = LOCAL.model_copy(update={"resize_mode": "keep_ratio", "resize_only_if_bigger": False})
    part = download({"/a.png": picture((2_000, 1), form="PNG")}, tmp_path, spec)
    assert part.column("error") == ["too_many_pixels"]  # it would be 512 x 1,024,000


def test_pictures_that_are_none_or_broken_are_failures_with_a_class(tmp_path):
    jpeg, png = picture((400, 400)), picture((400, 400), form="PNG")
    big = picture((900, 900))
    answers = {
        "/html.jpg": HTML,
        "/empty.jpg": b"",
        "/svg.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "/cut.jpg": jpeg[: len(jpeg) // 2],
        "/cut.png": png[: len(png) // 2],
        "/cut-big.jpg": big[: len(big) // 2],
        "/noise.jpg": b"\xff\xd8\xff\xe0" + random.Random(0).randbytes(5_000),
        "/fine.jpg": jpeg,
    }
    part = download(answers, tmp_path)
    assert part.column("error") == [
        "not_an_image", "not_an_image", "not_an_image", "undecodable", "undecodable", "undecodable",
        "not_an_image", None,
    ]  # fmt: skip
    assert part.column("status") == ["failed_to_resize"] * 7 + ["success"]
    assert part.table.filter(pl.col("status") != "success")["sha256"].is_null().all()
    assert part.stats["status_dict"] == {"not_an_image": 4, "undecodable": 3, "success": 1}
    assert part.stats["failed_to_resize"] == 7


def test_hosts_that_fail_are_failures_with_a_class(tmp_path):
    body = picture()
    answers = {
        "/gone.jpg": Answer(status=404),
        "/sick.jpg": Answer(status=500),
        "/short.jpg": truncated(body),
        "/slow.jpg": Answer(body, drip_s=0.05),
        "/endless.jpg": Answer(body, endless=True),
        "/loop.jpg": redirect("/loop.jpg"),
        "/disk.jpg": redirect("file:///etc/passwd"),
        "/cloud.jpg": redirect("http://169.254.169.254/x.jpg"),
        "/no.jpg": opted_out(body, "noai"),
        "/not-you.jpg": opted_out(body, "otherbot: noai"),
        "/fine.jpg": redirect("/not-you.jpg"),
    }
    spec = LOCAL.model_copy(update={"seconds_per_image": 0.7, "bytes_per_image": 1_000_000})
    part = download(answers, tmp_path, spec)
    assert part.column("error") == [
        "http_404", "http_500", "truncated_body", "too_slow", "too_many_bytes",
        "too_many_redirects", "refused_scheme", "refused_address", "opted_out", None, None,
    ]  # fmt: skip
    assert part.column("status") == ["failed_to_download"] * 9 + ["success"] * 2


def test_nothing_of_this_machine_is_fetched_unless_the_recipe_says_so(tmp_path):
    with picture_server({"/a.jpg": picture()}) as server:
        urls = [server.url("/a.jpg"), f"http://localhost:{server.port}/a.jpg", "file:///etc/passwd"]
        download_part(Download(), request_rows(urls), Target(str(tmp_path), 0), 4)
        assert not server.hits
    assert Part(tmp_path).column("error") == ["refused_address"] * 2 + ["refused_scheme"]


@pytest.mark.parametrize(
    ("answer", "update", "error"),
    [
        (opted_out(picture(), "ourbot: noai"), {"user_agent_token": "OurBot"}, "opted_out"),
        (opted_out(picture(), "noai"), {"disallowed_header_directives": ()}, None),
        (picture((300, 90)), {"min_image_size": 91}, "image_too_small"),
        (picture((300, 90)), {"min_image_size": 90}, None),
        (picture((300, 90)), {"max_aspect_ratio": 3}, "aspect_ratio_too_large"),
        (picture((300, 100)), {"max_aspect_ratio": 3}, None),
        (picture((300, 100)), {"max_image_pixels": 29_999}, "too_many_pixels"),
        (picture((300, 100)), {"max_image_pixels": 30_000}, None),
    ],
)
def test_options_that_refuse_pictures(tmp_path, answer, update, error):
    part = download({"/a": answer}, tmp_path, LOCAL.model_copy(update=update))
    assert part.column("error") == [error]


def test_a_hash_that_was_asked_for_must_match(tmp_path):
    body = picture()
    right = hashlib.sha256(body).hexdigest()
    spec = LOCAL.model_copy(update={"verify_sha256": True})
    answers = dict.fromkeys(["/a", "/b", "/c", "/d"], body)
    part = download(answers, tmp_path, spec, sha256=[right, right.upper(), "0" * 64, None])
    assert part.column("error") == [None, None, "hash_mismatch", "no_sha256"]
    assert part.column("sha256") == [right, right, None, None]
    with pytest.raises(InputChanged, match="sha256"):
        download(answers, tmp_path, spec)


def test_failures_that_may_pass_are_tried_again_and_verdicts_are_not(tmp_path):
    answers = {
        "/twice.jpg": Answer(picture(), failures=2),
        "/sick.jpg": Answer(status=500),
        "/gone.jpg": Answer(status=404),
        "/no.jpg": opted_out(picture()),
    }
    spec = LOCAL.model_copy(update={"retries": 2})
    with picture_server(answers) as server:
        rows = request_rows([server.url(path) for path in answers])
        download_part(spec, rows, Target(str(tmp_path), 0), 4)
        assert [server.hits[path] for path in answers] == [3, 3, 1, 1]
    assert Part(tmp_path).column("error") == [None, "http_500", "http_404", "opted_out"]


def mixed_answers(count: int) -> dict:
    """Pictures that answer after more or less time, every fifth of them dead."""
    made = {}
    for n in range(count):
        body = picture((100 + n, 100), form=["JPEG", "PNG", "WEBP"][n % 3], seed=n)
        pause = Answer(body, wait_s=0.01 * (n * 7 % 5))
        made[f"/{n}"] = Answer(status=404) if n % 5 == 4 else pause
    return made


def test_the_same_bytes_come_out_whatever_the_order_and_the_number_of_threads(tmp_path):
    answers = mixed_answers(60)
    parts = []
    with picture_server(answers) as server:
        rows = request_rows([server.url(path) for path in answers])
        for number, (threads, order) in enumerate([(1, rows), (32, rows), (32, rows.reverse())]):
            folder = tmp_path / str(number)
            download_part(LOCAL, order, Target(str(folder), 0), threads)
            parts.append(Part(folder))
    first, *others = parts
    assert first.column("row") == list(range(60))
    keys = [name.split(".")[0] for name in first.members if name.endswith(".json")]
    assert keys == [key for key in first.column("key") if int(key) % 5 != 4]
    assert first.times == {0}
    for other in others:
        assert other.bytes == first.bytes
        assert other.table.equals(first.table)


def test_members_and_columns_are_img2datasets_with_the_uid_and_all_that_came_along(tmp_path):
    body = picture((1000, 500), form="PNG")
    columns = {
        "caption": pl.Series(["Grüße, 世界", None], dtype=pl.String),
        "score": [0.5, float("nan")],
        "tags": [["a", "b"], []],
    }
    part = download({"/a": body, "/b": body}, tmp_path, **columns)
    names = [f"00000000{n}.{end}" for n in (0, 1) for end in ("jpg", "txt", "json")]
    assert list(part.members) == names
    assert part.members["000000000.txt"].decode() == "Grüße, 世界"
    assert part.members["000000001.txt"] == b""
    first, second = (json.loads(part.members[f"00000000{n}.json"]) for n in (0, 1))
    assert list(first) == [
        "key", "uid", "url", "caption", "score", "tags", "status", "error_message",
        "width", "height", "original_width", "original_height", "sha256",
    ]  # fmt: skip
    assert first["uid"] == f"{0:032x}"
    assert first["tags"] == ["a", "b"]
    assert (first["status"], first["width"], first["original_width"]) == ("success", 512, 1000)
    assert (second["caption"], second["score"]) == (None, None)
    assert part.table.schema["row"] == pl.UInt32
    for name in ("width", "height", "original_width", "original_height"):
        assert part.table.schema[name] == pl.Int32
    assert part.stats["count"] == part.stats["successes"] == 2
    assert {"duration", "start_time", "end_time"} < set(part.stats)


def test_columns_of_the_pool_do_not_pass_for_what_was_measured(tmp_path):
    lies = {"key": ["x"], "width": [7], "status": ["success"], "sha256": ["f" * 64]}
    part = download({"/gone": Answer(status=404)}, tmp_path, **lies)
    row = part.table.row(0, named=True)
    assert (row["key"], row["width"], row["status"], row["sha256"]) == (
        "000000000", None, "failed_to_download", None,
    )  # fmt: skip


def test_sizes_hashes_keys_and_resized_bytes_are_those_of_the_bare_library(tmp_path):
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    small = [picture((100 + n, 90), form=form) for n, form in enumerate(["JPEG", "PNG", "GIF"])]
    large = [picture((900, 700 + n), form=form) for n, form in enumerate(["JPEG", "PNG", "GIF"])]
    clear = [picture((900, 700), "RGBA", form) for form in ("PNG", "WEBP")]
    answers = {f"/{n}": body for n, body in enumerate([*small, *large, *clear, b"", large[0][:99]])}
    with picture_server(answers) as server:
        rows = request_rows([server.url(path) for path in answers])
        download_part(LOCAL, rows, Target(str(tmp_path / "ours"), 0), 4)
        bare = tmp_path / "bare"
        bare.mkdir()
        rows.select("caption", "url").write_ipc(bare / "rows", compat_level=pl.CompatLevel.oldest())
        Downloader(
            WebDatasetSampleWriter, Resizer(512, "keep_ratio_largest", True), 4, True, False,  # noqa: FBT003 -- its own signature
            str(bare), ["caption", "url"], 10, 10_000, 5, "sha256", None, "jpg", 0, None, None,
        ).download_shard((0, str(bare / "rows")))  # fmt: skip
    ours, theirs = Part(tmp_path / "ours"), Part(bare)
    shared = ["key", "caption", "url", "status", "width", "height", "original_width", "sha256"]
    assert ours.table.select(shared).equals(theirs.table.sort("key").select(shared))
    changed = [2, 3, 4, 5, 6, 7]  # a GIF, and what is larger than 512 px
    assert [ours.image(row) for row in changed] == [
        ("jpg", theirs.members[f"00000000{row}.jpg"]) for row in changed
    ]
    assert ours.members["000000000.txt"] == theirs.members["000000000.txt"]


def test_rows_without_a_url_and_parts_without_rows(tmp_path):
    part = download({"/a.jpg": picture()}, tmp_path / "one")
    rows = request_rows([None, None])
    counts = download_part(LOCAL, rows, Target(str(tmp_path), 3), 2)
    assert dict(counts.errors) == {"no_url": 2}
    assert Part(tmp_path, "00003").column("status") == ["failed_to_download"] * 2
    assert download_part(LOCAL, rows.head(0), Target(str(tmp_path), 4), 2).rows == 0
    empty = Part(tmp_path, "00004")
    assert empty.table.schema == Part(tmp_path, "00003").table.schema == part.table.schema
    assert not empty.members


def test_what_is_fetched_again_is_a_part_of_its_own_with_the_same_keys(tmp_path):
    answers = {"/0": picture(), "/1": Answer(picture(seed=1), failures=1), "/2": picture(seed=2)}
    with picture_server(answers) as server:
        rows = request_rows([server.url(path) for path in answers])
        download_part(LOCAL, rows, Target(str(tmp_path), 12), 4)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        download_part(LOCAL, rows[[1]], Target(str(tmp_path), 12, part=1), 4)
    first, again = Part(tmp_path, "00012"), Part(tmp_path, "00012-r1")
    assert first.column("error") == [None, "http_503", None]
    assert again.column("row") == [1]
    assert list(again.members) == ["000120001.jpg", "000120001.txt", "000120001.json"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert sorted(file.name for file in tmp_path.iterdir() if file.name not in before) == [
        "00012-r1.parquet", "00012-r1.tar", "00012-r1_stats.json",
    ]  # fmt: skip


def test_keys_are_wider_where_numbers_are_larger():
    assert Target("x", 7).key(42) == "000070042"
    assert Target("x", 123_456).key(42) == "1234560042"
    assert Target("x", 7, shard_digits=8).key(42) == "000000070042"
    assert Target("x", 7, rows_per_shard=100_000).key(42) == "0000700042"
    assert Target("x", 123_456, part=2).stem == "123456-r2"
    with pytest.raises(ValueError, match="10000"):
        Target("x", 0).key(10_000)


def test_rows_that_img2dataset_loses_are_counted():
    table = _table(request_rows(["http://x/"]), {}, Target("x", 0))
    row = table.row(0, named=True)
    assert (row["status"], row["error"]) == ("failed_to_resize", "downloader_error")
    with pytest.raises(AssertionError):
        Counts(2, 1, 0, 0, {}, 0)


def test_stdout_and_stderr_stay_where_they_were(tmp_path, capfd):
    cut = [picture((600, 600), form=["JPEG", "PNG"][n % 2], seed=n)[:-n] for n in range(1, 20)]
    cut.append(picture((600, 600), form="PNG", icc_profile=bytes(200)))  # libpng would grumble
    cut.append(picture((600, 600), form="TIFF")[:500])  # OpenCV would
    stop = threading.Event()

    def talk():
        while not stop.is_set():
            os.write(1, b"x")
            time.sleep(0.0005)
            written.append(1)

    written: list[int] = []
    talker = threading.Thread(target=talk)
    talker.start()
    download({f"/{n}": body for n, body in enumerate(cut)}, tmp_path)
    stop.set()
    talker.join()
    out, err = capfd.readouterr()
    assert out.count("x") == len(written)
    assert err == ""


def test_a_full_temporary_folder_is_an_error_and_not_a_broken_picture(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("curate.downloads.download.tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(StorageError, match=r"No space left.*TMPDIR"):
        download({f"/{n}": picture(seed=n) for n in range(40)}, tmp_path)
    assert not list(tmp_path.iterdir())


RUN = """
import sys, polars as pl
from curate.downloads.download import *
urls = sys.argv[2:]
rows = pl.DataFrame({"row": range(len(urls)), "uid": ["0" * 32] * len(urls), "url": urls})
download_part(Download(allow_private_addresses=True), rows, Target(sys.argv[1], 0), 4)
"""


def start(folder: Path, server, paths) -> subprocess.Popen:
    urls = [server.url(path) for path in paths]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), *urls], stderr=subprocess.DEVNULL
    )
    while not server.hits["/silent"]:
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_a_run_that_is_interrupted_ends_and_leaves_nothing(tmp_path):
    many = ["/silent"] + ["/a.jpg"] * 100
    with picture_server({"/a.jpg": picture(), "/silent": SILENT}) as server:
        interrupted = start(tmp_path, server, many)
        interrupted.send_signal(signal.SIGINT)
        interrupted.wait(8)  # less than the 10 s that the silent host is given
        killed = start(tmp_path / "killed", server, many)
        killed.kill()
        killed.wait()
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": 0}, {"resize_mode": "squash"}, {"imagesize": 5}, {"encode_quality": 101},
        {"max_image_pixels": 10**9}, {"keep_formats": ["gif"]}, {"user_agent_token": "a\r\nX: y"},
        {"retries": -1}, {"timeout_s": 0}, {"max_aspect_ratio": 0.5},
    ],
)  # fmt: skip
def test_a_step_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        Download(**fields)


def test_the_recipe_names_the_library_whose_bytes_these_are():
    assert Download().recipe() == {"img2dataset": "1.47.0"}
