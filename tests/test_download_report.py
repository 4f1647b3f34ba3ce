"""What became of URLs, by failure, host and source; and who was lost to failed work of our own."""

import io
import json
from collections import Counter

import polars as pl
import pytest
from picture_server import Answer, picture_server, truncated
from PIL import Image
from test_laws import GREEDY
from test_report import Backwards, facts_of
from tiny_pool import Reported, ledger_of

from curate import chance
from curate.page.downloads import downloads as page_of
from curate.page.render import render
from curate.report import frequent
from curate.report.downloads import downloads
from curate.report.losses import losses
from curate.report.schema import Downloads, Loss
from curate.runner import LocalRunner
from curate.sample import parse_uids

ROWS = 60
HOSTILE = "http://\u202e<b>evil.invalid/"


def url_of(server, number: int) -> str | None:
    """Most pictures come; some hosts do not answer, some say no, some are none."""
    if number % 20 == 7:
        return None
    if number % 15 == 4:
        return f"{HOSTILE}{number}"
    url = server.url(f"/{number}.jpg")
    return url.replace("127.0.0.1", "LOCALHOST") if number % 4 == 1 else url


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("download")
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(picture, "JPEG")
    whole = picture.getvalue()
    answers = {f"/{n}.jpg": whole for n in range(ROWS)}
    answers |= {f"/{n}.jpg": Answer(status=404) for n in range(0, ROWS, 7)}
    answers |= {f"/{n}.jpg": truncated(whole) for n in range(5, ROWS, 9)}
    with picture_server(answers) as server:
        frame = pl.DataFrame(
            {
                "url": [url_of(server, n) for n in range(ROWS)],
                "caption": [f"a teal thing {n}" if n % 6 else "x" for n in range(ROWS)],
            }
        )
        pool = []
        for name, part in (("first", frame[:45]), ("second", frame[45:])):
            part.write_parquet(folder / f"{name}.parquet")
            source = {"name": name, "urls": str(folder / f"{name}.parquet"), "rows_per_shard": 9}
            pool.append(source)
        steps = [
            {"caption": {"min_words": 2}},
            {"download": {"allow_private_addresses": True}},
            {"image_size": {"min_side": 10}},
        ]
        pipeline = Reported(folder, pool, steps).where(rows_per_block=20)
        pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def section(run) -> dict:
    return json.loads((run.work / "report" / "report.json").read_text())["downloads"]


@pytest.fixture(scope="module")
def asked(run) -> list[dict]:
    """Who was asked for: uid, url, source, and what came of it (None: the picture)."""
    pool = pl.concat(
        pl.read_parquet(run.folder / f"{name}.parquet").with_columns(source=pl.lit(name))
        for name in ("first", "second")
    )
    ledger = ledger_of(run.work).filter(pl.col("step").fill_null("") != "caption")
    numbers = pl.read_parquet(sorted((run.work / "pool").glob("block-*.parquet")))
    uids = [f"{hi:016x}{lo:016x}" for hi, lo in numbers.select("uid_hi", "uid_lo").iter_rows()]
    known = dict(zip(uids, numbers.select("url", "caption").rows(), strict=True))
    sources = {(url, caption): name for url, caption, name in pool.rows()}
    rows = []
    for uid, step, reason in ledger.select("uid", "step", "reason").iter_rows():
        rows.append(
            {
                "url": known[uid][0],
                "source": sources[known[uid]],
                "failure": reason if step == "download" else None,
            }
        )
    return rows


def host(url: str | None) -> str | None:
    if url is None:
        return None
    return next(h for h in ("127.0.0.1", "localhost", "evil.invalid") if h in url.lower())


def check(said: dict, own: list[dict]) -> None:
    assert said["asked"] == len(own) > 0
    assert said["success"] == sum(row["failure"] is None for row in own)
    failures = Counter(row["failure"] for row in own if row["failure"])
    most = max(failures.values(), default=0)
    commonest = sorted(kind for kind, rows in failures.items() if rows == most)
    assert said["failure"] == (commonest[0] if failures else None)


def test_urls_are_counted_by_kind_of_failure(section, asked):
    assert section["step"] == "download"
    assert section["asked"] == len(asked) == 50
    kinds = Counter(row["failure"] for row in asked if row["failure"])
    assert section["kinds"] == dict(kinds)
    assert len(kinds) > 3
    assert section["success"] == len(asked) - sum(kinds.values()) > 20


def test_urls_are_counted_by_host(section, asked):
    found = {one["name"]: one for one in section["domains"]}
    by_host = {None: None, "127.0.0.1": "127.0.0.1", "localhost": "localhost"}
    for name, said in found.items():
        own = "evil.invalid" if name is not None and "evil" in name else by_host[name]
        check(said, [row for row in asked if host(row["url"]) == own])
    assert len(found) == 4
    assert section["domains_asked"] == 3
    assert section["domains_exact"]


