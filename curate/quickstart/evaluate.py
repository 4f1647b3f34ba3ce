"""How good the small CLIP is on pictures it has never seen.

Run as `python -m curate.quickstart.evaluate --stamps DIR`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from curate.quickstart.draw import draw_pairs
from curate.quickstart.plant import Planted, plant

CHECKPOINT = Path(__file__).parent / "clip"
BATCH = 64
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Seeds that neither training nor the quickstart uses.
HELD_OUT_SEED = 1_000_003
THRESHOLD_SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 5)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Captioned:
    """Pictures and their captions, of equal length."""

    images: Sequence[Image.Image]
    captions: Sequence[str]


@dataclass(frozen=True)
class Quality:
    """Image-to-text figures of N pairs; equal captions count as right for each other's picture.

    `auc` is the chance that a true pair scores higher than a shuffled one (0.5: no idea).
    """

    pairs: int
    auc: float
    recall_at_1: float
    recall_at_10: float
    median_rank: int  # from 1


@dataclass(frozen=True)
class Threshold:
    """Removing what scores below `at_least`: precision and recall on wrong captions."""

    at_least: float
    precision: float
    recall: float
    wrong: int
    good: int


class Encoder:
    """The checkpoint through open_clip's ordinary path, on the CPU."""

    def __init__(self, folder: Path = CHECKPOINT) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def embed(self, pairs: Captioned) -> tuple[Floats, Floats]:
        """Normalised embeddings of the pictures and the captions, both [N, D]."""
        images, texts = [], []
        for start in range(0, len(pairs.captions), BATCH):
            part = slice(start, start + BATCH)
            pixels = torch.stack([self.preprocess(image) for image in pairs.images[part]])
            images.append(self.model.encode_image(pixels, normalize=True))
            tokens = self.tokenizer(list(pairs.captions[part]))
            texts.append(self.model.encode_text(tokens, normalize=True))
        return torch.cat(images).numpy(), torch.cat(texts).numpy()


def read_stamps(folder: Path) -> Captioned:
    """The tuxpaint stamps with an English caption, on white; letters and digits are left out."""
    images, captions = [], []
    for png in sorted(folder.rglob("*.png")):
        text = png.with_suffix(".txt")
        if "symbols" in png.relative_to(folder).parts or not text.is_file():
            continue
        caption = text.read_text(encoding="utf-8", errors="replace").split("\n")[0].strip()
        if caption:
            with Image.open(png) as image:
                images.append(on_white(image))
            captions.append(caption)
    return Captioned(images, captions)


def drawn_pairs(count: int, seed: int) -> Captioned:
    """Drawn pictures of a seed, decoded from their files."""
    pairs = list(draw_pairs(count, seed))
    images = [on_white(Image.open(io.BytesIO(pair.image))) for pair in pairs]
    return Captioned(images, [pair.caption for pair in pairs])


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with white where the picture is transparent."""
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    ground.alpha_composite(layer)
    return ground.convert("RGB")


def measure(images: Floats, texts: Floats, captions: Sequence[str], seed: int = 0) -> Quality:
    """Compare the true pairs with shuffled ones, and find each picture's caption among all."""
    similarity = images @ texts.T  # [N, D] @ [D, N] -> [N, N]
    true = similarity.diagonal()
    shuffled = similarity[np.arange(len(true)), shuffle(captions, np.random.default_rng(seed))]
    rank = 1 + (similarity > true[:, None]).sum(axis=1)
    return Quality(
        pairs=len(true),
        auc=auc(true, shuffled),
        recall_at_1=round(float((rank <= 1).mean()), 4),
        recall_at_10=round(float((rank <= 10).mean()), 4),
        median_rank=int(np.median(rank)),
    )


