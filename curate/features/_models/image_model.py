"""A model of timm's in memory: pictures in, float16 embeddings out."""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import ImageOps
from safetensors import SafetensorError
from timm.data.config import resolve_data_config
from timm.data.transforms import MaybeToTensor
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms import Compose, Normalize

from curate.errors import ConfigError
from curate.features import Columns, Picture, Unscorable
from curate.features._models import isc21
from curate.features._models.passes import Passes
from curate.features._models.timm_models import ISC

if TYPE_CHECKING:
    import polars as pl

    from curate.features.image_model import ImageModel

MAX_RESIZED_PIXELS = 1 << 24  # 50 MB: a narrow picture's long side is enlarged with the short one
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Where a training run's file keeps the weights, the averaged ones first.
KEPT_AS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # what training in parallel, or compiled, puts before a name

# What loaders raise on files that are not weights.
UNREADABLE = (
    RuntimeError, OSError, ValueError, LookupError, EOFError, TypeError, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip


class ImageModelScorer:
    """One model on one device."""

    def __init__(self, recipe: ImageModel, device: str) -> None:
        self.batch = recipe.batch
        self._passes = Passes(device, recipe.batch)
        self._dtype = DTYPES[recipe.precision]
        network, config = _load(recipe)
        self._network = network.eval().to(self._passes.device, self._dtype)
        self._names = [array.name for array in recipe.arrays()]
        self._size: tuple[int, int] = config["input_size"][1:]
        whole = create_transform(**config, is_training=False)
        # The picture becomes a normalised tensor once per batch, not one by one.
        later = (MaybeToTensor, Normalize)
        self._resize = Compose([one for one in whole.transforms if not isinstance(one, later)])
        self._narrowest = _narrowest(config)
        self._mean = torch.tensor(config["mean"], device=self._passes.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self._passes.device).view(1, 3, 1, 1)

    def prepare(self, picture: Picture) -> np.ndarray:
        """[1 or 2, H, W, 3] uint8: the pixels of timm's own preprocessing, before normalisation.

        One way, or two: as it is, and mirrored. A crop need not be in the very middle, so that it
        is the picture that is mirrored, not what was prepared of it.

        Raises:
            Unscorable: what `Picture.rgb` raises, or `image_too_narrow`.
        """
        image = picture.rgb
        if max(image.size) > min(image.size) * self._narrowest:
            raise Unscorable("image_too_narrow")
        ways = [image, ImageOps.mirror(image)] if len(self._names) > 1 else [image]
        return np.stack([np.asarray(self._resize(way)) for way in ways])

    def score(self, prepared: Sequence[np.ndarray], frame: pl.DataFrame) -> Columns:
        """Embeddings of N pictures; N may be 0."""
        del frame
        count = len(prepared)
        arrays = {
            name: self._embedded([both[way] for both in prepared])
            for way, name in enumerate(self._names)
        }
        finite = np.ones(count, dtype=bool)
        for array in arrays.values():
            finite &= np.isfinite(array).all(axis=1)
        for array in arrays.values():
            array[~finite] = np.nan
        errors = [None if good else "not_finite" for good in finite.tolist()]
        return Columns({}, {name: a.astype(np.float16) for name, a in arrays.items()}, errors)

    def _embedded(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """[N, D] float32 of N prepared pictures, [H, W, 3] uint8 each."""
        pixels = np.zeros((self._passes.padded(len(prepared)), *self._size, 3), dtype=np.uint8)
        if prepared:
            np.stack(prepared, out=pixels[: len(prepared)])
        batch = torch.from_numpy(pixels)
        if self._passes.device.type == "cuda":
            batch = batch.pin_memory()
        found: np.ndarray = self._passes.run(self._embed, batch).cpu().numpy()
        return found[: len(prepared)]

    @torch.inference_mode()
    def _embed(self, pixels: Tensor) -> Tensor:
        """[B, D] float32 of [B, H, W, 3] uint8."""
        pixels = pixels.to(self._passes.device, non_blocking=True).permute(0, 3, 1, 2)
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)  # [B, 3, H, W]
        values = values.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)
        return normalize(self._network(values).float(), dim=-1)


def _narrowest(config: Mapping[str, Any]) -> float:
    """The ratio of long to short side up to which a picture can be resized."""
    height, width = config["input_size"][1:]
    if config["crop_mode"] == "center":
        return float(MAX_RESIZED_PIXELS * config["crop_pct"] ** 2 / (height * width))
    # Shrunk to fit, the short side must still round to one pixel.
    return 1.9 * min(height, width) if config["crop_mode"] == "border" else float("inf")


def _load(recipe: ImageModel) -> tuple[nn.Module, dict[str, Any]]:
    """(network with its weights, timm's data configuration) of a recipe."""
    weights = _weights(recipe.weights)
    if recipe.model == ISC:
        isc = isc21.IscNetwork()
        _fit(isc, weights, recipe, ())
        return isc, {**isc21.PREPARATION, **recipe.preparation()}
    known: Any = timm.get_pretrained_cfg(recipe.model)
    if known is None:
        raise ConfigError(f"model: timm {timm.__version__} has no {recipe.model!r}")
    defaults = known.to_dict()
    sized: dict[str, Any] = {}
    if recipe.size and defaults.get("fixed_input_size"):
        sized["img_size"] = recipe.size
    network: Any = timm.create_model(recipe.model, pretrained=False, num_classes=0, **sized)
    # Other files than timm's own, DINOv2's say, are renamed by the model's own function.
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        try:
            weights = rename(weights, network)
        except UNREADABLE as error:
            raise _misfit(recipe, str(error)) from None
    classifier = network.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    _fit(network, weights, recipe, names)
    config: dict[str, Any] = resolve_data_config(recipe.preparation(), pretrained_cfg=defaults)  # type: ignore[no-untyped-call]  # timm's
    return network, config


def _weights(file: str) -> dict[str, Tensor]:
    """{parameter: its value} of a file; nothing but tensors is rebuilt."""
    try:
        if file.endswith(".safetensors"):
            return safetensors.torch.load_file(file)
        # A Namespace holds the arguments of the training run, and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE:
        # Torch's own words tell how to unpickle anything: nobody should.
        raise ConfigError(
            f"{file} is damaged, or holds more than weights: save them again as .safetensors"
        ) from None
    for key in KEPT_AS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
            break
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ConfigError(f"{file} holds no weights, which are tensors by name")
    return {_unwrapped(name): value for name, value in held.items()}


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _fit(
    network: nn.Module, weights: dict[str, Tensor], recipe: ImageModel, unused: tuple[str, ...]
) -> None:
    """Load weights that must be just the network's, but for those of unused layers."""
    try:
        result = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise _misfit(recipe, " ".join(str(error).split("\n")[1:3])) from None
    prefixes = tuple(f"{layer}." for layer in unused)
    more = [name for name in result.unexpected_keys if not name.startswith(prefixes)]
    if result.missing_keys:
        raise _misfit(recipe, f"it lacks {_some(result.missing_keys)}")
    if more:
        raise _misfit(recipe, f"it also has {_some(more)}")


def _misfit(recipe: ImageModel, why: str) -> ConfigError:
    said = " ".join(why.split())
    return ConfigError(f"{recipe.weights} does not hold the weights of {recipe.model}: {said}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
