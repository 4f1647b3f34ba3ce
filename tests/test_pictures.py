"""Metadata with shards beside it: pictures are found by uid, and nothing is lost on the way."""

import json
import resource
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from object_store import object_store
from tiny_pool import Drawn, Pipeline, digests, draw, ledger_of, write_tar, written

from curate import columns
from curate.columns import Span
from curate.errors import InputChanged, InvalidPipeline

STEPS = ({"image_file": {}}, {"write": {"samples_per_shard": 8}})


def samples_of(count, seed=0):
    """Samples with a caption and a picture each, and their uid in the JSON."""
    found = [s for s in draw(2 * count, seed) if s.jpeg is not None and s.caption][:count]
    return [
        Drawn(
            f"{n + 1000 * seed:09d}",
            s.caption,
            {"url": s.metadata["url"], "uid": s.uid, "n": n},
            s.jpeg,
        )
        for n, s in enumerate(with_own_uids(found, seed))
    ]


def with_own_uids(samples, seed):
    """The same with URLs that no other has."""
    return [
        Drawn(s.key, s.caption, {"url": f"http://h{seed}/{n}"}, s.jpeg)
        for n, s in enumerate(samples)
    ]


def metadata_of(samples):
    return pl.DataFrame(
        {
            "uid": [s.uid for s in samples],
            "url": [s.metadata["url"] for s in samples],
            "text": [s.caption for s in samples],
            "score": [s.metadata["n"] / 8 for s in samples],
        }
    )


def write_metadata(folder: Path, samples, files: int = 2):
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(samples)), files)):
        metadata_of([samples[row] for row in rows]).write_parquet(folder / f"{number}.parquet")


def write_tars(folder: Path, samples, tars: int, start: int = 0):
    for number, rows in enumerate(np.array_split(np.arange(len(samples)), tars)):
        write_tar(folder / f"{number + start:05d}.tar", [samples[row] for row in rows])


def pipeline(tmp_path, steps=STEPS):
    pool = {"metadata": str(tmp_path / "metadata"), "shards": str(tmp_path / "shards" / "*.tar")}
    return Pipeline(tmp_path, pool, steps, fields=(("rows_per_block", 15),))


def pool_rows(pipe, *names):
    blocks = sorted((pipe.work / "pool").glob("block-*.parquet"))
    rows = [pl.read_parquet(block).height for block in blocks]
    frames = [
        columns.read_pool(str(pipe.work), list(names), Span(block, 0, count))
        for block, count in enumerate(rows)
    ]
    return pl.concat(frames)


def by_uid(members: dict) -> dict:
    """{uid: [(extension, body)]} of written shards."""
    found: dict = {}
    for name, body in members.items():
        stem, _, extension = name.partition(".")
        found.setdefault(stem.split("-")[0], []).append((extension, body))
    return found


def test_pictures_in_another_order_are_found_by_uid(tmp_path):
    samples = samples_of(40)
    write_metadata(tmp_path / "metadata", samples)
    shuffled = [samples[n] for n in np.random.default_rng(1).permutation(40)]
    write_tars(tmp_path / "shards", shuffled, 5)
    pipe = pipeline(tmp_path)
    outcome = pipe.run()
    assert outcome.exit_code == 0
    assert ledger_of(pipe.work)["fate"].to_list() == ["kept"] * 40
    assert pool_rows(pipe, "uid")["uid"].to_list() == [s.uid for s in samples], "metadata's order"
    found = by_uid(written(pipe.work))
    assert found.keys() == {s.uid for s in samples}
    for s in samples:
        bodies = dict(found[s.uid])
        assert bodies["jpg"] == s.jpeg
        assert bodies["txt"] == s.caption.encode()
        assert json.loads(bodies["json"])["n"] == s.metadata["n"]
    widths = columns.store(str(pipe.work), "image_file").read(0, ["width", "error"])
    assert widths["error"].null_count() == widths.height > 0
    assert outcome.report["pool"]["pictures"] == {
        "tars": 5, "pictures": 40, "rows_with_picture": 40, "rows_without_picture": 0,
        "pictures_of_nobody": 0, "repeated_pictures": 0, "passed_over": {},
    }  # fmt: skip
    assert pipe.run().reused == "everything"


