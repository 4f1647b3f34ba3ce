"""Keep samples whose image and caption agree, by CLIP similarity."""

from __future__ import annotations

from pydantic import Field

from filters import Available, one_of
from filters._score import ByScore

_ENDINGS = (".similarity", "similarity_score")


class ClipScore(ByScore):
    """Keeps samples by the cosine of image and text embedding (-1 to 1).

    `score` for the similarity column: limits, ties, `skip_fraction` and `parity` are explained
    there. Sources: LAION-400M (2111.02114) `at_least: 0.3`, LAION-5B (2210.08402) 0.28,
    DataComp (2304.14108) `top_fraction: 0.3`.
    """

    example = "{top_fraction: 0.3, of: pool_threshold}"

    column: str | None = Field(None, description="the similarity column; the only one if left out")
    at_least: float | None = Field(None, ge=-1, le=1, description="lowest similarity that passes")
    at_most: float | None = Field(None, ge=-1, le=1, description="highest similarity that passes")

    def chosen(self, available: Available) -> str:
        found = [name for name in available if name.endswith(_ENDINGS)]
        # Other features compare with other things: a CLIP step gives the captions' embeddings too.
        captions = [name for name in found if f"{name.rpartition('.')[0]}.text" in available]
        return self.column or one_of(
            captions or found,
            "a similarity",
            "put `- clip: {model: ..., weights: ...}` before this step",
        )
