"""What happens when something changed between two runs of a work folder."""

import io
import json
import shutil

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from curate.clean import unused
from curate.errors import InputChanged, InvalidPipeline, RecipeChanged, Stale
from curate.pipeline import Options, run
from curate.pipeline_file.config import load
from tests.picture_server import Answer, picture_server
from tests.tiny_pool import digests


def jpeg(number: int, width: int = 90) -> bytes:
    values = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).resize((width, 80)).save(stream, "JPEG")
    return stream.getvalue()


class Folder:
    """A folder with a URL list and a pipeline file in it."""

    def __init__(self, path, urls, steps, **fields):
        self.path, self.work = path, path / "work"
        captions = [f"picture number {n} of many" for n in range(len(urls))]
        titles = ["x"] * len(urls)
        frame = pl.DataFrame({"url": urls, "caption": captions, "title": titles})
        frame.write_parquet(path / "urls.parquet")
        self.recipe = {
            "name": "changing",
            "work": str(self.work),
            "pool": {"urls": str(path / "urls.parquet")},
            "steps": steps,
            "run": {"engine": "local"},
            **fields,
        }

    def go(self, *overrides, **options):
        file = self.path / "pipeline.yaml"
        file.write_text(yaml.safe_dump(self.recipe))
        return run(load(str(file), overrides), Options(**options), lambda p: None).report


DOWNLOAD = {"download": {"allow_private_addresses": True, "timeout_s": 2}}


def test_a_pool_read_in_another_way_is_refused(tmp_path):
    folder = Folder(tmp_path, ["http://h/a", "http://h/b"], [{"caption": {"min_words": 3}}])
    assert folder.go()["totals"]["kept"] == 2
    folder.recipe["pool"]["columns"] = {"caption": "title"}
    with pytest.raises(RecipeChanged, match=r"pool\.pool\.columns.*title"):
        folder.go()
    shutil.rmtree(folder.work)
    assert folder.go()["totals"]["kept"] == 0


def test_other_pictures_make_written_shards_stale_and_their_features_new(tmp_path):
    bodies = {f"/{n}.jpg": jpeg(n, width=400) for n in range(4)}
    with picture_server(bodies) as server:
        urls = [server.url(path) for path in bodies]
        folder = Folder(tmp_path, urls, [DOWNLOAD, {"image_file": {}}, {"write": {}}])
        folder.go()
        smaller = "steps.download.image_size=100"
        with pytest.raises(RecipeChanged, match="--recompute download"):
            folder.go(smaller)
        with pytest.raises(Stale, match="--recompute write"):
            folder.go(smaller, recompute=("download",))
        sizes = pl.read_parquet(folder.work / "features" / "image_file" / "block-0000.parquet")
        assert sizes["width"].to_list() == [100] * 4, "what read the old pictures was kept"
        folder.go(smaller, recompute=("write",))
    assert set(server.hits.values()) == {2}


def test_a_refused_recompute_has_deleted_nothing(tmp_path):
    with picture_server({"/0.jpg": jpeg(0)}) as server:
        steps = [{"language": {}}, DOWNLOAD, {"image_file": {}}]
        folder = Folder(tmp_path, [server.url("/0.jpg")], steps)
        folder.go()
        claim = folder.work / "features" / "language" / "recipe.json"
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "version": 99}))
        before = digests(folder.work, ("download", "features", "manifest.json", "pipeline.yaml"))
        with pytest.raises(RecipeChanged, match="--recompute language"):
            folder.go("steps.download.image_size=100", recompute=("download",))
    after = digests(folder.work, ("download", "features", "manifest.json", "pipeline.yaml"))
    assert after == before


ONE = """
import numpy as np
from curate.features import Columns, Feature, Field

class One(Feature):
    '''A number.'''
    v: float = 1.0
    def needs(self): return ("caption",)
    def gives(self): return (Field("v", "float64", "a number"),)
    def open(self, device): return Scorer(self.v)

class Scorer:
    batch = 16
    def __init__(self, v): self.v = v
    def score(self, prepared, frame): return Columns({"v": np.full(frame.height, self.v)})
"""
TWICE = """
import numpy as np
from curate.features import Columns, Feature, Field

class Twice(Feature):
    '''Twice the number.'''
    def needs(self): return ("one.v",)
    def gives(self): return (Field("v", "float64", "a number"),)
    def open(self, device): return Scorer()

class Scorer:
    batch = 16
    def score(self, prepared, frame):
        return Columns({"v": 2 * frame["one"].struct.field("v").to_numpy()})
"""


