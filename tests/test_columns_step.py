"""`columns:` brings in what others computed, says what it lacks, and notices changed files."""

import json

import polars as pl
import pytest
from metadata_pool import ROWS, uid, write_metadata
from object_store import object_store
from tiny_pool import Pipeline, digests, draw, ledger_of, tar_pool, write_shards

from curate import columns
from curate.errors import ConfigError, InvalidPipeline
from curate.pipeline_file.config import load

COUNT = sum(ROWS)


def scores(numbers, **more):
    """A table of two scores for some samples."""
    numbers = list(numbers)
    return pl.DataFrame(
        {
            "uid": [uid(n) for n in numbers],
            "hype": pl.Series([n / 8 for n in numbers], dtype=pl.Float32),
            "tmars score": [n * 10 for n in numbers],
            **more,
        }
    )


def pipeline(tmp_path, *more, steps=(), **fields):
    """A pool of metadata, and a step over the tables in `scores/`."""
    given = {"from": str(tmp_path / "scores" / "*.parquet"), "take": {"hype": "hype"}, **fields}
    (tmp_path / "scores").mkdir(exist_ok=True)
    if not (tmp_path / "metadata").exists():
        write_metadata(tmp_path / "metadata")
    pool = {"metadata": str(tmp_path / "metadata")}
    return Pipeline(tmp_path, pool, ({"columns": given}, *steps), fields=(("rows_per_block", 8),))


def values(pipe, *names, step="columns"):
    """The columns of a finished run, in the order of the pool, by `uid`."""
    work = str(pipe.work)
    frames = [
        columns.store(work, step).read(int(file.stem[6:]), names)
        for file in sorted((pipe.work / "features" / step).glob("block-*.parquet"))
    ]
    return pl.concat(frames).drop("row")


def notes(pipe, step="columns"):
    return json.loads((pipe.work / "features" / step / "fitted.json").read_text())["notes"]


def test_scores_come_by_uid_from_files_in_any_order(tmp_path):
    take = {"hype": "hype", "tmars": "tmars score"}
    pipe = pipeline(tmp_path, take=take, steps=({"where": "columns.hype > 0.5"},))
    scores(range(COUNT - 1, 4, -1)).write_parquet(tmp_path / "scores" / "a.parquet")
    scores([50, 2, 0, 1, 4, 3, 51]).write_parquet(tmp_path / "scores" / "b.parquet")
    outcome = pipe.run()
    assert outcome.exit_code == 0
    found = values(pipe, "hype", "tmars", "error")
    assert found["hype"].to_list() == [n / 8 for n in range(COUNT)]
    assert found["tmars"].to_list() == [n * 10 for n in range(COUNT)]
    assert found.schema == {"hype": pl.Float32, "tmars": pl.Int64, "error": pl.String}
    assert notes(pipe) == {
        "found": COUNT, "missing": 0, "repeated_rows": 0, "conflicting_keys": 0,
        "rows_of_nobody": 2, "rows_without_key": 0,
    }  # fmt: skip
    assert ledger_of(pipe.work)["fate"].to_list() == ["removed"] * 5 + ["kept"] * 7
    assert pipe.run().reused == "everything"


def test_numbers_truths_and_text_keep_their_kind(tmp_path):
    more = {
        "small": pl.Series([1, None] * 6, dtype=pl.Int8),
        "truth": [True, None, False] * 4,
        "word": ["ä" * n if n else None for n in range(COUNT)],
        "kind": pl.Series(["a", "b"] * 6, dtype=pl.Categorical),
        "list": [[n] for n in range(COUNT)],
        "half": pl.Series([float("nan"), 0.5] * 6, dtype=pl.Float64),
    }
    names = list(more)
    pipe = pipeline(tmp_path, take=names)
    scores(range(COUNT), **more).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    found = values(pipe, *names)
    assert [str(dtype) for dtype in found.dtypes] == [
        "Int64", "Boolean", "String", "String", "String", "Float64",
    ]  # fmt: skip
    assert found["small"].to_list() == [1, None] * 6
    assert found["truth"].to_list() == more["truth"]
    assert found["word"].to_list() == more["word"]
    assert found["kind"].to_list() == ["a", "b"] * 6
    assert found["list"].to_list() == [f"[{n}]" for n in range(COUNT)]
    assert found["half"].to_list() == [None, 0.5] * 6, "NaN is null"


