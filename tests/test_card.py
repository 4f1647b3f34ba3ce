"""`curate card`: what the hub reads, numbers that are the report's, strangers' texts inert."""

import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from embedding_pool import embed
from huggingface_hub import DatasetCard
from tiny_pool import STEPS, Reported, draw, ledger_of, tar_pool, write_shards
from typer.testing import CliRunner

from curate import cli
from curate.card import card, write_card
from curate.card.front_matter import size_category
from curate.card.markdown import block, code, plain, table
from curate.errors import ConfigError
from curate.report.schema import Report

EVIL = (
    "<script>alert(1)</script> | `x` ![a](http://e/x.png) [b](javascript:c) \x1b[2J \u202e\n# top"
)
CC = "https://creativecommons.org/licenses/by-sa/4.0/"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("run")
    drawn = [
        replace(one, metadata={**one.metadata, "license": CC, "source": f"{EVIL} {n % 2}"})
        for n, one in enumerate(draw(120))
    ]
    write_shards(folder / "in", drawn, 3)
    report = {"columns": ["source"]}
    pipeline = Reported(folder, tar_pool(folder / "in"), STEPS).where(report=report)
    pipeline.run()
    return pipeline


def card_of(pipeline: Reported, out: str | None = None) -> str:
    written = write_card(str(pipeline.work), out)
    return Path(written.url).read_text(encoding="utf-8")


def report_of(pipeline: Reported) -> dict:
    return json.loads((pipeline.work / "report" / "report.json").read_text())


def tables(text: str) -> dict[tuple[str, ...], list[list[str]]]:
    """{heads of a table: its rows}, as GitHub's Markdown divides cells."""
    found: dict[tuple[str, ...], list[list[str]]] = {}
    heads: tuple[str, ...] | None = None
    for line in text.splitlines():
        if not line.startswith("| "):
            heads = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if heads is None:
            heads = tuple(cells)
            found[heads] = []
        elif set("".join(cells)) != {"-"}:
            assert len(cells) == len(heads), line
            found[heads].append(cells)
    return found


def test_the_hub_reads_its_front_matter(run):
    text = card_of(run)
    data = DatasetCard(text, ignore_metadata_errors=False).data.to_dict()
    kept = int((ledger_of(run.work)["fate"] == "kept").sum())
    assert 0 < kept < 1000
    assert data["size_categories"] == ["n<1K"]
    assert data["license"] == "cc-by-sa-4.0"
    assert "license_name" not in data
    assert data["pretty_name"] == "tiny"
    assert "zero-shot-image-classification" in data["task_categories"]
    assert "webdataset" in data["tags"]
    [config] = data["configs"]
    assert config["data_files"] == [{"split": "train", "path": "*.tar"}]
    assert list((run.work / "shards").glob("*.tar"))
    assert text.count("\n---\n") == 1


def test_every_step_stands_there_with_the_reports_numbers(run):
    found = tables(card_of(run))
    [steps] = [rows for heads, rows in found.items() if heads[:3] == ("step", "kind", "in")]
    told = [
        (row[0].strip("`"), *(int(cell.replace(",", "")) for cell in row[2:6])) for row in steps
    ]
    assert told == [
        (s["name"], s["in"], s["kept"], sum(s["removed"].values()), sum(s["lost"].values()))
        for s in report_of(run)["steps"]
    ]
    [removals] = [rows for heads, rows in found.items() if heads[:2] == ("step", "reason")]
    by_reason = {(row[0].strip("`"), row[1].strip("`")): row[3] for row in removals}
    gone = ledger_of(run.work).filter(pl.col("fate") == "removed")
    for (step, reason), rows in gone.group_by(["step", "reason"]):
        if step != "pool":
            assert by_reason[step, reason] == f"{rows.height:,}"


