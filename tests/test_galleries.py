"""The samples that a report shows are those of the ledger, and its page has room for them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from metadata_pool import write_metadata
from tiny_pool import Reported, draw, ledger_of, tar_pool, write_shards

from curate import chance
from curate.page.render import render
from curate.report import pictures
from curate.report import whole as whole_report
from curate.report.galleries.tenths import tenths
from curate.report.reading import read_facts
from curate.report.schema import Gallery
from curate.report.whole import write_report
from curate.runner import LocalRunner
from curate.sample import UID, parse_uids

STEPS = (
    {"caption": {"min_words": 2}},
    {"clip_score": {"name": "floor", "column": "score", "at_least": 0.2}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"]}},
    {"clip_score": {"name": "top", "column": "score", "top_fraction": 0.5, "of": "survivors"}},
)
NAMES = ["caption", "floor", "same_url", "top"]


@pytest.fixture(scope="module")
def samples():
    return draw(300)


@pytest.fixture(scope="module")
def run(samples, tmp_path_factory) -> Reported:
    return finished(tmp_path_factory.mktemp("run"), samples, STEPS)


def finished(folder: Path, drawn, steps, shards=3) -> Reported:
    write_shards(folder / "in", drawn, shards)
    pipeline = Reported(folder, tar_pool(folder / "in"), steps)
    pipeline.run()
    return pipeline


def report_of(pipeline: Reported) -> dict:
    return json.loads((pipeline.work / "report" / "report.json").read_text())


def page_of(pipeline: Reported) -> str:
    return (pipeline.work / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def fates(run, samples) -> pl.DataFrame:
    """The ledger, the scores, and at which step each sample stopped (4: at none)."""
    scores = [sample.metadata.get("score") for sample in samples]
    stops = {name: number for number, name in enumerate(["pool", *NAMES], start=-1)}
    return ledger_of(run.work).with_columns(
        pl.Series("score", scores, dtype=pl.Float64).fill_nan(None),
        pl.col("step").replace_strict(stops, default=len(NAMES)).alias("stop"),
    )


def drawn_first(rows: pl.DataFrame, salt: str, count: int) -> pl.DataFrame:
    """The first by the hash of the uid, turned by that of the salt."""
    angle = chance.uniform(0, "report", np.zeros(1, UID), salt)[0]
    turned = (chance.uniform(0, "report", parse_uids(rows["uid"].to_list())) + angle) % 1.0
    ranked = rows.with_columns(pl.Series("rank", turned))
    return ranked.sort("rank", "uid", "shard", "row").head(count)


def places(rows: pl.DataFrame) -> list[tuple]:
    return rows.select("uid", "shard", "row").rows()


def shown(gallery: dict) -> list[tuple]:
    return [(sample["uid"], sample["shard"], sample["row"]) for sample in gallery["samples"]]


def test_kept_ones_of_the_run_and_of_each_filter_are_drawn_by_hash(run, fates):
    random = [
        g for g in report_of(run)["examples"] if (g["side"], g["chosen"]) == ("kept", "random")
    ]
    assert [gallery["step"] for gallery in random] == [None, *NAMES]
    for gallery in random:
        step = gallery["step"]
        stop = len(NAMES) - 1 if step is None else NAMES.index(step)
        count = 24 if step is None else 8
        rows = fates.filter(pl.col("stop") > stop)
        assert rows.height > count
        assert shown(gallery) == places(drawn_first(rows, f"{step or ''} kept", count))


@pytest.mark.parametrize("name", ["floor", "top"])
def test_tenths_split_the_scores_that_reached_a_step(run, fates, name):
    galleries = [
        g for g in report_of(run)["examples"] if (g["step"], g["chosen"]) == (name, "decile")
    ]
    reached = fates.filter(pl.col("stop") >= NAMES.index(name), pl.col("score").is_not_null())
    ordered = np.sort(reached["score"].to_numpy())
    lower, seen = -np.inf, 0
    for gallery in galleries:
        ends = [ordered[place * len(ordered) // 10 - 1] for place in range(1, 10)] + [np.inf]
        upper = ends[gallery["decile"] - 1]
        own = reached.filter(pl.col("score") > lower, pl.col("score") <= upper)
        assert gallery["between"] == [own["score"].min(), own["score"].max()]
        assert shown(gallery) == places(drawn_first(own, f"{name} score", 4))
        lower, seen = upper, seen + own.height
    assert seen == reached.height > 100
    assert [gallery["decile"] for gallery in galleries] == list(range(1, 11))


def test_galleries_are_of_the_schema(run):
    for gallery in report_of(run)["examples"]:
        Gallery.model_validate(gallery)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (range(10), range(1, 11)),
        ([0] * 6 + [1, 2, 3, 4], [1] * 6 + [7, 8, 9, 10]),
        ([0, 1, 2, 3] + [9] * 6, [1, 2, 3, 4] + [5] * 6),
        (range(9), None),
        ([0] * 50 + [1] * 50, None),
        ([5.0] * 30, None),
    ],
)
def test_equal_scores_share_a_tenth(scores, expected):
    found = tenths(np.array(scores, dtype=np.float64))
    assert (None if found is None else found.tolist()) == (
        None if expected is None else list(expected)
    )


def test_infinite_scores_are_in_no_tenth(tmp_path):
    drawn = [
        replace(sample, metadata={"url": f"http://h/{n}", "score": np.inf if n < 5 else n / 40})
        for n, sample in enumerate(draw(40))
    ]
    steps = [{"clip_score": {"column": "score", "at_least": 0.5}}]
    pipeline = finished(tmp_path, drawn, steps)
    tens = [g for g in report_of(pipeline)["examples"] if g["chosen"] == "decile"]
    assert len(tens) == 10
    assert (tens[0]["between"][0], tens[-1]["between"][1]) == (5 / 40, 39 / 40)


def test_everything_and_nothing_kept(tmp_path):
    for name, at_least in (("all", -1.0), ("none", 1.0)):
        drawn = [replace(s, metadata={**s.metadata, "score": 0.5}) for s in draw(12)]
        steps = [{"clip_score": {"column": "score", "at_least": at_least}}]
        pipeline = finished(tmp_path / name, drawn, steps, 1)
        sides = [(g["step"], g["side"]) for g in report_of(pipeline)["examples"]]
        assert (
            sides
            == {
                "all": [(None, "kept"), ("clip_score", "kept")],
                "none": [("clip_score", "removed")],
            }[name]
        )
        assert ('<section id="pictures">' in page_of(pipeline)) == (name == "all")


def test_one_sample(tmp_path):
    pipeline = finished(tmp_path, draw(2)[:1], [{"caption": {"min_words": 1}}], 1)
    galleries = report_of(pipeline)["examples"]
    assert [(g["step"], len(g["samples"])) for g in galleries] == [(None, 1), ("caption", 1)]
    assert '<section id="pictures">' in page_of(pipeline)


def test_metadata_without_pictures_shows_captions(tmp_path):
    pool = {"metadata": str(write_metadata(tmp_path / "pool", (30,)))}
    steps = [{"clip_score": {"column": "clip_l14_similarity_score", "at_least": 1}}]
    pipeline = Reported(tmp_path, pool, steps)
    pipeline.run()
    page = page_of(pipeline)
    assert "<h2>Captions</h2>" in page
    assert "caption 29" in page
    assert 'class="frame' not in page


def again(pipeline: Reported) -> tuple[dict, dict]:
    """(the report, its pictures) of a finished run, made once more."""
    told = write_report(read_facts(str(pipeline.work)), LocalRunner())
    return told.report, dict(told.pictures)


@pytest.fixture(scope="module")
def told(run) -> tuple[dict, dict]:
    return again(run)


def test_a_tar_that_is_gone_leaves_no_picture_and_the_rest(tmp_path):
    small = finished(tmp_path, draw(60), STEPS)
    _, before = again(small)
    (small.folder / "in" / "00001.tar").unlink()
    report, after = again(small)
    assert after == {place: uri for place, uri in before.items() if place[0] != 1}
    assert 0 < len(after) < len(before)
    assert "no picture" in render(report, after)


def test_pictures_that_matter_least_are_left_out_where_the_page_is_full(told):
    report, whole = told
    order = [(s["shard"], s["row"]) for s in pictures.samples_of(report)]
    total = sum(len(whole.get(place, "")) for place in order)
    half = pictures.within(report, whole, total // 2)
    assert half.keys() == whole.keys()
    shown = sum(len(half.get(place, "")) for place in order)
    assert total // 2 - 40_000 < shown <= total // 2  # no place is shown more often than that
    first = list(dict.fromkeys(place for place in order if place in whole))
    cut = [half[place] != pictures.LEFT_OUT for place in first]
    assert cut == sorted(cut, reverse=True)
    assert half == pictures.fewer(report, whole, total - total // 2)
    assert "left out: the page is full" in render(report, half)
    assert "left out" not in render(report, whole)


def test_only_so_many_tars_are_read(run, told, monkeypatch):
    report, whole = told
    monkeypatch.setattr(pictures, "MOST_TARS", 2)
    few = pictures.load(read_facts(str(run.work)), report, LocalRunner())
    first = [s["shard"] for s in pictures.samples_of(report) if s["tar"] is not None]
    read = list(dict.fromkeys(first))[:2]
    assert {place[0] for place, uri in few.items() if uri} == set(read)
    assert {place for place, uri in whole.items() if place[0] not in read} <= {
        place for place, uri in few.items() if not uri
    }


def test_a_page_stays_below_its_size_whatever_the_texts(told, monkeypatch, tmp_path):
    report, found = told
    whole = len(render(report, found).encode())
    monkeypatch.setattr(whole_report, "PAGE_BYTES", whole - 20_000)
    whole_report.write_page(str(tmp_path), whole_report.Told(report, found))
    page = (tmp_path / "report" / "index.html").read_bytes()
    assert len(page) <= whole - 20_000 + 5_000  # what is said of those left out
    assert b"left out: the page is full" in page


def test_a_caption_of_10000_characters_costs_the_page_500(run, told):
    report, _ = told
    long = "long words " * 900
    report = json.loads(json.dumps(report))
    for sample in pictures.samples_of(report):
        sample["caption"] = long
    titles = [part.split('"')[0] for part in render(report, {}).split('title="')[1:]]
    assert {len(title) for title in titles if title.startswith("long")} == {500}