def test_csv_and_tsv_and_a_folder(tmp_path):
    pipe = pipeline(tmp_path, **{"from": str(tmp_path / "scores"), "take": ["hype", "word"]})
    (tmp_path / "scores" / "a.csv").write_text(
        "uid,hype,word\n" + "".join(f"{uid(n)},{n},7{n}\n" for n in range(5)) + ",1,x\n"
    )
    (tmp_path / "scores" / "b.tsv").write_text(
        "word\tuid\thype\n" + "".join(f"w\t{uid(n).upper()}\t{n}.5\n" for n in range(5, COUNT))
    )
    pipe.run()
    found = values(pipe, "hype", "word")
    assert found["hype"].to_list() == [n + 0.5 * (n >= 5) for n in range(COUNT)]
    assert found["word"].to_list() == [f"7{n}" if n < 5 else "w" for n in range(COUNT)]
    assert notes(pipe)["rows_without_key"] == 1


def test_the_first_row_of_a_uid_counts_and_others_are_told(tmp_path):
    pipe = pipeline(tmp_path, take=["hype"])
    scores(range(COUNT)).write_parquet(tmp_path / "scores" / "a.parquet")
    again = scores([3, 4, 5, 5]).with_columns(hype=pl.Series([3 / 8, 9.0, 9.0, 8.0]))
    again.write_parquet(tmp_path / "scores" / "b.parquet")
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [n / 8 for n in range(COUNT)]
    told = notes(pipe)
    assert (told["repeated_rows"], told["conflicting_keys"]) == (4, 2)
    smallest = min((4, 5), key=uid)
    assert told["conflict"] == {
        "key": uid(smallest),
        "taken": f'{{"hype":{smallest / 8}}}',
        "passed_over": '{"hype":9.0}',
    }


def test_rows_of_the_pool_that_share_a_uid_share_the_value(tmp_path):
    write_metadata(tmp_path / "metadata", (4,))
    write_metadata(tmp_path / "twice", (4,))
    pipe = pipeline(tmp_path)
    pipe = pipe.where(pool={"metadata": [str(tmp_path / "metadata"), str(tmp_path / "twice")]})
    scores(range(4)).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [n / 8 for n in range(4)] * 2


def test_what_is_missing_is_null_where_that_is_allowed(tmp_path):
    pipe = pipeline(tmp_path, cover=0.75, steps=({"where": "columns.hype >= 0"},))
    scores(range(9)).write_parquet(tmp_path / "scores" / "a.parquet")
    outcome = pipe.run()
    found = values(pipe, "hype", "error")
    assert found["hype"].to_list() == [n / 8 for n in range(9)] + [None] * 3
    assert found["error"].to_list() == [None] * 9 + ["not_in_table"] * 3
    assert ledger_of(pipe.work)["reason"].to_list()[9:] == ["unscored"] * 3
    step = outcome.report["steps"][0]
    assert (step["kept"], step["errors"]) == (COUNT, {"not_in_table": 3})
    assert notes(pipe)["missing"] == 3


def test_too_few_found_is_an_error_with_examples(tmp_path):
    pipe = pipeline(tmp_path, cover=0.76)
    scores(range(9)).write_parquet(tmp_path / "scores" / "a.parquet")
    with pytest.raises(ConfigError) as caught:
        pipe.run()
    listed = ", ".join(sorted(uid(n) for n in (9, 10, 11)))
    assert str(caught.value) == (
        f"columns: 3 of 12 samples (uid {listed}, for some) are not in "
        f"{tmp_path}/scores/*.parquet; `cover: 0.76` asks for 10 and 9 are found. Add the tables "
        "that are missing, or write `cover: 0.75`"
    )
    scores(range(9, 12)).write_parquet(tmp_path / "scores" / "b.parquet")
    assert pipe.where(steps=pipe.steps).run().exit_code == 0, "the missing table is all it takes"


def test_changed_files_are_joined_again(tmp_path):
    """Of the same size, so that only their time tells."""
    pipe = pipeline(tmp_path, steps=({"where": "columns.hype > 0.5"},))
    file = tmp_path / "scores" / "a.parquet"
    scores(range(COUNT)).write_parquet(file, compression="uncompressed")
    pipe.run()
    size = file.stat().st_size
    turned = scores(range(COUNT)).with_columns(pl.col("hype").reverse())
    turned.write_parquet(file, compression="uncompressed")
    assert file.stat().st_size == size
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [n / 8 for n in range(COUNT)][::-1]
    kept = [fate == "kept" for fate in ledger_of(pipe.work)["fate"]]
    assert kept == [n / 8 > 0.5 for n in range(COUNT)][::-1]


