"""Matching whole columns equals looking for each entry in each caption."""

from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.concepts import _characters, matching
from curate.concepts.matching import Matcher

SIGNS = ",.;:?!`"


def spaced(text):
    """A text as the published code of MetaCLIP spaces it."""
    text = f" {text} "
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    for sign in SIGNS:
        text = text.replace(sign, f" {sign} ")
    return text


@cache
def is_free(character):
    return any(first <= ord(character) <= last for first, last in _characters.FREE)


def pattern_of(entry, rule):
    """What is looked for of an entry."""
    before = after = " "
    if rule == "metaclip2" and entry:
        before = "" if is_free(entry[0]) else " "
        after = "" if is_free(entry[-1]) else " "
    return before + entry + after


def brute_force(captions, entries, rule):
    """[N] lists of ids, by looking for each entry in each caption."""
    looked_for = [pattern_of(entry, rule) for entry in entries]
    found = []
    for caption in captions:
        if caption is None:
            found.append([])
            continue
        text = spaced(caption.strip() if rule == "metaclip2" else caption)
        found.append([number for number, entry in enumerate(looked_for) if entry in text])
    return found


def matched(captions, entries, rule="metaclip"):
    """[N] lists of ids, by the matcher."""
    matcher = Matcher(pl.Series(entries, dtype=pl.String), rule)
    offsets, ids = matcher.match(pl.Series(captions, dtype=pl.String))
    assert (offsets.dtype, ids.dtype) == (np.int64, np.uint32)
    assert (len(offsets), offsets[0], offsets[-1]) == (len(captions) + 1, 0, len(ids))
    return [part.tolist() for part in np.split(ids, offsets[1:-1])] if len(captions) else []


PIECES = [
    "a",
    "b",
    "ab",
    "é",
    "日",
    "の",
    "ไ",
    "ÿ",
    "\0",
    "abcdefg",
    "hijklmno",
    *" \t\n\r,.`!",
    "  ",
    ", ",
]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
anything = texts | st.text(max_size=20)


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
@given(
    captions=st.lists(anything | st.none(), max_size=6),
    entries=st.lists(anything, max_size=12, unique=True),
)
@example(captions=["", " ", "a  b", "a"], entries=["", " ", "  ", "a", " a", "a ", "a  b"])
@example(
    captions=["a,b", ",,", ", ,", ",.!"], entries=[",", ", ", " ,", ",  ,", ", ,", ",,", "a ,"]
)
@example(captions=["a", "b", None, "ab"], entries=["a b", "ab"])
@settings(deadline=None)
def test_matches_are_those_of_brute_force(rule, captions, entries):
    assert matched(captions, entries, rule) == brute_force(captions, entries, rule)


@given(captions=st.lists(anything, max_size=6), data=st.data())
@settings(deadline=None)
def test_what_stands_in_a_caption_is_found_and_captions_never_run_into_each_other(captions, data):
    parts = []
    for _ in range(8):  # pieces of spaced captions, some of them over the end of one
        whole = "".join(map(spaced, captions))
        start = data.draw(st.integers(0, len(whole)))
        parts.append(whole[start : start + data.draw(st.integers(0, 20))])
    entries = sorted(set(parts))
    for rule in ("metaclip", "metaclip2"):
        assert matched(captions, entries, rule) == brute_force(captions, entries, rule)


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
@given(entry=anything, around=st.tuples(texts, texts))
@settings(deadline=None)
def test_an_entry_that_never_matches_is_named_and_no_other(rule, entry, around):
    never = Matcher(pl.Series([entry], dtype=pl.String), rule).never.tolist() == [0]
    assert never == (not realizable(pattern_of(entry, rule)))
    if never:
        assert matched([f"{around[0]} {entry} {around[1]}", entry], [entry], rule) == [[], []]


def realizable(pattern):
    """Whether some caption, once spaced, holds the pattern: the one it is spaced from, if any."""
    whole = f" {pattern}" if pattern.startswith(tuple(SIGNS)) else pattern
    whole = f"{whole} " if pattern.endswith(tuple(SIGNS)) else whole
    for sign in SIGNS:
        whole = whole.replace(f" {sign} ", sign)
    return pattern in spaced(f"x{whole}x")


