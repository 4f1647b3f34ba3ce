"""The filters by themselves: counted again by hand, on the rows that have every column."""

import itertools
import json
import pickle
import re
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from scipy import stats

from curate import chance
from curate.page.charts.probe import correlation_chart, overlap_chart
from curate.page.probe import interval
from curate.page.texts import share
from curate.report import numbers
from curate.report.probe import probe
from curate.report.probe.choice import MOST, choose, suggested
from curate.report.probe.intervals import codes, correlation, estimate
from curate.report.probe.look import Looked, look
from curate.report.reading import read_facts
from curate.report.schema import Probe
from curate.runner import LocalRunner
from curate.sample import UID, parse_uids
from tests.embedding_pool import Embedded, embed, values
from tests.picture_server import picture_server
from tests.test_changes import DOWNLOAD, Folder, jpeg
from tests.tiny_pool import Reported

WORDS = ["one", "two words", "three more words", "un petit chien dans le jardin", ""]
SIMILARITY = "clip_l14_similarity_score"
SHARE = 0.7
STEPS = (
    {"caption": {"min_words": 2}},
    {"where": {"name": "near", "sql": "a > -1.0"}},
    {"language": {}},
    {"where": {"name": "sure", "sql": "language.probability > 0.5"}},
    {"clip_score": {"name": "top", "column": SIMILARITY, "top_fraction": 0.6, "of": "survivors"}},
    {
        "any_of": [
            {"where": {"name": "positive", "sql": "b > 0"}},
            {"score": {"name": "high", "column": "a", "at_least": 1.0}},
        ]
    },
    {"exact_duplicates": {"by": ["url"]}},
)
MEASURED = ["caption", "near", "sure", "top", "any_of"]


def samples(count: int = 400) -> Embedded:
    """Samples with short, empty and missing captions, and scores of which some are missing."""
    drawn = embed(count)
    texts = [None if row % 23 == 5 else f"{WORDS[row % 5]} {row}" for row in range(count)]
    gone = pl.Series(np.arange(count) % 7 == 3)
    return drawn.with_columns(
        text=pl.Series(texts),
        a=pl.when(gone).then(None).otherwise(pl.col("a")),
        b=pl.when(gone & (pl.col("b") > 2)).then(None).otherwise(pl.col("b")),
    )


SAMPLES = samples()


def of(pipeline: Reported) -> dict:
    """What report.json says, in the form that it promises."""
    found = json.loads(json.dumps(probe(read_facts(str(pipeline.work)), LocalRunner(2))))
    Probe.model_validate_json(json.dumps(found))
    return found


def ran(folder, pool: Embedded = SAMPLES, steps=STEPS, **fields: object) -> dict:
    """The probe of a run."""
    pipeline = Reported(folder, pool.write(folder / "in", 3), steps).where(**fields)
    assert pipeline.run().exit_code == 0
    return of(pipeline)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Reported:
    folder = tmp_path_factory.mktemp("probed")
    pipeline = Reported(folder, SAMPLES.write(folder / "in", 3), STEPS).where(probe=SHARE)
    assert pipeline.run().exit_code == 0
    return pipeline


@pytest.fixture(scope="module")
def found(run) -> dict:
    return of(run)


@pytest.fixture(scope="module")
def every(tmp_path_factory) -> Reported:
    """A run whose feature stands before every filter."""
    folder = tmp_path_factory.mktemp("everybody")
    steps = ({"language": {}}, STEPS[0], STEPS[3])
    pipeline = Reported(folder, SAMPLES.write(folder / "in"), steps).where(probe=0.2)
    assert pipeline.run().exit_code == 0
    return pipeline