def test_a_limit_joins_those_rows(tmp_path):
    pipe = pipeline(tmp_path, cover=1.0)
    scores(range(COUNT)).write_parquet(tmp_path / "scores" / "a.parquet")
    assert pipe.run(limit=5).exit_code == 0
    fitted = json.loads((tmp_path / "work-limit-5/features/columns/fitted.json").read_text())
    assert fitted["notes"]["found"] == 5


def test_a_pool_that_grows_is_joined_again(tmp_path):
    pipe = pipeline(tmp_path)
    scores(range(COUNT + 3)).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    write_metadata(tmp_path / "more", (COUNT, 3))
    (tmp_path / "more" / "1.parquet").rename(tmp_path / "metadata" / "9.parquet")
    (tmp_path / "more" / "1.npz").rename(tmp_path / "metadata" / "9.npz")
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [n / 8 for n in range(COUNT + 3)]


def test_samples_of_shards_are_found_by_key(tmp_path):
    """M-FLYT's tables name samples by their key in img2dataset's tars."""
    samples = draw(30)
    write_shards(tmp_path / "in", samples, 3)
    pipe = pipeline(tmp_path, key="key", by="key", cover=0.9)
    pipe = pipe.where(pool=tar_pool(tmp_path / "in"))
    wanted = [s for s in samples if s.jpeg is not None]
    for start in range(0, len(wanted), 10):
        part = wanted[start : start + 10]
        pl.DataFrame(
            {"key": [s.key for s in part], "hype": [float(s.key) for s in part]}
        ).write_parquet(tmp_path / "scores" / f"{start:08d}_scores.parquet")
    pipe.run()
    assert sorted(values(pipe, "hype")["hype"].to_list()) == [float(s.key) for s in wanted]
    (tmp_path / "scores" / "00000010_scores.parquet").unlink()
    with pytest.raises(ConfigError, match=r"columns: 10 of 29 samples \(key 00000001"):
        pipe.run()


def test_survivors_alone_can_be_what_must_be_covered(tmp_path):
    pipe = pipeline(tmp_path, fit_on="survivors")
    steps = ({"where": {"name": "early", "sql": "clip_l14_similarity_score < 0.25"}}, *pipe.steps)
    pipe = pipe.where(steps=steps)
    scores(range(4)).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [n / 8 for n in range(4)]


def test_two_steps_bring_two_tables(tmp_path):
    pipe = pipeline(tmp_path)
    other = {"name": "t", "from": str(tmp_path / "b.csv"), "take": {"x": "hype"}, "key": "id"}
    pipe = pipe.where(steps=(*pipe.steps, {"columns": other}, {"where": "t.x < columns.hype"}))
    scores(range(COUNT)).write_parquet(tmp_path / "scores" / "a.parquet")
    table = scores(range(COUNT)).select(id="uid", hype=1 - pl.col("hype"))
    table.write_csv(tmp_path / "b.csv")
    pipe.run()
    kept = [1 - n / 8 < n / 8 for n in range(COUNT)]
    assert [fate == "kept" for fate in ledger_of(pipe.work)["fate"]] == kept


def test_the_pipeline_written_down_runs_again(tmp_path):
    pipe = pipeline(tmp_path)
    scores(range(COUNT)).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    text = (pipe.work / "pipeline.yaml").read_text()
    (tmp_path / "again.yaml").write_text(text)
    assert load(str(tmp_path / "again.yaml")).config.steps == load(pipe.file()).config.steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"take": ["hyper"]}, r"take: \S+a.parquet has no column 'hyper'; did you mean 'hype'\?"),
        ({"key": "uuid"}, r"key: \S+a.parquet has no column 'uuid'; did you mean 'uid'\?"),
        ({"take": []}, "take: name at least one column"),
        ({"take": ["tmars score"]}, "take: 'tmars score' cannot be a column's name here: "),
        ({"take": {"error": "hype"}}, "take: 'error' cannot be a column's name here"),
        ({"from": "nowhere/*.parquet"}, "from: nothing matches nowhere/"),
        ({"from": "nowhere/a.parquet"}, "from: nowhere/a.parquet cannot be read: No such file"),
        ({"from": "a.npy"}, r"from: nothing matches a.npy"),
        ({"cover": 1.5}, r"cover: .*less than or equal to 1"),
        ({"tale": ["hype"]}, "there is no field 'tale'; did you mean 'take'"),
        ({"form": "x"}, "there is no field 'form'; did you mean 'from'"),
        ({"by": "urls"}, "nobody produces 'urls' before this step"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, fields, message):
    scores_there = tmp_path / "scores"
    scores_there.mkdir()
    scores(range(COUNT)).write_parquet(scores_there / "a.parquet")
    pipe = pipeline(tmp_path, **fields)
    with pytest.raises(InvalidPipeline, match=message):
        pipe.run()
    assert not pipe.work.exists()


