"""Language, entities and clusters: what DataComp's code says of a caption or an embedding."""

import hashlib
import importlib.util
import os
import shutil
import types
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import real_pictures
import tiny_datacomp as tiny
import torch
from embedding_pool import embed
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pool import Pipeline

from curate.errors import ConfigError
from curate.features import _nearest
from curate.features._given.wordnet import LONGEST, WordNet
from curate.features._nearest import Nearest
from curate.features.image_clusters import ImageClusters
from curate.features.language import Language
from curate.features.text_entity import TextEntity, _Entities, read_entities
from curate.score import open_features, score_samples


def scored(feature, **columns):
    """Columns of one feature, as a worker makes them."""
    frame = pl.DataFrame(columns)
    return score_samples(open_features([feature], "cpu"), [], frame, threads=1)[feature.name]


# language


def test_a_language_is_the_detectors_own_top_label():
    import fasttext

    model = fasttext.load_model(str(Language()._file()))
    captions = ["a dog\non the beach", "", " \n ", "ein Hund", "x", "a\x00b\tc", "日本語\u2028です"]
    found = scored(Language(), caption=[*captions, None])
    for row, caption in enumerate(captions):
        (label,), (probability,) = model.predict(caption.replace("\n", " "))
        assert found.scalars["code"][row] == label.removeprefix("__label__")
        assert found.scalars["probability"][row] == np.float32(probability)
    assert found.errors == [None] * len(captions) + ["no_caption"]
    assert (found.scalars["code"][-1], found.scalars["probability"][-1]) == (None, None)


@pytest.mark.parametrize("captions", [[], [None, None]])
def test_nobody_with_a_caption_has_a_language(captions):
    found = scored(Language(), caption=pl.Series(captions, dtype=pl.String))
    assert found.scalars["code"].to_list() == [None] * len(captions)
    assert found.errors == ["no_caption"] * len(captions)


@pytest.mark.skipif(importlib.util.find_spec("gcld3") is None, reason="is built from source")
def test_cld3_is_the_detectors_own_language():
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    captions = ["a dog\non the beach in summer", "ein Hund läuft am Strand", "x", "日本語です"]
    feature = Language(detector="cld3")
    found = scored(feature, caption=[*captions, None])
    for row, caption in enumerate(captions):
        said = detector.FindLanguage(text=caption.replace("\n", " "))
        assert found.scalars["code"][row] == (None if said.language == "und" else said.language)
    assert found.errors[-1] == "no_caption"
    assert feature.recipe()["model"].startswith("gcld3 ")


def test_a_detector_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = Language(detector="cld3").problems()
    assert "gcld3 is not installed" in problem
    assert "pip install gcld3" in problem
    (other,) = Language(detector="cld3", model="lid.176.bin").problems()
    assert "`model` goes with `detector: fasttext`" in other


# text_entity


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return tiny.write_wordnet(tmp_path_factory.mktemp("wordnet"))


def entity_of(caption, wordnet, **fields):
    found = scored(TextEntity(wordnet=str(wordnet), **fields), caption=[caption])
    assert found.scalars["found"][0] == (found.scalars["entity"][0] is not None)
    return found.scalars["entity"][0]


@pytest.mark.parametrize(
    ("caption", "published", "correct"),
    [
        ("a Dog", "n02084071", "n02084071"),
        ("a dog.", None, "n02084071"),
        ("'dog'", None, "n02084071"),
        ("dogs", None, None),  # an exception, which names no class
        ("cats", "n02121620", "n02121620"),
        ("catsss", "n02121620", "n02121620"),  # endings come off again and again
        ("boxes", "n02883344", "n02883344"),
        ("churches wolves", "n03028079", "n03028079"),
        ("oxen", "n02403003", "n02403003"),
        ("hot_dog", "n07697537", "n07697537"),
        ("hot dog", "n02084071", "n02084071"),
        ("furry", "n02121620", None),  # an adjective at the offset of a noun
        ("yaps", "n02084071", None),
        ("boxily", "n02883344", None),
        ("run", None, None),  # a noun first, and not of the list
        ("dog\u3000cat", "n02084071", "n02084071"),
        ("ideas sales", None, None),
        ("", None, None),
        ("… ! 日本", None, None),
    ],
)
def test_an_entity_is_the_first_synset_of_a_token(caption, published, correct, wordnet):
    assert entity_of(caption, wordnet, parity="datacomp") == published
    assert entity_of(caption, wordnet) == correct


