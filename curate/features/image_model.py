"""Feature: the embedding of a picture in any model that timm has, DINOv2 or a copy detector say."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field as Setting
from pydantic import PositiveInt

from curate.errors import ConfigError
from curate.features import Array, Feature, Field
from curate.features._models import timm_models

if TYPE_CHECKING:
    from curate.features._models.image_model import ImageModelScorer

Rgb = tuple[float, float, float]


class ImageModel(Feature):
    """Embeddings of pictures by a model of timm's with weights on this machine, of length 1.

    `{model: vit_large_patch14_dinov2.lvd142m, weights: dinov2.safetensors}`. Pictures are prepared
    as timm says for that model and tag; `size`, `crop`, `crop_fraction`, `interpolation`, `mean`
    and `std` say otherwise. What the model pools is taken, without its classifier. Nothing is
    downloaded. `mirrored: true` also gives the array `mirrored`, for twice the time.

    `model: isc_ft_v107` is the copy detector of DataComp's decontamination (2304.14108, App. F;
    2112.04323): pictures squashed to 512 x 512, EfficientNetV2-M, mean pooling, 256 numbers. Its
    published `isc_ft_v107.pth.tar` is read as it is; only files of that layout were tried here.
    """

    version: ClassVar[int] = 1
    pictures: ClassVar[bool] = True
    gpu: ClassVar[bool] = True

    name: str = "image_model"
    model: str = Setting(description="a model of timm's, with or without tag, or `isc_ft_v107`")
    weights: str = Setting(description="path of a .safetensors, .pt, .pth, .pth.tar or .bin file")
    mirrored: bool = Setting(
        default=False, description="whether the mirrored picture is embedded too"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Setting("fp32", description="of the forward pass")
    batch: PositiveInt = Setting(
        256, description="pictures of a forward pass on a GPU; a short one is padded"
    )
    size: int | None = Setting(None, ge=1, description="pixels of both sides, prepared")
    crop: Literal["center", "squash", "border"] | None = Setting(
        None, description="center: the shorter side fits; squash: both do; border: the longer does"
    )
    crop_fraction: float | None = Setting(
        None, gt=0, le=1, description="share of the resized picture's sides that a crop keeps"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = Setting(
        None, description="of the resize"
    )
    mean: Rgb | None = Setting(None, description="of each colour, 0..1, which is subtracted")
    std: Rgb | None = Setting(None, description="of each colour, 0..1, divided by")

    def needs(self) -> tuple[str, ...]:
        return ()

    def gives(self) -> tuple[Field, ...]:
        return ()

    def arrays(self) -> tuple[Array, ...]:
        image = Array("image", "of length 1; NaN where there is none")
        mirrored = Array("mirrored", "of the picture mirrored left to right")
        return (image, mirrored) if self.mirrored else (image,)

    def problems(self) -> list[str]:
        found = timm_models.problems(self.model, self.weights)
        if self.std is not None and min(self.std) <= 0:
            found.append(f"std: {min(self.std)} is not above 0, and colours are divided by it")
        return found

    def recipe(self) -> dict[str, Any]:
        """The weights by their SHA-256; timm's version says how it prepares pictures."""
        if found := self.problems():
            raise ConfigError("\n".join(found))
        with Path(self.weights).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return {
            "timm": importlib.metadata.version("timm"),
            "weights": Path(self.weights).name,
            "weights_sha256": digest,
        }

    def preparation(self) -> dict[str, Any]:
        """What the recipe says of the preparation, in the words of timm's data configuration."""
        given = {
            "input_size": (3, self.size, self.size) if self.size else None,
            "crop_mode": self.crop,
            "crop_pct": self.crop_fraction,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        return {name: value for name, value in given.items() if value is not None}

    def open(self, device: str) -> ImageModelScorer:
        from curate.features._models.image_model import (
            ImageModelScorer,  # torch takes seconds to load
        )

        return ImageModelScorer(self, device)
