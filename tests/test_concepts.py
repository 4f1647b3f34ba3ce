"""The feature `concepts`: real captions against real lists, per language, and in whole runs."""

import hashlib
import json
import random

import numpy as np
import polars as pl
import pytest
import real_pictures
import word_lists
from metadata_pool import uid
from test_matching import brute_force, matched
from tiny_pool import Pipeline, digests

from curate import columns
from curate.concepts import _labels
from curate.concepts.entry_list import read_entries
from curate.errors import ConfigError, InvalidPipeline
from curate.features.concepts import Concepts
from curate.pipeline_file.config import load
from curate.score import open_features, score_samples
from filters import structured

ENTRIES = ("dog", "hot dog", "Hund", "dog", "狗", "cat", "犬")
LANGUAGES = ("en", "en", "de", "de", "zh", "other", "ja")


def scored(feature, **given):
    """Columns of the feature, as a worker makes them."""
    frame = structured({name: pl.Series(values) for name, values in given.items()}, 0)
    return score_samples(open_features([feature], "cpu"), [], frame, 1)["concepts"]


@pytest.fixture
def by_language(tmp_path):
    file = tmp_path / "by_language.parquet"
    pl.DataFrame({"entry": ENTRIES, "language": LANGUAGES}).write_parquet(file)
    return str(file)


