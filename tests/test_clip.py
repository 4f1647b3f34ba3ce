"""The CLIP feature gives open_clip's own numbers, whatever the batch, and refuses what misleads."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from open_clip import pretrained
from PIL import Image
from tiny_clip import OPENAI, SIGLIP, config, encoded, many, picture, write_folder, write_weights

from curate.errors import ConfigError
from curate.features import Picture, Unscorable
from curate.features._models import clip_model, open_clip_models
from curate.features.clip import MAX_CHARACTERS, Clip

LONGEST = {**OPENAI, "resize_mode": "longest"}
PREPARATIONS = {"openai": OPENAI, "siglip": SIGLIP, "longest": LONGEST}
MODES = ["RGB", "L", "LA", "P", "RGBA", "1", "I;16", "CMYK"]
SIZES = [(32, 32), (48, 40), (37, 91), (1, 1), (5, 200), (301, 33)]
FORMATS = {"CMYK": "JPEG"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    return {name: write_folder(root / name, given) for name, given in PREPARATIONS.items()}


@pytest.fixture(scope="module")
def tiny(folders):
    return Clip(model=f"local-dir:{folders['openai']}")


@pytest.fixture(scope="module")
def scorer(tiny):
    return tiny.open("cpu")


def captions(count):
    words = ["a red box", "two cats on a chair", "", "naïve café", "x" * 300]
    return pl.DataFrame({"caption": [f"{words[n % 5]} {n}" for n in range(count)]})


def score(scorer, bodies, frame):
    return scorer.score([scorer.prepare(Picture(body)) for body in bodies], frame)


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_pictures_are_prepared_as_open_clip_does(folders, name):
    model = f"local-dir:{folders[name]}"
    ours = Clip(model=model).open("cpu")
    theirs = open_clip.create_model_from_pretrained(model)[1]
    scale = np.array(PREPARATIONS[name]["std"]), np.array(PREPARATIONS[name]["mean"])
    bodies = [
        encoded(picture(size, mode, seed), FORMATS.get(mode, "PNG"))
        for seed, mode in enumerate(MODES)
        for size in SIZES
    ]
    transparent = picture((40, 50), "P")
    bodies.append(encoded(transparent, transparency=bytes(range(256))))
    bodies.append(encoded(picture((500, 333)), "JPEG", quality=70))
    for body in bodies:
        pixels = ours.prepare(Picture(body)).astype(np.float32) / 255
        expected = theirs(Image.open(io.BytesIO(body)).convert("RGB")).numpy()
        np.testing.assert_allclose(
            ((pixels - scale[1]) / scale[0]).transpose(2, 0, 1), expected, atol=1e-5
        )


@pytest.mark.parametrize("name", PREPARATIONS)
def test_embeddings_are_those_of_open_clip(folders, name):
    model = f"local-dir:{folders[name]}"
    bodies, frame = many(50), captions(50)
    ours = score(Clip(model=model).open("cpu"), bodies, frame)
    theirs, preprocess = open_clip.create_model_from_pretrained(model)
    tokens = open_clip.get_tokenizer(model)(frame["caption"].to_list())
    pixels = torch.stack([preprocess(Image.open(io.BytesIO(body))) for body in bodies])
    with torch.inference_mode():
        image = theirs.eval().encode_image(pixels, normalize=True)
        text = theirs.encode_text(tokens, normalize=True)
    for name, expected in {"image": image.numpy(), "text": text.numpy()}.items():
        half = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32) / 2
        assert ours.arrays[name].dtype == np.float16
        assert (np.abs(ours.arrays[name] - expected) <= half + 1e-5).all()
    np.testing.assert_allclose(ours.scalars["similarity"], (image * text).sum(dim=1), atol=1e-5)
    assert ours.errors == [None] * 50


def test_a_named_architecture_takes_the_preparation_of_its_published_weights(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-for-test.json").write_text(json.dumps(config()))
    open_clip.add_model_config(tmp_path / "configs")
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, config())
    prepared = {**open_clip_models._pictures(SIGLIP)}
    source = open_clip_models.Source("tiny-for-test", config(), prepared, weights)
    named = clip_model.ClipScorer(source, Clip(model="tiny-for-test"), "cpu")
    folder = write_folder(tmp_path / "folder", SIGLIP)
    local = Clip(model=f"local-dir:{folder}").open("cpu")
    expected, got = (score(one, many(5), captions(5)) for one in (local, named))
    assert got.scalars["similarity"].tobytes() == expected.scalars["similarity"].tobytes()


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_neither_batch_nor_padding_changes_a_score(tiny, scorer, batch):
    bodies, frame = many(70), captions(70)
    whole = score(scorer, bodies, frame)
    other = tiny.model_copy(update={"batch": batch}).open("cpu")
    for start in (0, 33, 69):
        part = score(other, bodies[start : start + 1], frame[start : start + 1])
        np.testing.assert_allclose(
            part.scalars["similarity"], whole.scalars["similarity"][[start]], atol=1e-6
        )
        np.testing.assert_allclose(part.arrays["image"], whole.arrays["image"][[start]], atol=1e-3)


def test_a_place_in_the_batch_changes_no_score(scorer):
    bodies, frame = many(64), captions(64)
    whole = score(scorer, bodies, frame)
    for shift in (1, 7, 40):
        order = np.roll(np.arange(64), shift)
        moved = score(scorer, [bodies[n] for n in order], frame[order])
        np.testing.assert_allclose(
            moved.scalars["similarity"], whole.scalars["similarity"][order], atol=1e-6
        )


def test_two_runs_give_the_same_bytes(tiny, scorer):
    bodies, frame = many(40), captions(40)
    first = score(scorer, bodies, frame)
    for again in (score(scorer, bodies, frame), score(tiny.open("cpu"), bodies, frame)):
        assert first.scalars["similarity"].tobytes() == again.scalars["similarity"].tobytes()
        for name, array in first.arrays.items():
            assert array.tobytes() == again.arrays[name].tobytes()


def test_the_number_of_threads_changes_no_byte(tiny, monkeypatch):
    bodies, frame = many(70), captions(70)
    found = set()
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        columns = score(tiny.open("cpu"), bodies, frame)
        found.add(columns.scalars["similarity"].tobytes() + columns.arrays["image"].tobytes())
    assert len(found) == 1


def test_a_forward_pass_has_one_thread(tiny):
    # torch's own threads change the last bits of a ResNet, and of some others, with their number.
    scorer, seen = tiny.open("cpu"), []
    scorer._model.visual.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    score(scorer, many(70), captions(70))
    assert seen == [1, 1, 1]


def test_half_precision_is_close(tiny, scorer):
    bodies, frame = many(20), captions(20)
    exact = score(scorer, bodies, frame).scalars["similarity"]
    half = score(tiny.model_copy(update={"precision": "bf16"}).open("cpu"), bodies, frame)
    assert not np.array_equal(half.scalars["similarity"], exact)
    np.testing.assert_allclose(half.scalars["similarity"], exact, atol=0.02)


def test_a_null_caption_is_no_score_of_zero(scorer):
    frame = pl.DataFrame({"caption": ["a box", None, ""]})
    columns = score(scorer, many(3), frame)
    assert columns.errors == [None, "no_caption", None]
    assert np.isnan(columns.scalars["similarity"]).tolist() == [False, True, False]
    assert np.isnan(columns.arrays["text"]).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(columns.arrays["image"]).all()


def test_the_tokenizer_forgets_words_without_changing_a_score(scorer, monkeypatch):
    bodies, frame = many(10), captions(10)
    before = score(scorer, bodies, frame)
    monkeypatch.setattr(clip_model, "MAX_CACHED_WORDS", 5)
    after = score(scorer, bodies, frame)
    assert before.scalars["similarity"].tobytes() == after.scalars["similarity"].tobytes()
    score(scorer, bodies[:1], frame[:1])
    assert len(scorer._tokenizer.cache) < 10


def test_a_caption_is_read_up_to_its_limit(scorer):
    texts = [" " * (MAX_CHARACTERS - 3) + "box", " " * MAX_CHARACTERS + "box", "box", ""]
    inside, beyond, box, nothing = score(
        scorer, many(1) * 4, pl.DataFrame({"caption": texts})
    ).scalars["similarity"]
    assert (inside, beyond) == (box, nothing)
    assert box != nothing


@pytest.mark.parametrize("name", ["openai", "longest"])
def test_a_thread_of_a_picture_is_refused_before_it_is_enlarged(folders, name):
    scorer = Clip(model=f"local-dir:{folders[name]}").open("cpu")
    with pytest.raises(Unscorable, match="image_too_narrow"):
        scorer.prepare(Picture(encoded(Image.new("1", (1, 60_000)))))


# --- out of memory -------------------------------------------------------------------------------


def refuse_more_than(limit):
    def hook(_module, inputs):
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("as a full GPU says it")

    return hook


def test_out_of_memory_halves_the_slice_for_good(tiny, scorer):
    bodies, frame = many(40), captions(40)
    expected = score(scorer, bodies, frame)
    tight = tiny.open("cpu")
    tight._model.visual.register_forward_pre_hook(refuse_more_than(9))
    got = score(tight, bodies, frame)
    assert tight.passes.slice == 8  # of 32
    np.testing.assert_allclose(got.scalars["similarity"], expected.scalars["similarity"], atol=1e-6)
    score(tight, bodies, frame)
    assert tight.passes.slice == 8


def test_out_of_memory_for_one_sample_is_an_error(tiny):
    tight = tiny.open("cpu")
    tight._model.visual.register_forward_pre_hook(refuse_more_than(0))
    with pytest.raises(torch.OutOfMemoryError):
        score(tight, many(1), captions(1))


# --- what a recipe says, and what it refuses -----------------------------------------------------


def test_what_open_clip_knows_is_read_without_it():
    assert open_clip_models._published() == pretrained._PRETRAINED
    assert set(open_clip_models._models()) == set(open_clip.list_models()) - {"tiny-for-test"}


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("ViT-B32", "openai", "model: open_clip has no 'ViT-B32'; did you mean 'ViT-B-32'?"),
        ("vit-l-14-quickgelu", "openai", "did you mean 'ViT-L-14-quickgelu'?"),
        ("ViT-B-32", "opnai", "weights: 'opnai' is neither a published tag"),
        ("ViT-B-32", "opnai", "did you mean 'openai'?"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "its tags: openai"),
        ("ViT-B-32", None, "weights: ViT-B-32 needs a published tag (openai, "),
        ("ViT-B-32", "no/such.safetensors", "nor a file"),
        ("ViT-B-32", "openai", "QuickGELU, which ViT-B-32 does not use: write model: ViT-B-32-qui"),
        ("ViT-L-14", "dfn2b", "write model: ViT-L-14-quickgelu"),
        ("ViT-H-14", "metaclip-fullcc", "write model: ViT-H-14-quickgelu"),
        ("hf-hub:laion/some", None, "write local-dir:FOLDER"),
        ("local-dir:no/folder", None, "model: there is no no/folder/open_clip_config.json"),
    ],
)
def test_a_wrong_recipe_is_named(model, weights, expected):
    (problem,) = Clip(model=model, weights=weights).problems()
    assert expected in problem


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-B-32", "DataComp-XL-s13b-b90k"),
        ("ViT-SO400M-14-SigLIP-384", "webli"),
        ("quickstart", None),
    ],
)
def test_a_sound_recipe_has_no_problem(model, weights):
    assert Clip(model=model, weights=weights).problems() == []


def test_weights_beside_a_quickgelu_config_are_refused(tmp_path):
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(b"")
    told = {"model_cfg": {**config(), "quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    (problem,) = Clip(model="ViT-B-32", weights=str(weights)).problems()
    assert "QuickGELU" in problem
    assert Clip(model="ViT-B-32-quickgelu", weights=str(weights)).problems() == []


def test_a_folder_says_what_it_lacks(tmp_path):
    folder = Clip(model=f"local-dir:{tmp_path}")
    file = tmp_path / "open_clip_config.json"
    file.write_text("{")
    assert "cannot be read" in folder.problems()[0]
    file.write_text('{"vision_cfg": {}}')
    assert "no model_cfg" in folder.problems()[0]
    file.write_text(json.dumps({"model_cfg": config()}))
    assert "no weights" in folder.problems()[0]
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert "several weights (a.safetensors, b.safetensors)" in folder.problems()[0]
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    assert folder.problems() == []
    assert "leave `weights` out" in folder.model_copy(update={"weights": "openai"}).problems()[0]


@pytest.mark.parametrize(
    "names", [["b.bin"], [*open_clip_models.WEIGHT_NAMES[2:5]], ["model.pth", "a.pt"]]
)
def test_the_hashed_weights_are_those_that_open_clip_loads(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    expected = open_clip.factory._find_checkpoint_in_dir(tmp_path)
    assert str(open_clip_models._weights_in(tmp_path)[0]) == expected


def test_a_recipe_follows_content_and_no_path(tmp_path):
    folders = [
        write_folder(tmp_path / "a"),
        write_folder(tmp_path / "b"),
        write_folder(tmp_path / "c", seed=1),
        write_folder(tmp_path / "d", SIGLIP),
        write_folder(tmp_path / "e", architecture={**config(), "quick_gelu": True}),
    ]
    first, copy, *others = [Clip(model=f"local-dir:{folder}").recipe() for folder in folders]
    assert first == copy
    changed = [{key for key in first if first[key] != other[key]} for other in others]
    assert changed == [{"weights_sha256"}, {"pictures"}, {"config_sha256", "activation"}]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps({"a": Bomb()}, protocol=2)])
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_broken_weights_are_named(folders, tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    told = (folders["openai"] / "open_clip_config.json").read_bytes()
    Path("open_clip_config.json").write_bytes(told)
    with pytest.raises(ConfigError, match=f"{name} cannot be loaded as local-dir:"):
        Clip(model="local-dir:.").open("cpu")
    assert not Path("unpickled").exists()


def test_weights_of_another_architecture_are_refused(folders, tmp_path):
    weights = (folders["openai"] / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    told = {"model_cfg": config(layers=2)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="Missing key"):
        Clip(model=f"local-dir:{tmp_path}").open("cpu")


def python(script, home, **environment):
    """What a fresh interpreter prints, with an empty cache of the hub and no way to reach it."""
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **offline, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_checking_and_hashing_load_no_torch(folders, tmp_path):
    script = f"""
