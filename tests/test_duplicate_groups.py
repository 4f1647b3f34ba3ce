"""Groups of duplicates in a report: those of the ledger, and how alike their samples are."""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from embedding_pool import Embedded, embed, unit
from tiny_pool import Reported, ledger_of

from curate.page.render import render
from curate.report.duplicates import duplicates
from curate.report.reading import read_facts
from curate.report.schema import Duplicates
from curate.runner import LocalRunner

COUNT = 260
STEPS = (
    {"exact_duplicates": {"name": "same_text", "by": ["text_of"], "keep": {"highest": "a"}}},
    {"hash_neighbours": {"of": "h", "mirrored": "m", "radius": 6}},
    {"near_duplicates": {"distance": 4, "keep": {"highest": "a"}}},
    {"neighbours": {"of": "l14_img", "floor": 0.8}},
    {"semantic_duplicates": {"threshold": 0.9, "keep": {"lowest": "a"}}},
    {"where": {"name": "late", "sql": "b > -5"}},
)
FILTERS = ("same_text", "near_duplicates", "semantic_duplicates")


def samples() -> Embedded:
    """Equal texts, hashes near each other (upright or mirrored), embeddings near each other."""
    rng = np.random.default_rng(5)
    own = embed(COUNT, 16, 5)
    image = own.image.astype(np.float64)
    hashes = rng.integers(0, 2**63, COUNT, dtype=np.uint64)
    mirrored = rng.integers(0, 2**63, COUNT, dtype=np.uint64)
    for row in rng.permutation(COUNT)[:120].tolist():
        other = int(rng.integers(12))
        flips = np.uint64(sum(1 << int(bit) for bit in rng.integers(0, 64, rng.integers(4))))
        hashes[row], mirrored[row] = hashes[other] ^ flips, mirrored[other] ^ flips
        if rng.random() < 0.4:
            hashes[row], mirrored[row] = mirrored[row], hashes[row]
    for row in rng.permutation(COUNT)[:120].tolist():
        image[row] = image[rng.integers(20)] + rng.normal(size=16) * rng.uniform(0, 0.1)
    texts = [f"thing {number}" for number in rng.integers(0, 150, COUNT)]
    texts[-60:] = ["the same"] * 60
    uids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(COUNT)]
    frame = own.frame.with_columns(
        uid=pl.Series(uids), text_of=pl.Series(texts), h=hashes, m=mirrored
    )
    return Embedded(frame, unit(image).astype(np.float16), own.text)


SAMPLES = samples()


def finished(folder: Path, pool: Embedded, files: int, rows_per_block: int) -> Reported:
    written = pool.write(folder / "pool", files)
    pipeline = Reported(folder, written, STEPS, fields=(("rows_per_block", rows_per_block),))
    assert pipeline.run().exit_code == 0
    return pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    return finished(tmp_path_factory.mktemp("run"), SAMPLES, 3, 100)


@pytest.fixture(scope="module")
def found(run) -> list[dict]:
    return duplicates(read_facts(str(run.work)), LocalRunner())


def groups_of(run: Reported, step: str) -> dict[str, list[str]]:
    """{uid that stayed: uids that went for it}, of the ledger."""
    groups = defaultdict(list)
    own = ledger_of(run.work).filter(pl.col("step") == step, pl.col("because").is_not_null())
    for uid, because in own.select("uid", "because").iter_rows():
        groups[because].append(uid)
    return groups


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_groups_are_those_of_the_ledger(run, found, number):
    own = found[number]
    assert own["step"] == FILTERS[number]
    groups = groups_of(run, own["step"])
    assert own["groups"] == len(groups) > 8
    assert own["removed"] == sum(map(len, groups.values()))
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:100]
    told = [
        (group["kept"]["uid"], [sample["uid"] for sample in group["removed"]], group["size"])
        for group in own["largest"]
    ]
    assert told == [(uid, sorted(gone)[:5], len(gone) + 1) for uid, gone in ordered]
    fates = dict(ledger_of(run.work).select("uid", "step").iter_rows())
    for group in own["largest"]:
        assert group["kept"]["removed_by"] == fates[group["kept"]["uid"]] != own["step"]
        assert {sample["removed_by"] for sample in group["removed"]} == {own["step"]}


def test_one_that_stayed_and_went_later_is_shown(found):
    later = {group["kept"]["removed_by"] for own in found for group in own["largest"]}
    assert {"near_duplicates", "semantic_duplicates", "late", None} <= later


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_sizes_are_counted_in_bins(run, found, number):
    sizes = Counter()
    for gone in groups_of(run, FILTERS[number]).values():
        size = len(gone) + 1
        low = next(low for low in (2, 3, 4, 8, 16, 32, 64) if size <= low)
        sizes[str(size) if size <= 4 else f"{low // 2 + 1}-{low}"] += 1
    assert found[number]["sizes"] == dict(sizes)


