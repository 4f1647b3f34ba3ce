"""A run that ended half-way can be reported on, and its end is none the worse for it."""

import json
import shutil

import numpy as np
import pytest
from tiny_pool import Reported, digests, draw, ledger_of, tar_pool, write_shards

from curate.cli import main
from curate.errors import BudgetExceeded, ConfigError, Stale, WorkInUse
from curate.lease import held
from curate.pipeline import Options
from curate.report.halfway import report_of
from curate.report.reading import read_facts
from curate.report.schema import Report
from curate.sample import UID
from curate.subsets.subset import save

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
    assert "Not reached: clip_score, write. Run it again to go on; if a budget stopped it" in said
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
    assert (brief["totals"], brief["steps"]) == (whole["totals"], whole["steps"])
    assert [h["column"] for h in whole["histograms"]] == ["caption: words", "score", "score"]
    assert brief["histograms"] == whole["histograms"][2:]  # what is measured is left out
    assert report_of(str(pipeline.work)) == whole
    assert pipeline.run(options=Options(report="brief")).report == whole


def test_a_whole_run_after_a_brief_one_makes_the_report_whole(pipeline):
    pipeline.run(options=Options(report="brief"))
    outcome = pipeline.run()
    assert (outcome.reused, outcome.report["extent"]) == ("nothing", "whole")
    assert outcome.report["examples"]


def test_a_budget_exceeded_at_the_last_step_is_no_finished_run(pipeline, capsys):
    last = pipeline.where(steps=STEPS[:3], run={"max_removed": {"scored": 0.01}})
    with pytest.raises(BudgetExceeded):
        last.run()
    report = report_of(str(last.work))
    assert report["unfinished"] == {"reached": "scored", "not_reached": []}
    assert report["totals"]["unique_uids"] is None
    with pytest.raises(SystemExit):
        main(["report", str(last.work)])
    assert "Not reached: what is made of the last step." in capsys.readouterr().out


def test_a_run_that_read_its_pool_alone_is_reported_too(pipeline):
    stopped(pipeline)
    for file in (pipeline.work / "state").glob("*.json"):
        if file.name != "pool.json":
            file.unlink()
    report = report_of(str(pipeline.work))
    assert report["unfinished"]["reached"] is None
    assert report["steps"] == []
    assert report["totals"]["kept"] == report["totals"]["usable"] > 0


def test_stale_shards_leave_a_selection_that_is_finished(pipeline):
    pipeline.run()
    other = pipeline.where(
        steps=[*STEPS[:2], {"where": {"name": "scored", "sql": "score >= 0.5"}}, *STEPS[3:]]
    )
    for _ in range(2):
        with pytest.raises(Stale, match="--recompute write"):
            other.run()
        facts = read_facts(str(pipeline.work))
        assert (facts.ended, facts.not_reached) == ("whole", ())
        assert report_of(str(pipeline.work))["unfinished"] is None
    other.run(options=Options(recompute=("write",)))
    fresh = other.where(folder=pipeline.folder / "fresh")
    fresh.run()
    assert digests(pipeline.work) == digests(fresh.work)


def test_files_that_only_the_report_was_asked_to_read_may_be_gone(pipeline, tmp_path):
    save(str(tmp_path / "theirs.npy"), np.zeros(0, dtype=UID))
    pipeline.where(report={"sets": {"theirs": str(tmp_path / "theirs.npy")}}).run()
    (tmp_path / "theirs.npy").unlink()
    assert read_facts(str(pipeline.work)).plan.config.report.sets
