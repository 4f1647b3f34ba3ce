"""How fast the nearest reference is found, beside FAISS's flat index; and how fast pictures embed.

    python tests/benchmarks/references.py [R references] [N samples] [WEIGHTS of a timm MODEL]

The first line is `references` by cosine of 256 numbers (ISC21's width), scored from columns as a
worker does it, beside FAISS's exact search alone; the second by hashes. Both must find the same.
With weights and a model's name the third says how many pictures of 512 x 512 pixels a second are
prepared and embedded. Ratios are of one run.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import polars as pl
from PIL import Image

from curate.features.image_model import ImageModel
from curate.features.references import References
from curate.score import open_features, score_samples

WIDTH = 256  # of ISC21's descriptors


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def scored(feature: References, series: pl.Series) -> tuple[pl.DataFrame, float]:
    """The columns of samples, and the seconds that a worker with the references open takes."""
    opened = open_features([feature], "auto")
    frame = pl.DataFrame({"m": pl.DataFrame([series]).to_struct()})
    score_samples(opened, [], frame[:64], 1)
    began = time.perf_counter()
    columns = score_samples(opened, [], frame, 1)["references"]
    return pl.DataFrame(columns.scalars), time.perf_counter() - began


def by_cosine(folder: Path, references: int, samples: int) -> str:
    rng = np.random.default_rng(0)
    known = unit(rng.normal(size=(references, WIDTH)))
    own = unit(rng.normal(size=(samples, WIDTH)))
    np.save(folder / "r.npy", known)
    series = pl.Series("image", own, dtype=pl.Array(pl.Float16, WIDTH))
    found, seconds = scored(References(of="m.image", files=str(folder / "r.npy")), series)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(known.astype(np.float32))
    began = time.perf_counter()
    value, row = index.search(own.astype(np.float32), 1)
    theirs = time.perf_counter() - began
    same = (found["reference"] == pl.Series([f"r.npy:{n}" for n in row[:, 0]])).mean()
    assert np.abs(found["similarity"].to_numpy() - value[:, 0]).max() < 2e-3
    return (
        f"cosine, {samples:,} of {references:,}: {seconds:.2f} s, FAISS {theirs:.2f} s "
        f"({theirs / seconds:.2f} times as fast as it), same nearest: {same:.4f}"
    )


def by_hamming(folder: Path, references: int, samples: int) -> str:
    rng = np.random.default_rng(0)
    known, own = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in (references, samples))
    np.save(folder / "h.npy", known)
    found, seconds = scored(
        References(of="m.phash", files=str(folder / "h.npy")), pl.Series("phash", own)
    )
    began = time.perf_counter()
    least = [int(np.bitwise_count(known ^ one).min()) for one in own[:500]]
    theirs = (time.perf_counter() - began) * samples / len(least)
    assert found["distance"][: len(least)].to_list() == least
    return (
        f"hamming, {samples:,} of {references:,}: {seconds:.2f} s, numpy about {theirs:.2f} s "
        f"({theirs / seconds:.1f} times as fast as it)"
    )


def embedding(weights: str, model: str, pictures: int = 128) -> str:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    values = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).resize((512, 512)).save(stream, "JPEG")
    opened = open_features([ImageModel(model=model, weights=weights)], "auto")
    frame = pl.DataFrame({"row": range(pictures)})
    bodies = [stream.getvalue()] * pictures
    score_samples(opened, bodies, frame, 8)
    began = time.perf_counter()
    score_samples(opened, bodies, frame, 8)
    return f"{model}: {pictures / (time.perf_counter() - began):.1f} pictures a second"


def main() -> None:
    references = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    samples = int(sys.argv[2]) if len(sys.argv) > 2 else 8_192
    with tempfile.TemporaryDirectory() as scratch:
        lines = [by_cosine(Path(scratch), references, samples)]
        lines.append(by_hamming(Path(scratch), references, samples))
    if len(sys.argv) > 4:
        lines.append(embedding(sys.argv[3], sys.argv[4]))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
