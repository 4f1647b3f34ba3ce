"""What every filter promises, and what each of them decides, to the row."""

import ast
import inspect
import json
import math
import pickle
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_pool import Pipeline, ledger_of

import filters
from curate import chance
from curate.docs import FILE, page
from curate.errors import ConfigError
from filters import (
    UNSCORED,
    Batch,
    Counts,
    Filter,
    GroupFilter,
    PoolFilter,
    RowFilter,
    _radix,
    judge,
    structured,
)
from filters._top import Top, exact_share
from filters.caption import Caption
from filters.image_size import ImageSize
from filters.where import Where

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
AVAILABLE = {  # a pool with everything that the examples name
    "uid": "String",
    "url": "String",
    "caption": "String",
    "width": "Int64",
    "height": "Int64",
    "clip.similarity": "Float32",
    "clip.text": "Array",
    "language.code": "String",
    **{f"neighbours.{field}": "Float32" for field in ("nearest", "floor")},
    **{f"hash_neighbours.{field}": "Float32" for field in ("nearest",)},
    **{f"{step}.part": "UInt64" for step in ("neighbours", "hash_neighbours")},
    **{f"{step}.count": "UInt32" for step in ("neighbours", "hash_neighbours")},
    **{f"coarse.{field}": "UInt32" for field in ("cluster", "second")},
    **{f"coarse.{field}": "Float32" for field in ("distance", "second_distance")},
    "classes.number": "UInt32",
    "classes.name": "String",
    "classes.similarity": "Float32",
    "references.similarity": "Float32",
    "references.reference": "String",
    "concepts.entries": "List(UInt32)",
}
LEARNT = {  # what a list of three entries gives
    "concepts.codes": np.arange(3, dtype=np.uint64),
    "concepts.texts": pl.Series(["a", "b", "c"]),
    "concepts.languages": pl.Series(["en"] * 3),
}
NAMES = filters.names()


def uids_of(numbers: Sequence[int]) -> np.ndarray:
    uids = np.zeros(len(numbers), dtype=UID)
    uids["f0"] = [n >> 64 for n in numbers]
    uids["f1"] = [n & (2**64 - 1) for n in numbers]
    return uids


def batch(series: dict[str, pl.Series | list], numbers: Sequence[int] | None = None) -> Batch:
    """Survivors with these columns by full name; uids as given, or hashed row numbers."""
    columns = {name: pl.Series(name, values) for name, values in series.items()}
    count = len(next(iter(columns.values())))
    if numbers is None:
        numbers = [(row * 0x9E3779B97F4A7C15) % 2**128 for row in range(count)]
    columns = {n: c.fill_nan(None) if c.dtype.is_float() else c for n, c in columns.items()}
    uids = uids_of(numbers)
    draw = partial(chance.uniform, 0, "test", uids)
    addresses = np.arange(count, dtype=np.uint64)
    return Batch(structured(columns, count), uids, addresses, draw, LEARNT.__getitem__)


def sliced(whole: Batch, rows: np.ndarray) -> Batch:
    def draw(salt: str) -> np.ndarray:
        return whole.uniform(salt)[rows]

    return Batch(whole.frame[rows], whole.uids[rows], whole.addresses[rows], draw, whole.learnt)


def bound(name: str, available: dict[str, str] | None = None, **fields: object) -> Filter:
    """A filter of the folder, ready to decide."""
    found = filters.find(name)(name=name, **fields)
    assert found.problems() == []
    return found.bind(AVAILABLE if available is None else available)


def reasons(name: str, series: dict[str, pl.Series | list], **fields: object) -> list[str | None]:
    """Why a row filter removes each row; None where it stays."""
    seen = batch(series)
    kinds = {column: str(pl.Series(values).dtype) for column, values in series.items()}
    said = judge(bound(name, kinds, **fields), seen)
    assert (said.copies == said.reason.is_null().to_numpy()).all()
    return said.reason.to_list()