def test_no_caption_names_nothing(wordnet):
    found = scored(TextEntity(wordnet=str(wordnet)), caption=["dog", None, ""])
    assert found.scalars["found"].to_list() == [True, None, False]
    assert found.errors == [None, "no_caption", None]


def test_a_word_that_wastes_time_is_none(wordnet):
    words = WordNet(wordnet)
    assert words.first("cat" + "s" * (LONGEST - 3)) == 2121620
    assert words.first("cat" + "s" * LONGEST) is None
    assert words.first("eses" * (LONGEST // 4)) is None


def test_words_are_looked_up_once_and_forgotten_in_the_end(wordnet, monkeypatch):
    words = WordNet(wordnet)
    asked = []

    def first(token, parts=()):
        asked.append(token)
        return WordNet.first(words, token)

    monkeypatch.setattr("curate.features.text_entity.CACHED", 2)
    entities = _Entities(types.SimpleNamespace(first=first), {2084071: "n1"}, published=True)
    assert [entities[word] for word in ("dog", "dog", "cat", "ox", "dog")] == [
        "n1",
        "n1",
        "",
        "",
        "n1",
    ]
    assert asked == ["dog", "cat", "ox", "dog"]
    assert len(entities) <= 2


def test_a_list_of_ones_own(wordnet, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("n02403003\nv01926311\n")
    assert entity_of("oxen", wordnet, entities=str(file)) == "n02403003"
    assert entity_of("a dog", wordnet, entities=str(file)) is None
    mine = TextEntity(wordnet=str(wordnet), entities=str(file)).recipe()
    theirs = TextEntity(wordnet=str(wordnet)).recipe()
    assert theirs["entities_sha256"].startswith("66362bde"), "the list of DataComp"
    assert mine["entities_sha256"] != theirs["entities_sha256"]
    file.write_text("n02403003\ndog\n")
    with pytest.raises(ConfigError, match=r"ids.txt:2: 'dog' is not an id such as n02084071"):
        read_entities(file)
    (problem,) = TextEntity(wordnet=str(wordnet), entities="no/such.txt").problems()
    assert problem == "entities: there is no file no/such.txt: give the path of a file"


def test_what_is_no_wordnet_says_so(wordnet, tmp_path):
    (problem,) = TextEntity(wordnet=str(tmp_path)).problems()
    assert "has no index.noun" in problem
    assert "apt-get install wordnet-base" in problem
    newer = shutil.copytree(wordnet, tmp_path / "newer")
    index = newer / "index.noun"
    index.write_text(index.read_text().replace("WordNet 3.0", "WordNet 3.1"))
    assert "is not WordNet 3.0" in TextEntity(wordnet=str(newer)).problems()[0]
    damaged = shutil.copytree(wordnet, tmp_path / "damaged")
    with (damaged / "index.adj").open("a") as handle:
        handle.write("half a line\n")
    with pytest.raises(ConfigError, match=r"index.adj:\d+: not a line of WordNet's index"):
        TextEntity(wordnet=str(damaged)).open("cpu")
    assert TextEntity(wordnet=str(damaged)).recipe() != TextEntity(wordnet=str(wordnet)).recipe()


def test_parity_asks_for_the_offsets_that_nltk_has(tmp_path):
    other = tiny.write_wordnet(tmp_path, verb_run=1926329)
    assert TextEntity(wordnet=str(other)).problems() == []
    (problem,) = TextEntity(wordnet=str(other), parity="datacomp").problems()
    assert "the verb 'run' has the offset 1926329, and Princeton's 1926311" in problem


@pytest.mark.real
def test_debians_wordnet_has_the_nouns_of_imagenet():
    """Real data: ids of ImageNet-21k are offsets of nouns, and captions name some of them."""
    try:
        real_pictures._made("wordnet-base", partial(real_pictures._unpack, "wordnet-base"))
    except real_pictures.Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no WordNet here: {error}")
    folder = real_pictures.cache_folder() / "wordnet-base/usr/share/wordnet"
    feature = TextEntity(wordnet=str(folder))
    assert feature.problems() == []
    assert "verb 'run'" in TextEntity(wordnet=str(folder), parity="datacomp").problems()[0]
    captions = ["Two old dogs!", "my pug", "mice", "of the and", "a photo of geese (Anser anser)"]
    found = scored(feature, caption=captions)
    expected = ["n02084071", "n02110958", "n02330245", None, "n01855672"]
    assert found.scalars["entity"].to_list() == expected
    offsets = {int(line[:8]) for line in (folder / "data.noun").open() if line[0] != " "}
    assert set(read_entities(feature._file())) <= offsets


# image_clusters


@pytest.fixture
def files(tmp_path):
    """Centroids and targets, as .npy and as DataComp's .pt."""
    np.save(tmp_path / "centroids.npy", tiny.centroids())
    torch.save(tiny.centroids(), tmp_path / "centroids.pt")
    for number in range(2):
        np.save(tmp_path / f"targets_{number}.npy", tiny.targets(number))
        tensor = torch.from_numpy(tiny.targets(number))
        torch.save({"image_features": tensor, "labels": torch.arange(3)}, tmp_path / f"{number}.pt")
    return tmp_path


def clusters(folder, ending="npy", **fields):
    targets = ["targets_0.npy", "targets_1.npy"] if ending == "npy" else ["0.pt", "1.pt"]
    return ImageClusters(
        centroids=str(folder / f"centroids.{ending}"),
        targets=[str(folder / name) for name in targets],
        **fields,
    )


def column_of(embeddings, missing=()):
    dtype = pl.Float16 if embeddings.dtype == np.float16 else pl.Float32
    series = pl.Series("l14_img", embeddings, dtype=pl.Array(dtype, embeddings.shape[1]))
    rows = pl.Series(np.isin(np.arange(len(embeddings)), list(missing)))
    return pl.select(pl.when(~rows).then(series)).to_series()


def products(embedding):
    return [float(np.dot(one.astype(np.float64), embedding.astype(np.float64)))
            for one in tiny.centroids()]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("ending", ["npy", "pt"])
def test_a_cluster_is_the_centroid_of_the_largest_product(ending, dtype, files):
    rows = tiny.draw(300, 5, tiny.centroids()).l14_img.astype(dtype)
    found = scored(clusters(files, ending), l14_img=column_of(rows))
    wanted = {int(np.argmax(products(t))) for number in range(2) for t in tiny.targets(number)}
    assert 0 < len(wanted) < tiny.CENTROIDS
    for row, embedding in enumerate(rows):
        order = sorted(products(embedding), reverse=True)
        number = products(embedding).index(order[0])
        assert found.scalars["cluster"][row] == number
        assert found.scalars["in_targets"][row] == (number in wanted)
        assert found.scalars["margin"][row] == pytest.approx(order[0] - order[1], abs=1e-4)
    assert found.scalars["cluster"].dtype == pl.UInt32
    assert found.errors == [None] * 300


def test_of_equal_centroids_the_first_is_nearest_and_the_margin_tells(files):
    """The last centroid is the same as the fourth."""
    found = scored(clusters(files), l14_img=column_of(tiny.centroids()[[3, 5]] * 9))
    assert found.scalars["cluster"].to_list() == [3, 5]
    assert found.scalars["margin"][0] == 0 < found.scalars["margin"][1]


def test_who_has_no_embedding_has_no_cluster(files):
    rows = tiny.draw(5, 1, tiny.centroids()).l14_img
    rows[1, 3], rows[4, 0] = np.nan, np.inf
    found = scored(clusters(files), l14_img=column_of(rows, missing=[2]))
    assert found.errors == [None, "no_embedding", "no_embedding", None, "no_embedding"]
    for series in found.scalars.values():
        assert series.is_null().to_list() == [error is not None for error in found.errors]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=6), st.integers(0, 2**32 - 1))
def test_numbers_are_the_same_in_any_batch(cuts, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((3000, 96)).astype(np.float32)
    nearest = Nearest(rng.standard_normal((700, 96)).astype(np.float32), "cpu")
    number, margin = nearest(rows)
    order = rng.permutation(3000)
    parts = [nearest(rows[part]) for part in np.split(order, sorted(cuts))]
    assert np.concatenate([part[0] for part in parts]).tolist() == number[order].tolist()
    assert np.concatenate([part[1] for part in parts]).tobytes() == margin[order].tobytes()


def test_centroids_are_compared_tile_by_tile(monkeypatch):
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((50, 8)).astype(np.float32)
    centroids[41] = centroids[2]
    rows = np.concatenate([rng.standard_normal((600, 8)), centroids[2:3]]).astype(np.float32)
    whole = Nearest(centroids, "cpu")(rows)
    for size in (1, 7, 49, 50):
        monkeypatch.setattr(_nearest, "CENTROIDS", size)
        tiled = Nearest(centroids, "cpu")(rows)
        assert tiled[0].tolist() == whole[0].tolist()
        np.testing.assert_allclose(tiled[1], whole[1], atol=1e-5)


def test_threads_change_no_byte():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((2000, 768)).astype(np.float32)
    centroids = rng.standard_normal((300, 768)).astype(np.float32)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(Nearest(centroids, "cpu")(rows)[1].tobytes())
    torch.set_num_threads(before)
    assert len(set(found)) == 1


def test_a_digest_is_checked_before_a_file_is_read(files):
    file = files / "centroids.pt"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    given_right = clusters(files, "pt", sha256={"centroids.pt": digest.upper()})
    assert given_right.recipe() == clusters(files, "pt").recipe()
    given_right.open("cpu")
    file.write_bytes(b"not what was meant")
    with pytest.raises(ConfigError) as caught:
        given_right.open("cpu")
    assert digest.upper() in str(caught.value)
    assert hashlib.sha256(b"not what was meant").hexdigest() in str(caught.value)
    (problem,) = clusters(files, sha256={"other.pt": digest}).problems()
    assert "there is no 'other.pt' among the files" in problem


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_a_file_that_wants_to_run_code_is_refused(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"image_features": torch.zeros(2, 2), "x": Malice()}, files / "0.pt")
    with pytest.raises(ConfigError, match="holds more than arrays"):
        clusters(files, "pt").open("cpu")
    assert not Path("touched-by-a-pickle").exists()


def test_arrays_that_numpy_1_pickled_are_read(files):
    file = files / "centroids.pt"
    with zipfile.ZipFile(file) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w") as whole:
        for name, body in members.items():
            old = body.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            assert (old != body) == name.endswith("data.pkl")
            whole.writestr(name, old)
    found = clusters(files, "pt").open("cpu")
    assert found._nearest.count == tiny.CENTROIDS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("centroids.npy", np.zeros((0, 24), dtype=np.float32), "holds no rows"),
        ("centroids.npy", np.zeros(24, dtype=np.float32), r"holds float32 of shape \(24,\)"),
        ("centroids.npy", np.zeros((3, 5), dtype=np.float32), "24 wide, and the centroids 5"),
        ("targets_0.npy", np.full((3, 24), np.nan, dtype=np.float16), "row 0 of .* is not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(name, value, message, files):
    np.save(files / name, value)
    with pytest.raises(ConfigError, match=message):
        clusters(files).open("cpu")


def test_embeddings_of_another_model_are_refused(files):
    with pytest.raises(ConfigError, match="12 wide and the centroids are 24 wide"):
        scored(clusters(files), l14_img=column_of(np.ones((2, 12), dtype=np.float32)))


def test_files_that_are_not_there_are_named(files):
    found = ImageClusters(centroids="no.npy", targets=["no.txt"]).problems()
    assert found == [
        "centroids: there is no file no.npy", "targets: no.txt is none of .npy, .pt, .pth",
    ]  # fmt: skip
    assert (
        "targets: the list of files is empty"
        in ImageClusters(centroids=str(files / "centroids.npy"), targets=[]).problems()
    )


# image_clusters of any pool and model


def wanted_by(targets, centroids):
    return set(np.argmax(targets.astype(np.float64) @ centroids.astype(np.float64).T, axis=1))


@pytest.mark.parametrize("layout", ["folder", "pattern", "npz", "step"])
def test_targets_come_from_folders_of_others(tmp_path, files, layout):
    targets = np.concatenate([tiny.targets(number) for number in range(2)]).astype(np.float16)
    pieces = np.array_split(targets, 3)
    made = tmp_path / "made"
    for number, piece in enumerate(pieces):
        shard = made / f"{number:03d}" / f"{number:05d}-abc"
        shard.parent.mkdir(parents=True)
        if layout in ("folder", "pattern"):  # as clip-retrieval: img_emb/img_emb_0.npy
            np.save(made / f"img_emb_{number}.npy", piece)
        elif layout == "npz":  # as DataComp: one beside each metadata file
            np.savez(made / f"{number:08d}.npz", l14_img=piece, b32_img=piece[:, :3])
        else:  # as a step of ours leaves them, samples without an embedding among them
            holes = np.insert(piece, 1, np.nan, axis=0)
            np.save(f"{shard}.rows.npy", np.arange(len(holes), dtype=np.uint32))
            np.save(f"{shard}.image.npy", holes)
            np.save(f"{shard}.text.npy", -holes)
    where = {"pattern": made / "img_*.npy", "npz": made / "*.npz"}.get(layout, made)
    column = {"key": "image"} if layout == "step" else {}
    feature = ImageClusters(centroids=str(files / "centroids.npy"), targets=str(where), **column)
    assert feature.problems() == []
    found = scored(feature, l14_img=column_of(tiny.centroids()))
    wanted = wanted_by(targets, tiny.centroids())
    told = [number in wanted for number in found.scalars["cluster"]]
    assert found.scalars["in_targets"].to_list() == told
    assert {True, False} == set(told)
    (identity,) = feature.recipe()["targets"]
    assert identity["files"] == 3
    assert str(tmp_path) not in str(feature.recipe())
    before = feature.recipe()
    changed = made / "img_emb_0.npy"
    if changed.exists():
        np.save(changed, np.zeros((2, 24), dtype=np.float16))
        assert feature.recipe() != before


def test_centroids_come_from_a_clusters_step_of_another_run(tmp_path):
    pool = embed(400, 24, seed=3).write(tmp_path / "pool", files=2)
    steps = [{"clusters": {"name": "fine", "of": "l14_img", "count": 7}}]
    first = Pipeline(tmp_path / "a", pool, steps)
    first.run()
    folder = first.work / "features" / "fine"
    centroids = np.load(folder / "artefact" / "centroids.npy")
    assert len(centroids) == 7
    (tmp_path / "targets").mkdir()
    targets = embed(3, 24, seed=9).image
    np.save(tmp_path / "targets" / "a.npy", targets)
    fields = {"targets": str(tmp_path / "targets")}
    for place in (folder, folder / "artefact", folder / "artefact" / "centroids.npy"):
        feature = ImageClusters(centroids=str(place), **fields)
        assert feature.problems() == []
        image = embed(400, 24, seed=3).image
        found = scored(feature, l14_img=column_of(image))
        number = np.argmax(image.astype(np.float32) @ centroids.T, axis=1)
        assert found.scalars["cluster"].to_list() == number.tolist()
        assert set(number[found.scalars["in_targets"].to_numpy()]) <= wanted_by(targets, centroids)
        assert feature.recipe()["centroids"]["file"] == "centroids.npy"
    second = Pipeline(tmp_path / "b", pool, [
        {"image_clusters": {"centroids": str(folder), **fields}},
        {"where": "image_clusters.in_targets"},
    ])  # fmt: skip
    second.run()
    assert len(np.load(second.work / "subset.npy")) == found.scalars["in_targets"].sum()


def test_folders_that_hold_no_targets_are_named(tmp_path, files):
    def said(**fields):
        own = {"centroids": str(files / "centroids.npy"), "targets": str(tmp_path / "none")}
        return ImageClusters(**{**own, **fields}).problems()

    (tmp_path / "none").mkdir()
    assert said() == [f"targets: no file of .npy, .pt, .pth, .npz is {tmp_path / 'none'}"]
    assert said(targets=str(tmp_path / "no*.npy"))[0].startswith("targets: no file of .npy")
    assert said(centroids=str(tmp_path / "none"))[0].startswith("centroids: ")
    (tmp_path / "step").mkdir()
    for name in ("rows", "image", "text"):
        np.save(tmp_path / "step" / f"00000-a.{name}.npy", np.zeros(2, dtype=np.uint32))
    assert said(targets=str(tmp_path / "step")) == [
        f"targets: {tmp_path / 'step'} has no arrays called 'l14_img', only image, text: name one "
        "of these with `key:`"
    ]
    np.savez(tmp_path / "a.npz", image=tiny.targets(0))
    with pytest.raises(ConfigError, match=r"a\.npz has no 'l14_img', only image: name one with"):
        ImageClusters(centroids=str(files / "centroids.npy"), targets=str(tmp_path / "a.npz")).open(
            "cpu"
        )