@pytest.fixture
def plain(tmp_path):
    file = tmp_path / "plain.txt"
    file.write_text("dog\nhot dog\n,\nblack cat\n", encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def stamps():
    """62,340 captions in 78 languages."""
    real_pictures.fetch_or_skip()
    pairs = real_pictures.stamps()
    return [text for pair in pairs for text in (pair.caption, *pair.translations.values())]


@pytest.fixture(scope="module")
def titles():
    """1,016 captions of openclipart; the slow test takes all."""
    real_pictures.fetch_or_skip()
    return [pair.caption for pair in real_pictures.clipart(8)]


@pytest.fixture(scope="module")
def english():
    """The real English list."""
    return read_entries(str(word_lists.english_entries_or_skip())).entries


def pieces(captions, count):
    """Words, runs of words and pieces of words of real captions, some with their signs."""
    draw = random.Random(count)
    found = set()
    while len(found) < count:
        words = draw.choice(captions).split(" ")
        start = draw.randrange(len(words))
        run = " ".join(words[start : start + draw.randint(1, 3)])
        cut = draw.choice((0, 0, draw.randrange(len(run) + 1)))
        found.add(run[cut:] or run)
    return sorted(found - {""})


# --- real captions -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_real_captions_match_as_by_brute_force(rule, stamps, titles, english):
    captions = stamps + titles
    some = random.Random(0).sample(english.to_list(), 20)
    entries = sorted({*some, *pieces(captions, 40), "a", "the", ",", ".", "日", "の"})
    found = matched(captions, entries, rule)
    assert found == brute_force(captions, entries, rule)
    assert sum(map(len, found)) > 20_000


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_the_whole_list_matches_as_by_brute_force(rule, stamps, titles, english):
    captions = random.Random(1).sample(stamps + titles, 8)
    found = matched(captions, english, rule)
    assert found == brute_force(captions, english.to_list(), rule)
    assert any(found)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_a_long_list_matches_all_real_captions_as_by_brute_force(rule, stamps, english):
    captions = [*stamps, *(pair.caption for pair in real_pictures.clipart())]
    entries = sorted({*random.Random(2).sample(english.to_list(), 600), *pieces(captions, 600)})
    assert matched(captions, entries, rule) == brute_force(captions, entries, rule)
    sample = random.Random(3).sample(captions, 200)
    assert matched(sample, english, rule) == brute_force(sample, english.to_list(), rule)


# --- the feature ---------------------------------------------------------------------------------


def test_entries_of_a_caption_are_ids_in_order(plain):
    captions = ["a hot dog, a dog", None, "", "hotdog", "dog ,dog"]
    found = scored(Concepts(entries=plain), caption=captions)
    assert found.scalars["entries"].dtype == pl.List(pl.UInt32)
    assert found.scalars["entries"].to_list() == [[0, 1, 2], None, [], [], [0, 2]]
    assert found.errors == [None, "no_caption", None, None, None]


@pytest.mark.parametrize("captions", [[], [None, None]])
def test_nobody_has_a_caption(captions, plain, by_language):
    given = pl.Series(captions, dtype=pl.String)
    languages = pl.Series(["en"] * len(captions), dtype=pl.String)
    for feature in (Concepts(entries=plain), Concepts(entries=by_language, language="code")):
        found = scored(feature, caption=given, code=languages)
        assert found.scalars["entries"].to_list() == captions
        assert found.errors == ["no_caption"] * len(captions)


def test_another_column_and_rule(plain):
    found = scored(Concepts(entries=plain, of="title", rule="metaclip2"), title=["a,dog ", "x"])
    assert found.scalars["entries"].to_list() == [[0, 2], []]


def test_a_caption_meets_the_entries_of_its_language_alone(by_language):
    feature = Concepts(entries=by_language, language="language.code", rule="metaclip2")
    rows = {
        "hot dog": ("en", [0, 1], "en"),
        "Hund dog": ("de", [2, 3], "de"),
        "Hund dog ": ("eng_Latn", [0], "en"),
        "黑狗": ("zh-Hant", [4], "zh"),
        "黑狗 ": ("yue", [4], "zh"),
        "Hund cat": ("fr", [5], "other"),
        "cat dog": ("jpn", [], "ja"),
        "cat": (None, None, None),
    }
    codes = [code for code, _, _ in rows.values()]
    found = scored(feature, caption=list(rows), **{"language.code": codes})
    assert found.scalars["entries"].to_list() == [ids for _, ids, _ in rows.values()]
    assert found.scalars["language"].to_list() == [one for _, _, one in rows.values()]
    assert found.errors == [None] * 7 + ["no_language"]


def test_a_language_without_entries_has_no_list(tmp_path):
    file = tmp_path / "list.parquet"
    pl.DataFrame({"entry": ["a", "b"], "language": ["en", "de"]}).write_parquet(file)
    feature = Concepts(entries=str(file), language="code")
    found = scored(feature, caption=["a", "a b", None], code=["fr", "de", "fr"])
    assert found.scalars["entries"].to_list() == [None, [1], None]
    assert found.scalars["language"].to_list() == [None, "de", None]
    assert found.errors == ["no_list", None, "no_caption"]


@pytest.mark.parametrize(
    ("label", "known", "expected"),
    [
        ("en", {"en"}, "en"),
        ("EN-us", {"en"}, "en"),
        ("eng", {"en", "other"}, "en"),
        ("yue", {"zh", "zh_yue"}, "zh_yue"),
        ("yue", {"zh"}, "zh"),
        ("lzh", {"zh_classical"}, "zh_classical"),
        ("iw", {"he"}, "he"),
        ("zh-Latn", {"zh"}, "zh"),
        ("zho_Hans", {"zh"}, "zh"),
        ("nb", {"no", "nn"}, "no"),
        ("nn", {"no"}, None),
        ("xx", {"en", "other"}, "other"),
        ("", {"en"}, None),
        ("", {"", "en"}, ""),
    ],
)
def test_a_label_leads_to_a_list(label, known, expected):
    assert _labels.list_of(label, known) == expected


def test_what_is_wrong_with_a_list_is_said_before_a_run(tmp_path, by_language, plain):
    (problem,) = Concepts(entries=by_language).problems()
    assert "has 5 languages ('de', 'en', 'ja', 'other', 'zh')" in problem
    assert "write `language: language.code`" in problem
    (problem,) = Concepts(entries=plain, language="language.code").problems()
    assert "has no languages to choose from: leave it out" in problem
    (problem,) = Concepts(entries=str(tmp_path / "none.txt")).problems()
    assert problem.startswith("entries: ")
    (tmp_path / "twice.txt").write_text("a\nb\na\n", encoding="utf-8")
    (problem,) = Concepts(entries=str(tmp_path / "twice.txt")).problems()
    assert "twice.txt:3" in problem
    one = tmp_path / "one.parquet"
    pl.DataFrame({"entry": ["a"], "language": ["en"]}).write_parquet(one)
    assert Concepts(entries=str(one)).problems() == []
    assert Concepts(entries=str(one), language="language.code").problems() == []


def test_a_list_is_known_by_its_content(tmp_path, plain):
    feature = Concepts(entries=plain)
    again = tmp_path / "elsewhere" / "plain.txt"
    again.parent.mkdir()
    again.write_text("dog\nhot dog\n,\nblack cat\n", encoding="utf-8")
    assert Concepts(entries=str(again)).recipe() == feature.recipe()
    assert feature.recipe()["entries"]["count"] == 4
    again.write_text("dog\nhot dog\n,\nblack cats\n", encoding="utf-8")
    assert Concepts(entries=str(again)).recipe() != feature.recipe()
    again.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no entries"):
        Concepts(entries=str(again)).recipe()


def test_later_steps_learn_the_entries(tmp_path, by_language):
    feature = Concepts(entries=by_language, language="language.code")
    folder = str(tmp_path / "artefact")
    with pytest.raises(KeyError, match="run the pipeline"):
        feature.learnt(folder, "texts")
    feature.keeps(folder)
    assert feature.learnt(folder, "texts").to_list() == list(ENTRIES)
    assert feature.learnt(folder, "languages").to_list() == list(LANGUAGES)
    expected = [
        int.from_bytes(hashlib.blake2b(entry.encode(), digest_size=8).digest(), "little")
        for entry in ENTRIES
    ]
    assert feature.learnt(folder, "codes").tolist() == expected
    with pytest.raises(KeyError, match="learns no 'counts'"):
        feature.learnt(folder, "counts")


# --- runs ----------------------------------------------------------------------------------------


def write_pool(folder, captions, rows=500):
    """A pool of metadata with these captions."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(captions), rows)):
        part = captions[start : start + rows]
        numbers = range(start, start + len(part))
        uids, urls = [uid(n) for n in numbers], [f"http://h/{n}.jpg" for n in numbers]
        frame = pl.DataFrame({"uid": uids, "url": urls, "text": part})
        frame.write_parquet(folder / f"{number}.parquet")
        shape = (len(part), 4)
        np.savez(folder / f"{number}.npz", l14_img=np.zeros(shape, np.float16))
    return {"metadata": str(folder)}


def run_over(tmp_path, captions, *steps, rows=500, name="one"):
    pool = write_pool(tmp_path / f"pool-{name}", captions, rows)
    pipe = Pipeline(tmp_path / name, pool, steps, fields=(("rows_per_block", 700),))
    assert pipe.run().exit_code == 0
    return pipe


def entries_of(pipe, *fields):
    """The columns of a finished run in the order of the pool."""
    files = sorted((pipe.work / "features" / "concepts").glob("block-*.parquet"))
    store = columns.store(str(pipe.work), "concepts")
    frames = [store.read(int(file.stem[6:]), ["entries", *fields, "error"]) for file in files]
    return pl.concat(frames)


def test_a_run_over_stamps_matches_each_caption(tmp_path):
    real_pictures.fetch_or_skip()
    pairs = real_pictures.stamps()
    captions = [text for p in pairs for text in (p.caption, p.translations.get("ja"))]
    entries = [*pieces([pair.caption for pair in pairs], 60), "の", "犬"]
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    step = {"concepts": {"entries": str(tmp_path / "list.json"), "rule": "metaclip2"}}
    pipe = run_over(tmp_path, captions, step)
    frame = entries_of(pipe)
    known = [ids or [] for ids in frame["entries"].to_list()]
    assert known == brute_force(captions, entries, "metaclip2")
    assert frame["error"].is_null().to_list() == [caption is not None for caption in captions]
    other = run_over(tmp_path, captions, step, rows=333, name="two")  # other shards and tasks
    assert entries_of(other)["entries"].to_list() == frame["entries"].to_list()
    assert pipe.run().reused == "everything"
    moved = {"concepts": {**step["concepts"], "entries": str(tmp_path / "moved" / "list.json")}}
    (tmp_path / "moved").mkdir()
    (tmp_path / "list.json").rename(tmp_path / "moved" / "list.json")
    before = digests(pipe.work)
    again = pipe.where(steps=(moved,))
    assert again.run().reused == "everything"
    assert digests(again.work) == before


def test_languages_of_a_run_choose_the_entries(tmp_path, by_language):
    captions = ["the quick brown dog is here", "der schnelle braune Hund ist hier", None]
    chosen = {"entries": by_language, "language": "language.code"}
    pipe = run_over(tmp_path, captions, {"language": {}}, {"concepts": chosen})
    frame = entries_of(pipe, "language")
    assert frame["entries"].to_list() == [[0], [2], None]
    assert frame["language"].to_list() == ["en", "de", None]
    refused = pipe.where(steps=({"concepts": {"entries": by_language}},))
    with pytest.raises(InvalidPipeline, match="has 5 languages"):
        refused.run()
    unknown = pipe.where(steps=({"concepts": chosen},))
    with pytest.raises(InvalidPipeline, match=r"language\.code"):
        unknown.run()
    assert load(pipe.file(), ()) is not None
