"""Embeddings by timm's models: timm's own numbers, whatever the batch, from files that fit."""

import argparse
import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import tiny_timm
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import vision_transformer
from tiny_clip import encoded, many, picture

from curate.errors import ConfigError
from curate.features import Picture, Unscorable
from curate.features._models import isc21, timm_models
from curate.features._models.passes import Passes
from curate.features.image_model import ImageModel
from curate.score import open_features, score_samples

MODELS = ("test_vit", "test_convnext", "test_efficientnet", "resnet10t")
MODES = ["RGB", "L", "LA", "P", "RGBA", "1", "I;16", "CMYK"]
SIZES = [(160, 160), (48, 40), (37, 91), (1, 1), (5, 200), (301, 33)]
FORMATS = {"CMYK": "JPEG"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    return {name: tiny_timm.write_weights(folder / f"{name}.safetensors", name) for name in MODELS}


@pytest.fixture(scope="module")
def tiny(weights):
    return ImageModel(
        **tiny_timm.SQUASHED, weights=weights["test_efficientnet"], mirrored=True, batch=16
    )


@pytest.fixture(scope="module")
def scorer(tiny):
    return tiny.open("cpu")


def score(scorer, bodies):
    return scorer.score([scorer.prepare(Picture(body)) for body in bodies], pl.DataFrame())


def theirs(model, file, bodies, **overrides):
    """[N, D] as timm's own functions say."""
    network = timm.create_model(model, num_classes=1000).eval()
    network.load_state_dict(load_file(file))
    network.reset_classifier(0)
    prepare = create_transform(**(resolve_model_data_config(network) | overrides))
    images = [Image.open(io.BytesIO(body)).convert("RGB") for body in bodies]
    pixels = torch.stack([prepare(image) for image in images])
    with torch.inference_mode():
        return torch.nn.functional.normalize(network(pixels), dim=-1).numpy()


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_are_those_of_timm(weights, model):
    bodies = many(10)
    found = score(ImageModel(model=model, weights=weights[model], batch=4).open("cpu"), bodies)
    assert found.arrays["image"].dtype == np.float16
    assert list(found.arrays) == ["image"]
    assert found.errors == [None] * 10
    expected = theirs(model, weights[model], bodies)
    half = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32) / 2
    assert (np.abs(found.arrays["image"] - expected) <= half + 1e-5).all()


