"""NormSim: its numbers, the files its targets come from, and the published sequence of filters."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from curate.check import compile_pipeline
from curate.errors import ConfigError, InvalidPipeline
from curate.features import _target_products
from curate.features._given import published
from curate.features.norm_sim import NormSim
from curate.pipeline import Options, run
from curate.pipeline_file.config import load
from curate.score import open_features, score_samples
from tests.embedding_pool import embed, scores, unit, values
from tests.tiny_pool import Pipeline, ledger_of

WIDTH = 32
TARGETS = unit(np.random.default_rng(5).normal(size=(2100, WIDTH))).astype(np.float32)
NORMS = {2: 2, "inf": np.inf}


@pytest.fixture
def targets(tmp_path):
    np.save(tmp_path / "targets.npy", TARGETS)
    return str(tmp_path / "targets.npy")


def reference(image, p, targets=TARGETS):
    """[N] as the paper has it, in float64."""
    products = image.astype(np.float64) @ targets.astype(np.float64).T  # [N, G]
    return np.linalg.norm(products, ord=NORMS[p], axis=1)


def scored(image, **fields):
    """(values, errors) of [N, D] embeddings."""
    opened = open_features([NormSim(of="array", **fields)], "cpu")
    frame = pl.DataFrame({"array": pl.Series(image, dtype=pl.Array(pl.Float32, image.shape[1]))})
    columns = score_samples(opened, [], frame, threads=1)["norm_sim"]
    return columns.scalars["score"].to_numpy(), columns.errors


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("count", [0, 1, 511, 1200])
def test_the_numbers_are_those_of_the_paper(targets, p, count):
    image = embed(count, WIDTH).image.astype(np.float32)
    found, errors = scored(image, targets=targets, p=p)
    np.testing.assert_allclose(found, reference(image, p), rtol=2e-6)
    assert errors == [None] * count


def test_the_opposite_of_a_target_is_as_near_as_the_target(targets):
    found, _ = scored(-TARGETS[:3], targets=targets)
    np.testing.assert_allclose(found, [1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_neither_threads_nor_neighbours_change_a_bit(targets, p):
    image = embed(700, WIDTH).image.astype(np.float32)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(scored(image, targets=targets, p=p)[0].tobytes())
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]
    alone = [scored(image[row : row + 1], targets=targets, p=p)[0] for row in (0, 5, 699)]
    whole = np.frombuffer(made[0], dtype=np.float32)
    assert np.concatenate(alone).tobytes() == whole[[0, 5, 699]].tobytes()


def test_a_sample_without_an_embedding_says_so(targets):
    image = embed(5, WIDTH).image.astype(np.float32)
    image[1], image[3, 0] = np.nan, np.inf
    found, errors = scored(image, targets=targets)
    assert errors == [None, "no_embedding", None, "no_embedding", None]
    assert np.isnan(found).tolist() == [error is not None for error in errors]
    nobody, _ = scored(np.full((2, 1), np.nan, dtype=np.float32), targets=targets)
    assert np.isnan(nobody).all(), "an array that nobody has is of any width"


# --- files


def test_files_of_every_kind_are_the_same_targets(tmp_path):
    pieces = np.array_split(TARGETS.astype(np.float16), 4)
    np.save(tmp_path / "a.npy", pieces[0])
    torch.save({"image_features": torch.from_numpy(pieces[1])}, tmp_path / "b.pt")
    torch.save(torch.from_numpy(pieces[2]), tmp_path / "c.pt")
    torch.save(pieces[3], tmp_path / "d.pt")  # a numpy array, as DataComp's centroids
    image = embed(20, WIDTH).image.astype(np.float32)
    files = tuple(str(tmp_path / name) for name in ("a.npy", "b.pt", "c.pt", "d.pt"))
    for p in NORMS:
        wanted = reference(image, p, TARGETS.astype(np.float16))
        np.testing.assert_allclose(scored(image, targets=files, p=p)[0], wanted, rtol=2e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_arrays_are_read_whatever_the_protocol_of_their_pickle(tmp_path, protocol, dtype):
    array = TARGETS[:40].astype(dtype)
    layouts = (array, np.asfortranarray(array), array[::2], array[:1])
    for whole in (*layouts, {"image_features": array}, {"other": [1], "image_features": array}):
        torch.save(whole, tmp_path / "a.pt", pickle_protocol=protocol)
        found = published.read(str(tmp_path / "a.pt"), "image_features")
        wanted = whole["image_features"] if isinstance(whole, dict) else whole
        assert found.dtype.itemsize == wanted.dtype.itemsize, "in its own precision"
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_values_of_a_later_protocol_say_how_to_save_them(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    others = (Evil(), {"image_features": torch.zeros(2, WIDTH)}, [1], {"image_features": Evil()})
    objects = np.array([[Evil(), 1.0]], dtype=object)
    words = (np.array([["a"]]), np.zeros((2, 2), dtype="f4,f4"), np.float32(1), np.dtype("f4"))
    for value in (*others, objects, *words):
        torch.save(value, "a.pt", pickle_protocol=protocol)
        with pytest.raises(
            ConfigError, match=rf"a\.pt .*protocol {protocol}.*again with `np\.save`"
        ):
            published.read("a.pt", "image_features")
    torch.save(TARGETS, "old.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigError, match=rf"old\.pt .*protocol {protocol}.*again with `np\.save`"):
        published.read("old.pt", "image_features")
    assert not (tmp_path / "owned").exists()


def crafted():
    """Pickles that a reader must not follow, of no array that anybody saved."""
    ndarray = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00%b\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNN"
    dtype += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    state = b"(K\x01%b\x85" + dtype + b"\x89C\x08AAAAAAAAtb"
    one, many = b"K\x01", b"J\xff\xff\xff\x7f"
    return {
        "a call": b"cos\nsystem\nX\x0a\x00\x00\x00touch owned\x85R",
        "an old call": b"(X\x0b\x00\x00\x00touch ownedios\nsystem\n",
        "an attribute": b"cnumpy\nndarray.__class__\n",
        "addresses": ndarray + state % (one, b"O8"),
        "more than there is": ndarray + state % (many, b"f8"),
        "less than there is": ndarray + state % (one, b"f4"),
        "no state": ndarray,
        "a place far off": b"Nr\xff\xff\xff\xff",
        "a long text": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        "a long buffer": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
        "a key too deep to compare": b"}N" + b"\x85" * 1_000_000 + b"Ns",
        "an extension": b"\x82\x01",
        "a name for another": b"cnumpy\nndarray\n}X\x04\x00\x00\x00nameX\x04\x00\x00\x00evilsb",
    }


@pytest.mark.parametrize("name", crafted())
def test_pickles_that_ask_for_anything_else_get_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + crafted()[name] + b".")
    with pytest.raises(ConfigError, match="protocol 4"):
        published.read("a.pt", "image_features")
    assert not (tmp_path / "owned").exists()


def test_a_pickle_that_grows_when_unpacked_is_left_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + bytes(5_000_000))
    with pytest.raises(ConfigError, match="is damaged"):
        published.read(str(tmp_path / "a.pt"), "image_features")


class Evil:
    def __reduce__(self):
        return (open, ("owned", "w"))


def write_bad(folder):
    """{name: what the error says} of files that are no targets."""
    torch.save(Evil(), folder / "evil.pt")
    (folder / "evil.npy").write_bytes(pickle.dumps(Evil()))
    (folder / "noise.pt").write_bytes(b"noise")
    torch.save({"text_features": torch.zeros(2, WIDTH)}, folder / "other.pt")
    torch.save([1, 2], folder / "list.pt")
    np.save(folder / "flat.npy", np.zeros(WIDTH))
    np.save(folder / "whole.npy", np.zeros((2, WIDTH), dtype=np.int64))
    np.save(folder / "empty.npy", np.zeros((0, WIDTH)))
    np.save(folder / "nan.npy", np.full((2, WIDTH), np.nan))
    torch.save(torch.zeros(9, WIDTH), folder / "cut.pt")
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:500])
    return {
        "evil.pt": "holds more than arrays",
        "evil.npy": "is not a .npy array",
        "noise.pt": "is damaged",
        "other.pt": "has no 'image_features'; it has: text_features",
        "list.pt": "holds a list",
        "flat.npy": r"float64 of shape \(32,\)",
        "whole.npy": "int64 of shape",
        "empty.npy": "holds no rows",
        "nan.npy": "not finite",
        "cut.pt": "is damaged",
    }


def test_bad_files_are_named_and_nothing_in_them_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in write_bad(tmp_path).items():
        with pytest.raises(ConfigError, match=message) as caught:
            NormSim(targets=str(tmp_path / name)).open("cpu")
        assert name in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_targets_of_another_width_are_refused(tmp_path, targets):
    np.save(tmp_path / "narrow.npy", TARGETS[:, :16])
    with pytest.raises(ConfigError, match=r"targets\.npy: 32, .*narrow\.npy: 16"):
        NormSim(targets=(targets, str(tmp_path / "narrow.npy"))).open("cpu")
    with pytest.raises(ConfigError, match="array is 32 wide and the targets are 16 wide"):
        scored(TARGETS[:4], targets=str(tmp_path / "narrow.npy"))


def test_targets_are_known_by_their_content(tmp_path, targets):
    known = NormSim(targets=targets).recipe()
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "targets.npy", TARGETS)
    assert NormSim(targets=str(tmp_path / "sub" / "targets.npy")).recipe() == known
    np.save(tmp_path / "sub" / "targets.npy", TARGETS[:-1])
    assert NormSim(targets=str(tmp_path / "sub" / "targets.npy")).recipe() != known


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "no/such.npy"}, "no file no/such.npy"),
        ({"targets": "targets.txt"}, "none of .npy"),
        ({"targets": []}, "the list of files is empty"),
        ({"p": 3}, "p"),
        ({"of": "b32_img"}, "nobody produces 'b32_img'"),
    ],
)
def test_check_says_what_is_wrong(tmp_path, targets, fields, message):
    step = {"norm_sim": {"targets": targets, "of": "l14_img", **fields}}
    pipeline = Pipeline(tmp_path, embed(5).write(tmp_path / "in"), (step,))
    with pytest.raises((InvalidPipeline, ConfigError), match=message):
        compile_pipeline(load(pipeline.file()))


# --- whole runs


def sequence(targets):
    """The published one: 30 % by negCLIPLoss, then among those 20 % of the pool by NormSim."""
    loss = {"image": "l14_img", "text": "l14_txt", "batch": 50, "rounds": 2}
    by = {"of": "pool_count"}
    return (
        {"neg_clip_loss": loss},
        {"score": {"name": "fit", "column": "neg_clip_loss.score", "top_fraction": 0.3, **by}},
        {"norm_sim": {"targets": targets, "of": "l14_img"}},
        {"score": {"name": "near", "column": "norm_sim.score", "top_fraction": 0.2, **by}},
    )


def test_the_published_sequence_keeps_shares_of_the_pool(tmp_path, targets):
    samples = embed(157)
    pipeline = Pipeline(tmp_path, samples.write(tmp_path / "in", 2), sequence(targets))
    pipeline.run()
    fits = values(pipeline.work, "neg_clip_loss", samples.frame["uid"])
    first = np.argsort(-fits)[:47]  # floor(0.3 * 157)
    near = values(pipeline.work, "norm_sim", samples.frame["uid"])
    assert np.flatnonzero(~np.isnan(near)).tolist() == sorted(first.tolist())
    image = samples.image.astype(np.float32)
    np.testing.assert_allclose(near[first], reference(image[first], "inf"), rtol=2e-6)
    wanted = first[np.argsort(-near[first])][:31]  # floor(0.2 * 157)
    kept = np.load(pipeline.work / "subset.npy")
    uids = sorted(samples.frame["uid"].gather(wanted))
    assert [f"{hi:016x}{lo:016x}" for hi, lo in kept.tolist()] == uids
    assert ledger_of(pipeline.work)["step"].value_counts().sort("count")["count"].to_list() == [
        16,
        31,
        110,
    ]


def test_the_recipe_is_that_sequence(tmp_path, targets):
    samples = embed(90)
    pool = samples.write(tmp_path / "in")
    file = Path(__file__).parent.parent / "pipelines" / "negcliploss_normsim.yaml"
    places = [f"pool.metadata={pool['metadata']}", f"work={tmp_path / 'work'}"]
    run(load(str(file), [*places, f"steps.norm_sim.targets={targets}"]), Options(), lambda p: None)
    loss = {"image": "l14_img", "text": "l14_txt"}
    steps = ({"neg_clip_loss": loss}, *sequence(targets)[1:])
    other = Pipeline(tmp_path / "other", pool, steps)
    other.run()
    kept = [np.load(work / "subset.npy") for work in (tmp_path / "work", other.work)]
    assert len(kept[0]) == 18
    assert kept[0].tobytes() == kept[1].tobytes()


def test_files_and_order_change_no_bit(tmp_path, targets):
    samples, step = embed(300), {"norm_sim": {"targets": targets, "of": "l14_img", "p": 2}}
    made = []
    for name, files in (("one", 1), ("other", 7)):
        order = np.random.default_rng(files).permutation(300)
        pool = samples[order].write(tmp_path / name, files)
        pipeline = Pipeline(tmp_path / f"{name}-run", pool, (step,))
        pipeline.run()
        made.append(scores(pipeline.work, "norm_sim"))
    assert made[0] == made[1]
    assert len(made[0]) == 300


def test_tiles_are_several():
    assert _target_products.TARGETS["cpu"] * 2 < len(TARGETS)
    assert _target_products.ROWS < 1200
