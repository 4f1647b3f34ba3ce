"""Features keep their contract, and a run of samples is scored alike however it is threaded."""

import contextlib
import hashlib
import io
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import polars as pl
import pytest
import tiny_datacomp
import tiny_timm
from PIL import Image
from tiny_clip import encoded, many, picture, write_folder

from curate import features, score
from curate.errors import ConfigError
from curate.features import Array, Columns, Feature, Field, FittedFeature, Picture, Unscorable
from curate.features._models import decoding
from curate.features.clip import Clip
from curate.features.image_file import ImageFile
from curate.features.language import Language
from curate.score import POLARS, Opened, open_features, score_samples


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip(model=f"local-dir:{write_folder(tmp_path_factory.mktemp('clip'))}", batch=8)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    tiny_datacomp.write_wordnet(folder / "wordnet")
    np.save(folder / "centroids.npy", tiny_datacomp.centroids())
    np.save(folder / "targets.npy", tiny_datacomp.targets(0))
    pl.DataFrame({"uid": ["0" * 32], "score": [1.0]}).write_parquet(folder / "scores.parquet")
    tiny_timm.write_weights(folder / "timm.safetensors")
    (folder / "entries.txt").write_text("box\nred box\ntable\n")
    return folder


@pytest.fixture(scope="module")
def made(assets):
    """What the features that need a file are made with here."""
    files = {"centroids": str(assets / "centroids.npy"), "targets": str(assets / "targets.npy")}
    return {
        "clip": {"model": "quickstart"},
        "text_entity": {"wordnet": str(assets / "wordnet")},
        "image_clusters": files,
        "mix": {"of": {"clip.similarity": 1.0}},
        "norm_sim": {"targets": files["targets"], "of": "l14_img"},
        "image_model": {
            **tiny_timm.SQUASHED,
            "weights": str(assets / "timm.safetensors"),
            "batch": 8,
        },
        "references": {"files": files["targets"], "of": "l14_img", "with_clip": True},
        "classes": {"prototypes": files["centroids"], "of": "l14_img"},
        "columns": {"from": str(assets / "scores.parquet"), "take": ["score"]},
        "clusters": {"count": 8},
        "concepts": {"entries": str(assets / "entries.txt")},
    }


@pytest.fixture(scope="module")
def everything(clip, made):
    """All features that are a function of one sample."""
    recipes = {"clip": clip}
    kinds = {name: features.find(name) for name in features.names()}
    rows = {name: kind for name, kind in kinds.items() if not issubclass(kind, FittedFeature)}
    return open_features([recipes.get(n) or k(**made.get(n, {})) for n, k in rows.items()], "cpu")


def frame_of(count):
    texts = ["a red box on a table", "une boîte rouge sur la table", None, "eine rote Kiste"]
    embeddings = np.random.default_rng(0).standard_normal((count, tiny_datacomp.WIDTH))
    kind = pl.Array(pl.Float16, tiny_datacomp.WIDTH)
    return pl.DataFrame(
        {
            "caption": [texts[row % 4] for row in range(count)],
            "l14_img": pl.Series(embeddings.astype(np.float16), dtype=kind),
        }
    )


# --- decoding ------------------------------------------------------------------------------------

MODES = {
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "JPEG": ["RGB", "L", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["P", "L"],
    "BMP": ["RGB", "P"],
    "TIFF": ["RGB", "CMYK", "I;16"],
    "AVIF": ["RGB"],
    "PPM": ["RGB"],
}
Image.init()
FILES = {
    f"{name}-{mode}": encoded(picture(mode=mode), name)
    for name, modes in MODES.items()
    for mode in modes
    if name in Image.SAVE  # older Pillows write no AVIF
}


def decode(body, **limits):
    return decoding.decode_rgb(io.BytesIO(body), **limits)


def kind_of(body, **limits):
    with pytest.raises(Unscorable) as caught:
        decode(body, **limits)
    return caught.value.kind


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name):
    expected = Image.open(io.BytesIO(FILES[name])).convert("RGB")
    assert decode(FILES[name]).tobytes() == expected.tobytes()


def test_a_transparent_palette_decodes_without_a_warning():
    body = encoded(picture(mode="P"), transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = Image.open(io.BytesIO(body)).convert("RGB")
    assert decode(body).tobytes() == expected.tobytes()


def test_exif_orientation_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(picture((48, 40)), "JPEG", exif=exif)).size == (48, 40)


