"""What a run starts from: lists and shards of any make, read once, never renumbered."""

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import object_store
from tiny_pool import Drawn, Pipeline, digests, draw, ledger_of, tar_pool, write_shards, write_tar

from curate import chance, columns, storage
from curate.columns import Span
from curate.errors import ConfigError, InputChanged, InvalidPipeline, StorageError
from curate.pipeline_file.config import load
from curate.pools.pool import Pool, read_pool
from curate.runner import LocalRunner
from curate.sample import canonical_names, format_uids, parse_uid, parse_uids, uid_of

CAPTION = ({"caption": {"min_characters": 1}},)


def pool_of(folder: Path, pool: object, **fields: object) -> tuple[Pool, pl.DataFrame]:
    """The pool as a run reads it, and all its rows in order, `uid` as 32 hex digits."""
    pipeline = Pipeline(folder, pool, steps=CAPTION).where(**fields)
    read = read_pool(load(pipeline.file()).config, str(pipeline.work), LocalRunner(), dict)
    names = list(read.columns)
    frames = [
        columns.read_pool(str(pipeline.work), names, Span(block, 0, int(rows)))
        for block, rows in enumerate(read.block_rows())
    ]
    return read, pl.concat(frames).drop("uid_hi", "uid_lo", strict=False)


def listed(folder: Path, pool: object = None, **fields: object) -> pl.DataFrame:
    """The rows of a pool of URL lists, by caption."""
    pool = pool or {"urls": str(folder / "urls.*")}
    return pool_of(folder, pool, **fields)[1].sort("caption")


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def rows_of(count: int) -> dict:
    return {
        "url": [f"http://h/{n}.jpg" for n in range(count)],
        "caption": [f"caption {n:05d}" for n in range(count)],
    }


def write_list(file: Path, rows: dict) -> Path:
    """A URL list in the format that the name says."""
    frame = pl.DataFrame(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    match file.suffix:
        case ".parquet":
            frame.write_parquet(file)
        case ".jsonl" | ".ndjson":
            frame.write_ndjson(file)
        case suffix:
            frame.write_csv(file, separator="\t" if suffix == ".tsv" else ",")
    return file


# URL lists


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "ndjson"])
@pytest.mark.parametrize(
    "names",
    [
        ("url", "caption"),
        ("URL", "TEXT"),
        ("image_url", "alt_text"),
        ("uri", "alt"),
        ("Url", "title"),
    ],
)
def test_columns_are_found_by_any_of_their_names(tmp_path, suffix, names):
    url, caption = names
    write_list(
        tmp_path / f"urls.{suffix}",
        {
            caption: ['a "cat", or', "dog,\tdog", None],
            url: ["http://h/1", "http://h/2", "http://h/3"],
            "similarity": [0.5, None, 0.25],
            "WIDTH": [3, 4, 5],
        },
    )
    frame = listed(tmp_path)
    assert frame.select("caption", "url", "similarity", "width").rows() == [
        (None, "http://h/3", 0.25, 5),
        ('a "cat", or', "http://h/1", 0.5, 3),
        ("dog,\tdog", "http://h/2", None, 4),
    ]
    assert frame["uid"].to_list() == [
        md5("http://h/3"),
        md5('a "cat", orhttp://h/1'),
        md5("dog,\tdoghttp://h/2"),
    ]


def test_columns_can_be_named(tmp_path):
    write_list(
        tmp_path / "urls.parquet",
        {"link": ["http://h/1"], "caption": [["a", "list"]], "words": ["a cat"], "id": ["ABC"]},
    )
    source = {
        "urls": str(tmp_path / "urls.parquet"),
        "columns": {"url": "link", "caption": "words", "uid": "id"},
    }
    frame = listed(tmp_path, source)
    assert frame.select("url", "caption", "uid", "their_caption").rows() == [
        ("http://h/1", "a cat", "abc".zfill(32), '["a", "list"]')
    ]


def test_a_column_named_in_vain_is_an_error(tmp_path):
    file = write_list(tmp_path / "urls.parquet", rows_of(1))
    source = {"urls": str(file), "columns": {"url": "ur1"}}
    expected = r"urls.parquet has no column 'ur1'; did you mean 'url'\? \(the pool's `columns:`"
    with pytest.raises(ConfigError, match=expected):
        pool_of(tmp_path, source)
    with pytest.raises(InvalidPipeline, match=expected):
        Pipeline(tmp_path, source, CAPTION).run()


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, -1], ["-1", "5"]),
        ([0.5, None], [None, "0.5"]),
        ([True, False], ["false", "true"]),
        ([None, None], [None, None]),
    ],
)
def test_captions_that_are_no_text_become_text(tmp_path, suffix, values, expected):
    write_list(tmp_path / f"urls.{suffix}", {"url": ["http://h/1", "http://h/2"], "text": values})
    assert listed(tmp_path)["caption"].to_list() == expected