def test_features_see_the_picture_of_their_row(tmp_path):
    samples = samples_of(30)
    write_metadata(tmp_path / "metadata", samples, 3)
    write_tars(tmp_path / "shards", samples[::-1], 4)
    pipe = pipeline(tmp_path)
    pipe.run()
    aligned = Pipeline(tmp_path / "b", {"shards": f"{tmp_path}/plain/*.tar"}, STEPS)
    write_tars(tmp_path / "plain", samples, 1)
    aligned.run()

    def sizes(one):
        blocks = sorted((one.work / "features" / "image_file").glob("block-*.parquet"))
        names = ["width", "height", "bytes"]
        frames = [pl.read_parquet(block) for block in blocks]
        return pl.concat(frames).select([n for n in names if n in frames[0].columns])

    assert sizes(pipe).equals(sizes(aligned))
    assert sizes(pipe)["width"].n_unique() > 5


def test_metadata_without_picture_and_pictures_without_metadata(tmp_path):
    samples, others = samples_of(30), samples_of(6, seed=3)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", [*samples[:10], *others[:4], *samples[14:], *others[4:]], 3)
    pipe = pipeline(tmp_path)
    outcome = pipe.run()
    assert outcome.exit_code == 0
    ledger = ledger_of(pipe.work)
    gone = [10, 11, 12, 13]
    assert [n for n, fate in enumerate(ledger["fate"]) if fate == "removed"] == gone
    assert ledger[gone].select("step", "reason").rows() == [("pool", "no_picture")] * 4
    assert outcome.report["pool"]["unusable"] == {"no_picture": 4}
    told = outcome.report["pool"]["pictures"]
    assert (told["rows_without_picture"], told["pictures_of_nobody"]) == (4, 6)
    listed = pl.read_parquet(pipe.work / "pool" / "pictures" / "unmatched.parquet")
    assert set(listed["uid"]) == {s.uid for s in others}
    for tar, key, uid in listed.rows():
        with tarfile.open(tar) as handle:
            member = handle.extractfile(f"{key}.json").read()
        assert json.loads(member)["uid"] == uid
    assert len(np.load(pipe.work / "subset.npy")) == 26


def test_the_first_of_several_pictures_counts(tmp_path):
    samples = samples_of(12)
    others = [Drawn(s.key, s.caption, s.metadata, t.jpeg) for s, t in pairwise(samples)]
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples, 1)
    write_tars(tmp_path / "shards", others, 1, start=1)
    pipe = pipeline(tmp_path)
    outcome = pipe.run()
    found = by_uid(written(pipe.work))
    assert all(dict(found[s.uid])["jpg"] == s.jpeg for s in samples)
    assert outcome.report["pool"]["pictures"]["repeated_pictures"] == 11


def test_rows_that_share_a_uid_share_a_picture(tmp_path):
    """In one shard of metadata, and in two."""
    samples = samples_of(10)
    write_metadata(tmp_path / "metadata", [*samples, *samples[:4], samples[0]], 1)
    write_metadata(tmp_path / "metadata" / "more", samples[5:], 1)
    (tmp_path / "metadata" / "more" / "0.parquet").rename(tmp_path / "metadata" / "1.parquet")
    write_tars(tmp_path / "shards", samples, 3)
    pipe = pipeline(tmp_path)
    assert pipe.run().exit_code == 0
    found = by_uid(written(pipe.work))
    copies = {s.uid: 1 + (n < 4) + (n == 0) + (n >= 5) for n, s in enumerate(samples)}
    for s in samples:
        assert found[s.uid].count(("jpg", s.jpeg)) == copies[s.uid]
    errors = columns.store(str(pipe.work), "image_file").read(0, ["error"])["error"]
    assert errors.null_count() == 15


