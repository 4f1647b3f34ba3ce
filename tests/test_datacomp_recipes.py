"""Each of DataComp's baselines gives the bytes that its rule, written as plain loops, gives."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_datacomp as tiny
import torch
from tiny_pool import ledger_of

from curate.errors import InvalidPipeline
from curate.features.language import Language
from curate.pipeline import Options, run
from curate.pipeline_file.config import load

FOLDER = Path(__file__).parent.parent / "pipelines" / "datacomp"
Row = dict


# The published rules, as their code has them: row by row, nothing shared with ours


@cache
def fasttext_model():
    import fasttext

    return fasttext.load_model(str(Language()._file()))


def english(text: str) -> bool:
    return fasttext_model().predict(text.replace("\n", " "))[0][0] == "__label__en"


def english_to_cld3(text: str) -> bool:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    return detector.FindLanguage(text=text.replace("\n", " ")).language == "en"


def tokens(text: str) -> int:
    """How many tokens fasttext.tokenize makes: each newline is one."""
    count, inside = 0, False
    for character in text:
        blank = character in " \n\r\t\x0b\x0c\x00"
        count += (not blank and not inside) + (character == "\n")
        inside = not blank
    return count


def forms(word: str, part: str) -> list[str]:
    """What nltk 3.8.1 takes a word for."""
    endings = {
        "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
        "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
        "adj": "er: est: er:e est:e",
        "adv": "",
    }[part].split()
    pairs = [ending.split(":") for ending in endings]
    known = tiny.LEMMAS[part]
    if word in tiny.EXCEPTIONS[part]:
        return [form for form in [word, *tiny.EXCEPTIONS[part][word]] if form in known]

    def shorter(given: list[str]) -> list[str]:
        return [
            f[: len(f) - len(old)] + new for f in given for old, new in pairs if f.endswith(old)
        ]

    candidates = shorter([word])
    found = [form for form in [word, *candidates] if form in known]
    while not found and candidates:
        candidates = shorter(candidates)
        found = [form for form in candidates if form in known]
    return found


def listed() -> set[int]:
    (folder,) = importlib.util.find_spec("timm").submodule_search_locations
    text = Path(folder, "data/_info/imagenet21k_goog_synsets.txt").read_text()
    return {int(line[1:]) for line in text.split()}


def names_an_entity(text: str, ids: set[int]) -> bool:
    for word in text.split():
        synsets = [
            offset
            for part in ("noun", "verb", "adj", "adv")
            for form in forms(word.lower(), part)
            for offset in tiny.LEMMAS[part][form]
        ]
        if synsets and synsets[0] in ids:
            return True
    return False


def basic(row: Row) -> bool:
    width, height, text = row["original_width"], row["original_height"], row["text"]
    if math.isnan(width) or math.isnan(height) or min(width, height) < 200:
        return False
    ratio = max(width, height) / min(width, height)
    return ratio <= 3.0 and len(text.split()) > 2 and len(text) > 5 and english(text)


def nearest(embedding: np.ndarray) -> int:
    products = [np.dot(embedding.astype(np.float32), one) for one in tiny.centroids()]
    return products.index(max(products))


@cache
def wanted_clusters() -> set[int]:
    return {nearest(target) for number in range(2) for target in tiny.targets(number)}


def image_based(row: Row) -> bool:
    text = row["text"]
    long_enough = tokens(text) > 1 and len(text) > 5
    return long_enough and english(text) and nearest(row["l14_img"]) in wanted_clusters()


def at_least(column: str, limit: float) -> Callable[[Row], bool]:
    return lambda row: np.float32(row[column]) >= np.float32(limit)


def threshold(rows: Sequence[Row], column: str, fraction: float) -> float:
    scores = [row[column] for row in rows]
    ordered = sorted((s for s in scores if not math.isnan(s)), reverse=True)
    ordered += [math.nan] * (len(scores) - len(ordered))
    return ordered[int(len(scores) * fraction)]


def whole(uid: str) -> tuple[int, int]:
    return divmod(int(uid, 16), 2**64)


def cut(uid: str) -> tuple[int, int]:
    return int(uid[:16], 16), int(uid[16:32], 16)


B32, L14 = "clip_b32_similarity_score", "clip_l14_similarity_score"


def expected(name: str, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """The uids that a baseline keeps."""
    ids = listed()
    l14_30 = at_least(L14, threshold(rows, L14, 0.3))
    rules: dict[str, Callable[[Row], bool]] = {
        "no_filter": lambda row: True,
        "basic": basic,
        "clip_score_l14_30": l14_30,
        "clip_score_b32_30": at_least(B32, threshold(rows, B32, 0.3)),
        "clip_score_b32_028": at_least(B32, 0.28),
        "laion2b": lambda row: at_least(B32, 0.28)(row) and english_to_cld3(row["text"]),
        "text_based": lambda row: names_an_entity(row["text"], ids) and english(row["text"]),
        "image_based": image_based,
        "image_based_clip_l14_30": lambda row: l14_30(row) and image_based(row),
    }
    uid = whole if name in ("basic", "text_based") else cut
    return [uid(row["uid"]) for row in rows if rules[name](row)]


# Ours


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A folder with the small pool and what the recipes name, and the overrides that say so."""
    folder = tmp_path_factory.mktemp("datacomp")
    files = [tiny.draw(count, seed, tiny.centroids()) for seed, count in enumerate((400, 250, 1))]
    tiny.write_metadata(folder / "metadata", files)
    tiny.write_wordnet(folder / "wordnet")
    torch.save(tiny.centroids(), folder / "centroids.pt")
    for number in range(2):
        features = torch.from_numpy(tiny.targets(number))
        torch.save({"image_features": features}, folder / f"targets_{number}.pt")
    return folder


