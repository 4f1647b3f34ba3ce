"""What the published code counts and keeps, and what ours keeps without `parity:`."""

import json
import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import filters
from filters import UNSCORED, Batch, Counts, Filter, PoolFilter, Unbound, _radix, judge, structured

BLANKS = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
NO_BLANKS = "\x00\u200b\u2060\ufeff\u180e_-.\u0301"
CHARACTERS = st.sampled_from(BLANKS + NO_BLANKS + "aé日") | st.characters(codec="utf-8")
TEXTS = st.text(CHARACTERS, max_size=14)


class Unread:
    """Uids of a batch that nobody may look at."""

    def __getitem__(self, rows: object) -> np.ndarray:
        raise AssertionError("uids were read where no values tie")


def batch(name: str, values: pl.Series, uids: object = None, first: int = 0) -> Batch:
    """Survivors with one column; row numbers as uids, descending."""
    count = len(values)
    if uids is None:
        uids = np.zeros(count, dtype="u8,u8")
        uids["f1"] = np.arange(first, first + count)[::-1]
    values = values.fill_nan(None) if values.dtype.is_float() else values
    frame = structured({name: values}, count)
    return Batch(frame, uids, np.arange(first, first + count, dtype=np.uint64), lambda salt: uids)


def reasons(ready: Filter, name: str, values: pl.Series) -> list[str | None]:
    return judge(ready, batch(name, values)).reason.to_list()


def decided(ready: Filter, parts: Sequence[Batch], pool: int) -> list[str | None]:
    """What a pool filter says of batches, the way the engine asks it."""
    assert isinstance(ready, PoolFilter)
    state = ready.start(Counts(pool, sum(part.frame.height for part in parts)))
    while not ready.finished(state):
        total = None
        for part in parts:
            own = ready.summarize(part, state)
            total = own if total is None else ready.merge(own, total)
        state = json.loads(json.dumps(ready.fit(total, state), allow_nan=False))
    verdicts = [ready.keep(part, state) for part in parts]
    for said in verdicts:
        assert (said.copies == said.reason.is_null().to_numpy()).all()
    return [why for said in verdicts for why in said.reason]


def chosen(values: Sequence[float | None], dtype: object = pl.Float32, **fields: object) -> list:
    """Why `score` removes each row, in one batch."""
    series = pl.Series(values, dtype=dtype)
    ready = filters.find("score")(name="score", column="x", **fields)
    assert ready.problems() == []
    ready = ready.bind({"x": str(series.dtype)})
    return decided(ready, [batch("x", series)], len(values))


def kept(found: Sequence[str | None]) -> list[int]:
    return [row for row, why in enumerate(found) if why is None]


# caption


def tokens(text: str) -> int:
    """How many tokens fasttext.tokenize makes of a text: each newline is one."""
    count, inside = 0, False
    for character in text:
        blank = character in " \n\r\t\x0b\x0c\x00"
        count += (not blank and not inside) + (character == "\n")
        inside = not blank
    return count


@settings(max_examples=300)
@given(texts=st.lists(TEXTS, max_size=8), words=st.integers(0, 15), characters=st.integers(0, 9))
@pytest.mark.parametrize(
    ("parity", "count"),
    [("datacomp", lambda text: len(text.split())), ("datacomp_image_based", tokens)],
)
def test_words_are_those_of_the_published_code(parity, count, texts, words, characters):
    series = pl.Series([*texts, None], dtype=pl.String)
    fields = {"min_words": words, "min_characters": characters, "parity": parity}
    expected = [
        "too_few_words" if count(text) < words
        else "too_few_characters" if len(text) < characters else None
        for text in texts
    ]  # fmt: skip
    ready = filters.find("caption")(**fields)
    assert reasons(ready, "caption", series) == [*expected, UNSCORED]
    most = filters.find("caption")(max_words=words + 1, parity=parity)
    expected = ["too_many_words" if count(text) > words + 1 else None for text in texts]
    assert reasons(most, "caption", series) == [*expected, UNSCORED]


def test_every_blank_separates_as_it_does_in_python():
    series = pl.Series([f"a{blank}b" for blank in BLANKS + NO_BLANKS])
    ready = filters.find("caption")(min_words=2, parity="datacomp")
    assert kept(reasons(ready, "caption", series)) == list(range(len(BLANKS)))
    unicode = filters.find("caption")(min_words=2)
    expected = [row for row, blank in enumerate(BLANKS) if blank not in "\x1c\x1d\x1e\x1f"]
    assert kept(reasons(unicode, "caption", series)) == expected


