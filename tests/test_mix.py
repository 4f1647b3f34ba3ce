"""The mix of scores: exact whatever the order, defined whatever is missing."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features import Part, _ranks
from curate.features._exact_sums import ExactSums, exact_sums
from curate.features._ranks import Ranks, added, merged, order, tally
from curate.features.mix import Mix
from curate.pipeline import Options, run
from curate.pipeline_file.config import load
from filters import Batch, structured
from tests.embedding_pool import embed, values
from tests.tiny_pool import Pipeline, draw, ledger_of, write_shards

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-1e100, 1e100)


class Parts:
    """Samples in so many parts, as a run would give them."""

    def __init__(self, frame: pl.DataFrame, cuts: list[int]) -> None:
        edges = [0, *sorted(cut % (frame.height + 1) for cut in cuts), frame.height]
        self.count = frame.height
        self._parts = []
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            inside = frame[start:stop]
            named = structured({name: inside[name] for name in inside.columns}, inside.height)
            addresses = np.arange(start, stop, dtype=np.uint64)
            self._parts.append(Part(number, Batch(named, addresses, addresses, lambda salt: None)))
        self.parts = len(self._parts)

    def map(self, work):
        return map(work, reversed(self._parts))

    def each(self, work, items):
        return map(work, items)

    def assigned(self, feature, folder):
        """(values, errors) of all samples."""
        assign = feature.assigner(folder)
        made = [assign(part) for part in self._parts]
        found = np.concatenate([one.scalars["score"] for one in made])
        return found, [error for one in made for error in one.errors]


def mixed(folder, frame, cuts=(), **fields):
    rows, feature = Parts(pl.DataFrame(frame), list(cuts)), Mix(**fields)
    feature.fit(rows, str(folder))
    return rows.assigned(feature, str(folder))


# --- exact sums


@given(st.lists(finite, max_size=30), st.integers(0, 30))
def test_sums_are_those_of_fractions_however_split(numbers, cut):
    array = np.array(numbers, dtype=np.float64)
    whole = exact_sums(array)
    assert exact_sums(array[:cut]) + exact_sums(array[cut:]) == whole
    assert exact_sums(array[::-1]) == whole
    exact = [Fraction(number) for number in numbers]
    mean = sum(exact, Fraction(0)) / max(len(exact), 1)
    assert whole.mean() == float(mean)
    variance = sum((number - mean) ** 2 for number in exact) / max(len(exact), 1)
    if variance == 0:
        assert whole.deviation() == 0
    elif whole.deviation() > 1e-300:  # below, a float64 has fewer digits
        assert abs(Fraction(whole.deviation()) ** 2 / variance - 1) < Fraction(1, 2**50)


def test_no_number_has_a_mean_of_nothing():
    assert ExactSums().mean() == ExactSums().deviation() == 0.0
    assert exact_sums(np.empty(0)) == ExactSums()


# --- ranks


def ranked(numbers):
    """[N] ranks from 1; those that share a number share the mean."""
    return pl.Series(numbers).rank("average").to_numpy()


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=40), st.lists(st.integers(0, 40)))
def test_ranks_are_those_of_polars_however_split(numbers, cuts):
    array = np.array(numbers, dtype=np.float64)
    parts = np.split(array, sorted(min(cut, len(array)) for cut in cuts))
    counted = merged(tally(part) for part in parts)
    np.testing.assert_array_equal(counted, tally(array))
    ranks = Ranks.of(counted)
    if len(array) > 1:
        expected = (ranked(array + 0.0) - 1) / (len(array) - 1)
        np.testing.assert_allclose(ranks.share(array), expected, rtol=1e-15)
    assert ranks.share(array).tolist() == (
        [0.5] if len(array) == 1 else ranks.share(array).tolist()
    )


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_keys_ascend_with_numbers(left, right):
    first, second = order(np.array([left, right], dtype=np.float64)).tolist()
    assert (first < second) == (left < right)
    assert (first == second) == (left == right)


def test_many_tallies_are_merged_in_several_steps(monkeypatch):
    monkeypatch.setattr(_ranks, "AT_ONCE", 50)
    values = np.random.default_rng(0).integers(0, 400, 3000).astype(np.float64)
    counted = merged(tally(part) for part in np.array_split(values, 100))
    np.testing.assert_array_equal(counted, tally(values))


def test_counts_of_the_same_number_add_up():
    twice = added([tally(np.array([1.0, 2.0])), tally(np.array([2.0, 3.0]))])
    assert twice["count"].tolist() == [1, 2, 1]


# --- the feature

NORMALISE = ("standard", "minmax", "rank", "none")


def expected_scale(normalise, column):
    """By numpy and polars, of a column without gaps."""
    if normalise == "standard":
        return (column - column.mean()) / column.std()
    if normalise == "minmax":
        return (column - column.min()) / (column.max() - column.min())
    return (ranked(column) - 1) / (len(column) - 1) if normalise == "rank" else column


@pytest.mark.parametrize("normalise", NORMALISE)
def test_a_run_gives_what_numpy_gives(tmp_path, normalise):
    samples = embed(200)
    of = {"b": -0.5, "a": 2.0, "clip_l14_similarity_score": 1.0}
    steps = ({"mix": {"of": of, "normalise": normalise}},)
    pipeline = Pipeline(tmp_path, samples.write(tmp_path / "in", 3), steps)
    pipeline.run()
    wanted = sum(
        weight * expected_scale(normalise, samples.frame[name].cast(pl.Float64).to_numpy())
        for name, weight in of.items()
    )
    found = values(pipeline.work, "mix", samples.frame["uid"])
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


some = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), moderate, st.integers(-3, 3))


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("normalise", NORMALISE)
@given(rows=st.lists(st.tuples(some, some), max_size=25), data=st.data())
def test_no_order_and_no_split_changes_a_bit(tmp_path_factory, normalise, rows, data):
    folder = tmp_path_factory.mktemp("mix")
    missing = data.draw(st.sampled_from(["drop", "mean"]))
    shuffled = data.draw(st.permutations(range(len(rows))))
    cuts = data.draw(st.lists(st.integers(0, 30), max_size=4))
    frame = pl.DataFrame(rows, schema={"x": pl.Float64, "s.y": pl.Float64}, orient="row")
    weights = {"x": 0.75, "s.y": -3.0}
    fields = {"normalise": normalise, "missing": missing}
    one, errors = mixed(folder / "one", frame, of=weights, **fields)
    backwards = dict(reversed(weights.items()))
    other, others = mixed(folder / "other", frame[shuffled], cuts, of=backwards, **fields)
    assert other.tobytes() == one[shuffled].tobytes()
    assert others == [errors[row] for row in shuffled]
    assert [error is None for error in errors] == np.isfinite(one).tolist()


GAPS = {"x": [1.0, 2.0, None, 6.0], "y": [math.nan, 10.0, 30.0, math.inf], "z": [None] * 4}


def test_a_sample_that_lacks_a_score_is_dropped_and_says_which(tmp_path):
    found, errors = mixed(tmp_path, GAPS, of={"x": 1.0, "y": 1.0}, normalise="none")
    assert errors == ["missing:y", None, "missing:x", "missing:y"]
    np.testing.assert_array_equal(found, [math.nan, 12.0, math.nan, math.nan])


def test_or_the_mean_stands_in(tmp_path):
    of = {"x": 1.0, "y": 10.0}
    found, errors = mixed(tmp_path / "a", GAPS, of=of, normalise="none", missing="mean")
    assert errors == [None] * 4
    assert found.tolist() == [201.0, 102.0, 303.0, 206.0]
    found, _ = mixed(tmp_path / "b", GAPS, of=of, normalise="minmax", missing="mean")
    np.testing.assert_allclose(found, [0 + 5, 0.2 + 0, 0.4 + 10, 1 + 5])
    found, _ = mixed(tmp_path / "c", GAPS, of=of, normalise="rank", missing="mean")
    np.testing.assert_allclose(found, [0 + 5, 0.5 + 0, 0.5 + 10, 1 + 5])
    found, _ = mixed(tmp_path / "d", GAPS, of=of, missing="mean")
    deviation = math.sqrt(14 / 3)
    np.testing.assert_allclose(found, [-2 / deviation, -1 / deviation - 10, 10, 3 / deviation])


def test_a_sample_without_any_score_has_none(tmp_path):
    of = {"y": 1.0, "z": 1.0}
    found, errors = mixed(tmp_path, GAPS, of=of, normalise="none", missing="mean")
    assert errors == ["missing:y", None, None, "missing:y"]
    assert found[1:3].tolist() == [10.0, 30.0], "a column that nobody has adds nothing"


@pytest.mark.parametrize(
    ("normalise", "value"), [("standard", 0.0), ("minmax", 0.0), ("rank", 0.5), ("none", 7.0)]
)
@pytest.mark.parametrize("count", [1, 5])
def test_a_column_of_one_value(tmp_path, normalise, value, count):
    found, _ = mixed(tmp_path, {"x": [7.0] * count}, of={"x": 1.0}, normalise=normalise)
    assert found.tolist() == [value] * count


@pytest.mark.parametrize("normalise", NORMALISE)
def test_no_samples(tmp_path, normalise):
    frame = pl.DataFrame(schema={"x": pl.Float32})
    assert mixed(tmp_path, frame, (0, 0), of={"x": 1.0}, normalise=normalise)[0].tolist() == []


def test_a_sum_that_no_float_holds_is_no_score(tmp_path):
    huge = {"x": [1.7e308, 1.0], "y": [1.7e308, 1.0]}
    found, errors = mixed(tmp_path, huge, of={"x": 1.0, "y": 1.0}, normalise="none")
    assert errors == ["not_finite", None]
    np.testing.assert_array_equal(found, [math.nan, 2.0])


def test_a_standard_score_does_not_lose_digits_to_a_large_mean(tmp_path):
    values = np.array([1e9 + 1, 1e9 + 2, 1e9 + 3])
    found, _ = mixed(tmp_path, {"x": values}, of={"x": 1.0})
    np.testing.assert_allclose(found, [-math.sqrt(1.5), 0, math.sqrt(1.5)], rtol=1e-15)


def test_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="x is of type String"):
        mixed(tmp_path, {"x": ["1"]}, of={"x": 1.0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"of": {}}, "of"),
        ({"of": {"a": float("inf")}}, "finite"),
        ({"of": {"a": 1.0}, "normalise": "z"}, "normalise"),
        ({"of": {"aa": 1.0}}, "nobody produces 'aa'"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, fields, message):
    pipeline = Pipeline(tmp_path, embed(5).write(tmp_path / "in"), ({"mix": fields},))
    with pytest.raises((InvalidPipeline, ConfigError), match=message):
        compile_pipeline(load(pipeline.file()))


def test_repeated_uids_have_their_own_scores(tmp_path):
    samples = embed(6)
    again = samples.with_columns(
        uid=pl.Series([samples.frame["uid"][0]] * 6), a=pl.Series(range(6))
    )
    pool = again.write(tmp_path / "in")
    pipeline = Pipeline(tmp_path, pool, ({"mix": {"of": {"a": 1.0}, "normalise": "none"}},))
    pipeline.run()
    stored = pl.read_parquet(pipeline.work / "features" / "mix" / "block-0000.parquet")
    assert stored["score"].to_list() == [0, 1, 2, 3, 4, 5]


# --- recipes

RECIPES = Path(__file__).parent.parent / "pipelines"


def recipe(name, *overrides):
    return run(load(str(RECIPES / f"{name}.yaml"), overrides), Options(), lambda progress: None)


def test_dfn_keeps_15_percent_of_the_pool_by_a_score_from_elsewhere(tmp_path):
    samples = embed(130)
    scored = np.random.default_rng(0).normal(size=130).astype(np.float32)
    table = pl.DataFrame({"uid": samples.frame["uid"].reverse(), "similarity": scored[::-1]})
    table.write_parquet(tmp_path / "scores.parquet")
    pool = samples.write(tmp_path / "in", 3)
    places = (f"pool.metadata={pool['metadata']}", f"work={tmp_path / 'work'}")
    recipe("dfn", *places, f"steps.dfn.from={tmp_path / 'scores.parquet'}")
    best = samples.frame["uid"].gather(np.argsort(-scored)[:19])  # floor(0.15 * 130)
    kept = np.load(tmp_path / "work" / "subset.npy").tolist()
    assert [f"{hi:016x}{lo:016x}" for hi, lo in kept] == sorted(best)


def test_m_flyt_adds_twelve_standardised_scores(tmp_path):
    samples = [one for one in draw(150) if one.jpeg is not None]
    rng = np.random.default_rng(1)
    names = yaml.safe_load((RECIPES / "m_flyt.yaml").read_text())["steps"][0]["columns"]["take"]
    scored = {theirs: rng.normal(3, 2, len(samples)) for theirs in names.values()}
    pl.DataFrame({"key": [s.key for s in samples], **scored}).write_parquet(tmp_path / "s.parquet")
    write_shards(tmp_path / "in", samples, 3)
    places = (f"pool.shards={tmp_path / 'in' / '*.tar'}", f"work={tmp_path / 'work'}")
    recipe("m_flyt", *places, f"steps.scores.from={tmp_path / 's.parquet'}")
    weights = (0.08, 0.21, 0.60, 0.80, 0.17, 0.36, 0.65, 0.55, 0.51, 0.45, -0.05, 0.02)  # Table 2
    assert list(names.values())[:4] == ["vit-b-32", "vit-l-14", "DFN-Base", "DFN-FT"]
    total = sum(w * (v - v.mean()) / v.std() for w, v in zip(weights, scored.values(), strict=True))
    ledger = ledger_of(tmp_path / "work")
    kept = np.flatnonzero(ledger["step"].is_null())
    share = int(0.2 * len(samples))
    assert kept.tolist() == sorted(np.argsort(-total)[:share].tolist())


def test_flyt_scs_draws_the_best_of_m_flyt_repeatedly(tmp_path):
    samples = [one for one in draw(150) if one.jpeg is not None]
    rng = np.random.default_rng(1)
    mix = yaml.safe_load((RECIPES / "flyt_scs.yaml").read_text())["steps"]
    assert mix[:2] == yaml.safe_load((RECIPES / "m_flyt.yaml").read_text())["steps"][:2]
    quality = rng.normal(0, 1, len(samples))
    scored = dict.fromkeys(mix[0]["columns"]["take"].values(), quality)
    pl.DataFrame({"key": [s.key for s in samples], **scored}).write_parquet(tmp_path / "s.parquet")
    write_shards(tmp_path / "in", samples, 3)
    places = (f"pool.shards={tmp_path / 'in' / '*.tar'}", f"work={tmp_path / 'work'}")
    small = ("steps.soft_cap.draws=300", "steps.soft_cap.batch=5")
    recipe("flyt_scs", *places, f"steps.scores.from={tmp_path / 's.parquet'}", *small)
    ledger = ledger_of(tmp_path / "work")
    copies = ledger["copies"].to_numpy()
    assert copies.sum() == len(np.load(tmp_path / "work" / "subset.npy")) == 300
    assert copies.max() > 5
    assert set(ledger["reason"].drop_nulls()) == {"not_drawn"}
    best = np.argsort(-quality)
    assert copies[best[:20]].min() > copies[best[-50:]].max()
    assert len(list((tmp_path / "work" / "shards").glob("*.tar"))) == 1
