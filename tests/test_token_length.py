"""Token lengths: those of open_clip's tokenizer, of any caption, however odd."""

# ruff: noqa: RUF001 - letters that look alike are what is tested

import random
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from curate.features import _tokens
from curate.features._tokens import UNTOUCHED, TokenCounts
from curate.features.token_length import TokenLength
from curate.score import open_features, score_samples
from tests import real_pictures
from tests.tiny_pool import Pipeline, ledger_of


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer()


@pytest.fixture(scope="module")
def counts(tokenizer):
    return TokenCounts(tokenizer)


def expected(tokenizer, texts):
    return [len(tokenizer.encode(text)) + 2 for text in texts]


def counted(counts, texts):
    return counts.of(pl.Series(texts, dtype=pl.String)).tolist()


ODD = [
    "", " ", "\n", "a\nb", " a  cat \t", "It's 25% off, isn't it?", "x_y 12345 <b>bold</b>",
    "<start_of_text> a <END_OF_TEXT>", "fish &amp; chips", "&lt;b&gt; &eacute; &#233; &",
    "â€œquotedâ€\x9d", "sÃ³ voilÃ\xa0 le travail", "“curly” ‘quotes’ it’s", "\x1b[31mred\x1b[0m",
    "a\x00b\x07c\x7f", "CRLF\r\nline\u2028sep\x85end", "ﬁne ĳ ŉ", "ＷＩＤＥ　ﾊﾝｶｸ", "\ufeffbom",
    "e\u0301 A\u030a", "क\u093c न\u093c \u0958", "ক\u09c7\u09be", "กำ ที่",
    "日本語のテキスト。", "한국어 각",
    "مرحبا بالعالم؟", "שלום", "ΟΔΟΣ ΟΔΟΣ.", "ΜΑΐΟΣ", "İstanbul ISTANBUL", "ẞ ß ſ 'ſ", "ДОБРЫЙ ДЕНЬ",
    "вЂњ", "½ ² № ™", "👩‍👩‍👧 🇫🇷", "a" * 300, "ab" * 300, "!" * 300, "1" * 90, "日本" * 200,
    "word " * 90, "\u1680a\u180eb\u3000c",
]  # fmt: skip


def test_odd_captions_have_the_tokens_of_the_library(tokenizer, counts):
    assert counted(counts, ODD) == expected(tokenizer, ODD)
    assert counted(counts, ODD) == expected(tokenizer, ODD), "and from memory, too"


@settings(max_examples=150)
@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_text_has_the_tokens_of_the_library(tokenizer, counts, texts):
    assert counted(counts, texts) == expected(tokenizer, texts)


@settings(max_examples=300)
@given(st.from_regex(rf"[{UNTOUCHED}]{{0,12}}", fullmatch=True))
def test_the_clean_up_changes_nothing_of_what_is_not_given_to_it(tokenizer, text):
    """Neither characters nor their order: but for white space and case."""
    if (pl.Series([text]).str.normalize("NFC") == text).all():
        assert tokenizer.clean_fn(text) == " ".join(text.split()).lower()


@given(st.text("abcdeéß日", min_size=1, max_size=40))
def test_words_of_letters_that_merge_in_many_ways(tokenizer, counts, word):
    assert counted(counts, [word]) == expected(tokenizer, [word])


@pytest.mark.real
def test_real_captions_in_78_languages(tokenizer, counts):
    real_pictures.fetch_or_skip()
    texts = [pair.caption for pair in real_pictures.clipart(every=5)]
    for pair in real_pictures.stamps(every=12):
        texts += [pair.caption, *pair.translations.values()]
    assert len(texts) > 5000
    assert counted(counts, texts) == expected(tokenizer, texts)


@pytest.mark.real
@pytest.mark.slow
def test_all_real_captions(tokenizer, counts):
    real_pictures.fetch_or_skip()
    texts = [pair.caption for pair in real_pictures.clipart()]
    for pair in real_pictures.stamps():
        texts += [pair.caption, *pair.translations.values()]
    assert len(texts) > 60_000
    assert counted(counts, texts) == expected(tokenizer, texts)


def test_an_endless_word_takes_no_endless_time(counts):
    """The library's loop takes time that grows with the square: minutes for this one."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000)
    found = counted(counts, ["".join(letters), "x" * 100_000, "a cat"])
    assert 30_000 < found[0] < 70_000
    assert found[2] == 4


def test_words_are_forgotten_and_long_ones_never_kept(tokenizer, monkeypatch):
    monkeypatch.setattr(_tokens, "CACHED", 20)
    counts = TokenCounts(tokenizer)
    texts = [f"<start_of_text> {'abc' * n} b{n} &amp;" for n in range(1, 60)]
    assert counted(counts, texts) == expected(tokenizer, texts)
    assert len(counts._lengths) <= 20
    assert max(map(len, counts._lengths)) <= 64


# --- the feature


def scored(captions, **fields):
    frame = pl.DataFrame({"caption": captions})
    opened = open_features([TokenLength(**fields)], "cpu")
    return score_samples(opened, [], frame, threads=1)["token_length"]


def test_what_the_encoder_cannot_see_is_truncated(tokenizer):
    texts = ["", "a cat", None, "cat " * 75, "cat " * 76, "a cat"]
    found = scored(texts)
    assert found.scalars["tokens"].to_list() == [2, 4, None, 77, 78, 4]
    assert found.scalars["tokens"].dtype == pl.UInt32
    assert found.scalars["truncated"].to_list() == [False, False, None, False, True, False]
    assert list(found.errors) == [None, None, "no_caption", None, None, None]
    ends = tokenizer([text or "" for text in texts])[:, 76].tolist()
    end = tokenizer.eot_token_id
    assert [last == end for last in ends] == [False, False, False, True, True, False]
    assert scored(texts, context=4).scalars["truncated"].to_list()[:2] == [False, False]
    assert scored(texts, context=3).scalars["truncated"].to_list()[:2] == [False, True]


@pytest.mark.parametrize("captions", [[], [None, None]])
def test_no_captions_at_all(captions):
    found = scored(pl.Series(captions, dtype=pl.String))
    assert found.scalars["tokens"].to_list() == captions
    assert scored(captions).scalars["truncated"].to_list() == captions


def test_neither_recipe_nor_check_imports_torch():
    code = (
        "import sys; from curate.features.token_length import TokenLength as T;"
        "t = T(); assert t.problems() == []; assert len(t.recipe()['vocabulary_sha256']) == 64;"
        "sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_counts_and_a_condition_decides(tmp_path):
    (tmp_path / "in").mkdir()
    texts = ["a cat", None, "cat " * 80, "fish &amp; chips"]
    uids = [f"{n:032x}" for n in range(4)]
    frame = pl.DataFrame({"uid": uids, "url": [f"http://h/{n}" for n in range(4)], "text": texts})
    frame.write_parquet(tmp_path / "in" / "0.parquet")
    steps = ({"token_length": {}}, {"where": "not token_length.truncated"})
    pipeline = Pipeline(tmp_path, {"metadata": str(tmp_path / "in")}, steps)
    assert pipeline.where(run={"engine": "local"}).run().exit_code == 0
    found = ledger_of(pipeline.work).sort("uid")
    assert found["reason"].to_list() == [None, "unscored", "false", None]