def test_a_csv_changes_no_text(tmp_path):
    """Digits are no numbers where text belongs: a caption and a uid keep every character."""
    (tmp_path / "urls.csv").write_text(
        "url,text,uid,n\nhttp://h/1,1.50,1e10,07\nhttp://h/2,007,00e1,8\n"
    )
    frame = listed(tmp_path)
    assert frame.select("caption", "uid", "n").rows() == [
        ("007", "e1".zfill(32), 8),
        ("1.50", "1e10".zfill(32), 7),
    ]


def test_binary_and_dictionary_text_is_text(tmp_path):
    frame = pl.DataFrame(
        {
            "url": pl.Series([b"http://h/1", b"http://h/2"]),
            "caption": pl.Series([b"a cat", b"\xff\xfe"]),
            "uid": pl.Series([bytes(range(240, 256)), b"\x01" * 16]),
        }
    )
    frame.write_parquet(tmp_path / "urls.parquet")
    assert listed(tmp_path).select("url", "caption", "uid").rows() == [
        ("http://h/1", "a cat", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
        ("http://h/2", "\ufffd\ufffd", "01" * 16),
    ]
    kind = pl.Series(["http://h/1", "http://h/1"], dtype=pl.Categorical)
    pl.DataFrame({"url": kind, "caption": ["a", "b"]}).write_parquet(tmp_path / "urls.parquet")
    assert listed(tmp_path / "b", {"urls": str(tmp_path / "urls.parquet")})["url"].to_list() == [
        "http://h/1",
        "http://h/1",
    ]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("caption", [["a"], ["b"]], r"column 'caption' holds List\(String\), not text; name anoth"),
        ("url", [1, 2], "column `url` holds Int64, not text; name another with `columns:`"),
    ],
)
def test_a_column_that_cannot_be_text_is_named(tmp_path, column, values, expected):
    file = write_list(tmp_path / "urls.parquet", {**rows_of(2), column: values})
    with pytest.raises(ConfigError, match=f"{file}: {expected}"):
        pool_of(tmp_path, {"urls": str(file)})


def test_nested_and_odd_columns_are_kept_as_they_can_be(tmp_path):
    frame = pl.DataFrame(
        {
            **rows_of(2),
            "tags": [["a", "b"], None],
            "box": [{"x": 1}, {"x": None}],
            "seen": pl.Series(["2026-01-01T00:00:00", None]).str.to_datetime(),
            "small": pl.Series([1, None], dtype=pl.Int8),
            "price": pl.Series(["1.10", None]).cast(pl.Decimal(10, 2)),
            "took": pl.Series([1500, None]).cast(pl.Duration("ms")),
            "raw": pl.Series([b"\xff\x00", b"text"]),
            "pool_problem": ["none", "none"],
            "uid_hi": [1, 2],
        }
    )
    frame.write_parquet(tmp_path / "urls.parquet")
    found = listed(tmp_path)
    assert found["tags"].to_list() == ['["a", "b"]', None]
    assert [json.loads(box) for box in found["box"]] == [{"x": 1}, {"x": None}]
    assert found["seen"][0].startswith("2026-01-01")
    assert found["small"].to_list() == [1, None]
    assert found["price"].to_list() == [1.1, None]
    assert found["took"].to_list() == [1500, None]
    assert found["raw"].to_list() == ["ff00", "text"]
    assert found["pool_problem"].to_list() == [None, None], "a stranger's column is not ours"
    assert found["their_uid_hi"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("Int8", "UInt32"), "Int64"),
        (("Int64", "Float32"), "Float64"),
        (("Null", "Int16"), "Int16"),
        (("Null", "Null"), "Null"),
        (("Boolean", "Int64"), "String"),
        (("UInt64", "Int64"), "String"),  # neither holds the other
        (("String", "Float64"), "String"),
    ],
)
def test_columns_of_several_types_get_one_that_holds_them(tmp_path, kinds, expected):
    made = {"Boolean": True, "String": "x", "Null": None}
    for place, order in enumerate((kinds, kinds[::-1])):
        folder = tmp_path / str(place)
        for number, kind in enumerate(order):
            frame = pl.DataFrame(rows_of(2)).with_columns(
                pl.Series("column", [made.get(kind, 1), None], dtype=getattr(pl, kind))
            )
            folder.mkdir(exist_ok=True)
            frame.write_parquet(folder / f"{number}.parquet")
        pool, frame = pool_of(folder, {"urls": f"{folder}/*.parquet"})
        assert pool.columns["column"].dtype == expected
        assert str(frame.schema["column"]) == expected
        assert frame["column"].null_count() == 2 + kinds.count("Null")


