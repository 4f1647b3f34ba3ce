"""A pipeline file is read with every problem at its line, all at once, before any work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tiny_pool import draw, write_shards

from curate.check import compile_pipeline
from curate.errors import CurateError, InvalidPipeline
from curate.pipeline_file.config import Loaded, load

HEAD = """\
name: t
work: {folder}/work
pool: {{shards: "{folder}/in/*.tar"}}
steps:
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two small tars (their JSON has `url` and `score`), and a URL list."""
    folder = tmp_path_factory.mktemp("config")
    write_shards(folder / "in", draw(20), 2)
    rows = {"url": ["http://h/a"], "caption": ["a b"], "similarity_score": [0.3]}
    pl.DataFrame(rows).write_parquet(folder / "urls.parquet")
    return folder


def written(folder: Path, steps: str, head: str = HEAD) -> str:
    file = folder / "p.yaml"
    file.write_text(head.format(folder=folder) + steps)
    return str(file)


def opened(folder: Path, steps: str, *changes: str, head: str = HEAD, **more: int) -> Loaded:
    """Load and check, as `curate check` does."""
    loaded = load(written(folder, steps, head), changes, **more)
    compile_pipeline(loaded)
    return loaded


def problems(folder: Path, steps: str, *changes: str, head: str = HEAD) -> list[tuple]:
    """[(line in `steps` or in the whole file where `head` is given, path, message)]."""
    with pytest.raises(InvalidPipeline) as caught:
        opened(folder, steps, *changes, head=head)
    before = HEAD.count("\n") if head == HEAD else 0
    file = str(folder / "p.yaml")
    found = []
    for line in str(caught.value).split("\n"):
        match = re.fullmatch(rf"{re.escape(file)}(?::(\d+))?: (?:(--set [^:]*|[^ ]+): )?(.*)", line)
        assert match, line
        found.append((int(match[1]) - before if match[1] else 0, match[2], match[3]))
    return found


def test_a_valid_file_is_read(folder):
    steps = """\
  - caption: {min_words: 2}
  - image_file
  - where: "image_file.width > 20 and score >= 0.1"
  - any_of:
      - where: {name: big, sql: "image_file.height > 30"}
      - random_sample: {fraction: 0.5, of: survivors}
  - write: {samples_per_shard: 7}
"""
    loaded = opened(folder, steps)
    names = [step.name for step in loaded.config.steps]
    assert names == ["caption", "image_file", "where", "any_of", "write"]
    assert [loaded.lines[name] for name in names] == [5, 6, 7, 8, 11]


def test_problems_of_every_part_are_reported_at_once(folder):
    head = """\
name: two words
seed: x
work: 3
rows_per_block: 0
prob: 1
probe: 2
plugins: [absent.py]
pool:
  - {name: a, urls: "*.parquet", colums: {}}
  - {shards: x.tar}
  - {name: a, shards: y.tar}
  - {name: b, shards: x.tar, urls: y.csv}
  - {name: c, shards: []}
  - {name: d, shards: x.tar, columns: {captoin: words}}
run:
  engine: dask
  caption: {gpu: 1, actors: 0}
  writ: {}
  max_removed: {captio: 0.5, caption: 7}
steps:
  - capton: {}
  - caption: {min_word: 3, min_words: few}
  - caption: {name: b, min_words: 9, max_words: 3}
  - write: {samples_per_shard: 0}
