"""The nearest reference, by embedding or hash, mirrored or not; and copies that are removed."""

import io
import tarfile
from collections import Counter

import numpy as np
import polars as pl
import pytest
import real_pictures
import tiny_timm
import torch
from PIL import Image, ImageOps
from tiny_clip import encoded, many, picture, write_folder
from tiny_pool import Drawn, Pipeline, ledger_of, tar_pool, write_shards

from curate.errors import ConfigError, InvalidPipeline
from curate.features import Picture
from curate.features._given import reference_pictures
from curate.features.clip import Clip
from curate.features.image_model import ImageModel
from curate.features.perceptual_hash import PerceptualHash
from curate.features.references import References
from curate.score import open_features, score_samples

WIDTH = 24


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(count, seed=0, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float16)


def frame_of(**columns):
    """A batch of columns `m.<name>`: embeddings [N, D] or hashes [N]."""
    fields = {}
    for name, values in columns.items():
        dtype = pl.UInt64
        if isinstance(values, np.ndarray) and values.ndim == 2:
            dtype = pl.Array(pl.Float16, values.shape[1])
        fields[name] = pl.Series(values, dtype=dtype)
    return pl.DataFrame({"m": pl.DataFrame(fields).to_struct()})


def found(feature, frame, parts=1):
    """The columns, and errors, of a batch scored in so many parts."""
    assert feature.problems() == []
    opened = open_features([feature], "cpu")
    cuts = np.array_split(np.arange(frame.height), parts)
    made = [score_samples(opened, [], frame[rows], 1)[feature.name] for rows in cuts]
    whole = {name: pl.concat([one.scalars[name] for one in made]) for name in made[0].scalars}
    return pl.DataFrame(whole).with_columns(
        error=pl.Series([e for m in made for e in m.errors], dtype=pl.String)
    )


# --- embeddings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_the_nearest_reference_is_the_one_of_the_largest_cosine(tmp_path, parts):
    references, samples = draw(700, 1), draw(300, 2)
    np.save(tmp_path / "a.npy", references[:450] * 4)  # of any length
    np.save(tmp_path / "b.npy", references[450:].astype(np.float32))
    files = (str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))
    told = found(References(of="m.image", files=files), frame_of(image=samples), parts)
    cosine = unit(samples) @ unit(references).T
    names = [f"a.npy:{row}" for row in range(450)] + [f"b.npy:{row}" for row in range(250)]
    assert told["reference"].to_list() == [names[row] for row in cosine.argmax(axis=1)]
    np.testing.assert_allclose(told["similarity"], cosine.max(axis=1), atol=2e-6)
    assert told["mirrored"].null_count() == 300, "nobody looked for mirrored ones"
    assert told["error"].null_count() == 300


def test_of_equally_near_references_the_first_is_told(tmp_path):
    references = draw(600, 1)
    references[[5, 300, 599]] = references[400]
    np.save(tmp_path / "a.npy", references)
    feature = References(of="m.image", files=str(tmp_path / "a.npy"))
    assert (
        found(feature, frame_of(image=references[[400, 300]]))["reference"].to_list()
        == ["a.npy:5"] * 2
    )


def test_no_sample_changes_another(tmp_path):
    np.save(tmp_path / "a.npy", draw(900, 1))
    feature = References(of="m.image", files=str(tmp_path / "a.npy"))
    samples = draw(600, 2)
    whole = found(feature, frame_of(image=samples))
    order = np.random.default_rng(3).permutation(600)
    assert found(feature, frame_of(image=samples[order]), 7).equals(whole[order])


def test_who_has_no_embedding_has_no_reference(tmp_path):
    np.save(tmp_path / "a.npy", draw(9, 1))
    samples = draw(5, 2)
    samples[1], samples[3, 2], samples[4] = np.nan, np.inf, 0
    told = found(References(of="m.image", files=str(tmp_path / "a.npy")), frame_of(image=samples))
    assert told["error"].to_list() == [None, "no_embedding", None, "no_embedding", "no_embedding"]
    assert told["similarity"].is_null().to_list() == [False, True, False, True, True]
    assert told["reference"].is_null().to_list() == [False, True, False, True, True]


