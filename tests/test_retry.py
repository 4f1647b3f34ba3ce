"""Downloads in a pipeline: failures counted, fetched again on request, nothing computed twice."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from curate import ledger
from curate.pipeline import Options, run
from curate.pipeline_file.config import load
from curate.subsets import subset
from tests.picture_server import Answer, picture_server, truncated


def jpeg(number: int) -> bytes:
    values = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).resize((90, 80)).save(stream, "JPEG")
    return stream.getvalue()


def pipeline(folder: Path, urls: list[str | None], **fields) -> Path:
    pl.DataFrame(
        {"url": urls, "caption": [f"picture number {n} of many" for n in range(len(urls))]},
        schema={"url": pl.String, "caption": pl.String},
    ).write_parquet(folder / "urls.parquet")
    recipe = {
        "name": "retry",
        "work": str(folder / "work"),
        "pool": {"urls": str(folder / "urls.parquet")},
        "steps": [
            {"caption": {"min_words": 2}},
            {"download": {"allow_private_addresses": True, "timeout_s": 2}},
            {"image_file": {}},
            {"write": {"samples_per_shard": 5}},
        ],
        "run": {"download": {"threads": 4}},
        **fields,
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def go(file: Path, **options):
    return run(load(str(file)), Options(**options), lambda progress: None)


def fates(work: Path) -> dict[str, str | None]:
    """{url: reason} of every row."""
    pool = pl.read_parquet(work / "pool" / "block-0000.parquet")
    return dict(zip(pool["url"], ledger.read_ledger(str(work), 0)["reason"], strict=True))


def test_failed_urls_are_fetched_again_and_nothing_else(tmp_path):
    bodies = {f"/{n}.jpg": jpeg(n) for n in range(12)}
    flaky = {path: Answer(bodies[path], failures=1) for path in ("/3.jpg", "/7.jpg")}
    answers = {**bodies, **flaky, "/11.jpg": Answer(status=404)}
    with picture_server(answers) as server:
        file = pipeline(tmp_path, [server.url(path) for path in bodies])
        work = tmp_path / "work"
        first = go(file)
        assert first.report["totals"]["kept"] == 9
        assert fates(work)[server.url("/3.jpg")] == "http_503"
        scored = {p: p.read_bytes() for p in (work / "features" / "image_file").glob("*.parquet")}

        assert go(file).reused == "everything"  # without being asked, nothing is fetched again
        with pytest.raises(Exception, match="--recompute write"):
            go(file, failed="retry")  # the selection grew: what was written is stale
        assert server.hits["/0.jpg"] == 1
        assert server.hits["/3.jpg"] == 2
        assert server.hits["/11.jpg"] == 2
        assert go(file, recompute=("write",)).report["totals"]["kept"] == 11

    found = fates(work)
    assert {url for url, reason in found.items() if reason} == {server.url("/11.jpg")}
    parts = sorted(p.name for p in (work / "download" / "000").glob("*.tar"))
    assert parts == ["00000-r1.tar", "00000.tar"]
    for path, before in scored.items():  # old rows kept their values, new ones were added
        after = pl.read_parquet(path)
        assert after.height == 11
        assert pl.read_parquet(io.BytesIO(before)).join(after, on="row").height == 9
    written = {}
    for tar in sorted((work / "shards").glob("*.tar")):
        with tarfile.open(tar) as members:
            for member in members:
                written[member.name] = members.extractfile(member).read()
    assert {b for name, b in written.items() if name.endswith(".jpg")} == {
        bodies[path] for path in bodies if path != "/11.jpg"
    }


def test_every_bad_url_has_its_own_reason_and_takes_nothing_with_it(tmp_path):
    good = jpeg(1)
    answers = {
        "/good.jpg": good,
        "/cut.jpg": truncated(good),
        "/page.jpg": b"<html>not found</html>",
        "/half.jpg": good[: len(good) // 2],
        "/500.jpg": Answer(status=500),
        "/endless.jpg": Answer(good, endless=True),
    }
    with picture_server(answers) as server:
        urls = [server.url(path) for path in answers]
        urls += [server.url("/none.jpg"), "file:///etc/passwd", "ftp://h/a.jpg", "", None]
        urls += ["http://169.254.169.254/latest/meta-data", "nonsense"]
        file = pipeline(tmp_path, urls)
        report = go(file).report
    reasons = fates(tmp_path / "work")
    assert reasons.pop(server.url("/good.jpg")) is None
    assert all(reasons.values()), reasons
    assert reasons["file:///etc/passwd"] == reasons["ftp://h/a.jpg"] == "refused_scheme"
    assert reasons["http://169.254.169.254/latest/meta-data"] == "refused_address"
    assert reasons[server.url("/none.jpg")] == "http_404"
    assert reasons[server.url("/cut.jpg")] == "truncated_body"
    assert reasons[None] == "no_url"
    assert report["totals"]["kept"] == 1
    assert len(subset.load(str(tmp_path / "work" / "subset.npy"))) == 1


def test_loopback_is_refused_unless_the_recipe_allows_it(tmp_path):
    with picture_server({"/a.jpg": jpeg(0)}) as server:
        file = pipeline(tmp_path, [server.url("/a.jpg")])
        text = file.read_text().replace("allow_private_addresses: true", "retries: 0")
        file.write_text(text)
        assert go(file).report["totals"]["kept"] == 0
        assert not server.hits
    assert set(fates(tmp_path / "work").values()) == {"refused_address"}


def test_the_second_time_may_be_more_patient(tmp_path):
    with picture_server({"/a.jpg": Answer(jpeg(0), failures=2)}) as server:
        file = pipeline(tmp_path, [server.url("/a.jpg")])
        assert go(file).report["totals"]["kept"] == 0
        file.write_text(file.read_text().replace("timeout_s: 2", "timeout_s: 5\n    retries: 2"))
        go(file, failed="retry", recompute=("write",))
    assert fates(tmp_path / "work") == {server.url("/a.jpg"): None}


def test_widening_a_filter_downloads_only_what_is_new(tmp_path):
    bodies = {f"/{n}.jpg": jpeg(n) for n in range(6)}
    with picture_server(bodies) as server:
        file = pipeline(tmp_path, [server.url(path) for path in bodies])
        steps = yaml.safe_load(file.read_text())
        steps["steps"].insert(1, {"where": "caption not like 'picture number 2%'"})
        narrow = tmp_path / "narrow.yaml"
        narrow.write_text(yaml.safe_dump(steps))
        assert go(narrow).report["totals"]["kept"] == 5
        with pytest.raises(Exception, match="--recompute write"):
            go(file)
        assert set(server.hits.values()) == {1}
        assert server.hits["/2.jpg"] == 1
    tar = tmp_path / "work" / "download" / "000" / "00000-r1_stats.json"
    assert json.loads(tar.read_text())["successes"] == 1
