"""The words of captions: as people would count them, and the same however rows are divided."""

import unicodedata
from collections import Counter
from functools import reduce

import numpy as np
import polars as pl
import pytest
from real_pictures import stamps

from curate.report import words
from curate.report.words import Draw, count, words_of
from curate.sample import make_uids

HELLO = "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643"
HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902"


def words_by_caption(captions: list[str | None]) -> list[set[str]]:
    found = words_of(pl.Series(captions, dtype=pl.String))
    assert not found.is_duplicated().any()
    own: list[set[str]] = [set() for _ in captions]
    for caption, word in found.iter_rows():
        own[caption].add(word)
    return own


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Dog, a dog. And 2 CATS!", {"a", "dog", "and", "2", "cats"}),
        ("black-footed_ferret@home", {"black", "footed", "ferret", "home"}),
        ("Cafe\u0301 caf\u00e9", {"caf\u00e9"}),  # composed, both are one
        (HELLO, set(HELLO.split())),
        (HINDI, set(HINDI.split())),  # marks are of letters
        ("\u6771\u4eac\u5854", {"\u6771\u4eac", "\u4eac\u5854"}),  # pairs
        ("\u732b, \u72ac", {"\u732b", "\u72ac"}),  # no neighbours
        ("Tokyo\u6771\u4eac2020", {"tokyo", "\u6771\u4eac", "2020"}),
        ("\u30b3\u30fc\u30d2\u30fc", {"\u30b3\u30fc", "\u30fc\u30d2", "\u30d2\u30fc"}),
        ("\ud55c\uad6d \uc0ac\ub78c", {"\ud55c\uad6d", "\uc0ac\ub78c"}),  # Korean has blanks
        ("\u0301\u0301 !?", set()),
        ("\U0001f600 x" + "y" * 50, set()),  # 51 letters
        ("x" * 50, {"x" * 50}),
        ("", set()),
        (None, set()),
    ],
)  # fmt: skip
def test_words_are_runs_of_letters_and_digits(caption, expected):
    assert words_by_caption(["a", caption, None])[1] == expected


def test_marks_of_scripts_without_blanks_stay_with_their_letters():
    found = words_by_caption(["\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48\u0e21\u0e35"])[0]
    assert found == {"\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48", "\u0e19\u0e35\u0e48\u0e21\u0e35"}


def test_what_is_behind_a_thousand_characters_is_not_read():
    assert words_by_caption(["b " * 499 + "in out"])[0] == {"b", "in"}


def test_real_captions_have_the_words_that_python_finds():
    captions = [str(stamp.caption) for stamp in stamps()][:300]
    for caption, found in zip(captions, words_by_caption(captions), strict=True):
        text = unicodedata.normalize("NFC", caption[:1000]).lower()
        spaced = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
        assert found == {word for word in spaced.split() if len(word) <= 50}


def drawn_in_parts(draw: Draw, rows: tuple, parts: int, order: list[int]) -> pl.DataFrame:
    groups, uids, captions = rows
    cuts = np.array_split(np.arange(len(groups)), parts)
    own = [draw.of(groups[c], uids[c], captions.gather(pl.Series(c))) for c in cuts]
    return reduce(draw.merge, [own[n] for n in order])


def some_rows(count_: int, seed: int) -> tuple[np.ndarray, np.ndarray, pl.Series]:
    rng = np.random.default_rng(seed)
    uids = make_uids(rng.integers(0, 400, count_).astype(np.uint64), np.zeros(count_, np.uint64))
    captions = [None if n % 13 == 0 else f"caption {n % 31}" for n in range(count_)]
    return rng.integers(-1, 4, count_), uids, pl.Series(captions, dtype=pl.String)


def test_who_is_drawn_depends_on_nothing_but_uids_and_groups():
    rows = some_rows(3000, 1)
    draw = Draw(seed=7, most=50)
    whole = draw.of(*rows)
    assert whole.equals(drawn_in_parts(draw, rows, 7, [3, 1, 0, 6, 5, 2, 4]))
    again = np.random.default_rng(2).permutation(3000)
    shuffled = (rows[0][again], rows[1][again], rows[2].gather(pl.Series(again)))
    assert whole.equals(draw.of(*shuffled))
    assert whole["group"].value_counts().sort("group").rows() == [(n, 50) for n in range(4)]
    assert not whole.select("group", "f0", "f1").is_duplicated().any()  # a uid once a group
    assert not whole.equals(Draw(seed=8, most=50).of(*rows))


def test_all_are_drawn_where_there_are_few():
    groups, uids, captions = some_rows(300, 3)
    found = Draw(seed=0, most=10_000).of(groups, uids, captions)
    there = (groups >= 0) & captions.is_not_null().to_numpy()
    expected = {(int(g), int(u)) for g, u in zip(groups[there], uids["f0"][there], strict=True)}
    assert set(found.select("group", "f0").rows()) == expected


def test_counts_are_captions_that_have_the_word(monkeypatch):
    monkeypatch.setattr(words, "AT_ONCE", 64)  # several parts
    drawn = Draw(seed=0, most=400).of(*some_rows(2000, 5))
    counts, captions = count(drawn)
    expected = Counter(
        (group, word)
        for group, caption in drawn.select("group", "caption").iter_rows()
        for word in set(caption.split())
    )
    assert {(g, w): n for g, w, n in counts.iter_rows()} == expected
    assert captions == Counter(drawn["group"].to_list())


def test_the_commonest_words_leave_out_what_says_nothing():
    drawn = Draw(0, 9).of(
        np.array([2, 2, 5]),
        make_uids(np.arange(3).astype(np.uint64), np.zeros(3, np.uint64)),
        pl.Series(["The red dog of the dog", "a dog is red and big", "the"]),
    )
    assert words.commonest(count(drawn)[0], 2) == {2: [("dog", 2), ("red", 2)]}


def test_nothing_drawn_has_no_words():
    empty = words.nothing_drawn()
    counts, captions = count(empty)
    assert (counts.height, captions, words.commonest(counts, 3)) == (0, {}, {})
    assert Draw(0, 3).of(*some_rows(0, 0)).equals(empty)
    assert Draw(0, 3).merge(empty, empty).equals(empty)
