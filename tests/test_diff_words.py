"""Words and entries that are commoner on either side: formulas, tables and planted truth."""

import json
import math

import numpy as np
import polars as pl
import pytest
from metadata_pool import uid
from tiny_pool import Reported

from curate.comparison.command import Asked, diff
from curate.comparison.effects import (
    Counted,
    difference_of_shares,
    log_odds,
    quantile,
    standardised,
)
from curate.comparison.vocabulary import Contrast, Words, words_of
from curate.features._exact_sums import exact_sums
from curate.page.charts.diff import lean_chart
from curate.report.words import Draw
from curate.runner import LocalRunner

ROWS = 400
ENTRIES = ("lighthouse", "harbour", "<b>bold</b>", "stamp")


def caption(number: int) -> str:
    """Rows of low score speak of lighthouses, those of small pictures of harbours."""
    words = ["a stamp", f"number{number % 50}"]
    words += ["of a lighthouse"] if number % 2 and number % 20 != 1 else []
    words += ["in a harbour"] if number % 4 == 0 else []
    words += [" <b>bold</b> "] if number % 8 == 0 else []
    return " ".join(words)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """A keeps even numbers and one in ten of the odd ones, B all but a half of the even ones."""
    folder = tmp_path_factory.mktemp("words")
    table = {
        "uid": [uid(n) for n in range(ROWS)],
        "url": [f"http://host{n % 3}.example/{n}" for n in range(ROWS)],
        "text": [caption(n) for n in range(ROWS)],
        "odd": [float(n % 2) for n in range(ROWS)],
        "fourth": [float(n % 4 == 0) for n in range(ROWS)],
    }
    (folder / "in").mkdir()
    pl.DataFrame(table).write_parquet(folder / "in" / "0.parquet")
    (folder / "entries.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES))
    for name, sql in (("even", "odd = 0"), ("not_fourth", "fourth = 0")):
        steps = [
            {"concepts": {"entries": str(folder / "entries.txt")}},
            {"where": {"name": "part", "sql": sql}},
        ]
        pool = {"metadata": str(folder / "in"), "arrays": "none"}
        Reported(folder / name, pool, steps).run()
    places = [str(folder / name / "work") for name in ("even", "not_fourth")]
    diff(*places, Asked(out=str(folder / "diff")), LocalRunner())
    found = json.loads((folder / "diff" / "diff.json").read_text())
    return found | {"page": (folder / "diff" / "index.html").read_text()}


def test_planted_words_are_found_on_their_side(found):
    words = found["words"]
    assert words["groups"] == ["only_a", "only_b"]
    assert words["captions"] == words["of"] == [100, 200]  # multiples of four; odd numbers
    assert [word["word"] for word in words["more_in_a"][:3]] == ["harbour", "in", "b"]
    assert [word["word"] for word in words["more_in_b"][:2]] == ["lighthouse", "of"]
    [top, *_] = words["more_in_b"]
    assert (top["a"], top["b"]) == (0, 180)
    assert top["sure"]
    assert top["log_odds"]["high"] < 0
    assert top["difference"]["value"] == -0.9
    listed = {word["word"] for side in ("more_in_a", "more_in_b") for word in words[side]}
    assert not {"stamp", "a"} & listed


def test_entries_are_compared_over_the_columns_that_were_stored(found):
    [concepts] = found["concepts"]
    assert concepts["step"] == "concepts"
    assert concepts["captions"] == [100, 200]
    own = {one["word"]: (one["a"], one["b"]) for one in concepts["more_in_a"]}
    assert own == {"harbour": (100, 0), "<b>bold</b>": (50, 0)}
    assert [one["word"] for one in concepts["more_in_b"]] == ["lighthouse"]


def test_domains_are_shared_out(found):
    [domains] = [one for one in found["shares"] if one["column"] == "domain"]
    assert {value["value"] for value in domains["values"]} == {f"host{n}.example" for n in range(3)}
    for side, kept in (("a", range(0, ROWS, 2)), ("b", [n for n in range(ROWS) if n % 4])):
        own = {value["value"]: value[side] for value in domains["values"]}
        assert own["host1.example"] == sum(n % 3 == 1 for n in kept)
        assert domains[side] == len(kept)


def test_entries_of_strangers_are_text(found):
    body, data = found["page"].split('<script type="application/json"')
    assert "<b>bold</b>" not in body
    assert "&lt;b&gt;bold&lt;/b&gt;" in body
    assert "<b>" not in data.split("</script>")[0]


def naive(a: int, b: int, n: int, m: int) -> tuple[float, float]:
    """Monroe, Colaresi, Quinn (2008), by hand."""
    prior = min(500, n, m)
    alpha = prior * (a + b) / (n + m)
    beta = prior - alpha
    one = math.log((a + alpha) / (n - a + beta)) - math.log((b + alpha) / (m - b + beta))
    variance = sum(1 / x for x in (a + alpha, n - a + beta, b + alpha, m - b + beta))
    return one, math.sqrt(variance)


def test_log_odds_are_those_of_the_formula_and_shrink_rare_words():
    counted = Counted(np.array([40, 3, 0]), np.array([10, 0, 7]), 1_000, 800)
    odds = log_odds(counted)
    for place, (a, b) in enumerate([(40, 10), (3, 0), (0, 7)]):
        ratio, error = naive(a, b, 1_000, 800)
        assert odds.ratio[place] == pytest.approx(ratio)
        assert odds.error[place] == pytest.approx(error)
    assert abs(odds.z[1]) < abs(odds.z[0])  # three captions against none tell little


def test_words_of_all_captions_have_finite_odds():
    odds = log_odds(Counted(np.array([10]), np.array([20]), 10, 20))
    assert np.isfinite(odds.ratio).all()
    assert np.isfinite(odds.z).all()


def test_difference_of_shares_is_newcombes():
    """Newcombe (1998), table II, rows of method 10."""
    cases = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (10, 10, 0, 10): (0.6075, 1.0000),
    }
    for (a, n, b, m), (low, high) in cases.items():
        found = difference_of_shares(Counted(np.array([a]), np.array([b]), n, m))
        assert [round(float(x[0]), 4) for x in found[1:]] == [low, high]


