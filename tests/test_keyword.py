"""Keywords: word by word against a plain search, in any script, and what is wrong with lists."""

import pickle
import re
import unicodedata

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.check import compile_pipeline
from curate.errors import InvalidPipeline
from curate.pipeline_file.config import load
from filters import UNSCORED, Batch, Unbound, judge, structured
from filters._words import NUMBERS, Spelling, has_any, is_unspaced
from filters.keyword import Keyword
from tests import real_pictures
from tests.tiny_pool import Pipeline, ledger_of

NONE, LACKS, BANNED = "no_keyword", "lacks_keyword", "forbidden_keyword"


def reasons(captions, languages=None, **fields):
    """Why each caption is removed; None where it stays."""
    series = {"caption": pl.Series(captions, dtype=pl.String)}
    if languages is not None:
        series["language.code"] = pl.Series(languages, dtype=pl.String)
    made = Keyword(name="keyword", **fields)
    assert made.problems() == []
    ready = made.bind(dict.fromkeys(series, "String"))
    assert pickle.loads(pickle.dumps(ready)) == ready
    frame = structured(series, len(captions))
    return judge(ready, Batch(frame, None, None, None)).reason.to_list()


def problems(**fields):
    return Keyword(name="keyword", **fields).problems()


# --- which captions have a word


def is_letter(character):
    return character == "_" or unicodedata.category(character)[0] in "LMN"


def stands_in(word, text, *, ignore_case=True):
    """Whether a word is in a text, by trying every place."""
    if ignore_case:
        word, text = (each.lower().replace("\u03c2", "\u03c3") for each in (word, text))
    word, text = (re.sub(r"[ \t\n\u00a0\u3000]+", " ", each) for each in (word.strip(), text))
    for start in range(len(text) - len(word) + 1):
        stop = start + len(word)
        before, after = text[start - 1 : start], text[stop : stop + 1]
        if text[start:stop] == word and not any(map(is_letter, before + after)):
            return True
    return False


LETTERS = "aAbBsS_1é\u0301ßΣ\u03c2\u03c3İ\u0131कि日の#+.'- \n\u00a0\x01\u00b2"
TEXTS = st.text(LETTERS, max_size=14)
SINGLE = st.text(LETTERS.replace("\x01", ""), min_size=1, max_size=4)


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
@settings(max_examples=150)
@given(texts=st.lists(TEXTS, min_size=1, max_size=20), words=st.lists(SINGLE, max_size=3))
@example(texts=["a.b a", "aa", "a\n\n b", "#a", "a#a", "b#"], words=["a b", "#a", "b#"])
@example(texts=["ΑΣ", "ας", "İ", "i\u0307", "sS", "ßs"], words=["\u03b1Σ", "İ", "S"])
@example(texts=["की", "a\u0301", "x\x01a\x01"], words=["क", "a"])
def test_words_are_those_of_a_search_place_by_place(many, texts, words):
    """A list of many words is looked up in another way."""
    spelling = Spelling(ignore_case=True)
    words = [word for word in spelling(words) if word]
    filler = [f"filler{number}" for number in range(1001)] if many else []
    found = pl.DataFrame({"t": texts}).select(
        has_any(spelling.text(pl.col("t")), [*words, *filler]).alias("found")
    )
    expected = [any(stands_in(word, text) for word in words) for text in texts]
    assert found["found"].to_list() == expected


def test_case_matters_where_it_is_said_to():
    texts = ["NASA pictures", "nasa", "a Nasal tone", "NASA's", None]
    assert reasons(texts, any_of=["NASA"]) == [None, None, NONE, None, UNSCORED]
    assert reasons(texts, any_of=["NASA"], ignore_case=False) == [None, NONE, NONE, None, UNSCORED]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"any_of": ["cat", "dog"]}, [None, None, None, NONE, NONE, UNSCORED]),
        ({"all_of": ["cat", "dog"]}, [LACKS, LACKS, None, LACKS, LACKS, UNSCORED]),
        ({"none_of": ["cat", "dog"]}, [BANNED, BANNED, BANNED, None, None, UNSCORED]),
        (
            {"any_of": ["cat", "dog"], "none_of": ["two"]},
            [None, BANNED, None, NONE, NONE, UNSCORED],
        ),
        ({"any_of": "numbers"}, [NONE, None, NONE, NONE, NONE, UNSCORED]),
        ({"any_of": ["clip  art"]}, [NONE, NONE, NONE, None, NONE, UNSCORED]),
    ],
)
def test_reasons(fields, expected):
    captions = ["a cat", "Two dog", "cat, dog", "clip\tart", "concatenate", None]
    assert reasons(captions, **fields) == expected


def test_numbers_are_two_to_ten():
    assert reasons([f"{number} kites" for number in NUMBERS], any_of="numbers") == [None] * 9
    texts = ["one kite", "eleven kites", "often", "2 kites"]
    assert reasons(texts, any_of="numbers") == [NONE] * 4
    assert len(NUMBERS) == 9


