"""A run that ended half-way can be reported on, and its end is none the worse for it."""

import json
import shutil

import pytest
from tiny_pool import Reported, digests, draw, ledger_of, tar_pool, write_shards

from curate.cli import main
from curate.errors import BudgetExceeded, ConfigError, WorkInUse
from curate.lease import held
from curate.pipeline import Options
from curate.report.halfway import report_of
from curate.report.reading import read_facts
from curate.report.schema import Report

STEPS = [
    {"caption": {"min_words": 2}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"]}},
    {"where": {"name": "scored", "sql": "score >= 0.2"}},
    {"clip_score": {"column": "score", "top_fraction": 0.5, "of": "survivors"}},
    {"write": {"samples_per_shard": 16}},
]


@pytest.fixture
def pipeline(tmp_path) -> Reported:
    write_shards(tmp_path / "in", draw(300), 3)
    return Reported(tmp_path, tar_pool(tmp_path / "in"), STEPS)


def stopped(pipeline: Reported) -> Reported:
    """Ended by a budget, after `scored` was decided."""
    with pytest.raises(BudgetExceeded, match=r"curate report .*/work` shows whom it removed"):
        pipeline.where(run={"max_removed": {"scored": 0.01}}).run()
    return pipeline


def test_what_was_decided_is_reported_and_what_was_not_is_named(pipeline):
    report = report_of(str(stopped(pipeline).work))
    assert report["unfinished"] == {"reached": "scored", "not_reached": ["clip_score", "write"]}
    assert [step["name"] for step in report["steps"]] == ["caption", "same_url", "scored"]
    assert report["totals"]["unique_uids"] is None
    page = (pipeline.work / "report" / "index.html").read_text()
    assert "clip_score" in page
    pipeline.run()
    text = (pipeline.work / "report" / "report.json").read_text()
    whole = json.loads(text)
    assert whole["unfinished"] is None
    assert report["steps"] == whole["steps"][:3]
    for told in (text, json.dumps(report)):
        Report.model_validate_json(told)


def test_the_end_is_that_of_a_run_that_was_never_stopped(pipeline, tmp_path):
    stopped(pipeline)
    report_of(str(pipeline.work))
    pipeline.run()
    fresh = pipeline.where(folder=tmp_path / "fresh")
    fresh.run()
    assert digests(pipeline.work) == digests(fresh.work)


def test_the_command_says_how_far_the_run_came(pipeline, capsys):
    work = str(stopped(pipeline).work)
    with pytest.raises(SystemExit) as ended:
        main(["report", work])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "Not reached: clip_score, write. Run it again to go on." in said
    assert "subset.npy" not in said


def test_verdicts_of_another_recipe_are_not_taken_for_this_one(pipeline):
    pipeline.run()
    other = [{"caption": {"min_words": 6}}, *STEPS[1:]]
    limited = pipeline.where(steps=other, run={"max_removed": {"caption": 0.0}})
    with pytest.raises(BudgetExceeded):
        limited.run()
    report = report_of(str(pipeline.work))
    assert report["unfinished"]["reached"] == "caption"
    gone = ledger_of(pipeline.work)  # of the finished run
    assert report["totals"]["removed"] > (gone["step"] == "caption").sum()


def test_a_finished_run_is_read_as_it_is(pipeline):
    outcome = pipeline.run()
    before = digests(pipeline.work)
    assert report_of(str(pipeline.work)) == outcome.report
    assert digests(pipeline.work) == before
    facts = read_facts(str(pipeline.work))
    assert facts.not_reached == ()
    assert facts.after == "clip_score"


def test_a_limited_run_is_read_again(pipeline):
    pipeline.run(limit=40)
    facts = read_facts(f"{pipeline.work}-limit-40")
    assert facts.states["pool"] == {"rows": 40}
    assert facts.plan.steps[0].name == "limit"


def test_a_folder_that_moved_is_read_where_it_is(pipeline, tmp_path):
    stopped(pipeline)
    shutil.move(pipeline.work, tmp_path / "moved")
    assert report_of(str(tmp_path / "moved"))["unfinished"]["reached"] == "scored"
    assert not pipeline.work.exists()


def test_without_a_run_or_beside_one_nothing_is_reported(pipeline, tmp_path):
    with pytest.raises(ConfigError, match="no run was started there"):
        report_of(str(tmp_path / "nowhere"))
    work = str(stopped(pipeline).work)
    with held(work, steal="refuse"), pytest.raises(WorkInUse, match="in use by"):
        report_of(work)
    (pipeline.work / "state" / "pool.json").unlink()
    with pytest.raises(ConfigError, match="has not decided anything yet"):
        report_of(work)


def test_a_brief_report_is_made_whole_when_asked_for(pipeline, tmp_path):
    brief = pipeline.run(options=Options(report="brief")).report
    assert brief["extent"] == "brief"
    assert brief["examples"] == brief["makeup"]["words"] == []
    assert "This report is brief" in (pipeline.work / "report" / "index.html").read_text()
    Report.model_validate_json(json.dumps(brief))
    assert pipeline.run(options=Options(report="brief")).reused == "everything"
    whole = pipeline.where(folder=tmp_path / "whole").run().report
    assert {name: brief[name] for name in ("totals", "steps", "histograms")} == {
        name: whole[name] for name in ("totals", "steps", "histograms")
    }
    assert report_of(str(pipeline.work)) == whole
    assert pipeline.run(options=Options(report="brief")).report == whole


def test_a_whole_run_after_a_brief_one_makes_the_report_whole(pipeline):
    pipeline.run(options=Options(report="brief"))
    outcome = pipeline.run()
    assert (outcome.reused, outcome.report["extent"]) == ("nothing", "whole")
    assert outcome.report["examples"]
