"""A subset picked while loading: each sample as often as it says, in webdataset and in training."""

import io
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import real_pictures
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_clip import config, many

import curate
from curate.errors import ConfigError, StorageError
from curate.resharding.loading import uid_in
from curate.sample import parse_uids, uid_of
from curate.subsets import subset

PICTURES = many(8)


def uid(number: int) -> str:
    return f"{(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def write_pool(folder: Path, count: int = 60, shards: int = 3) -> str:
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as sink:
            for number in range(shard, count, shards):
                sink.write(
                    {
                        "__key__": f"{number:09d}",
                        "jpg": PICTURES[number % len(PICTURES)],
                        "txt": f"picture {number}",
                        "json": json.dumps({"uid": uid(number)}),
                    }
                )
    return str(folder / f"{{00000..{shards - 1:05d}}}.tar")


def write_subset(file: Path, uids: list[str]) -> str:
    subset.save(str(file), subset.sort(parse_uids(uids)))
    return str(file)


WANTED = [*range(0, 60, 4), 8, 8, 9, 12, 12, 12]


def wanted(tmp_path: Path) -> str:
    return write_subset(tmp_path / "s.npy", [uid(n) for n in WANTED] + ["f" * 32])


def keys(samples) -> Counter:
    return Counter(sample["__key__"] for sample in samples)


def expected() -> Counter:
    times = Counter(uid(n) for n in WANTED)
    return Counter(f"{name}-{j}" for name, count in times.items() for j in range(count))


def test_a_dataset_gives_each_sample_as_often_as_the_subset_says(tmp_path):
    shards = write_pool(tmp_path)
    dataset = webdataset.WebDataset(shards, shardshuffle=False).compose(
        curate.select(wanted(tmp_path))
    )
    for _ in range(2):  # a stage is used again for every epoch
        samples = list(dataset)
        assert keys(samples) == expected()
    bodies = {sample["__key__"]: (sample["jpg"], sample["txt"]) for sample in samples}
    assert bodies[f"{uid(12)}-3"] == (PICTURES[12 % 8], b"picture 12")


def test_it_is_a_stage_of_a_pipeline_behind_a_decoder(tmp_path):
    shards = write_pool(tmp_path)
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.tarfile_to_samples(),
        webdataset.decode(),
        curate.select(wanted(tmp_path)),
        webdataset.shuffle(10),
        webdataset.to_tuple("__key__", "txt"),
    )
    assert Counter(key for key, _ in pipeline) == expected()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_share_the_file(tmp_path, method):
    shards = write_pool(tmp_path)
    dataset = webdataset.WebDataset(shards, shardshuffle=False).compose(
        curate.select(wanted(tmp_path))
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context=method
    )
    assert keys(loader) == expected()


def test_a_stage_travels_without_the_subset(tmp_path):
    stage = curate.select(wanted(tmp_path))
    assert stage.copies(int(uid(8), 16)) == 3
    assert len(pickle.dumps(stage)) < 500
    again = pickle.loads(pickle.dumps(stage))
    assert again.copies(int(uid(12), 16)) == 4
    assert again.copies(2**128 - 1) == 1


@given(held=st.lists(st.integers(0, 5)), asked=st.integers(0, 5))
def test_copies_are_counted(tmp_path_factory, held, asked):
    names = ["0" * 32, "f" * 32, f"{2**64:032x}", f"{2**64 - 1:032x}", uid(1), uid(2)]
    file = tmp_path_factory.getbasetemp() / "s.npy"
    stage = curate.select(write_subset(file, [names[i] for i in held]))
    assert stage.copies(int(names[asked], 16)) == held.count(asked)


@settings(max_examples=60)
@given(
    copies=st.lists(st.integers(0, 4), min_size=1, max_size=30), spread=st.sampled_from([0, 1, 5])
)
def test_copies_come_spread_apart(tmp_path_factory, copies, spread):
    file = tmp_path_factory.getbasetemp() / "spread.npy"
    names = [uid(n) for n, count in enumerate(copies) for _ in range(count)]
    stage = curate.select(write_subset(file, names), spread=spread)
    samples = ({"__key__": str(n), "json": {"uid": uid(n)}} for n in range(len(copies)))
    found = [sample["__key__"] for sample in stage(samples)]
    assert Counter(found) == Counter(
        f"{uid(n)}-{j}" for n, count in enumerate(copies) for j in range(count)
    )
    if spread == 0:
        assert [key[:32] for key in found] == names
    firsts = [key for key in found if key.endswith("-0")]
    assert [key[:32] for key in firsts] == [uid(n) for n, count in enumerate(copies) if count]


