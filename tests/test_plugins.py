"""A user's own filters and features: a file each, as good as ours, on this machine and on Ray."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_pool import Drawn, Pipeline, digests, draw, ledger_of, tar_pool, write_shards

from curate.check import compile_pipeline
from curate.errors import RecipeChanged
from curate.pipeline_file.config import load

NO_DIGITS = '''\
"""Keep samples whose caption has no digit above some."""

import polars as pl
from pydantic import Field

from filters import RowFilter, column


class NoDigits(RowFilter):
    """Keeps captions without digits above `most`."""

    most: int = Field(0, ge=0, le=9)

    def needs(self):
        return ("caption",)

    def passes(self):
        return {"has_digit": ~column("caption").str.contains(f"[{self.most + 1}-9]")}
'''

ABOVE_MEAN = '''\
"""Keep samples above the mean, which is learnt from all of them."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from filters import UNSCORED, PoolFilter, Verdict, column


@dataclass(frozen=True)
class Sum:
    """What one batch adds: in thousandths, so that any order of adding gives the same."""

    rows: int
    total: int


class AboveMean(PoolFilter):
    """Keeps samples whose `of` is above the mean of all."""

    of: str

    def needs(self):
        return (self.of,)

    def start(self, counts):
        return {}

    def finished(self, state):
        return "mean" in state

    def _values(self, batch):
        return batch.frame.select(column(self.of).cast(pl.Float64)).to_series()

    def summarize(self, batch, state):
        values = (self._values(batch).drop_nulls() * 1000).round()
        return Sum(len(values), int(values.sum()))

    def merge(self, left, right):
        return Sum(left.rows + right.rows, left.total + right.total)

    def fit(self, summary, state):
        return {"mean": summary.total / summary.rows / 1000 if summary and summary.rows else 0.0}

    def keep(self, batch, state):
        values = self._values(batch)
        kept = (values > state["mean"]).fill_null(False).to_numpy()
        why = pl.Series(np.where(values.is_null().to_numpy(), UNSCORED, "below_mean"))
        return Verdict(kept.astype(np.uint32), why.set(pl.Series(kept), None))
'''

TWO_EACH = '''\
"""Keep at most two samples of each group."""

import numpy as np

from filters import GroupFilter, column


class TwoEach(GroupFilter):
    """Keeps the two samples of smallest uid of all that are equal in `by`."""

    by: str

    def needs(self):
        return (self.by,)

    def key(self, batch):
        return batch.frame.select(column(self.by).alias("key"))

    def keep_ranked(self, rank, size):
        return (rank < 2).astype(np.uint32)

    def reason(self):
        return "third"
'''

LETTERS = '''\
"""What a caption and a picture file are made of."""

import numpy as np

from curate.features import Array, Columns, Feature, Field, Unscorable


class Letters(Feature):
    """Letters of the caption per byte of the picture."""

    pictures = True
    version = 1

    def needs(self):
        return ("caption",)

    def gives(self):
        return (Field("count", "int64", "letters"), Field("density", "float32", "per byte"))

    def arrays(self):
        return (Array("first", "the first four bytes of the file"),)

    def open(self, device):
        return Scorer()


class Scorer:
    batch = 4

    def prepare(self, picture):
        if len(picture.body) % 7 == 0:
            raise Unscorable("a_seventh")
        return bytes(picture.body)

    def score(self, prepared, frame):
        count = frame["caption"].fill_null("").str.count_matches("[a-z]").cast(int).to_numpy()
        size = np.array([len(body) for body in prepared], dtype=np.int64)
        first = np.array([list(body[:4]) for body in prepared]).reshape(-1, 4)
        return Columns(
            {"count": count, "density": count / size if len(size) else size},
            {"first": first.astype(np.float16)},
        )