@pytest.fixture(scope="module")
def truth(run, every) -> pl.DataFrame:
    """Of each row of the probe, whom each filter would remove and whom for want of a value."""
    uids = SAMPLES.frame["uid"].to_list()
    sure = pl.Series(values(every.work, "language", uids, "probability")).fill_nan(None)
    facts = read_facts(str(run.work))
    [top] = [step for step in numbers.steps(facts, LocalRunner()) if step["name"] == "top"]
    [threshold] = top["filters"][0]["thresholds"].values()
    a, b, words = (
        pl.col("a"),
        pl.col("b"),
        pl.col("text").str.split(" ").list.eval(pl.element().filter(pl.element() != "")).list.len(),
    )
    passes = {
        "caption": words >= 2,
        "near": a > -1.0,
        "sure": sure > 0.5,
        "top": pl.col(SIMILARITY) >= threshold,
    }
    either = (b > 0).fill_null(value=False) | (a >= 1.0).fill_null(value=False)
    frame = SAMPLES.frame.with_columns(
        *((~rule).fill_null(value=True).alias(name) for name, rule in passes.items()),
        *(rule.is_null().alias(f"{name}?") for name, rule in passes.items()),
        (~either).alias("any_of"),
        (b.is_null() & a.is_null()).alias("any_of?"),
    )
    draws = chance.uniform(0, "probe", parse_uids(uids))
    return frame.filter(pl.Series(draws < SHARE))


def test_each_filter_alone_removes_whom_its_rule_does_not_pass(found, truth):
    assert (found["of"], found["rows"], found["left_out"]) == ("probe", truth.height, 0)
    assert [one["filter"] for one in found["filters"]] == MEASURED
    for one in found["filters"]:
        assert one["alone"]["rows"] == truth.height
        assert one["alone"]["count"] == truth[one["filter"]].sum() > 0, one["filter"]
        assert one["unscored"] == truth[one["filter"] + "?"].sum(), one["filter"]
    assert {one["filter"] for one in found["filters"] if one["unscored"]} >= {"near", "any_of"}


def test_only_one_filter_removes_those_that_all_others_pass(found, truth):
    times = truth.select(pl.sum_horizontal(MEASURED)).to_series()
    for one in found["filters"]:
        assert one["only"]["count"] == (truth[one["filter"]] & (times == 1)).sum()
        assert one["only"]["rows"] == truth.height
    assert sum(one["only"]["count"] for one in found["filters"]) > 0


def test_overlap_counts_those_that_both_remove(found, truth):
    pairs = [(one["a"], one["b"]) for one in found["overlap"]]
    assert pairs == list(itertools.combinations(MEASURED, 2))
    for one in found["overlap"]:
        a, b = truth[one["a"]], truth[one["b"]]
        assert (one["a_removed"], one["b_removed"]) == (a.sum(), b.sum())
        assert one["both"] == (a & b).sum()


def test_scores_are_correlated_over_the_rows_that_have_both(found, truth):
    assert [(one["a"], one["b"]) for one in found["correlations"]] == [(SIMILARITY, "a")]
    both = truth.drop_nulls("a")
    [one] = found["correlations"]
    assert one["rows"] == both.height < truth.height
    expected = stats.spearmanr(both[SIMILARITY], both["a"]).statistic
    assert one["rho"] == pytest.approx(expected, abs=1e-6)


def test_duplicates_are_not_measured_and_why_is_said(found):
    [one] = found["not_measured"]
    assert one["filter"] == "exact_duplicates"
    assert "compares samples with each other" in one["why"]


def test_report_json_holds_it(run, found):
    report = json.loads((run.work / "report" / "report.json").read_text())
    assert report["probe"] == found


def test_no_order_of_samples_or_size_of_blocks_changes_it(found, tmp_path):
    mixed = SAMPLES[np.random.default_rng(1).permutation(len(SAMPLES))]
    assert ran(tmp_path, mixed, probe=SHARE, rows_per_block=1000) == found


def test_its_tasks_travel_and_merge_in_any_order(run):
    facts = read_facts(str(run.work))
    task = partial(look, facts.plan, facts.after, choose(facts), choose(facts).states(facts))
    parts = [pickle.loads(pickle.dumps(task))(span) for span in facts.spans()]
    assert len(parts) > 2
    forward, back = parts[0].plus(parts[1]).plus(parts[2]), parts[2].plus(parts[1].plus(parts[0]))
    assert len(forward.draws) == sum(len(part.draws) for part in parts[:3])
    assert sorted(zip(forward.draws, forward.removed.tolist(), strict=True)) == sorted(
        zip(back.draws, back.removed.tolist(), strict=True)
    )


def test_without_a_probe_what_the_whole_pool_has_is_measured(tmp_path):
    found = ran(tmp_path)
    assert (found["of"], found["share"], found["rows"]) == ("pool", 1.0, len(SAMPLES))
    assert [one["filter"] for one in found["filters"]] == ["caption", "near", "top", "any_of"]
    [sure] = [one for one in found["not_measured"] if one["filter"] == "sure"]
    assert "language.probability" in sure["why"]
    assert "write `probe: 1` in the pipeline file" in sure["why"]