def test_far_copies_are_as_far_as_asked(tmp_path):
    stage = curate.select(write_subset(tmp_path / "s.npy", [uid(n) for n in range(100)] * 2), 20)
    samples = ({"__key__": str(n), "json": {"uid": uid(n)}} for n in range(100))
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(stage(samples)):
        places.setdefault(sample["__key__"][:32], []).append(place)
    assert min(np.diff(places[uid(n)])[0] for n in range(60)) >= 20


def test_shards_that_were_resharded_before_are_not_repeated_twice(tmp_path):
    stage = curate.select(write_subset(tmp_path / "s.npy", [uid(1)] * 3))
    copies = [{"__key__": f"{uid(1)}-{j}"} for j in range(3)]
    assert keys(stage(copies)) == Counter(f"{uid(1)}-{j}" for j in range(3))


def bearing(*counts: int) -> list[dict[str, object]]:
    """Samples of a tar, as many with uid(n) as `counts[n]` says."""
    owners = [n for n, count in enumerate(counts) for _ in range(count)]
    return [
        {"__key__": f"{row:09d}", "__url__": "/data/00000.tar", "json": {"uid": uid(n)}}
        for row, n in enumerate(owners)
    ]


def times(samples) -> Counter:
    return Counter(sample["__key__"][:32] for sample in samples)


def test_each_bearer_of_a_uid_gets_all_copies_unless_told_of_the_others(tmp_path):
    kept = write_subset(tmp_path / "s.npy", [uid(0)] * 3 + [uid(1)] * 4 + [uid(2)] * 2)
    pool = write_subset(tmp_path / "pool.npy", [uid(0)] * 3 + [uid(1)] * 2 + [uid(2)] + [uid(3)])
    samples = bearing(3, 2, 1, 1)
    assert times(curate.select(kept)(samples)) == {uid(0): 9, uid(1): 8, uid(2): 2}
    shared = curate.select(kept, bearers=pool)
    for stage in (shared, pickle.loads(pickle.dumps(shared))):
        assert times(stage(samples)) == {uid(0): 3, uid(1): 4, uid(2): 2}
    given = Counter(sample["json"]["uid"] for sample in shared(samples[:4]))
    assert given == {uid(0): 3, uid(1): 2}  # each bearer its own share, wherever the others are


def test_a_remainder_is_drawn_by_tar_and_key(tmp_path):
    count = 2000
    subset_of = write_subset(tmp_path / "s.npy", [uid(n) for n in range(count)] * 4)
    pool = write_subset(tmp_path / "pool.npy", [uid(n) for n in range(count)] * 3)
    stage = curate.select(subset_of, spread=0, bearers=pool)
    samples = bearing(*[3] * count)
    found = times(stage(samples))
    assert set(found.values()) == {3, 4, 5, 6}  # of 4 asked for, 1 each and 1 drawn
    # 3 draws of 1/3 for each uid: a variance of 2/3.
    assert abs(found.total() - 4 * count) < 4 * (count * 2 / 3) ** 0.5
    elsewhere = [{**sample, "__url__": "s3://b/00000.tar"} for sample in samples]
    assert times(stage(elsewhere[::-1])) == found
    other_tar = [{**sample, "__url__": "/data/00001.tar"} for sample in samples]
    assert times(stage(other_tar)) != found


def test_shards_that_were_resharded_before_share_among_their_copies(tmp_path):
    shards = [{"__key__": f"{uid(1)}-{j}"} for j in range(3)]
    ids = write_subset(tmp_path / "sample_ids.npy", [uid(1)] * 3)
    again = curate.select(write_subset(tmp_path / "s.npy", [uid(1)] * 6), bearers=ids)
    assert times(again(shards)) == {uid(1): 6}


def test_bearers_of_another_pool_are_refused(tmp_path):
    kept = write_subset(tmp_path / "s.npy", [uid(0)])
    stage = curate.select(kept, bearers=write_subset(tmp_path / "pool.npy", [uid(1)]))
    assert list(stage(bearing(0, 1))) == []
    with pytest.raises(ConfigError, match=rf"has uid {uid(0)}, which .*pool\.npy has not"):
        list(stage(bearing(1)))
    np.save(tmp_path / "pool.npy", parse_uids([uid(n) for n in range(9, 0, -1)] + [uid(3)]))
    with pytest.raises(StorageError, match=r"pool\.npy is not sorted"):
        curate.select(kept, bearers=str(tmp_path / "pool.npy"))