BLACK_TO_WHITE = {"mean": (0, 0, 0), "std": (1, 1, 1)}
PREPARATIONS = {
    "timm's": ({}, {}),
    "squash": ({"crop": "squash", "size": 64}, {"crop_mode": "squash", "input_size": (3, 64, 64)}),
    "border": (
        {"crop": "border", "interpolation": "bilinear"},
        {"crop_mode": "border", "interpolation": "bilinear"},
    ),
    "centre": ({"crop_fraction": 0.5, **BLACK_TO_WHITE}, {"crop_pct": 0.5, **BLACK_TO_WHITE}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", PREPARATIONS)
def test_pictures_are_prepared_as_timm_does(weights, name):
    fields, overrides = PREPARATIONS[name]
    ours = ImageModel(model="resnet10t", weights=weights["resnet10t"], **fields).open("cpu")
    config = resolve_model_data_config(timm.create_model("resnet10t")) | overrides
    expected = create_transform(**config, is_training=False)
    mean, std = (np.array(config[name]) for name in ("mean", "std"))
    bodies = [
        encoded(picture(SIZES[seed % len(SIZES)], mode, seed), FORMATS.get(mode, "PNG"))
        for seed, mode in enumerate([*MODES, *MODES[3:], *MODES[5:]])
    ]
    for body in bodies:
        if fields.get("crop") == "border" and Image.open(io.BytesIO(body)).size == (1, 1):
            continue
        (pixels,) = ours.prepare(Picture(body)).astype(np.float32) / 255
        wanted = expected(Picture(body).rgb).numpy()
        np.testing.assert_allclose(((pixels - mean) / std).transpose(2, 0, 1), wanted, atol=1e-5)


def test_what_is_said_of_the_preparation_changes_the_numbers(weights):
    bodies = many(6)
    plain = ImageModel(model="test_vit", weights=weights["test_vit"], batch=6)
    before = score(plain.open("cpu"), bodies).arrays["image"]
    changes = {
        "size": 96, "crop": "squash", "crop_fraction": 0.5, "interpolation": "nearest",
        "mean": (0.1, 0.2, 0.3), "std": (0.2, 0.2, 0.3),
    }  # fmt: skip
    for name, value in changes.items():
        other = plain.model_copy(update={name: value})
        assert not np.array_equal(score(other.open("cpu"), bodies).arrays["image"], before), name


def test_a_transformer_is_made_for_the_size_that_is_asked(tmp_path):
    model = "vit_tiny_patch16_224"  # which takes no other size, once it is made
    file = tiny_timm.write_weights(tmp_path / "w.safetensors", model)
    bodies = many(3)
    feature = ImageModel(model=model, weights=file, size=64, crop="squash", batch=3)
    found = score(feature.open("cpu"), bodies).arrays["image"]
    network = timm.create_model(model, num_classes=0, img_size=64).eval()
    values = vision_transformer.checkpoint_filter_fn(load_file(file), network)
    network.load_state_dict(values, strict=False)
    config = resolve_model_data_config(network)
    prepare = create_transform(**(config | {"crop_mode": "squash", "input_size": (3, 64, 64)}))
    images = [Image.open(io.BytesIO(body)).convert("RGB") for body in bodies]
    with torch.inference_mode():
        embedded = network(torch.stack([prepare(image) for image in images]))
    np.testing.assert_allclose(found, torch.nn.functional.normalize(embedded), atol=1e-3)


def test_the_mirrored_embedding_is_that_of_the_mirrored_picture(weights):
    for model in MODELS:  # some crop in the middle, to an odd number of pixels less
        feature = ImageModel(model=model, weights=weights[model], mirrored=True, batch=4)
        opened, bodies = feature.open("cpu"), many(4)
        flipped = [encoded(ImageOps.mirror(Image.open(io.BytesIO(body)))) for body in bodies]
        one, other = score(opened, bodies).arrays, score(opened, flipped).arrays
        assert np.array_equal(one["mirrored"], other["image"])
        assert np.array_equal(one["image"], other["mirrored"])
        assert not np.array_equal(one["image"], one["mirrored"])


def test_half_precision_is_close(weights):
    plain = ImageModel(model="test_vit", weights=weights["test_vit"])
    exact = score(plain.open("cpu"), many(6)).arrays["image"].astype(np.float32)
    half = plain.model_copy(update={"precision": "bf16"}).open("cpu")
    found = score(half, many(6)).arrays["image"].astype(np.float32)
    assert not np.array_equal(found, exact)
    assert ((found * exact).sum(axis=1) > 0.99).all()


# --- the same numbers anywhere -------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_neither_batch_nor_place_changes_an_embedding(tiny, scorer, batch):
    bodies = many(40)
    whole = score(scorer, bodies)
    other = tiny.model_copy(update={"batch": batch}).open("cpu")
    for start in (0, 17, 39):
        part = score(other, bodies[start : start + 1])
        for name, array in part.arrays.items():
            np.testing.assert_allclose(array, whole.arrays[name][[start]], atol=1e-3)
    order = np.random.default_rng(0).permutation(40)
    moved = score(scorer, [bodies[n] for n in order])
    for name, array in moved.arrays.items():
        np.testing.assert_allclose(array, whole.arrays[name][order], atol=1e-3)


def test_the_number_of_threads_changes_no_byte(tiny):
    found, before = set(), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            arrays = score(tiny.open("cpu"), many(40)).arrays
            assert torch.get_num_threads() == threads
            found.add(arrays["image"].tobytes() + arrays["mirrored"].tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_threads_that_start_later_have_their_share_of_torch(tiny):
    score(tiny.open("cpu"), many(2))
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads()


def test_who_has_no_picture_has_no_embedding(tiny):
    bodies = [many(1)[0], None, b"no picture", encoded(picture((3, 3)))]
    frame = pl.DataFrame({"row": range(4)})
    found = score_samples(open_features([tiny], "cpu"), bodies, frame, 2)["image_model"]
    assert found.errors == [None, "no_image", "not_an_image", None]
    for array in found.arrays.values():
        assert np.isnan(array).all(axis=1).tolist() == [False, True, True, False]
        lengths = np.linalg.norm(array[[0, 3]].astype(np.float32), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=2e-3)


def test_an_embedding_that_is_not_finite_says_so(weights, tmp_path):
    broken = timm.create_model("test_vit").state_dict()
    broken["norm.weight"][3] = torch.inf
    torch.save(broken, tmp_path / "w.pt")
    opened = ImageModel(model="test_vit", weights=str(tmp_path / "w.pt")).open("cpu")
    found = score(opened, many(2))
    assert found.errors == ["not_finite"] * 2
    assert np.isnan(found.arrays["image"]).all()


def test_a_narrow_picture_is_refused_where_it_would_be_enlarged_beyond_measure(weights):
    body = encoded(Image.new("RGB", (20_000, 2)))
    fields = {"model": "test_vit", "weights": weights["test_vit"]}
    for crop in ("center", "border"):
        with pytest.raises(Unscorable, match="image_too_narrow"):
            ImageModel(**fields, crop=crop).open("cpu").prepare(Picture(body))
    ImageModel(**fields, crop="squash").open("cpu").prepare(Picture(body))


def test_too_little_memory_halves_the_batch_for_good():
    passes, sizes = Passes("cpu", 32), []

    def encode(rows):
        sizes.append(len(rows))
        if len(rows) > 8:
            raise torch.OutOfMemoryError
        return rows * 2

    inputs = torch.arange(64.0)[:, None]
    assert torch.equal(passes.run(encode, inputs), inputs * 2)
    assert passes.slice == 8
    sizes.clear()
    passes.run(encode, inputs)
    assert sizes == [8] * 8
    assert [passes.padded(count) for count in (0, 1, 8, 9)] == [8, 8, 8, 16]

    def never(rows):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        passes.run(never, inputs)


# --- weights -------------------------------------------------------------------------------------


def state(seed=0, model="test_vit", **more):
    torch.manual_seed(seed)
    return timm.create_model(model, **more).state_dict()


def prefixed(values, prefix):
    return {f"{prefix}{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda values: values,
        lambda values: {"state_dict": prefixed(values, "module."), "epoch": 3},
        lambda values: {"model": prefixed(values, "_orig_mod."), "args": argparse.Namespace(a=1)},
        lambda values: {"state_dict": state(7), "model_ema": prefixed(values, "_orig_mod.module.")},
    ],
)
def test_weights_are_read_as_training_leaves_them(tmp_path, wrapped):
    torch.save(wrapped(state(3)), tmp_path / "w.pth")
    plain = tiny_timm.write_weights(tmp_path / "w.safetensors", "test_vit", 3)
    bodies = many(4)
    made = [
        ImageModel(model="test_vit", weights=str(tmp_path / "w.pth")),
        ImageModel(model="test_vit", weights=plain),
    ]
    one, other = (score(each.open("cpu"), bodies).arrays["image"] for each in made)
    assert np.array_equal(one, other)


def test_weights_without_or_with_another_classifier_fit(tmp_path):
    bodies, found = many(4), []
    for classes in (0, 10, 1000):
        values = {
            **state(3, num_classes=classes),
            **{k: v for k, v in state(3).items() if "head" not in k},
        }
        torch.save(values, tmp_path / f"{classes}.pt")
        feature = ImageModel(model="test_vit.r160_in1k", weights=str(tmp_path / f"{classes}.pt"))
        found.append(score(feature.open("cpu"), bodies).arrays["image"])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def dropped(values, name):
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (lambda: dropped(state(), "norm.weight"), "it lacks norm.weight"),
        (lambda: {**state(), "extra.weight": torch.zeros(2)}, "it also has extra.weight"),
        (lambda: {**state(), "norm.weight": torch.zeros(2)}, "size mismatch for norm.weight"),
        (lambda: state(model="resnet10t"), "it lacks"),
    ],
)
def test_weights_that_do_not_fit_name_the_model_and_the_file(tmp_path, values, why):
    torch.save(values(), tmp_path / "w.pt")
    feature = ImageModel(model="test_vit", weights=str(tmp_path / "w.pt"))
    with pytest.raises(ConfigError) as caught:
        feature.open("cpu")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'w.pt'} does not hold the weights of test_vit: ")
    assert why in said
    assert "\n" not in said


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_holds_more_than_weights_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    torch.save({**state(), "x": Malice()}, tmp_path / name)
    with pytest.raises(ConfigError, match="is damaged, or holds more than weights"):
        ImageModel(model="test_vit", weights=name).open("cpu")
    assert not Path("touched-by-a-pickle").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="holds no weights"):
        ImageModel(model="test_vit", weights="list.pt").open("cpu")