def test_uids_come_from_the_parquet_beside_a_tar_or_from_its_keys(tmp_path):
    samples = samples_of(12)
    bare = [Drawn(s.key, s.caption, {}, s.jpeg) for s in samples]
    by_key = [Drawn(f"{s.uid}-0", s.caption, {}, s.jpeg) for s in samples[6:]]
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", bare[:6], 1)
    pl.DataFrame(
        {
            "uid": [s.uid for s in samples[:6]],
            "key": [s.key for s in samples[:6]],
            "status": ["success"] * 6,
        }
    ).write_parquet(tmp_path / "shards" / "00000.parquet")
    write_tars(tmp_path / "shards", by_key, 1, start=1)
    pipe = pipeline(tmp_path)
    pipe.run()
    assert pool_rows(pipe, "key")["key"].to_list() == [s.key for s in (*samples[:6], *by_key)]
    assert pool_rows(pipe, "picture_tar")["picture_tar"].to_list() == [0] * 6 + [1] * 6


def test_new_tars_make_the_pool_grow_and_change_nobodys_picture(tmp_path):
    samples = samples_of(30)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples[10:20], 2, start=3)
    pipe = pipeline(tmp_path, STEPS[:1])
    pipe.run()
    before = pool_rows(pipe, "key", "picture_tar")
    features = digests(pipe.work, ("features",))
    # Sorted before the others, and with other pictures for samples that have one.
    late = [Drawn(s.key, s.caption, s.metadata, samples[0].jpeg) for s in samples[10:]]
    write_tars(tmp_path / "shards", late, 3)
    write_tars(tmp_path / "shards", samples[:5], 1, start=20)
    outcome = pipe.run()
    after = pool_rows(pipe, "key", "picture_tar")
    assert after[10:20].equals(before[10:20])
    assert before["key"].null_count() == 20
    assert [n for n, key in enumerate(after["key"]) if key is None] == [5, 6, 7, 8, 9]
    assert outcome.report["totals"]["kept"] == 25
    assert digests(pipe.work, ("features",)) != features, "new rows were scored"
    again = pipe.where(folder=tmp_path / "fresh", steps=STEPS[:1])
    assert again.run().report["totals"]["kept"] == 25


def test_shards_may_come_after_the_metadata(tmp_path):
    samples = samples_of(20)
    write_metadata(tmp_path / "metadata", samples)
    steps = ({"caption": {"min_words": 1}},)
    alone = Pipeline(tmp_path, {"metadata": str(tmp_path / "metadata")}, steps)
    alone.run()
    write_tars(tmp_path / "shards", samples[:15], 2)
    pipe = alone.where(pool=pipeline(tmp_path).pool, steps=(*steps, *STEPS))
    outcome = pipe.run()
    assert outcome.report["pool"]["unusable"] == {"no_picture": 5}
    assert len(by_uid(written(pipe.work))) == 15


@pytest.mark.parametrize("how", ["removed", "altered", "no longer named"])
def test_a_changed_tar_is_refused_by_name(tmp_path, how):
    samples = samples_of(20)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples, 3)
    pipe = pipeline(tmp_path)
    pipe.run()
    before = digests(pipe.work)
    victim = tmp_path / "shards" / "00001.tar"
    if how == "removed":
        victim.unlink()
    elif how == "altered":
        victim.write_bytes(victim.read_bytes() + bytes(512))
    else:
        pipe = pipe.where(pool={**pipe.pool, "shards": str(tmp_path / "shards" / "00000.tar")})
    with pytest.raises(InputChanged, match=r"  \S+/00001.tar .*\n.*a pool may only grow|00001"):
        pipe.run()
    assert digests(pipe.work) == before


def test_a_run_killed_while_the_index_was_built_begins_again(tmp_path):
    samples = samples_of(30)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples[::-1], 3)
    pipe = pipeline(tmp_path)
    pipe.run()
    whole = digests(pipe.work, ("pool", "subset.npy", "ledger", "shards"))
    folder = pipe.work / "pool" / "pictures"
    (folder / "index.json").unlink()  # what is committed last
    (folder / "tars.parquet").unlink()
    (folder / "block-0001.parquet").unlink()
    (pipe.work / "manifest.json").unlink()
    (folder / "join" / "pool" / "asked").mkdir(parents=True)
    (folder / "join" / "pool" / "asked" / "from-00000.npy").write_bytes(b"half a file")
    pipe.run()
    assert digests(pipe.work, ("pool", "subset.npy", "ledger", "shards")) == whole