def test_the_uid_is_a_column_like_others(tmp_path):
    rows = {**rows_of(3), "uid": ["A", "a", "B"]}
    write_list(tmp_path / "urls.parquet", rows)
    source = {"urls": f"{tmp_path}/urls.parquet", "order": "as_listed"}
    steps = ({"where": f"uid <> '{'b'.zfill(32)}'"}, {"exact_duplicates": {"by": ["uid"]}})
    pipeline = Pipeline(tmp_path, source, steps)
    pipeline.run()
    assert ledger_of(pipeline.work)["reason"].to_list() == [None, "duplicate", "false"]


@pytest.mark.parametrize(
    ("names", "overrides", "expected"),
    [
        (["URL", "url", "text", "caption"], {}, ["url", "their_url", "text", "caption"]),
        (["a", "url"], {"url": "a"}, ["url", "their_url"]),
        (["url", "their_url", "a"], {"url": "a"}, ["their_url", "their_their_url", "url"]),
        (["row", "score"], {}, ["their_row", "score"]),
    ],
)
def test_no_two_columns_get_one_name(names, overrides, expected):
    assert list(canonical_names(names, overrides).values()) == expected


@given(
    names=st.lists(
        st.sampled_from(["url", "URL", "Url", "text", "caption", "their_url", "row", "x"]),
        unique=True,
    ),
    chosen=st.dictionaries(st.sampled_from(["url", "caption"]), st.integers(0, 7)),
)
def test_names_stay_apart_whatever_they_are(names, chosen):
    overrides = {ours: names[n % len(names)] for ours, n in chosen.items() if names}
    if len(set(overrides.values())) == len(overrides):
        found = canonical_names(names, overrides)
        assert list(found) == names
        assert len(set(found.values())) == len(names)
        assert all(found[theirs] == ours for ours, theirs in overrides.items())


# Uids


