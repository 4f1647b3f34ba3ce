"""Who is in it: every number must be that of a recount by hand, in any order of work."""

import itertools
import json
import math
import re
import statistics
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import real_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_pool import uid
from test_report import Backwards, facts_of
from tiny_pool import Reported, draw, ledger_of, tar_pool, write_shards

from curate import columns
from curate.page.makeup import makeup as page_of
from curate.page.render import render
from curate.pools.shard_table import load_table
from curate.report import frequent
from curate.report.makeup import makeup
from curate.report.makeup.bins import ASPECTS, LENGTHS, grid_of
from curate.report.makeup.blocks import word_counts
from curate.report.makeup.columns import domains, host_parts
from curate.report.schema import Makeup
from curate.runner import LocalRunner, RayRunner

ROWS = 300
HOSTS = (
    "http://www.a.example/x",
    "https://A.EXAMPLE:443/y",
    "https://me:word@b.example/z?u=//c.example/",
    "no url at all",
)
BIDI = "\u202eevil\u2066 <script>alert(1)</script>"
TOPICS = ("people", "places", BIDI, "w" * 300, "شخص", "")
STEPS = (
    {"caption": {"min_words": 2}},
    {"language": {}},
    {"where": {"name": "english", "sql": "language.code <> 'de' or score > 0.4"}},
    {"image_size": {"min_side": 100, "max_aspect_ratio": 3.0}},
    {"clip_score": {"name": "good", "column": "score", "at_least": 0.3}},
)
NAMES = ["caption", "language", "english", "image_size", "good"]
STAGES = [0, 2, 3, 4]  # those that remove
COLUMNS = {"report": {"columns": ["topic", "aesthetic", "number"]}}


