"""The page of a report in a real browser, from disk, with the network cut."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import polars as pl
import pytest
from metadata_pool import write_metadata
from playwright.sync_api import Page
from tiny_pool import Reported, draw, tar_pool, write_shards
from visits import CAPTIONS, HIT, Visit, is_well, visit

from curate.page.render import render
from curate.page.texts import count, share

STEPS = (
    {"caption": {"min_words": 2}},
    {"image_file": {}},
    {"image_size": {"min_side": 31}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"]}},
    {
        "any_of": [
            {"where": {"name": "wide", "sql": "image_file.width > 60"}},
            {"clip_score": {"name": "good", "column": "score", "at_least": 0.6}},
        ]
    },
    {"clip_score": {"name": "top", "column": "score", "top_fraction": 0.5, "of": "survivors"}},
)


def page_of(pipeline: Reported) -> Path:
    return pipeline.work / "report" / "index.html"


def report_of(pipeline: Reported) -> dict:
    return json.loads((pipeline.work / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("page")
    drawn = draw(200)
    for number in range(0, 200, 4):
        hostile = CAPTIONS[number // 4 % len(CAPTIONS)]
        drawn[number] = replace(drawn[number], caption=f"{hostile} {number}")
    write_shards(folder / "in", drawn, 3)
    pipeline = Reported(folder, tar_pool(folder / "in"), STEPS)
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def report(run) -> dict:
    return report_of(run)


@pytest.fixture(scope="module")
def opened(browser, run) -> Iterator[Visit]:
    with visit(browser, page_of(run)) as found:
        yield found


def test_opens_from_disk_with_the_network_cut(browser, run):
    with visit(browser, page_of(run)) as found:
        assert found.page.locator("[data-chart]").count() >= 4
        is_well(found, page_of(run))


def test_the_summary_says_what_the_report_says(opened, report):
    totals = report["totals"]
    for name in ("rows", "kept", "removed", "lost", "copies", "unique_uids"):
        assert opened.texts(f"#summary dd[data-of={name}]") == [count(totals[name])]
    seen = {"small": 12.8e6, "medium": 128e6, "large": 1.28e9, "xlarge": 12.8e9}
    for scale, epochs in totals["epochs"].items():
        assert epochs == pytest.approx(seen[scale] / totals["copies"], abs=0.001)
        [told] = opened.texts(f"[data-epochs={scale}]")
        assert float(told.replace(",", "")) == pytest.approx(epochs, rel=0.005)
    lead = f"{totals['kept']} of {totals['rows']} samples kept"
    assert lead in opened.texts("#summary .lead")[0]


def test_the_funnel_says_what_the_report_says(opened, report):
    shown = opened.page.locator("ol.funnel > li")
    assert shown.count() == 1 + len(report["steps"])
    for number, step in enumerate(report["steps"], start=1):
        here = f"#step-{number} "
        assert opened.texts(here + "[data-of=in]") == [count(step["in"])]
        assert opened.texts(here + "[data-of=kept]") == [count(step["kept"])]
        removed = sum(step["removed"].values())
        assert opened.texts(here + "[data-of=removed]") == [count(removed)] * bool(removed)
        chips = opened.texts(here + ".chip[data-reason]")
        rows = report["totals"]["rows"]
        expected = [f"{why} {count(n)} {share(n, rows)}" for why, n in step["removed"].items()]
        assert sorted(chips) == sorted(expected)
        widths = opened.page.locator(here + ".track i").evaluate_all(
            "all => all.map(one => parseFloat(one.style.width))"
        )
        parts = [100 * n / rows for n in (step["kept"], removed) if n]
        assert widths == pytest.approx(parts, abs=0.001)


def test_a_threshold_table_keeps_what_it_says(opened, report):
    [histogram] = [h for h in report["histograms"] if h["step"] == "top"]
    both = [a + b for a, b in zip(histogram["kept"], histogram["removed"], strict=True)]
    low, high = histogram["low"], histogram["high"]
    rows = opened.page.locator("#filter-6 .stays tbody tr")
    assert rows.count() == 4
    for number, wanted in enumerate((0.1, 0.2, 0.3, 0.5)):
        threshold, kept = rows.nth(number).locator("td").all_text_contents()
        edge = round((float(threshold) - low) / (high - low) * len(both))
        assert int(kept.split()[0]) == sum(both[edge:])
        assert sum(both[edge:]) / sum(both) == pytest.approx(wanted, abs=0.05)


def rows_of(opened: Visit, selector: str) -> list[list[str]]:
    """The cells of each row of the tables' bodies, unfolded or not, as text."""
    rows = opened.page.locator(f"{selector} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return [[" ".join(cell.split()) for cell in row] for row in rows]


def test_the_numbers_of_every_histogram_are_those_of_the_report(opened, report):
    figures = opened.page.locator("#filters figure.histogram")
    assert figures.count() == len(report["histograms"]) >= 5
    for number, histogram in enumerate(report["histograms"]):
        assert histogram["column"] in figures.nth(number).locator("figcaption").inner_text()
        rows = figures.nth(number).locator("details tbody tr")
        cells = [row.locator("td").all_text_contents() for row in rows.all()]
        bins = len(histogram["kept"])
        width = max(1, bins // 50)
        assert len(cells) == -(-bins // width)
        if histogram["whole"] and width == 1 and bins == histogram["high"] - histogram["low"] + 1:
            assert [row[0] for row in cells] == [row[1] for row in cells]  # one number each
        for place, side in ((2, "kept"), (3, "removed")):
            bars = [sum(histogram[side][n : n + width]) for n in range(0, bins, width)]
            assert [row[place] for row in cells] == [count(bar) for bar in bars]


def test_who_is_in_it_is_said_in_the_numbers_of_the_report(opened, report):
    makeup = report["makeup"]
    articles = opened.page.locator("#makeup .halves > article")
    assert articles.count() == sum(len(makeup[part]) for part in ("words", "numbers", "scores"))
    expected = []
    for one in makeup["words"]:
        found = [[v["reached"][0], v["reached"][-1]] for v in one["values"]]
        expected.append([*found, *([[one["rest"][0], one["rest"][-1]]] if one["rest"][0] else [])])
    for one in makeup["numbers"]:
        pairs = zip(one["reached"][0], one["reached"][-1], strict=True)
        expected.append([list(pair) for pair in pairs if any(pair)])
    assert sum(len(rows) for rows in expected) > 20
    for number, rows in enumerate(expected):
        told = articles.nth(number).locator("details tbody tr")
        cells = [row.locator("td").all_text_contents() for row in told.all()]
        assert [[row[-4], row[-2]] for row in cells] == [list(map(count, row)) for row in rows]
    for number, one in enumerate(makeup["scores"], start=len(expected)):
        told = articles.nth(number).locator("details tbody tr")
        cells = [row.locator("td").all_text_contents() for row in told.all()]
        assert [row[1] for row in cells] == [count(group["rows"]) for group in one["groups"]]


def test_what_filters_do_alone_is_said_in_the_numbers_of_the_report(opened, report):
    probe = report["probe"]
    told = {row[0]: row for row in rows_of(opened, "#alone table.alone")}
    filters = [step["name"] for step in report["steps"] if step["role"] == "filter"]
    assert list(told) == filters
    assert len(probe["filters"]) >= 2
    for one in probe["filters"]:
        for cell, name in ((2, "alone"), (3, "only")):
            said = share(one[name]["count"], one[name]["rows"])
            assert told[one["filter"]][cell].startswith(said)
    for one in probe["not_measured"]:
        assert told[one["filter"]][2:] == ["not measured"]


def test_sources_of_the_pool_are_counted(opened, report):
    [row] = rows_of(opened, "#pool")
    [source] = report["pool"]["sources"]
    assert row[2:] == [count(source[name]) for name in ("files", "shards", "rows")]


def test_galleries_show_the_samples_of_the_report(opened, report):
    shown = opened.page.evaluate(
        "[...document.querySelectorAll('ul.cards, ul.lines, .tenths > li')].map(list =>"
        " [...list.querySelectorAll('dl')].map(one => one.querySelector('code').textContent))"
    )
    told = [[sample["uid"] for sample in gallery["samples"]] for gallery in report["examples"]]
    assert len(told) > 8
    assert [uids for uids in told if uids not in shown] == []
    captions = opened.texts("p.caption")
    assert sum(f"<script>{HIT}</script>" in text for text in captions) > 0
    assert sum("onerror" in text for text in captions) > 0


def test_the_page_has_no_script_but_its_own(opened):
    kinds = opened.page.locator("script").evaluate_all("all => all.map(one => one.type)")
    assert sorted(kinds) == ["", "", "application/json"]
    handlers = "[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())"
    names = set(opened.page.evaluate(handlers))
    assert not [name for name in names if name.startswith("on")]


TIMING = {
    "steps": [
        {"step": "caption", "began": 100.0, "ended": 100.5},
        {"step": "top", "began": 101.0, "ended": None},
        {"step": "same_url", "began": 130.0, "ended": 3700.0},
    ],
    "all_runs": {
        "image_file": {"rows": 4000, "seconds": 90.0, "wall_seconds": 50.0, "gpu_seconds": 5400.0}
    },
    "versions": {"polars": "2.1.0"},
}


def test_times_and_rates_are_said_where_they_are_known(browser, report, tmp_path):
    file = tmp_path / "index.html"
    for timing, word in ((None, 0), (TIMING, 1)):
        file.write_text(render(report, {}, timing))
        with visit(browser, file) as found:
            assert found.text().count("GPU-hours") == 2 * word
            assert found.texts(".made dt").count("Time") == word
            assert found.page.locator(".funnel .beside").count() == 3 * word
            assert found.page.locator("#step-2 .beside").all_text_contents() == (
                ["\n50.0 s, 80 rows/s, 1.5 GPU-hours\n"] * word
            )
            summary = " ".join(found.texts(".made"))
            assert ("1:00:00 h" in summary) == ("polars 2.1.0" in summary) == bool(word)


def test_published_shares_stand_beside_ours_and_are_flagged(browser, report, tmp_path):
    report = json.loads(json.dumps(report))
    rows, kept = report["totals"]["rows"], [step["kept"] for step in report["steps"]]
    report["steps"][0]["published"] = {"share": kept[0] / rows, "source": "a paper", "off": False}
    share_there = kept[-1] / rows - 0.021
    report["steps"][-1]["published"] = {"share": share_there, "source": "a paper", "off": True}
    file = tmp_path / "index.html"
    file.write_text(render(report, {}))
    with visit(browser, file) as found:
        assert found.texts(".funnel .off") == [
            f"published: {share(share_there)}, so off by +2.1 pp"
        ]
        assert "here +0.0 pp" in found.texts("#step-1 .beside")[0]
        assert "1 of 2 steps off by more than 0.5 points: a paper" in found.texts(".made")[0]


def test_strangers_do_nothing_within_a_chart(browser, report, tmp_path):
    report = json.loads(json.dumps(report))
    [histogram] = [h for h in report["histograms"] if h["step"] == "top"]
    histogram["column"] = CAPTIONS[2]
    [threshold] = histogram["thresholds"].values()
    histogram["thresholds"] = {f"{text} {n}": threshold for n, text in enumerate(CAPTIONS)}
    file = tmp_path / "index.html"
    file.write_text(render(report, {}))
    with visit(browser, file) as found:
        is_well(found, file)
        words = found.texts("#filter-6 svg text")
        assert CAPTIONS[2] in words
        for number, text in enumerate(CAPTIONS):
            assert f"{text} {number} {threshold:.4g}" in words
        assert found.page.locator("img[src=x], svg[onload]").count() == 0


def focused(page: Page) -> dict:
    """What has the focus, and whether one sees that."""
    return page.evaluate(
        "(() => { const at = document.activeElement, style = getComputedStyle(at);"
        " return {tag: at.tagName, to: at.getAttribute('href'), outline: style.outlineStyle}; })()"
    )


def test_the_keyboard_reaches_links_and_details(browser, run):
    with visit(browser, page_of(run)) as found:
        page = found.page
        page.keyboard.press("Tab")
        assert focused(page)["to"] == "#main"
        sections = page.locator("nav a").evaluate_all("all => all.map(one => one.hash)")
        for link in sections:
            page.keyboard.press("Tab")
            assert focused(page) == {"tag": "A", "to": link, "outline": "solid"}
        page.keyboard.press("Enter")
        page.wait_for_function("location.hash !== ''")
        assert page.evaluate("location.hash") == sections[-1]
        page.keyboard.press("Tab")
        assert focused(page)["tag"] == "SUMMARY"
        for state in (True, False):
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open") is state


def test_each_section_is_in_the_navigation_and_headings_stand_in_order(opened):
    sections = opened.page.locator("main > section").evaluate_all("all => all.map(one => one.id)")
    links = opened.page.locator("nav a").evaluate_all("all => all.map(one => one.hash)")
    assert links == [f"#{name}" for name in sections]
    assert sections[:3] == ["summary", "funnel", "filters"]
    assert sections[-3:] == ["reasons", "pool", "recipes"]
    levels = opened.page.locator("h1, h2, h3, h4, h5").evaluate_all(
        "all => all.map(one => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_links_within_the_page_lead_somewhere(opened):
    dead = opened.page.locator("a").evaluate_all(
        "all => all.filter(one => !document.getElementById(one.hash.slice(1))).map(one => one.hash)"
    )
    assert dead == []


def test_every_chart_has_words_and_its_numbers_as_a_table(opened, report):
    labels = opened.page.locator("[data-chart]").evaluate_all(
        "all => all.map(one => [one.getAttribute('role'), one.getAttribute('aria-label').length])"
    )
    assert all(role == "img" and length > 10 for role, length in labels)
    [histogram] = [h for h in report["histograms"] if h["step"] == "top"]
    rows = opened.page.locator("#filter-6 figure details tbody tr")
    cells = [rows.nth(n).locator("td").all_text_contents() for n in range(rows.count())]
    assert sum(int(cell[2]) for cell in cells) == sum(histogram["kept"])
    assert sum(int(cell[3]) for cell in cells) == sum(histogram["removed"])
    assert int(cells[0][4].split()[0]) == sum(histogram["kept"]) + sum(histogram["removed"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme):
    colours = palette(scheme)
    for ink in ("ink", "soft", "kept", "removed-ink", "lost"):
        for ground in ("page", "card"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["ink"], colours["note"]) >= 4.5
    for mark in ("kept", "removed", "lost"):  # bars and points
        assert contrast(colours[mark], colours["card"]) >= 3, mark


def palette(scheme: str) -> dict[str, str]:
    """{variable of page.css: #rrggbb}."""
    style = resources.files("curate.page").joinpath("page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", {"light": light, "dark": dark}[scheme]))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio, 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_paper_is_white_and_shows_no_navigation(opened):
    opened.page.emulate_media(media="print", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert not opened.page.locator("nav").is_visible()
    opened.page.emulate_media(media="screen", color_scheme="light")


AT_LEAST = {"clip_score": {"column": "score", "at_least": 0.1}}


def of_tars(drawn, *steps):
    def made(folder: Path) -> Reported:
        write_shards(folder / "in", drawn, 1)
        return Reported(folder, tar_pool(folder / "in"), steps)

    return made


def of_metadata(folder: Path) -> Reported:
    write_metadata(folder / "in", (40, 8))
    steps = [{"caption": {"min_words": 2}}, {"clip_score": {"at_least": 1.0}}]
    return Reported(folder, {"metadata": str(folder / "in")}, steps)


def of_texts(texts: list[str], **fields: object):
    def made(folder: Path) -> Reported:
        frame = {"url": [f"http://h/{n}" for n in range(len(texts))], "caption": texts}
        frame["tongue"] = [f"tongue {n} {text[:40]}" for n, text in enumerate(texts)]
        pl.DataFrame(frame).write_parquet(folder / "urls.parquet")
        steps = [{"caption": {"min_words": 2}}]
        return Reported(
            folder, {"urls": str(folder / "urls.parquet")}, steps, fields=fields.items()
        )

    return made


ODD = (
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 abc 123",
    "\u05e9\u05dc\u05d5\u05dd \u202eevil\u202c \u2067 isolate",
    "Z\u0351\u036b\u0343\u036a\u0302" + "\u0301" * 400 + " \u0e01\u0e49\u0e49\u0e49 stacked",
    "\x00\x07\x1b[31m red \x7f\x9b controls",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \U0001f469\u200d\U0001f680 \U0001f3f4\U000e0067",
    "wide \ufdfd\ufdfd\ufdfd " + "\u4e2d" * 300,
    "a" * 10_000,
    "many words " * 909 + "x",
)
SHORT = [text.split(maxsplit=1)[0] + f"{n}" for n, text in enumerate(ODD)]  # one word: removed
BAD = {
    "nothing kept": (of_tars(draw(30), {"caption": {"min_words": 99}}), "Nothing was kept"),
    "everything kept": (of_tars(draw(30)[:4], {"caption": {"min_characters": 1}}), "Everything"),
    "no pictures": (of_metadata, "There are no pictures"),
    "one sample": (of_tars(draw(2)[:1], AT_LEAST), "1 of 1 sample kept"),
    "odd captions": (of_texts([*ODD, *SHORT]), "\u27e8U+202E\u27e9evil"),
    "many values": (
        of_texts([f"word{n}" for n in range(20_000)], report={"columns": ["tongue"]}),
        "20,000",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_still_makes_a_page(kind, browser, tmp_path):
    make, said = BAD[kind]
    pipeline = make(tmp_path)
    pipeline.run()
    with visit(browser, page_of(pipeline)) as found:
        is_well(found, page_of(pipeline))
        assert said in found.text()
        totals = report_of(pipeline)["totals"]
        assert found.texts("#summary dd[data-of=kept]") == [count(totals["kept"])]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", found.page.content())


@pytest.mark.slow
def test_a_million_values_in_a_column(browser, tmp_path):
    texts = [f"word{n}" for n in range(1_000_000)]
    pipeline = of_texts(texts, report={"columns": ["tongue"]})(tmp_path)
    pipeline.run()
    with visit(browser, page_of(pipeline)) as found:
        is_well(found, page_of(pipeline))
        assert "1,000,000" in found.text()