@pytest.mark.parametrize(
    ("given_uid", "uid"),
    [
        ("0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("aB", "ab".zfill(32)),
        ("0", "0" * 32),
        (None, md5("a cathttp://h/1")),
        ("", md5("a cathttp://h/1")),
        (12, "12".zfill(32)),
        (12.0, "12".zfill(32)),
    ],
)
def test_a_given_uid_is_lower_cased_and_padded(tmp_path, given_uid, uid):
    row = {"url": ["http://h/1"], "caption": ["a cat"], "uid": [given_uid]}
    write_list(tmp_path / "urls.parquet", row)
    assert listed(tmp_path)["uid"].to_list() == [uid]


@pytest.mark.parametrize("uid", ["x", "0" * 33, "a b", " a", "-1", "0x1", "\uff11"])
def test_a_uid_that_is_no_hex_is_named(tmp_path, uid):
    rows = {"url": ["http://h/1"] * 2, "caption": ["a", "b"], "uid": ["ab", uid]}
    file = write_list(tmp_path / "urls.parquet", rows)
    with pytest.raises(ConfigError) as caught:
        pool_of(tmp_path, {"urls": str(file)})
    assert str(caught.value).startswith(f"{file}, row 1: uid {uid!r} is ")
    assert "can be named with `columns: {uid: its_name}`" in str(caught.value)
    with pytest.raises(ValueError, match="uid"):
        parse_uid(uid)


@given(st.lists(st.integers(0, 2**128 - 1)), st.booleans())
def test_uids_are_read_as_they_are_written(numbers, upper):
    texts = [f"{n:X}" if upper else f"{n:x}" for n in numbers]
    uids = parse_uids(texts)
    assert format_uids(uids) == [f"{n:032x}" for n in numbers]
    assert [parse_uid(text) for text in texts] == [(int(u["f0"]), int(u["f1"])) for u in uids]


@given(st.one_of(st.none(), st.text()), st.one_of(st.none(), st.text(st.characters())))
def test_a_uid_is_that_of_datacomp(caption, url):
    expected = hashlib.md5(((caption or "") + (url or "")).encode("utf-8", "surrogatepass"))
    assert uid_of(caption, url) == expected.hexdigest()


def test_blank_uids_are_refused():
    with pytest.raises(ValueError, match="uid '' is not 1 to 32 hexadecimal digits"):
        parse_uids(["a", ""])


# Order and shards of URL lists


def test_rows_are_shuffled_by_uid_hash_alike_in_any_order_of_the_file(tmp_path):
    rows = pl.DataFrame(rows_of(200))
    rows.write_parquet(tmp_path / "a.parquet")
    rows.reverse().write_csv(tmp_path / "b.csv")
    _, first = pool_of(tmp_path / "1", {"urls": str(tmp_path / "a.parquet")})
    _, second = pool_of(tmp_path / "2", {"urls": str(tmp_path / "b.csv")})
    assert first.select("uid", "url").equals(second.select("uid", "url"))
    order = np.argsort(chance.bits(0, "pool", parse_uids(first["uid"].to_list())), kind="stable")
    assert order.tolist() == list(range(200))
    assert first["url"].to_list() != rows["url"].to_list()
    neighbours = np.abs(np.diff([int(u[9:-4]) for u in first["url"]]))
    assert neighbours.mean() > 40, "neighbours on a page are not neighbours in the pool"


def test_repeated_uids_keep_the_order_of_the_file(tmp_path):
    rows = {"url": ["http://h"] * 30, "caption": ["same"] * 30, "n": list(range(30))}
    write_list(tmp_path / "urls.parquet", rows)
    frame = listed(tmp_path)
    assert frame["n"].to_list() == list(range(30))
    assert frame["uid"].n_unique() == 1


def test_the_order_of_the_list_can_be_kept(tmp_path):
    file = write_list(tmp_path / "urls.csv", rows_of(50))
    _, frame = pool_of(tmp_path, {"urls": str(file), "order": "as_listed"})
    assert frame["caption"].to_list() == [f"caption {n:05d}" for n in range(50)]


def test_a_list_is_cut_into_shards_and_blocks(tmp_path):
    for number, count in enumerate((25, 0, 10, 1)):
        rows = rows_of(count) if count else {"url": pl.Series([], dtype=pl.String)}
        write_list(tmp_path / f"{number}.parquet", rows)
    source = {"urls": str(tmp_path / "*.parquet"), "rows_per_shard": 10}
    pool, frame = pool_of(tmp_path, source, rows_per_block=20)
    table = pool.table.select("number", "first", "rows", "block", "offset")
    assert table.rows() == [
        (0, 0, 10, 0, 0),
        (1, 10, 10, 0, 10),
        (2, 20, 5, 1, 0),
        (3, 0, 0, 1, 5),
        (4, 0, 10, 1, 5),
        (5, 0, 1, 1, 15),
    ]
    assert (pool.rows, pool.blocks, frame.height) == (36, 2, 36)
    units = [(unit.block, unit.start, unit.stop) for unit in pool.units()]
    assert units == [(0, 0, 20), (1, 0, 16)]


# Shards


def webdataset(tmp_path: Path, count: int = 30) -> tuple[Path, list[Drawn]]:
    samples = draw(count)
    return write_shards(tmp_path / "in", samples, 3), samples


def kept_by(samples: list[Drawn]) -> list[tuple]:
    return [(sample.key, sample.caption, sample.uid) for sample in samples]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing is written to the terminal."""


@pytest.fixture
def web_server(tmp_path) -> Iterator[str]:
    """A real server on loopback over the test's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_are_named_by_brace_glob_or_list(tmp_path):
    folder, samples = webdataset(tmp_path)
    names = [f"{folder}/{n:05d}.tar" for n in range(3)]
    ways: list = [f"{folder}/{{00000..00002}}.tar", f"{folder}/*.tar", names]
    ways += [[f"{folder}/{{00000,00001}}.tar", f"{folder}/00002.t?r"], f"file://{folder}/*.tar"]
    for number, shards in enumerate(ways):
        pool, frame = pool_of(tmp_path / str(number), {"shards": shards})
        assert frame.select("key", "caption", "uid").rows() == kept_by(samples)
        assert [url.removeprefix("file://") for url in pool.table["url"]] == names
        assert frame["pool_problem"].to_list() == [
            "no_image" if sample.jpeg is None else None for sample in samples
        ]


def test_shards_over_http_are_the_same(tmp_path, web_server):
    _, samples = webdataset(tmp_path)
    shards = f"{web_server}/in/{{00000..00002}}.tar"
    pool, frame = pool_of(tmp_path / "w", {"shards": shards})
    assert frame.select("key", "caption", "uid").rows() == kept_by(samples)
    assert pool.table["bytes"].min() > 10_000
    with pytest.raises(StorageError, match=f"{web_server}/in/00003.tar cannot be read"):
        pool_of(tmp_path / "v", {"shards": f"{web_server}/in/{{00002..00003}}.tar"})


def test_a_list_over_http_is_the_same(tmp_path, web_server):
    for suffix in ("parquet", "csv", "jsonl"):
        write_list(tmp_path / f"urls.{suffix}", rows_of(9))
        frame = listed(tmp_path / suffix, {"urls": f"{web_server}/urls.{suffix}"})
        assert frame["caption"].to_list() == rows_of(9)["caption"]


@pytest.mark.slow
def test_a_whole_run_on_an_object_store(tmp_path):
    """Pool and work folder in a bucket: the same decisions as on a disk."""
    folder, _ = webdataset(tmp_path)
    steps = (
        {"caption": {"min_words": 2}},
        {"image_file": {}},
        {"exact_duplicates": {"by": ["image_file.sha256"]}},
        {"random_sample": {"fraction": 0.8, "of": "survivors"}},
        {"write": {"samples_per_shard": 5}},
    )
    here = Pipeline(tmp_path, tar_pool(folder), steps)
    assert here.run().exit_code == 0
    with object_store() as bucket:
        for tar in folder.glob("*.tar"):
            storage.commit(f"{bucket}/in/{tar.name}", tar.read_bytes())
        there = Pipeline(tmp_path / "s3", {"shards": f"{bucket}/in/*.tar"}, steps)
        assert there.run(f"work={bucket}/run").exit_code == 0
        subset = storage.read(f"{bucket}/run/subset.npy")
        shards = {
            name: storage.read(f"{bucket}/run/shards/{name}")
            for name in storage.names(f"{bucket}/run/shards")
            if name.endswith(".tar")
        }
        again = there.run(f"work={bucket}/run")
        storage.commit(f"{bucket}/in/00001.tar", (folder / "00002.tar").read_bytes())
        with pytest.raises(InputChanged, match=r"in/00001.tar"):
            there.run(f"work={bucket}/run")
    assert subset == (here.work / "subset.npy").read_bytes()
    assert shards == {tar.name: tar.read_bytes() for tar in (here.work / "shards").glob("*.tar")}
    assert again.reused == "everything"


def test_several_sources_keep_their_names(tmp_path):
    write_shards(tmp_path / "a", draw(10, seed=1), 1)
    write_shards(tmp_path / "b", draw(12, seed=2), 2)
    sources = [{"name": name, "shards": f"{tmp_path}/{name}/*.tar"} for name in ("a", "b")]
    pool, frame = pool_of(tmp_path, sources)
    assert pool.table.select("source", "rows").rows() == [("a", 10), ("b", 6), ("b", 6)]
    assert frame["uid"].to_list() == [s.uid for s in [*draw(10, seed=1), *draw(12, seed=2)]]


IMG2DATASET = {
    "url": ["http://h/1", "http://h/2", "http://h/3", "http://h/4"],
    "caption": ["one", None, "three", "four"],
    "key": ["000000000", "000000001", "000000002", "000000003"],
    "status": ["success", "failed_to_download", "success", "success"],
    "error_message": [None, "HTTP Error 404", None, None],
    "width": [8, None, 9, 10],
    "height": [6, None, 7, 8],
    "original_width": [80, None, 90, 100],
    "original_height": [60, None, 70, 80],
    "exif": ["{}", None, "{}", "{}"],
    "sha256": ["aa", None, "bb", "cc"],
    "score": [0.1, 0.2, 0.3, 0.4],
}


def test_img2dataset_output_keeps_the_rows_that_failed(tmp_path):
    """The parquet says what there is; its third picture is not in the tar for all that."""
    pl.DataFrame(IMG2DATASET).write_parquet(tmp_path / "00000.parquet")
    picture = draw(2)[0].jpeg
    in_tar = [Drawn("000000003", "four", {}, picture), Drawn("000000000", "one", {}, picture)]
    write_tar(tmp_path / "00000.tar", in_tar)
    pipeline = Pipeline(
        tmp_path,
        {"shards": f"{tmp_path}/00000.tar"},
        ({"image_size": {"min_side": 65}}, {"where": "score < 1"}, {"write": {}}),
    )
    _, frame = pool_of(tmp_path, pipeline.pool)
    assert frame["pool_problem"].to_list() == [None, "failed_to_download", "no_image", None]
    assert not {"status", "error_message", "exif"} & set(frame.columns)
    assert frame["uid"][1] == md5("http://h/2")
    assert pipeline.run().exit_code == 0
    assert ledger_of(pipeline.work).select("fate", "step", "reason").rows() == [
        ("removed", "image_size", "too_small"),
        ("removed", "pool", "failed_to_download"),
        ("removed", "pool", "no_image"),
        ("kept", None, None),
    ]


def test_a_parquet_beside_the_tar_must_be_readable(tmp_path):
    write_tar(tmp_path / "0.tar", draw(2))
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and no more")
    pool = {"shards": f"{tmp_path}/0.tar"}
    with pytest.raises(InvalidPipeline, match=r"0.parquet cannot be read as .parquet: "):
        Pipeline(tmp_path, pool, CAPTION).run()
    pl.DataFrame({"name": ["a"]}).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(ConfigError, match=r"has no column `key` that joins it to .*/0.tar"):
        Pipeline(tmp_path, pool, CAPTION).run()


def tar_of(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return file


def test_tars_of_bare_pictures_and_of_anything_json_may_hold(tmp_path):
    members = {
        "a.jpg": b"x",
        "b.png": b"x",
        "b.txt": b"words",
        "c.jpg": b"x",
        "c.json": b"not json",
        "d.txt": b"no picture",
        "e.jpg": b"x",
        "e.json": b'{"text": "in the json", "n": 1, "big": 1e400, "deep": {"a": 1}, "URL": "http://h"}',
        "f.jpg": b"x",
        "f.json": json.dumps({"n": "one", "big": 10**60, "key": "mine", "uid": "AB"}).encode(),
        "g.jpg": b"x",
        "g.json": b"[1]",
        f"{'0a' * 16}-3.jpg": b"x",
    }
    tar_of(tmp_path / "0.tar", members)
    _, frame = pool_of(tmp_path, {"shards": f"{tmp_path}/0.tar"})
    found = frame.select("key", "caption", "pool_problem", "uid").rows()
    assert found == [
        ("a", None, None, md5("0.tar/a")),
        ("b", "words", None, md5("words0.tar/b")),
        ("c", None, None, md5("0.tar/c")),
        ("d", "no picture", "no_image", md5("no picture0.tar/d")),
        ("e", "in the json", None, md5("in the jsonhttp://h")),
        ("f", None, None, "ab".zfill(32)),
        ("g", None, None, md5("0.tar/g")),
        (f"{'0a' * 16}-3", None, None, "0a" * 16),
    ]
    assert frame["n"].to_list() == [None, None, None, None, "1", "one", None, None]


# What is broken


def broken(file: Path, kind: str) -> bytes:
    """A shard as it was, and afterwards of one kind of damage."""
    whole = file.read_bytes()
    half = whole[: len(whole) // 2 // 512 * 512 + 700]
    bodies = {"cut": half, "no tar": b"<html>404</html>" * 100}
    file.write_bytes(bodies[kind])
    return whole


@pytest.mark.parametrize("kind", ["cut", "no tar"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_shard_is_counted_and_loses_nothing_else(tmp_path, kind, which):
    folder, samples = webdataset(tmp_path)
    broken(folder / f"{which:05d}.tar", kind)
    pipeline = Pipeline(tmp_path, tar_pool(folder), ({"caption": {}}, {"write": {}}))
    outcome = pipeline.run()
    assert outcome.exit_code == 3
    assert [shard["url"] for shard in outcome.report["pool"]["damaged"]] == [
        str(folder / f"{which:05d}.tar")
    ]
    ledger = ledger_of(pipeline.work)
    for shard in range(3):
        here = ledger.filter(pl.col("shard") == shard)
        uids = here.filter(pl.col("reason").ne_missing("cut"))["uid"].to_list()
        expected = [sample.uid for sample in samples[10 * shard : 10 * shard + 10]]
        if shard != which:
            assert uids == expected
        else:
            assert uids == expected[: len(uids)]
            assert (0 < len(uids) < 10) == (kind == "cut")
            cut = here["reason"].to_list()[len(uids) :]
            assert cut == (["cut"] if kind == "cut" else []), "its caption is not to be believed"


def test_a_pool_of_nothing_but_damage_is_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(InvalidPipeline, match=r"0.tar is not a tar: no valid tar header at byte"):
        Pipeline(tmp_path, tar_pool(tmp_path), CAPTION).run()


def test_a_parquet_beside_a_damaged_tar_still_accounts_for_its_rows(tmp_path):
    pl.DataFrame(IMG2DATASET).write_parquet(tmp_path / "00000.parquet")
    (tmp_path / "00000.tar").write_bytes(b"no tar at all" * 100)
    pipeline = Pipeline(tmp_path, {"shards": f"{tmp_path}/00000.tar"}, CAPTION)
    assert pipeline.run().exit_code == 3
    reasons = ledger_of(pipeline.work)["reason"].to_list()
    assert reasons == ["no_image", "failed_to_download", "no_image", "no_image"]


def test_empty_tars_and_empty_pools(tmp_path):
    folder, samples = webdataset(tmp_path)
    for name in ("00000a", "00009"):
        tar_of(folder / f"{name}.tar", {})
    (folder / "0.tar").write_bytes(b"")  # sorts before all others
    steps = (
        {"image_file": {}},
        {"caption": {}},
        {"exact_duplicates": {"by": ["caption"]}},
        {"random_sample": {"fraction": 0.5, "of": "survivors"}},
        {"any_of": [{"where": "key is not null"}, {"random_sample": {"name": "b", "count": 3}}]},
        {"write": {}},
    )
    pipeline = Pipeline(tmp_path, tar_pool(folder), steps)
    assert pipeline.run().exit_code == 0
    assert ledger_of(pipeline.work).height == len(samples)
    empty = Pipeline(tmp_path / "none", {"shards": f"{folder}/00000a.tar"}, steps)
    outcome = empty.run()
    assert (outcome.exit_code, outcome.report["totals"]["rows"]) == (0, 0)
    assert len(np.load(empty.work / "subset.npy")) == 0
    assert empty.run().reused == "everything"


def test_one_row(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", draw(2)[:1])
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"))
    outcome = pipeline.run()
    assert (outcome.exit_code, outcome.report["totals"]["rows"]) == (0, 1)


def test_repeated_uids_are_rows_of_their_own(tmp_path):
    one = draw(2)[0]
    same = [Drawn(f"{n:09d}", one.caption, one.metadata, one.jpeg) for n in range(5)]
    write_shards(tmp_path / "in", same, 2)
    for count, steps in (
        (5, CAPTION),
        (1, ({"exact_duplicates": {"by": ["url"]}},)),
        (2, ({"random_sample": {"count": 2}},)),
    ):
        pipeline = Pipeline(tmp_path / str(count), tar_pool(tmp_path / "in"), steps)
        assert pipeline.run().exit_code == 0
        subset = np.load(pipeline.work / "subset.npy")
        assert format_uids(subset) == [one.uid] * count
        kept = ledger_of(pipeline.work)["fate"].to_list()
        assert kept == ["kept"] * count + ["removed"] * (5 - count), "ties go by address"


def test_a_limit_takes_the_first_by_hash_and_they_are_the_pool(tmp_path):
    folder, samples = webdataset(tmp_path, 60)
    steps = (
        {"caption": {"min_words": 2}},
        {"image_file": {}},
        {"random_sample": {"fraction": 0.5, "of": "pool_count"}},
    )
    pipeline = Pipeline(tmp_path, tar_pool(folder), steps)
    assert pipeline.run(limit=20).exit_code == 0
    assert not pipeline.work.exists()
    ledger = ledger_of(tmp_path / "work-limit-20")
    inside = ledger.filter(pl.col("step").ne_missing("limit") & pl.col("step").ne_missing("pool"))
    draws = chance.uniform(0, "limit", parse_uids([s.uid for s in samples]))
    usable = [n for n, sample in enumerate(samples) if sample.jpeg is not None]
    first = sorted(usable, key=lambda n: -draws[n])[:20]
    assert sorted(inside["uid"]) == sorted(samples[n].uid for n in first)
    assert ledger["fate"].to_list().count("kept") == 10
    pipeline.run(limit=10_000)
    everybody = ledger_of(tmp_path / "work-limit-10000")
    assert "limit" not in everybody["step"].to_list()
    assert everybody["fate"].to_list().count("kept") == len(usable) // 2


# A pool that changes


FEATURE = (
    {"caption": {"min_words": 2}},
    {"image_file": {}},
    {"image_size": {"min_side": 31}},
    {"random_sample": {"fraction": 0.5, "of": "survivors"}},
)


def files_below(work: Path, *folders: str) -> dict[str, str]:
    return digests(work, folders)


def test_a_pool_that_grows_keeps_all_it_had(tmp_path):
    samples = draw(60)
    write_shards(tmp_path / "in", samples[:30], 3)
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"), FEATURE)
    pipeline.run()
    before = files_below(pipeline.work, "pool", "features", "state/pool", "state/image_size")
    ledger = ledger_of(pipeline.work)
    # Names that sort before and after the old ones; JSON with another field, and another type.
    more = [
        Drawn(
            s.key,
            s.caption,
            {**s.metadata, "score": str(s.metadata.get("score")), "new": 1},
            s.jpeg,
        )
        for s in samples[30:]
    ]
    write_tar(tmp_path / "in" / "0.tar", more[:10])
    write_tar(tmp_path / "in" / "9.tar", more[10:])
    assert pipeline.run().exit_code == 0
    after = files_below(pipeline.work, "pool", "features", "state/pool", "state/image_size")
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"pool/blocks.parquet", "pool/columns.json"}
    grown = ledger_of(pipeline.work)
    assert grown["uid"].to_list() == [s.uid for s in samples]
    assert grown[:30].select("shard", "row", "uid").equals(ledger.select("shard", "row", "uid"))
    whole = Pipeline(tmp_path / "fresh", pipeline.pool, FEATURE)
    whole.run()
    assert sorted(np.load(whole.work / "subset.npy").tolist()) == sorted(
        np.load(pipeline.work / "subset.npy").tolist()
    )


def test_a_source_may_be_added(tmp_path):
    write_shards(tmp_path / "a", draw(10, seed=1), 1)
    write_shards(tmp_path / "b", draw(10, seed=2), 1)
    sources = [{"name": name, "shards": f"{tmp_path}/{name}/*.tar"} for name in ("a", "b")]
    Pipeline(tmp_path, sources[:1], FEATURE).run()
    grown = Pipeline(tmp_path, sources[::-1], FEATURE)  # wherever it is put in the list
    grown.run()
    assert ledger_of(grown.work)["uid"].to_list() == [
        s.uid for s in [*draw(10, seed=1), *draw(10, seed=2)]
    ]


def test_a_column_may_change_its_type_as_the_pool_grows(tmp_path):
    write_list(tmp_path / "0.parquet", {**rows_of(3), "score": [1, 2, 3]})
    steps = ({"where": "score > 1.5"}, {"exact_duplicates": {"by": ["score"]}})
    pipeline = Pipeline(tmp_path, {"urls": f"{tmp_path}/*.parquet"}, steps)
    pipeline.run()
    write_list(tmp_path / "1.parquet", {**rows_of(3), "score": [1.0, 2.0, 2.5]})
    pipeline.run()
    fates = ledger_of(pipeline.work)["fate"].to_list()
    assert sorted(fates[:3]) == ["kept", "kept", "removed"]
    assert sorted(fates[3:]) == ["kept", "removed", "removed"], "2 and 2.0 are the same score"


def test_a_list_that_changed_on_a_web_server_is_refused(tmp_path, web_server):
    """Of the same length, so that only its time tells."""
    file = write_list(tmp_path / "urls.csv", rows_of(9))
    pipeline = Pipeline(tmp_path / "w", {"urls": f"{web_server}/urls.csv"}, CAPTION)
    pipeline.run()
    assert pipeline.run().reused == "everything"
    file.write_text(file.read_text().replace("caption 00003", "caption 00033"))
    os.utime(file, (1, 1))
    with pytest.raises(InputChanged, match=r"urls.csv was modified since the pool was read"):
        pipeline.run()


@pytest.mark.parametrize("how", ["removed", "shorter", "rewritten", "no longer named"])
def test_a_changed_shard_is_refused_by_name(tmp_path, how):
    folder, _ = webdataset(tmp_path)
    pipeline = Pipeline(tmp_path, tar_pool(folder), FEATURE)
    pipeline.run()
    before = digests(pipeline.work)
    victim = folder / "00001.tar"
    body = victim.read_bytes()
    if how == "removed":
        victim.unlink()
    elif how == "shorter":
        victim.write_bytes(body[:-1024])
    elif how == "rewritten":
        victim.write_bytes(body[:2000] + b"x" + body[2001:])
    elif how == "no longer named":
        pipeline = pipeline.where(pool={"shards": f"{folder}/00000.tar"})
    with pytest.raises(InputChanged) as caught:
        pipeline.run()
    assert caught.value.exit_code == 2
    assert f"  {victim} " in str(caught.value)
    assert "(1 files)" in str(caught.value) or how == "no longer named"
    assert "a pool may only grow" in str(caught.value)
    assert digests(pipeline.work) == before


def test_a_shard_that_vanishes_by_its_own_name_is_named(tmp_path):
    folder, _ = webdataset(tmp_path)
    pool = {"shards": f"{folder}/{{00000..00002}}.tar"}
    pipeline = Pipeline(tmp_path, pool, FEATURE)
    pipeline.run()
    (folder / "00001.tar").unlink()
    with pytest.raises(InputChanged, match=r"00001.tar cannot be read: No such file") as caught:
        pipeline.run()
    assert caught.value.exit_code == 2


def test_a_run_killed_while_the_pool_was_read_begins_again(tmp_path):
    folder, _ = webdataset(tmp_path)
    pipeline = Pipeline(tmp_path, tar_pool(folder), FEATURE)
    pipeline.run()
    whole = digests(pipeline.work, ("pool", "subset.npy", "ledger"))
    (pipeline.work / "pool" / "blocks.parquet").unlink()  # what is committed last of the pool
    (pipeline.work / "manifest.json").unlink()
    (pipeline.work / "pool" / "parts").mkdir()
    (pipeline.work / "pool" / "parts" / "0000000.parquet").write_bytes(b"half of a file")
    pipeline.run()
    assert digests(pipeline.work, ("pool", "subset.npy", "ledger")) == whole


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    per_shard=st.integers(1, 9),
    per_block=st.integers(1, 20),
)
def test_every_row_has_one_address(tmp_path_factory, sizes, per_shard, per_block):
    folder = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(sizes):
        rows = {"url": [f"http://h/{number}/{n}" for n in range(size)]}
        pl.DataFrame(rows, schema={"url": pl.String}).write_parquet(folder / f"{number}.parquet")
    source = {"urls": f"{folder}/*.parquet", "rows_per_shard": per_shard}
    pool, frame = pool_of(folder, source, rows_per_block=per_block)
    if not any(sizes):
        assert (pool.rows, frame.height, list(pool.units())) == (0, 0, [])
        return
    assert sorted(frame["url"]) == sorted(
        f"http://h/{number}/{n}" for number, size in enumerate(sizes) for n in range(size)
    )
    assert pool.block_rows().sum() == sum(sizes) == pool.rows
    assert sum(len(unit.shards) for unit in pool.units()) == (pool.table["rows"] > 0).sum()
    for _, part in pool.table.group_by("block", maintain_order=True):
        ends = (part["offset"] + part["rows"]).to_list()
        assert part["offset"].to_list() == [0, *ends[:-1]], "no gap, no overlap"
        assert ends[-1] <= max(per_block, int(part["rows"].max()))