@pytest.mark.parametrize(
    ("caption", "entry", "first", "second"),
    [
        ("A dog, running.", "dog", True, True),
        ("A dog, running.", "Dog", False, False),  # case counts
        ("A dog, running.", "dog ,", True, True),
        ("A dog, running.", "dog, running", False, False),
        ("A dog, running.", "running .", True, True),
        ("hot  dog", "hot dog", False, False),  # blanks are not merged
        ("hot\tdog", "hot dog", True, True),
        ("hot,dog", "hot dog", False, False),
        (" dog", " dog", True, False),  # metaclip2 takes white space off the ends
        (" dog", "  dog", False, False),
        ("\x1cdog\u3000", "dog", False, True),
        ("U.S. Army", "U.S.", False, False),
        ("U.S. Army", "U", True, True),
        ("我的狗跑了", "狗", False, True),
        ("我的狗跑了", "的狗", False, True),
        ("いぬがいる", "いぬ", False, True),
        ("หมาวิ่ง", "หมา", False, True),
        ("T恤衫", "T恤", False, True),
        ("一件T恤衫", "T恤", False, False),  # before T a blank is asked for
        ("Gödel", "del", False, False),
        ("개가 달린다", "개", False, False),  # Korean has blanks between words
        ("say “cheese” now", "“cheese”", True, True),
        ("x“cheese”x", "“cheese”", False, True),
        ("c++11", "c++", False, True),
    ],
)
def test_the_rules(caption, entry, first, second):
    assert matched([caption], [entry]) == [[0] if first else []]
    assert matched([caption], [entry], "metaclip2") == [[0] if second else []]


def test_white_space_is_what_python_strips():
    every = map(chr, range(0x110000))
    assert set(_characters.WHITE_SPACE) == {one for one in every if one.isspace()}


def test_entries_that_never_match_are_named():
    entries = ["dog", "U.S.", "e.g", ".", ", ,", ",  ,", "a\tb", "a ,", "Mr .", "a,"]
    for rule in ("metaclip", "metaclip2"):
        never = Matcher(pl.Series(entries), rule).never.tolist()
        assert [entries[number] for number in never] == ["U.S.", "e.g", ", ,", "a\tb", "a,"]


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_long_captions_and_endless_words(rule):
    word, long = "x" * 100_000, "x" * 5_000
    entries = [long, long[:-1], "x", "x" * 8, "x" * 16, f"{long} a", "a", "日" * 300, "a b", "b a"]
    captions = [word, "a b " * 25_000, f"{long} a", "日" * 33_000, "a", "," * 100_000, long + "x"]
    assert matched(captions, entries, rule) == brute_force(captions, entries, rule)


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
@pytest.mark.parametrize("length", range(1, 26))
def test_tokens_of_every_length(rule, length):
    word = "abcdefghijklmnopqrstuvwxyz"[:length]
    entries = [word, word[:-1], f"{word} {word}", f"{word[:8]} {word[8:]}", f"{word}\0", word + "z"]
    entries = list(dict.fromkeys(entries))
    captions = [word, f"{word} {word}", f"{word[:8]} {word[8:]}", word + "\0", word[:-1], ""]
    assert matched(captions, entries, rule) == brute_force(captions, entries, rule)


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_nobody_and_nothing(rule):
    assert matched([], ["a"], rule) == []
    assert matched([None, "", "a"], [], rule) == [[], [], []]
    assert matched([None, None], ["", "a"], rule) == [[], []]


def test_entries_must_differ():
    for wrong in (["a", "b", "a"], ["a", None]):
        with pytest.raises(ValueError, match="differ from each other"):
            Matcher(pl.Series(wrong))


@pytest.mark.parametrize("rule", ["metaclip", "metaclip2"])
def test_chunks_change_nothing(rule, monkeypatch):
    captions = ["a b", None, "日本, a", "", "b" * 50, "a"] * 40
    entries = ["a", "b", "a b", "本", "日本 ,", "b" * 50, ""]
    whole = matched(captions, entries, rule)
    assert whole == brute_force(captions, entries, rule)
    for captions_at_once, bytes_at_once in ((1, 1), (7, 1000), (1000, 30)):
        monkeypatch.setattr(matching, "CHUNK", captions_at_once)
        monkeypatch.setattr(matching, "CHUNK_BYTES", bytes_at_once)
        assert matched(captions, entries, rule) == whole


def test_the_order_of_entries_changes_only_their_ids():
    captions = ["a b a c, d", "d a", "c ,"]
    entries = ["a", "b", "a b", "b a", "c", ",", "c ,", "d"]
    reversed_ids = [
        [7 - number for number in reversed(found)] for found in matched(captions, entries[::-1])
    ]
    assert reversed_ids == matched(captions, entries)


@pytest.mark.parametrize(("rows", "ids"), [(1, 1), (8192, 2**19), (8193, 2**19), (2**20, 2**31)])
def test_pairs_sort_by_row_then_by_id_whatever_their_width(rows, ids):
    rng = np.random.default_rng(rows)
    row = rng.integers(0, rows, 500)
    number = np.append(rng.integers(0, ids, 498), [0, ids - 1])
    pairs = matching._Pairs(rows, ids)
    found = pairs.settled([pairs.of(row, number), pairs.of(row[:100], number[:100])])
    assert found[1].dtype == np.uint32
    expected = sorted(set(zip(row.tolist(), number.tolist(), strict=True)))
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