def test_urls_are_counted_by_source(section, asked):
    for said in section["sources"]:
        check(said, [row for row in asked if row["source"] == said["name"]])
    assert [said["name"] for said in section["sources"]] == ["first", "second"]


def test_it_is_what_its_schema_says_in_any_order(run, section):
    Downloads.model_validate(section)
    assert json.loads(json.dumps(downloads(facts_of(run), Backwards()))) == section


def test_sizes_are_those_of_pictures_that_came(run, section):
    report = json.loads((run.work / "report" / "report.json").read_text())
    [size] = [one for one in report["makeup"]["numbers"] if one["about"] == "smaller_side"]
    assert size["since"] == "download"
    assert size["steps"] == ["image_size"]
    assert (size["edges"], size["reached"][0]) == ([28.0, 32.0], [section["success"]])
    assert size["missing"] == [0, 0]


def test_too_many_hosts_to_hold_by_name_are_counted_as_exactly(run, section, monkeypatch):
    monkeypatch.setattr(frequent, "MOST", 2)
    monkeypatch.setattr(frequent, "BUCKETS", 1 << 12)
    found = json.loads(json.dumps(downloads(facts_of(run), LocalRunner(2))))
    assert found == {**section, "domains_asked": None}


def test_the_page_says_it_and_how_to_ask_again(run, section):
    report = json.loads((run.work / "report" / "report.json").read_text())
    page = render(report, {})
    assert "--retry-failed" in page
    assert f"<b>{section['success']}</b> of 50 URLs gave a picture" in page
    assert "⟨U+202E⟩&lt;b&gt;evil.invalid" in page
    assert "\u202e" not in page
    assert "<b>evil" not in page


def test_nothing_that_was_asked_for(tmp_path):
    frame = {"url": ["http://h/1"], "caption": ["x"]}
    pl.DataFrame(frame).write_parquet(tmp_path / "urls.parquet")
    steps = [{"caption": {"min_words": 2}}, {"download": {}}]
    pipeline = Reported(tmp_path, {"urls": str(tmp_path / "urls.parquet")}, steps, fields=())
    pipeline.run()
    report = json.loads((pipeline.work / "report" / "report.json").read_text())
    found = report["downloads"]
    Downloads.model_validate(found)
    assert (found["asked"], found["success"], found["kinds"], found["domains"]) == (0, 0, {}, [])
    assert found["sources"] == [{"name": "pool", "asked": 0, "success": 0, "failure": None}]
    assert "No URL was asked for." in render(report, {})
    assert page_of({"downloads": None}) is None


def test_losses_have_examples_by_uid_hash_and_a_remedy(tmp_path):
    (tmp_path / "greedy.py").write_text(GREEDY)
    texts = [f"caption {n}" for n in range(40)]
    texts[25] = "bad"
    urls = [f"http://h/{n}" for n in range(40)]
    pl.DataFrame({"url": urls, "caption": texts}).write_parquet(tmp_path / "urls.parquet")
    pool = {"urls": str(tmp_path / "urls.parquet"), "rows_per_shard": 10, "order": "as_listed"}
    steps = [{"greedy": {"bad": "bad"}}, {"where": "greedy.length > 3"}]
    fields = {"plugins": ["./greedy.py"], "rows_per_block": 10}
    pipeline = Reported(tmp_path, pool, steps).where(
        **fields, run={"engine": "local", "error_budget": {"greedy": 0.5}}
    )
    assert pipeline.run().exit_code == 3
    report = json.loads((pipeline.work / "report" / "report.json").read_text())
    lost = ledger_of(pipeline.work).filter(pl.col("fate") == "lost")
    [section] = report["losses"]
    Loss.model_validate(section)
    assert (section["step"], section["kind"]) == ("greedy", "out_of_memory")
    assert section["rows"] == lost.height == report["totals"]["lost"] == 10
    draws = chance.uniform(0, "report", parse_uids(lost["uid"].to_list()), "greedy")
    first = lost.with_columns(pl.Series("draw", draws)).sort("draw", "uid")["uid"].head(5)
    assert [sample["uid"] for sample in section["examples"]] == first.to_list()
    assert {sample["removed_by"] for sample in section["examples"]} == {"greedy"}
    assert "curate run" in section["remedy"]
    again = losses(facts_of(pipeline), Backwards())
    assert json.loads(json.dumps(again)) == [section]
    page = render(report, {})
    assert 'id="losses"' in page
    assert section["examples"][0]["caption"] in page


def test_a_run_that_lost_nobody_has_no_losses(run):
    assert losses(facts_of(run), LocalRunner()) == []
    report = json.loads((run.work / "report" / "report.json").read_text())
    assert 'id="losses"' not in render(report, {})
