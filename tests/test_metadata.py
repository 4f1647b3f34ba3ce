"""Pools of DataComp's metadata, and of clip-retrieval's embedding folders, read where they lie."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from metadata_pool import ROWS, embeddings, table, uid, write_metadata
from object_store import object_store
from picture_server import picture_server
from tiny_pool import Pipeline, digests, draw, ledger_of, write_tar, written

from curate import columns
from curate.check import compile_pipeline
from curate.columns import Span
from curate.errors import ConfigError, CurateError, InputChanged, InvalidPipeline
from curate.pipeline_file.config import load
from curate.pools.pool import read_pool
from curate.runner import LocalRunner
from curate.sample import uid_of

COUNT = sum(ROWS)
CAPTION = ({"caption": {"min_characters": 1}},)
BLOCK = 8  # rows; so the first two files and the third are in blocks of their own


@pytest.fixture
def folder(tmp_path):
    return write_metadata(tmp_path / "metadata")


def pipeline(folder, steps=CAPTION, **fields):
    """A pipeline beside a folder of metadata."""
    pool = {"metadata": str(folder), **fields}
    return Pipeline(folder.parent, pool, steps, fields=(("rows_per_block", BLOCK),))


def read(pipe, *names):
    """The pool of a pipeline as a run reads it, and its columns in order."""
    config = load(pipe.file()).config
    pool = read_pool(config, config.work, LocalRunner(), dict)
    spans = [Span(block, 0, int(rows)) for block, rows in enumerate(pool.block_rows()) if rows]
    names = names or [name for name, column in pool.columns.items() if column.dtype != "Array"]
    frames = [columns.load(config.work, pool.columns, names, span) for span in spans]
    return pool, pl.concat(frames) if frames else pl.DataFrame()


def array(pool, work, name):
    rows = [int(count) for count in pool.block_rows()]
    return np.concatenate(
        [
            columns.load_array(str(work), pool.columns[name], Span(block, 0, count))
            for block, count in enumerate(rows)
            if count
        ]
    )


def ledger_reasons(pipe):
    return ledger_of(pipe.work)["reason"].to_list()


# What is read


def test_the_columns_are_those_of_the_files_under_our_names(folder):
    pool, frame = read(pipeline(folder))
    assert pool.rows == COUNT
    whole = table(0, COUNT)
    assert frame["uid"].to_list() == whole["uid"].to_list()
    assert frame["caption"].to_list() == whole["text"].to_list()
    assert frame["url"].to_list() == whole["url"].to_list()
    assert frame["original_width"].to_list() == list(range(200, 200 + COUNT))
    score = "clip_l14_similarity_score"
    assert frame[score].equals(whole[score])
    assert frame[score].dtype == pl.Float32
    assert frame["face_bboxes"][1].startswith("[[0.1")
    assert pool.columns["l14_img"].dtype == "Array"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("block", [BLOCK, 3, 100])
def test_arrays_are_read_as_they_are(tmp_path, dtype, block):
    folder = write_metadata(tmp_path / "metadata", dtype=dtype)
    pipe = pipeline(folder).where(rows_per_block=block)
    pool, _ = read(pipe)
    found = array(pool, pipe.work, "l14_img")
    assert found.dtype == dtype
    assert (found == embeddings(0, COUNT)).all()
    assert (array(pool, pipe.work, "l14_txt") == embeddings(0, COUNT) + 1).all()


def test_arrays_of_a_span_are_those_of_its_rows_whatever_was_read_before(folder):
    pipe = pipeline(folder)
    pool, _ = read(pipe)
    for start, stop in ((4, 6), (0, 2), (5, 7), (6, 7), (1, 1), (0, 7)):
        column = pool.columns["l14_img"]
        found = columns.load_array(str(pipe.work), column, Span(0, start, stop)) if stop > start \
            else np.empty((0, 4))  # fmt: skip
        assert (found == embeddings(start, stop - start)).all()


def test_an_npz_that_is_not_compressed(tmp_path):
    folder = write_metadata(tmp_path / "metadata", (5,))
    np.savez(folder / "0.npz", l14_img=embeddings(0, 5))
    pipe = pipeline(folder)
    pool, _ = read(pipe)
    assert (array(pool, pipe.work, "l14_img") == embeddings(0, 5)).all()
    assert "l14_txt" not in pool.columns


def test_a_run_over_metadata_alone(folder):
    steps = (
        {"where": {"name": "score", "sql": "clip_l14_similarity_score >= 0.25"}},
        {"caption": {"min_words": 2}},
    )
    pipe = pipeline(folder, steps)
    outcome = pipe.run()
    assert outcome.exit_code == 0
    assert outcome.report["pool"]["sources"][0]["kind"] == "metadata"
    assert ledger_reasons(pipe).count(None) == COUNT - 4
    assert len(np.load(pipe.work / "subset.npy")) == COUNT - 4
    assert pipe.run().reused == "everything"


def test_a_step_that_needs_pictures_says_where_they_could_come_from(folder):
    pipe = pipeline(folder, ({"image_file": {}},))
    with pytest.raises(InvalidPipeline, match=r"no pictures yet: put `- download: \{\}` before"):
        pipe.run()


def test_files_may_be_named_one_by_one_or_by_a_glob(folder):
    for pattern in (
        str(folder / "*.parquet"),
        [str(folder / "0.parquet"), str(folder / "2.parquet")],
    ):
        pipe = pipeline(folder, metadata=pattern).where(
            folder=folder.parent / ("glob" if isinstance(pattern, str) else "list")
        )
        assert read(pipe)[0].rows == COUNT


def test_a_pool_of_empty_files(tmp_path):
    folder = write_metadata(tmp_path / "metadata", (0, 0))
    pipe = pipeline(folder)
    outcome = pipe.run()
    assert (outcome.exit_code, outcome.report["totals"]["rows"]) == (0, 0)
    assert len(np.load(pipe.work / "subset.npy")) == 0


def test_clip_retrievals_folder(tmp_path):
    """Parts may be missing after a crash; the parquet has no uid; arrays are two files each."""
    root = tmp_path / "embeddings"
    for name in ("metadata", "img_emb", "text_emb"):
        (root / name).mkdir(parents=True)
    captions = {"00": ["a", "b", "c"], "02": ["d"]}
    for first, (number, texts) in zip((0, 3), captions.items(), strict=True):
        frame = pl.DataFrame({"image_path": [f"{t}.jpg" for t in texts], "caption": texts})
        frame.write_parquet(root / "metadata" / f"metadata_{number}.parquet")
        np.save(root / "img_emb" / f"img_emb_{number}.npy", embeddings(first, len(texts)))
        np.save(root / "text_emb" / f"text_emb_{number}.npy", embeddings(first, len(texts), 6))
    pipe = pipeline(root)
    pool, frame = read(pipe)
    assert frame["caption"].to_list() == ["a", "b", "c", "d"]
    assert frame["image_path"].to_list() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert (array(pool, pipe.work, "img_emb") == embeddings(0, 4)).all()
    assert (array(pool, pipe.work, "text_emb") == embeddings(0, 4, 6)).all()
    assert frame["uid"].to_list() == [uid_of(text, None) for text in "abcd"]


def test_metadata_in_an_object_store(folder):
    here = pipeline(folder)
    _, frame = read(here)
    here.run()
    with object_store() as bucket:
        import fsspec

        fsspec.filesystem("s3").put(str(folder), f"{bucket}/of-metadata", recursive=True)
        there = here.where(
            folder=folder.parent / "there", pool={"metadata": f"{bucket}/of-metadata"}
        )
        remote, found = read(there)
        assert found.equals(frame)
        assert (array(remote, there.work, "l14_img") == embeddings(0, COUNT)).all()
        assert (array(remote, there.work, "l14_txt") == embeddings(0, COUNT) + 1).all()
        there.run()
    assert digests(there.work, ("subset.npy", "ledger")) == digests(
        here.work, ("subset.npy", "ledger")
    )


def test_pictures_of_metadata_are_downloaded(tmp_path):
    samples = [s for s in draw(12) if s.jpeg is not None]
    answers = {f"/{n}.jpg": s.jpeg for n, s in enumerate(samples[:-1])}
    with picture_server(answers) as server:
        frame = pl.DataFrame(
            {
                "uid": [uid(n) for n in range(len(samples))],
                "url": [server.url(f"/{n}.jpg") for n in range(len(samples))],
                "text": [s.caption or "no words" for s in samples],
                "score": [0.5] * len(samples),
            }
        )
        (tmp_path / "metadata").mkdir()
        frame.write_parquet(tmp_path / "metadata" / "0.parquet")
        np.savez(tmp_path / "metadata" / "0.npz", l14_img=embeddings(0, len(samples)))
        fetch = {"allow_private_addresses": True, "retries": 0}
        steps = ({"download": fetch}, {"image_file": {}}, {"write": {}})
        pipe = pipeline(tmp_path / "metadata", steps)
        outcome = pipe.run()
    assert outcome.report["totals"]["kept"] == len(samples) - 1
    found = written(pipe.work)
    for n, sample in enumerate(samples[:-1]):
        assert found[f"{uid(n)}-0.txt"].decode() == (sample.caption or "no words")
    downloaded = pl.read_parquet(pipe.work / "download" / "000" / "00000.parquet")
    assert "score" in downloaded.columns
    assert "l14_img" not in downloaded.columns, "an array is no column of img2dataset's"


# Bad input


def test_a_missing_npz_is_named_and_may_be_gone_without(folder):
    (folder / "2.npz").unlink()
    pipe = pipeline(folder)
    message = (
        r"1 of 2 metadata files have no array 'l14_img' beside them.*/2.npz for one is missing"
    )
    with pytest.raises(ConfigError, match=message):
        pipe.run()
    assert not (pipe.work / "pool" / "blocks.parquet").exists()
    without = pipeline(folder, arrays="none")
    assert without.run().exit_code == 0
    assert "l14_img" not in read(without)[0].columns


def test_an_empty_file_needs_no_npz(folder):
    (folder / "1.npz").unlink()
    pipe = pipeline(folder)
    pool, _ = read(pipe)
    assert (array(pool, pipe.work, "l14_img") == embeddings(0, COUNT)).all()


def test_an_npz_with_other_rows_than_the_parquet(folder):
    np.savez(folder / "2.npz", l14_img=embeddings(0, 4), l14_txt=embeddings(0, 5))
    expected = r"2.npz: l14_img has 4 rows, and \S+2.parquet has 5"
    with pytest.raises(ConfigError, match=expected):
        pipeline(folder).run()


def test_arrays_of_other_widths_are_refused(folder):
    np.savez(folder / "2.npz", l14_img=embeddings(0, 5, 6), l14_txt=embeddings(0, 5))
    with pytest.raises(ConfigError, match=r"l14_img has 4 numbers a row beside .*, and 6 beside"):
        pipeline(folder).run()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_npz_is_named(folder, keep):
    file = folder / "2.npz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CurateError, match=r"2.npz is damaged: .*fetch the file again"):
        pipeline(folder).run()


def test_an_npz_whose_bytes_rotted_is_named_when_it_is_read(tmp_path):
    folder = write_metadata(tmp_path / "metadata", (500,))
    body = bytearray((folder / "0.npz").read_bytes())
    body[600:700] = bytes(100)
    (folder / "0.npz").write_bytes(body)
    pipe = pipeline(folder).where(rows_per_block=1000)
    pool, _ = read(pipe)
    with pytest.raises(ConfigError, match=r"0.npz is damaged|0.npz: l14_img"):
        array(pool, pipe.work, "l14_img")


@pytest.mark.parametrize(
    ("array_given", "message"),
    [
        (np.array(["a", "b", "c", "d", "e"]), "2.npz holds <U1 of shape"),
        (np.array([{}] * 5, dtype=object), "2.npz holds object of shape"),
        (np.zeros((5, 2, 2), dtype=np.float16), r"2.npz holds float16 of shape \(5, 2, 2\)"),
        (np.zeros(5, dtype=np.float16), r"l14_img has 4 numbers a row .*0.parquet, and 1 beside"),
    ],
)
def test_an_npz_of_something_else(folder, array_given, message):
    text = embeddings(0, 5)
    np.savez(folder / "2.npz", l14_img=array_given, l14_txt=text, allow_pickle=True)
    with pytest.raises(ConfigError, match=message):
        pipeline(folder).run()


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_a_truncated_parquet_is_named(folder, keep):
    file = folder / "2.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CurateError, match=r"2.parquet cannot be read as parquet: .*fetch the file"):
        pipeline(folder).run()


def test_sizes_that_are_nan_or_zero_are_no_sizes(folder):
    frame = table(7, 5).with_columns(
        original_width=pl.Series([float("nan"), 0.0, 300.0, None, float("inf")]),
        original_height=pl.Series([300, 300, 300, 300, 300]),
    )
    frame.write_parquet(folder / "2.parquet")
    steps = ({"image_size": {"min_side": 200, "max_aspect_ratio": 3.0}},)
    pipe = pipeline(folder, steps)
    pipe.run()
    reasons = ledger_reasons(pipe)
    assert reasons[:7] == [None] * 7
    assert reasons[9] is None
    assert [reasons[n] for n in (7, 8, 10)] == ["unscored"] * 3
    assert reasons[11] == "too_elongated"  # an infinite width


def test_null_text_is_no_caption(folder):
    table(7, 5).with_columns(text=pl.lit(None, dtype=pl.String)).write_parquet(folder / "2.parquet")
    pipe = pipeline(folder)
    pipe.run()
    reasons = ledger_reasons(pipe)
    assert reasons[:7] == [None] * 7
    assert None not in reasons[7:]
    assert ledger_of(pipe.work)["uid"].to_list() == [uid(n) for n in range(COUNT)]


@pytest.mark.parametrize(
    ("short", "expected"),
    [("pad", "0" + "b" * 31), ("cut", "b" * 16 + "0" + "b" * 15)],
)
def test_short_and_upper_case_uids(tmp_path, short, expected):
    folder = write_metadata(tmp_path / "metadata", (2,))
    frame = table(0, 2).with_columns(uid=pl.Series(["B" * 31, uid(1).upper()]))
    frame.write_parquet(folder / "0.parquet")
    _, found = read(pipeline(folder, short_uids=short), "uid")
    assert found["uid"].to_list() == [expected, uid(1)]


@pytest.mark.parametrize("wrong", ["x" * 32, "a" * 33, "12 4", "", "é" * 32])
def test_a_uid_that_is_none_names_file_and_row(folder, wrong):
    uids = [uid(n) for n in range(7, 12)]
    uids[3] = wrong
    table(7, 5).with_columns(uid=pl.Series(uids)).write_parquet(folder / "2.parquet")
    pipe = pipeline(folder)
    if not wrong:
        _, found = read(pipe, "uid", "caption", "url")
        assert found["uid"][10] == uid_of(found["caption"][10], found["url"][10])
        return
    with pytest.raises(ConfigError, match=r"2.parquet, row 3: uid .* hexadecimal digits; another"):
        pipe.run()


def test_a_wrong_uid_far_down_a_file_names_its_row(tmp_path):
    folder = write_metadata(tmp_path / "metadata", (30,))
    uids = [uid(n) for n in range(30)]
    uids[25] = "nothing"
    table(0, 30).with_columns(uid=pl.Series(uids)).write_parquet(folder / "0.parquet")
    with pytest.raises(ConfigError, match=r"0.parquet, row 25: uid 'nothing'"):
        pipeline(folder).run()


def test_a_row_without_uid_gets_one(folder):
    uids = [None if n == 9 else uid(n) for n in range(7, 12)]
    table(7, 5).with_columns(uid=pl.Series(uids)).write_parquet(folder / "2.parquet")
    _, found = read(pipeline(folder), "uid")
    made = hashlib.md5(b"caption 9http://h/9.jpg").hexdigest()
    assert found["uid"].to_list() == [made if n == 9 else uid(n) for n in range(COUNT)]


def test_a_file_without_uids(folder):
    table(7, 5).drop("uid").write_parquet(folder / "2.parquet")
    _, found = read(pipeline(folder), "uid")
    made = [hashlib.md5(f"caption {n}http://h/{n}.jpg".encode()).hexdigest() for n in range(7, 12)]
    assert found["uid"].to_list() == [*(uid(n) for n in range(7)), *made]


def test_another_column_can_be_the_uid(folder):
    for file in sorted(folder.glob("*.parquet")):
        pl.read_parquet(file).rename({"uid": "id"}).write_parquet(file)
    _, found = read(pipeline(folder, columns={"uid": "id"}), "uid")
    assert found["uid"].to_list() == [uid(n) for n in range(COUNT)]
    with pytest.raises(CurateError, match=r"0.parquet has no column 'idd'; did you mean 'id'"):
        pipeline(folder, columns={"uid": "idd"}).where(folder=folder.parent / "b").run()


def test_repeated_uids_are_rows_of_their_own(folder):
    table(0, 5).write_parquet(folder / "2.parquet")
    pipe = pipeline(folder)
    pipe.run()
    subset = np.load(pipe.work / "subset.npy")
    assert len(subset) == COUNT
    assert len(np.unique(subset)) == 7


def test_columns_whose_types_differ_between_files(folder):
    table(7, 5).with_columns(
        clip_l14_similarity_score=pl.col("clip_l14_similarity_score").cast(pl.Float64),
        original_height=pl.col("original_height").cast(pl.Float64),
        sha256=pl.Series(range(5)),
        face_bboxes=pl.lit(1.5),
        extra=pl.lit("only here"),
    ).write_parquet(folder / "2.parquet")
    steps = ({"where": "clip_l14_similarity_score >= 0.25 and extra is null"},)
    pipe = pipeline(folder, steps)
    _, found = read(pipe)
    assert found["clip_l14_similarity_score"].to_list() == [n / 16 for n in range(COUNT)]
    assert found["clip_l14_similarity_score"].dtype == pl.Float64
    assert found["original_height"].to_list() == [300] * COUNT
    assert found["sha256"].to_list()[7:] == [str(n) for n in range(5)]
    assert found["face_bboxes"].to_list()[7:] == ["1.5"] * 5
    assert found["extra"].to_list() == [None] * 7 + ["only here"] * 5
    pipe.run()
    assert [reason is None for reason in ledger_reasons(pipe)] == [4 <= n < 7 for n in range(COUNT)]


def test_types_that_differ_within_one_block(folder):
    table(7, 5).with_columns(original_width=pl.Series(["300"] * 5), note=pl.lit(7)).write_parquet(
        folder / "2.parquet"
    )
    table(0, 7).with_columns(note=pl.lit("seven")).write_parquet(folder / "0.parquet")
    _, found = read(pipeline(folder).where(rows_per_block=100))
    assert found["original_width"].to_list()[7:] == [300] * 5
    assert found["note"].to_list() == ["seven"] * 7 + ["7"] * 5


# A pool that changes


def test_files_added_later_are_added_at_the_end(folder):
    pipe = pipeline(folder)
    pipe.run()
    before = ledger_of(pipe.work)
    write_metadata(folder.parent / "more", (COUNT, 4))
    for ending in ("parquet", "npz"):
        (folder.parent / "more" / f"1.{ending}").rename(folder / f"00.{ending}")
    assert pipe.run().exit_code == 0
    grown = ledger_of(pipe.work)
    assert grown[:COUNT].equals(before)
    assert grown["uid"].to_list() == [uid(n) for n in range(COUNT + 4)]
    pool, _ = read(pipe)
    assert (array(pool, pipe.work, "l14_img") == embeddings(0, COUNT + 4)).all()


@pytest.mark.parametrize("ending", ["parquet", "npz"])
@pytest.mark.parametrize("how", ["altered", "removed"])
def test_a_changed_file_is_refused_by_name(folder, ending, how):
    pipe = pipeline(folder)
    pipe.run()
    before = digests(pipe.work)
    victim = folder / f"2.{ending}"
    if how == "removed":
        victim.unlink()
    else:
        os.utime(victim, ns=(1, victim.stat().st_mtime_ns + 1))
    with pytest.raises(InputChanged, match=rf"  \S+/2.{ending} .*(modified|not there any more)"):
        pipe.run()
    assert digests(pipe.work) == before


def test_arrays_fetched_later_are_welcome(folder):
    away = {file.name: file.read_bytes() for file in folder.glob("*.npz")}
    for name in away:
        (folder / name).unlink()
    pipe = pipeline(folder)
    pool, _ = read(pipe)
    assert "l14_img" not in pool.columns
    pipe.run()
    for name, body in away.items():
        (folder / name).write_bytes(body)
    outcome = pipe.run()
    assert outcome.exit_code == 0
    pool, _ = read(pipe)
    assert (array(pool, pipe.work, "l14_img") == embeddings(0, COUNT)).all()


def test_another_way_to_read_uids_is_refused(folder):
    pipeline(folder).run()
    with pytest.raises(CurateError, match="short_uids: 'pad' -> 'cut'"):
        pipeline(folder, short_uids="cut").run()


def test_rows_of_two_kinds_of_sources_keep_to_their_own(folder):
    """A URL list beside metadata: the columns of each are read from where they are."""
    listed = table(50, 6).drop("face_bboxes").rename({"clip_l14_similarity_score": "other"})
    listed.write_csv(folder.parent / "urls.csv")
    pool = [
        {"name": "listed", "urls": str(folder.parent / "urls.csv"), "order": "as_listed"},
        {"name": "meta", "metadata": str(folder)},
    ]
    pipe = pipeline(folder).where(pool=pool)
    read_as, found = read(pipe)
    assert found["uid"].to_list() == [uid(n) for n in (*range(50, 56), *range(COUNT))]
    assert found["other"].null_count() == COUNT
    assert found["clip_l14_similarity_score"].null_count() == 6
    assert "l14_img" not in read_as.columns, "rows of the list have none"


def test_the_bytes_of_a_frame(folder):
    """Nothing is copied: beside uids, the work folder has no column of the files."""
    pipe = pipeline(folder)
    read(pipe)
    blocks = sorted((pipe.work / "pool").glob("block-*.parquet"))
    assert [pl.read_parquet(io.BytesIO(b.read_bytes())).columns for b in blocks] == [
        ["uid_hi", "uid_lo"]
    ] * len(blocks)


def _retrieval(root: Path) -> Path:
    """clip-retrieval's folder: two metadata files of three rows, images and texts beside them."""
    for name in ("metadata", "img_emb", "text_emb"):
        (root / name).mkdir(parents=True)
    for number in range(2):
        rows = {"image_path": [f"k{number}{n}" for n in range(3)], "caption": ["a b", "c", "d"]}
        pl.DataFrame(rows).write_parquet(root / "metadata" / f"metadata_{number}.parquet")
        for name in ("img_emb", "text_emb"):
            np.save(root / name / f"{name}_{number}.npy", embeddings(3 * number, 3))
    return root


