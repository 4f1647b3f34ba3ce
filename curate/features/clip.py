"""Feature: the embeddings of picture and caption in a CLIP, and their similarity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field as Setting
from pydantic import PositiveInt

from curate.features import Array, Feature, Field
from curate.features._models import open_clip_models

if TYPE_CHECKING:
    from curate.features._models.clip_model import ClipScorer

MAX_CHARACTERS = (
    2048  # of a caption; a CLIP reads some 75 tokens, and the tokenizer's time is squared
)


class Clip(Feature):
    """CLIP embeddings of picture and caption, and their cosine similarity.

    Any open_clip model with published or local weights: `{model: ViT-B-32, weights:
    laion2b_s34b_b79k}`, `{model: ViT-L-14-quickgelu, weights: openai}`, `{model: ViT-B-32, weights:
    path/to/file.pt}`, `{model: "local-dir:FOLDER"}`, `{model: quickstart}` (ships with curate).
    """

    version: ClassVar[int] = 1
    pictures: ClassVar[bool] = True
    gpu: ClassVar[bool] = True

    name: str = "clip"
    model: str = Setting(description="an open_clip model, `local-dir:FOLDER`, or `quickstart`")
    weights: str | None = Setting(
        None, description="a published tag, or the path of a .pt or .safetensors file"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Setting("fp32", description="of the forward pass")
    batch: PositiveInt = Setting(
        256, description="samples of a forward pass on a GPU; a short one is padded"
    )

    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def gives(self) -> tuple[Field, ...]:
        about = "cosine of picture and caption, -1..1; null where either cannot be embedded"
        return (Field("similarity", "float32", about),)

    def arrays(self) -> tuple[Array, ...]:
        about = "of length 1; NaN where there is none"
        return (Array("image", about), Array("text", about))

    def problems(self) -> list[str]:
        return open_clip_models.problems(self.model, self.weights)

    def recipe(self) -> dict[str, Any]:
        """Model, weights' hash and preparation; published weights are downloaded if need be."""
        source = open_clip_models.locate(self.model, self.weights)
        tag = "" if self.weights is None or Path(self.weights).suffix else self.weights
        return {**source.recipe(), "weights": tag, "max_characters": MAX_CHARACTERS}

    def open(self, device: str) -> ClipScorer:
        from curate.features._models.clip_model import ClipScorer  # torch takes seconds to load

        source = open_clip_models.locate(self.model, self.weights)
        return ClipScorer(source, self, device)
