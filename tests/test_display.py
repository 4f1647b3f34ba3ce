"""What the command line says of a run."""

import json

import numpy as np
import polars as pl
import pytest
from tiny_pool import Drawn, Pipeline, draw, write_shards, write_tar

from curate.display import status_lines, summary
from curate.errors import CurateError


def funnel(pipe):
    """{step: (in, kept, removed)} as it is printed."""
    report = json.loads((pipe.work / "report" / "report.json").read_text())
    lines = summary(report, str(pipe.work)).splitlines()
    rows = {}
    for line in lines[1:]:
        parts = line.split(None, 3)
        if len(parts) == 4 and parts[1].isdigit():
            rows[parts[0]] = (int(parts[1]), int(parts[2]), parts[3])
    return rows, lines


@pytest.fixture
def beside(tmp_path):
    """Metadata of 8 samples, of which 5 have a picture; and 2 pictures of nobody."""
    drawn = [s for s in draw(40) if s.jpeg is not None and s.caption][:10]
    own = [{"uid": f"{n:032x}", "url": f"http://h/{n}"} for n in range(10)]
    samples = [Drawn(s.key, s.caption, o, s.jpeg) for s, o in zip(drawn, own, strict=True)]
    write_tar(tmp_path / "tars" / "0.tar", samples[3:])
    (tmp_path / "metadata").mkdir()
    rows = {"uid": [o["uid"] for o in own[:8]], "text": [s.caption for s in samples[:8]]}
    pl.DataFrame(rows).write_parquet(tmp_path / "metadata" / "0.parquet")
    pool = {"metadata": str(tmp_path / "metadata"), "shards": str(tmp_path / "tars" / "*.tar")}
    pipe = Pipeline(tmp_path, pool, ({"caption": {"min_characters": 1}},))
    pipe.run()
    return pipe


def test_the_funnel_begins_with_what_the_pool_itself_removed(beside):
    rows, lines = funnel(beside)
    assert rows == {"pool": (8, 5, "no_picture 3"), "caption": (5, 5, "-")}
    assert len(np.load(beside.work / "subset.npy")) == 5
    listed = f"{beside.work}/pool/pictures/unmatched.parquet"
    assert f"2 pictures belong to no row of the metadata: listed in {listed}" in lines
    assert pl.read_parquet(listed).height == 2
    assert "pool/pictures/unmatched.parquet" in (beside.work / "report/index.html").read_text()


def test_a_pool_that_lost_nothing_has_no_row(tmp_path):
    whole = [s for s in draw(30) if s.jpeg is not None]
    write_shards(tmp_path / "in", whole, 1)
    pipe = Pipeline(tmp_path, {"shards": str(tmp_path / "in" / "*.tar")}, ({"caption": {}},))
    pipe.run()
    rows, lines = funnel(pipe)
    assert list(rows) == ["caption"]
    assert not any("unmatched" in line for line in lines)


def test_status_of_a_pipeline_file_says_that_it_wants_the_folder(beside):
    with pytest.raises(CurateError, match=r"is a pipeline file: give the folder that its `work:`"):
        status_lines(beside.file())
    assert "no run at work" in status_lines(str(beside.work))[0]