"""
    assert problems(folder, "", head=head.replace("{", "{{").replace("}", "}}")) == [
        (1, "name", "String should match pattern '^[A-Za-z0-9._-]+$' (got 'two words')"),
        (
            2,
            "seed",
            "Input should be a valid integer, unable to parse string as an integer (got 'x')",
        ),
        (3, "work", "Input should be a valid string (got 3)"),
        (4, "rows_per_block", "Input should be greater than or equal to 1 (got 0)"),
        (5, "prob", "there is no field 'prob'; did you mean 'probe'?"),
        (6, "probe", "Input should be less than or equal to 1 (got 2)"),
        (
            7,
            "plugins[0]",
            f"absent.py cannot be read: [Errno 2] No such file or directory: '{folder}/absent.py'",
        ),
        (9, "pool[0].colums", "there is no field 'colums'; did you mean 'columns'?"),
        (10, "pool[1]", "each source of a list needs a `name`"),
        (11, "pool[2]", "two sources are named 'a'"),
        (12, "pool[3]", "give one of `urls`, `shards`, `metadata`, or the last two together"),
        (13, "pool[4]", "the list of files is empty"),
        (14, "pool[5]", "no column of ours is 'captoin'; did you mean 'caption'?"),
        (16, "run.engine", "Input should be 'auto', 'local' or 'ray' (got 'dask')"),
        (17, "run.caption.actors", "Input should be greater than or equal to 1 (got 0)"),
        (17, "run.caption.gpu", "there is no field 'gpu'; did you mean 'gpus'?"),
        (18, "run.writ", "neither a setting nor a step: 'writ'; did you mean 'write'?"),
        (19, "run.max_removed.captio", "no step is called 'captio'; did you mean 'caption'?"),
        (19, "run.max_removed.caption", "Input should be less than or equal to 1 (got 7)"),
        (21, "steps[0].capton", "no step is called 'capton'; did you mean 'caption'?"),
        (
            22,
            "steps[1].caption.min_word",
            "there is no field 'min_word'; did you mean 'min_words'?",
        ),
        (
            22,
            "steps[1].caption.min_words",
            "Input should be a valid integer, unable to parse string as an integer (got 'few')",
        ),
        (23, "steps[2].caption", "min_words 9 is above max_words 3: nothing can pass"),
        (
            24,
            "steps[3].write.samples_per_shard",
            "Input should be greater than or equal to 1 (got 0)",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("- a\n", 1, "a pipeline is a mapping with name, work, pool and steps"),
        ("name: [\nwork: w\n", 3, "not YAML: expected ',' or ']'"),
        ("name: &a [*a]\n", 0, "not YAML: an alias stands within its anchor"),
        ("name: !!python/name:os.system\n", 1, "not YAML: could not determine a constructor"),
        ("name: x\n---\nname: y\n", 2, "not YAML: but found another document"),
        ("name: x\nseed: 2026-99-99\n", 2, "not a value: month must be in 1..12"),
        ("name: x\nname: y\n", 2, "'name' is given twice (first on line 1)"),
    ],
)
def test_what_is_no_pipeline_is_named(tmp_path, text, line, message):
    found = problems(tmp_path, "", head=text.replace("{", "{{"))
    assert any(at == line and said.startswith(message) for at, _, said in found), found


def test_missing_parts_are_named(folder):
    found = problems(folder, "", head="seed: 1\n")
    assert {message for _, _, message in found} == {
        f"`{key}` is missing" for key in ("name", "work", "pool", "steps")
    }


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("  - {caption: {}, write: {}}\n", "a step has one kind, as in"),
        ("  - 3\n", "a step has one kind, as in"),
        ("  - caption: 3\n", "the fields of caption are a mapping, not 3"),
        ("  - where: 3\n", "Input should be a valid string (got 3)"),
        ("  - where: 'score >'\n", "not a SQL condition: "),
        ("  - where: 'score > avg(score)'\n", "a condition sees one sample"),
        ("  - where: 'count(*) > 3'\n", "a condition sees one sample"),
        ("  - where: 'rank() over (order by score) < 3'\n", "a condition sees one sample"),
        ("  - where: 'exists(select 1)'\n", "a condition sees one sample"),
        ("  - exact_duplicates: {by: url}\n", "Input should be a list (got 'url')"),
        ("  - exact_duplicates: {by: []}\n", "The list should have at least 1 item"),
        ("  - clip_score: {}\n", "give one of: at_least and/or at_most"),
        ("  - clip_score: {at_least: 0.3, top_count: 3}\n", "give one of: at_least and/or"),
        ("  - clip_score: {at_least: 0.3, of: survivors}\n", "`of` says how a share is taken"),
        ("  - clip_score: {at_least: 0.3, at_most: 0.2}\n", "at_least 0.3 is above at_most 0.2"),
        ("  - clip_score: {at_least: .nan}\n", "Input should be a finite number (got nan)"),
        ("  - image_size: {max_aspect_ratio: .inf}\n", "Input should be a finite number (got inf)"),
        ("  - clip_score: {top_fraction: 0}\n", "Input should be greater than 0 (got 0)"),
        ("  - clip_score: {top_count: 2, of: pool_count}\n", "top_count is a number of rows"),
        ("  - random_sample: {fraction: 1.5}\n", "Input should be less than or equal to 1"),
        ("  - random_sample: {}\n", "give one of fraction and count"),
        ("  - random_sample: {count: 2, of: pool_count}\n", "count is a number of rows already"),
        ("  - caption: {name: pool}\n", "'pool' cannot be a step's name: it is ours"),
        ("  - caption: {name: subset}\n", "'subset' cannot be a step's name: it is ours"),
        ("  - caption: {name: a/b}\n", "'a/b' cannot be a step's name: letters, digits"),
        ("  - any_of: []\n", "any_of holds a list of filters"),
        ("  - any_of: 3\n", "any_of holds a list of filters"),
        (
            "  - any_of: [exact_duplicates: {by: [url]}]\n",
            "exact_duplicates: any_of holds row and pool filters only",
        ),
        ("  - any_of: [image_file]\n", "image_file: any_of holds row and pool filters only"),
        ("  - any_of: [any_of: [caption]]\n", "any_of: any_of holds row and pool filters only"),
        ("  - any_of: {copies: most, steps: [caption]}\n", "Input should be 'max' or 'sum'"),
    ],
)
def test_a_wrong_step_says_what_is_wrong(folder, steps, expected):
    found = problems(folder, steps)
    assert all(line == 1 for line, _, _ in found)
    assert [message.startswith(expected) for _, _, message in found] == [True], found


def test_problems_inside_any_of_are_at_their_own_line(folder):
    steps = """\
  - any_of:
      - caption:
          min_words: few
      - random_sample: {fraction: 2}
      - capton
