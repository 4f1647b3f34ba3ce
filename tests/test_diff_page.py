"""The page of a comparison in a real browser."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pool import Reported, draw, tar_pool, write_shards
from visits import CAPTIONS, HIT, Visit, is_well, visit

from curate.comparison.command import Asked, diff
from curate.page.texts import count
from curate.runner import LocalRunner


def steps(score: float, side: int) -> list[dict]:
    return [
        {"caption": {"min_words": 2}},
        {"image_file": {}},
        {"image_size": {"min_side": side}},
        {"clip_score": {"column": "score", "at_least": score}},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diff-page")
    drawn = draw(160)
    for number in range(0, 160, 3):
        hostile = CAPTIONS[number // 3 % len(CAPTIONS)]
        drawn[number] = replace(drawn[number], caption=f"{hostile} {number}")
    write_shards(folder / "in", drawn, 2)
    for name, score, side in (("high", 0.4, 31), ("wide", 0.1, 38)):
        Reported(folder / name, tar_pool(folder / "in"), steps(score, side)).run()
    works = (str(folder / name / "work") for name in ("high", "wide"))
    diff(*works, Asked(out=str(folder / "out")), LocalRunner())
    return folder / "out"


@pytest.fixture(scope="module")
def report(folder) -> dict:
    return json.loads((folder / "diff.json").read_text())


@pytest.fixture(scope="module")
def opened(browser, folder) -> Iterator[Visit]:
    with visit(browser, folder / "index.html") as found:
        yield found


def test_it_opens_from_disk_with_the_network_cut(browser, folder):
    with visit(browser, folder / "index.html") as found:
        assert found.page.locator("[data-chart]").count() >= 2
        is_well(found, folder / "index.html")


def test_what_is_in_both_and_in_one_is_said_as_in_the_file(opened, report):
    sets = report["sets"]
    for place, name in (("both", "both"), ("only-a", "only_a"), ("only-b", "only_b")):
        assert count(sets[f"uids_{'in_' if name == 'both' else ''}{name}"]) in " ".join(
            opened.texts(f"[data-of={place}]")
        )


def test_samples_of_each_side_are_those_of_the_file(opened, report):
    shown = set(opened.texts("dl code"))
    told = {sample["uid"] for gallery in report["galleries"] for sample in gallery["samples"]}
    assert len(told) > 8
    assert told <= shown


def test_captions_of_strangers_are_read_and_not_run(opened):
    captions = " ".join(opened.texts("p.caption"))
    assert f"<script>{HIT}</script>" in captions
    assert "onerror" in captions
    assert opened.page.evaluate("window.hit") is None