def test_a_mirrored_sample_counts_where_it_is_nearer(tmp_path):
    np.save(tmp_path / "a.npy", draw(50, 1))
    own, flipped = draw(40, 2), draw(40, 3)
    flipped[7] = np.nan  # the model may fail for one of both
    feature = References(of="m.image", mirrored="m.mirrored", files=str(tmp_path / "a.npy"))
    told = found(feature, frame_of(image=own, mirrored=flipped))
    plain, other = (
        unit(rows) @ unit(draw(50, 1)).T for rows in (own, np.nan_to_num(flipped, nan=9))
    )
    other[7] = -1
    assert told["mirrored"].to_list() == (other.max(1) > plain.max(1)).tolist()
    best = np.where((other.max(1) > plain.max(1))[:, None], other, plain)
    assert told["reference"].to_list() == [f"a.npy:{row}" for row in best.argmax(1)]
    np.testing.assert_allclose(told["similarity"], best.max(1), atol=2e-6)


def test_a_mirrored_sample_that_is_missing_is_not_compared(tmp_path):
    np.save(tmp_path / "a.npy", draw(1, 1))
    nothing = np.full((1, WIDTH), np.nan, dtype=np.float16)
    cosine = References(of="m.image", mirrored="m.other", files=str(tmp_path / "a.npy"))
    told = found(cosine, frame_of(image=-draw(1, 1), other=nothing))
    assert told["mirrored"].to_list() == [False]
    np.testing.assert_allclose(told["similarity"], [-1], atol=1e-6)
    np.save(tmp_path / "h.npy", hashes(9, 1))
    hamming = References(of="m.phash", mirrored="m.other", files=str(tmp_path / "h.npy"))
    told = found(hamming, frame_of(phash=[5, None, 5], other=[None, 5, 5]))
    assert told["error"].to_list() == ["no_hash", "no_hash", None]


def test_a_sample_that_is_as_near_mirrored_is_not_called_mirrored(tmp_path):
    np.save(tmp_path / "a.npy", draw(9, 1))
    np.save(tmp_path / "h.npy", hashes(9, 1))
    cosine = References(of="m.image", mirrored="m.other", files=str(tmp_path / "a.npy"))
    told = found(cosine, frame_of(image=draw(4), other=draw(4)))
    assert not told["mirrored"].any()
    hamming = References(of="m.phash", mirrored="m.other", files=str(tmp_path / "h.npy"))
    told = found(hamming, frame_of(phash=hashes(4, 2), other=hashes(4, 2)))
    assert not told["mirrored"].any()


def test_files_of_every_kind_hold_references(tmp_path):
    pieces = np.array_split(draw(40, 1), 4)
    np.save(tmp_path / "a.npy", pieces[0])
    (tmp_path / "a.txt").write_text("".join(f"cat {row}\n" for row in range(10)))
    np.savez(tmp_path / "b.npz", image=pieces[1], text=pieces[0])
    pl.DataFrame({"uid": [f"uid{row}" for row in range(10)]}).write_parquet(tmp_path / "b.parquet")
    torch.save({"image_features": torch.from_numpy(pieces[2])}, tmp_path / "c.pt")
    torch.save(torch.from_numpy(pieces[3]), tmp_path / "d.pt")
    names = [f"cat {n}" for n in range(10)] + [f"uid{n}" for n in range(10)]
    names += [f"c.pt:{n}" for n in range(10)] + [f"d.pt:{n}" for n in range(10)]
    whole = References(of="m.image", files=str(tmp_path))
    told = found(whole, frame_of(image=draw(40, 1)))
    assert told["reference"].to_list() == names
    one_by_one = tuple(str(tmp_path / name) for name in ("a.npy", "b.npz", "c.pt", "d.pt"))
    listed = References(of="m.image", files=one_by_one)
    assert found(listed, frame_of(image=draw(40, 1))).equals(told)
    assert [one["file"] for one in listed.recipe()["files"]] == ["a.npy", "b.npz", "c.pt", "d.pt"]
    assert whole.recipe()["references"] is None, "torch would have to read a .pt"
    assert References(of="m.image", files=str(tmp_path / "*.npy")).recipe()["references"] == 10