def test_a_cut_file_of_embeddings_is_found_before_anything_runs(tmp_path):
    root = _retrieval(tmp_path / "emb")
    file = root / "img_emb" / "img_emb_1.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CurateError, match=r"img_emb_1.npy is damaged: its header promises"):
        compile_pipeline(load(pipeline(root).file()))


def test_the_missing_file_of_embeddings_is_the_one_that_is_named(tmp_path):
    root = _retrieval(tmp_path / "emb")
    (root / "text_emb" / "text_emb_1.npy").unlink()
    with pytest.raises(CurateError, match=r"no array 'text_emb' .*text_emb_1.npy for one is miss"):
        pipeline(root).run()


# What `check` finds from the heads of the files


def check(pipe):
    """What is wrong, before any work; "" where nothing is."""
    try:
        compile_pipeline(load(pipe.file()))
    except InvalidPipeline as error:
        return str(error)
    return ""


def test_check_looks_beside_every_file_when_they_are_few(tmp_path):
    folder = write_metadata(tmp_path / "metadata", (2,) * 6)
    steps = ({"neg_clip_loss": {"image": "l14_img", "text": "l14_txt"}},)
    pipe = pipeline(folder, steps)
    assert check(pipe) == ""
    (folder / "4.npz").unlink()  # beyond the heads
    assert "1 of 6 metadata files have no array 'l14_img' beside them" in check(pipe)
    assert "4.npz for one is missing" in check(pipe)
    assert check(pipeline(folder, arrays="none")) == ""
    np.savez(folder / "4.npz", l14_img=embeddings(0, 2, 6), l14_txt=embeddings(0, 2))
    assert "l14_img has 4 numbers a row beside" in check(pipe)


