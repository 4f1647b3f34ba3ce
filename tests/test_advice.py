"""What a pipeline may say and hardly means is told, and the run goes on."""

import polars as pl
import pytest
from tiny_pool import Pipeline

from curate.cli import main
from curate.pipeline_file.advice import advice
from curate.pipeline_file.config import load

LATE = "removes duplicates after 'balanced_by' balanced with them"


def pipeline(tmp_path, *steps):
    pl.DataFrame({"url": ["http://h/1", "http://h/2"], "caption": ["a", "a"]}).write_parquet(
        tmp_path / "urls.parquet"
    )
    return Pipeline(tmp_path, {"urls": str(tmp_path / "urls.parquet")}, steps, fields=())


def said(pipeline):
    return advice(load(pipeline.file(), ()).config)


def test_duplicates_are_removed_before_balancing(tmp_path):
    balance = {"balanced_by": {"column": "url", "part": "domain", "cap": 5}}
    same = {"exact_duplicates": {"by": ["caption"]}}
    late = said(pipeline(tmp_path, balance, {"random_sample": {"count": 2}}, same))
    assert len(late) == 1
    assert LATE in late[0]
    assert "Move exact_duplicates before balanced_by" in late[0]
    assert said(pipeline(tmp_path, same, balance)) == []
    assert said(pipeline(tmp_path, same)) == []


def test_check_plan_and_run_say_it_and_go_on(tmp_path, capsys):
    balance = {"balanced_by": {"column": "url", "part": "domain", "cap": 5}}
    file = pipeline(tmp_path, balance, {"exact_duplicates": {"by": ["caption"]}}).file()
    for command in ("check", "plan", "run"):
        with pytest.raises(SystemExit, match="0"):
            main([command, file])
        assert f"warning: exact_duplicates {LATE}" in capsys.readouterr().err


def test_kinds_are_counted_inside_any_of_and_by_weights_too(tmp_path):
    same = {"exact_duplicates": {"by": ["caption"]}}
    cluster = {"weighted_sample": {"cluster": "number", "alpha": 0.5, "count": 1}}
    listed = tmp_path / "entries.txt"
    listed.write_text("a\n")
    inside = {"any_of": {"steps": [{"metadata_balance": {"t": 5}}, {"caption": {"min_words": 9}}]}}
    concepts = {"concepts": {"entries": str(listed)}}
    assert "balanced with them" in said(pipeline(tmp_path, concepts, inside, same))[0]
    assert "'weighted_sample' balanced" in said(pipeline(tmp_path, cluster, same))[0]
    plain = {"weighted_sample": {"column": "number", "count": 1}}
    assert said(pipeline(tmp_path, plain, same)) == []