def test_the_recipe_follows_what_the_files_hold_not_where_they_lie(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "eval" / "inner").mkdir(parents=True)
        np.save(tmp_path / folder / "eval" / "inner" / "a.npy", draw(4, 1))
        np.save(tmp_path / folder / "eval" / "b.npy", draw(4, 2))
    made = [References(of="m.image", files=str(tmp_path / f / "eval")) for f in ("one", "two")]
    assert made[0].recipe() == made[1].recipe()
    assert made[0].recipe()["references"] == 8
    np.save(tmp_path / "two" / "eval" / "b.npy", draw(4, 3))
    assert made[0].recipe() != made[1].recipe()
    told = found(made[0], frame_of(image=draw(1, 1)))
    assert told["reference"].to_list() == ["inner/a.npy:0"]


# --- hashes --------------------------------------------------------------------------------------


def distances(left, right):
    return np.bitwise_count(left[:, None] ^ right[None, :]).astype(np.int64)


def hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("bits", [64, 6])  # 6: many are equally near
def test_the_nearest_hash_is_the_first_of_the_smallest_distance(tmp_path, bits, monkeypatch):
    monkeypatch.setattr("curate.features._references.HASHES", 300)
    references, own, flipped = (
        hashes(n, s) & np.uint64(2**bits - 1) for n, s in ((2000, 1), (700, 2), (700, 3))
    )
    np.save(tmp_path / "h.npy", references)
    feature = References(of="m.phash", files=str(tmp_path / "h.npy"))
    told = found(feature, frame_of(phash=own), 3)
    apart = distances(own, references)
    assert told["distance"].to_list() == apart.min(axis=1).tolist()
    assert told["distance"].dtype == pl.UInt32
    assert told["reference"].to_list() == [f"h.npy:{row}" for row in apart.argmin(axis=1)]
    both = feature.model_copy(update={"mirrored": "m.other"})
    told = found(both, frame_of(phash=own, other=flipped))
    other = distances(flipped, references)
    assert told["mirrored"].to_list() == (other.min(axis=1) < apart.min(axis=1)).tolist()
    assert told["distance"].to_list() == np.minimum(apart, other).min(axis=1).tolist()


def test_hashes_come_from_tables_too(tmp_path):
    values = hashes(6, 1)
    texts = [f"{int(value):016x}" for value in values]
    pl.DataFrame({"phash": texts, "url": [f"u{n}" for n in range(6)]}).write_parquet(
        tmp_path / "a.parquet"
    )
    given = pl.Series([*values[:2].tolist(), None, *values[3:].tolist()], dtype=pl.UInt64)
    pl.DataFrame({"phash": given}).write_parquet(tmp_path / "b.parquet")
    told = found(
        References(of="m.phash", files=str(tmp_path / "a.parquet")), frame_of(phash=values)
    )
    assert told["reference"].to_list() == [f"u{n}" for n in range(6)]
    second = References(of="m.phash", files=str(tmp_path / "b.parquet"))
    told = found(second, frame_of(phash=[*values[3:].tolist(), None]))
    assert told["reference"].to_list() == ["b.parquet:3", "b.parquet:4", "b.parquet:5", None]
    assert told["error"].to_list() == [None, None, None, "no_hash"]
    assert second.recipe()["references"] == 5


# --- pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The settings of an `image_model` step with random weights."""
    weights = tmp_path_factory.mktemp("timm") / "w.safetensors"
    return {**tiny_timm.SQUASHED, "weights": tiny_timm.write_weights(weights), "batch": 32}


def embedded(detector, bodies, **more):
    feature = ImageModel(**detector, **more)
    frame = pl.DataFrame({"row": range(len(bodies))})
    return score_samples(open_features([feature], "cpu"), bodies, frame, 2)["image_model"].arrays