def test_a_truncated_subset_is_refused_by_both_numbers(tmp_path):
    url = Path(write_subset(tmp_path / "s.npy", [uid(n) for n in range(10)]))
    url.write_bytes(url.read_bytes()[:-17])
    with pytest.raises(StorageError, match=r"header promises 10 rows, it holds 8"):
        curate.select(str(url))


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        ({"__key__": "1", "json": json.dumps({"uid": "7" * 31}).encode()}, "0" + "7" * 31),
        ({"__key__": "1", "json": {"uid": uid(7).upper()}}, uid(7)),
        ({"__key__": uid(7).upper()}, uid(7)),
        ({"__key__": f"a/{uid(7)}-0", "json": b"broken"}, uid(7)),
        ({"__key__": "1", "txt": b"a cat", "json": {"url": "u"}}, uid_of("a cat", "u")),
        ({"__key__": "1", "json": {"url": "u", "caption": "a dog"}}, uid_of("a dog", "u")),
    ],
)
def test_the_uid_is_found_where_it_is(sample, name):
    found, nth = uid_in(sample)
    assert nth == 0
    assert f"{found:032x}" == name


@pytest.mark.parametrize("sample", [{"__key__": "1"}, {"__key__": "1", "json": {"uid": "cat"}}])
def test_a_sample_without_a_uid_is_not_dropped_in_silence(tmp_path, sample):
    with pytest.raises(ConfigError, match=r"sample '1' .* tells no uid"):
        list(curate.select(wanted(tmp_path))([sample]))


def test_an_unsorted_subset_is_refused(tmp_path):
    np.save(tmp_path / "s.npy", parse_uids([uid(n) for n in range(9, 0, -1)] + [uid(3)]))
    with pytest.raises(StorageError, match="is not sorted, and would lose samples"):
        curate.select(str(tmp_path / "s.npy"))


def test_an_empty_subset_gives_nothing(tmp_path):
    stage = curate.select(write_subset(tmp_path / "s.npy", []))
    assert list(stage([{"__key__": uid(1)}])) == []


def test_the_package_stays_light():
    code = (
        "import sys, curate; heavy = {'numpy', 'torch', 'webdataset', 'polars', 'ray'}; "
        "assert not heavy & set(sys.modules); curate.select; "
        "assert not {'torch', 'webdataset', 'ray', 'polars'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(curate.__file__).parents[1])
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = curate.selekt


def real_pool(folder: Path, count: int) -> list[str]:
    """Shards of real pictures with real captions; their uids."""
    try:
        real_pictures.fetch()
    except real_pictures.Unavailable as error:
        pytest.skip(str(error))
    pairs = [pair for pair in real_pictures.stamps(3) if pair.path.suffix == ".png"][:count]
    uids = []
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=50, verbose=0) as sink:
        for number, pair in enumerate(pairs):
            stream = io.BytesIO()
            Image.open(pair.path).convert("RGBA").convert("RGB").save(stream, "JPEG")
            uids.append(uid_of(pair.caption, pair.name))
            fields = {"uid": uids[-1], "url": pair.name}
            members = {"jpg": stream.getvalue(), "txt": pair.caption, "json": json.dumps(fields)}
            sink.write({"__key__": f"{number:09d}", **members})
    return uids


@pytest.mark.slow
@pytest.mark.real
def test_open_clip_trains_on_the_subset(tmp_path):
    import open_clip
    import torch

    uids = real_pool(tmp_path, 150)
    chosen = [*uids[::5], *uids[:10], *uids[:10]]
    torch.manual_seed(0)
    model = open_clip.CLIP(**config())
    preprocess = open_clip.image_transform(32, is_train=False)
    tokenize = open_clip.SimpleTokenizer(context_length=32)
    dataset = webdataset.DataPipeline(
        webdataset.SimpleShardList(sorted(map(str, tmp_path.glob("*.tar")))),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        curate.select(write_subset(tmp_path / "s.npy", chosen), spread=20),
        webdataset.shuffle(100),
        webdataset.decode("pilrgb"),
        webdataset.to_tuple("jpg", "txt", "__key__"),
        webdataset.map_tuple(preprocess, lambda text: tokenize([text])[0]),
        webdataset.batched(10),
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = open_clip.ClipLoss()
    epochs = []
    for _ in range(6):
        seen, losses = Counter(), []
        for images, texts, names in loader:
            seen.update(name[:32] for name in names)
            image, text, scale = model(images, texts)[:3]
            loss = loss_of(image, text, scale)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert seen == Counter(chosen)
        epochs.append(np.mean(losses))
    assert epochs[-1] < 0.8 * epochs[0]