# The contract, over every file in the folder


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_what_its_filter_is(name):
    kind = filters.find(name)
    module = inspect.getmodule(kind)
    assert (module.__doc__ or "").split("\n")[0].startswith("Keep ")
    assert (inspect.getdoc(kind) or "").split("\n\n")[0].endswith(".")
    assert kind.version >= 1
    assert [f for f, info in kind.model_fields.items() if not info.description] == ["name"]
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not any(part.split(".")[0] in ("curate", "ray") for part in imported if part)


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_is_a_frozen_value(name):
    kind = filters.find(name)
    fields = yaml.safe_load(kind.example)
    fields = fields if isinstance(fields, dict) else {kind.shorthand: fields}
    made = kind(name=name, **fields)
    assert (made.problems(), made.problems_after_filters()) == ([], [])
    assert kind.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.name = "other"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind(name=name, **fields, no_such_field=1)
    ready = made.bind(AVAILABLE)
    assert pickle.loads(pickle.dumps(ready)) == ready
    assert ready.name == name
    assert set(ready.needs()) <= set(AVAILABLE)
    assert set(ready.shows({}).columns) <= set(ready.needs())
    assert set(ready.shows({}).scores) <= set(ready.shows({}).columns)
    assert isinstance(ready, RowFilter | PoolFilter | GroupFilter)


def verdict(ready: Filter, parts: Sequence[Batch], pool: int | None = None) -> list[str | None]:
    """What a row or pool filter says of batches, the way the engine asks it."""
    rows = sum(len(part.uids) for part in parts)
    if isinstance(ready, RowFilter):
        return [why for part in parts for why in judge(ready, part).reason]
    assert isinstance(ready, PoolFilter)
    state = ready.start(Counts(pool if pool is not None else rows, rows))
    while not ready.finished(state):
        summaries = [ready.summarize(part, state) for part in parts]
        total = None
        for summary in summaries[::-1]:
            total = summary if total is None else ready.merge(total, summary)
        found = ready.fit(total, state)
        arrays = {key: one for key, one in found.items() if isinstance(one, np.ndarray)}
        plain = {key: one for key, one in found.items() if key not in arrays}
        state = {**json.loads(json.dumps(plain, allow_nan=False)), **arrays}
    return [why for part in parts for why in ready.keep(part, state).reason]


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_does_not_depend_on_how_samples_are_spread(name):
    rng = np.random.default_rng(5)
    count = 60
    whole = batch(
        {
            "url": [f"http://{n % 7}" for n in range(count)],
            "caption": [None if n % 11 == 3 else "word " * (n % 6) for n in range(count)],
            "width": rng.integers(100, 400, count).tolist(),
            "height": rng.integers(100, 400, count).tolist(),
            "clip.similarity": pl.Series(rng.random(count).round(1), dtype=pl.Float32),
            "language.code": ["en", "de", None] * (count // 3),
            **{f"{s}neighbours.part": [None, 0, 0, 4] * 15 for s in ("", "hash_")},
            **{f"{s}neighbours.count": [0, 1, 1, None] * 15 for s in ("", "hash_")},
            **{
                f"{s}.nearest": [None, 1.0, 1.0, None] * 15
                for s in ("neighbours", "hash_neighbours")
            },
            "neighbours.floor": [0.5] * count,
            "coarse.cluster": [None if n % 13 == 5 else n % 4 for n in range(count)],
            "coarse.second": [n % 3 for n in range(count)],
            "coarse.distance": pl.Series(rng.random(count).round(1), dtype=pl.Float32),
            "coarse.second_distance": pl.Series(rng.random(count), dtype=pl.Float32),
            "classes.number": [n % 5 for n in range(count)],
            "classes.name": [f"class {n % 5}" for n in range(count)],
            "classes.similarity": pl.Series(rng.random(count).round(1), dtype=pl.Float32),
            "references.similarity": pl.Series(rng.random(count).round(1), dtype=pl.Float32),
            "references.reference": [f"eval/{n}" for n in range(count)],
            "concepts.entries": pl.Series(
                [[None, [], [n % 3], [0, 1 + n % 2]][n % 4] for n in range(count)],
                dtype=pl.List(pl.UInt32),
            ),
        }
    )
    kind = filters.find(name)
    fields = yaml.safe_load(kind.example)
    fields = fields if isinstance(fields, dict) else {kind.shorthand: fields}
    ready = kind(name=name, **fields).bind(AVAILABLE)
    everything = batch(
        {
            name: whole.frame.select(filters.column(name)).to_series()
            for name, dtype in AVAILABLE.items()
            if name != "uid" and dtype != "Array"
        }
    )
    nobody = sliced(everything, np.arange(0))
    if isinstance(ready, GroupFilter):
        assert len(ready.key(nobody)) == len(ready.priority(nobody)) == 0
        assert len(ready.key(everything)) == len(ready.priority(everything)) == count
        return
    assert verdict(ready, [nobody]) == []
    together = verdict(ready, [everything])
    assert {None} < set(together), "the example keeps some and removes some"
    order = rng.permutation(count)
    for cuts in ([30], [0, 1, 59], [20, 20, 40]):
        parts = [np.sort(part) for part in np.split(order, cuts)]
        said = verdict(ready, [sliced(everything, rows) for rows in parts])
        assert said == [together[row] for rows in parts for row in rows]


def test_the_page_of_all_filters_is_current():
    assert FILE.read_text(encoding="utf-8") == page(), "run `python -m curate.docs`"


def test_the_page_names_every_filter_and_field():
    text = FILE.read_text(encoding="utf-8")
    for name in NAMES:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for field in filters.find(name).model_fields:
            assert field == "name" or f"| `{field}` |" in section


def test_an_unknown_filter_is_told_of_the_closest():
    with pytest.raises(KeyError, match=r"no filter 'captions'; did you mean 'caption'\?"):
        filters.find("captions")


# caption

CAPTIONS = ["a b c", "a  b", " a\tb\u00a0c\u3000d\n", "", "   ", None, "ab", "日本 語", "x" * 9]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [None, None, None, None, None, UNSCORED, None, None, None]),
        (
            {"min_words": 2},
            [None, None, None] + ["too_few_words"] * 2 + [UNSCORED, "too_few_words", None]
            + ["too_few_words"],
        ),
        (
            {"max_words": 2, "min_characters": 3},
            [
                "too_many_words", None, "too_many_words", "too_few_characters", None, UNSCORED,
                "too_few_characters", None, None,
            ],
        ),
        (
            {"min_words": 1, "max_characters": 4},
            [
                "too_many_characters", None, "too_many_characters", "too_few_words",
                "too_few_words", UNSCORED, None, None, "too_many_characters",
            ],
        ),
    ],
)  # fmt: skip
def test_caption_counts_words_and_characters(fields, expected):
    assert reasons("caption", {"caption": CAPTIONS}, **fields) == expected