def test_a_filter_before_the_run_knows_the_columns_and_their_types(tmp_path):
    pipe = pipeline(tmp_path, steps=({"where": "columns.hyp > 1"},))
    scores(range(COUNT)).write_parquet(tmp_path / "scores" / "a.parquet")
    with pytest.raises(InvalidPipeline, match=r"nobody produces 'columns.hyp' before this step"):
        pipe.run()


def test_a_broken_table_is_named(tmp_path):
    pipe = pipeline(tmp_path)
    file = tmp_path / "scores" / "a.parquet"
    scores(range(COUNT)).write_parquet(file)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InvalidPipeline, match=r"a.parquet cannot be read as parquet: .*fetch"):
        pipe.run()


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ({"hype": ["x"] * 2}, r"q19.parquet: column 'hype' holds 'x' \(String\), and float64 in"),
        ({"hyp": [1.0] * 2}, r"q19.parquet has no column 'hype'; did you mean 'hyp'"),
        ({"uid": ["xyz"] * 2, "hype": [1.0] * 2}, r"q19.parquet, row 0: uid 'xyz' is not 1 to 32"),
    ],
)
def test_one_file_among_many_that_differs_is_named(tmp_path, late, message):
    """Of many files only some are looked at before a run."""
    pipe = pipeline(tmp_path, cover=0)
    for n in range(40):
        own = {"uid": [uid(n), uid(n + 40)], **(late if n == 19 else {"hype": [0.5, 1.0]})}
        pl.DataFrame(own).write_parquet(tmp_path / "scores" / f"q{n:02d}.parquet")
    with pytest.raises(ConfigError, match=message):
        pipe.run()


def test_whole_numbers_in_some_files_are_numbers(tmp_path):
    pipe = pipeline(tmp_path)
    for n in range(COUNT):
        hype = pl.Series([n if n % 2 else n + 0.25])
        pl.DataFrame({"uid": [uid(n)], "hype": hype}).write_parquet(
            tmp_path / "scores" / f"{n:02d}.parquet"
        )
    pipe.run()
    found = values(pipe, "hype")["hype"]
    assert found.to_list() == [n if n % 2 else n + 0.25 for n in range(COUNT)]
    assert found.dtype == pl.Float64


def test_an_empty_table_and_an_empty_pool(tmp_path):
    pipe = pipeline(tmp_path, cover=0)
    scores([]).write_parquet(tmp_path / "scores" / "a.parquet")
    pipe.run()
    assert values(pipe, "hype")["hype"].to_list() == [None] * COUNT
    write_metadata(tmp_path / "none", (0,))
    empty = pipe.where(folder=tmp_path / "e", pool={"metadata": str(tmp_path / "none")})
    assert empty.run().exit_code == 0


@pytest.mark.slow
def test_tables_and_work_in_an_object_store(tmp_path):
    with object_store() as bucket:
        import fsspec

        pipe = pipeline(tmp_path, **{"from": f"{bucket}/of-columns/"}, take=["hype"])
        for number, rows in enumerate(([0, 2, 4, 6, 8, 10], [11, 9, 7, 5, 3, 1])):
            with fsspec.open(f"{bucket}/of-columns/{number}.parquet", "wb") as handle:
                scores(rows).write_parquet(handle)
        pipe = pipe.where(work=f"{bucket}/work-of-columns")
        assert pipe.run().exit_code == 0
        found = (
            columns.store(f"{bucket}/work-of-columns", "columns")
            .read(0, ["hype"])["hype"]
            .to_list()
        )
        assert found == [n / 8 for n in range(7)]


@pytest.mark.ray
def test_ray_changes_no_byte(tmp_path, ray_cluster):
    scores_there = tmp_path / "scores"
    scores_there.mkdir()
    for n in range(3):
        scores(range(COUNT - n)).write_parquet(scores_there / f"{n}.parquet")
    here = pipeline(tmp_path, take={"a": "hype", "b": "tmars score"})
    here.run()
    there = here.where(folder=tmp_path / "ray", run={"engine": "ray"})
    there.run()
    assert digests(there.work, ("features",)) == digests(here.work, ("features",))