def samples(rows: int = ROWS) -> pl.DataFrame:
    """Captions of real pairs, the others made up, with all that may be missing."""
    rng = np.random.default_rng(5)
    real = [pair.caption for pair in real_pictures.stamps() if pair.caption]
    texts = [real[n % len(real)] for n in range(rows)]
    for n in range(0, rows, 7):
        texts[n] = ("ein Bild von einer alten Stadt", "x", "", "two  blanks\u00a0here", None)[n % 5]
    texts[rows // 2] = "many words " * 900
    choose = partial(rng.choice, size=rows)
    return pl.DataFrame(
        {
            "uid": [uid(n) for n in range(rows)],
            "url": [f"{HOSTS[n % 4]}{n}" if n % 11 else None for n in range(rows)],
            "text": texts,
            "original_width": [None if n % 13 == 1 else int(20 * 1.02**n) for n in range(rows)],
            "original_height": [0 if n % 17 == 2 else 150 + n % 90 for n in range(rows)],
            "Licence": choose(["by", "by-sa", "cc0"]).tolist(),
            "topic": [TOPICS[n % 6] if n % 5 else None for n in range(rows)],
            "aesthetic": [(math.nan, math.inf, 3.25 + n / 100)[min(n % 9, 2)] for n in range(rows)],
            "number": list(range(-100, rows - 100)),
            "score": [None if n % 19 == 4 else n * 37 % 100 / 100 for n in range(rows)],
        },
        schema_overrides={"text": pl.String, "url": pl.String},
    )


def pipeline_of(folder: Path, frame: pl.DataFrame, steps, **fields) -> Reported:
    """A pipeline over two sources of metadata, the first with two thirds of the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = 2 * frame.height // 3
    pool = []
    for name, part in (("first", frame[:cut]), ("second", frame[cut:])):
        for number, piece in enumerate(part.iter_slices(25)):
            piece.write_parquet(folder / f"{name}-{number}.parquet")
        pool.append({"name": name, "metadata": str(folder / f"{name}-*.parquet")})
    return Reported(folder, pool, steps).where(rows_per_block=64, **fields)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("makeup")
    pipeline = pipeline_of(folder, samples(), STEPS, probe=0.5, **COLUMNS)
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def section(run) -> dict:
    return json.loads((run.work / "report" / "report.json").read_text())["makeup"]


@pytest.fixture(scope="module")
def rows(run) -> list[dict]:
    """What each sample is, its language where it reached that step, and where it stopped."""
    table = load_table(str(run.work))
    first = [0, *np.cumsum(table.group_by("block").agg(pl.col("rows").sum()).sort("block")["rows"])]
    known = {}
    for block in range(len(first) - 1):
        codes = columns.store(str(run.work), "language").read(block, ["code"])
        known |= {first[block] + row: code for row, code in codes.rows()}
    table = ledger_of(run.work).join(samples(), on="uid", how="left", maintain_order="left")
    stops = {name: number for number, name in enumerate(NAMES)}
    return [
        {**row, "stop": stops.get(row["step"], len(NAMES)), "code": known.get(number)}
        for number, row in enumerate(table.rows(named=True))
    ]


def reached(rows: list[dict], after: int, belongs) -> list[int]:
    """How many of those who got past a step belong, then how many of them past each later one."""
    own = [row for row in rows if row["stop"] > after and belongs(row)]
    stages = [stage for stage in STAGES if stage > after]
    return [len(own), *(sum(row["stop"] > stage for row in own) for stage in stages)]


def words_of(section: dict, about: str) -> dict:
    [found] = [one for one in section["words"] if one["about"] == about]
    return found


def numbers_of(section: dict, about: str) -> dict:
    [found] = [one for one in section["numbers"] if one["about"] == about]
    return found


def host(url: str | None) -> str | None:
    if url is None or url.startswith("no"):
        return None
    return "a.example" if "a.example" in url.lower() else "b.example"


def cut(topic: str | None) -> str | None:
    return topic if topic is None else topic[:200]


WORDS = {  # {about: (column, the step that made it, what a row has)}
    "language": ("language.code", 1, lambda row: row["code"]),
    "domain": ("url", -1, lambda row: host(row["url"])),
    "source": ("pool.source", -1, lambda row: "first" if row["shard"] < 8 else "second"),
    "licence": ("Licence", -1, lambda row: row["Licence"]),
    "topic": ("topic", -1, lambda row: cut(row["topic"])),
}


@pytest.mark.parametrize("about", WORDS)
def test_words_are_counted_at_each_step(section, rows, about):
    column, after, value = WORDS[about]
    found = words_of(section, about)
    assert found["column"] == column
    assert found["since"] == ("pool" if after < 0 else NAMES[after])
    assert found["steps"] == [NAMES[stage] for stage in STAGES if stage > after]
    there = Counter(value(row) for row in rows if row["stop"] > after)
    expected = {one: reached(rows, after, lambda row, one=one: value(row) == one) for one in there}
    assert {one["value"]: one["reached"] for one in found["values"]} == expected
    assert found["distinct"] == len(there.keys() - {None}) > 1
    assert found["exact"]
    assert not any(found["rest"])


def test_those_who_only_the_probe_looked_at_do_not_count(rows, section):
    probed = [row for row in rows if row["stop"] == 0 and row["code"] is not None]
    assert len(probed) > 5
    found = words_of(section, "language")
    assert sum(one["reached"][0] for one in found["values"]) == sum(r["stop"] > 0 for r in rows)
    assert None not in [one["value"] for one in found["values"]]


def smaller(row: dict) -> float | None:
    sides = (row["original_width"], row["original_height"])
    return min(sides) if all(sides) else None


def longer(row: dict) -> float | None:
    sides = (row["original_width"], row["original_height"])
    return max(sides) / min(sides) if all(sides) else None


@pytest.mark.parametrize(
    ("about", "scale", "value"),
    [
        ("smaller_side", "log", smaller),
        ("aspect_ratio", "log", longer),
        (
            "caption_characters",
            "log",
            lambda row: None if row["text"] is None else len(row["text"]),
        ),
        (
            "caption_words",
            "log",
            lambda row: None if row["text"] is None else len(row["text"].split()),
        ),
        ("aesthetic", "linear", lambda row: row["aesthetic"]),
        ("number", "linear", lambda row: row["number"]),
    ],
)
def test_numbers_are_counted_by_bins_at_each_step(section, rows, about, scale, value):
    found = numbers_of(section, about)
    edges = found["edges"]
    assert found["scale"] == scale
    assert sorted(set(edges)) == edges

    def finite(row: dict) -> bool:
        return value(row) is not None and math.isfinite(value(row))

    def inside(row: dict, low: float, high: float) -> bool:
        return finite(row) and (low <= value(row) < high or value(row) == high == edges[-1])

    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        expected = reached(rows, -1, lambda row, low=low, high=high: inside(row, low, high))
        assert [stage[place] for stage in found["reached"]] == expected
    assert found["missing"] == reached(rows, -1, lambda row: not finite(row))
    assert found["reached"][0][0] > 0
    assert found["reached"][0][-1] > 0


def test_shifts_name_the_change_and_the_step_that_made_it(section, rows):
    shifts = section["shifts"]
    changes = [abs(round(one["kept"] - one["pool"], 6)) for one in shifts]
    assert changes == sorted(changes, reverse=True)
    assert len(shifts) > 10
    assert max(Counter((one["column"], one["about"]) for one in shifts).values()) <= 8
    [german] = [one for one in shifts if one["about"] == "language" and one["value"] == "de"]
    past = [row for row in rows if row["stop"] > 1]
    kept = [row for row in past if row["stop"] == len(NAMES)]
    for key, of in (("pool", past), ("kept", kept)):
        assert german[key] == round(sum(row["code"] == "de" for row in of) / len(of), 6)
    assert german["since"] == "language"
    assert german["hardest"] == "english"
    [small] = [
        one for one in shifts if one["value"] == "32 to 63" and one["about"] == "smaller_side"
    ]
    assert (small["about"], small["hardest"]) == ("smaller_side", "image_size")
    for shift in (one for one in shifts if one["about"] in WORDS):
        own = words_of(section, shift["about"])
        [counts] = [v["reached"] for v in own["values"] if v["value"] == shift["value"]]
        totals = [sum(stage) for stage in zip(*(v["reached"] for v in own["values"]), strict=True)]
        shares = [part / whole for part, whole in zip(counts, totals, strict=True)]
        assert (shift["pool"], shift["kept"]) == (round(shares[0], 6), round(shares[-1], 6))
        way = np.sign(shares[-1] - shares[0])
        assert shift["hardest"] == own["steps"][np.argmax(way * np.diff(shares))]
    [none] = [one for one in shifts if one["about"] == "smaller_side" and one["value"] is None]
    assert none["kept"] == 0


def test_scores_by_group_are_exact(section, rows):
    found = {(one["score"], one["by"]): one["groups"] for one in section["scores"]}
    assert set(found) == {("score", "caption_characters"), ("score", "language.code")}

    def length(row: dict) -> str | None:
        if row["text"] is None:
            return None
        for low, high in ((0, 0), (1, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127)):
            if low <= len(row["text"]) <= high:
                return f"{low} to {high}" if low < high else "0"
        return "128 to 255" if len(row["text"]) < 256 else "512 and more"

    for by, after, group in (
        ("caption_characters", -1, length),
        ("language.code", 1, lambda row: row["code"]),
    ):
        past = [row for row in rows if row["stop"] > after and row["score"] is not None]
        groups = {one["value"]: one for one in found["score", by]}
        assert set(groups) == {group(row) for row in past} - {None}
        for name, said in groups.items():
            own = [row for row in past if group(row) == name]
            assert said["rows"] == len(own)
            assert said["kept"] == sum(row["stop"] == len(NAMES) for row in own)
            scores = [row["score"] for row in own]
            assert said["mean"] == float(sum(map(Fraction, scores)) / len(scores))
            assert said["deviation"] == pytest.approx(statistics.pstdev(scores), rel=1e-12)


def test_the_section_is_what_its_schema_says(section):
    Makeup.model_validate(section)


def test_it_does_not_depend_on_blocks_or_the_order_of_rows(section, tmp_path):
    order = np.random.default_rng(1).permutation(200).tolist() + list(range(200, ROWS))
    other = pipeline_of(tmp_path, samples()[order], STEPS, probe=0.5, **COLUMNS)
    other = other.where(rows_per_block=17)
    other.run()
    facts = facts_of(other)
    assert json.loads(json.dumps(makeup(facts, Backwards()))) == section
    assert json.loads(json.dumps(makeup(facts, LocalRunner(2)))) == section


def test_too_many_values_to_hold_by_name_are_counted_as_exactly(run, section, monkeypatch):
    monkeypatch.setattr(frequent, "MOST", 2)
    monkeypatch.setattr(frequent, "BUCKETS", 1 << 12)
    found = json.loads(json.dumps(makeup(facts_of(run), LocalRunner(2))))
    Makeup.model_validate(found)
    for one, before in zip(found["words"], section["words"], strict=True):
        many = before["distinct"] > 2
        assert one == {**before, "distinct": None if many else before["distinct"]}
    assert (found["numbers"], found["shifts"]) == (section["numbers"], section["shifts"])


@pytest.mark.ray
def test_it_is_the_same_on_ray(run, section, ray_cluster):
    assert json.loads(json.dumps(makeup(facts_of(run), RayRunner()))) == section


def test_hosts_are_lower_case_without_user_port_and_www():
    hosts = {
        "http://WWW.Foo.example:80/a//b": "foo.example",
        "https://user:p@x.example": "x.example",
        "//h.example/x": "h.example",
        "http://h?x=//a/b": "h",
        "ftp://[::1]:8/x": "[::1]",
        "http://é.example./": "é.example",
        "https://q.example#part": "q.example",
        "http://a.example\\@evil.example/": "a.example",
        "data:image/png;base64,//a/b": None,
        "http:///x": None,
        "": None,
        "plain": None,
    }
    urls = pl.Series([*hosts, None])
    assert domains(host_parts(urls)).to_list() == [*hosts.values(), None]


@settings(max_examples=60)
@given(st.lists(st.none() | st.text(alphabet=" \t\n\u00a0\u2003aé語\x00", max_size=9)))
def test_words_are_what_white_space_parts(texts):
    series = pl.Series("text", texts, dtype=pl.String)
    expected = [None if text is None else len(re.findall(r"\S+", text)) for text in texts]
    assert word_counts(series).to_list() == expected
    assert word_counts(series[1:]).to_list() == expected[1:]


@settings(max_examples=50)
@given(st.floats(0, 2**40), st.floats(1, 2**32))
def test_every_number_has_a_bin_of_its_own(length, ratio):
    for grid, value in ((LENGTHS, float(int(length))), (ASPECTS, ratio)):
        [place] = grid.places(np.array([value])).tolist()
        assert grid.edges[place] <= value <= grid.edges[place + 1]
        assert value < grid.edges[place + 1] or place == grid.bins - 1


@settings(max_examples=50)
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_bins_of_a_range_hold_both_its_ends(one, other):
    low, high = sorted((one + 0.0, other + 0.0))
    grid = grid_of(low, high, whole=False)
    assert grid.edges[0] <= low
    assert grid.edges[-1] >= high
    assert list(grid.edges) == sorted(grid.edges)
    assert set(grid.coarse) <= set(grid.edges)
    assert grid.places(np.array([low, high])).max() < max(grid.bins, 1)


def made(folder: Path, frame: pl.DataFrame, steps, **fields) -> dict:
    frame.write_parquet(folder / "pool.parquet")
    pool = {"metadata": str(folder / "pool.parquet")}
    pipeline = Reported(folder, pool, steps).where(**fields)
    pipeline.run()
    report = json.loads((pipeline.work / "report" / "report.json").read_text())
    Makeup.model_validate(report["makeup"])
    assert 'id="makeup"' in render(report, {})
    return report


def test_captions_that_are_all_missing_and_no_urls(tmp_path):
    frame = pl.DataFrame({"uid": [uid(n) for n in range(9)], "number": [2.0] * 9})
    report = made(tmp_path, frame, [{"where": "number > 1"}], report={"columns": ["number"]})
    found = report["makeup"]
    assert found["words"] == []
    assert numbers_of(found, "caption_words")["edges"] == []
    assert numbers_of(found, "caption_words")["missing"] == [9, 9]
    assert numbers_of(found, "number")["edges"] == [2.0, 2.0]
    assert numbers_of(found, "number")["reached"] == [[9], [9]]
    assert found["shifts"] == []
    assert "Everything was kept" in render(report, {})


def test_rows_that_the_pool_cannot_use_are_nobody(tmp_path):
    pool = tar_pool(write_shards(tmp_path / "in", draw(60), 2))
    pipeline = Reported(tmp_path, pool, [{"caption": {"min_words": 2}}])
    pipeline.run()
    report = json.loads((pipeline.work / "report" / "report.json").read_text())
    usable = report["totals"]["usable"]
    assert usable < report["totals"]["rows"]
    for one in report["makeup"]["numbers"]:
        assert sum(one["reached"][0]) + one["missing"][0] == usable
        assert sum(one["reached"][-1]) + one["missing"][-1] == report["totals"]["kept"]
    assert (
        sum(one["reached"][0] for one in words_of(report["makeup"], "domain")["values"])
        + (words_of(report["makeup"], "domain")["rest"][0])
        == usable
    )


def test_columns_of_the_user_may_be_called_as_ours(tmp_path):
    names = ["url", "domain", "source", "aspect_ratio", "caption_words", "language"]
    values = {
        "url": ["http://a.example/1", "http://a.example/2"],
        "domain": ["http://a.example/1", "b"],
        "source": ["x", "y"],
        "language": ["de", "en"],
        "aspect_ratio": [7.5, 8.5],
        "caption_words": [1.5, 2.5],
    }
    frame = pl.DataFrame({"uid": [uid(0), uid(1)], "text": ["one", "two words"], **values})
    found = made(tmp_path, frame, [{"caption": {"min_words": 2}}], report={"columns": names})
    words = {
        (one["column"], one["about"]): [value["value"] for value in one["values"]]
        for one in found["makeup"]["words"]
    }
    assert words == {
        ("url", "domain"): ["a.example"],
        **{(name, name): sorted(values[name]) for name in ("url", "domain", "source", "language")},
    }
    edges = {
        (one["column"], one["about"]): (one["edges"][0], one["edges"][-1])
        for one in found["makeup"]["numbers"]
    }
    assert edges["aspect_ratio", "aspect_ratio"] == (7.5, 8.5)
    assert edges["caption_words", "caption_words"] == (1.5, 2.5)
    assert edges["caption", "caption_words"] == (1.0, 3.0)


def test_one_sample_and_nobody_kept(tmp_path):
    report = made(tmp_path, samples(1), [{"where": "score > 2"}], report={"columns": ["aesthetic"]})
    found = report["makeup"]
    assert found["shifts"] == []
    assert numbers_of(found, "aesthetic")["missing"] == [1, 0]
    assert "Nothing was kept, so there is no subset" in render(report, {})


def test_a_pool_without_rows_has_no_section(run):
    facts = facts_of(run)
    pool = replace(facts.pool, table=facts.pool.table.with_columns(rows=pl.lit(0, pl.Int64)))
    found = makeup(replace(facts, pool=pool), LocalRunner())
    assert found == {"words": [], "numbers": [], "shifts": [], "scores": []}
    assert page_of({"makeup": found, "totals": {"kept": 0, "usable": 0}}) is None


def test_strangers_values_are_written_out_in_page_and_charts(run):
    report = json.loads((run.work / "report" / "report.json").read_text())
    page = render(report, {})
    assert "⟨U+202E⟩evil⟨U+2066⟩ &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "⟨U+202E⟩evil⟨U+2066⟩ \\u003cscript\\u003e" in page  # the data of a chart
    assert not set(page) & {"\u202e", "\u2066"}
    assert "<script>alert" not in page


def test_two_values_cut_to_the_same_beginning_have_bars_of_their_own(section):
    section = json.loads(json.dumps(section))
    topic = words_of(section, "topic")
    for number, one in enumerate(topic["values"][:2]):
        one["value"] = "same " * 30 + str(number)
    shown = page_of({"makeup": section, "totals": {"kept": 1, "usable": 2}})
    [words] = [one for one in shown["words"] if one["about"] == "topic"]
    names = [value["name"] for value in words["drawn"]]
    assert len(set(names)) == len(names)


def test_numbers_of_the_page_are_those_of_the_report(run):
    report = json.loads((run.work / "report" / "report.json").read_text())
    report["makeup"]["shifts"] = [
        {**report["makeup"]["shifts"][0], "pool": 0.1234, "kept": 0.5678, "hardest": "english"}
    ]
    page = render(report, {})
    for text in ("12.3 %", "56.8 %", "+44.4 pp"):
        assert text in page