def test_cosines_are_those_of_the_embeddings(found):
    rows = {uid: row for row, uid in enumerate(SAMPLES.frame["uid"])}
    vectors = SAMPLES.image.astype(np.float64)
    own = found[2]
    assert (own["unit"], own["of"]) == ("cosine", ["l14_img"])
    for group in own["largest"]:
        one = vectors[rows[group["kept"]["uid"]]]
        for sample, told in zip(group["removed"], group["similarity"], strict=True):
            other = vectors[rows[sample["uid"]]]
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert told == pytest.approx(cosine, abs=2e-6)
            assert told > 0.9 - 1e-5


def test_bits_are_those_in_which_hashes_differ_mirrored_ones_too(found):
    columns = SAMPLES.frame.select("uid", "h", "m").rows()
    hashes = {uid: (hash_, mirrored) for uid, hash_, mirrored in columns}
    own = found[1]
    assert (own["unit"], own["of"]) == ("bits", ["h", "m"])
    upright = 0
    for group in own["largest"]:
        hash_, mirrored = hashes[group["kept"]["uid"]]
        for sample, told in zip(group["removed"], group["similarity"], strict=True):
            other, other_mirrored = hashes[sample["uid"]]
            pairs = ((hash_, other), (mirrored, other), (hash_, other_mirrored))
            distances = [(one ^ two).bit_count() for one, two in pairs]
            assert told == min(distances) <= 4
            upright += distances[0] == told
    assert 0 < upright < own["removed"]


def test_exact_duplicates_have_no_likeness(found):
    assert (found[0]["unit"], found[0]["of"]) == (None, ["text_of"])
    assert {value for group in found[0]["largest"] for value in group["similarity"]} == {None}


def test_what_is_said_is_of_the_schema(found):
    for own in found:
        Duplicates.model_validate(json.loads(json.dumps(own)))


class Backwards(LocalRunner):
    """Gives results in another order, as many workers would."""

    def map(self, work, items, label):
        return iter([work(item) for item in reversed(list(items))])


def test_groups_do_not_depend_on_order_files_or_blocks(run, found, tmp_path):
    work = str(run.work)
    assert duplicates(read_facts(work), Backwards()) == found
    assert not (run.work / "report" / "groups").exists()
    order = np.random.default_rng(0).permutation(COUNT)
    other = finished(tmp_path, SAMPLES[order], 5, 40)
    told = duplicates(read_facts(str(other.work)), LocalRunner())
    assert without_places(told) == without_places(found)


def without_places(value):
    """The same without where samples lie."""
    if isinstance(value, dict):
        return {k: without_places(v) for k, v in value.items() if k not in ("shard", "row")}
    return [without_places(each) for each in value] if isinstance(value, list) else value


def test_groups_are_counted_in_parts_where_there_are_many(run, found, monkeypatch):
    module = sys.modules["curate.report.duplicates"]  # the function has its name
    monkeypatch.setattr(module, "partitions", lambda rows, width: 7)
    assert duplicates(read_facts(str(run.work)), LocalRunner()) == found


def test_the_page_shows_groups_side_by_side(run, found):
    report = json.loads((run.work / "report" / "report.json").read_text())
    assert report["duplicates"] == found
    page = render(report, {})
    section = page.split('<section id="duplicates">')[1].split("</section>")[0]
    assert section.count('<ul class="alike') == sum(len(own["largest"]) for own in found)
    assert section.count('class="stayed"') == sum(len(own["largest"]) for own in found)
    folded = sum(len(own["largest"]) > 12 for own in found)
    assert section.count('<details class="fold"') == folded > 0
    assert f"{max(group['size'] for group in found[0]['largest'])}</b> alike" in section


def test_uids_that_repeat_are_shown_once_each(tmp_path):
    pool = embed(8, 16).with_columns(
        uid=pl.Series([f"{7 if row < 4 else row:032x}" for row in range(8)]),
        text_of=pl.Series(["same"] * 4 + [str(row) for row in range(4)]),
        place=pl.Series(range(8)),
    )
    written = pool.write(tmp_path / "pool")
    first = {"where": {"name": "first", "sql": "place > 0"}}  # it has the uid, and nothing stays
    steps = [first, {"exact_duplicates": {"by": ["text_of"]}}]
    pipeline = Reported(tmp_path, written, steps)
    pipeline.run()
    [own] = duplicates(read_facts(str(pipeline.work)), LocalRunner())
    [group] = own["largest"]
    assert (own["groups"], own["removed"], group["size"]) == (1, 2, 3)
    assert (group["kept"]["row"], group["kept"]["removed_by"]) == (1, None)
    assert [sample["row"] for sample in group["removed"]] == [2, 3]


def test_no_duplicates_and_no_survivors(tmp_path):
    written = embed(6, 16).write(tmp_path / "pool")
    none = {"where": {"name": "none", "sql": "a > 99"}}
    exact = [{"exact_duplicates": {"name": name, "by": ["url"]}} for name in ("one", "two")]
    pipeline = Reported(tmp_path, written, [exact[0], none, exact[1]])
    pipeline.run()
    found = duplicates(read_facts(str(pipeline.work)), LocalRunner())
    assert [(own["groups"], own["removed"], own["sizes"], own["largest"]) for own in found] == [
        (0, 0, {}, [])
    ] * 2
    page = (pipeline.work / "report" / "index.html").read_text()
    assert page.count("It found no duplicates.") == 2