import sys
from curate.features.clip import MAX_CHARACTERS, Clip
Clip(model="ViT-B-32", weights="openai").problems()
Clip(model="local-dir:{folders["openai"]}").recipe()
sys.stdout.write(str([name for name in ("torch", "open_clip") if name in sys.modules]))
"""
    assert python(script, tmp_path) == "[]"


def test_published_weights_that_cannot_be_had_are_named(tmp_path):
    script = """
import sys
from curate.errors import ConfigError
from curate.features.clip import MAX_CHARACTERS, Clip
try:
    Clip(model="ViT-B-32", weights="laion2b_s34b_b79k").recipe()
except ConfigError as error:
    sys.stdout.write(str(error))
"""
    said = python(script, tmp_path)
    assert "ViT-B-32 laion2b_s34b_b79k" in said
    assert "open_clip_model.safetensors of laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in said
    assert "give its path as `weights`" in said


def test_published_weights_in_the_cache_are_hashed(tmp_path):
    repository = tmp_path / "hub" / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "open_clip_model.safetensors").write_bytes(b"abc")
    script = """
import sys
from curate.features.clip import MAX_CHARACTERS, Clip
recipe = Clip(model="ViT-B-32", weights="laion2b_s34b_b79k").recipe()
sys.stdout.write(recipe["weights_sha256"] + str("torch" in sys.modules))
"""
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert python(script, tmp_path) == sha256_of_abc + "False"


def test_the_quickstart_model_is_a_folder_of_the_package():
    assert Path(open_clip_models.QUICKSTART_FOLDER).parts[-3:] == ("curate", "quickstart", "clip")
    columns = score(Clip(model="quickstart").open("cpu"), many(3), captions(3))
    assert np.isfinite(columns.scalars["similarity"]).all()
