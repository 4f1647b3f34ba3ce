"""A tiny CLIP with random weights, and drawn pictures, for tests that need no quality."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
SIGLIP = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "resize_mode": "squash",
    "interpolation": "bilinear",
}


def config(size_px: int = 32, width: int = 32, layers: int = 1) -> dict:
    """An open_clip architecture of some 2 million weights, nearly all of them words."""
    return {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": size_px,
            "layers": layers,
            "width": width,
            "head_width": 32,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": width,
            "heads": 2,
            "layers": layers,
        },
    }


def write_weights(file: Path, architecture: dict, seed: int = 0) -> None:
    """Random weights of an architecture, as safetensors."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**architecture)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)


def write_folder(
    folder: Path, preprocess: dict = OPENAI, architecture: dict | None = None, seed: int = 0
) -> Path:
    """A checkpoint that open_clip loads by `local-dir:`."""
    architecture = architecture or config()
    write_weights(folder / "open_clip_model.safetensors", architecture, seed)
    text = json.dumps({"model_cfg": architecture, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder


def picture(size: tuple[int, int] = (48, 40), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A noisy gradient, so that every pixel counts."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    values = rng.integers(0, 256, (*size[::-1], 4)).astype(np.uint8)
    rgba = Image.fromarray(values)
    return rgba if mode == "RGBA" else rgba.convert("LA" if mode == "LA" else "RGB").convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:  # noqa: A002 - Pillow's
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def many(count: int) -> list[bytes]:
    """JPEG files of different pictures and sizes."""
    return [
        encoded(picture((40 + seed % 7, 36 + seed % 5), seed=seed), "JPEG") for seed in range(count)
    ]