def test_a_feature_that_reads_another_follows_it(tmp_path):
    (tmp_path / "one.py").write_text(ONE)
    (tmp_path / "twice.py").write_text(TWICE)
    steps = [{"one": {}}, {"twice": {}}, {"where": "twice.v > 10"}]
    plugins = ["./one.py", "./twice.py"]
    folder = Folder(tmp_path, ["http://h/a", "http://h/b"], steps, plugins=plugins)
    assert folder.go()["totals"]["kept"] == 0
    with pytest.raises(RecipeChanged, match=r"recipe\.v: 1\.0 -> 10"):
        folder.go("steps.one.v=10")
    assert folder.go("steps.one.v=10", recompute=("one",))["totals"]["kept"] == 2


def test_a_picture_that_comes_later_is_scored_later_for_the_probe_too(tmp_path):
    answers = {"/0.jpg": jpeg(0), "/1.jpg": Answer(jpeg(1), failures=1)}
    with picture_server(answers) as server:
        urls = [server.url(path) for path in answers]
        steps = [DOWNLOAD, {"image_file": {}}, {"where": "image_file.width > 10"}]
        folder = Folder(tmp_path, urls, steps, probe=1.0)
        assert folder.go()["totals"]["kept"] == 1
        assert folder.go(failed="retry")["totals"]["kept"] == 2


def test_a_column_file_that_is_gone_is_made_again_not_taken_for_missing_values(tmp_path):
    steps = [{"language": {}}, {"where": "language.probability > 0.0"}]
    folder = Folder(tmp_path, ["http://h/a", "http://h/b"], steps)
    assert folder.go()["totals"]["kept"] == 2
    (folder.work / "features" / "language" / "block-0000.parquet").unlink()
    assert folder.go("steps.where.sql=language.probability > 0.01")["totals"]["kept"] == 2


def test_shards_of_a_list_may_be_larger_than_the_usual(tmp_path):
    urls = [f"file:///{n}.jpg" for n in range(10_050)]
    folder = Folder(tmp_path, urls, [{"download": {}}])
    folder.recipe["pool"]["rows_per_shard"] = 20_000
    report = folder.go()
    assert report["steps"][0]["removed"] == {"refused_scheme": 10_050}


def test_a_file_that_the_pipeline_cannot_use_does_not_become_part_of_the_pool(tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pl.DataFrame({"url": ["http://h/a"], "caption": ["a"], "n": [40]}).write_parquet(first)
    folder = Folder(tmp_path, ["http://h/x"], [{"where": "n > 30"}])
    (tmp_path / "urls.parquet").unlink()
    folder.recipe["pool"]["urls"] = str(tmp_path / "*.parquet")
    assert folder.go()["totals"]["kept"] == 1
    pl.DataFrame({"url": ["http://h/b"], "caption": ["b"], "n": ["many"]}).write_parquet(second)
    with pytest.raises(InvalidPipeline, match="where"):
        folder.go()
    second.unlink()
    assert folder.go()["totals"]["kept"] == 1


def test_an_altered_list_is_refused_by_name(tmp_path):
    folder = Folder(tmp_path, ["http://h/a", "http://h/b"], [{"caption": {"min_words": 3}}])
    folder.go()
    Folder(tmp_path, ["http://h/a", "http://h/b", "http://h/c"], [])
    with pytest.raises(InputChanged, match=r"urls\.parquet had \d+ bytes and has \d+"):
        folder.go()


def test_clean_offers_what_we_made_and_nothing_else(tmp_path):
    steps = [{"language": {"name": "lid"}}, {"caption": {"min_words": 3}}]
    folder = Folder(tmp_path, ["http://h/a"], steps)
    folder.go()
    (folder.work / "notes").mkdir()
    (folder.work / "data").mkdir()
    folder.recipe["steps"] = [{"language": {}}, {"caption": {"min_words": 3}}]
    folder.go()
    offered = {url for url, _ in unused(load(str(tmp_path / "pipeline.yaml")).config)}
    gone = {str(folder.work / "features" / "lid")}
    assert offered >= gone
    assert not any("notes" in url or "data" in url for url in offered)
