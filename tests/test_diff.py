"""`curate diff`: what two runs or subsets share, and why they differ, against the ledgers."""

import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_pool import Reported, draw, ledger_of, tar_pool, write_shards

from curate.cli import main
from curate.comparison.command import Asked, diff
from curate.comparison.schema import Diff
from curate.comparison.sides import names_of
from curate.page.diff import render
from curate.runner import LocalRunner
from curate.sample import UID, parse_uids
from curate.subsets.subset import save

SCRIPT = "<script>alert(1)</script> is a caption"
IMG = "\"'><img src=x onerror=alert(2)> is another"
BIDI = "evil \u202egpj.exe\u2066 \x1b[31m red"
LONG = "many words " * 900
HOSTILE = (SCRIPT, IMG, BIDI, LONG)


def steps(score: float, side: int) -> list:
    return [
        {"caption": {"min_words": 2}},
        {"image_file": {}},
        {"image_size": {"min_side": side}},
        {"clip_score": {"name": "floor", "column": "score", "at_least": score}},
    ]


@pytest.fixture(scope="module")
def samples():
    drawn = draw(240)
    for number in range(0, 240, 3):
        hostile = HOSTILE[number // 3 % 4]
        drawn[number] = replace(drawn[number], caption=f"{hostile} {number}")
    return drawn


@pytest.fixture(scope="module")
def pool(samples, tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("pool") / "in", samples, 4)


@pytest.fixture(scope="module")
def runs(pool, tmp_path_factory) -> dict[str, Reported]:
    """Each keeps what the other does not: `high` by score, `wide` by size."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for name, score, side in (("high", 0.4, 31), ("wide", 0.1, 38)):
        made[name] = Reported(folder / name, tar_pool(pool), steps(score, side))
        made[name].run()
    return made


def compared(a, b, folder: Path, **asked) -> dict:
    _, report = diff(str(a), str(b), Asked(out=str(folder), **asked), LocalRunner())
    written = json.loads((folder / "diff.json").read_text())
    Diff.model_validate(written)
    assert written == json.loads(json.dumps(report))
    return written


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("diff")
    report = compared(runs["high"].work, runs["wide"].work, folder)
    return report, (folder / "index.html").read_text()


@pytest.fixture(scope="module")
def ledgers(runs) -> pl.DataFrame:
    """Both ledgers side by side, row by row."""
    a, b = (ledger_of(runs[name].work) for name in ("high", "wide"))
    both = a.rename(lambda name: f"a_{name}").hstack(b.rename(lambda name: f"b_{name}"))
    assert (both["a_uid"] == both["b_uid"]).all()
    return both.with_columns(
        a=pl.col("a_fate") == "kept", b=pl.col("b_fate") == "kept", uid=pl.col("a_uid")
    )


def test_sets_and_rows_are_those_of_the_ledgers(found, ledgers):
    report, _ = found
    a, b = (set(ledgers.filter(pl.col(side))["uid"]) for side in ("a", "b"))
    sets = report["sets"]
    assert sets["uids_in_both"] == len(a & b) > 0
    assert sets["uids_only_a"] == len(a - b) > 0
    assert sets["uids_only_b"] == len(b - a) > 0
    assert sets["jaccard"] == len(a & b) / len(a | b)
    assert (sets["a_in_b"], sets["b_in_a"]) == (len(a & b) / len(a), len(a & b) / len(b))
    assert report["rows"] == {
        "both": ledgers.filter(pl.col("a") & pl.col("b")).height,
        "only_a": ledgers.filter(pl.col("a") & ~pl.col("b")).height,
        "only_b": ledgers.filter(~pl.col("a") & pl.col("b")).height,
        "neither": ledgers.filter(~pl.col("a") & ~pl.col("b")).height,
    }


@pytest.mark.parametrize(("side", "other"), [("a", "b"), ("b", "a")])
def test_reasons_are_those_of_the_other_run(found, ledgers, side, other):
    report, _ = found
    [section] = [one for one in report["elsewhere"] if one["of"] == side]
    own = ledgers.filter(pl.col(side) & ~pl.col(other))
    expected = Counter(own.select(f"{other}_step", f"{other}_reason").rows())
    assert {(r["step"], r["reason"]): r["rows"] for r in section["reasons"]} == expected
    assert section["rows"] == own.height > 0
    assert section["uids_absent"] == 0


def test_funnels_say_which_field_of_a_recipe_differs(found):
    report, _ = found
    steps = {step["name"]: step for step in report["steps"]}
    assert list(steps) == ["caption", "image_file", "image_size", "floor"]
    assert steps["caption"]["changed"] == []
    assert steps["image_size"]["changed"] == ["min_side: 31 -> 38"]
    assert steps["floor"]["changed"] == ["at_least: 0.4 -> 0.1"]
    for side in ("a", "b"):
        kept = [step[side]["kept"] for step in report["steps"]]
        entered = [step[side]["entered"] for step in report["steps"]]
        assert entered[1:] == kept[:-1]
        assert kept[-1] == report[side]["copies"]


@pytest.mark.parametrize(("side", "other"), [("a", "b"), ("b", "a")])
def test_samples_shown_are_of_one_side_alone_with_what_the_other_decided(
    found, ledgers, samples, side, other
):
    report, _ = found
    [gallery] = [one for one in report["galleries"] if one["of"] == side]
    own = ledgers.filter(pl.col(side) & ~pl.col(other))
    assert len(gallery["samples"]) == min(24, own.height) > 5
    rows = {(r["a_shard"], r["a_row"]): r for r in own.rows(named=True)}
    drawn = {
        (row["a_shard"], row["a_row"]): samples[number]
        for number, row in enumerate(ledgers.rows(named=True))
    }
    for sample in gallery["samples"]:
        place = sample["shard"], sample["row"]
        row = rows[place]
        assert sample["uid"] == row["uid"]
        fate = {"step": row[f"{other}_step"], "reason": row[f"{other}_reason"]}
        assert sample["fate"] == fate
        assert sample["key"] == drawn[place].key
        if fate["step"] == "floor":
            assert sample["values"]["score"] == drawn[place].metadata.get("score")


def test_histograms_count_every_kept_sample_and_effects_are_those_of_the_formulas(
    found, ledgers, samples
):
    report, _ = found
    [score] = [one for one in report["distributions"] if one["column"] == "score"]
    values = np.array([s.metadata.get("score", np.nan) for s in samples], dtype=float)
    kept = {side: ledgers[side].to_numpy() for side in ("a", "b")}
    edges = score["edges"]
    for side, other in (("a", "b"), ("b", "a")):
        for part, mask in (("only", ~kept[other]), ("both", kept[other])):
            own = values[kept[side] & mask]
            counts, _ = np.histogram(own[np.isfinite(own)], edges)
            assert score[side][part] == counts.tolist()
        own = values[kept[side]]
        assert score[side]["count"] == np.isfinite(own).sum()
        assert score[side]["missing"] == np.isnan(own).sum()
        assert score[side]["mean"] == pytest.approx(np.nanmean(own))
        assert score[side]["deviation"] == pytest.approx(np.nanstd(own))
    a, b = (values[kept[side]] for side in ("a", "b"))
    n, m, shared = len(a), len(b), (kept["a"] & kept["b"]).sum()
    pooled = np.sqrt((n * a.var() + m * b.var()) / (n + m - 2))
    d = (a.mean() - b.mean()) / pooled
    both, *only = (
        values[kept["a"] & kept["b"]],
        *(values[kept[x] & ~kept[y]] for x, y in ("ab", "ba")),
    )
    u, v, w = ((len(x) * x.var() / pooled**2 + 10) / (len(x) + 9) for x in (both, *only))
    means = (n - shared) * v / n**2 + (m - shared) * w / m**2 + shared * u * (1 / n - 1 / m) ** 2
    error = np.sqrt(means + d**2 / (2 * (n + m)))
    assert score["d"]["value"] == pytest.approx(d)
    assert score["d"]["low"] == pytest.approx(d - 1.959964 * error)
    below = [(a < edge).mean() - (b < edge).mean() for edge in edges]
    assert score["ks"] == pytest.approx(max(abs(x) for x in below))


def test_lengths_of_captions_and_aspect_ratios_are_made(found, ledgers, samples):
    report, _ = found
    by_name = {one["column"]: one for one in report["distributions"]}
    [lengths] = [by_name["caption_characters"]]
    kept = ledgers["a"].to_numpy()
    captions = [s.caption for s, keep in zip(samples, kept, strict=True) if keep]
    assert lengths["a"]["mean"] == pytest.approx(np.mean([min(len(c), 10_000) for c in captions]))
    assert sum(lengths["a"]["both"]) + sum(lengths["a"]["only"]) == len(captions)
    assert lengths["scale"] == "log"
    assert {"image_file.width"} & by_name.keys() == set()  # not a float: it must be asked for


def test_named_columns_are_compared_too(runs, tmp_path):
    asked = {"columns": ("image_file.width", "image_file.format")}
    report = compared(runs["high"].work, runs["wide"].work, tmp_path, **asked)
    assert "image_file.width" in {one["column"] for one in report["distributions"]}
    [formats] = [one for one in report["shares"] if one["column"] == "image_file.format"]
    assert formats["a"] == report["a"]["copies"]
    assert sum(v["a"] for v in formats["values"]) + formats["rest"][0] == formats["a"]


class Backwards(LocalRunner):
    """Gives results in another order, as many workers would."""

    def map(self, work, items, label):
        return iter([work(item) for item in reversed(list(items))])


def test_bytes_do_not_depend_on_blocks_workers_or_folders(runs, found, tmp_path, monkeypatch):
    for name, run in runs.items():
        run.where(folder=tmp_path / name, rows_per_block=40).run()
    monkeypatch.chdir(tmp_path)
    diff("high/work", "wide/work", Asked(out="here"), Backwards())
    report, _ = found
    again = json.loads(Path("here/diff.json").read_text())
    for side in ("a", "b"):
        again[side]["place"] = report[side]["place"]
    assert json.dumps(again, sort_keys=True) == json.dumps(report, sort_keys=True)
    diff("high/work", "wide/work", Asked(out="there"), LocalRunner())
    for file in ("diff.json", "index.html"):
        assert Path("there", file).read_bytes() == Path("here", file).read_bytes()


def test_swapping_both_sides_swaps_every_number(runs, found, tmp_path):
    report, _ = found
    swapped = compared(runs["wide"].work, runs["high"].work, tmp_path)
    assert swapped["sets"]["uids_only_a"] == report["sets"]["uids_only_b"]
    assert swapped["elsewhere"][0]["reasons"] == report["elsewhere"][1]["reasons"]
    assert swapped["galleries"][0]["samples"] == report["galleries"][1]["samples"]
    d = {one["column"]: one["d"]["value"] for one in report["distributions"] if one["d"]}
    for one in swapped["distributions"]:
        assert one["d"] is None or one["d"]["value"] == -d[one["column"]]


def test_a_subset_file_is_looked_up_in_the_pool_of_the_run(runs, found, tmp_path):
    report, _ = found
    subset = runs["high"].work / "subset.npy"
    other = compared(subset, runs["wide"].work, tmp_path)
    assert other["sets"] == report["sets"]
    assert (other["pool"], other["rows"], other["steps"]) == ("unknown", None, [])
    own, away = other["elsewhere"]
    assert away == {"of": "b", "known": False, "rows": 0, "reasons": [], "uids_absent": None}
    assert own["uids_absent"] == 0
    # Rows of a uid that A kept elsewhere count as well: no fewer than row by row.
    before = {(r["step"], r["reason"]): r["rows"] for r in report["elsewhere"][0]["reasons"]}
    after = {(r["step"], r["reason"]): r["rows"] for r in own["reasons"]}
    assert sum(after.values()) >= report["sets"]["uids_only_a"]
    assert after.keys() <= before.keys() | {("caption", "too_few_words"), ("caption", "unscored")}
    shown = {sample["uid"] for sample in other["galleries"][0]["samples"]}
    uids = set(_texts(np.load(subset))) - set(_texts(np.load(runs["wide"].work / "subset.npy")))
    assert shown <= uids
    assert len(other["galleries"][1]["samples"]) > 5


def _texts(uids: np.ndarray) -> list[str]:
    return [f"{int(hi):016x}{int(lo):016x}" for hi, lo in uids.tolist()]


def test_two_subset_files_are_counted_and_nothing_else(runs, found, tmp_path):
    report, _ = found
    places = [runs[name].work / "subset.npy" for name in ("high", "wide")]
    other = compared(*places, tmp_path)
    assert other["sets"] == report["sets"]
    assert not other["distributions"]
    assert not other["shares"]
    assert other["words"] is None
    assert [one["readable"] for one in other["galleries"]] == [False, False]
    assert "hold uids alone" in (tmp_path / "index.html").read_text()


def test_runs_over_other_pools_are_matched_by_uid(samples, runs, ledgers, tmp_path):
    """The other run's pool lacks some samples, and has the rest in another order."""
    half = [sample for number, sample in enumerate(samples) if number % 4][::-1]
    write_shards(tmp_path / "in", [*half, *half[::5]], 3)  # some uids are there twice
    other = Reported(tmp_path, tar_pool(tmp_path / "in"), steps(0.1, 38))
    other.run()
    report = compared(runs["high"].work, other.work, tmp_path / "diff")
    assert (report["pool"], report["rows"]) == ("other", None)
    high = set(ledgers.filter(pl.col("a"))["uid"])
    ledger = ledger_of(other.work)
    kept = set(ledger.filter(pl.col("fate") == "kept")["uid"])
    assert report["sets"]["uids_only_a"] == len(high - kept)
    own = report["elsewhere"][0]
    there = set(ledger["uid"])
    assert own["uids_absent"] == len(high - kept - there) > 0
    wanted = ledger.filter(pl.col("uid").is_in(list(high - kept)))
    expected = Counter(wanted.select("step", "reason").rows())
    assert {(r["step"], r["reason"]): r["rows"] for r in own["reasons"]} == expected
    assert own["rows"] == wanted.height > wanted["uid"].n_unique() > 0


def test_identical_runs_differ_in_nothing(runs, tmp_path):
    report = compared(runs["high"].work, runs["high"].work, tmp_path)
    assert report["sets"]["jaccard"] == 1.0
    assert report["words"] is None
    for one in report["distributions"]:
        assert one["ks"] == 0.0
        assert one["d"] is None or one["d"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "A and B kept the same samples." in (tmp_path / "index.html").read_text()


def test_an_empty_subset_and_a_disjoint_one_are_said_to_be_so(runs, tmp_path):
    save(str(tmp_path / "none.npy"), np.empty(0, dtype=UID))
    save(str(tmp_path / "else.npy"), parse_uids(["00" * 15 + "01", "00" * 15 + "02"]))
    report = compared(tmp_path / "none.npy", runs["high"].work, tmp_path / "1")
    assert report["sets"]["a_in_b"] == 1.0
    assert report["words"] is None or report["words"]["more_in_a"] == []
    assert "A kept nothing." in (tmp_path / "1/index.html").read_text()
    report = compared(runs["high"].work, tmp_path / "else.npy", tmp_path / "2")
    assert report["sets"]["jaccard"] == 0.0
    assert report["elsewhere"][1]["uids_absent"] == 2
    assert "A and B have no sample in common." in (tmp_path / "2/index.html").read_text()
    both = compared(tmp_path / "none.npy", tmp_path / "none.npy", tmp_path / "3")
    assert both["sets"]["jaccard"] == 1.0


class Read(HTMLParser):
    """Every element with its attributes, and all text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.cells: dict[str, str] = {}
        self._of: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._of = attributes.get("data-of")

    def handle_data(self, data):
        self.text.append(data)
        if self._of is not None:
            self.cells[self._of] = data
            self._of = None


def test_captions_of_strangers_are_text_and_nothing_else(found):
    _, page = found
    body, data = page.split('<script type="application/json"')
    read = Read(body)
    assert "script" not in {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert sum(SCRIPT in text for text in read.text) > 0
    assert sum(IMG in text for text in read.text) > 0
    assert not set(page) & {"\u202e", "\u2066", "\x1b"}
    assert "</script>" not in data.split("</script>")[0]
    assert max(len(text) for text in read.text if "many words" in text) < 150


def test_numbers_of_the_page_are_those_of_the_file(found):
    report, page = found
    cells = Read(page.split('<script type="application/json"')[0]).cells
    assert cells["both"] == str(report["sets"]["uids_in_both"])
    assert cells["only-a"] == str(report["sets"]["uids_only_a"])
    changed = json.loads(json.dumps(report))
    changed["sets"]["uids_only_b"] = 123_456
    again = Read(render(changed, {}).split('<script type="application/json"')[0])
    assert again.cells["only-b"] == "123,456"


def test_pictures_are_of_the_samples_that_have_one(found):
    report, page = found
    pictures = [a for tag, a in Read(page.split('<script type="app')[0]).elements if tag == "img"]
    shown = sum(len(gallery["samples"]) for gallery in report["galleries"])
    assert 0 < len(pictures) <= shown
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in pictures)


def test_the_command_says_what_matters_and_where_the_page_is(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["diff", str(runs["high"].work), str(runs["wide"].work)])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "kept by A, removed by B:" in text
    assert "step floor: at_least: 0.4 -> 0.1" in text
    assert "page: diff-high-wide/index.html" in text
    assert {file.name for file in Path("diff-high-wide").iterdir()} == {"diff.json", "index.html"}


def _unsorted(folder: Path) -> str:
    np.save(folder / "unsorted.npy", parse_uids(["ff" * 16, "00" * 16]))
    return str(folder / "unsorted.npy")


def _other_type(folder: Path) -> str:
    np.save(folder / "floats.npy", np.zeros(3))
    return str(folder / "floats.npy")


def _folder(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


def _half(folder: Path) -> str:
    (folder / "half").mkdir()
    (folder / "half" / "pipeline.yaml").write_text("name: half\n")
    return str(folder / "half")


BAD = {
    "no such file": (lambda f: str(f / "none.npy"), "none.npy"),
    "no run": (_folder, "no run was started"),
    "not finished": (_half, "curate run <file>"),
    "not sorted": (_unsorted, "curate subset sort"),
    "other type": (_other_type, "a subset is `u8,u8`"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("side", [0, 1])
def test_bad_places_are_named_with_the_remedy(runs, name, side, tmp_path, capsys):
    make, said = BAD[name]
    places = [str(runs["high"].work)] * 2
    places[side] = make(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["diff", *places, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert places[side] in error
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("scores", "did you mean 'score'?"),
        ("uid", "an identifier"),
        ("image_file.widht", "image_file.width"),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(runs, column, said, tmp_path, capsys):
    places = [str(runs[name].work) for name in ("high", "wide")]
    with pytest.raises(SystemExit) as stop:
        main(["diff", *places, "--columns", column, "--out", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"--columns {column}" in error
    assert said in error


def test_nothing_is_written_into_a_work_folder(runs, tmp_path, capsys):
    work = str(runs["high"].work)
    with pytest.raises(SystemExit) as stop:
        main(["diff", work, str(runs["wide"].work), "--out", f"{work}/report"])
    assert stop.value.code == 2
    assert "name a folder elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("x/high/work", "x/wide/work", ("high", "wide")),
        ("s3://b/r1/work/", "s3://b/r2/work/", ("r1", "r2")),
        ("r1/work", "subsets/r2.npy", ("r1", "r2")),
        ("same", "same", ("same", "same")),
        ("./work", "../work", ("work", "work")),
    ],
)
def test_names_are_where_two_places_differ(a, b, names):
    assert names_of([a, b]) == names
