"""A subset beside published ones, what evaluation sets took, and shares that a paper tells."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from tiny_pool import Reported, draw, ledger_of, tar_pool, write_shards

from curate.errors import InvalidPipeline
from curate.report.evaluation import _sets
from curate.sample import UID, parse_uids
from curate.subsets.subset import save, sort


@pytest.fixture
def pipeline(tmp_path) -> Reported:
    write_shards(tmp_path / "in", draw(300), 3)
    return Reported(tmp_path, tar_pool(tmp_path / "in"), [{"caption": {"min_words": 2}}])


def test_jaccard_and_containment_are_those_of_the_uids(pipeline, tmp_path):
    pipeline.run()
    ledger = ledger_of(pipeline.work)
    kept = {*ledger.filter(pl.col("fate") == "kept")["uid"]}
    theirs = {*ledger["uid"][:150]} | {f"{n:032x}" for n in range(7)}
    save(str(tmp_path / "theirs.npy"), sort(parse_uids(sorted(theirs))))
    save(str(tmp_path / "empty.npy"), np.zeros(0, dtype=UID))
    sets = {"theirs": str(tmp_path / "theirs.npy"), "empty": str(tmp_path / "empty.npy")}
    report = pipeline.where(report={"sets": sets}).run().report
    empty, found = report["sets"]
    both = len(kept & theirs)
    assert 0 < both < len(theirs)
    assert found == {
        "name": "theirs",
        "uids": len(theirs),
        "kept": len(kept),
        "both": both,
        "jaccard": round(both / len(kept | theirs), 6),
        "of_ours": round(both / len(kept), 6),
        "of_theirs": round(both / len(theirs), 6),
    }
    assert (empty["both"], empty["of_theirs"], empty["jaccard"]) == (0, None, 0.0)
    page = (pipeline.work / "report" / "index.html").read_text()
    assert (
        f'data-set="theirs"><th scope="row"><bdi>theirs</bdi></th><td class="n">{len(theirs)}'
        in page
    )


def test_what_is_asked_of_the_report_is_checked_before_any_work(pipeline, tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(3))
    sets = {"wrong": str(tmp_path / "numbers.npy"), "missing": str(tmp_path / "none.npy")}
    published = {"source": "a table", "kept": {"captoin": 0.5}}
    with pytest.raises(InvalidPipeline) as refused:
        pipeline.where(report={"sets": sets}, published=published).run()
    said = str(refused.value)
    assert "report.sets.wrong: " in said
    assert "a subset is `u8,u8`" in said
    assert "report.sets.missing: " in said
    assert "published.kept.captoin: no step is called 'captoin'; did you mean 'caption'?" in said


@pytest.mark.parametrize(("away", "off"), [(0.0, False), (0.004, False), (0.006, True)])
def test_a_published_share_is_flagged_when_off_by_more_than_half_a_point(pipeline, away, off):
    plain = pipeline.run().report
    usable = plain["totals"]["usable"]
    share = round(plain["totals"]["kept"] / usable + away, 9)
    told = {"source": "Table 1", "kept": {"caption": share}}
    [step] = pipeline.where(published=told).run().report["steps"]
    assert step["published"] == {"share": share, "source": "Table 1", "off": off}
    assert plain["steps"][0]["published"] is None


def test_a_reference_is_of_the_set_that_its_name_tells():
    names = ["imagenet/n01.jpg", "imagenet.tar/n02.jpg", "/data/evals/cifar10.npy:12", "alone.png"]
    frame = pl.DataFrame({"r": pl.DataFrame({"reference": [*names, "evals.pt:3"]}).to_struct("r")})
    assert Counter(dict(_sets(frame, "r.reference"))) == {
        "imagenet": 2, "cifar10": 1, "references": 1, "evals": 1,
    }  # fmt: skip


def test_a_misspelt_key_is_told_with_its_line_and_the_one_that_was_meant(pipeline):
    asked = pipeline.where(
        report={"colums": ["url"]}, published={"sources": "x", "kept": {"caption": 1}}
    )
    with pytest.raises(InvalidPipeline) as refused:
        asked.run()
    said = str(refused.value)
    assert "report.colums: there is no field 'colums'; did you mean 'columns'?" in said
    assert "published.sources: there is no field 'sources'; did you mean 'source'?" in said
    assert "Extra inputs" not in said
    with pytest.raises(
        InvalidPipeline, match=r"tiny\.yaml:\d+: report\.columns: no column is called"
    ):
        pipeline.where(report={"columns": ["licence"]}).run()