"""
    found = [(line, path) for line, path, _ in problems(folder, steps)]
    assert found == [
        (3, "steps[0].any_of[0].caption.min_words"),
        (4, "steps[0].any_of[1].random_sample.fraction"),
        (5, "steps[0].any_of[2].capton"),
    ]


def test_repeated_names_are_refused_also_inside_any_of(folder):
    steps = "  - caption\n  - where: 'score > 0'\n  - any_of: [where: 'score > 1']\n  - caption\n"
    found = problems(folder, steps)
    assert [(line, message) for line, _, message in found] == [
        (3, "two steps are named 'where': give one another `name:`"),
        (4, "two steps are named 'caption': give one another `name:`"),
    ]


@pytest.mark.parametrize(
    ("steps", "line", "expected"),
    [
        ("  - where: 'nope > 1'\n", 1, "nobody produces 'nope' before this step; there are: "),
        (
            "  - where: \"language.code = 'en'\"\n",
            1,
            "nobody produces 'language.code' before this step; `- language: {...}` would make it",
        ),
        (
            "  - where: 'image_file.width > 9'\n  - image_file\n",
            1,
            "nobody produces 'image_file.width' before this step; 'image_file' makes it: "
            "move that step up",
        ),
        (
            "  - caption\n  - image_size: {min_side: 9}\n  - image_file: {name: files}\n",
            2,
            "no column gives the size: put `- image_file: {}` before this step; 'files' makes it: "
            "move that step up",
        ),
        ("  - clip_score: {at_least: 0.3}\n", 1, "no column gives a similarity: put `- clip: {"),
        ("  - clip_score: {at_least: 0.3, column: clip.similarity}\n", 1, "nobody produces 'clip"),
        (
            "  - exact_duplicates: {by: [sha256]}\n",
            1,
            "nobody produces 'sha256' before this step; `- download: {}` would make it, "
            "`- image_file: {}` makes image_file.sha256",
        ),
        (
            "  - image_file\n  - image_file: {name: again}\n  - image_size: {min_side: 3}\n",
            3,
            "several columns give the size: [image_file.width, image_file.height], "
            "[again.width, again.height]; name them with `columns:`",
        ),
        (
            "  - caption\n  - random_sample: {fraction: 0.5}\n",
            2,
            "a filter stands before: say of what the share is taken, `of: survivors`, ",
        ),
        (
            "  - caption\n  - any_of: [random_sample: {fraction: 0.5}]\n",
            2,
            "a filter stands before: say of what the share is taken, `of: survivors`, ",
        ),
        ("  - write\n  - caption\n", 2, "nothing comes after `write`: it is the last step"),
        ("  - write\n  - write: {name: b}\n", 2, "nothing comes after `write`: it is the last"),
        (
            "  - download\n",
            1,
            "the pool has pictures: a download takes a pool of `urls:` or `metadata:` alone",
        ),
        (
            "  - image_file\n  - where: 'image_file.widht > 9'\n",
            2,
            "nobody produces 'image_file.widht' before this step; 'image_file' has no field "
            "'widht'; did you mean 'width'?",
        ),
        (
            "  - where: 'image_clusters.in_target'\n",
            1,
            "nobody produces 'image_clusters.in_target' before this step; "
            "`- image_clusters: {...}` has no field 'in_target'; did you mean 'in_targets'?",
        ),
        (
            "  - columns: {from: '{folder}/hype.csv', take: [hype, bonus]}\n"
            "  - mix: {of: {columns.hyp: 1}}\n  - score: {column: mix.scor, at_least: 0}\n",
            (2, 3),
            (
                "nobody produces 'columns.hyp' before this step; 'columns' has no field 'hyp'; "
                "did you mean 'hype'?",
                "nobody produces 'mix.scor' before this step; 'mix' has no field 'scor'; "
                "did you mean 'score'?",
            ),
        ),
        (
            "  - where: 'columns.hype > 1'\n",
            1,
            "nobody produces 'columns.hype' before this step; `- columns: {...}` would make it",
        ),
        (
            "  - image_file: {name: url}\n  - where: \"url = 'x' and url.width > 3\"\n",
            2,
            "the pool has a column 'url': give the step 'url' another `name:`",
        ),
        (
            "  - image_file\n  - exact_duplicates: {by: [url], keep: {lowest: image_file.format}}",
            2,
            "image_file.format holds text: `keep` takes a column of numbers",
        ),
        (
            "  - image_file\n  - where: 'image_file.width'\n",
            2,
            "the rule 'false' gives UInt32, not true or false",
        ),
        (
            "  - image_file\n  - where: 'image_file.format > 3'\n",
            2,
            "does not fit its columns: cannot compare string with numeric type",
        ),
        (
            "  - image_file\n  - caption: {column: image_file.width, min_words: 3}\n",
            2,
            "image_file.width holds UInt32, not text",
        ),
    ],
)
def test_a_step_in_the_wrong_place_says_where_it_belongs(folder, steps, line, expected):
    (folder / "hype.csv").write_text(f"uid,hype,bonus\n{'0' * 32},0.5,1\n")
    found = problems(folder, steps.replace("{folder}", str(folder)))
    lines, said = ((line,), (expected,)) if isinstance(line, int) else (line, expected)
    assert [at for at, _, _ in found] == list(lines), found
    pairs = zip(found, said, strict=True)
    assert all(message.startswith(wanted) for (_, _, message), wanted in pairs), found


URLS = HEAD.replace('shards: "{folder}/in/*.tar"', 'urls: "{folder}/urls.parquet"')


def test_pictures_are_asked_of_a_pool_that_has_them(folder):
    found = problems(folder, "  - image_file\n  - write\n", head=URLS)
    assert [(line, message) for line, _, message in found] == [
        (5, "the pool has no pictures yet: put `- download: {}` before this step"),
        (6, "the pool has no pictures yet: put `- download: {}` before this step"),
    ]
    opened(folder, "  - download\n  - image_file\n  - write\n", head=URLS)
    twice = problems(folder, "  - download\n  - download: {name: b}\n", head=URLS)
    assert twice == [(6, "b", "the pictures were downloaded by 'download' already")]


def test_a_choice_of_similarities_must_be_made(folder, tmp_path):
    """DataComp's metadata has two; here the pool has one and a feature of the user's another."""
    (tmp_path / "mine.py").write_text(SCORER)
    head = URLS.replace("steps:", "plugins: [mine.py]\nsteps:").replace(
        "{folder}/urls", str(folder) + "/urls"
    )
    steps = "  - mine\n  - clip_score: {at_least: 0.2}\n"
    assert problems(tmp_path, steps, head=head) == [
        (
            7,
            "clip_score",
            "several columns give a similarity: similarity_score, mine.similarity; "
            "name one with `column:`",
        )
    ]
    named = steps.replace("at_least", "column: mine.similarity, at_least")
    assert opened(tmp_path, named, head=head)
    with_threshold = "  - caption\n  - mine\n  - clip_score: {column: mine.similarity, top_count: 1"
    found = problems(tmp_path, with_threshold + ", of: pool_threshold}\n", head=head)
    assert found == [
        (
            8,
            "clip_score",
            "it needs mine.similarity for the whole pool, but 'caption' stands "
            "before 'mine': move 'mine' up, or write `of: pool_count`",
        )
    ]
    assert opened(tmp_path, with_threshold + "}\n", head=head)
    everybody = head.replace("steps:", "probe: 1\nsteps:")
    assert opened(tmp_path, with_threshold + ", of: pool_threshold}\n", head=everybody)


SCORER = '''
from curate.features import Columns, Feature, Field


class Mine(Feature):
    """How long a caption is."""

    name: str = "mine"

    def needs(self):
        return ("caption",)

    def gives(self):
        return (Field("similarity", "float32", "characters / 100"),)

    def open(self, device):
        return Scorer()


class Scorer:
    batch = 8

    def score(self, prepared, frame):
        return Columns({"similarity": frame["caption"].str.len_chars().to_list()})
'''


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\n", "bad.py must define one Filter or Feature; it defines none"),
        ("import nothing_of_that_name\n", "bad.py cannot be loaded: ModuleNotFoundError: "),
        ("1 / 0\n", "bad.py cannot be loaded: ZeroDivisionError: division by zero"),
        ("def (\n", "bad.py cannot be loaded: SyntaxError: "),
        (
            "from filters import Filter\nclass A(Filter): pass\nclass B(Filter): pass\n",
            "bad.py must define one Filter or Feature; it defines A, B",
        ),
        ("\xff", "bad.py cannot be read: "),
    ],
)
def test_a_broken_plugin_says_why(folder, tmp_path, source, expected):
    (tmp_path / "bad.py").write_bytes(source.encode("latin-1"))
    head = HEAD.replace("{folder}/in", f"{folder}/in").replace(
        "steps:", "plugins: [bad.py]\nsteps:"
    )
    found = problems(tmp_path, "  - caption\n", head=head)
    assert [(line, path) for line, path, _ in found] == [(4, "plugins[0]")]
    assert found[0][2].startswith(expected)


def test_a_plugin_takes_no_other_steps_name(folder, tmp_path):
    (tmp_path / "caption.py").write_text(SCORER)
    head = HEAD.replace("{folder}/in", f"{folder}/in").replace(
        "steps:", "plugins: [caption.py]\nsteps:"
    )
    found = problems(tmp_path, "  - caption\n", head=head)
    assert found == [(4, "plugins[0]", "caption.py: another step is called 'caption'")]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("{shards: 'no/*.tar'}", "pool pool: nothing matches no/*.tar"),
        ("{shards: 'no/{0..1}.tar'}", "no/0.tar cannot be read: No such file or directory"),
        ("{shards: [in/00000.tar, in/00000.tar]}", "pool pool: 1 files are named more than once"),
        ("{shards: in}", "in cannot be read: Is a directory"),
        ("{urls: in/00000.tar}", "in/00000.tar: a URL list ends in one of .parquet, .csv, .tsv"),
        ("{urls: p.csv}", "p.csv cannot be read as .csv: "),
        ("{urls: q.csv}", "q.csv has no URL column (it has: picture, caption); name it with"),
        ("{shards: 'zz://b/x.tar'}", "zz:// is not a known kind of storage: "),
        ("{shards: 's3://b/x.tar'}", "s3://b/x.tar cannot be read: Unable to locate credentials"),
    ],
)
def test_a_pool_that_does_not_open_is_named(folder, monkeypatch, pool, expected):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    (folder / "p.csv").write_text("")
    (folder / "q.csv").write_text("picture,caption\nhttp://h/1,a\n")
    head = HEAD.replace(
        '{{shards: "{folder}/in/*.tar"}}', pool.replace("{", "{{").replace("}", "}}")
    )
    found = problems(folder, "  - where: 'unknown > 3'\n", head=head)
    assert [(line, path) for line, path, _ in found] == [(3, "pool.pool")]
    assert found[0][2].startswith(expected)


STEPS = """\
  - image_file
  - caption
  - where: "score > 0"
  - any_of:
      - where: {name: wide, sql: "image_file.width > 60"}
      - random_sample: {fraction: 0.5, of: survivors}
