"""Train the quickstart's small CLIP: `python -m curate.quickstart.train`.

Every other step is on drawn pictures, the rest on public-domain openclipart with the lessons that
`teacher` wrote. The tuxpaint stamps, on which `evaluate` measures, are never read here. Run once by
a developer; the checkpoint is committed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from curate.quickstart.clipart import read_clipart
from curate.quickstart.views import (
    CACHE_SIDE_PX,
    MEAN,
    SIDE_PX,
    STD,
    Batch,
    Lessons,
    Plan,
    batches,
    draw,
    read_lessons,
)

log = logging.getLogger(__name__)

LESSON_WEIGHT = 5.0
DRAWINGS = 40_000
STEPS = 640  # of the checkpoint that ships: about nine minutes on one busy core
LICENCE = (
    "Apache-2.0, like the code. Trained on pictures that the script draws and on openclipart "
    "pictures whose own RDF says public domain, with the outputs of two models (upstream: "
    "Apache-2.0) as targets; no picture and no weight of theirs is inside."
)
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": SIDE_PX,
        "layers": [1, 1, 1, 1],  # of open_clip's ModifiedResNet: learns more per step than a ViT
        "width": 16,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 32,
        "heads": 4,
        "layers": 3,
    },
}
# Squashed, so that nothing at the edge of a wide picture is cut off.
PREPROCESS_CONFIG = {
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@dataclass(frozen=True)
class Pace:
    """How fast to learn, over how many steps."""

    steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, captions: Sequence[str]) -> Tensor:
    """CLIP's loss, except that equal captions in a batch count as right for each other."""
    logits = scale * image @ text.T  # [B, D] @ [D, B] -> [B, B]
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    labels = torch.tensor([numbers[caption] for caption in captions])
    same = (labels[:, None] == labels[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def learning_rate(step: int, pace: Pace) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < pace.warmup_steps:
        return pace.learning_rate * (step + 1) / pace.warmup_steps
    done = (step - pace.warmup_steps) / max(1, pace.steps - pace.warmup_steps)
    return pace.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def batch_loss(model: Any, tokenizer: Any, batch: Batch) -> Tensor:
    """Contrastive, plus the angle to the teacher's embeddings where there are any."""
    image = model.encode_image(batch.pixels, normalize=True)
    text = model.encode_text(tokenizer([*batch.captions, *batch.words]), normalize=True)
    scale = model.logit_scale.exp()
    loss = contrastive_loss(image, text[: len(batch.captions)], scale, batch.captions)
    if batch.image_lesson is not None and batch.text_lesson is not None:
        loss = loss + LESSON_WEIGHT * (1 - (image * batch.image_lesson).sum(1).mean())
        loss = loss + LESSON_WEIGHT * (1 - (text * batch.text_lesson).sum(1).mean())
    return loss


def train(model: Any, data: Iterator[Batch], pace: Pace) -> None:
    """Train in place with AdamW; logs the loss of either kind of batch."""
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim >= 2]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=pace.weight_decay)
    started = time.monotonic()
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, pace)
        loss = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(float(loss))
        if step % 50 == 49:
            drawn, clipart = (np.mean(losses[-50:][k::2]) for k in (0, 1))
            seconds = time.monotonic() - started
            log.info("%d: drawn %.3f clipart %.3f, %.0f s", step + 1, drawn, clipart, seconds)
    model.eval()


def save(model: torch.nn.Module, folder: Path, card: dict[str, Any]) -> None:
    """Write the folder that open_clip opens as `local-dir:`: weights as float16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(safetensors.torch.save(half))
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def new_model(lessons: Lessons, seed: int) -> Any:
    """An untrained model whose token table starts from the teacher's idea of each word piece."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL_CONFIG)
    model.visual = model.visual.to(memory_format=torch.channels_last)  # convolutions run faster
    model.token_embedding.weight.data.copy_(lessons.tokens / lessons.tokens.std() * 0.02)
    return model


def facts(plan: Plan, pace: Pace, lessons: Lessons) -> dict[str, Any]:
    """What `card.json` says of the training."""
    return {
        "trained_by": "python -m curate.quickstart.train",
        "seed": plan.seed,
        "steps": plan.steps,
        "batch": plan.batch,
        "learning_rate": pace.learning_rate,
        "drawn_pictures": DRAWINGS,
        "openclipart_pictures": len(lessons.captions),
        "distilled_from": "EfficientNet-lite0 and all-MiniLM-L6-v2 (curate.quickstart.teacher)",
        "never_seen": "tuxpaint stamps",
        "licence": LICENCE,
    }


def main() -> None:
    """Read, draw, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openclipart", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "clip")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("lessons", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    plan, pace = Plan(arguments.steps), Pace(arguments.steps)
    cliparts = list(read_clipart(arguments.openclipart, CACHE_SIDE_PX))
    lessons, paths = read_lessons(arguments.lessons)
    if paths != [str(c.path.relative_to(arguments.openclipart)) for c in cliparts]:
        parser.error(f"{arguments.lessons} is about other pictures than {arguments.openclipart}")
    drawings = draw(DRAWINGS, plan.seed)
    model = new_model(lessons, plan.seed)
    train(model, batches(drawings, cliparts, lessons, plan), pace)
    save(model, arguments.output, facts(plan, pace, lessons))


if __name__ == "__main__":
    main()