@pytest.fixture(scope="module")
def rows(assets):
    found = []
    for file in sorted((assets / "metadata").glob("*.parquet")):
        embeddings = np.load(file.with_suffix(".npz"))["l14_img"]
        frame = pl.read_parquet(file).rows(named=True)
        found += [{**r, "l14_img": e} for r, e in zip(frame, embeddings, strict=True)]
    return found


def overrides(name: str, folder: Path, work: Path) -> list[str]:
    """What a recipe is told to find its files."""
    text = (FOLDER / f"{name}.yaml").read_text()
    given = [f"pool.metadata={folder / 'metadata'}", f"work={work}"]
    if "lid.176.bin}" in text:
        given.append("steps.language.model=lid.176.ftz")
    if "- text_entity:" in text:
        given.append(f"steps.text_entity.wordnet={folder / 'wordnet'}")
    if "- image_clusters:" in text:
        targets = ", ".join(str(folder / f"targets_{number}.pt") for number in range(2))
        given += [
            f"steps.image_clusters.centroids={folder / 'centroids.pt'}",
            f"steps.image_clusters.targets=[{targets}]",
            "steps.image_clusters.sha256={}",
        ]
    return given


def curated(name: str, folder: Path, work: Path, *more: str) -> bytes:
    """The subset that a recipe makes."""
    recipe = str(FOLDER / f"{name}.yaml")
    loaded = load(recipe, [*overrides(name, folder, work), *more])
    outcome = run(loaded, Options(), lambda progress: None)
    assert outcome.exit_code == 0
    return (work / "subset.npy").read_bytes()


NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
needs_cld3 = pytest.mark.skipif(
    importlib.util.find_spec("gcld3") is None, reason="gcld3 is built from source"
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_cld3) if n == "laion2b" else n for n in NAMES]
)
def test_a_baseline_gives_the_bytes_of_the_published_rule(name, assets, rows, tmp_path):
    kept = expected(name, rows)
    assert name == "no_filter" or 0 < len(kept) < len(rows)
    assert curated(name, assets, tmp_path / "work") == tiny.as_subset(kept)


@pytest.mark.parametrize("fraction", [0.0015, 0.1, 0.29, 0.57, 0.9, 0.99])
def test_any_fraction_gives_the_published_rows(fraction, assets, rows, tmp_path):
    """0.99 reaches into the rows without a score: the published threshold is NaN."""
    limit = threshold(rows, L14, fraction)
    kept = [cut(row["uid"]) for row in rows if row[L14] >= limit]
    assert (fraction == 0.99) == (not kept)
    changed = f"steps.clip_score.top_fraction={fraction}"
    found = curated("clip_score_l14_30", assets, tmp_path / "work", changed)
    assert found == tiny.as_subset(kept)


@pytest.mark.parametrize(
    ("scores", "fraction", "kept"),
    [
        ([0.25] * 7, 0.3, [0, 1, 2, 3, 4, 5, 6]),  # all equal: all tie
        ([0.25, None, 0.5, math.nan], 1.0, [0, 2]),  # theirs stops with an IndexError
        ([0.25, None, 0.5, math.nan], 0.5, []),  # element 2 is NaN
        ([0.25, -0.0, 0.0, -1.0], 0.25, [0, 1, 2]),
        ([], 0.3, []),
    ],
)
def test_unusual_scores(scores, fraction, kept, tmp_path):
    frame = pl.DataFrame(
        {
            "uid": [f"{row:032x}" for row in range(len(scores))],
            "text": ["a"] * len(scores),
            B32: pl.Series(scores, dtype=pl.Float32),
        },
        schema_overrides={"uid": pl.String, "text": pl.String},
    )
    (tmp_path / "metadata").mkdir()
    frame.write_parquet(tmp_path / "metadata" / "one.parquet")
    changed = f"steps.clip_score.top_fraction={fraction}"
    found = curated("clip_score_b32_30", tmp_path, tmp_path / "work", changed)
    assert found == tiny.as_subset([(0, row) for row in kept])


def test_without_parity_the_count_is_exact(assets, rows, tmp_path):
    found = curated("clip_score_b32_30", assets, tmp_path, "steps.clip_score.parity=null")
    scored = [(-row[B32], cut(row["uid"])) for row in rows if not math.isnan(row[B32])]
    best = sorted(scored)[: 3 * len(rows) // 10]
    assert found == tiny.as_subset([uid for _, uid in best])


def test_every_row_has_a_fate_and_a_reason(assets, rows, tmp_path):
    curated("basic", assets, tmp_path)
    fates = ledger_of(tmp_path)
    assert fates["fate"].is_in(["kept", "removed"]).all()
    assert len(fates) == len(rows)
    steps = set(fates.filter(pl.col("fate") == "removed")["step"])
    assert steps == {"caption", "image_size", "english"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_reproduces_and_what_it_lacks(name, assets, tmp_path):
    """As it stands it names the files that have to be fetched, and nothing else is wrong."""
    text = (FOLDER / f"{name}.yaml").read_text()
    opening = text[: text.index("name: ")]
    assert all(word in opening for word in ("2304.14108", "Published", "As their code"))
    assert ("lid.176.bin" in opening) == ("lid.176.bin}" in text)
    only_pool = overrides(name, assets, tmp_path)[:2]
    asks = "/data/datacomp_assets" in text or (name == "laion2b" and not_installed("gcld3"))
    if not asks:
        load(str(FOLDER / f"{name}.yaml"), only_pool)
        return
    with pytest.raises(InvalidPipeline) as caught:
        load(str(FOLDER / f"{name}.yaml"), only_pool)
    told = str(caught.value).splitlines()
    assert all("/data/datacomp_assets" in line or "gcld3" in line for line in told)


def not_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is None