def test_a_feature_before_every_filter_is_there_for_the_whole_pool(every):
    found = of(every)
    assert (found["of"], found["rows"]) == ("pool", len(SAMPLES))
    assert [one["filter"] for one in found["filters"]] == ["caption", "sure"]
    facts = read_facts(str(every.work))
    config = facts.plan.config.model_copy(update={"probe": 1.0})
    assert choose(replace(facts, plan=replace(facts.plan, config=config))).of == "probe"


@pytest.mark.slow
def test_what_an_earlier_recipe_left_behind_is_not_looked_at(tmp_path):
    """Rows that another order of steps scored are no part of a fresh run's report."""
    pool = SAMPLES.write(tmp_path / "in")
    early = Reported(tmp_path, pool, ({"language": {}}, STEPS[0], STEPS[3]))
    early.run()
    late = early.where(steps=(STEPS[0], {"language": {}}, STEPS[3]), probe=0.3)
    late.run()
    fresh = late.where(folder=tmp_path / "fresh")
    fresh.run()
    assert of(late) == of(fresh)
    assert of(late)["of"] == "probe"


def test_pictures_that_did_not_come_are_left_out_and_not_unscored(tmp_path):
    answers = {f"/{n}.jpg": jpeg(n, width=60 + 10 * n) for n in range(6)}
    steps = [{"where": "caption not like '%number 1%'"}, DOWNLOAD, {"image_size": {"min_side": 70}}]
    with picture_server(answers) as server:
        urls = [server.url(f"/{n}.jpg") for n in range(8)]  # two of them are not there
        Folder(tmp_path, urls, steps, probe=1.0).go()
    found = probe(read_facts(str(tmp_path / "work")), LocalRunner())
    assert (found["of"], found["rows"], found["left_out"]) == ("probe", 6, 2)
    size = found["filters"][1]
    assert (size["filter"], size["alone"]["count"], size["unscored"]) == ("image_size", 1, 0)


def test_a_filter_that_reads_what_survivors_taught_is_not_measured(tmp_path):
    loss = {"neg_clip_loss": {"image": "l14_img", "text": "l14_txt", "batch": 20, "rounds": 2}}
    best = {"score": {"column": "neg_clip_loss.score", "at_least": 0.0}}
    steps = ({"where": "b > -3"}, loss, best)
    found = ran(tmp_path, steps=steps, probe=1.0)
    assert [one["filter"] for one in found["filters"]] == ["where"]
    [why] = [one["why"] for one in found["not_measured"] if one["filter"] == "score"]
    assert why.startswith("neg_clip_loss.score is learnt from samples")


@pytest.mark.slow
def test_a_filter_that_reads_what_the_pool_taught_is_measured(tmp_path):
    loss = {"image": "l14_img", "text": "l14_txt", "batch": 20, "rounds": 2, "fit_on": "pool"}
    best = {"score": {"column": "neg_clip_loss.score", "at_least": 0.0}}
    found = ran(tmp_path, steps=({"where": "b > -3"}, {"neg_clip_loss": loss}, best))
    assert (found["of"], len(found["filters"]), found["rows"]) == ("pool", 2, len(SAMPLES))


def test_what_rows_that_never_came_are_an_error_to_is_said_and_not_counted(tmp_path):
    """A text that is no number, a weight below 0, a cluster that nobody counted."""
    pool = SAMPLES.with_columns(text=pl.Series(["5", "6", "none", "7"] * 100), c=pl.col("b") + 2)
    steps = (
        {"where": {"name": "known", "sql": "caption != 'none' and c >= 0"}},
        {"where": {"name": "large", "sql": "cast(caption as double) > 5"}},
        {"weighted_sample": {"name": "drawn", "column": "c", "fraction": 0.5}},
        {"weighted_sample": {"name": "even", "cluster": "b", "alpha": 0.0, "fraction": 0.5}},
    )
    found = ran(tmp_path, pool, steps)
    assert [one["filter"] for one in found["filters"]] == ["known"]
    assert found["filters"][0]["only"] == found["filters"][0]["alone"]
    told = {one["filter"]: one["why"] for one in found["not_measured"]}
    assert list(told) == ["large", "drawn", "even"]
    assert told["large"] == told["drawn"]
    assert "has a value that it cannot decide on" in told["drawn"]
    assert "did not reach it" in told["even"]