def test_shifts_are_those_of_the_report(run):
    shifts = report_of(run)["makeup"]["shifts"]
    text = card_of(run)
    [rows] = [r for heads, r in tables(text).items() if heads[:2] == ("column", "value")]
    assert len(rows) == min(15, len(shifts)) > 0
    change = 100 * (shifts[0]["kept"] - shifts[0]["pool"])
    assert rows[0][4] in (f"{change:+.1f} pp", f"{'+' if change > 0 else '-'}<0.1 pp")
    assert rows[0][5] == f"`{shifts[0]['hardest']}`"


def test_the_pipeline_stands_there_whole(run, tmp_path):
    text = card_of(run)
    inside = re.search(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
    assert yaml.safe_load(inside) == yaml.safe_load((run.work / "pipeline.yaml").read_text())


def test_again_it_is_the_same_and_says_so(run):
    first = card_of(run)
    again = write_card(str(run.work))
    assert again.before == "the same"
    assert card_of(run) == first
    printed = CliRunner().invoke(cli.app, ["card", str(run.work)])
    assert "README.md was up to date" in printed.output


def test_a_card_of_another_report_is_told_and_renewed(run, tmp_path):
    out = tmp_path / "README.md"
    text = card_of(run, str(out))
    out.write_text(text.replace("report.json ", "report.json 0"))
    assert write_card(str(run.work), str(out)).before == "older"
    assert out.read_text() == text


def test_a_file_of_the_user_is_left_alone(run, tmp_path):
    out = tmp_path / "README.md"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="was not made by `curate card`"):
        write_card(str(run.work), str(out))
    assert out.read_text() == "mine"


def body_of(text: str) -> str:
    """Without front matter and fenced blocks."""
    whole = text.split("\n---\n", 1)[1]
    return re.sub(r"^```\w+$.*?^```$", "", whole, flags=re.DOTALL | re.MULTILINE)


def test_strangers_values_are_no_markup(run):
    text = card_of(run)
    body = body_of(text)
    assert "alert" in body
    assert not set(body) & {"\x1b", "\u202e"}
    assert not [line for line in body.splitlines() if line.startswith("# top")]
    outside = re.sub(r"(`+)(?:(?!\1).)*\1", "", body)
    assert "alert" not in outside
    assert "](" not in outside
    assert outside.count("<") == outside.count("<!--") + outside.count("<0.1")


@pytest.mark.parametrize("hostile", [EVIL, "```\nx\n````", "|", "`", "``", " ", "www.e.com", "*a*"])
def test_escapes(hostile):
    shown = code(hostile)
    [line] = shown.splitlines()
    fence = re.match("`*", line)[0]
    assert fence not in line[len(fence) : -len(fence)] if fence else line in ("*empty*", "*none*")
    [(_, rows)] = tables(table(["a"], [[shown]])).items()
    assert len(rows) == 1
    assert not set(plain(hostile)) & set("`*_[]()<>|")
    assert "www." not in plain(hostile)
    whole = block(hostile, "yaml").splitlines()
    assert whole[0].rstrip("yaml") == whole[-1]
    assert whole[-1] not in whole[1:-1]


def test_a_hostile_name_stays_one_value(run):
    found = {**report_of(run), "name": f"---\n{EVIL}"}
    report = Report.model_validate(found)
    text = card(report, {"name": found["name"], "steps": []}, "0" * 64)
    assert DatasetCard(text).data.to_dict()["pretty_name"] == found["name"]
    assert "<script" not in re.sub(r"(`+)(?:(?!\1).)*\1", "", body_of(text))


def test_secrets_of_urls_are_left_out(run):
    pipeline = {
        "pool": [{"urls": ["https://user:word@h/{a,b}.csv?X-Signature=s3cret#x"]}],
        "steps": [{"where": {"sql": "url LIKE 'https://h/?q=%' AND TRUE"}}],
    }
    text = card(Report.model_validate(report_of(run)), pipeline, "0" * 64)
    assert "https://h/{a,b}.csv\n" in text
    assert "word@" not in text
    assert "s3cret" not in text
    assert "https://h/?q=%' AND TRUE" in text
    assert "are left out" in text


