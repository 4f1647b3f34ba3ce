"""Classes by text, by examples or given: CLIP's own zero-shot classifier, and who is nearest."""

from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import real_pictures
import torch
from tiny_clip import write_folder
from tiny_pool import Drawn, Pipeline, tar_pool, write_shards

from curate.errors import ConfigError
from curate.features._given.prototypes import class_prototypes, text_prototypes
from curate.features.classes import Classes
from curate.features.clip import Clip
from curate.quickstart.draw import draw_pairs
from curate.quickstart.figures import COLOURS
from curate.score import open_features, score_samples

WIDTH = 24


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(count, seed=0, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float16)


def found(feature, image, parts=1):
    """The columns and errors of [N, D] embeddings, scored in so many parts."""
    assert feature.problems() == []
    opened = open_features([feature], "cpu")
    made = []
    for rows in np.array_split(image, parts):
        values = pl.Series("image", rows, dtype=pl.Array(pl.Float16, image.shape[1]))
        frame = pl.DataFrame({"clip": pl.DataFrame([values]).to_struct()})
        columns = score_samples(opened, [], frame, 1)["classes"]
        errors = pl.Series(list(columns.errors), dtype=pl.String)
        made.append(pl.DataFrame(columns.scalars).with_columns(error=errors))
    return pl.concat(made)


@pytest.fixture
def given(tmp_path):
    np.save(tmp_path / "classes.npy", draw(40, 1) * 4)
    (tmp_path / "names.txt").write_text("".join(f"class {n}\n" for n in range(40)))
    return {"prototypes": str(tmp_path / "classes.npy"), "names": str(tmp_path / "names.txt")}


# --- given prototypes ----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 4])
def test_the_nearest_class_is_the_one_of_the_largest_cosine(given, parts):
    image = draw(500, 2)
    told = found(Classes(**given), image, parts)
    cosine = unit(image) @ unit(draw(40, 1)).T
    order = np.sort(cosine, axis=1)
    assert told["number"].to_list() == cosine.argmax(axis=1).tolist()
    assert told["number"].dtype == pl.UInt32
    assert told["name"].to_list() == [f"class {n}" for n in cosine.argmax(axis=1)]
    np.testing.assert_allclose(told["similarity"], order[:, -1], atol=2e-6)
    np.testing.assert_allclose(told["margin"], order[:, -1] - order[:, -2], atol=4e-6)


def test_no_sample_changes_another(given):
    image = draw(700, 2)
    whole = found(Classes(**given), image)
    order = np.random.default_rng(3).permutation(700)
    assert found(Classes(**given), image[order], 5).equals(whole[order])


def test_of_equally_near_classes_the_first_is_taken(tmp_path):
    rows = draw(6, 1)
    rows[4] = rows[1]
    np.save(tmp_path / "c.npy", rows)
    told = found(Classes(prototypes=str(tmp_path / "c.npy")), rows[[4]])
    assert told["number"].to_list() == [1]
    assert told["margin"].to_list() == [0]
    assert told["name"].to_list() == [None], "classes need no names"


def test_one_class_is_nearest_to_all(tmp_path):
    np.save(tmp_path / "c.npy", draw(1, 1))
    told = found(Classes(prototypes=str(tmp_path / "c.npy"), names=["all"]), draw(3, 2))
    assert told["name"].to_list() == ["all"] * 3
    assert told["margin"].is_infinite().all()


def test_who_has_no_embedding_has_no_class(given):
    image = draw(4, 2)
    image[1], image[2, 3] = np.nan, np.inf
    told = found(Classes(**given), image)
    assert told["error"].to_list() == [None, "no_embedding", "no_embedding", None]
    for name in ("number", "name", "similarity", "margin"):
        assert told[name].is_null().to_list() == [False, True, True, False]


# --- prototypes of text --------------------------------------------------------------------------

TEMPLATES = ("a photo of a {}.", "{}", "{} {{drawn}} by a {}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return f"local-dir:{write_folder(tmp_path_factory.mktemp('clip'))}"


def test_prototypes_of_text_are_those_of_open_clip(folder):
    names = ["red box", "two cats", "naïve café", "x"]
    model = open_clip.create_model_from_pretrained(folder)[0].eval()
    templates = [lambda name, t=template: t.replace("{}", name) for template in TEMPLATES]
    with torch.inference_mode():
        theirs = open_clip.build_zero_shot_classifier(
            model, open_clip.get_tokenizer(folder), names, templates
        ).T  # [K, D]
    recipe = Classes(names=names, model=folder, templates=TEMPLATES)
    assert recipe.problems() == []
    vectors, told = class_prototypes(recipe, "cpu")
    assert told == names
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, theirs, atol=1e-5)