def test_intervals_widen_with_the_number_of_words_compared():
    assert quantile() == pytest.approx(1.959964, abs=1e-6)
    assert quantile(1_000) == pytest.approx(4.055627, abs=1e-6)  # of a chance of 0.05 / 2000


@pytest.mark.parametrize(
    ("sizes", "deviations"),
    [
        ((300, 60, 140), (1, 1, 1)),  # samples on both sides make it narrower
        ((0, 400, 100), (1, 1, 3)),  # the smaller side deviates more: pooled, it is too narrow
        ((0, 100, 400), (1, 1, 3)),
        ((200, 0, 600), (2, 1, 2)),  # one side is part of the other
        ((1000, 0, 100), (1, 1, 5)),  # and what the other adds is unlike it
        ((1000, 100, 100), (1, 3, 3)),
        ((0, 1, 500), (1, 1, 1)),  # a few samples do not tell their variance
        ((0, 2, 500), (1, 1, 1)),
        ((0, 5, 500), (1, 1, 1)),
    ],
)
def test_a_difference_of_means_covers_the_truth_as_often_as_it_says(sizes, deviations):
    draw = np.random.default_rng(0)
    covered, trials = 0, 1000
    for _ in range(trials):
        both, only_a, only_b = map(exact_sums, map(draw.normal, (0, 0, 0), deviations, sizes))
        found = standardised((both, only_a), (both, only_b))
        assert found is not None
        covered += found[1] <= 0.0 <= found[2]
    assert 0.93 < covered / trials < 0.97


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0]])
def test_where_nothing_deviates_there_is_no_difference_of_means(values):
    side = exact_sums(np.empty(0)), exact_sums(np.array(values))
    assert standardised(side, side) is None


def test_huge_values_do_not_overflow():
    sums = (exact_sums(np.array(values)) for values in ([1e300, 2e300], [-1e300, 1.0]))
    found = standardised(*((exact_sums(np.empty(0)), one) for one in sums))
    assert found is not None
    assert np.isfinite(found).all()


def test_words_are_the_same_in_any_order_of_blocks():
    """What is drawn of many captions, merged in any order."""
    draw = np.random.default_rng(1)
    look = Words(Contrast((True, True)), most=60)
    uids = draw.integers(0, 2**63, (200, 2), dtype=np.uint64)
    captions = pl.Series([caption(int(n)) for n in draw.integers(0, ROWS, 200)])
    halves = np.zeros(200, dtype=[("f0", "<u8"), ("f1", "<u8")])
    halves["f0"], halves["f1"] = uids.T
    groups = draw.integers(-1, 2, 200)
    parts = [
        Draw(0, 60).of(groups[place], halves[place], captions.gather(pl.Series(place)))
        for place in np.array_split(draw.permutation(200), 4)
    ]
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = look.nothing()
        for place in order:
            merged = look.merge(merged, parts[place])
        found.append(words_of(merged, look.contrast, (70, 70), 30))
    assert found[0] == found[1]
    assert found[0]["captions"] == [60, 60]


def test_odds_ratios_are_drawn_above_one_on_both_sides(found):
    for side in ("more_in_a", "more_in_b"):
        chart = lean_chart(found["words"][side], "var(--kept)")
        assert chart is not None
        rows = [row for data in chart.to_dict()["datasets"].values() for row in data]
        assert {row["word"] for row in rows} == {one["word"] for one in found["words"][side]}
        assert all(1 < row["low"] <= row["odds"] <= row["high"] for row in rows)