'''

PLUGINS = {
    "no_digits": NO_DIGITS,
    "above_mean": ABOVE_MEAN,
    "two_each": TWO_EACH,
    "letters": LETTERS,
}
STEPS = (
    {"two_each": {"by": "url"}},
    {"letters": {}},
    {
        "any_of": [
            {"no_digits": {"most": 3}},
            {"where": "letters.count > 14"},
            {"above_mean": {"of": "letters.density"}},
        ]
    },
    {"above_mean": {"name": "late", "of": "letters.count"}},
)


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    """Four plugins beside the YAML file, one of each shape."""
    for name, source in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(source)
    write_shards(tmp_path / "in", SAMPLES, 4)
    made = Pipeline(tmp_path, tar_pool(tmp_path / "in"), STEPS)
    return made.where(plugins=[f"./{name}.py" for name in PLUGINS], rows_per_block=25)


SAMPLES = draw(90, seed=3)


def fates(samples: list[Drawn]) -> list[str | None]:
    """(step: reason) of each sample, worked out by hand; None where it stays."""
    frame = pl.DataFrame(
        {
            "row": range(len(samples)),
            "uid": [s.uid for s in samples],
            "url": [s.metadata["url"] for s in samples],
            "caption": [s.caption for s in samples],
            "size": [len(s.jpeg) if s.jpeg else None for s in samples],
        }
    )
    scored = pl.col("size") % 7 != 0
    letters = pl.col("caption").fill_null("").str.count_matches("[a-z]").cast(pl.Int64)
    frame = frame.with_columns(
        count=pl.when(scored).then(letters),
        density=pl.when(scored).then((letters / pl.col("size")).cast(pl.Float32)),
    )
    fate: dict[int, str | None] = {}
    for row in frame.filter(pl.col("size").is_null())["row"]:
        fate[row] = "pool: no_image"
    left = frame.filter(~pl.col("row").is_in(list(fate)))
    rank = left.sort("uid", "row").with_columns(r=pl.int_range(pl.len()).over("url"))
    fate |= dict.fromkeys(rank.filter(pl.col("r") >= 2)["row"], "two_each: third")
    left = frame.filter(~pl.col("row").is_in(list(fate)))
    mean = float((left["density"].cast(pl.Float64) * 1000).round().mean()) / 1000
    for row, caption, count, density in left.select("row", "caption", "count", "density").rows():
        said = [
            "unscored"
            if caption is None
            else "has_digit"
            if set(caption) & set("456789")
            else None,
            "unscored" if count is None else "false" if count <= 14 else None,
            "unscored" if density is None else "below_mean" if density <= mean else None,
        ]
        if None not in said:
            names = ("no_digits", "where", "above_mean")
            joined = " ".join(f"{name}:{why}" for name, why in zip(names, said, strict=True))
            fate[row] = f"any_of: {joined}"
    left = frame.filter(~pl.col("row").is_in(list(fate)))
    mean = left["count"].mean()
    for row, count in left.select("row", "count").rows():
        if count is None or count <= mean:
            fate[row] = "late: " + ("unscored" if count is None else "below_mean")
    return [fate.get(row) for row in range(len(samples))]


def test_plugins_of_every_shape_decide(pipeline):
    outcome = pipeline.run()
    assert outcome.exit_code == 0
    ledger = ledger_of(pipeline.work).select(fate=pl.concat_str("step", "reason", separator=": "))
    expected = fates(SAMPLES)
    assert ledger["fate"].to_list() == expected
    steps = {fate.split(":")[0] for fate in expected if fate}
    assert steps == {"pool", "two_each", "any_of", "late"}, "the pool has something for each"
    assert None in expected
    assert pipeline.run().reused == "everything"


@pytest.mark.slow
@pytest.mark.ray
def test_plugins_work_on_ray(pipeline, ray_cluster):
    pipeline.run()
    there = pipeline.where(folder=pipeline.folder / "ray", run={"engine": "ray"})
    shutil.copytree(pipeline.folder, there.folder, ignore=shutil.ignore_patterns("work", "in"))
    assert there.run().exit_code == 0
    names = ("subset.npy", "ledger", "report/report.json", "features", "state")
    assert digests(there.work, names) == digests(pipeline.work, names)


def changed(pipeline: Pipeline, name: str, old: str, new: str) -> None:
    file = pipeline.folder / f"{name}.py"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_the_text_of_a_feature_belongs_to_what_it_made(pipeline):
    pipeline.run()
    before = digests(pipeline.work, ("features", "pipeline.yaml", "plugins", "subset.npy"))
    changed(pipeline, "letters", '"[a-z]"', '"[a-y]"')
    with pytest.raises(RecipeChanged) as caught:
        pipeline.run()
    assert "/features/letters was made from a different recipe:\n  recipe.plugin_sha256: '" in str(
        caught.value
    )
    assert "`--recompute letters`" in str(caught.value)
    assert digests(pipeline.work, ("features", "pipeline.yaml", "plugins", "subset.npy")) == before
    renamed = pipeline.where(steps=({"letters": {"name": "other"}}, {"where": "other.count > 14"}))
    assert renamed.run().exit_code == 0, "the same file under another name is another feature"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("two_each", "rank < 2", "rank < 1"),
        ("above_mean", "values > state", "values >= state"),
        ("no_digits", "self.most + 1", "self.most + 2"),  # it stands inside any_of only
    ],
)
def test_the_text_of_a_filter_belongs_to_its_decisions(pipeline, name, old, new):
    pipeline.run()
    changed(pipeline, name, old, new)
    assert pipeline.run().reused == "nothing"
    fresh = pipeline.where(folder=pipeline.folder / "fresh")
    shutil.copytree(pipeline.folder, fresh.folder, ignore=shutil.ignore_patterns("work", "in"))
    fresh.run()
    names = ("subset.npy", "ledger", "report/report.json")
    assert digests(pipeline.work, names) == digests(fresh.work, names)


def test_what_was_run_can_be_run_again_without_the_users_files(pipeline, monkeypatch, tmp_path):
    pipeline.run()
    before = digests(pipeline.work)
    for name in PLUGINS:
        (tmp_path / f"{name}.py").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    plan = compile_pipeline(load(str(pipeline.work / "pipeline.yaml")))
    assert [step.name for step in plan.steps] == ["two_each", "letters", "any_of", "late"]
    shutil.copytree(pipeline.work / "plugins", elsewhere / "plugins")
    again = elsewhere / "again.yaml"
    again.write_text((pipeline.work / "pipeline.yaml").read_text())
    copy = load(str(again), [f"work={elsewhere / 'work'}"])
    assert compile_pipeline(copy).recipes == plan.recipes
    assert digests(pipeline.work) == before


def test_a_plugin_is_told_from_another_whose_name_begins_alike(tmp_path):
    """The one called `two` is first, and is a beginning of the other's name."""
    for name, limit in (("two", 2), ("two_each", 1)):
        (tmp_path / f"{name}.py").write_text(TWO_EACH.replace("rank < 2", f"rank < {limit}"))
    write_shards(tmp_path / "in", draw(20), 1)
    steps = ({"two_each": {"by": "url"}},)
    made = Pipeline(tmp_path, tar_pool(tmp_path / "in"), steps).where(
        plugins=["two.py", "two_each.py"]
    )
    recipe = compile_pipeline(load(made.file())).recipes["two_each"]
    changed(made, "two", "rank < 2", "rank < 3")
    assert compile_pipeline(load(made.file())).recipes["two_each"] == recipe
    changed(made, "two_each", "rank < 1", "rank < 3")
    assert compile_pipeline(load(made.file())).recipes["two_each"] != recipe


def test_a_feature_that_breaks_its_promise_is_told(pipeline):
    changed(pipeline, "letters", '{"count": count, "density"', '{"counts": count, "density"')
    with pytest.raises(ValueError, match="letters promises"):
        pipeline.run()


def test_arrays_of_a_feature_are_kept_with_their_rows(pipeline):
    pipeline.run()
    found: dict[tuple[int, int], list[float]] = {}
    for file in sorted(Path(pipeline.work, "features", "letters").rglob("*.first.npy")):
        rows = np.load(str(file).replace(".first.npy", ".rows.npy"))
        shard = int(file.name.split("-")[0])
        values = np.load(file)
        assert (values.dtype, values.shape) == (np.float16, (len(rows), 4))
        found |= {
            (shard, int(row)): first.tolist() for row, first in zip(rows, values, strict=True)
        }
    ledger = ledger_of(pipeline.work)
    for sample, (shard, row, step) in zip(
        SAMPLES, ledger.select("shard", "row", "step").rows(), strict=True
    ):
        if step in ("pool", "two_each"):
            assert (shard, row) not in found
        elif len(sample.jpeg) % 7:
            assert found[shard, row] == [float(byte) for byte in sample.jpeg[:4]]
        else:
            assert np.isnan(found[shard, row]).all()