def shuffle(captions: Sequence[str], rng: np.random.Generator) -> NDArray[np.intp]:
    """For each picture the number of a caption that is not its own, nor equal to it."""
    numbers = np.unique(captions, return_inverse=True)[1]
    chosen = rng.permutation(len(captions))
    while (clash := np.flatnonzero(numbers == numbers[chosen])).size:
        chosen[clash] = rng.integers(len(captions), size=clash.size)
    return chosen


def auc(higher: Floats, lower: Floats) -> float:
    """The chance that one of `higher` exceeds one of `lower`; ties count half."""
    difference = higher[:, None] - lower[None, :]
    return round(float((difference > 0).mean() + (difference == 0).mean() / 2), 4)


def control(images: Floats, texts: Floats, captions: Sequence[str]) -> Quality:
    """The same figures with the captions dealt out at random first: what knowing nothing gives."""
    order = np.random.default_rng(1).permutation(len(captions))
    return measure(images, texts[order], [captions[i] for i in order])


def similarities(encoder: Encoder, planted: Planted) -> tuple[Floats, Floats]:
    """Similarities of the planted pool's good pairs, and of its pairs with a wrong caption."""
    rows = [row for row in planted.rows if row.defect in (None, "wrong_caption") and row.caption]
    bodies = [planted.answers[row.address].body for row in rows]
    images = [on_white(Image.open(io.BytesIO(body))) for body in bodies]
    image, text = encoder.embed(Captioned(images, [row.caption or "" for row in rows]))
    scores = (image * text).sum(axis=1)  # [N]
    wrong = np.array([row.defect is not None for row in rows])
    return scores[~wrong], scores[wrong]


def threshold_at(at_least: float, good: Floats, wrong: Floats) -> Threshold:
    """What a given threshold would do."""
    caught, lost = int((wrong < at_least).sum()), int((good < at_least).sum())
    precision = caught / (caught + lost) if caught + lost else 1.0
    recall = caught / len(wrong)
    return Threshold(
        round(at_least, 4), round(precision, 4), round(recall, 4), len(wrong), len(good)
    )


def best_threshold(good: Floats, wrong: Floats) -> Threshold:
    """The threshold with the fewest mistakes, rates of both kinds weighing the same.

    In the middle, if a range of thresholds is equally good.
    """
    edges = np.sort(np.concatenate([good, wrong]))
    candidates = (edges[1:] + edges[:-1]) / 2
    mistakes = np.array([(good < t).mean() + (wrong >= t).mean() for t in candidates])
    equally_good = candidates[mistakes == mistakes.min()]
    return threshold_at(float(np.median(equally_good)), good, wrong)


def report(encoder: Encoder, stamps: Path | None) -> dict[str, object]:
    """All figures, as JSON values."""
    figures: dict[str, object] = {}
    sets = {"drawn": drawn_pairs(500, HELD_OUT_SEED)}
    if stamps:
        sets["stamps"] = read_stamps(stamps)
    for name, pairs in sets.items():
        images, texts = encoder.embed(pairs)
        figures[name] = asdict(measure(images, texts, pairs.captions))
        figures[f"{name}, captions shuffled"] = asdict(control(images, texts, pairs.captions))
    pools = [similarities(encoder, plant(seed)) for seed in THRESHOLD_SEEDS]
    good, wrong = (np.concatenate(scores) for scores in zip(*pools, strict=True))
    best = best_threshold(good, wrong)
    return figures | {
        "planted pools: similarity of good pairs": _quantiles(good),
        "planted pools: similarity of wrong captions": _quantiles(wrong),
        "planted pools: AUC": auc(good, wrong),
        "planted pools: best threshold": asdict(best),
        "quickstart's pool at it": asdict(
            threshold_at(best.at_least, *similarities(encoder, plant(0)))
        ),
    }


def _quantiles(scores: Floats) -> dict[str, float]:
    return {f"{share:.0%}": round(float(np.quantile(scores, share)), 3) for share in SHARES}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, help="folder of the tuxpaint stamps")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    arguments = parser.parse_args()
    figures = report(Encoder(arguments.checkpoint), arguments.stamps)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
