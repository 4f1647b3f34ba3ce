"""`curate explain`: every verdict is the ledger's, every number one of the sample's own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from embedding_pool import embed, unit
from metadata_pool import uid as metadata_uid
from metadata_pool import write_metadata
from tiny_pool import Pipeline, draw, ledger_of, tar_pool, write_shards
from typer.testing import CliRunner

from curate import cli
from curate.errors import ConfigError, CurateError, StorageError
from curate.explanation import Explanation, Wish, explain
from curate.explanation.row import Row
from curate.explanation.steps import way
from curate.explanation.text import lines_of
from curate.report.reading import read_facts
from curate.runner import LocalRunner

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
            {"random_sample": {"name": "lucky", "fraction": 0.2, "of": "survivors"}},
        ]
    },
    {"random_sample": {"name": "share", "fraction": 0.9, "of": "survivors"}},
    {"clip_score": {"name": "top", "column": "score", "top_fraction": 0.5, "of": "survivors"}},
    {"write": {"samples_per_shard": 16}},
)
NAMES = ["caption", "image_file", "image_size", "same_url", "floor", "any_of", "share", "top"]
EVIL = "evil \u202egpj.exe \x1b[31m\x1b]0;title\x07 thing \x9b2J"
NOTHING = Wish(write=False)


@pytest.fixture(scope="module")
def samples():
    drawn = draw(240)
    for number in range(0, 240, 50):
        drawn[number] = replace(drawn[number], caption=f"{EVIL} {number}")
    drawn[1] = replace(drawn[1], caption="many words " * 900)
    return drawn


@pytest.fixture(scope="module")
def run(samples, tmp_path_factory) -> Pipeline:
    folder = tmp_path_factory.mktemp("run")
    write_shards(folder / "in", samples, 4)
    pipeline = Pipeline(folder, tar_pool(folder / "in"), STEPS).where(probe=0.2)
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def ledger(run, samples) -> pl.DataFrame:
    scores = [sample.metadata.get("score") for sample in samples]
    return ledger_of(run.work).with_columns(
        pl.Series("number", range(240)), pl.Series("score", scores, dtype=pl.Float64)
    )


def explained(work: Path, asked: str, wish: Wish = NOTHING) -> Explanation:
    return explain(str(work), asked, wish, LocalRunner(1))


def fate_of(found: Explanation, shard: int, row: int):
    [one] = [s for s in found.samples if (s.shard, s.row) == (shard, row)]
    return one


def one_of_each_fate(ledger: pl.DataFrame) -> list[dict]:
    return ledger.unique(["step", "reason"], keep="first", maintain_order=True).to_dicts()


def test_every_verdict_is_that_of_the_ledger(run, ledger):
    facts = read_facts(str(run.work))
    stops = {name: number for number, name in enumerate(NAMES)}
    places = facts.pool.table.select("number", "block", "offset").rows()
    blocks = {number: (block, offset) for number, block, offset in places}
    for told in ledger[::7].to_dicts():
        block, offset = blocks[told["shard"]]
        steps = way(Row(facts, block, offset + told["row"]))
        assert [step.step for step in steps] == [*NAMES, "write"]
        stop = len(steps) if told["step"] is None else stops.get(told["step"], -1)
        expected = ["kept"] * max(stop, 0) + ["removed"] * (0 <= stop < len(steps))
        expected += ["not reached"] * (len(steps) - len(expected))
        assert [step.verdict for step in steps] == expected
        either = steps[NAMES.index("any_of")]
        if either.verdict != "not reached":
            said = {fate.filter: fate.verdict for fate in either.filters}
            assert list(said) == ["wide", "good", "lucky"]
            assert ("kept" in said.values()) == (either.verdict == "kept")
        if 0 <= stop < len(steps):
            assert (steps[stop].reason, steps[stop].because) == (told["reason"], told["because"])


def test_each_fate_is_told_with_all_columns(run, ledger, samples):
    seen = set()
    for told in one_of_each_fate(ledger):
        sample = samples[told["number"]]
        one = fate_of(explained(run.work, told["uid"]), told["shard"], told["row"])
        assert (one.fate, one.removed_by, one.reason) == (
            told["fate"], told["step"], told["reason"],
        )  # fmt: skip
        assert one.pool["caption"] == sample.caption
        assert one.pool["url"] == sample.metadata["url"]
        [feature] = one.features
        later = told["step"] in ("pool", "caption")
        assert feature.state == ("not computed" if later and not one.probe else "computed"), told
        if feature.state == "not computed":
            assert told["step"] in feature.why or told["step"] == "pool"
        seen.add(told["step"])
    assert seen >= {None, "pool", "caption", "image_size", "same_url", "floor", "any_of", "top"}


def rule_of(one, step: str, reason: str, filter_: str | None = None):
    [fate] = [fate for fate in one.steps if fate.step == step]
    [said] = [said for said in fate.filters if said.filter == (filter_ or step)]
    [rule] = [rule for rule in said.rules if rule.reason == reason]
    return rule


@pytest.mark.parametrize("side", ["kept", "removed"])
def test_margins_are_signed_towards_the_kept_side(run, ledger, samples, side):
    of_floor = pl.col("step") == "floor"
    wanted = of_floor & (pl.col("reason") == "below_threshold")
    if side == "kept":
        wanted = pl.col("fate") == "kept"
    told = ledger.filter(wanted).row(0, named=True)
    one = fate_of(explained(run.work, told["uid"]), told["shard"], told["row"])
    low, high = (rule_of(one, "floor", reason) for reason in ("below_threshold", "above_threshold"))
    assert (low.value, low.threshold) == (told["score"], 0.2)
    assert low.margin == pytest.approx(told["score"] - 0.2)
    assert high.margin == pytest.approx(0.95 - told["score"])
    words = rule_of(one, "caption", "too_few_words")
    count = len(samples[told["number"]].caption.split())
    assert (words.value, words.threshold, words.margin) == (count, 2, count - 2)
    small = rule_of(one, "image_size", "too_small")
    assert small.margin == small.value - 31 >= 0
    if side == "removed":
        assert low.margin < 0 < high.margin
        return
    good = rule_of(one, "any_of", "below_threshold", "good")
    assert good.margin == pytest.approx(told["score"] - 0.6)
    top = rule_of(one, "top", "below_threshold")
    assert top.value == told["score"] >= top.threshold
    lowest = ledger.filter(pl.col("fate") == "kept")["score"].min()
    assert top.threshold == lowest
    share = rule_of(one, "share", "below_threshold")
    assert 0 <= share.threshold <= share.value <= 1


def test_the_duplicate_group_is_those_of_that_url(run, ledger, samples):
    gone = ledger.filter(pl.col("step") == "same_url").to_dicts()
    sizes = []
    for told in gone[:4]:
        url = samples[told["number"]].metadata["url"]
        removed = [r for r in gone if samples[r["number"]].metadata["url"] == url]
        one = fate_of(explained(run.work, told["uid"]), told["shard"], told["row"])
        [group] = one.duplicates
        assert (group.step, group.stayed, group.is_stayed) == ("same_url", told["because"], False)
        assert places(group.members) == sorted(_place(r) for r in removed if r != told)
        assert group.size == len(removed) + 1
        stayed = fate_of(
            explained(run.work, told["because"]), group.kept.shard, group.kept.row
        )  # uids repeat here
        assert stayed.pool["url"] == url
        [own] = stayed.duplicates
        assert own.is_stayed
        assert places(own.members) == sorted(map(_place, removed))
        sizes.append(group.size)
    assert max(sizes) > 2


def places(members) -> list[tuple]:
    return sorted((member.uid, member.shard, member.row) for member in members)


def _place(told: dict) -> tuple:
    return told["uid"], told["shard"], told["row"]


def test_the_picture_is_the_very_bytes(run, ledger, samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = ledger.filter(pl.col("fate") == "kept").row(0, named=True)
    found = explained(run.work, told["uid"], Wish()).samples[0].picture
    assert found.file == f"{told['uid']}.jpg"
    assert Path(found.file).read_bytes() == samples[told["number"]].jpeg
    assert explained(run.work, told["uid"], Wish()).samples[0].picture == found
    Path("other").write_text("mine")
    with pytest.raises(ConfigError, match="other is there and is another file"):
        explained(run.work, told["uid"], Wish("other"))
    with pytest.raises(ConfigError, match="no folder nowhere"):
        explained(run.work, told["uid"], Wish("nowhere/x.jpg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["other", found.file])


def test_without_a_picture_it_says_why(run, ledger):
    told = ledger.filter(pl.col("reason") == "no_image").row(0, named=True)
    one = fate_of(explained(run.work, told["uid"], Wish()), told["shard"], told["row"])
    assert (one.picture.file, one.removed_by) == (None, "pool")
    assert "no picture" in one.picture.why
    assert {step.verdict for step in one.steps} == {"not reached"}


def test_it_is_found_by_url_key_and_the_beginning_of_its_uid(run, ledger, samples):
    told = ledger.filter(pl.col("fate") == "kept").row(0, named=True)
    place, sample = (told["shard"], told["row"]), samples[told["number"]]
    named = {
        told["uid"]: "uid",
        told["uid"].upper(): "uid",
        told["uid"][:9]: "beginning of a uid",
        f" {told['uid'][:20]} ": "beginning of a uid",
        sample.metadata["url"]: "url",
        sample.key: "key",
        f"{told['shard']:05d}/{sample.key}": "key",
        f"in/{told['shard']:05d}.tar/{sample.key}": "key",
    }
    for asked, by in named.items():
        found = explained(run.work, asked)
        assert found.by == by
        assert place in {(one.shard, one.row) for one in found.samples}
    same = [s for s in samples if s.metadata["url"] == sample.metadata["url"]]
    assert explained(run.work, sample.metadata["url"]).rows == len(same)
    with pytest.raises(ConfigError, match="no row of the pool has it"):
        explained(run.work, f"{told['shard'] + 1:05d}/{sample.key}")


@pytest.mark.parametrize(
    "asked", ["", "abc", "http://h/none", "0" * 32, "f" * 33, "../../etc/passwd", "\x1b[2J", "é"]
)
def test_what_is_not_there_is_told_with_what_is(run, ledger, asked):
    with pytest.raises(ConfigError) as raised:
        explained(run.work, asked)
    said = str(raised.value)
    assert ledger["uid"][0] in said
    assert "00000/000000000" in said
    assert "\x1b" not in said


def test_rows_that_share_a_uid_are_all_told(tmp_path, samples, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same = [replace(samples[2], key=f"{n:09d}") for n in range(7)]
    same[3] = replace(same[3], jpeg=samples[3].jpeg)
    write_shards(tmp_path / "in", same, 2)
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"), STEPS[:1])
    pipeline.run()
    found = explained(pipeline.work, same[0].uid, Wish())
    assert (found.rows, len(found.samples)) == (7, 5)
    assert "7 rows have this uid; the first 5 follow" in lines_of(found)
    files = [sample.picture.file for sample in found.samples]
    assert files == [f"{same[0].uid}.jpg"] * 3 + [f"{same[0].uid}-2.jpg"] + files[:1]


def test_a_beginning_of_several_uids_is_refused(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    uids = [f"{n:031x}0" for n in range(1, 9)]
    pl.DataFrame({"uid": uids, "text": ["a"] * 8, "url": uids}).write_parquet(folder / "0.parquet")
    pipeline = Pipeline(tmp_path, {"metadata": str(folder)}, STEPS[:1])
    pipeline.run()
    with pytest.raises(ConfigError, match=r"begins several uids: 0{30}10, "):
        explained(pipeline.work, "0" * 20)
    for digits in (31, 32):
        found = explained(pipeline.work, uids[2][:digits])
        assert [(one.uid, one.row) for one in found.samples] == [(uids[2], 2)]


def test_metadata_alone_has_no_picture_but_all_columns(tmp_path):
    folder = write_metadata(tmp_path / "metadata")
    score = {"column": "clip_l14_similarity_score", "at_least": 0.2}
    pipeline = Pipeline(tmp_path, {"metadata": str(folder)}, ({"clip_score": score},))
    pipeline.run()
    found = explained(pipeline.work, "http://h/9.jpg", Wish())
    [one] = found.samples
    assert one.uid == metadata_uid(9)
    boxes = json.loads(one.pool["face_bboxes"])
    assert boxes == [[pytest.approx(n / 10) for n in (1, 2, 3, 4)]]
    norm = np.linalg.norm(9 + np.arange(4) / 8)
    assert one.pool_arrays["l14_img"].shape == [4]
    assert one.pool_arrays["l14_img"].norm == pytest.approx(norm, rel=1e-3)
    assert "no pictures" in one.picture.why
    with pytest.raises(ConfigError, match="this pool has no key"):
        explained(pipeline.work, "000000009")


def test_strangers_texts_reach_no_terminal(run, samples):
    told = explained(run.work, samples[50].uid)
    printed = CliRunner().invoke(cli.app, ["explain", str(run.work), samples[50].uid,
                                           "--no-picture"])  # fmt: skip
    whole = CliRunner().invoke(cli.app, ["explain", str(run.work), samples[50].uid,
                                         "--no-picture", "--json"])  # fmt: skip
    for output in (printed.output, whole.output):
        assert not set(output) & {"\x1b", "\x07", "\u202e", "\x9b"}
    assert "⟨U+001B⟩" in printed.output
    assert Explanation.model_validate(json.loads(whole.output)) == told
    assert EVIL in told.samples[0].pool["caption"]
    long = CliRunner().invoke(cli.app, ["explain", str(run.work), samples[1].uid, "--no-picture"])
    assert "(9,900 characters)" in long.output
    assert max(map(len, long.output.splitlines())) < 700


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> tuple[Pipeline, pl.DataFrame]:
    """A run with clusters, near duplicates and concepts; two thirds of the texts have one word."""
    folder = tmp_path_factory.mktemp("learnt")
    pool = embed(240, width=8)
    rng = np.random.default_rng(0)
    around = pool.image[np.arange(240) % 60].astype(np.float64)
    around[60:] += rng.normal(size=(180, 8)) * np.repeat([0.0, 0.05, 0.1], 60)[:, None]
    pool = replace(pool, image=unit(around).astype(np.float16))
    texts = [f"a {'cat' if n % 3 else 'dog'} number {n}" for n in range(240)]
    pool = pool.with_columns(text=pl.Series(texts))
    (folder / "entries.txt").write_text("cat\ndog\nnumber\nunseen\n")
    steps = (
        {"clusters": {"of": "l14_img", "count": 5}},
        {"neighbours": {"of": "l14_img", "floor": 0.8}},
        {"semantic_duplicates": {"name": "alike", "threshold": 0.95}},
        {"concepts": {"entries": str(folder / "entries.txt")}},
        {"metadata_balance": {"t": 12}},
    )
    pipeline = Pipeline(folder, pool.write(folder / "pool", 3), steps).where(rows_per_block=100)
    pipeline.run()
    frame = pool.frame.with_columns(image=pl.Series(list(pool.image.astype(np.float32))))
    return pipeline, ledger_of(pipeline.work).join(frame, on="uid")


def test_near_duplicates_come_with_their_similarity(learnt):
    pipeline, ledger = learnt
    images = dict(ledger.select("uid", "image").iter_rows())
    gone = ledger.filter(pl.col("step") == "alike")
    assert gone.height > 10
    for told in gone[::25].to_dicts():
        one = explained(pipeline.work, told["uid"]).samples[0]
        [group] = one.duplicates
        others = set(gone.filter(pl.col("because") == told["because"])["uid"]) - {told["uid"]}
        assert {member.uid for member in group.members} <= others
        assert len(group.members) == min(20, len(others))
        assert group.unit == "similarity"
        cosine = np.dot(images[told["uid"]], images[told["because"]])
        assert group.own_value == pytest.approx(cosine, abs=2e-3)
        assert group.own_value >= 0.95
        for member in group.members:
            cosine = np.dot(images[member.uid], images[told["because"]])
            assert member.value == pytest.approx(cosine, abs=2e-3)
        rule = rule_of(one, "alike", one.reason)
        assert rule.margin == pytest.approx(0.95 - rule.value)
        assert rule.margin <= 0


def test_the_cluster_has_the_size_of_a_recount(learnt):
    pipeline, ledger = learnt
    [cluster] = explained(pipeline.work, ledger["uid"][5]).samples[0].clusters
    blocks = sorted((pipeline.work / "features" / "clusters").glob("block-*.parquet"))
    own = pl.concat([pl.read_parquet(block) for block in blocks])
    assert cluster.cluster == own["cluster"][5]
    assert cluster.distance == pytest.approx(own["distance"][5])
    inside = own["cluster"] == cluster.cluster
    assert cluster.size == inside.sum() > 1
    assert cluster.kept == (inside & (ledger["fate"] == "kept")).sum()


def test_concepts_have_the_chances_of_their_balance(learnt):
    pipeline, ledger = learnt
    reached = ledger.filter(pl.col("step").ne_missing("alike"))
    cats = reached["text"].str.contains("cat").sum()
    told = ledger.filter((pl.col("fate") == "kept") & pl.col("text").str.contains("cat"))
    one = explained(pipeline.work, told["uid"][0]).samples[0]
    [concepts] = one.concepts
    found = {entry.entry: entry for entry in concepts.entries}
    assert list(found) == ["cat", "number"]
    assert found["cat"].samples == cats
    assert found["cat"].p == pytest.approx(min(1, 12 / cats))
    assert found["number"].samples == reached.height
    p = [entry.p for entry in concepts.entries]
    assert concepts.kept_chance == pytest.approx(1 - (1 - p[0]) * (1 - p[1]))
    assert concepts.stays_by == told["because"][0] in found
    gone = ledger.filter(pl.col("step") == "alike")["uid"][0]
    assert explained(pipeline.work, gone).samples[0].concepts == []


def test_an_unfinished_run_is_told_as_far_as_it_came(samples, tmp_path):
    write_shards(tmp_path / "in", samples[:60], 2)
    broken = {"where": {"name": "broken", "sql": "CAST(caption AS INTEGER) > 1"}}
    steps = (*STEPS[:4], {"random_sample": {"fraction": 0.5, "of": "survivors"}}, broken, STEPS[-1])
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"), steps)
    with pytest.raises(CurateError):
        pipeline.run()
    facts = read_facts(str(pipeline.work))
    uid = samples[2].uid
    found = explained(pipeline.work, uid)
    assert found.not_reached == list(facts.not_reached) == ["broken", "write"]
    one = found.samples[0]
    assert [step.verdict for step in one.steps[-2:]] == ["not reached"] * 2
    assert one.fate in ("undecided", "removed")
    fates = {explained(pipeline.work, sample.uid).samples[0].fate for sample in samples[:20]}
    assert "undecided" in fates
    assert "it has not come to: broken, write" in lines_of(found)[-1]


def test_where_nothing_was_run_it_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no run was started there"):
        explained(tmp_path, "0" * 32)


def test_columns_that_changed_since_are_noticed(samples, tmp_path):
    write_shards(tmp_path / "in", samples[:60], 1)
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "in"), STEPS[:3])
    pipeline.run()
    [ledger] = (pipeline.work / "ledger").glob("*.parquet")
    whole = pl.read_parquet(ledger)
    whole.with_columns(copies=pl.lit(3, dtype=pl.UInt32)).write_parquet(ledger)
    with pytest.raises(StorageError, match="run the pipeline again"):
        explained(pipeline.work, samples[2].uid)
    whole.write_parquet(ledger)
    [values] = (pipeline.work / "features" / "image_file").glob("block*.parquet")
    pl.read_parquet(values).with_columns(width=pl.lit(1, dtype=pl.UInt32)).write_parquet(values)
    with pytest.raises(StorageError, match="by the columns as they are"):
        explained(pipeline.work, samples[2].uid)