def words(column: str, about: str, values: dict, rest: int = 0) -> dict:
    return {
        "column": column, "about": about, "since": "pool", "steps": ["x"], "exact": True,
        "distinct": len(values), "rest": [0, rest],
        "values": [{"value": v, "reached": [n, n]} for v, n in values.items()],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "rest", "expected"),
    [
        ({CC: 9}, 0, "cc-by-sa-4.0"),
        ({"CC BY 4.0": 9}, 0, "cc-by-4.0"),
        ({"http://creativecommons.org/publicdomain/zero/1.0/": 9}, 0, "cc0-1.0"),
        ({CC: 9, "mit": 1}, 0, "other"),
        ({CC: 9, None: 1}, 0, "other"),
        ({CC: 9, "mit": 0}, 0, "cc-by-sa-4.0"),
        ({CC: 9}, 1, "other"),
        ({"all rights reserved": 9}, 0, "other"),
        ({None: 9}, 0, "other"),
        ({}, 0, "other"),
    ],
)
def test_a_licence_is_named_where_all_samples_have_it(run, values, rest, expected):
    found = report_of(run)
    found["makeup"]["words"] = [words("license", "licence", values, rest)]
    text = card(Report.model_validate(found), {"steps": []}, "0" * 64)
    data = DatasetCard(text).data.to_dict()
    assert data["license"] == expected
    assert ("Who publishes the dataset must replace it" in text) == (expected == "other")


def test_languages_are_those_of_one_sample_in_a_hundred(run):
    found = report_of(run)
    kept = found["totals"]["kept"]
    assert kept > 10
    shares = {"en": kept, "deu_Latn": kept, "x": kept, None: kept, "no such": kept, "fr": 0}
    found["makeup"]["words"] = [words("language.code", "language", shares)]
    text = card(Report.model_validate(found), {"steps": []}, "0" * 64)
    assert DatasetCard(text).data.to_dict()["language"] == ["deu", "en"]


@pytest.mark.parametrize(
    ("samples", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (12_800_000, "10M<n<100M"),
     (10**9, "1B<n<10B"), (10**12, "n>1T")],
)  # fmt: skip
def test_sizes_are_the_hubs(samples, name):
    assert size_category(samples) == name


def test_metadata_alone_and_nothing_kept(tmp_path):
    pool = embed(20).write(tmp_path / "pool")
    (tmp_path / "entries.txt").write_text("thing\nunseen\n")
    concepts = {"concepts": {"entries": str(tmp_path / "entries.txt")}}
    steps = (concepts, {"where": {"name": "none", "sql": "a > 1000"}})
    pipeline = Reported(tmp_path, {**pool, "arrays": "none"}, steps)
    pipeline.run()
    text = card_of(pipeline)
    assert (pipeline.work / "README.md").is_file()
    assert "configs" not in DatasetCard(text).data.to_dict()
    assert "0 image-text pairs, 0.0 % of a pool of 20" in text
    assert "the selection is `subset.npy`" in text
    [concepts] = [rows for heads, rows in tables(text).items() if heads[0] == "list"]
    assert concepts == [["`concepts`", "2", "1", "0", "100.0 %", "-"]]


def test_an_unfinished_or_foreign_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="no run was finished there"):
        write_card(str(tmp_path))
    manifest = run.work / "manifest.json"
    away = manifest.rename(manifest.with_name("away.json"))
    with pytest.raises(ConfigError, match="is not finished, or its shards are of an older"):
        write_card(str(run.work))
    away.rename(manifest)
    report = run.work / "report" / "report.json"
    whole = report.read_text()
    for change, said in (
        ({"schema": 1}, "has schema 1"),
        ({"seed": 5}, "is another run's"),
        ({"totals": None}, "totals"),
    ):
        report.write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(ConfigError, match=said):
            write_card(str(run.work), str(tmp_path / "x.md"))
    report.write_text(whole)