def test_many_texts_are_embedded_some_at_a_time(folder, monkeypatch):
    clip, names = Clip(model=folder), [f"thing {n}" for n in range(70)]
    whole = text_prototypes(names, TEMPLATES, clip, "cpu")
    monkeypatch.setattr("curate.features._given.prototypes.TEXTS", 9)
    np.testing.assert_allclose(text_prototypes(names, TEMPLATES, clip, "cpu"), whole, atol=1e-6)


def embedded(bodies, captions):
    frame = pl.DataFrame({"caption": captions})
    opened = open_features([Clip(model="quickstart")], "cpu")
    return score_samples(opened, bodies, frame, 2)["clip"].arrays["image"]


def test_drawn_pictures_are_told_by_the_colour_of_what_they_show():
    """The small CLIP of the quickstart knows colours best, of all that its pictures show."""
    pairs = list(draw_pairs(120, seed=4321))
    shown = [[name for name in COLOURS if name in pair.caption.split()] for pair in pairs]
    pairs = [pair for pair, names in zip(pairs, shown, strict=True) if len(names) == 1]
    wanted = [names[0] for names in shown if len(names) == 1]
    assert len(wanted) > 30
    image = embedded([pair.image for pair in pairs], [pair.caption for pair in pairs])
    recipe = Classes(names=tuple(COLOURS), model="quickstart", templates=("A {} thing.", "{}"))
    told = found(recipe, image)["name"].to_list()
    right = np.mean([one == other for one, other in zip(told, wanted, strict=True)])
    assert right > 0.75, f"chance is {1 / len(COLOURS):.2f}"


# --- prototypes of examples ----------------------------------------------------------------------


def test_a_class_is_the_mean_of_its_examples(tmp_path):
    pieces = {"cat": [draw(5, 1), draw(3, 2)], "dog": [draw(4, 3)], "ant": [draw(2, 4)]}
    (tmp_path / "cat").mkdir()
    np.save(tmp_path / "cat" / "a.npy", pieces["cat"][0])
    np.savez(tmp_path / "cat" / "b.npz", image=pieces["cat"][1], text=draw(9))
    np.save(tmp_path / "dog.npy", pieces["dog"][0] * 8)  # of any length
    np.save(tmp_path / "ant.npy", pieces["ant"][0])
    recipe = Classes(prototypes=str(tmp_path))
    vectors, names = class_prototypes(recipe, "cpu")
    assert names == ["ant", "cat", "dog"]
    means = [unit(np.concatenate(pieces[name]) * 1.0).mean(axis=0) for name in names]
    np.testing.assert_allclose(vectors, unit(means), atol=1e-5)


@pytest.mark.real
def test_real_pictures_are_told_by_examples(tmp_path):
    """A small CLIP knows little of stamps; what is like a class's examples is still told."""
    real_pictures.fetch_or_skip()
    wanted = ("animals", "symbols", "plants", "vehicles")
    pairs = [pair for pair in real_pictures.stamps(2) if pair.name.split("/")[0] in wanted]
    pairs = [pair for pair in pairs if pair.path.suffix == ".png"]
    image = embedded([pair.path.read_bytes() for pair in pairs], [pair.caption for pair in pairs])
    kinds = np.array([pair.name.split("/")[0] for pair in pairs])
    example = np.arange(len(pairs)) % 2 == 0
    for kind in wanted:
        np.save(tmp_path / f"{kind}.npy", image[example & (kinds == kind)])
    told = found(Classes(prototypes=str(tmp_path)), image[~example])["name"].to_numpy()
    right = [np.mean(told[kinds[~example] == kind] == kind) for kind in wanted]
    assert np.mean(right) > 0.6, f"chance is {1 / len(wanted)}: {right}"


# --- what is refused, and what is written down ---------------------------------------------------