@pytest.mark.parametrize("beside", ["urls", "none"])
def test_check_knows_no_array_that_a_run_would_not_have(folder, beside):
    """Some rows have none: so a run has none, whatever lies beside the metadata of the others."""
    table(50, 6).drop("face_bboxes").write_csv(folder.parent / "urls.csv")
    other = {
        "urls": {"urls": str(folder.parent / "urls.csv")},
        "none": {"metadata": str(write_metadata(folder.parent / "more")), "arrays": "none"},
    }[beside]
    pool = [{"name": "other", **other}, {"name": "meta", "metadata": str(folder)}]
    steps = ({"neg_clip_loss": {"image": "l14_img", "text": "l14_txt"}},)
    pipe = pipeline(folder, steps).where(pool=pool)
    assert "neg_clip_loss: nobody produces 'l14_img' before this step" in check(pipe)


def test_check_finds_what_was_read_and_is_gone(folder):
    pipe = pipeline(folder)
    pipe.run()
    assert check(pipe) == ""
    (folder / "2.parquet").unlink()
    assert "2.parquet was in the pool and is not there any more" in check(pipe)


def test_shards_beside_metadata_are_named_where_pictures_are_missed(folder):
    expected = (
        "put `- download: {}` before this step, or name the tars that have them with `shards:` "
        "beside `metadata:`"
    )
    assert expected in check(pipeline(folder, ({"write": {}},)))


@pytest.mark.parametrize("shards", ["tars", "tars/{0..1}.tar"])
def test_check_opens_the_tars_that_hold_pictures(folder, shards):
    (folder.parent / "tars").mkdir()
    write_tar(folder.parent / "tars" / "0.tar", draw(3))
    pipe = pipeline(folder, shards=str(folder.parent / shards))
    assert ("Is a directory" if shards == "tars" else "1.tar cannot be read: No such") in check(
        pipe
    )
    assert check(pipeline(folder, shards=str(folder.parent / "tars" / "*.tar"))) == ""


def test_check_finds_a_tar_of_pictures_that_is_gone(folder):
    for number in range(2):
        write_tar(folder.parent / "tars" / f"{number}.tar", draw(3, number))
    pipe = pipeline(folder, shards=str(folder.parent / "tars" / "*.tar"))
    pipe.run()
    (folder.parent / "tars" / "1.tar").unlink()
    assert "1.tar was in the pool and is not there any more" in check(pipe)