def test_pictures_are_embedded_by_the_step_of_the_samples(tmp_path, detector):
    bodies = many(40)
    (tmp_path / "eval" / "inner").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "eval" / "inner" / f"{number:02d}.jpg").write_bytes(bodies[number])
    with tarfile.open(tmp_path / "eval" / "rest.tar", "w") as tar:
        for number in range(20, 40):
            for name in (f"{number}.JPG", f"{number}.txt"):
                info = tarfile.TarInfo(name)
                info.size = len(bodies[number])
                tar.addfile(info, io.BytesIO(bodies[number]))
    feature = References(of="m.image", files=str(tmp_path / "eval"), by={"image_model": detector})
    assert feature.recipe()["references"] == 40
    told = found(feature, frame_of(image=embedded(detector, bodies)["image"]))
    names = [f"inner/{n:02d}.jpg" for n in range(20)] + [f"rest.tar/{n}.JPG" for n in range(20, 40)]
    assert told["reference"].to_list() == names
    np.testing.assert_allclose(told["similarity"], 1, atol=1e-3)
    assert not told["mirrored"].any()
    flipped = [encoded(ImageOps.mirror(Image.open(io.BytesIO(body)))) for body in bodies]
    told = found(feature, frame_of(image=embedded(detector, flipped)["image"]))
    assert told["reference"].to_list() == names
    assert told["mirrored"].all(), "references are compared mirrored as well"


def test_hashes_of_pictures_are_those_of_the_step(tmp_path):
    bodies = many(30)
    for number, body in enumerate(bodies):
        (tmp_path / f"{number:02d}.jpg").write_bytes(body)
    feature = References(of="m.phash", files=str(tmp_path), by={"perceptual_hash": {}})
    step = PerceptualHash(mirrored=True)
    frame = pl.DataFrame({"row": range(30)})
    own = score_samples(open_features([step], "cpu"), bodies, frame, 2)["perceptual_hash"].scalars
    told = found(feature, frame_of(phash=own["phash"].to_list()))
    assert told["distance"].to_list() == [0] * 30
    assert told["reference"].to_list() == [f"{n:02d}.jpg" for n in range(30)]
    told = found(feature, frame_of(phash=own["phash_mirrored"].to_list()))
    assert told["distance"].to_list() == [0] * 30
    assert told["mirrored"].all()


def test_a_reference_that_is_no_picture_is_named(tmp_path, detector):
    (tmp_path / "a.jpg").write_bytes(many(1)[0])
    (tmp_path / "b.png").write_bytes(b"not a picture")
    feature = References(of="m.image", files=str(tmp_path), by={"image_model": detector})
    with pytest.raises(ConfigError, match=r"the reference b.png cannot be read \(not_an_image\)"):
        feature.open("cpu")


# --- what is refused -----------------------------------------------------------------------------


def test_embeddings_of_another_width_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", draw(9, 1, 16))
    feature = References(of="m.image", files=str(tmp_path / "a.npy"))
    with pytest.raises(ConfigError, match=r"m.image is 24 wide and the references are 16 wide"):
        found(feature, frame_of(image=draw(3)))
    np.save(tmp_path / "b.npy", draw(9, 1, 12))
    both = References(of="m.image", files=str(tmp_path))
    with pytest.raises(ConfigError, match=r"different widths .*a.npy: 16, b.npy: 12"):
        both.open("cpu")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 8), dtype=np.float16), "there are no references in"),
        (np.zeros((3, 8), dtype=np.float16), "a.npy:0 has no direction"),
        (np.zeros(8, dtype=np.float16), r"holds float16 of shape \(8,\)"),
        (np.zeros((3, 8), dtype=np.int64), r"holds int64 of shape \(3, 8\)"),
    ],
)
def test_references_that_are_none_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ConfigError, match=message):
        References(of="m.image", files=str(tmp_path / "a.npy")).open("cpu")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, dtype=np.int64), r"holds int64 of shape \(3,\): \[N\] uint64 hashes"),
        (np.zeros(0, dtype=np.uint64), "there are no references in"),
    ],
)
def test_hashes_that_are_none_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ConfigError, match=message):
        References(of="m.phash", files=str(tmp_path / "a.npy")).open("cpu")