run:
"""


def test_a_field_is_set_from_the_command_line(folder):
    changes = (
        "seed=7",
        "name=other",
        "steps.caption.min_words=3",  # written without fields
        "steps.where.sql=score > 0.5",  # written as a bare value
        "steps.wide.sql=image_file.width > 90",  # inside any_of, by its name
        "steps.random_sample.fraction=0.25",  # inside any_of, by its kind
        "steps.any_of.copies=sum",  # any_of written as a list
        "run.caption.actors=3",  # `run:` is empty
        "pool.columns.caption=text",  # not written at all
    )
    config = load(written(folder, STEPS), changes).config
    image_file, caption, where, any_of = config.steps
    assert (config.seed, config.name, image_file.name) == (7, "other", "image_file")
    assert caption.min_words == 3
    assert where.sql == "score > 0.5"
    assert any_of.copies == "sum"
    assert [child.name for child in any_of.steps] == ["wide", "random_sample"]
    assert any_of.steps[0].sql == "image_file.width > 90"
    assert any_of.steps[1].fraction == 0.25
    assert config.run.steps["caption"].actors == 3
    assert config.pool[0].columns == {"caption": "text"}


def test_what_cannot_be_set_is_said(folder):
    found = problems(
        folder,
        STEPS,
        "seed",
        "steps.captoin.min_words=3",
        "steps.caption=3",
        "steps.caption.min_word=3",
        "steps.image_file.name.x=3",
        "sed=3",
        "seed=2026-99-99",
    )
    expected = {
        "--set seed": "write it as path=value",
        "--set steps.captoin.min_words=3": "no step is called 'captoin'; did you mean 'caption'?",
        "--set steps.caption=3": "there is no such place to set",
        "steps[1].caption.min_word": "there is no field 'min_word'; did you mean 'min_words'?",
        "sed": "there is no field 'sed'; did you mean 'seed'?",
        "seed": "Input should be a valid integer, unable to parse string as an integer "
        "(got '2026-99-99')",
        "steps[0].image_file.name": "Input should be a valid string",
    }
    assert {path: message for _, path, message in found} == expected


def test_a_limit_is_a_step_of_its_own_in_a_folder_of_its_own(folder):
    loaded = opened(folder, "  - random_sample: {fraction: 0.5}\n", limit=7)
    assert loaded.config.work == f"{folder}/work-limit-7"
    assert [step.name for step in loaded.config.steps] == ["limit", "random_sample"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}  # installed or not


def curate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "curate.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_command_says_so_with_its_exit_code(folder):
    fine = curate("check", written(folder, "  - caption\n"), cwd=folder)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "is fine: 1 step, work" in fine.stdout
    wrong = curate("check", written(folder, "  - capton\n"), cwd=folder)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        f"{folder}/p.yaml:5: steps[0].capton: no step is called 'capton'; did you mean 'caption'?\n"
    )
    usage = curate("check", cwd=folder)
    assert usage.returncode == 2
    assert "Missing argument" in usage.stderr
    absent = curate("run", "absent.yaml", cwd=folder)
    assert absent.returncode == 2
    assert absent.stderr.startswith("absent.yaml: cannot be read: ")
    nothing = curate("run", "p.yaml", "--set", "steps.a.b=1", cwd=folder)
    assert nothing.returncode == 2
    assert not (folder / "work").exists()


HEAVY = ("torch", "ray", "faiss", "open_clip", "torchvision", "PIL", "pandas", "img2dataset")
LOOK = f"""
import json, sys
try:
    exec(sys.argv[1])
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


