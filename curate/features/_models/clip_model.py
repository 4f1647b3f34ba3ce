"""A CLIP in memory: pictures and captions in, float16 embeddings and similarities out."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import torch
from open_clip.transform import MaybeConvertMode, MaybeToTensor
from safetensors import SafetensorError
from torch.nn.functional import normalize
from torchvision.transforms import Compose, Normalize

from curate.errors import ConfigError
from curate.features import Columns, Picture, Unscorable
from curate.features._models.passes import Passes
from curate.features.clip import MAX_CHARACTERS, Clip

if TYPE_CHECKING:
    import polars as pl

    from curate.features._models.open_clip_models import Source

MAX_RESIZED_PIXELS = 1 << 24  # 50 MB: `shortest` enlarges the long side of a narrow picture too
MAX_CACHED_WORDS = 500_000  # open_clip's tokenizer keeps every word it ever met, 150 bytes each

# What loaders raise on files that are not weights, or not those of this architecture.
UNREADABLE = (
    RuntimeError, OSError, ValueError, LookupError, EOFError, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip


class ClipScorer:
    """One model on one device."""

    def __init__(self, source: Source, recipe: Clip, device: str) -> None:
        self.batch = recipe.batch
        self.passes = Passes(device, recipe.batch)
        self.device = self.passes.device
        self._model, preprocess = _load(source, recipe.precision, self.device)
        self._size = _pair(self._model.visual.preprocess_cfg["size"])
        self._dtype = open_clip.get_input_dtype(recipe.precision) or torch.float32
        # The picture comes in RGB; it becomes a normalised tensor once per batch, not one by one.
        later = (MaybeConvertMode, MaybeToTensor, Normalize)
        self._resize = Compose([one for one in preprocess.transforms if not isinstance(one, later)])
        self._narrowest = _narrowest(source.pictures["resize_mode"], self._size)
        self._mean = torch.tensor(source.pictures["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(source.pictures["std"], device=self.device).view(1, 3, 1, 1)
        self._tokenizer = _load_tokenizer(source)

    def prepare(self, picture: Picture) -> np.ndarray:
        """[H, W, 3] uint8: the pixels of open_clip's own preprocessing, before normalisation.

        Raises:
            Unscorable: what `Picture.rgb` raises, or `image_too_narrow`.
        """
        image = picture.rgb
        if max(image.size) > min(image.size) * self._narrowest:
            raise Unscorable("image_too_narrow")
        return np.asarray(self._resize(image))

    def score(self, prepared: Sequence[np.ndarray], frame: pl.DataFrame) -> Columns:
        """Similarity, and both embeddings, of N samples; N may be 0."""
        captions = frame["caption"].to_list()
        on_device = self.passes.run(self._encode_images, self._pixels(prepared))
        # Captions are read on the CPU while a GPU is still busy with the pictures.
        text = self.texts(captions)
        image = on_device.cpu().numpy()[: len(prepared)]  # [N, D] float32, and so is `text`
        text[[caption is None for caption in captions]] = np.nan
        similarity = np.einsum("nd,nd->n", image, text)  # [N]
        scored = np.isfinite(similarity).tolist()
        errors = [
            "no_caption" if caption is None else None if finite else "not_finite"
            for caption, finite in zip(captions, scored, strict=True)
        ]
        arrays = {"image": image.astype(np.float16), "text": text.astype(np.float16)}
        return Columns({"similarity": similarity}, arrays, errors)

    def texts(self, captions: Sequence[str | None]) -> np.ndarray:
        """[N, D] float32 embeddings of N texts; None is read as an empty one."""
        found: np.ndarray = (
            self.passes.run(self._encode_texts, self._tokens(captions)).cpu().numpy()
        )
        return found[: len(captions)]

    def _pixels(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = np.zeros((self.passes.padded(len(prepared)), *self._size, 3), dtype=np.uint8)
        if prepared:
            np.stack(prepared, out=pixels[: len(prepared)])
        batch = torch.from_numpy(pixels)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _tokens(self, captions: Sequence[str | None]) -> torch.Tensor:
        texts = [(caption or "")[:MAX_CHARACTERS] for caption in captions]
        texts += [""] * (self.passes.padded(len(texts)) - len(texts))
        cached = getattr(self._tokenizer, "cache", {})
        if len(cached) > MAX_CACHED_WORDS:
            for word in [word for word in cached if cached[word] != word]:  # not <start_of_text>
                del cached[word]
        tokens: torch.Tensor = self._tokenizer(texts)  # [N, context length]
        return tokens.pin_memory() if self.device.type == "cuda" else tokens

    @torch.inference_mode()
    def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # [B, 3, H, W]
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        values = values.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)
        return normalize(self._model.encode_image(values).float(), dim=-1)

    @torch.inference_mode()
    def _encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(self.device, non_blocking=True)
        return normalize(self._model.encode_text(tokens).float(), dim=-1)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _narrowest(resize_mode: str, size: tuple[int, int]) -> float:
    """The ratio of long to short side up to which a picture can be resized."""
    if resize_mode == "shortest":
        return MAX_RESIZED_PIXELS / (size[0] * size[1])
    # Shrunk to fit, the short side must still round to one pixel.
    return 1.9 * min(size) if resize_mode == "longest" else float("inf")


def _load(source: Source, precision: str, device: torch.device) -> tuple[Any, Any]:
    """(model, preprocessing) from the very file whose hash is in the recipe."""
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            source.model,
            pretrained=None if source.local_folder else str(source.weights),
            precision=precision,
            device=device,
            image_interpolation=source.pictures["interpolation"],
            image_resize_mode=source.pictures["resize_mode"],
        )
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"{source.weights} cannot be loaded as {source.model}: {' '.join(lines[:2])}"
        ) from error
    return model.eval(), preprocess


def _load_tokenizer(source: Source) -> Callable[[list[str]], torch.Tensor]:
    name = source.config["text_cfg"].get("hf_tokenizer_name")
    try:
        tokenizer: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(source.model)
    except ImportError as error:
        raise ConfigError(
            f"{source.model} reads captions by the tokenizer {name}, which needs more packages "
            f"({error}): pip install transformers sentencepiece"
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the tokenizer {name} of {source.model} cannot be read ({reason}): "
            "it must be in the hub's cache, or in the folder of a local-dir: model"
        ) from None
    return tokenizer