def test_a_column_of_the_wrong_kind_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", draw(9, 1))
    np.save(tmp_path / "h.npy", hashes(9, 1))
    with pytest.raises(ConfigError, match=r"embeddings are needed, and m.code is of type UInt64"):
        found(References(of="m.code", files=str(tmp_path / "a.npy")), frame_of(code=[1, 2]))
    hamming = References(of="m.image", metric="hamming", files=str(tmp_path / "h.npy"))
    with pytest.raises(ConfigError, match=r"hashes are needed, and m.image is of type Array"):
        found(hamming, frame_of(image=draw(2)))


def test_what_is_missing_is_said_before_anything_runs(tmp_path, detector):
    def said(**fields):
        return References(**{"of": "m.image", **fields}).problems()

    (tmp_path / "empty").mkdir()
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "a.jpg").write_bytes(many(1)[0])
    eval_ = str(tmp_path / "eval")
    assert said(files=()) == ["files: the list of files is empty"]
    assert said(files="no.npy") == ["files: there is no file no.npy"]
    assert said(files="no.csv") == ["files: no.csv is none of .npy, .pt, .pth"]
    assert said(files="no.jpg")[0] == "files: there is no file no.jpg"
    assert "no file of .npy" in said(files=str(tmp_path / "empty"))[0]
    (problem,) = References(of="m.image", files=eval_).refusals({})
    assert "the references are pictures: say which step" in problem
    assert "by: name one kind of step" in said(files=eval_, by={})[0]
    assert "did you mean 'image_model'" in said(files=eval_, by={"image_modl": {}})[0]
    assert said(files=eval_, by={"language": {}}) == ["by: `language` looks at no pictures"]
    assert "by.image_model.weights: Field required" in said(
        files=eval_, by={"image_model": {"model": "test_vit"}}
    )
    assert (
        "by.image_model: weights: there is no file"
        in said(files=eval_, by={"image_model": {"model": "test_vit", "weights": "no.pt"}})[0]
    )
    assert said(files=eval_, by={"perceptual_hash": {}}) == [
        "by: it gives phash, and `of` is m.image"
    ]
    np.save(tmp_path / "a.npy", draw(2))
    assert said(files=str(tmp_path / "a.npy"), by={"image_model": detector}) == [
        "by: it goes with references that are pictures"
    ]


def test_more_pictures_than_every_worker_should_embed_are_refused(tmp_path, detector, monkeypatch):
    for number, body in enumerate(many(3)):
        (tmp_path / f"{number}.jpg").write_bytes(body)
    feature = References(of="m.image", files=str(tmp_path), by={"image_model": detector})
    assert feature.problems() == []
    monkeypatch.setattr(reference_pictures, "MOST", 2)
    (problem,) = feature.problems()
    assert "3 pictures are more than the 2 that every worker embeds" in problem


@pytest.mark.parametrize("of", ["l14_img", "b32_img"])  # of DataComp's metadata
def test_a_clip_is_no_copy_detector_unless_one_says_so(tmp_path, of):
    np.save(tmp_path / "a.npy", draw(2))
    (problem,) = References(of=of, files=str(tmp_path / "a.npy")).problems()
    assert f"{of} comes from a CLIP, which is no copy detector" in problem
    assert "it finds 2 % of the copies" in problem
    asked = References(of=of, files=str(tmp_path / "a.npy"), with_clip=True)
    assert asked.problems() == []