def test_each_language_has_its_list():
    captions = ["two cats", "twofold", "两只猫", "两只猫", "zwei Katzen", "two", None, "two"]
    languages = ["en", "en", "zh", "en", "de", None, "en", "de"]
    lists = {"languages": {"en": ["two"], "zh": ["两", "TWO"]}}
    assert reasons(captions, languages, any_of=lists) == [
        None, NONE, None, NONE, NONE, UNSCORED, UNSCORED, NONE,
    ]  # fmt: skip
    assert reasons(captions, languages, none_of=lists) == [
        BANNED, None, BANNED, None, None, UNSCORED, UNSCORED, None,
    ]  # fmt: skip
    both = {"languages": {"en": ["two", "cats"], "zh": ["两", "猫"]}}
    assert reasons(captions, languages, all_of=both) == [
        None, LACKS, None, LACKS, None, UNSCORED, UNSCORED, None,
    ]  # fmt: skip
    mixed = {"any_of": lists, "none_of": ["cats"]}
    assert reasons(captions[:3], languages[:3], **mixed) == [BANNED, NONE, None]


def test_languages_without_spaces():
    assert [code for code in ("zh", "zh-cn", "ZH_TW", "ja", "th") if not is_unspaced(code)] == []
    assert not any(map(is_unspaced, ("en", "ko", "zh-Latn", "ja-Latn", "", "zha")))
    lists = {"languages": {"ja": ["青い 空"], "ko": ["하늘"]}}
    captions = ["この青い\u3000空です", "하늘이", "하늘 이"]
    assert reasons(captions, ["ja", "ko", "ko"], any_of=lists) == [None, NONE, None]


def test_a_long_caption_and_an_endless_word():
    texts = ["x" * 100_000, "word " * 20_000 + "cat", "cat" * 30_000]
    many = [f"filler{number}" for number in range(2000)]
    for words in (["cat"], ["cat", *many]):
        assert reasons(texts, any_of=words) == [NONE, None, NONE]


def test_ten_thousand_phrases_and_words_with_signs_find_what_a_set_finds():
    """More than one pattern may hold; every third is a phrase, some begin with a sign."""
    words = [
        f"#w{n}" if n % 7 == 0 else f"v{n} b" if n % 3 == 0 else f"v{n}" for n in range(10_000)
    ]
    texts = [f"a {word.replace(' ', '  ')}." for word in words[::37]]
    other = [f"a{word}1" for word in words[::37]]
    assert reasons(texts, any_of=words) == [None] * len(texts)
    assert reasons(other, any_of=words) == [NONE] * len(other)
    long_words = [f"{n} {'long' * 200} +" for n in range(1000)]
    assert reasons([long_words[7] + "!", "long"], any_of=long_words) == [None, NONE]


@pytest.mark.slow
@pytest.mark.real
def test_real_captions_against_a_loop():
    real_pictures.fetch_or_skip()
    real = [pair.caption for pair in real_pictures.clipart(every=40)]
    for pair in real_pictures.stamps(every=20):
        real += [pair.caption, *pair.translations.values()]
    words = ["bird", "red", "de la", "on the", "3", "a", "de", "рыба", "κόκκινο", "une"]
    expected = [None if any(stands_in(w, text) for w in words) else NONE for text in real]
    assert reasons(real, any_of=words) == expected
    assert 100 < expected.count(None) < len(real) / 2


# --- lists in files