def test_weights_are_known_by_their_content(weights, tmp_path):
    elsewhere = tmp_path / "test_vit.safetensors"
    elsewhere.write_bytes(Path(weights["test_vit"]).read_bytes())
    one = ImageModel(model="test_vit", weights=weights["test_vit"]).recipe()
    assert one == ImageModel(model="test_vit", weights=str(elsewhere)).recipe()
    assert one["weights_sha256"] == hashlib.sha256(elsewhere.read_bytes()).hexdigest()
    assert one["weights"] == "test_vit.safetensors"
    assert one["timm"] == timm.__version__


# --- names ---------------------------------------------------------------------------------------


def test_every_model_of_timm_is_known():
    assert set(timm_models.tags()) == set(timm.list_models())
    published = timm.list_models(pretrained=True)
    assert len(published) > 1000
    assert [name for name in published if timm_models._name_problems(name)] == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("vit_large_patch14_dinov2.lvd142", "did you mean 'vit_large_patch14_dinov2.lvd142m'?"),
        ("resnet10", "did you mean"),
        ("isc_ft_v106", "did you mean 'isc_ft_v107'?"),
        ("hf-hub:timm/test_vit", "is no name of timm's"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused(weights, model, said):
    (problem,) = ImageModel(model=model, weights=weights["test_vit"]).problems()
    assert problem.startswith("model: ")
    assert said in problem


def test_weights_that_are_not_there_are_named():
    (problem,) = ImageModel(model="test_vit", weights="no.pt").problems()
    assert problem.startswith("weights: there is no file no.pt: nothing is downloaded")
    assert "test_vit" in problem
    (problem,) = ImageModel(model="test_vit", weights="no.npz").problems()
    assert problem.startswith("weights: no.npz is none of .safetensors, ")
    with pytest.raises(ConfigError, match=r"there is no file no\.pt"):
        ImageModel(model="test_vit", weights="no.pt").recipe()


def test_what_makes_no_preparation_is_refused(weights):
    fields = {"model": "test_vit", "weights": weights["test_vit"]}
    assert ImageModel(**fields, std=(0.2, 0, 0.2)).problems() == [
        "std: 0.0 is not above 0, and colours are divided by it"
    ]
    for wrong in ({"size": 0}, {"crop_fraction": 1.1}, {"crop": "middle"}, {"mean": (0, 0)}):
        with pytest.raises(ValidationError):
            ImageModel(**fields, **wrong)


def test_a_check_loads_no_torch(weights, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), dtype=np.float16))
    code = f"""
import sys
from curate.features.classes import Classes
from curate.features.image_model import ImageModel
from curate.features.references import References
made = ImageModel(model="test_vit", weights={weights["test_vit"]!r})
refs = References(files={str(tmp_path / "a.npy")!r})
classes = Classes(names=["a", "b"], model="quickstart")
for each in (made, refs, classes):
    assert each.problems() == [], each.problems()
    each.recipe(), each.gives(), each.arrays()
print(sorted({{"torch", "faiss", "timm", "open_clip"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the copy detector ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def isc(tmp_path_factory):
    """(a scorer of random weights in the published layout, the network they are from)."""
    torch.manual_seed(5)
    network = isc21.IscNetwork().eval()
    network.bn.running_mean.normal_(std=0.1)
    network.bn.running_var.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("isc") / "isc_ft_v107.pth.tar"
    saved = {
        "epoch": 10,
        "arch": "tf_efficientnetv2_m_in21ft1k",
        "args": argparse.Namespace(input_size=512, gem_p=1.0),
        "state_dict": prefixed(network.state_dict(), "module."),
    }
    torch.save(saved, file)
    return ImageModel(model="isc_ft_v107", weights=str(file)).open("cpu"), network


def test_the_copy_detector_has_the_published_parameters(isc):
    names = isc[1].state_dict()
    own = {name for name in names if not name.startswith("backbone.")}
    statistics = {f"bn.running_{name}" for name in ("mean", "var")} | {"bn.num_batches_tracked"}
    assert own == {"fc.weight", "bn.weight", "bn.bias"} | statistics
    backbone = timm.create_model("tf_efficientnetv2_m.in21k_ft_in1k", features_only=True)
    assert set(names) - own == {f"backbone.{name}" for name in backbone.state_dict()}


def test_the_copy_detector_is_the_published_network(isc):
    opened, network = isc
    pixels = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    # As the published code has it: pooling with p = 1, no bias, batch normalisation, length 1.
    # With random weights so deep a network magnifies any difference, of memory's order too.
    values = ((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).contiguous()
    with torch.inference_mode():
        features = network.backbone(values)[-1]
        assert features.shape == (2, 512, 3, 3)
        pooled = torch.nn.functional.avg_pool2d(features.clamp(min=1e-6), (3, 3))[:, :, 0, 0]
        bn = network.bn
        reduced = (pooled @ network.fc.weight.T - bn.running_mean) / (
            bn.running_var + bn.eps
        ).sqrt()
        expected = torch.nn.functional.normalize(reduced * bn.weight + bn.bias)
    assert expected.shape == (2, 256)
    np.testing.assert_allclose(opened._embed(pixels), expected, atol=1e-5)


def test_the_copy_detector_sees_the_whole_picture_in_512_pixels(isc):
    body = encoded(picture((700, 300)))
    (pixels,) = isc[0].prepare(Picture(body))
    wanted = Picture(body).rgb.resize((512, 512), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels, np.asarray(wanted))


def test_the_weights_of_something_else_are_no_copy_detector(weights):
    with pytest.raises(ConfigError, match="does not hold the weights of isc_ft_v107: it lacks"):
        ImageModel(model="isc_ft_v107", weights=weights["test_vit"]).open("cpu")