@pytest.mark.slow
def test_draws_by_a_score_are_repeated_as_they_were_in_the_run(tmp_path):
    steps = ({"soft_cap": {"column": "b", "draws_fraction": 0.5, "temperature": 2.0, "batch": 20}},)
    pipeline = Reported(tmp_path, SAMPLES.write(tmp_path / "in"), steps)
    report = pipeline.run().report
    [one] = of(pipeline)["filters"]
    assert one["alone"]["count"] == len(SAMPLES) - report["totals"]["kept"]
    assert one["unscored"] == SAMPLES.frame["b"].null_count()


def test_an_empty_pool_has_nothing_to_say(tmp_path):
    found = ran(tmp_path, SAMPLES[[]], STEPS[:2])
    assert (found["of"], found["why"]) == ("nothing", "the pool has no usable row")
    assert found["filters"] == found["overlap"] == []


@pytest.mark.slow
def test_a_probe_too_small_for_anybody_says_what_to_write(tmp_path):
    steps = (STEPS[0], {"language": {}}, STEPS[3])
    found = ran(tmp_path, SAMPLES[np.arange(40)], steps, probe=1e-6)
    assert (found["of"], found["filters"]) == ("nothing", [])
    assert "none of the 40 rows is in so small a probe: `probe: 1`" in found["why"]


@pytest.mark.slow
def test_one_sample_is_enough(tmp_path):
    found = ran(tmp_path, SAMPLES[[0]], STEPS, probe=1.0)
    assert found["rows"] == 1
    assert {one["alone"]["count"] for one in found["filters"]} <= {0, 1}
    assert [one["rho"] for one in found["correlations"]] == [None]


@pytest.mark.slow
def test_a_limited_run_looks_at_those_that_it_left(tmp_path):
    pipeline = Reported(tmp_path, SAMPLES.write(tmp_path / "in"), STEPS[:2])
    pipeline.run(limit=50)
    found = of(Limited(pipeline))
    assert (found["of"], found["rows"]) == ("pool", 50)
    assert [one["filter"] for one in found["filters"]] == ["caption", "near"]


class Limited:
    """The work folder of a limited run."""

    def __init__(self, pipeline: Reported) -> None:
        self.work = pipeline.folder / "work-limit-50"


def test_no_more_rows_than_needed_are_held_whatever_order_they_come_in():
    """Rows that share a uid share a draw, so that any number could be below a share."""
    rng = np.random.default_rng(0)
    rows = MOST + 60_000
    numbers_ = rng.integers(0, 50, rows).astype(np.uint64)
    uids = np.zeros(rows, dtype=UID)
    uids["f1"] = numbers_
    one = np.zeros((rows, 1), dtype=bool)
    whole = Looked(
        draws=chance.uniform(0, "probe", uids),
        uids=uids,
        addresses=np.arange(rows, dtype=np.uint64),
        complete=one[:, 0],
        removed=one,
        unscored=one,
        scores=np.zeros((rows, 0)),
    )
    expected = whole.smallest()
    assert len(expected.draws) == MOST
    left = np.delete(whole.draws, expected.addresses)
    assert expected.draws.max() <= left.min()
    order = rng.permutation(rows)
    pieces = [
        Looked(*(getattr(whole, name)[some] for name in list(Looked.__dataclass_fields__)[:-1]))
        for some in np.array_split(order, 5)
    ]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.plus(piece)
    np.testing.assert_array_equal(np.sort(merged.smallest().addresses), np.sort(expected.addresses))


@pytest.mark.parametrize(("count", "rows"), [(0, 10), (10, 10), (3, 7), (512, 100_000), (1, 1)])
def test_intervals_of_shares_are_wilsons(count, rows):
    expected = stats.binomtest(count, rows).proportion_ci(0.95, "wilson")
    found = estimate(count, rows)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found["low"] <= found["share"] <= found["high"]


