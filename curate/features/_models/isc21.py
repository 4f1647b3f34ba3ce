"""ISC21's winning copy detector (2112.04323): a backbone of timm's and a head of 256 numbers."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from curate.features._models.timm_models import ISC_BACKBONE

WIDTH = 256
PREPARATION = {
    "input_size": (3, 512, 512),
    "crop_mode": "squash",
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


class IscNetwork(nn.Module):
    """Descriptors of pictures, not yet of length 1. Its parameters are named as published.

    Trained with generalised-mean pooling whose power is 1, and so it is used: by its makers, and
    by DataComp. That is the mean over the picture of features that are clamped to be positive.
    """

    def __init__(self, backbone: str = ISC_BACKBONE) -> None:
        super().__init__()
        features: Any = timm.create_model(backbone, pretrained=False, features_only=True)
        self.backbone = features
        self.fc = nn.Linear(features.feature_info.channels()[-1], WIDTH, bias=False)
        self.bn = nn.BatchNorm1d(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 256] of [B, 3, H, W]."""
        features: Tensor = self.backbone(pixels)[-1]  # [B, C, H / 32, W / 32]
        pooled = features.clamp(min=1e-6).mean(dim=(2, 3))  # [B, C]
        described: Tensor = self.bn(self.fc(pooled))
        return described
