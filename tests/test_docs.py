"""The README is the documentation: what it names exists, what it shows works."""

import re
import tarfile
from pathlib import Path

import polars as pl
import pytest
import yaml

import filters
from curate import features
from curate.check import compile_pipeline
from curate.cli import app
from curate.docs import REPORT_FILE, STEPS_FILE, report_page, steps_page
from curate.downloads.download import Download
from curate.pipeline import Options, run
from curate.pipeline_file.config import load
from curate.pipeline_file.schema import (
    Config,
    Published,
    ReportSettings,
    Resources,
    Run,
    Source,
)
from curate.write import Write
from tests.tiny_pool import draw, write_tar

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_two_commands_are_those_that_ci_runs():
    assert "pip install . && curate quickstart" in README
    assert "pip install '.[dev]' && python -m pytest" in README
    script = (ROOT / ".ci" / "run").read_text()
    assert ".[dev]" in script
    assert re.search(r"python -m pytest\s*$", script, flags=re.M), "CI adds nothing to the command"


def test_every_command_and_field_is_in_the_readme():
    commands = [c.name or c.callback.__name__ for c in app.registered_commands]
    missing = [name for name in commands if f"`curate {name}" not in README]
    for model in (Config, Source, Run, Resources, ReportSettings, Published):
        missing += [
            name for name in model.model_fields if name != "steps" and f"`{name}`" not in README
            and f".{name}`" not in README
        ]  # fmt: skip
    missing += [name for name in features.names() if f"`{name}`" not in README]
    assert not missing


def test_every_module_is_in_the_tree():
    tree = README[README.index("## Where things are") :]
    missing = [p.name for p in (ROOT / "curate").glob("[!_]*.py") if p.name not in tree]
    rooms = [p.parent for p in (ROOT / "curate").glob("*/__init__.py")]
    missing += [f"{room.name}/" for room in rooms if f"{room.name}/" not in tree]
    assert not missing


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_passes_check_and_says_what_it_reproduces(file, tmp_path):
    """Those in `datacomp/`, and those over metadata, are run in tests of their own."""
    assert file.read_text().startswith("# ")
    urls = tmp_path / "urls.parquet"
    pl.DataFrame({"url": ["http://h/a.jpg"], "caption": ["a"]}).write_parquet(urls)
    if "  urls:" not in file.read_text():
        run_in = [
            t.name for t in (ROOT / "tests").glob("test_*.py") if f'"{file.stem}' in t.read_text()
        ]
        assert run_in, "no test runs it"
        return
    overrides = [f"pool.urls={urls}", f"work={tmp_path / 'work'}"]
    if "concepts:" in file.read_text():
        entries = pl.DataFrame({"entry": ["a", "b"], "language": ["en", "de"]})
        entries = entries if "language: language" in file.read_text() else entries.head(1)
        entries.write_parquet(tmp_path / "entries.parquet")
        overrides += [f"steps.concepts.entries={tmp_path / 'entries.parquet'}"]
    if "weights: openai" in file.read_text():
        overrides += ["steps.clip.model=quickstart", "steps.clip.weights=null"]
    compile_pipeline(load(str(file), overrides))


def test_the_pipeline_that_the_readme_explains_is_valid(tmp_path):
    text = next(block for block in blocks("yaml") if "name: stamps" in block)
    file = tmp_path / "stamps.yaml"
    file.write_text(text)
    urls = tmp_path / "u.parquet"
    pl.DataFrame({"url": ["http://h/a.jpg"], "caption": ["a"]}).write_parquet(urls)
    overrides = [
        f"pool.urls={urls}",
        "steps.clip.model=quickstart",
        "steps.clip.weights=null",
    ]
    compile_pipeline(load(str(file), overrides))


def test_the_filter_and_the_scorer_of_the_readme_work(tmp_path):
    for block in blocks("python"):
        named = re.search(r"^class (\w+)\((?:RowFilter|Feature)\)", block, flags=re.M)
        if named:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", named[1]).lower()
            (tmp_path / f"{name}.py").write_text(block)
    samples = draw(30)
    write_tar(tmp_path / "in" / "00000.tar", samples)
    recipe = {
        "name": "own",
        "work": str(tmp_path / "work"),
        "pool": {"shards": str(tmp_path / "in" / "*.tar")},
        "plugins": ["./no_digits.py", "./brightness.py"],
        "steps": [
            {"brightness": {}},
            {"where": "brightness.mean > 30"},
            {"no_digits": {}},
            {"write": {}},
        ],
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe))
    report = run(load(str(file)), Options(), lambda progress: None).report
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["no_digits"]["removed"]["has_digit"] > 0
    assert steps["brightness"]["in"] == steps["brightness"]["kept"] > 0
    kept = [s for s in samples if s.jpeg and s.caption and not re.search(r"\d", s.caption)]
    tars = sorted((tmp_path / "work" / "shards").glob("*.tar"))
    written = []
    for file in tars:
        with tarfile.open(file) as tar:
            written += [name for name in tar.getnames() if name.endswith(".txt")]
    assert len(written) == report["totals"]["kept"] <= len(kept)


def test_the_page_of_report_json_is_current():
    assert REPORT_FILE.read_text() == report_page(), "run `python -m curate.docs`"


def test_the_page_of_steps_is_current_and_describes_every_field():
    assert STEPS_FILE.read_text() == steps_page(), "run `python -m curate.docs`"
    for kind in (Download, Write, *map(features.find, features.names())):
        for name, field in kind.model_fields.items():
            assert name == "name" or field.description, f"{kind.__name__}.{name}"


def test_filters_are_the_files_of_the_folder():
    files = {p.stem for p in (ROOT / "filters").glob("[!_]*.py")}
    assert set(filters.names()) == files