def test_a_file_is_read_once_and_its_words_are_the_recipe(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffcat\nremote sensing\n".encode())
    made = Keyword(name="keyword", any_of={"file": str(file)})
    assert made.problems() == []
    ready = made.bind({"caption": "String"})
    before = made.recipe()
    (tmp_path / "other").mkdir()
    moved = file.rename(tmp_path / "other" / "words.txt")
    frame = pl.DataFrame({"caption": ["A cat", "dog", "Remote\nsensing"]})
    assert judge(ready, Batch(frame, None, None, None)).reason.to_list() == [None, NONE, None]
    assert Keyword(any_of={"file": str(moved)}).recipe() == before
    assert str(tmp_path) not in str(before)
    moved.write_text("cat\nremote sensors\n")
    assert Keyword(any_of={"file": str(moved)}).recipe() != before


def test_a_changed_file_changes_who_stays(tmp_path):
    (tmp_path / "in").mkdir()
    frame = pl.DataFrame({"text": ["a cat", "a dog", None, "catdog"]})
    frame = frame.with_columns(uid=pl.Series([f"{n:032x}" for n in range(4)]))
    frame = frame.with_columns(url="http://h/" + pl.col("uid"))
    frame.write_parquet(tmp_path / "in" / "0.parquet")
    file = tmp_path / "words.txt"
    step = {"keyword": {"any_of": {"file": str(file)}}}
    pipeline = Pipeline(tmp_path, {"metadata": str(tmp_path / "in")}, (step,))
    pipeline = pipeline.where(run={"engine": "local"})
    found = []
    for word in ("cat", "dog"):
        file.write_text(word)
        assert pipeline.run().exit_code == 0
        found.append(ledger_of(pipeline.work).sort("uid")["reason"].to_list())
    assert found == [[None, NONE, UNSCORED, NONE], [NONE, None, UNSCORED, NONE]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"cat\n\ndog\n", "words.txt:2: it is blank: remove it"),
        (b"cat\ndog\n\n", "words.txt:3: it is blank"),
        (b"\n", "words.txt:1: it is blank"),
        (b"cat\nRed  Dog\nred dog\n", "words.txt:3: 'red dog' is there already, at 2: remove one"),
        (b"cat\r\ncat\r\n", "words.txt:2: .* is there already, at 1"),
        (b"cat\nna\xefve\n", "words.txt:2: not UTF-8: save the file as UTF-8"),
        ("cat\n".encode("utf-16"), "words.txt:1: not UTF-8"),
        (b"", "words.txt has no words: give one, or leave it out"),
        (b"c\x00t\n", r"words.txt:1: 'c\\x00t' has a control character"),
        (b"x" * 1001, "words.txt:1: it has 1,001 characters; a word has 1,000 at most"),
    ],
)
def test_a_bad_file_is_told_by_its_line(tmp_path, body, said):
    file = tmp_path / "words.txt"
    file.write_bytes(body)
    for fields in (
        {"any_of": {"file": str(file)}},
        {"none_of": {"languages": {"en": {"file": str(file)}}}},
    ):
        found = problems(**fields)
        assert len(found) == 1
        assert re.search(said, found[0])
        assert found[0].startswith(next(iter(fields)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give any_of, all_of or none_of: a list of words"),
        ({"any_of": []}, "any_of: the list has no words"),
        ({"all_of": ["cat", " \t"]}, "all_of: word 2: it is blank: remove it"),
        ({"any_of": ["cat", "dog", "CAT "]}, "any_of: word 3: 'CAT ' is there already, at 1"),
        ({"any_of": {"file": "/no/such/file"}}, "any_of: there is no file /no/such/file"),
        ({"any_of": {"file": "/"}}, "any_of: there is no file / that can be read: Is a directory"),
        ({"any_of": {"languages": {"en": []}}}, "any_of: en: the list has no words"),
        ({"any_of": {"languages": {" ": ["a"]}}}, "any_of: languages: a list has no language"),
        ({"any_of": ["a"], "language": "language.code"}, "language: it picks one of several lists"),
        (
            {"all_of": ["a", "Cat"], "none_of": ["cat"]},
            r"'cat' \(any language\) is in all_of and in none_of: nothing can pass",
        ),
        (
            {"all_of": {"languages": {"en": ["cat"]}}, "none_of": ["Cat"]},
            r"'cat' \(en\) is in all_of and in none_of",
        ),
    ],
)
def test_a_bad_list_is_told_by_its_word(fields, said):
    found = problems(**fields)
    assert len(found) == 1
    assert re.search(said, found[0])


def test_the_same_word_in_another_case_is_another_where_case_matters():
    assert problems(any_of=["cat", "Cat"], ignore_case=False) == []


def test_the_language_column_is_found_or_asked_for():
    lists = {"languages": {"en": ["a"]}}
    made = Keyword(name="keyword", any_of=lists)
    assert made.bind({"caption": "String", "language.code": "String"}).needs() == (
        "caption",
        "language.code",
    )
    both = {"caption": "String", "language.code": "String", "language": "String"}
    with pytest.raises(Unbound, match=r"several columns give languages: .*; name one with"):
        made.bind(both)
    named = Keyword(name="keyword", any_of=lists, language="language")
    assert named.bind(both).needs() == ("caption", "language")
    with pytest.raises(Unbound, match=r"no column gives languages: put `- language: \{\}` before"):
        made.bind({"caption": "String"})
    with pytest.raises(Unbound, match="width holds Int64, not text"):
        Keyword(name="keyword", any_of=["a"], column="width").bind({"width": "Int64"})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"any_of": "colours"}, "any_of: give a list such as .*, `{file: words.txt}`|`numbers` or"),
        ({"any_of": [2, "two"]}, r"any_of\[0\]: Input should be a valid string \(got 2\)"),
        ({"any_of": {"files": "words.txt"}}, "any_of: give a list such as"),
        ({"any_of": {"file": ""}}, "any_of.file: String should have at least 1 character"),
        ({"any_of": {"languages": {}}}, "any_of.languages: Dictionary should have at least 1"),
        ({"any_of": {"languages": {"en": {"de": []}}}}, "any_of.languages.en: give a list such"),
        ({"any_of": ["a"], "column": "title"}, "nobody produces 'title'"),
        ({"any_of": {"languages": {"en": ["a"]}}}, "no column gives languages"),
        ({"none_of": ["a", "b", "a"]}, "none_of: word 3: 'a' is there already, at 1"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, said):
    (tmp_path / "in").mkdir()
    frame = pl.DataFrame({"uid": ["0" * 32], "url": ["http://h/1"], "text": ["a cat"]})
    frame.write_parquet(tmp_path / "in" / "0.parquet")
    pipeline = Pipeline(tmp_path, {"metadata": str(tmp_path / "in")}, ({"keyword": fields},))
    with pytest.raises(InvalidPipeline) as caught:
        compile_pipeline(load(pipeline.file()))
    assert len(caught.value.problems) == 1
    assert re.search(said, str(caught.value))