@given(st.lists(st.text(max_size=12)), st.integers(0, 4), st.integers(0, 8))
def test_caption_agrees_with_python(captions, words, characters):
    """`str.split` splits on U+001C to U+001F too; the docstring says that we do not."""
    captions = [c.translate(dict.fromkeys(range(0x1C, 0x20), "x")) for c in captions]
    expected = [
        "too_few_words" if len(c.split()) < words
        else "too_few_characters" if len(c) < characters else None
        for c in captions
    ]  # fmt: skip
    fields = {"min_words": words, "min_characters": characters}
    assert (
        reasons("caption", {"caption": pl.Series(captions, dtype=pl.String)}, **fields) == expected
    )


def test_caption_measures_the_column_it_is_told():
    series = {"caption": ["a b"], "other": ["a"]}
    assert reasons("caption", series, column="other", min_words=2) == ["too_few_words"]


# image_size


def test_image_size_knows_sides_and_shapes():
    series = {
        "width": [200, 199, 900, 600, 601, 0, None, 300, 200, -5],
        "height": [200, 600, 200, 200, 200, 200, 200, None, 600, 10],
    }
    assert reasons("image_size", series, min_side=200, max_side=800, max_aspect_ratio=3.0) == [
        None,
        "too_small",
        "too_large",
        None,
        "too_elongated",
        UNSCORED,
        UNSCORED,
        UNSCORED,
        None,
        UNSCORED,
    ]
    assert reasons("image_size", {"width": [0], "height": [3]}) == [UNSCORED]


@given(st.integers(1, 3000), st.integers(1, 3000))
@example(300, 100)
@example(49, 147)
def test_the_aspect_ratio_is_that_of_the_whole_numbers(width, height):
    removed = max(width, height) > 3 * min(width, height)
    series = {"width": [width], "height": [height]}
    found = reasons("image_size", series, max_aspect_ratio=3.0)
    assert found == ["too_elongated" if removed else None]