@pytest.mark.parametrize(
    "body",
    [b"", b"<!DOCTYPE html><html>", b"\xff", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF"],
)
def test_what_is_no_picture_says_so(body):
    assert kind_of(body) == "not_an_image"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.1, 0.75, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on broken TIFF files
def test_a_truncated_picture_says_so(name, share):
    assert kind_of(FILES[name][: int(len(FILES[name]) * share)]) == "truncated_image"


def black_png(width, height):
    """A PNG of one bit per pixel; its pixels are given only where they are few."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_378, 13_378), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size):
    assert kind_of(black_png(*size)) == "image_too_large"


def test_pillows_own_limit_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoding.read_header(io.BytesIO(black_png(10_000, 10_000))).size == (10_000, 10_000)


def test_the_pixel_limit_is_inclusive():
    body = encoded(picture((20, 10)))
    assert decode(body, max_pixels=200).size == (20, 10)
    assert kind_of(body, max_pixels=199) == "image_too_large"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on broken TIFF files
@pytest.mark.parametrize("name", FILES)
def test_damage_is_always_a_reason(name):
    rng = np.random.default_rng(0)
    for _ in range(60):
        body = bytearray(FILES[name])
        for place in rng.integers(0, min(len(body), 400), rng.integers(0, 6)):
            body[place] = rng.integers(256)
        with contextlib.suppress(Unscorable):  # anything else is a fault of ours
            decode(bytes(body[: rng.integers(1, 2 * len(body))]), max_pixels=1_000_000)


# --- each feature --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", features.names())
def test_a_feature_describes_itself(name, made):
    kind = features.find(name)
    assert kind.__doc__
    feature = kind(**made.get(name, {}))
    assert feature.name == name
    given = [*feature.gives(), *feature.arrays()]
    assert len({one.name for one in given}) == len(given) > 0
    assert all(one.about for one in given)
    assert feature.problems() == []
    if isinstance(feature, FittedFeature):
        with pytest.raises(TypeError, match="is fitted"):
            feature.open("cpu")


def test_a_scorer_keeps_its_promise_for_no_samples(everything):
    frame = frame_of(0)
    for name, columns in score_samples(everything, [], frame, threads=1).items():
        assert all(len(series) == 0 for series in columns.scalars.values()), name
        assert all(len(array) == 0 for array in columns.arrays.values()), name


def test_image_file_reads_what_the_file_says():
    bodies = [FILES["JPEG-RGB"], memoryview(FILES["PNG-P"]), b"no picture", None, FILES["WEBP-RGB"]]
    opened = open_features([ImageFile()], "cpu")
    columns = score_samples(opened, bodies, frame_of(5), threads=2)["image_file"]
    assert columns.errors == [None, None, "not_an_image", "no_image", None]
    assert columns.scalars["width"].to_list() == [48, 48, None, None, 48]
    assert columns.scalars["height"].to_list() == [40, 40, None, None, 40]
    assert columns.scalars["format"].to_list() == ["JPEG", "PNG", None, None, "WEBP"]
    lengths = [len(FILES["JPEG-RGB"]), len(FILES["PNG-P"]), None, None, len(FILES["WEBP-RGB"])]
    assert columns.scalars["bytes"].to_list() == lengths
    assert columns.scalars["sha256"][0] == hashlib.sha256(FILES["JPEG-RGB"]).hexdigest()
    assert columns.scalars["sha256"][1] == hashlib.sha256(FILES["PNG-P"]).hexdigest()


def test_image_file_reads_no_pixels():
    (opened,) = open_features([ImageFile()], "cpu")
    facts = opened.scorer.prepare(Picture(black_png(60_000, 50_000)))
    assert (facts.width, facts.height) == (60_000, 50_000)


def languages(captions):
    opened = open_features([Language()], "cpu")
    return score_samples(opened, [], pl.DataFrame({"caption": captions}), threads=1)["language"]


def test_languages_are_named():
    captions = {
        "en": "a large brown dog runs along the beach with a ball",
        "de": "ein großer brauner Hund läuft mit einem Ball am Strand entlang",
        "fr": "un grand chien brun court le long de la plage avec une balle",
        "ja": "大きな茶色の犬がボールをくわえて浜辺を走っています",
        "ru": "большая коричневая собака бежит по пляжу",
    }
    columns = languages(list(captions.values()))
    assert columns.scalars["code"].to_list() == list(captions)
    assert columns.scalars["probability"].dtype == pl.Float32
    assert columns.scalars["probability"].is_between(0.5, 1.01).all()


def test_a_newline_reads_as_a_blank_and_null_is_no_language():
    columns = languages(["a dog\non the beach", "a dog on the beach", None, ""])
    first, second = columns.scalars["probability"][:2]
    assert first == second
    assert columns.scalars["code"].is_null().to_list() == [False, False, True, False]
    assert columns.errors == [None, None, "no_caption", None]


def test_a_language_model_is_known_by_its_content(tmp_path):
    packaged = Language()
    copy = tmp_path / "lid.176.ftz"
    copy.write_bytes(packaged._file().read_bytes())
    assert Language(model=str(copy)).recipe() == packaged.recipe()
    copy.write_bytes(b"no model")
    assert Language(model=str(copy)).recipe() != packaged.recipe()
    with pytest.raises(ConfigError, match="is not a fastText model"):
        Language(model=str(copy)).open("cpu")
    assert "there is no file no/such.bin" in Language(model="no/such.bin").problems()[0]


# --- a run of samples ----------------------------------------------------------------------------


def bodies_with_damage(count):
    bodies = many(count)
    bodies[3] = None
    bodies[5] = b"<html>"
    bodies[count - 2] = bodies[count - 2][:500]
    return bodies


def as_bytes(scored):
    parts = []
    for _, columns in sorted(scored.items()):
        parts += [repr(series.to_list()).encode() for series in columns.scalars.values()]
        parts += [array.tobytes() for array in columns.arrays.values()]
        parts.append(repr(columns.errors).encode())
    return b"".join(parts)


def test_threads_change_no_byte(everything):
    bodies, frame = bodies_with_damage(50), frame_of(50)
    results = {
        as_bytes(score_samples(everything, bodies, frame, threads)) for threads in (1, 2, 4, 2)
    }
    assert len(results) == 1


def test_every_sample_has_its_own_values(everything, clip):
    bodies, frame = bodies_with_damage(50), frame_of(50)
    scored = score_samples(everything, bodies, frame, threads=2)
    reasons = {3: "no_image", 5: "not_an_image", 48: "truncated_image"}
    no_caption = dict.fromkeys(range(2, 50, 4), "no_caption")
    assert scored["clip"].errors == [{**no_caption, **reasons}.get(row) for row in range(50)]
    assert scored["image_file"].errors == [reasons.get(row) for row in range(50)]
    nulls = scored["clip"].scalars["similarity"].is_null()
    assert nulls.to_list() == [error is not None for error in scored["clip"].errors]
    assert np.isnan(scored["clip"].arrays["image"]).all(axis=1).nonzero()[0].tolist() == [3, 5, 48]
    alone = clip.open("cpu")
    for row in (0, 4, 47, 49):
        one = alone.score([alone.prepare(Picture(bodies[row]))], frame[row])
        np.testing.assert_array_equal(scored["clip"].arrays["image"][row], one.arrays["image"][0])
        width = Image.open(io.BytesIO(bodies[row])).width
        assert scored["image_file"].scalars["width"][row] == width


def test_several_models_share_one_decode(clip, monkeypatch):
    decoded = []
    once = decoding.decode_rgb
    monkeypatch.setattr(decoding, "decode_rgb", lambda stream: decoded.append(1) or once(stream))
    two = [clip.model_copy(update={"name": "one"}), clip.model_copy(update={"name": "two"})]
    scored = score_samples(open_features(two, "cpu"), many(20), frame_of(20), threads=2)
    assert len(decoded) == 20
    assert scored["one"].arrays["image"].tobytes() == scored["two"].arrays["image"].tobytes()


def test_where_no_picture_can_be_read_arrays_keep_their_width(clip):
    opened = open_features([clip], "cpu")
    columns = score_samples(opened, [None, b"", b"x"], frame_of(3), threads=1)["clip"]
    assert columns.arrays["image"].shape == (3, 24)
    assert np.isnan(columns.arrays["image"]).all()
    assert columns.scalars["similarity"].to_list() == [None] * 3
    assert columns.scalars["similarity"].dtype == pl.Float32


def test_captions_alone_leave_the_pictures_unread():
    def untouchable():
        raise AssertionError("a caption's language needs no picture")
        yield

    opened = open_features([Language()], "cpu")
    scored = score_samples(opened, untouchable(), frame_of(4), threads=1)
    assert scored["language"].scalars["code"].to_list() == ["en", "fr", None, "de"]


class Brightness(Feature):
    """A feature as a user would write it, with faults on demand."""

    pictures = True
    name: str = "brightness"
    fault: str = ""

    def needs(self):
        return ("caption",)

    def gives(self):
        return (Field("mean", "float32", "0..255"), Field("words", "int64", "of the caption"))

    def arrays(self):
        return (Array("histogram", "of the red channel"),)

    def open(self, device):
        return BrightnessScorer(self.fault)


class BrightnessScorer:
    batch = 4

    def __init__(self, fault):
        self.fault = fault
        self.scored = 0
        self.threads = set()
        self.pause_s = 0.0

    def prepare(self, picture):
        if self.fault == "prepare":
            raise ZeroDivisionError("a fault of the scorer")
        return np.asarray(picture.rgb)

    def score(self, prepared, frame):
        assert len(prepared) == frame.height <= self.batch
        time.sleep(self.pause_s)
        self.scored += len(prepared)
        self.threads.add(threading.current_thread().name)
        means = np.array([pixels.mean() for pixels in prepared], dtype=np.float32)
        if self.fault == "nan":
            means[:] = np.nan
        words = frame["caption"].str.count_matches(" ").to_list()
        if self.fault == "length":
            words = words[:-1]
        counts = [np.histogram(pixels[..., 0], 4)[0] for pixels in prepared]
        arrays = {"histogram": np.array(counts, dtype=np.float16).reshape(-1, 4)}
        if self.fault == "name":
            arrays = {}
        return Columns({"mean": means, "words": words}, arrays)


def brightness(fault=""):
    feature = Brightness(fault=fault)
    return Opened(feature, feature.open("cpu"))


def test_a_scorer_of_ones_own():
    one = brightness()
    columns = score_samples([one], many(11), frame_of(11), threads=3)["brightness"]
    expected = [np.asarray(Image.open(io.BytesIO(body))).mean() for body in many(11)]
    np.testing.assert_allclose(columns.scalars["mean"].to_numpy(), expected, rtol=1e-6)
    assert columns.scalars["words"].dtype == POLARS["int64"]
    assert columns.scalars["words"].to_list()[:4] == [5, 5, None, 2]
    assert columns.arrays["histogram"].shape == (11, 4)
    assert columns.errors == [None] * 11
    assert len(one.scorer.threads) == 1  # which may therefore keep state


def test_nan_is_null():
    columns = score_samples([brightness("nan")], many(5), frame_of(5), threads=1)["brightness"]
    assert columns.scalars["mean"].null_count() == 5


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("prepare", ZeroDivisionError, "a fault of the scorer"),
        ("length", ValueError, "brightness returned {'words': 3} values for 4 samples"),
        ("name", ValueError, "promises .'mean', 'words', 'histogram'. and returned"),
    ],
)
def test_a_faulty_scorer_stops_the_run(fault, error, message):
    with pytest.raises(error, match=message):
        score_samples([brightness(fault)], many(30), frame_of(30), threads=2)


@pytest.mark.parametrize("given", [9, 11])
def test_pictures_and_samples_must_be_as_many(given):
    with pytest.raises(
        ValueError, match=r"(9|more than 10) picture files were given for 10 samples"
    ):
        score_samples([brightness()], many(given), frame_of(10), threads=1)


def test_memory_is_bounded_by_the_batch():
    one = brightness()
    one.scorer.pause_s = 0.02
    ahead = []

    def bodies():
        for row, body in enumerate(many(200)):
            ahead.append(row - one.scorer.scored)
            yield body

    score_samples([one], bodies(), frame_of(200), threads=2)
    # The window of two batches and the threads, the batch being scored, the one being formed.
    assert max(ahead) <= 2 * 4 + 2 + 4 + 4


def test_dtypes_cover_the_contract():
    assert set(POLARS) == set(features.Dtype.__args__)
    assert score.POLARS["string"] == pl.String