def test_what_is_missing_is_said_before_anything_runs(given, tmp_path):
    def said(**fields):
        return Classes(**fields).problems()

    either = "give one of: prototypes (a file or folder), model (a CLIP that embeds names)"
    assert said() == [either]
    assert said(**given, model="quickstart") == [either]
    assert said(model="quickstart") == ["names: texts need the names of the classes"]
    assert said(model="quickstart", names=["a", "b", "a"]) == ["names: 'a' is there twice"]
    assert said(model="quickstart", names="no.txt")[0].startswith("names: no.txt cannot be read")
    (tmp_path / "none.txt").write_text("\n")
    assert said(model="quickstart", names=str(tmp_path / "none.txt")) == [
        f"names: {tmp_path / 'none.txt'} is empty"
    ]
    assert said(model="quickstart", names=["a"], templates=["a photo"]) == [
        "templates: 'a photo' has no {} where the name goes"
    ]
    assert said(model="quickstart", names=["a"], templates=[]) == ["templates: the list is empty"]
    assert "did you mean 'ViT-B-32'" in said(model="ViT-B-33", names=["a"])[0]
    assert said(prototypes="no.npy") == ["prototypes: there is no file no.npy"]
    assert said(**given, weights="openai") == [
        "weights: they go with `model`, for prototypes of text"
    ]
    (tmp_path / "empty").mkdir()
    assert said(prototypes=str(tmp_path / "empty")) == [
        f"prototypes: there are no embeddings in {tmp_path / 'empty'}"
    ]
    np.save(tmp_path / "empty" / "cat.npy", draw(2))
    assert said(prototypes=str(tmp_path / "empty"), names=["cat"]) == [
        "names: the folders in `prototypes` are the names already"
    ]


def test_prototypes_that_do_not_fit_are_refused(given, tmp_path):
    with pytest.raises(ConfigError, match=r"clip\.image is 12 wide and the prototypes are 24 wide"):
        found(Classes(**given), draw(3, 2, 12))
    with pytest.raises(ConfigError, match="names: there are 2, and 40 prototypes"):
        Classes(prototypes=given["prototypes"], names=["a", "b"]).open("cpu")
    rows = draw(4, 1)
    rows[2] = 0
    np.save(tmp_path / "c.npy", rows)
    with pytest.raises(ConfigError, match="prototypes: number 2 of 4 has no direction"):
        Classes(prototypes=str(tmp_path / "c.npy")).open("cpu")
    np.save(tmp_path / "c.npy", rows[:0])
    with pytest.raises(ConfigError, match="prototypes: there is none in"):
        Classes(prototypes=str(tmp_path / "c.npy")).open("cpu")
    (tmp_path / "examples").mkdir()
    np.save(tmp_path / "examples" / "cat.npy", rows)
    with pytest.raises(ConfigError, match=r"example 2 of .*cat\.npy has no direction"):
        Classes(prototypes=str(tmp_path / "examples")).open("cpu")
    np.save(tmp_path / "examples" / "cat.npy", rows[:0])
    with pytest.raises(ConfigError, match=r"there is no example in .*cat\.npy"):
        Classes(prototypes=str(tmp_path / "examples")).open("cpu")


def test_the_recipe_follows_contents(given, folder, tmp_path):
    listed = Classes(prototypes=given["prototypes"], names=[f"class {n}" for n in range(40)])
    assert listed.recipe() == Classes(**given).recipe(), "a file of names or a list of them"
    assert Classes(prototypes=given["prototypes"]).recipe() != listed.recipe()
    text = Classes(names=["a", "b"], model=folder)
    assert text.recipe()["text"]["weights_sha256"] == Clip(model=folder).recipe()["weights_sha256"]
    assert folder not in str(text.recipe())
    np.save(given["prototypes"], draw(40, 5))
    before = listed.recipe()
    np.save(given["prototypes"], draw(40, 6))
    assert listed.recipe() != before


def test_texts_by_another_model_than_the_column_are_refused(folder):
    recipe = Classes(names=["a"], model="quickstart")
    assert recipe.refusals({"clip.image": Clip(model="quickstart")}) == []
    assert recipe.refusals({}) == [], "the pool's own"
    (problem,) = recipe.refusals({"clip.image": Clip(model=folder)})
    assert problem == f"model: clip.image is by {folder}, and the names by quickstart"


def test_a_pipeline_gives_every_sample_its_class(tmp_path):
    pairs = list(draw_pairs(12, seed=5))
    drawn = [
        Drawn(f"{n:09d}", pair.caption, {"url": f"u{n}"}, pair.image)
        for n, pair in enumerate(pairs)
    ]
    write_shards(tmp_path / "pool", drawn, 2)
    (tmp_path / "names.txt").write_text("cat\nhouse\n")
    steps = [
        {"clip": {"model": "quickstart"}},
        {"classes": {"names": str(tmp_path / "names.txt"), "model": "quickstart"}},
        {"where": "classes.name = 'cat' and classes.margin > 0"},
    ]
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "pool"), steps)
    pipeline.run()
    files = sorted(Path(pipeline.work / "features" / "classes").glob("block-*.parquet"))
    told = pl.concat([pl.read_parquet(file) for file in files])
    assert set(told["name"]) <= {"cat", "house"}
    assert told.height == 12
