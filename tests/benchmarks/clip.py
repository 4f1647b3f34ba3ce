"""Scoring speed against open_clip's own preprocessing overlapped with the bare forward pass.

Run from the repository's root, with nothing else on the machine:

    env -u OPENBLAS_CORETYPE python tests/benchmarks/clip.py [--pictures FOLDER] [--threads N]

Both sides read the same picture files and captions, use as many threads to prepare pictures, give
both embeddings, and run one forward pass at a time, in one thread. Rounds alternate; medians are
compared.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_clip import config, write_folder

from curate.features import Columns, Feature, Field
from curate.features.clip import Clip
from curate.score import Opened, open_features, score_samples

VIT_B_32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
    },
}
BATCH = 256


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def drawn(count):
    """JPEG files of 288x256, of some 28 kB: smooth colours under noise."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (8, 9, 3)).astype(np.uint8))
        smooth = np.asarray(colours.resize((288, 256), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=85)
        yield stream.getvalue()


def from_folder(folder, count):
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    small = [path for path in files if path.stat().st_size < 200_000]
    return [path.read_bytes() for path in small[:count]]


def bare(model, bodies, captions, threads):
    """Wall of open_clip's preprocessing in threads, and of its forward passes meanwhile."""
    network, preprocess = open_clip.create_model_from_pretrained(model)
    network.eval()
    tokenizer = open_clip.get_tokenizer(model)
    began = time.perf_counter()
    images, texts, waiting, batch = [], [], deque(), []

    def forward(pixels, words):
        images.append(network.encode_image(torch.stack(pixels), normalize=True))
        texts.append(network.encode_text(tokenizer(words), normalize=True))

    def prepare(body):
        return preprocess(Image.open(io.BytesIO(body)).convert("RGB"))

    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        for body in [*bodies, *[None] * (2 * BATCH)]:
            if body is not None:
                waiting.append(pool.submit(prepare, body))
            if waiting and (body is None or len(waiting) >= 2 * BATCH):
                batch.append(waiting.popleft().result())
            if len(batch) == BATCH:
                forward(batch, captions[len(images) * BATCH :][:BATCH])
                batch = []
        if batch:
            forward(batch, captions[-len(batch) :])
    similarity = (torch.cat(images) * torch.cat(texts)).sum(dim=1)
    return time.perf_counter() - began, similarity.numpy()


def ours(opened, bodies, frame, threads):
    """Wall of `score_samples`."""
    began = time.perf_counter()
    columns = score_samples([opened], bodies, frame, threads)["clip"]
    return time.perf_counter() - began, columns.scalars["similarity"].to_numpy()


def compare(name, folder, bodies, rounds, threads):
    model = f"local-dir:{folder}"
    frame = pl.DataFrame({"caption": [f"a photo of thing number {n}" for n in range(len(bodies))]})
    captions = frame["caption"].to_list()
    torch.set_num_threads(1)  # one forward pass at a time on either side
    (opened,) = open_features([Clip(model=model, batch=BATCH)], "cpu")
    walls = {"ours": [], "bare": []}
    for _ in range(rounds):
        wall, expected = bare(model, bodies, captions, threads)
        walls["bare"].append(wall)
        wall, similarity = ours(opened, bodies, frame, threads)
        walls["ours"].append(wall)
        np.testing.assert_allclose(similarity, expected, atol=1e-5)
    median = {side: statistics.median(wall) for side, wall in walls.items()}
    rates = {side: len(bodies) / wall for side, wall in median.items()}
    say(
        f"{name}: {len(bodies)} pictures, {threads} threads: "
        f"ours {rates['ours']:.0f}/s, bare {rates['bare']:.0f}/s, "
        f"speed ratio {rates['ours'] / rates['bare']:.2f} (target: at least 0.85), "
        f"{(median['ours'] - median['bare']) / len(bodies) * 1e6:+.0f} us per picture"
    )


class Nothing(Feature):
    """A feature that does nothing: what is left is the engine's own time."""

    pictures = True
    name: str = "nothing"

    def needs(self):
        return ()

    def gives(self):
        return (Field("zero", "float32", "0"),)

    def open(self, device):
        return NothingScorer()


class NothingScorer:
    batch = BATCH

    def prepare(self, picture):
        return 0

    def score(self, prepared, frame):
        return Columns({"zero": np.zeros(len(prepared), dtype=np.float32)})


def overhead(threads, count=20_000):
    frame = pl.DataFrame({"caption": ["a box"] * count})
    opened = Opened(Nothing(), NothingScorer())
    walls = []
    for _ in range(5):
        began = time.perf_counter()
        score_samples([opened], [b""] * count, frame, threads)
        walls.append(time.perf_counter() - began)
    say(f"engine alone: {statistics.median(walls) / count * 1e6:.0f} us per picture")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder; drawn JPEGs of 288x256 if absent")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    source = from_folder(given.pictures, given.count) if given.pictures else drawn(given.count)
    bodies = list(source)
    say(f"{len(bodies)} pictures of {np.mean([len(body) for body in bodies]) / 1000:.0f} kB")
    overhead(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_folder(Path(folder, "tiny"), architecture=config(64, 64, 3))
        compare("tiny ViT", tiny, bodies, given.rounds, given.threads)
        large = write_folder(Path(folder, "b32"), architecture=VIT_B_32)
        compare("ViT-B-32, random weights", large, bodies[:BATCH], 1, given.threads)


if __name__ == "__main__":
    main()
