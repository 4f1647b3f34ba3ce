"""Small pools of DataComp's metadata: parquet with scores, and the embeddings beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Embedded:
    """Samples with scores and embeddings, to be written as files in any number and order."""

    frame: pl.DataFrame  # uid, url, text and scores
    image: np.ndarray  # [N, D]
    text: np.ndarray  # [N, D]

    def __len__(self) -> int:
        return self.frame.height

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> "Embedded":
        order = np.asarray(rows, dtype=np.int64)
        return Embedded(self.frame[order], self.image[order], self.text[order])

    def with_columns(self, **columns: object) -> "Embedded":
        return replace(self, frame=self.frame.with_columns(**columns))

    def write(self, folder: Path, files: int = 1, dtype: type = np.float16) -> dict:
        """The pool of a folder of so many files of nearly the same size, in order."""
        folder.mkdir(parents=True)
        for number, rows in enumerate(np.array_split(np.arange(len(self)), files)):
            own = self[rows]
            own.frame.write_parquet(folder / f"{number:08d}.parquet")
            arrays = {"l14_img": own.image.astype(dtype), "l14_txt": own.text.astype(dtype)}
            np.savez(folder / f"{number:08d}.npz", **arrays)
        return {"metadata": str(folder)}


def unit(vectors: np.ndarray) -> np.ndarray:
    """[N, D] of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def embed(count: int, width: int = 32, seed: int = 0, noise: float = 1.0) -> Embedded:
    """Pairs around some topics: an image is nearer to its own text, and to those of its topic."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(5, width))[rng.integers(5, size=count)]
    meant = topics + rng.normal(size=(count, width))
    image = unit(meant + noise * rng.normal(size=(count, width))).astype(np.float16)
    text = unit(meant + noise * rng.normal(size=(count, width))).astype(np.float16)
    similarity = np.einsum("nd,nd->n", image.astype(np.float32), text.astype(np.float32))
    frame = pl.DataFrame(
        {
            "uid": [f"{value:032x}" for value in rng.permutation(count) * (1 << 40) + 7],
            "url": [f"http://h/{row}.jpg" for row in range(count)],
            "text": [f"thing number {row} of {count}" for row in range(count)],
            "clip_l14_similarity_score": similarity.astype(np.float32),
            "a": np.round(rng.normal(size=count), 1),
            "b": rng.integers(-5, 5, count),
        }
    )
    return Embedded(frame, image, text)


def scores(work: Path, step: str, field: str = "score") -> dict[str, tuple]:
    """{uid: (value, error)} of a step that has values for samples whose uids differ."""
    found: dict[str, tuple] = {}
    for block in sorted((work / "features" / step).glob("block-*.parquet")):
        halves = pl.read_parquet(work / "pool" / block.name, columns=["uid_hi", "uid_lo"]).rows()
        for row, value, error in pl.read_parquet(block).select("row", field, "error").iter_rows():
            uid = "{:016x}{:016x}".format(*halves[row])
            assert uid not in found
            found[uid] = (value, error)
    return found


def values(work: Path, step: str, uids: Sequence[str], field: str = "score") -> np.ndarray:
    """[N] values of a step in the order of these uids, NaN where there is none."""
    found = scores(work, step, field)
    return np.array([found.get(uid, (None,))[0] for uid in uids], dtype=np.float64)
