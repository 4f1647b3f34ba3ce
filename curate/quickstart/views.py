"""What the small CLIP sees in training: drawn and openclipart pictures, varied, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from curate.quickstart.clipart import Clipart
from curate.quickstart.draw import compose, render

SIDE_PX = 64
CACHE_SIDE_PX = 80  # openclipart is kept a little larger, to be moved and scaled
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Plan:
    """How many batches, how large, and from which seed."""

    steps: int
    batch: int = 160
    seed: int = 0


@dataclass(frozen=True)
class Drawings:
    """Drawn pictures, [N, 3, 64, 64] uint8, and the phrases of each."""

    images: Tensor
    phrases: Sequence[tuple[str, ...]]


def draw(count: int, seed: int) -> Drawings:
    """Draw small pictures as an encoder sees them: squashed to 64 pixels."""
    images = np.empty((count, SIDE_PX, SIDE_PX, 3), np.uint8)
    phrases = []
    for index in range(count):
        scene = compose(Random(f"train {seed} {index}"))
        width, height = scene.size_px
        small = render(scene, (width // 2, height // 2))
        images[index] = np.asarray(small.resize((SIDE_PX, SIDE_PX), 3))
        phrases.append(scene.phrases)
    return Drawings(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), phrases)


def normalise(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> what the model takes."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


def augment_drawings(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 3, 64, 64] uint8 -> floats 0..1, a little noisy; colours keep their names."""
    pixels = images.float() / 255
    light = 1 + 0.1 * (torch.rand(len(pixels), 1, 1, 1, generator=generator) - 0.5)
    return (pixels * light + 0.02 * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


def augment_clipart(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 4, 80, 80] uint8 -> [B, 3, 64, 64] floats 0..1: moved, scaled, mirrored, recoloured."""
    count = len(rgba)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    pixels = rgba.float() / 255
    alpha = pixels[:, 3:]
    ground = torch.where(uniform(0, 1, 1, 1, 1) < 0.75, 1.0, uniform(0, 1, 3, 1, 1))
    flat = pixels[:, :3] * alpha + ground * (1 - alpha) - ground  # 0 where outside the picture
    angle = uniform(-0.2, 0.2)
    scale = uniform(0.8, 1.2)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    stretch = uniform(0.85, 1.18)
    rows = torch.stack(
        [
            torch.stack([mirror * scale * stretch * angle.cos(), -scale * angle.sin()], 1),
            torch.stack([mirror * scale * angle.sin(), scale / stretch * angle.cos()], 1),
        ],
        1,
    )  # [B, 2, 2]
    theta = torch.cat([rows, uniform(-0.15, 0.15, 2, 1)], 2)
    grid = F.affine_grid(theta, [count, 3, SIDE_PX, SIDE_PX], align_corners=False)
    moved = F.grid_sample(flat, grid, align_corners=False) + ground
    gray = moved.mean(1, keepdim=True)
    moved = gray + (moved - gray) * uniform(0.5, 1.2, 1, 1, 1)  # saturation
    moved = moved * uniform(0.8, 1.1, 1, 1, 1) + 0.02 * torch.randn(
        moved.shape, generator=generator
    )
    return moved.clamp(0, 1)


@dataclass(frozen=True)
class Lessons:
    """What `teacher` wrote: captions of each openclipart picture, and embeddings to imitate.

    Shapes: images [N, D], captions N of V, texts [N, V, D], words W, word_texts [W, D],
    tokens [49408, text width] (a start for the token table).
    """

    images: Tensor
    captions: Sequence[Sequence[str]]
    texts: Tensor
    words: Sequence[str]
    word_texts: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Batch:
    """Pixels [B, 3, 64, 64] and their captions; what the teacher says of them, if anything."""

    pixels: Tensor
    captions: list[str]
    image_lesson: Tensor | None = None  # [B, D]
    text_lesson: Tensor | None = None  # [B + words, D]: of the captions, then of the words
    words: tuple[str, ...] = ()


def batches(
    drawings: Drawings, cliparts: Sequence[Clipart], lessons: Lessons, plan: Plan
) -> Iterator[Batch]:
    """Batches of drawings and of openclipart in turn: negatives are of the same kind."""
    rng = Random(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    rgba = torch.from_numpy(np.stack([c.rgba for c in cliparts])).permute(0, 3, 1, 2).contiguous()
    for step in range(plan.steps):
        if step % 2 == 0:
            rows = rng.sample(range(len(drawings.phrases)), plan.batch)
            pixels = augment_drawings(drawings.images[rows], generator)
            captions = [rng.choice(drawings.phrases[row]) for row in rows]
            yield Batch(normalise(pixels), captions)
            continue
        rows = rng.sample(range(len(cliparts)), plan.batch)
        which = [rng.randrange(len(lessons.captions[row])) for row in rows]
        words = rng.sample(range(len(lessons.words)), plan.batch)
        yield Batch(
            normalise(augment_clipart(rgba[rows], generator)),
            [lessons.captions[row][k] for row, k in zip(rows, which, strict=True)],
            lessons.images[rows],
            torch.cat([lessons.texts[rows, which], lessons.word_texts[words]]),
            tuple(lessons.words[word] for word in words),
        )


def read_lessons(path: Path) -> tuple[Lessons, list[str]]:
    """The lessons, and the paths of the pictures they are about, in order."""
    with np.load(path) as file:
        lessons = Lessons(
            images=torch.from_numpy(file["images"]),
            captions=file["captions"].tolist(),
            texts=torch.from_numpy(file["texts"]),
            words=file["words"].tolist(),
            word_texts=torch.from_numpy(file["word_texts"]),
            tokens=torch.from_numpy(file["tokens"]),
        )
        return lessons, file["paths"].tolist()
