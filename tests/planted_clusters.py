"""A clustering with planted numbers: what filters over clusters see, without any k-means.

The columns `c` and `d` of the pool are each sample's cluster and distance.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tests.tiny_pool import Reported, ledger_of

PLUGIN = '''\
"""Clusters as the pool and a folder of arrays have them."""

import numpy as np
from curate import storage
from curate.features import Columns, Field, FittedFeature


class Planted(FittedFeature):
    """Clusters that were planted."""

    name: str = "planted"
    arrays_in: str

    def needs(self):
        return ("c", "d")

    def gives(self):
        return (Field("cluster", "uint32", "planted"), Field("distance", "float32", "planted"))

    def fit(self, rows, folder):
        for _ in rows.map(_nothing):
            pass
        for file in storage.names(self.arrays_in):
            array = storage.read_array(storage.join(self.arrays_in, file))
            storage.commit_array(storage.join(folder, file), array)

    def assigner(self, folder):
        return _assign

    def learnt(self, folder, name):
        if not storage.exists(storage.join(folder, f"{name}.npy")):
            return super().learnt(folder, name)
        return storage.read_array(storage.join(folder, f"{name}.npy"))


def _nothing(part):
    return 0


def _assign(part):
    return Columns({"cluster": part.batch.frame["c"], "distance": part.batch.frame["d"]})
'''


def planted(
    folder: Path, samples: pl.DataFrame, learnt: dict[str, np.ndarray], *steps: object, **shape: int
) -> Reported:
    """A pipeline whose step `coarse` gives each sample the cluster `c` and the distance `d`.

    Args:
        folder: Where everything is.
        samples: With the columns `uid`, `c`, `d` and any others.
        learnt: Arrays of the step.
        steps: What comes after it.
        shape: `files` of the pool, and `rows_per_block`.
    """
    (folder / "in").mkdir(parents=True)
    (folder / "arrays").mkdir()
    for name, array in learnt.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    (folder / "planted.py").write_text(PLUGIN)
    frame = samples.with_columns(
        url="http://h/" + pl.col("uid"),
        c=pl.col("c").cast(pl.UInt32),
        d=pl.col("d").cast(pl.Float32),
    )
    count = shape.get("files", 1)
    for number, rows in enumerate(np.array_split(np.arange(frame.height), count)):
        frame[rows].write_parquet(folder / "in" / f"{number:08d}.parquet")
    first = {"planted": {"name": "coarse", "arrays_in": str(folder / "arrays")}}
    pipeline = Reported(folder, {"metadata": str(folder / "in")}, (first, *steps))
    fields = {"rows_per_block": shape.get("rows_per_block", 1000), "run": {"engine": "local"}}
    return pipeline.where(plugins=["./planted.py"], **fields)


def reasons(pipeline: Reported, uids: Sequence[str]) -> list[str | None]:
    """Why each sample was removed, None where it stayed; uids differ."""
    ledger = ledger_of(pipeline.work)
    found = dict(zip(ledger["uid"], ledger["reason"], strict=True))
    return [found[uid] for uid in uids]


def kept(pipeline: Reported) -> list[str]:
    """The uids that stayed, sorted, as often as they did."""
    ledger = ledger_of(pipeline.work)
    return sorted(ledger.filter(fate="kept")["uid"])


def uids(count: int, seed: int = 0) -> list[str]:
    """Different ones, in no order."""
    return [f"{n * 2654435761 + 17:032x}" for n in np.random.default_rng(seed).permutation(count)]