def test_the_step_behind_a_column_is_looked_at(tmp_path, detector):
    np.save(tmp_path / "a.npy", draw(2))
    clip = Clip(name="vision", model=f"local-dir:{write_folder(tmp_path / 'clip')}")
    one, other = ImageModel(name="one", **detector), ImageModel(name="other", **detector)
    feature = References(of="vision.image", files=str(tmp_path / "a.npy"))
    assert "no copy detector" in feature.refusals({"vision.image": clip})[0]
    assert feature.refusals({"vision.image": one}) == []
    assert feature.refusals({}) == [], "the pool's own"
    assert feature.model_copy(update={"with_clip": True}).refusals({"vision.image": clip}) == []
    flips = References(of="one.image", mirrored="other.mirrored", files=str(tmp_path / "a.npy"))
    said = flips.refusals({"one.image": one, "other.mirrored": other})
    assert said == ["mirrored: other.mirrored and one.image come from different steps"]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "a.png").write_bytes(encoded(picture()))
    by = {"image_model": {**detector, "batch": 8}}
    pictures = References(of="one.image", files=str(tmp_path / "eval"), by=by)
    assert pictures.refusals({"one.image": one}) == []
    assert pictures.made_by({"one.image": one}) is pictures
    left_out = pictures.model_copy(update={"by": None}).made_by({"one.image": one})
    assert left_out.problems() == []
    assert left_out.recipe()["by"] == {
        "image_model": {**pictures.recipe()["by"]["image_model"], "batch": 32}
    }
    assert feature.made_by({"vision.image": clip}) is feature, "no pictures"
    smaller = pictures.model_copy(update={"by": {"image_model": {**detector, "size": 32}}})
    assert smaller.refusals({"one.image": one}) == [
        "by: one is made otherwise: size: 64 there, 32 here"
    ]


# --- planted copies of real pictures -------------------------------------------------------------


def opened(pair):
    return Picture(pair.path.read_bytes()).rgb


def resized(image, share):
    return image.resize([max(1, round(side * share)) for side in image.size])


PLANTED = {
    "same": lambda image: encoded(image),
    "saved_again": lambda image: encoded(image, "JPEG", quality=95),
    "smaller": lambda image: encoded(resized(image, 0.8), "JPEG", quality=95),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
}


@pytest.fixture(scope="module")
def contaminated(tmp_path_factory):
    """(pool of others and copies of some, folder of references): real pictures."""
    real_pictures.fetch_or_skip()
    pairs = [pair for pair in real_pictures.stamps(3) if pair.path.suffix == ".png"]
    pairs = [pair for pair in pairs if not pair.name.startswith("symbols")]
    references, others = pairs[::6], [pair for n, pair in enumerate(pairs) if n % 6]
    root = tmp_path_factory.mktemp("contaminated")
    (root / "eval").mkdir()
    samples = []
    for number, pair in enumerate(references):
        (root / "eval" / f"{number:03d}.png").write_bytes(encoded(opened(pair)))
        for kind, made in PLANTED.items():
            samples.append((f"http://copy/{kind}/{number:03d}", made(opened(pair))))
    samples += [(f"http://other/{pair.name}", encoded(opened(pair))) for pair in others]
    drawn = [
        Drawn(f"{n:09d}", f"sample {n}", {"url": url}, body)
        for n, (url, body) in enumerate(samples)
    ]
    write_shards(root / "pool", drawn, 3)
    return tar_pool(root / "pool"), root / "eval"


def fates_by_kind(work, step):
    """{(kind, whether a mirrored reference): (removed, of)} by what the ledger says."""
    ledger = ledger_of(work)
    urls = pl.concat(
        [
            pl.read_parquet(f, columns=["url"])
            for f in sorted((work / "pool").glob("block-*.parquet"))
        ]
    )
    ledger = ledger.with_columns(urls)
    removed, counts = Counter(), Counter()
    for url, reason, values in ledger.select("url", "reason", "values").iter_rows():
        kind = url.split("/")[3] if "//copy/" in url else "other"
        counts[kind] += 1
        if reason == "reference_copy":
            removed[kind] += 1
            if kind != "other":
                assert values[f"{step}.reference"] == f"{url[-3:]}.png", (
                    "the one it was copied from"
                )
    return {kind: (removed[kind], counts[kind]) for kind in counts}