def test_a_newline_is_a_token_to_fasttext():
    texts = ["dogs\n", "dogs\n\n", "a\r\nb", "a\xa0b", "a\x00b", "", "\n", " \n "]
    assert [tokens(text) for text in texts] == [2, 3, 3, 1, 2, 0, 1, 1]
    for least in (1, 2, 3):
        ready = filters.find("caption")(min_words=least, parity="datacomp_image_based")
        found = kept(reasons(ready, "caption", pl.Series(texts)))
        assert found == [row for row, text in enumerate(texts) if tokens(text) >= least]


# image_size


def test_missing_and_zero_sizes_fail():
    series = {
        "width": pl.Series([200.0, math.nan, 200.0, 0.0, None, 600.0, 601.0, 600.03, math.inf]),
        "height": pl.Series([200.0, 300.0, math.nan, 0.0, 300.0, 200.0, 200.0, 200.0, 300.0]),
    }
    frame = structured({name: values.fill_nan(None) for name, values in series.items()}, 9)
    uids = np.zeros(9, dtype="u8,u8")
    seen = Batch(frame, uids, np.arange(9, dtype=np.uint64), lambda salt: uids)
    fields = {"min_side": 200, "max_aspect_ratio": 3.0, "columns": ("width", "height")}
    found = judge(filters.find("image_size")(**fields), seen).reason.to_list()
    assert kept(found) == [0, 5]


# score


SCORES = st.lists(
    st.floats(-1, 1, width=32)
    | st.sampled_from([0.25, 0.5, 0.28, -0.0, 0.0, math.nan])
    | st.none(),
    max_size=40,
)


def published(values: Sequence[float | None], fraction: float) -> list[int]:
    """The rows that DataComp's code keeps; all that are scored where it stops with an error."""
    scores = [np.float32("nan") if v is None else np.float32(v) for v in values]
    ordered = sorted((score for score in scores if not math.isnan(score)), reverse=True)
    ordered += [np.float32("nan")] * (len(scores) - len(ordered))
    place = int(len(scores) * fraction)
    threshold = ordered[place] if place < len(ordered) else np.float32("-inf")
    return [row for row, score in enumerate(scores) if score >= threshold]


@settings(max_examples=300)
@given(SCORES, st.integers(1, 100), st.sampled_from([0, 3, 1 << 17]), st.integers(0, 40))
@example([0.25] * 9, 30, 0, 4)
@example([0.5, None, math.nan, 0.25], 50, 0, 1)
@example([0.5, None, math.nan, 0.25], 100, 0, 1)
@example([row / 128 for row in range(100)], 29, 0, 50)  # 100 * 0.29 is 28.999999999999996
def test_parity_keeps_the_published_rows(values, percent, gather, cut):
    series = pl.Series(values, dtype=pl.Float32)
    ready = filters.find("score")(
        column="x", top_fraction=percent / 100, parity="datacomp", of="pool_threshold"
    )
    ready = ready.bind({"x": "Float32"})
    parts = [batch("x", series[:cut]), batch("x", series[cut:], first=cut)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_radix, "GATHER", gather)
        found = decided(ready, parts, len(values))
    assert kept(found) == published(values, percent / 100)
    unscored = [row for row, why in enumerate(found) if why == UNSCORED]
    assert unscored == [row for row, v in enumerate(values) if v is None or math.isnan(v)]


@settings(max_examples=200)
@given(SCORES, st.integers(1, 99), st.integers(1, 100), st.sampled_from([0, 3, 1 << 17]))
def test_a_band_is_a_share_less_a_smaller_share(values, skipped, taken, gather):
    if skipped >= taken:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_radix, "GATHER", gather)
        whole = kept(chosen(values, top_fraction=taken / 100))
        best = kept(chosen(values, top_fraction=skipped / 100))
        band = chosen(values, top_fraction=taken / 100, skip_fraction=skipped / 100)
    assert set(best) <= set(whole)
    assert kept(band) == sorted(set(whole) - set(best))
    assert [row for row, why in enumerate(band) if why == "above_threshold"] == best


