"""report.json says what the ledger says, in any order of work; its page runs nothing."""

import base64
import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_server import Answer, picture_server
from PIL import Image
from tiny_pool import Pipeline, Reported, draw, ledger_of, tar_pool, write_shards

from curate import chance
from curate import fates as verdict
from curate.check import compile_pipeline
from curate.columns import Column
from curate.explanation import explain
from curate.explanation.picture import Wish
from curate.page.charts.scores import curve_of
from curate.page.render import render
from curate.page.texts import share, visible
from curate.pipeline_file.config import load
from curate.pools.pool import Pool
from curate.pools.shard_table import SCHEMA
from curate.report import histogram
from curate.report.facts import Facts, public
from curate.report.galleries import choose, kinds
from curate.report.histogram import BINS
from curate.report.reading import read_facts
from curate.report.whole import write_page, write_report
from curate.runner import LocalRunner, RayRunner, Runner
from curate.sample import UID, parse_uids
from curate.subsets.subset import save

STEPS = (
    {"caption": {"min_words": 2}},
    {"image_file": {}},
    {"image_size": {"min_side": 31}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"], "keep": {"highest": "score"}}},
    {"clip_score": {"name": "floor", "column": "score", "at_least": 0.2, "at_most": 0.95}},
    {
        "any_of": [
            {"where": {"name": "wide", "sql": "image_file.width > 60"}},
            {"clip_score": {"name": "good", "column": "score", "at_least": 0.6}},
        ]
    },
    {
        "clip_score": {
            "name": "top",
            "column": "score",
            "top_fraction": 0.5,
            "of": "survivors",
        }
    },
)
NAMES = ["caption", "image_file", "image_size", "same_url", "floor", "any_of", "top"]
SCRIPT = "<script>alert(1)</script> is a caption"
IMG = "\"'><img src=x onerror=alert(2)> is another"
BIDI = "evil \u202egpj.exe\u2066 \x1b[31m red"
LONG = "many words " * 900
DATA = "data:image/jpeg;base64,"
BROKEN = b"\xff\xd8\xff but no picture"


@pytest.fixture(scope="module")
def samples():
    drawn = draw(300)
    for number in (8, 30, 60, 61, 62):
        drawn[number] = replace(drawn[number], jpeg=BROKEN)
    for number in range(0, 300, 4):
        hostile = (SCRIPT, IMG, BIDI, LONG)[number // 4 % 4]
        drawn[number] = replace(drawn[number], caption=f"{hostile} {number}")
    return drawn


@pytest.fixture(scope="module")
def run(samples, tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("run")
    write_shards(folder / "in", samples, 4)
    pipeline = Reported(folder, tar_pool(folder / "in"), STEPS)
    pipeline.run()
    return pipeline


def report_of(pipeline: Reported) -> dict:
    return json.loads((pipeline.work / "report" / "report.json").read_text())


def page_of(pipeline: Reported) -> str:
    return (pipeline.work / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def report(run) -> dict:
    return report_of(run)


@pytest.fixture(scope="module")
def fates(run, samples) -> pl.DataFrame:
    """The ledger beside what was drawn, and at which step each sample stopped (7: at none)."""
    scores = [sample.metadata.get("score") for sample in samples]
    stops = {name: number for number, name in enumerate(["pool", *NAMES], start=-1)}
    return ledger_of(run.work).with_columns(
        pl.Series("score", scores, dtype=pl.Float64).fill_nan(None),
        pl.col("step").replace_strict(stops, default=len(NAMES)).alias("stop"),
    )


def test_each_step_hands_on_what_it_kept_and_names_every_removal(report, fates):
    entered = report["totals"]["rows"] - sum(report["pool"]["unusable"].values())
    assert entered == report["totals"]["usable"] < report["totals"]["rows"] == 300
    assert [step["name"] for step in report["steps"]] == NAMES
    for step in report["steps"]:
        assert step["in"] == entered
        assert step["in"] == step["kept"] + sum(step["removed"].values()) + sum(
            step["lost"].values()
        )
        own = fates.filter(pl.col("step") == step["name"])["reason"].to_list()
        assert step["removed"] == dict(Counter(own))
        entered = step["kept"]
    totals = report["totals"]
    assert entered == totals["kept"] == (fates["fate"] == "kept").sum() > 0
    assert totals["removed"] == sum(sum(step["removed"].values()) for step in report["steps"])
    assert totals["unique_uids"] == fates.filter(pl.col("fate") == "kept")["uid"].n_unique()


def test_kinds_are_those_of_the_pipeline_file(report):
    kinds = {step["name"]: (step["kind"], step["role"]) for step in report["steps"]}
    assert kinds["same_url"] == ("exact_duplicates", "filter")
    assert kinds["image_file"] == ("image_file", "feature")
    assert kinds["any_of"] == ("any_of", "filter")


def test_unscored_pictures_are_counted_by_class_among_those_that_came(report, samples, fates):
    came = (fates["stop"] >= NAMES.index("image_file")).to_list()
    broken = sum(there and s.jpeg == BROKEN for there, s in zip(came, samples, strict=True))
    [step] = [step for step in report["steps"] if step["name"] == "image_file"]
    assert step["errors"] == {"truncated_image": broken}
    assert broken > 0


@pytest.mark.parametrize("name", ["floor", "any_of", "top"])
def test_histogram_counts_every_sample_that_reached_the_step(report, fates, name):
    [histogram] = [h for h in report["histograms"] if (h["step"], h["column"]) == (name, "score")]
    index = NAMES.index(name)
    reached = fates.filter(pl.col("stop") >= index)
    scored = reached.filter(pl.col("score").is_not_null())
    low, high = scored["score"].min(), scored["score"].max()
    assert (histogram["low"], histogram["high"]) == (low, high)
    for side, rows in (
        ("kept", scored.filter(pl.col("stop") > index)),
        ("removed", scored.filter(pl.col("stop") == index)),
    ):
        bins = ((rows["score"].to_numpy() - low) / (high - low) * 200).astype(int).clip(max=199)
        assert histogram[side] == np.bincount(bins, minlength=200).tolist()
    unscored = reached.height - scored.height
    assert histogram["unscored"] == {"kept": 0, "removed": unscored}
    assert (unscored > 0) == (name == "floor")


def counted(values: np.ndarray, histogram: dict) -> list[int]:
    """How many of some whole numbers are in each bin of a histogram."""
    first, last = histogram["ends"]
    assert histogram["whole"]
    assert (first + 0.5, (last - first) % len(histogram["kept"])) == (histogram["low"], 0)
    edges = np.linspace(first, last, len(histogram["kept"]) + 1)
    return np.histogram(values, edges)[0].tolist()


def test_what_filters_measure_is_drawn_with_its_limits(report, fates, samples):
    sizes = {n: Image.open(io.BytesIO(s.jpeg)).size for n, s in enumerate(samples)
             if s.jpeg not in (None, BROKEN)}  # fmt: skip
    words = [len(s.caption.split()) if s.caption is not None else np.nan for s in samples]
    sides = [min(sizes[n]) if n in sizes else np.nan for n in range(len(samples))]
    widths = [sizes[n][0] if n in sizes else np.nan for n in range(len(samples))]
    for step, column, values, threshold in (
        ("caption", "caption: words", words, {"too_few_words": 2}),
        ("image_size", "shorter side, pixels", sides, {"too_small": 31}),
        ("any_of", "image_file.width", widths, {"false": 60}),
    ):
        [histogram] = [
            h for h in report["histograms"] if (h["step"], h["column"]) == (step, column)
        ]
        assert histogram["thresholds"] == threshold
        assert (histogram["keeps"], histogram["alone"]) == ("high", step != "any_of")
        index = NAMES.index(step)
        there = np.array(values)
        came = fates["stop"].to_numpy() >= index
        assert (histogram["low"], histogram["high"]) == (
            np.nanmin(there[came]),
            np.nanmax(there[came]),
        )
        for side in ("kept", "removed"):
            own = came & ((fates["stop"].to_numpy() > index) == (side == "kept"))
            known = own & ~np.isnan(there)
            assert histogram[side] == counted(there[known], histogram), (step, side)
            assert histogram["unscored"][side] == (own & np.isnan(there)).sum()


def number_of(shown: dict, fates: pl.DataFrame) -> int:
    """The number among all samples of one that a gallery shows."""
    places = list(zip(fates["shard"], fates["row"], strict=True))
    return places.index((shown["shard"], shown["row"]))


def test_samples_nearest_to_what_filters_measure_are_shown(report, fates, samples):
    galleries = {
        g["side"]: g
        for g in report["examples"]
        if g["step"] == "caption" and g["chosen"] == "nearest"
    }
    assert {g["score"] for g in galleries.values()} == {"caption: words"}
    assert {g["threshold"] for g in galleries.values()} == {2}
    stops = fates["stop"].to_list()
    for side, shown in ((g["side"], g["samples"]) for g in galleries.values()):
        words = [
            len(sample.caption.split())
            for sample, stop in zip(samples, stops, strict=True)
            if sample.caption is not None and (stop > 0 if side == "kept" else stop == 0)
        ]
        assert [s["score"] for s in shown] == sorted(words, key=lambda count: abs(count - 2))[:8]
        for one in shown:
            assert len(samples[number_of(one, fates)].caption.split()) == one["score"]


def test_a_filter_of_two_rules_says_what_each_would_let_pass(tmp_path):
    steps = [{"caption": {"min_words": 2, "max_characters": 20}}]
    pipeline = finished(tmp_path, draw(60), steps)
    words, characters = report_of(pipeline)["histograms"]
    assert (words["keeps"], words["alone"]) == ("high", False)
    assert (characters["keeps"], characters["alone"]) == ("low", False)
    assert characters["thresholds"] == {"too_many_characters": 20}
    text = text_of(pipeline)
    assert "To let pass, other rules aside, a share of the" in text
    assert "To keep a share" not in text


def test_conditions_over_dates_and_text_have_no_distribution(tmp_path):
    days = [date(2020, 1, 1 + n % 28) for n in range(40)]
    texts = [str(n) if n % 3 else "ABC" for n in range(40)]
    frame = {"uid": [f"{n:032x}" for n in range(40)], "url": [f"http://h/{n}" for n in range(40)],
             "text": texts, "day": days, "size": list(range(40))}  # fmt: skip
    (tmp_path / "in").mkdir()
    pl.DataFrame(frame).write_parquet(tmp_path / "in" / "0.parquet")
    conditions = {"days": "day > 18270", "texts": "upper(caption) > 1.5", "sizes": "size * 2 > 30"}
    steps = [{"where": {"name": name, "sql": sql}} for name, sql in conditions.items()]
    pipeline = Reported(tmp_path, {"metadata": str(tmp_path / "in"), "arrays": "none"}, steps)
    report = pipeline.run().report
    assert [h["column"] for h in report["histograms"]] == ["size * 2"]
    for uid in frame["uid"][:4]:
        [sample] = explain(str(pipeline.work), uid, Wish(), LocalRunner(1)).samples
        rules = {rule.reason for step in sample.steps for one in step.filters for rule in one.rules}
        assert rules <= {"false"}


def test_what_was_removed_for_want_of_a_number_is_shown(tmp_path):
    drawn = [replace(s, caption="x" if n < 4 else f"words {n}") for n, s in enumerate(draw(20))]
    sql = "sqrt(case when caption = 'x' then -1.0 else 4.0 end) < 3"
    pipeline = finished(tmp_path, drawn, [{"where": {"name": "w", "sql": sql}}])
    shown = [
        s
        for g in report_of(pipeline)["examples"]
        if (g["step"], g["side"]) == ("w", "removed")
        for s in g["samples"]
    ]
    assert [s["values"]["caption"] for s in shown] == ["x"] * 4
    assert [s["score"] for s in shown] == [None] * 4
    assert "Just removed" in text_of(pipeline)


def test_a_brief_report_measures_nothing_anew(tmp_path):
    write_shards(tmp_path / "in", draw(20), 1)
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"), STEPS[:1])
    pipeline.run()
    assert report_of(pipeline)["histograms"] == []


def test_learnt_threshold_is_the_score_of_the_last_one_kept(report, fates):
    [step] = [step for step in report["steps"] if step["name"] == "top"]
    [entry] = step["filters"]
    kept = fates.filter(pl.col("fate") == "kept")["score"]
    assert entry["thresholds"] == {"below_threshold": kept.min()}
    assert step["kept"] == step["in"] // 2


BORDERS = (("floor", "below_threshold"), ("floor", "above_threshold"), ("top", "below_threshold"))


@pytest.mark.parametrize(("name", "reason"), BORDERS)
@pytest.mark.parametrize("side", ["kept", "removed"])
def test_borderline_examples_are_the_nearest_on_their_side(report, fates, name, reason, side):
    wanted = (name, reason, side)
    [gallery] = [g for g in report["examples"] if (g["step"], g["reason"], g["side"]) == wanted]
    [step] = [step for step in report["steps"] if step["name"] == name]
    threshold = step["filters"][0]["thresholds"][reason]
    assert gallery["threshold"] == threshold
    index = NAMES.index(name)
    if side == "kept":
        rows = fates.filter(pl.col("stop") > index)
    else:
        rows = fates.filter((pl.col("stop") == index) & (pl.col("reason") == reason))
    nearest = rows.with_columns((pl.col("score") - threshold).abs().alias("away"))
    nearest = nearest.sort("away", "uid", "shard", "row").head(8)
    shown = [(s["uid"], s["shard"], s["row"], s["score"]) for s in gallery["samples"]]
    assert shown == nearest.select("uid", "shard", "row", "score").rows()
    assert [s["removed_by"] for s in gallery["samples"]] == nearest["step"].to_list()


def by_chance(uids: list[str], salt: str) -> np.ndarray:
    """[N] in [0, 1): one hash of a uid, turned by an angle that is the hash of the salt."""
    angle = chance.uniform(0, "report", np.zeros(1, UID), salt)[0]
    return (chance.uniform(0, "report", parse_uids(uids)) + angle) % 1.0


def test_other_reasons_are_shown_by_hash_with_their_deciding_values(report, fates, samples):
    wanted = ("same_url", "removed")
    [gallery] = [g for g in report["examples"] if (g["step"], g["side"]) == wanted]
    rows = fates.filter(pl.col("step") == "same_url")
    draws = by_chance(rows["uid"].to_list(), "same_url")
    expected = (
        rows.with_columns(pl.Series("draw", draws)).sort("draw", "uid", "shard", "row").head(8)
    )
    assert [s["uid"] for s in gallery["samples"]] == expected["uid"].to_list()
    drawn = {(row["shard"], row["row"]): samples[n] for n, row in enumerate(fates.rows(named=True))}
    for sample in gallery["samples"]:
        original = drawn[sample["shard"], sample["row"]]
        assert sample["values"]["url"] == original.metadata["url"]
        assert sample["key"] == original.key
        assert sample["because"] in fates["uid"].to_list()


def test_filters_inside_any_of_have_examples_of_their_own(report, fates):
    galleries = [g for g in report["examples"] if g["step"] == "any_of"]
    assert {(g["filter"], g["side"], g["chosen"]) for g in galleries} == {
        ("good", "kept", "nearest"),
        ("good", "removed", "nearest"),
        ("any_of", "removed", "random"),
        ("any_of", "kept", "random"),
        ("good", "both", "decile"),
        ("wide", "kept", "nearest"),
        ("wide", "removed", "nearest"),
    }
    [removed] = [g for g in galleries if g["filter"] == "good" and g["side"] == "removed"]
    assert {s["removed_by"] for s in removed["samples"]} == {"any_of"}
    assert max(s["score"] for s in removed["samples"]) < 0.6


class Backwards(LocalRunner):
    """Gives results in another order, as many workers would."""

    def map(self, work, items, label):
        return iter([work(item) for item in reversed(list(items))])


def facts_of(pipeline: Reported) -> Facts:
    """What a run knows when it reports, read from the work folder that it left."""
    return read_facts(str(pipeline.work))


def written(pipeline: Reported, runner: Runner) -> tuple[bytes, bytes]:
    """report.json, and its page without times, as a runner makes them now."""
    write_page(str(pipeline.work), write_report(facts_of(pipeline), runner))
    folder = pipeline.work / "report"
    return (folder / "report.json").read_bytes(), (folder / "index.html").read_bytes()


def test_bytes_do_not_depend_on_the_order_of_results(run):
    json_of_the_run = (run.work / "report" / "report.json").read_bytes()
    assert written(run, Backwards()) == written(run, LocalRunner())
    assert written(run, LocalRunner())[0] == json_of_the_run


@pytest.mark.ray
def test_bytes_are_the_same_on_ray(run, ray_cluster):
    assert written(run, RayRunner()) == written(run, LocalRunner())


@pytest.mark.parametrize("rows_per_block", [40, 10_000])
def test_bytes_do_not_depend_on_blocks_or_the_work_folder(run, rows_per_block, tmp_path):
    other = run.where(folder=tmp_path, rows_per_block=rows_per_block)
    other.run()
    found = written(other, LocalRunner())
    assert found == written(run, LocalRunner())
    assert str(tmp_path).encode() not in b"".join(found)


class Read(HTMLParser):
    """Every element with its attributes, all text outside of scripts, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append((self.elements[-1][1], data))
        else:
            self.text.append(data)


TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "main", "footer"),
    *("nav", "section", "article", "figure", "figcaption", "div", "span", "p", "b", "i", "a"),
    *("h1", "h2", "h3", "h4", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead"),
    *("tbody", "tr", "th", "td", "details", "summary", "code", "pre", "img", "bdi", "wbr", "br"),
}


def test_captions_of_strangers_are_text_and_nothing_else(run):
    page = Read(page_of(run))
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("src", DATA).startswith(DATA)
        assert attributes.get("href", "#").startswith("#")
        assert "url(" not in attributes.get("style", "")
    assert sum(SCRIPT in text for text in page.text) > 0
    assert sum(IMG in text for text in page.text) > 0
    style = page_of(run).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_the_own_scripts_run_and_no_other(run):
    page = Read(page_of(run))
    [policy] = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    data = [json.loads(text) for attributes, text in page.scripts if attributes]
    own = [text for attributes, text in page.scripts if not attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in own]
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": " ".join(f"'sha256-{digest.decode()}'" for digest in digests),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    charts = [attributes for _, attributes in page.elements if "data-chart" in attributes]
    assert len(own) == 2
    assert [len(specs) for specs in data] == [len(charts)]


def test_controls_are_written_out_and_long_captions_are_cut(run):
    page = page_of(run)
    assert "⟨U+202E⟩gpj.exe⟨U+2066⟩ ⟨U+001B⟩[31m" in page
    assert not set(page) & {"\u202e", "\u2066", "\x1b"}
    read = Read(page)
    cut = [a["title"] for tag, a in read.elements if tag == "bdi" and "title" in a]
    longest = max(cut, key=len)
    assert longest.startswith(LONG[:499])
    assert len(longest) == 500
    assert max(len(text) for text in read.text if "many words" in text) < 150


def test_pictures_are_small_and_a_broken_one_is_said_to_be_missing(run, report):
    page = Read(page_of(run))
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(sources) > 50
    for source in set(sources):
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix(DATA))))
        assert image.format == "JPEG"
        assert max(image.size) <= 96
    broken = [
        g for g in report["examples"] if g["step"] == "image_size" and g["reason"] == "unscored"
    ]
    assert page.text.count("no picture") >= len(broken[0]["samples"]) > 0


def test_page_is_made_from_the_report_alone(run, report):
    page = page_of(run)
    timing = json.loads((run.work / "report" / "timing.json").read_text())
    again = render(report, {}, timing if "in timing.json" in page else None)
    words = ["".join(Read(page).text).replace("no picture", "").split() for page in (again, page)]
    assert words[0] == words[1]
    report = json.loads(json.dumps(report))
    report["totals"]["kept"] = 123_456
    assert "123,456" in "".join(Read(render(report, {})).text)


def test_losses_and_damage_are_said_first(report):
    report = json.loads(json.dumps(report))
    report["totals"]["lost"] = 3
    report["steps"][1]["lost"] = {"out_of_memory": 3}
    report["pool"]["damaged"] = [{"url": "s3://b/<i>.tar", "damage": "cut at byte 12"}]
    text = " ".join("".join(Read(render(report, {})).text).split())
    assert "Lost to failed work of our own, not by a filter: 3 samples." in text
    assert "Damaged: 1 shard, listed below." in text
    assert "s3://b/<i>.tar: cut at byte 12" in text
    assert "out_of_memory 3" in text


def finished(folder: Path, drawn, steps) -> Reported:
    write_shards(folder / "in", drawn, 1)
    pipeline = Reported(folder, tar_pool(folder / "in"), steps)
    pipeline.run()
    return pipeline


def text_of(pipeline: Reported) -> str:
    return " ".join("".join(Read(page_of(pipeline)).text).split())


def test_one_sample(tmp_path):
    pipeline = finished(
        tmp_path, draw(2)[:1], [{"clip_score": {"column": "score", "at_least": 0.1}}]
    )
    [histogram] = report_of(pipeline)["histograms"]
    assert histogram["low"] == histogram["high"]
    assert sum(histogram["kept"]) == 1
    assert "Everything was kept" in text_of(pipeline)


def test_nothing_kept_says_which_step_took_the_last(tmp_path):
    steps = [
        {"caption": {"min_words": 99}},
        {"clip_score": {"column": "score", "top_fraction": 0.5, "of": "survivors"}},
    ]
    pipeline = finished(tmp_path, draw(30), steps)
    report = report_of(pipeline)
    assert report["totals"]["kept"] == report["totals"]["unique_uids"] == 0
    assert {h["step"]: h["low"] is None for h in report["histograms"]} == {
        "caption": False,
        "clip_score": True,
    }
    text = text_of(pipeline)
    assert "Nothing was kept: the last ones went at step “caption”." in text
    assert "No sample that came this far has a score." in text


def test_scores_at_the_ends_of_float64_are_counted_and_drawn(tmp_path):
    scores = [float("inf"), float("-inf"), 1.7e308, -1.7e308, 0.0, -0.0, 5e-324]
    drawn = [
        replace(sample, metadata={"url": f"http://h/{n}", "score": score}, jpeg=b"x")
        for n, (sample, score) in enumerate(zip(draw(20), scores, strict=False))
    ]
    steps = [{"clip_score": {"column": "score", "at_least": 0.0}}]
    pipeline = finished(tmp_path, drawn, steps)
    [histogram] = report_of(pipeline)["histograms"]
    assert histogram["infinite"] == {"kept": 1, "removed": 1}
    assert (histogram["low"], histogram["high"]) == (-1.7e308, 1.7e308)
    assert sum(histogram["kept"]) == 4
    assert sum(histogram["removed"]) == 1
    assert "Not drawn: 2 infinite scores." in text_of(pipeline)


def test_a_pool_without_rows(tmp_path):
    steps = [{"caption": {"min_words": 2}}, {"clip_score": {"column": "score", "at_least": 0.1}}]
    pipeline = Reported(tmp_path, {"shards": str(tmp_path / "none.tar")}, steps)
    known = {
        "caption": Column("pool", "caption", "String"),
        "score": Column("pool", "score", "Float64"),
    }
    plan = compile_pipeline(load(pipeline.file()), columns=known)
    shard = (0, "pool", str(tmp_path / "none.tar"), 1024, "1", 0, 0, 0, 0, None)
    table = pl.DataFrame([shard], schema=SCHEMA, orient="row")
    save(str(pipeline.work / "subset.npy"), np.zeros(0, dtype=UID))
    counts = verdict.no_counts()
    facts = Facts(plan, Pool(table, known), counts, {"pool": {"rows": 0}}, "clip_score")
    told = write_report(facts, LocalRunner())
    write_page(str(pipeline.work), told)
    report = told.report
    assert report["totals"]["rows"] == report["totals"]["unique_uids"] == 0
    assert [step["in"] for step in report["steps"]] == [0, 0]
    assert "The pool has no rows" in text_of(pipeline)


def test_downloaded_pictures_are_found_and_failures_counted(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (300, 150), "teal").save(picture, "JPEG")
    answers = {f"/{n}.jpg": picture.getvalue() for n in range(6)}
    answers["/6.jpg"] = Answer(status=404)
    with picture_server(answers) as server:
        urls = [server.url(f"/{n}.jpg") for n in range(7)]
        frame = {"url": urls, "caption": ["x"] + [f"a teal thing {n}" for n in range(1, 7)]}
        pl.DataFrame(frame).write_parquet(tmp_path / "urls.parquet")
        steps = [
            {"caption": {"min_words": 2}},
            {"download": {"allow_private_addresses": True}},
            {"image_size": {"min_side": 200}},
        ]
        pipeline = Reported(tmp_path, {"urls": str(tmp_path / "urls.parquet")}, steps)
        pipeline.run()
    report = report_of(pipeline)
    [download] = [step for step in report["steps"] if step["role"] == "download"]
    assert (download["in"], download["kept"], download["removed"]) == (6, 5, {"http_404": 1})
    before, after = (
        [g for g in report["examples"] if (g["step"], g["side"]) == (step, "removed")]
        for step in ("caption", "image_size")
    )
    assert [g["chosen"] for g in (*before, *after)] == ["nearest", "nearest"]  # they are all
    assert [s["tar"] for g in before for s in g["samples"]] == [None]
    assert {s["tar"] for g in after for s in g["samples"]} == {"download/000/00000.tar"}
    pictures = [tag for tag, _ in Read(page_of(pipeline)).elements if tag == "img"]
    # Twice those that caption kept, near its threshold and by chance: image_size removed them.
    assert len(pictures) == 3 * 5


def test_urls_lose_what_may_be_secret():
    assert public("/data/{00..12}.tar") == "/data/{00..12}.tar"
    assert public("https://me:word@h.org:81/a.tar?sig=1#x") == "https://h.org:81/a.tar"
    assert public("s3://key:word@bucket/00?.tar") == "s3://bucket/00?.tar"


def test_shares_are_never_rounded_to_none_or_all():
    assert [share(part, 10**6) for part in (0, 1, 999_999, 10**6)] == [
        "0.0 %", "<0.1 %", ">99.9 %", "100.0 %",
    ]  # fmt: skip
    assert share(0, 0) == "-"


def test_marks_that_scripts_need_stay_as_they_are():
    joined = "\u0645\u06cc\u200c\u062e\u0648\u200f 👩\u200d🚀"
    assert visible(joined) == joined
    assert visible("a\r\nb\x85c\u2028d") == "a b⟨U+0085⟩c d"


def test_a_report_counts_what_is_true_of_those_that_reached_a_feature(tmp_path):
    texts = ["word " * n for n in (1, 5, 90, 80, 3)] + [None]
    urls = [f"http://h/{n}" for n in range(6)]
    pl.DataFrame({"url": urls, "caption": texts}).write_parquet(tmp_path / "urls.parquet")
    longer = {"where": {"name": "longer", "sql": "caption IS NULL OR LENGTH(caption) > 10"}}
    steps = [longer, {"token_length": {}}]
    pipeline = Reported(tmp_path, {"urls": str(tmp_path / "urls.parquet")}, steps, fields=())
    pipeline.run()
    [step] = [s for s in pipeline.run().report["steps"] if s["name"] == "token_length"]
    assert step["flags"] == {"truncated": {"true": 2, "false": 2}}
    assert step["errors"] == {"no_caption": 1}
    page = (pipeline.work / "report" / "index.html").read_text()
    assert "truncated <b>2</b>" in page


@pytest.mark.parametrize(
    ("limits", "keeps"),
    [
        ({"at_least": 0.3}, "high"),
        ({"at_most": 0.3}, "low"),
        ({"at_least": 0.2, "at_most": 0.9}, None),
    ],
)
def test_what_other_thresholds_would_keep_goes_by_the_side_that_stays(tmp_path, limits, keeps):
    pipeline = finished(tmp_path, draw(100), [{"clip_score": {"column": "score", **limits}}])
    [histogram] = report_of(pipeline)["histograms"]
    assert histogram["keeps"] == keeps
    assert ("would keep" in page_of(pipeline)) == (keeps is not None)
    if keeps is None:
        return
    scores = np.array([s.metadata.get("score", np.nan) for s in draw(100) if s.jpeg is not None])
    for threshold, rows in curve_of(histogram)[10:190:10]:
        off = np.abs(scores - threshold) < 1e-9  # an edge is a rounded number
        if not off.any():
            stay = scores >= threshold if keeps == "high" else scores < threshold
            assert rows == stay.sum()


def table_of(values: list[float], removed: list[bool]) -> histogram._Table | None:
    return histogram._table(np.array(values), np.array(removed))


numbers = st.lists(
    st.tuples(
        st.integers(-40, 40).map(float) | st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans()
    ),
    max_size=30,
)


@given(drawn=numbers, place=st.integers(0, 30))
def test_whole_numbers_counted_one_by_one_are_in_the_bins_of_two_passes(drawn, place):
    """However they are spread over two blocks."""
    values = np.array([value for value, _ in drawn], dtype=np.float64)
    removed = np.array([side for _, side in drawn], dtype=bool)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (np.inf, -np.inf)
    first, second = (
        histogram._table(values[part], removed[part]) for part in (slice(place), slice(place, None))
    )
    drawn = first.plus(second).drawn()
    assert drawn["ends"] == ([low - 0.5, high + 0.5] if len(finite) else None)
    bins = np.arange(low, high + 1) if len(finite) else np.full(BINS, np.nan)
    for side, own in (("kept", values[~removed]), ("removed", values[removed])):
        assert drawn[side] == [np.count_nonzero(own == number) for number in bins]
        assert drawn["infinite"][side] == np.isinf(own).sum()
        assert drawn["unscored"][side] == np.isnan(own).sum()


@given(numbers=st.lists(st.integers(-300, 3000), min_size=1), low=st.integers(-1000, 1000))
def test_bins_of_whole_numbers_hold_as_many_each(numbers, low):
    values = np.array(numbers, dtype=np.float64) + low
    drawn = histogram._table(values, np.zeros(len(values), dtype=bool)).drawn()
    first, last = drawn["ends"]
    width = (last - first) / len(drawn["kept"])
    assert width == int(width)
    assert len(drawn["kept"]) <= BINS
    assert last - width < values.max() < last
    assert first + 0.5 == values.min()
    assert (
        drawn["kept"]
        == np.histogram(values, first + width * np.arange(len(drawn["kept"]) + 1))[0].tolist()
    )


def test_fractions_and_numbers_far_apart_take_two_passes():
    assert table_of([1.0, 1.5], [False, True]) is None
    assert table_of([0.0, 2.0**40], [False, True]) is None
    near, far = table_of([1.0], [False]), table_of([2.0**40], [True])
    assert near is not None
    assert far is not None
    assert near.plus(far) is None


def test_the_nearest_of_many_are_those_of_a_draw(run, report, monkeypatch):
    monkeypatch.setattr(kinds, "MEASURED", 40)
    facts = facts_of(run)
    galleries = [g for g in choose(facts, LocalRunner()) if g["chosen"] == "nearest"]
    whole = [g for g in report["examples"] if g["chosen"] == "nearest"]
    for drawn, all_of_them in zip(galleries, whole, strict=True):
        if drawn["score"] == "score":  # a column is looked at in whole
            assert drawn == all_of_them
            continue
        [step] = [step for step in report["steps"] if step["name"] == drawn["step"]]
        rows = step["kept"] if drawn["side"] == "kept" else sum(step["removed"].values())
        rows = step["removed"].get(drawn["reason"], rows) if drawn["side"] == "removed" else rows
        assert drawn["share"] == min(1, 40 / rows)
        uids = parse_uids([s["uid"] for s in drawn["samples"]])
        assert (chance.uniform(facts.plan.config.seed, "report", uids) < drawn["share"]).all()
        distance = [abs(s["score"] - drawn["threshold"]) for s in drawn["samples"]]
        assert distance == sorted(distance)
    assert min(g["share"] for g in galleries) < 1 == max(g["share"] for g in whole)