@pytest.mark.parametrize("what", ["import curate", "--help", "check", "version"])
def test_nothing_heavy_is_loaded_before_it_is_used(folder, what):
    file = written(folder, "  - image_file\n  - language\n  - caption\n  - write\n")
    arguments = [what, file] if what == "check" else [what]
    code = what if what.startswith("import") else f"from curate.cli import main; main({arguments})"
    done = subprocess.run(
        [sys.executable, "-c", LOOK, code],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


def test_every_user_error_has_an_exit_code_of_the_contract():
    def below(kind: type) -> list[type]:
        return [kind, *(inner for sub in kind.__subclasses__() for inner in below(sub))]

    assert {kind.exit_code for kind in below(CurateError)} <= {2, 3, 4}


@pytest.mark.parametrize("file", ["RECORD", "top_level.txt"])
def test_a_package_that_brings_its_own_filters_is_named(folder, tmp_path, monkeypatch, file):
    """Several on PyPI do; whose files Python finds is then a matter of luck."""
    own, harmless = tmp_path / "bad_filters-1.0.dist-info", tmp_path / "good-1.0.dist-info"
    listed = {"RECORD": "{}/__init__.py,sha256=x,1\n", "top_level.txt": "{}\n"}[file]
    for place, name, package in (
        (own, "bad-filters", "filters"),
        (harmless, "good", "good/filters"),
    ):
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (place / file).write_text(listed.format(package))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [(path, message) for _, path, message in problems(folder, "  - caption\n")] == [
        (
            None,
            "the installed package 'bad-filters' also has a top-level `filters`: "
            "`pip uninstall bad-filters`, or use a fresh environment",
        )
    ]