def test_the_band_of_datacomp():
    values = [row / 1000 for row in range(200)]
    found = chosen(values, top_fraction=0.3, skip_fraction=0.01)
    assert kept(found) == list(range(140, 198))


@pytest.mark.parametrize(("dtype", "stays"), [(pl.Float32, True), (pl.Float64, False)])
def test_a_threshold_is_compared_in_the_columns_precision(dtype, stays):
    """DataComp compares the float32 column with 0.281 in float32."""
    stored = pl.Series([float(np.float32(0.281))], dtype=dtype)
    ready = filters.find("score")(column="x", at_least=0.281).bind({"x": str(dtype())})
    assert (reasons(ready, "x", stored) == [None]) == stays


@pytest.mark.parametrize("dtype", [pl.Float16, pl.Float32, pl.Float64, pl.Int64])
@pytest.mark.parametrize("fields", [{"top_count": 3}, {"at_least": 2}, {"at_most": 2}])
def test_scores_may_be_of_any_number_type(dtype, fields):
    series = pl.Series([1, 2, 3, 4, 5]).cast(dtype)
    ready = filters.find("score")(column="x", **fields).bind({"x": str(series.dtype)})
    seen = batch("x", series)
    found = decided(ready, [seen], 5) if "top_count" in fields else judge(ready, seen).reason
    expected = {"top_count": [2, 3, 4], "at_least": [1, 2, 3, 4], "at_most": [0, 1]}
    assert kept(list(found)) == expected[next(iter(fields))]


@pytest.mark.parametrize("parity", [None, "datacomp"])
def test_uids_stay_unread_where_no_values_tie(parity):
    """To read them is most of the work of a pool of metadata."""
    values = pl.Series(np.random.default_rng(3).permutation(5000) / 8192, dtype=pl.Float32)
    fields = {"column": "x", "top_fraction": 0.3, "parity": parity}
    ready = filters.find("score")(**fields).bind({"x": "Float32"})
    parts = [batch("x", values[:3000], Unread()), batch("x", values[3000:], Unread(), 3000)]
    assert len(kept(decided(ready, parts, 5000))) == 1500 + (parity is not None)
    limit = filters.find("score")(column="x", at_least=0.3).bind({"x": "Float32"})
    assert judge(limit, parts[0]).copies.sum() == (values[:3000] >= 0.3).sum()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "give one of: at_least and/or at_most, top_fraction, top_count"),
        ({"at_least": 0.3, "top_count": 5}, "give one of"),
        ({"top_count": 5, "skip_fraction": 0.1}, "skip_fraction goes with top_fraction"),
        ({"top_count": 5, "parity": "datacomp"}, "parity goes with top_fraction"),
        ({"at_least": 0.3, "parity": "datacomp"}, "it goes with top_fraction"),
        ({"top_fraction": 0.1, "skip_fraction": 0.1}, "is not below top_fraction 0.1"),
        (
            {"top_fraction": 0.3, "skip_fraction": 0.1, "parity": "datacomp"},
            "DataComp's code has no skip_fraction",
        ),
        (
            {"top_fraction": 0.3, "parity": "datacomp", "of": "survivors"},
            "write `of: pool_threshold`",
        ),
        ({"at_least": 0.5, "at_most": 0.4}, "nothing can pass"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, problem):
    for name in ("score", "clip_score"):
        (found,) = filters.find(name)(column="x", **fields).problems()
        assert problem in found


def test_a_score_must_be_a_number():
    with pytest.raises(Unbound, match="url holds strings, not numbers"):
        filters.find("score")(column="url", at_least=1).bind({"url": "String"})
    with pytest.raises(Unbound, match="l14_img holds arrays, not numbers"):
        filters.find("score")(column="l14_img", top_count=1).bind({"l14_img": "Array"})


def test_clip_score_is_score_of_the_similarity():
    values = pl.Series([0.1, 0.3, 0.2, None], dtype=pl.Float32)
    name = "clip_l14_similarity_score"
    ready = filters.find("clip_score")(top_fraction=0.5).bind({name: "Float32", "width": "Int64"})
    assert kept(decided(ready, [batch(name, values)], 4)) == [1, 2]
    two = {name: "Float32", "clip_b32_similarity_score": "Float32"}
    with pytest.raises(Unbound, match="several columns give a similarity"):
        filters.find("clip_score")(top_fraction=0.5).bind(two)