def test_image_size_reads_the_original_size_where_there_is_one():
    names = ("width", "height", "original_width", "original_height", "file.width", "file.height")
    everything = dict.fromkeys(names, "Int64")
    kind = filters.find("image_size")
    assert kind().bind(everything).needs() == ("original_width", "original_height")
    stored = {name: "Int64" for name in names if not name.startswith("original")}
    assert kind().bind(stored).needs() == ("width", "height")
    own = {name: "Int64" for name in names if name.startswith("file")}
    assert kind().bind(own).needs() == ("file.width", "file.height")
    named = kind(columns=("width", "height")).bind(everything)
    assert named.needs() == ("width", "height")
    with pytest.raises(filters.Unbound, match=r"\[a.width, a.height\], \[b.width, b.height\]"):
        kind().bind(dict.fromkeys(("a.width", "a.height", "b.width", "b.height"), "Int64"))


# where


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("language.code = 'en'", [None, "false", UNSCORED, None]),
        ("language.code = 'en' and score > 0.5", [None, "false", UNSCORED, "false"]),
        ("language.code = 'en' or score > 0.5", [None, None, UNSCORED, None]),
        ("not language.code = 'en'", ["false", None, UNSCORED, "false"]),
        ("language.code is null", ["false", "false", None, "false"]),
        ("coalesce(language.code, 'en') = 'en'", [None, "false", None, None]),
        ("language.code in ('de', 'fr')", ["false", None, UNSCORED, "false"]),
        ("language.code = 'Len'", ["false", "false", UNSCORED, "false"]),
        ("caption like '%cat%'", [None, "false", "false", None]),
        ("score between 0.5 and 0.9", [None, None, UNSCORED, "false"]),
        ("score > 0.5 and language.probability < score", [None, UNSCORED, UNSCORED, "false"]),
        ("length(caption) >= 5", [None, "false", "false", None]),
        ("1 = 1", [None] * 4),
        ("1 = 2", ["false"] * 4),
    ],
)
def test_where_is_sql_over_columns_and_fields(sql, expected):
    series = {
        "caption": ["a cat", "dog", "", "cat cat"],
        "score": [0.9, 0.6, math.nan, 0.1],
        "language.code": ["en", "de", None, "en"],
        "language.probability": [0.5, None, 0.5, 0.5],
    }
    assert reasons("where", series, sql=sql) == expected


def test_where_needs_the_columns_it_names():
    sql = (
        "language.code = 'en' and (clip.similarity > 0.3 or length(caption) > 3) and caption <> ''"
    )
    made = bound("where", sql=sql)
    assert sorted(made.needs()) == ["caption", "clip.similarity", "language.code"]


@pytest.mark.parametrize(
    "sql",
    [
        "score > avg(score)",
        "score = max(language.probability)",
        "count(*) > 1",
        "row_number() over (order by score) < 3",
        "lag(score) over (order by score) > 1",
        "score > quantile_cont(score, 0.5)",
        "score > first(score)",
        "exists(select 1)",
        "string_agg(caption) = 'a'",
        "unnest(caption) = 'a'",
    ],
)
def test_where_sees_no_other_sample(sql):
    """An aggregate over a batch would depend on how samples are spread over shards."""
    problems = filters.find("where")(sql=sql).problems()
    assert problems == ["a condition sees one sample: it takes no aggregate, window or sub-query"]


# clip_score, by a limit


def test_a_limit_is_compared_in_the_precision_of_the_column():
    """DataComp compares in float32: in float64 the stored 0.281 would be below 0.281."""
    stored = pl.Series([0.281, 0.2809999, 0.3, None, math.nan], dtype=pl.Float32)
    assert float(stored[0]) < 0.281
    expected = [None, "below_threshold", None, UNSCORED, UNSCORED]
    assert reasons("clip_score", {"clip.similarity": stored}, at_least=0.281) == expected
    sql = reasons("where", {"clip.similarity": stored}, sql="clip.similarity >= 0.281")
    assert [why is None for why in sql] == [why is None for why in expected]
    both = {"at_least": 0.25, "at_most": 0.281}
    assert reasons("clip_score", {"clip.similarity": stored}, **both) == [
        None, None, "above_threshold", UNSCORED, UNSCORED,
    ]  # fmt: skip
    single = bound("clip_score", at_least=0.281)
    assert single.shows({}).thresholds == {"below_threshold": 0.281}


