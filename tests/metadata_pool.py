"""Small pools of DataComp's metadata: the released columns, and embeddings of the same rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

ROWS = (7, 0, 5)  # of the three files: one has none
SCHEMA = {
    "uid": pl.String,
    "url": pl.String,
    "text": pl.String,
    "original_width": pl.Float64,
    "original_height": pl.Int64,
    "clip_l14_similarity_score": pl.Float32,
    "face_bboxes": pl.List(pl.List(pl.Float32)),
    "sha256": pl.String,
}


def uid(number: int) -> str:
    """The uid of the n-th sample."""
    return hashlib.md5(str(number).encode()).hexdigest()


def table(first: int, rows: int) -> pl.DataFrame:
    """The metadata of consecutive samples."""
    numbers = range(first, first + rows)
    return pl.DataFrame(
        {
            "uid": [uid(n) for n in numbers],
            "url": [f"http://h/{n}.jpg" for n in numbers],
            "text": [f"caption {n}" for n in numbers],
            "original_width": [200.0 + n for n in numbers],
            "original_height": [300 for n in numbers],
            "clip_l14_similarity_score": [n / 16 for n in numbers],
            "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]] if n % 2 else [] for n in numbers],
            "sha256": [f"{n:064x}" for n in numbers],
        },
        schema=SCHEMA,
    )


def embeddings(first: int, rows: int, width: int = 4) -> np.ndarray:
    """[rows, width] float16: of a sample, its number and a bit more."""
    numbers = np.arange(first, first + rows, dtype=np.float32)
    return (numbers[:, None] + np.arange(width) / 8).astype(np.float16)


def write_metadata(folder: Path, rows: Sequence[int] = ROWS, dtype: type = np.float16) -> Path:
    """A folder of `{number}.parquet` and `{number}.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, count in enumerate(rows):
        table(first, count).write_parquet(folder / f"{number}.parquet")
        image, text = embeddings(first, count), embeddings(first, count) + 1
        np.savez_compressed(
            folder / f"{number}.npz", l14_img=image.astype(dtype), l14_txt=text.astype(dtype)
        )
        first += count
    return folder
