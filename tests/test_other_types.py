"""URL lists of strangers: what `check` says of their column types is what a run makes of them."""

import polars as pl
import pytest
from tiny_pool import Pipeline, ledger_of

from curate.check import compile_pipeline
from curate.pipeline_file.config import load

URLS = ["http://h/1", "http://h/2"]


@pytest.mark.parametrize(
    ("column", "values", "step"),
    [
        ("caption", [11, 2222], {"caption": {"min_characters": 3}}),
        ("caption", [b"ab", b"abcd"], {"caption": {"min_characters": 3}}),
        ("width", ["90", "120"], {"image_size": {"min_side": 100}}),
        ("width", [90.0, 120.0], {"image_size": {"min_side": 100}}),
    ],
)
def test_a_column_of_another_type_is_taken_as_ours(tmp_path, column, values, step):
    table = {"url": URLS, "caption": ["a b", "c d"], "width": [500, 500], "height": [500, 500]}
    pl.DataFrame({**table, column: values}).write_parquet(tmp_path / "urls.parquet")
    urls = {"urls": str(tmp_path / "urls.parquet"), "order": "as_listed"}
    pipeline = Pipeline(tmp_path, urls, [step])
    compile_pipeline(load(pipeline.file()))
    assert pipeline.run().exit_code == 0
    assert ledger_of(pipeline.work)["fate"].to_list() == ["removed", "kept"]
