"""`curate plan` says of each fitted feature what the next run does, and is right about it."""

import json

import pytest
from embedding_pool import embed
from tiny_pool import Pipeline

from curate.check import compile_pipeline
from curate.pipeline_file.config import load
from curate.plan import describe
from curate.pools.pool import pool_columns

SAMPLES = embed(60)
STEPS = (
    {"where": {"name": "apart", "sql": "b > -4"}},
    {"mix": {"of": {"a": 1.0}}},
    {"score": {"column": "mix.score", "top_fraction": 0.5, "of": "survivors"}},
    {"mix": {"name": "later", "of": {"mix.score": 1.0, "b": 0.5}}},
    {"mix": {"name": "all", "of": {"a": 1.0}, "fit_on": "pool"}},
)
FITTED = ("mix", "later", "all")


@pytest.fixture
def done(tmp_path):
    """A finished run over two files."""
    pipeline = Pipeline(tmp_path, SAMPLES[range(50)].write(tmp_path / "in", 2), STEPS)
    pipeline.run()
    return pipeline


def said(pipeline: Pipeline, *changes: str) -> dict[str, str]:
    """{fitted feature: what `plan` says of it}."""
    loaded = load(pipeline.file(), changes)
    plan = compile_pipeline(loaded, columns=pool_columns(str(pipeline.work)) or None)
    lines = [line.strip().partition(". ")[2].partition(": ") for line in describe(plan)]
    return {name: text for name, _, text in lines if name in FITTED}


def sealed(pipeline: Pipeline) -> dict[str, tuple]:
    """{fitted feature: what it was fitted on, and when}."""
    files = {n: pipeline.work / "features" / n / "fitted.json" for n in FITTED}
    return {n: (json.loads(f.read_text())["on"], f.stat().st_mtime_ns) for n, f in files.items()}


def refitted(pipeline: Pipeline, *changes: str) -> set[str]:
    """Those that a run fits again."""
    before = sealed(pipeline)
    pipeline.run(*changes)
    after = sealed(pipeline)
    return {name for name in FITTED if before[name] != after[name]}


def due(found: dict[str, str]) -> set[str]:
    return {name for name, text in found.items() if "would be fitted again" in text}


def test_before_the_first_run_nothing_is_fitted(tmp_path):
    pipeline = Pipeline(tmp_path, SAMPLES.write(tmp_path / "in"), STEPS)
    assert {text.partition("; ")[2] for text in said(pipeline).values()} == {"not fitted yet"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), set()),
        (("steps.apart.sql=b > -5",), {"mix", "later"}),
        (("steps.score.top_fraction=0.25",), {"later"}),
        (("steps.mix.of.a=2",), {"mix", "later"}),
        (("steps.all.of.a=2",), {"all"}),
        (("seed=3",), set(FITTED)),
    ],
)
def test_what_would_be_fitted_again_is_what_a_run_fits_again(done, changes, expected):
    found = said(done, *changes)
    assert due(found) == expected == refitted(done, *changes)
    assert {name for name, text in found.items() if text.endswith("; kept")} == (
        set(FITTED) - expected
    )


def test_the_reason_is_given(done):
    found = said(done, "steps.mix.of.a=2")
    assert "samples; would be fitted again: its recipe" in found["mix"]
    assert "or the recipe of what it reads changed" in found["later"]
    found = said(done, "steps.apart.sql=b > -5")
    assert "its samples changed (a step before it, or the pool, is another)" in found["mix"]
    assert "its samples changed (mix is fitted before)" in found["later"]


def test_new_files_are_new_samples(done):
    SAMPLES[range(50, 60)].write(done.folder / "more")
    for file in (done.folder / "more").iterdir():
        file.rename(done.folder / "in" / f"1{file.name}")
    found = said(done)
    assert all("its samples changed (the pool has new files)" in text for text in found.values())
    assert due(found) == set(FITTED) == refitted(done)


def test_frozen_says_that_new_rows_may_stay_without_values(done):
    frozen = ("steps.mix.when_changed=freeze", "steps.apart.sql=b > -5")
    found = said(done, *frozen)
    assert "when_changed: freeze" in found["mix"]
    assert "new rows may stay without values" in found["mix"]
    assert due(found) == {"later"} == refitted(done, *frozen)