@pytest.mark.real
def test_planted_copies_are_found_by_their_embeddings(contaminated, tmp_path, detector):
    pool, eval_ = contaminated
    steps = [
        {"image_model": detector},
        {"references": {"files": str(eval_)}},  # the step of the samples embeds them
        {"decontaminate": {"at_most": 0.97}},
    ]
    pipeline = Pipeline(tmp_path, pool, steps)
    pipeline.run()
    told = fates_by_kind(pipeline.work, "references")
    references = told["same"][1]
    assert references > 20
    assert [told[kind] for kind in ("same", "saved_again", "mirrored")] == [
        (references, references)
    ] * 3
    assert told["smaller"][0] >= 0.9 * references
    assert told["other"][0] <= 0.02 * told["other"][1]


@pytest.mark.real
def test_planted_copies_are_found_by_their_hashes(contaminated, tmp_path):
    pool, eval_ = contaminated
    steps = [
        {"perceptual_hash": {}},
        {
            "references": {
                "of": "perceptual_hash.phash",
                "files": str(eval_),
                "by": {"perceptual_hash": {}},
            }
        },
        {"decontaminate": {"at_least": 5}},
    ]
    pipeline = Pipeline(tmp_path, pool, steps)
    pipeline.run()
    told = fates_by_kind(pipeline.work, "references")
    references = told["same"][1]
    assert [told[kind] for kind in ("same", "saved_again", "mirrored")] == [
        (references, references)
    ] * 3
    assert told["smaller"][0] >= 0.95 * references
    assert told["other"][0] <= 0.03 * told["other"][1]


@pytest.mark.slow
@pytest.mark.real
def test_references_are_embedded_by_a_pipeline_of_their_own(contaminated, tmp_path, detector):
    pool, eval_ = contaminated
    bodies = [file.read_bytes() for file in sorted(eval_.iterdir())]
    drawn = [Drawn(f"{n:09d}", "x", {"url": f"http://{n}"}, body) for n, body in enumerate(bodies)]
    drawn.insert(3, Drawn("000000999", "x", {"url": "http://none"}, None))  # has no embedding
    write_shards(tmp_path / "eval", drawn, 2)
    first = Pipeline(
        tmp_path / "a",
        tar_pool(tmp_path / "eval"),
        [{"image_model": {**detector, "mirrored": True}}],
    )
    first.run()
    folder = str(first.work / "features" / "image_model")
    steps = [
        {"image_model": detector},
        {"references": {"files": folder}},
        {"decontaminate": {"at_most": 0.97}},
    ]
    second = Pipeline(tmp_path / "b", pool, steps)
    second.run()
    ledger = ledger_of(second.work)
    steps[1] = {"references": {"files": str(eval_), "by": {"image_model": detector}}}
    third = Pipeline(tmp_path / "c", pool, steps)
    third.run()
    assert ledger["reason"].null_count() < ledger.height
    assert ledger["reason"].to_list() == ledger_of(third.work)["reason"].to_list()
    assert References(files=folder).recipe()["references"] == len(bodies)


def test_a_pipeline_with_a_clip_as_detector_does_not_start(tmp_path):
    write_shards(tmp_path / "pool", [Drawn("0", "x", {"url": "u"}, many(1)[0])], 1)
    np.save(tmp_path / "a.npy", draw(2))
    steps = [
        {"clip": {"name": "vision", "model": f"local-dir:{write_folder(tmp_path / 'clip')}"}},
        {"references": {"of": "vision.image", "files": str(tmp_path / "a.npy")}},
        {"decontaminate": {}},
    ]
    pipeline = Pipeline(tmp_path, tar_pool(tmp_path / "pool"), steps)
    with pytest.raises(InvalidPipeline, match=r"vision\.image comes from a CLIP, which is no copy"):
        pipeline.run()
    steps[1]["references"]["with_clip"] = True
    with pytest.raises(InvalidPipeline, match=r"0\.604169 is the threshold of isc_ft_v107"):
        pipeline.run()