@pytest.mark.parametrize("kinds", [3, 1000])
def test_rank_correlation_averages_ties(kinds):
    rng = np.random.default_rng(kinds)
    x = rng.integers(0, kinds, 500).astype(float)
    y = x + rng.normal(0, kinds, 500).round()
    x[::50], x[1], y[::70] = np.nan, np.inf, np.nan
    both = ~(np.isnan(x) | np.isnan(y))
    found = correlation(codes(x), codes(y))
    assert found["rows"] == both.sum()
    rho = stats.spearmanr(x[both], y[both]).statistic
    assert found["rho"] == pytest.approx(rho, abs=1e-6)
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (both.sum() - 3))
    expected = np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected), abs=1e-6)


def test_rank_correlation_where_there_is_none_or_all():
    rising, same = codes(np.arange(5.0)), codes(np.ones(5))
    assert correlation(rising, same)["rho"] is None
    assert correlation(rising[:3], rising[:3]) == {
        "rows": 3,
        "rho": None,
        "low": None,
        "high": None,
    }
    assert correlation(rising, codes(-np.arange(5.0) * 9)) == {
        "rows": 5, "rho": -1.0, "low": -1.0, "high": -1.0
    }  # fmt: skip


@pytest.mark.parametrize(("rows", "share_"), [(5, 1.0), (10_000, 1.0), (12_800_000, 0.001)])
def test_the_probe_that_is_suggested_is_a_round_number_of_enough_rows(rows, share_):
    assert suggested(rows) == share_


def test_the_page_says_what_report_json_says(run, found):
    page = (run.work / "report" / "index.html").read_text()
    [own] = re.findall(r'<section id="alone">.*?</section>', page, re.DOTALL)
    assert 'href="#alone"' in page
    for one in found["filters"]:
        for kind in ("alone", "only"):
            assert share(one[kind]["count"], one[kind]["rows"]) in own
            assert f"({interval(one[kind])})" in own.replace("&lt;", "<")
        assert f"{one['unscored']} for want of a value" in own or not one["unscored"]
    for pair in found["overlap"]:
        cells = [pair["a"], pair["b"], pair["a_removed"], pair["b_removed"], pair["both"]]
        row = "".join(rf"<td[^>]*>{cell}</td>" for cell in cells)
        assert re.search(row, own), pair
    assert "exact_duplicates</b>: it compares samples with each other" in own


def test_a_page_without_filters_has_no_such_section(tmp_path):
    pipeline = Reported(tmp_path, SAMPLES[[0, 1]].write(tmp_path / "in"), ({"language": {}},))
    pipeline.run()
    assert 'id="alone"' not in (pipeline.work / "report" / "index.html").read_text()
    assert of(pipeline)["why"] == "no step is a filter"


def test_a_page_says_why_nothing_was_measured(tmp_path):
    late = {"where": {"name": "late", "sql": "language.probability > 2"}}
    steps = (STEPS[-1], {"language": {}}, late, STEPS[4])
    pipeline = Reported(tmp_path, SAMPLES[[0, 1]].write(tmp_path / "in"), steps)
    pipeline.run()
    found = of(pipeline)
    assert (found["of"], found["filters"], found["correlations"]) == ("nothing", [], [])
    names = [one["filter"] for one in found["not_measured"]]
    assert names == ["exact_duplicates", "late", "top"]
    assert found["not_measured"][2]["why"] == "no sample reached it, so it learnt nothing"
    page = (pipeline.work / "report" / "index.html").read_text()
    [own] = re.findall(r'<section id="alone">.*?</section>', page, re.DOTALL)
    assert "Not measured: no filter can be tried by itself." in own
    assert "<b>late</b>: language.probability is known only of samples" in own
    assert "data-chart" not in own


def test_heat_maps_show_each_pair_from_both_sides(found):
    cells = {(c["row"], c["column"]): c for c in cells_of(overlap_chart(found))}
    for pair in found["overlap"]:
        a, b = pair["a"], pair["b"]
        assert cells[a, b]["share"] == pair["both"] / pair["a_removed"]
        assert cells[b, a]["share"] == pair["both"] / pair["b_removed"]
    for one in found["filters"]:
        assert cells["all samples", one["filter"]]["share"] == one["alone"]["share"]
    [pair] = found["correlations"]
    assert [c["rho"] for c in cells_of(correlation_chart([pair]))] == [pair["rho"]] * 2
    assert overlap_chart({"overlap": [], "filters": []}) is None
    assert correlation_chart([]) is None


def cells_of(chart) -> list[dict]:
    """The data of a heat map."""
    [values] = chart.to_dict()["datasets"].values()
    return values