def test_a_damaged_tar_is_counted(tmp_path):
    samples = samples_of(20)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples, 2)
    (tmp_path / "shards" / "00001.tar").write_bytes(b"<html>404</html>" * 100)
    pipe = pipeline(tmp_path)
    outcome = pipe.run()
    assert outcome.exit_code == 3
    assert [d["url"] for d in outcome.report["pool"]["damaged"]] == [
        str(tmp_path / "shards" / "00001.tar")
    ]
    assert outcome.report["pool"]["unusable"] == {"no_picture": 10}


def test_one_source_with_pictures_beside_others_without(tmp_path):
    """Each source is joined to its own tars: the same uid elsewhere gets none of them."""
    samples = samples_of(12)
    write_metadata(tmp_path / "metadata", samples, 1)
    write_metadata(tmp_path / "other", samples[:6], 1)
    write_tars(tmp_path / "shards", samples[:9], 1)
    write_tars(tmp_path / "third", samples[9:], 1)
    pool = [
        {"name": "a", "metadata": f"{tmp_path}/other"},
        {"name": "b", **pipeline(tmp_path).pool},
        {"name": "c", "shards": f"{tmp_path}/third/*.tar"},
    ]
    pipe = Pipeline(tmp_path, pool, ({"caption": {"min_words": 1}},))
    pipe.run()
    reasons = ledger_of(pipe.work)["reason"].to_list()
    reasons = [reason if reason == "no_picture" else None for reason in reasons]
    assert reasons == [None] * 6 + [None] * 9 + ["no_picture"] * 3 + [None] * 3
    asks = pipe.where(folder=tmp_path / "no", steps=STEPS)
    with pytest.raises(InvalidPipeline, match="the pool has no pictures yet"):
        asks.run()
    both = pipe.where(folder=tmp_path / "yes", pool=pool[1:], steps=STEPS)
    both.run()
    found = by_uid(written(both.work))
    assert all(dict(found[s.uid])["jpg"] == s.jpeg for s in samples)


def test_tars_that_are_not_there_are_told_before_any_work(tmp_path):
    write_metadata(tmp_path / "metadata", samples_of(4))
    pipe = pipeline(tmp_path)
    with pytest.raises(InvalidPipeline, match=r"pool pool: nothing matches \S+/shards/\*.tar"):
        pipe.run()
    assert not pipe.work.exists()


@pytest.mark.slow
def test_metadata_and_tars_in_an_object_store(tmp_path):
    samples = samples_of(20)
    write_metadata(tmp_path / "metadata", samples)
    write_tars(tmp_path / "shards", samples[::-1], 3)
    here = pipeline(tmp_path)
    here.run()
    with object_store() as bucket:
        import fsspec

        system = fsspec.filesystem("s3")
        for folder in ("metadata", "shards"):
            system.put(str(tmp_path / folder), f"{bucket}/of-pictures-{folder}", recursive=True)
        pool = {
            "metadata": f"{bucket}/of-pictures-metadata",
            "shards": f"{bucket}/of-pictures-shards/*.tar",
        }
        there = here.where(folder=tmp_path / "there", pool=pool)
        there.run()
        assert written(there.work) == written(here.work)
        assert (there.work / "subset.npy").read_bytes() == (here.work / "subset.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(tmp_path, ray_cluster):
    samples = samples_of(60)
    write_metadata(tmp_path / "metadata", samples, 4)
    order = np.random.default_rng(2).permutation(60)
    write_tars(tmp_path / "shards", [samples[n] for n in order], 20)
    here = pipeline(tmp_path)
    here.run()
    there = here.where(folder=tmp_path / "ray", run={"engine": "ray"})
    there.run()
    assert digests(there.work) == digests(here.work)
    names = ("pool/pictures",)
    assert digests(there.work, names) == digests(here.work, names)


def test_more_tars_than_files_may_be_open(tmp_path):
    """A shard of metadata may have its pictures in any number of tars."""
    samples = samples_of(220)
    write_metadata(tmp_path / "metadata", samples, 1)
    write_tars(tmp_path / "shards", samples, 220)
    pipe = Pipeline(tmp_path, pipeline(tmp_path).pool, ({"write": {}},))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 150 + sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        assert pipe.run().exit_code == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(by_uid(written(pipe.work))) == 220
