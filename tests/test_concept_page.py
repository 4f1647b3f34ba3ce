"""What a page says of concepts, classes and clusters: the numbers of report.json, inert texts."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_cluster_cards import PLUGIN
from test_concept_report import WORDS, asked, captions, class_file, list_of, pipeline_of
from tiny_pool import Reported, tar_pool, write_shards
from tiny_pool import draw as drawn_samples

from curate.page.charts import clusters as cluster_charts
from curate.page.charts import concepts as charts
from curate.page.clusters import clusterings
from curate.page.concepts import class_section, concept_sections, lines
from curate.page.texts import count, share
from curate.report.schema import Classes

HOSTILE = ["<script>alert(1)</script>", "\u202eevil", "مرحبا", "x" * 100]
CLASSES = ["owl", "dog", "cat, kitten", "zebra", "ibis", "unicorn", "7", "8", "9", "11", "13"]


class Tables(HTMLParser):
    """The texts of the cells of every table of a page, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def page_of(pipeline: Reported) -> str:
    return (pipeline.work / "report" / "index.html").read_text()


def section_of(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.S)
    return found[0] if found else ""


def report_of(pipeline: Reported) -> dict:
    return json.loads((pipeline.work / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def balanced(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("concepts")
    texts = captions()
    texts[:4] = [f"see {entry} here" for entry in HOSTILE]
    steps = [
        {"where": {"name": "first", "sql": "number % 9 < 8"}},
        {"concepts": list_of(folder, WORDS + HOSTILE)},
        {"metadata_balance": {"t": 6}},
        {"where": "number > 3 or number < 0"},
        {"random_sample": {"fraction": 0.3, "of": "survivors"}},
    ]
    classes = class_file(folder, *CLASSES)
    pipeline = pipeline_of(folder, texts, steps, report={"classes": classes})
    assert pipeline.run().exit_code == 0
    return pipeline


def test_the_table_of_stages_is_the_reports(balanced):
    (own,) = report_of(balanced)["concepts"]
    rows = Tables(section_of(page_of(balanced), "concepts")).rows
    for place, stage in enumerate(own["stages"]):
        without = f"{count(stage['unmatched'])} {share(stage['unmatched_share'])}"
        assert [
            stage["after"],
            count(stage["samples"]),
            without,
            count(stage["matches"]),
            count(stage["entries_hit"]),
            share(stage["top_share"]),
            share(own["tail"]["match_share"][place]),
        ] in rows
    for one in own["head"]:
        own_row = [*map(count, one["samples"]), count(one["copies"])]
        assert any(row[1:] == own_row for row in rows)
    for place, rank in enumerate(own["curve"]["ranks"]):
        assert [count(rank), *(count(n[place]) for n in own["curve"]["samples"])] in rows


def test_texts_of_strangers_are_words_and_nothing_else(balanced):
    section = section_of(page_of(balanced), "concepts")
    gone = {one["entry"] for one in report_of(balanced)["concepts"][0]["vanished"]["most_frequent"]}
    assert set(HOSTILE) <= gone
    assert "<script" not in section
    assert html.escape(HOSTILE[0]) in section
    assert "\u202e" not in section
    assert "⟨U+202E⟩evil" in section
    assert "x" * 59 + "…" in section


def test_every_vanished_entry_is_listed_with_what_it_had(balanced):
    own = report_of(balanced)["concepts"][0]["vanished"]
    section = section_of(page_of(balanced), "concepts")
    assert f"Gone: {own['entries']} entries that no kept sample has" in section
    listed = re.findall(r'<span class="chip quiet">.*?<b>([\d,]+)</b></span>', section)
    assert listed[: len(own["most_frequent"])] == [count(n["before"]) for n in own["most_frequent"]]


def data_of(chart: object, layer: int = 0) -> list[dict]:
    """The data of a layer of a chart, which has the name of it, or is within another one."""
    spec = chart.to_dict()
    own = {**spec, **spec["layer"][layer]}
    return spec["datasets"][own["data"]["name"]]


def test_the_curve_has_a_line_for_each_stage_that_changed_it_and_a_rule_at_t(balanced):
    (own,) = concept_sections(report_of(balanced))
    drawn = lines(own)
    assert [line["name"] for line in drawn] == [
        "concepts",
        "metadata_balance",
        "where",
        "random_sample",
    ]
    chart = charts.rank_chart(own["curve"]["ranks"], drawn, own["thresholds"])
    points = {(p["after"], p["rank"]): p["samples"] for p in data_of(chart)}
    expected = {
        (line["name"], rank): n
        for line in drawn
        for rank, n in zip(own["curve"]["ranks"], line["samples"], strict=True)
        if n
    }
    assert points == expected
    assert [p["t"] for p in data_of(chart, 1)] == own["thresholds"] == [6]
    chances = data_of(charts.chances_chart(own["balances"][0]))
    assert [p["p"] for p in chances] == own["balances"][0]["p"]["chances"]


def test_a_stage_that_changed_nothing_has_no_line(balanced):
    own = report_of(balanced)["concepts"][0]
    own["curve"]["samples"][1] = own["curve"]["samples"][0]
    assert [line["name"] for line in lines(own)] == ["concepts", "where", "random_sample"]


def test_fifteen_pairs_of_bars_with_entries_made_visible(balanced):
    head = report_of(balanced)["concepts"][0]["head"]
    head = [{"entry": "\u202e" + "y" * 50, "samples": [9, 8, 7]}, *head, *head]
    rows = data_of(charts.head_chart(head))
    assert len(rows) == 2 * 15
    assert rows[0]["label"] == "1. ⟨U+202E⟩" + "y" * 19 + "…"
    assert [row["samples"] for row in rows[:2]] == [9, 7]
    assert [row["side"] for row in rows[:2]] == ["before", "after"]


def test_classes_are_those_of_the_command(balanced):
    own = report_of(balanced)["classes"]
    Classes.model_validate(own)
    told = asked(balanced, classes=own["source"])["classes"]
    for name in ("samples", "naming_a_class", "without_caption"):
        assert own[name] == told[name]
    rows = {row["class"]: row for row in told["classes"]}
    sides = ("before", "after", "copies")
    kept, pool = own["samples"]["after"], own["samples"]["before"]
    moved = sorted(
        (name for name, row in rows.items() if row["before"] * kept != row["after"] * pool),
        key=lambda name: -abs(rows[name]["before"] * kept - rows[name]["after"] * pool),
    )
    assert [row["class"] for row in own["shifted"]] == moved
    assert len(moved) >= 3
    for row in own["shifted"] + own["vanished"]["most_frequent"]:
        assert {side: row[side] for side in sides} == {s: rows[row["class"]][s] for s in sides}
    assert 1 in [row["after"] for row in rows.values()]
    gone = [name for name, row in rows.items() if row["before"] and not row["after"]]
    assert own["vanished"]["classes"] == len(gone)
    assert [row["class"] for row in own["vanished"]["most_frequent"]] == sorted(
        gone, key=lambda name: -rows[name]["before"]
    )
    assert own["unnamed"]["before"] == len(told["none"]["before"]) >= 1
    assert own["rare"]["before"] == len(told["few"]["before"])
    for at, side in enumerate(sides[:2]):
        counts = sorted((row[side] for row in rows.values()), reverse=True)
        assert own["curve"]["samples"][at] == [counts[r - 1] for r in own["curve"]["ranks"]]


def test_classes_of_a_limited_run_are_those_of_the_rows_within_it(tmp_path):
    classes = class_file(tmp_path, *CLASSES)
    steps = [{"concepts": list_of(tmp_path, WORDS)}, {"where": "number % 2 = 0"}]
    pipeline = pipeline_of(tmp_path, captions(), steps, report={"classes": classes})
    assert pipeline.run(limit=50).exit_code == 0
    report = json.loads((tmp_path / "work-limit-50" / "report" / "report.json").read_text())
    assert report["classes"]["samples"]["before"] == 50


def test_the_most_changed_classes_are_a_table(balanced):
    own = class_section(report_of(balanced))
    rows = Tables(section_of(page_of(balanced), "concepts")).rows
    for row in own["rows"]:
        found = next(line for line in reversed(rows) if line and line[0] == row["class"])
        assert found[1] == f"{count(row['before'])} {share(row['share_before'])}"
        assert found[2] == f"{count(row['after'])} {share(row['share_after'])}"


@pytest.mark.parametrize("texts", [["nothing"] * 5, [None] * 5])
def test_nothing_hit_and_nothing_named(tmp_path, texts):
    steps = [{"concepts": list_of(tmp_path, WORDS)}, {"where": "number < 0"}]
    classes = class_file(tmp_path, "owl")
    pipeline = pipeline_of(tmp_path, texts, steps, report={"classes": classes})
    assert pipeline.run().exit_code == 0
    section = section_of(page_of(pipeline), "concepts")
    assert "No caption has an entry of the list." in section
    assert report_of(pipeline)["classes"]["shifted"] == []
    assert "Named classes" in section


def test_a_run_without_concepts_or_clusters_has_no_such_sections(tmp_path):
    pipeline = pipeline_of(tmp_path, captions(20), [{"where": "number > 3"}])
    assert pipeline.run().exit_code == 0
    report, page = report_of(pipeline), page_of(pipeline)
    assert (report["clusters"], report["concepts"], report["classes"]) == ([], [], None)
    assert section_of(page, "clusters") == section_of(page, "concepts") == ""


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Reported:
    """Clusters of samples with pictures, one of which says what a browser must not do."""
    folder: Path = tmp_path_factory.mktemp("pictured")
    samples = [replace(one, caption=f"{one.caption or ''} thing") for one in drawn_samples(90)]
    samples[0] = replace(samples[0], caption="<img src=x onerror=alert(1)>")
    tars = write_shards(folder / "in", samples, 2)
    (folder / "lengths.py").write_text(PLUGIN)
    steps = [{"lengths": {}}, {"balanced_by": {"column": "lengths.cluster", "cap": 9}}]
    pipeline = Reported(folder, tar_pool(tars), steps).where(plugins=["./lengths.py"])
    assert pipeline.run().exit_code == 0
    return pipeline


def test_cards_show_the_pictures_of_their_samples(pictured):
    (own,) = report_of(pictured)["clusters"]
    section = section_of(page_of(pictured), "clusters")
    cards = re.split(r'<li id="cluster-1-', section)[1:]
    assert [int(card.partition('"')[0]) for card in cards] == [c["cluster"] for c in own["cards"]]
    for card, text in zip(own["cards"], cards, strict=True):
        shown = card["central"] + card["outlying"]
        uids = re.findall(r"<dt>uid</dt><dd><code>([0-9a-f]{32})</code>", text)
        assert uids == [one["uid"] for one in shown]
        assert text.count('src="data:image/jpeg') + text.count("no picture") == len(shown)
        assert text.count('<i class="dot kept">') == sum(not one["removed_by"] for one in shown)
        part = share(card["kept"], card["size"])
        assert f"<b>{count(card['kept'])}</b> in the subset ({part})" in text
        assert ("at its cap in “balanced_by”" in text) == (card["mark"] == "cap")
    assert "data:image/jpeg" in section
    assert "<img src=x" not in section


def planned(cluster: int, size: int, kept: int, *chosen: str) -> dict:
    told = {"cluster": cluster, "size": size, "kept": kept, "chosen": list(chosen)}
    return {**told, "mark": "none", "mark_by": None, "central": [], "outlying": [], "words": []}


def test_a_card_is_shown_once_and_named_where_it_belongs_too():
    cards = [
        planned(1, 90, 9, "largest", "kept_least"),
        planned(2, 80, 40, "largest"),
        planned(3, 30, 2, "kept_least"),
        planned(4, 25, 1, "kept_least"),
        planned(5, 20, 20, "kept_most"),
    ]
    own = {"cards": cards, "kept_shares": [3, 0, 0, 0, 0, 1, 0, 0, 0, 1]}
    (found,) = clusterings({"clusters": [own]}, {})
    groups = [
        ([c["cluster"] for c in group["cards"]], [c["cluster"] for c in group["above"]])
        for group in found["groups"]
    ]
    assert groups == [([1, 2], []), ([4, 3], [1]), ([5], [])]
    assert found["shares"][9] == {"from": 90, "to": 100, "clusters": 1}


def test_few_clusters_have_bars_and_many_a_curve():
    few = {"ranks": [1, 2, 3], "sizes": [9, 5, 1], "kept": [4, 5, 0]}
    bars = data_of(cluster_charts.sizes_chart(few))
    assert [(b["rank"], b["side"], b["part"]) for b in bars] == [
        (1, "kept", 4),
        (1, "removed", 5),
        (2, "kept", 5),
        (3, "removed", 1),
    ]
    ranks = [1, 10, 100]
    many = cluster_charts.sizes_chart({"ranks": ranks, "sizes": [9, 5, 1], "kept": [4, 0, 1]})
    assert [p["samples"] for p in data_of(many)] == [9, 5, 1]
    assert [p["rank"] for p in data_of(many, 2)] == [1, 100]  # no logarithm of 0
    assert cluster_charts.sizes_chart({"ranks": [], "sizes": [], "kept": []}) is None
    assert cluster_charts.shares_chart([{"from": 0, "to": 10, "clusters": 0}]) is None