@given(
    st.lists(st.floats(-1, 1, width=32) | st.just(math.nan), max_size=30),
    st.floats(-1, 1), st.floats(-1, 1),
)  # fmt: skip
def test_raising_a_limit_adds_nobody(values, one, other):
    series = {"clip.similarity": pl.Series(values, dtype=pl.Float32)}
    low, high = (
        {n for n, why in enumerate(reasons("clip_score", series, at_least=limit)) if why is None}
        for limit in sorted((one, other))
    )
    assert high <= low


# top


@pytest.mark.parametrize(
    ("fraction", "rows", "expected"),
    [(0.29, 100, 29), (0.3, 10, 3), (0.1, 3, 0), (1.0, 7, 7), (0.07, 100, 7), (1e-05, 10**6, 10),
     (0.3, 12_800_000_000, 3_840_000_000), (0.57, 100, 57), (1 / 3, 3, 0)],
)  # fmt: skip
def test_a_fraction_is_the_decimal_written(fraction, rows, expected):
    assert exact_share(fraction, rows) == expected


@given(st.integers(1, 10**6), st.integers(0, 10**12))
def test_shares_are_exact_for_any_decimal(millionths, rows):
    fraction = float(Decimal(millionths) / 10**6)
    exact = (Decimal(millionths) * rows / 10**6).to_integral_value(ROUND_FLOOR)
    assert exact_share(fraction, rows) == exact


VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 5e-324, -5e-324, 1e308]),
    st.sampled_from([0.5, 0.25]),
    st.floats(width=32),
    st.floats(),
)
FEW = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**64 + 1, 2**127, 2**128 - 1])
POOLS = st.lists(st.tuples(VALUES, FEW | st.integers(0, 2**128 - 1)), max_size=40)


class TopValue(Top):
    """The smallest subclass there can be."""

    def needs(self) -> tuple[str, ...]:
        return ("value",)

    def values(self, batch: Batch) -> np.ndarray:
        return batch.frame["value"].fill_null(math.nan).to_numpy()


def best(values: Sequence[float], numbers: Sequence[int], take: int) -> set[int]:
    """Rows of the `take` best by (value descending, uid, row), by sorting them."""
    scored = [row for row, value in enumerate(values) if not math.isnan(value)]
    return set(sorted(scored, key=lambda row: (-values[row], numbers[row], row))[:take])


def kept(said: Sequence[str | None]) -> set[int]:
    return {row for row, why in enumerate(said) if why is None}


@settings(max_examples=150)
@given(
    pool=POOLS,
    take=st.integers(1, 45),
    gather=st.sampled_from([0, 1, 3, 1 << 17]),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
@example([(0.0, 1), (-0.0, 0)], 1, 0, [1])
@example([(math.nan, 1)] * 5, 3, 0, [2])
@example([(0.5, 7)] * 30, 11, 0, [10, 20])
@example([(1.0, n) for n in range(9)] + [(0.5, n) for n in range(9)], 9, 3, [5])
@example([(-math.inf, 2), (-math.inf, 1)], 1, 1, [])
def test_top_is_a_sort_however_rows_are_spread(pool, take, gather, cuts):
    values, numbers = [v for v, _ in pool], [n for _, n in pool]
    whole = batch({"value": pl.Series(values, dtype=pl.Float64)}, numbers)
    rows = np.split(np.arange(len(pool)), sorted(cuts))
    parts = [sliced(whole, part) for part in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_radix, "GATHER", gather)
        said = verdict(TopValue(name="top", top_count=take), parts)
    assert kept(said) == best(values, numbers, take)
    removed = {row: why for row, why in enumerate(said) if why is not None}
    assert removed == {
        row: UNSCORED if math.isnan(values[row]) else "below_threshold" for row in removed
    }


@given(POOLS, st.integers(1, 100), st.integers(1, 100))
def test_a_larger_share_removes_nobody(pool, one, other):
    whole = batch(
        {"value": pl.Series([v for v, _ in pool], dtype=pl.Float64)}, [n for _, n in pool]
    )
    small, large = (
        kept(verdict(TopValue(name="top", top_fraction=percent / 100), [whole]))
        for percent in sorted((one, other))
    )
    assert small <= large
    scored = sum(not math.isnan(value) for value, _ in pool)
    assert len(large) == min(max(one, other) * len(pool) // 100, scored)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@given(pool=POOLS)
def test_keys_order_as_values_do(precision, pool):
    values = np.array([v for v, _ in pool if not math.isnan(v)])
    with np.errstate(over="ignore"):
        values = values.astype(precision)
    keys = _radix.order(values)
    assert keys.dtype.itemsize == values.dtype.itemsize
    order = np.argsort(keys, kind="stable")
    assert order.tolist() == np.argsort(-values, kind="stable").tolist()
    for value, key in zip(values.tolist(), keys.tolist(), strict=True):
        assert _radix.value_of(key, precision) == value


def test_a_million_rows_in_many_batches_are_selected_exactly(monkeypatch):
    """More rows than are ever gathered, with so many ties that only uids can decide."""
    monkeypatch.setattr(_radix, "GATHER", 1000)
    rng = np.random.default_rng(1)
    count = 300_000
    values = rng.integers(0, 9, count) / 16
    values[rng.integers(0, count, 1000)] = math.nan
    halves = rng.integers(0, 2**64, (2, count), dtype=np.uint64)
    uids = np.zeros(count, dtype=UID)
    uids["f0"], uids["f1"] = halves[0] >> np.uint64(50), halves[1]  # upper halves repeat too
    whole = Batch(
        pl.DataFrame({"value": values}), uids, np.arange(count, dtype=np.uint64), lambda _: values
    )
    parts = [sliced(whole, rows) for rows in np.array_split(np.arange(count), 7)]
    said = verdict(TopValue(name="top", top_fraction=0.3), parts)
    order = np.lexsort((uids["f1"], uids["f0"], -values))
    assert kept(said) == set(order[: int(0.3 * count)].tolist())


def test_what_the_share_is_taken_of():
    """10 of the pool, of which 6 survive; 0.5 of it by each meaning."""
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, None]
    pool = batch({"clip.similarity": pl.Series(values, dtype=pl.Float32)})
    survivors = sliced(pool, np.array([1, 3, 5, 7, 8, 9]))
    found = {}
    for of in ("survivors", "pool_threshold", "pool_count"):
        ready = bound("clip_score", top_fraction=0.5, of=of)
        state = ready.start(Counts(10, 6))
        while not ready.finished(state):
            state = ready.fit(
                ready.summarize(pool if ready.over_pool() else survivors, state), state
            )
        found[of] = [values[row] for row in np.array([1, 3, 5, 7, 8, 9])[
            ready.keep(survivors, state).copies > 0
        ]]  # fmt: skip
    assert found == {
        "survivors": [0.8, 0.6, 0.4],
        "pool_threshold": [0.8, 0.6],  # the best 5 of the pool end at 0.5
        "pool_count": [0.8, 0.6, 0.4, 0.2, 0.1],
    }


def test_the_threshold_is_shown_in_the_unit_of_the_column():
    ready = bound("clip_score", top_count=2)
    series = pl.Series([0.1, 0.5, 0.25, 0.125], dtype=pl.Float32)
    seen = batch({"clip.similarity": series})
    state = ready.fit(ready.summarize(seen, ready.start(Counts(4, 4))), ready.start(Counts(4, 4)))
    shown = ready.shows(state)
    assert (shown.columns, shown.thresholds) == (("clip.similarity",), {"below_threshold": 0.25})


# What a run makes of them: the whole way from a list to the ledger


def run(folder: Path, rows: dict, *steps: object, **fields: object) -> pl.DataFrame:
    """The ledger in the order of the list."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(folder / "urls.parquet")
    pool = {
        "urls": str(folder / "urls.parquet"),
        "order": "as_listed",
        "rows_per_shard": 3,
        "columns": {},
    }
    pipeline = Pipeline(folder, pool, steps).where(rows_per_block=5, **fields)
    assert pipeline.run().exit_code == 0
    return ledger_of(pipeline.work)


def listing(count: int, **columns: list) -> dict:
    """A list whose uids ascend with the row."""
    return {
        "url": [f"http://h/{n}" for n in range(count)],
        "caption": [f"caption {n}" for n in range(count)],
        "uid": [f"{n:032x}" for n in range(count)],
        **columns,
    }


def test_ties_go_to_the_smaller_uid_and_nulls_are_unscored(tmp_path):
    score = [0.5, 0.5, None, 0.5, math.nan, 0.5, 0.9, 0.5]
    ledger = run(
        tmp_path,
        listing(8, similarity_score=score),
        {"clip_score": {"top_fraction": 0.5}},
    )
    assert ledger["fate"].to_list() == ["kept", "kept", "removed", "kept"] + ["removed"] * 2 + [
        "kept",
        "removed",
    ]
    assert ledger["reason"].to_list() == [
        None, None, UNSCORED, None, UNSCORED, "below_threshold", None, "below_threshold",
    ]  # fmt: skip
    assert ledger["values"][5] == {"similarity_score": 0.5}


def test_infinities_are_scores(tmp_path):
    score = [math.inf, -math.inf, 0.0, -math.inf]
    ledger = run(
        tmp_path, listing(4, similarity_score=score), {"clip_score": {"top_fraction": 0.75}}
    )
    assert ledger["fate"].to_list() == ["kept", "kept", "kept", "removed"]


DUPLICATES = listing(
    9,
    group=["a", "b", "a", None, "a", "b", None, "c", "a"],
    score=[0.1, 0.5, 0.9, 0.5, None, 0.5, 0.5, math.nan, 0.9],
    number=[1.0, 2.0, 1.0, 3.0, -0.0, 5.0, 6.0, 7.0, 0.0],
)


@pytest.mark.parametrize(
    ("fields", "kept_rows"),
    [
        ({"by": ["group"]}, [0, 1, 7]),
        ({"by": ["group"], "keep": {"highest": "score"}}, [1, 2, 7]),
        ({"by": ["group"], "keep": {"lowest": "score"}}, [0, 1, 7]),
        ({"by": ["group", "score"]}, [0, 1, 2]),
        ({"by": ["number"]}, [0, 1, 3, 4, 5, 6, 7]),
        ({"by": ["group", "number"]}, [0, 1, 4, 5, 7]),
        ({"by": ["url"]}, list(range(9))),
    ],
)
def test_one_of_each_group_stays(tmp_path, fields, kept_rows):
    ledger = run(tmp_path, DUPLICATES, {"exact_duplicates": fields})
    assert np.flatnonzero(ledger["fate"] == "kept").tolist() == kept_rows
    groups = pl.DataFrame(DUPLICATES).select(fields["by"])
    for row, (reason, because) in enumerate(ledger.select("reason", "because").rows()):
        known = not any(value is None or value != value for value in groups.row(row))
        assert reason == (None if row in kept_rows else "duplicate" if known else UNSCORED)
        if reason == "duplicate":
            assert because in [ledger["uid"][other] for other in kept_rows]
            assert groups.row(int(because, 16)) == groups.row(row), "-0.0 is 0.0"


def test_group_and_value_columns_of_every_type_decide(tmp_path):
    """Dates, decimals, binary and categories: what a stranger's parquet may hold."""
    frame = pl.DataFrame(listing(4)).with_columns(
        pl.Series("day", ["2026-01-01", "2026-01-02"] * 2).str.to_date(),
        pl.Series("price", ["1.10", "1.10", "2.20", None]).cast(pl.Decimal(10, 2)),
        pl.Series("raw", [b"\xff", b"\xff", b"a", None]),
        pl.Series("kind", ["x", "y", "x", None], dtype=pl.Categorical),
    )
    expected = {
        "day": [0, 1],
        "price": [0, 2],
        "raw": [0, 2],
        "kind": [0, 1],
    }
    for column, rows in expected.items():
        ledger = run(tmp_path / column, frame.to_dict(), {"exact_duplicates": {"by": [column]}})
        assert np.flatnonzero(ledger["fate"] == "kept").tolist() == rows, column


def drawn(name: str = "draw", seed: int = 0, pool: int = 100, **fields: object) -> frozenset[int]:
    """Rows of 60 survivors that a random sample keeps."""
    uids = uids_of(range(60))
    draw = partial(chance.uniform, seed, name, uids)
    seen = Batch(structured({}, 60), uids, np.arange(60, dtype=np.uint64), draw)
    return frozenset(kept(verdict(bound("random_sample", **fields), [seen], pool)))


def test_a_random_sample_is_exact_and_grows():
    for of, rows in (("survivors", 60), ("pool_count", 100)):
        samples = [drawn(fraction=percent / 100, of=of) for percent in (1, 29, 30, 57, 100)]
        assert [len(each) for each in samples] == [
            min(percent * rows // 100, 60) for percent in (1, 29, 30, 57, 100)
        ]
        assert all(small <= large for small, large in pairwise(samples))
    assert drawn(count=7) < drawn(count=8)
    other = {drawn(count=30), drawn(count=30, seed=1), drawn("b", count=30)}
    assert {len(each) for each in other} == {30}
    assert len(other) == 3, "another seed or step name is another sample"


def test_a_random_sample_of_the_pool_counts_the_usable_rows(tmp_path):
    rows = listing(100, score=[n % 5 for n in range(100)])
    sample = {"random_sample": {"fraction": 0.29, "of": "pool_count"}}
    ledger = run(tmp_path, rows, {"where": "score >= 2"}, sample)
    assert ledger["fate"].to_list().count("kept") == 29
    assert ledger["reason"].drop_nulls().value_counts().sort("count").rows() == [
        ("below_threshold", 31),
        ("false", 40),
    ]


def test_any_of_keeps_what_any_keeps_and_gives_every_reason(tmp_path):
    rows = listing(6, score=[1, 2, 3, None, 5, 6])
    ledger = run(
        tmp_path,
        rows,
        {
            "any_of": [
                {"where": {"name": "low", "sql": "score < 3"}},
                {"where": {"name": "high", "sql": "score > 5"}},
            ]
        },
    )
    assert ledger["reason"].to_list() == [
        None,
        None,
        "low:false high:false",
        "low:unscored high:unscored",
        "low:false high:false",
        None,
    ]


def test_a_condition_that_fails_on_a_value_names_the_step(tmp_path):
    with pytest.raises(
        ConfigError, match="where cannot be decided: conversion from `str` to `i32`"
    ):
        run(tmp_path, listing(2), {"where": "cast(caption as int) > 3"})


@pytest.mark.parametrize(
    ("filter_", "frame"),
    [
        (
            Caption(
                name="c", min_words=2, max_words=3, min_characters=3, max_characters=9, parity=p
            ),
            pl.DataFrame({"caption": [*CAPTIONS, "a\nb", "a\x1cb", "a b c d e", "x" * 20]}),
        )
        for p in (None, "datacomp", "datacomp_image_based")
    ]
    + [
        (
            ImageSize(name="s", columns=("w", "h"), min_side=2, max_side=4, max_aspect_ratio=2.0),
            pl.DataFrame(
                [(w, h) for w in (None, 0, 1, 2, 4, 5) for h in (None, 0, 1, 2, 4, 5)],
                schema={"w": pl.Int64, "h": pl.Int64},
                orient="row",
            ),
        )
    ],
)
def test_a_rule_is_its_measure_compared_with_the_limit(filter_, frame):
    measures = filter_.shows({}).measures
    rules = filter_.passes()
    assert {reason for one in measures for reason in one.limits} == set(rules)
    for one in measures:
        value = frame.select(one.value).to_series()
        for limit, passes in ((one.at_least, value.__ge__), (one.at_most, value.__le__)):
            if limit is not None:
                reason, number = limit
                said = frame.select(rules[reason]).to_series()
                assert said.to_list() == passes(number).to_list(), (reason, value.to_list())
                assert 0 < said.sum() < said.count()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("clip.similarity > 0.3", ("clip.similarity", {"false": 0.3}, "high")),
        ("LENGTH(caption) <= 200", ("LENGTH(caption)", {"false": 200.0}, "low")),
        ("abs(a - 2) * 3 >= -1.5", ("abs(a - 2) * 3", {"false": -1.5}, "high")),
        ("(LENGTH(caption) < 9)", ("LENGTH(caption)", {"false": 9.0}, "low")),
        ("(a) + (b) > 5", ("(a) + (b)", {"false": 5.0}, "high")),
        ("a > 5 -- x > 7", ("a > 5 -- x > 7", {"false": 5.0}, "high")),
        ("2 + 3 < length(caption)", None),
        ("cast('5' as double) < a", None),
        ("abs(-5) > a", None),
        ("a >= 3 and b < 1", None),
        ("5 < a", None),
        ("a = 3", None),
        ("a > b", None),
        ("not a > 5", None),
        ("a <= '2020-01-01'", None),
        ("a is null", None),
    ],
)
def test_a_condition_that_compares_with_a_number_says_so(sql, expected):
    measures = Where(name="w", sql=sql).shows({}).measures
    assert [(one.name, one.limits, one.keeps) for one in measures] == (
        [expected] if expected else []
    )
