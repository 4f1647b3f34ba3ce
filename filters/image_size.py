"""Keep pictures that are large enough and not too elongated."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from filters import Available, Filter, Measure, RowFilter, Shown, State, Unbound, column


class ImageSize(RowFilter):
    """Keeps pictures by their sides, in pixels, and by longer / shorter side.

    The original size is read where it is known, else the stored one. DataComp's basic filter
    (2304.14108, App. P) is `{min_side: 200, max_aspect_ratio: 3.0}`. Limits are inclusive.
    """

    example = "{min_side: 200, max_aspect_ratio: 3.0}"

    columns: tuple[str, str] | None = Field(None, description="width and height column, in pixels")
    min_side: int = Field(0, ge=0, description="fewest pixels of the shorter side that pass")
    max_side: int | None = Field(None, ge=1, description="most pixels of the longer side that pass")
    max_aspect_ratio: float | None = Field(
        None, ge=1, description="most that the longer side may be of the shorter"
    )

    def bind(self, available: Available) -> Filter:
        if self.columns is not None:
            return self
        for prefix in ("original_", ""):
            if f"{prefix}width" in available and f"{prefix}height" in available:
                return self._of(prefix)
        stems = [name[: -len("width")] for name in available if name.endswith(".width")]
        stems = [stem for stem in stems if f"{stem}height" in available]
        if len(stems) == 1:
            return self._of(stems[0])
        if stems:
            listed = ", ".join(f"[{stem}width, {stem}height]" for stem in stems)
            raise Unbound(f"several columns give the size: {listed}; name them with `columns:`")
        raise Unbound("no column gives the size: put `- image_file: {}` before this step")

    def _of(self, prefix: str) -> Filter:
        return self.model_copy(update={"columns": (f"{prefix}width", f"{prefix}height")})

    def needs(self) -> tuple[str, ...]:
        return self.columns or ()

    def _measures(self) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
        """Shorter side, longer side, and longer / shorter; null where the size is not known."""
        width, height = (column(name) for name in self.needs())
        # A null side makes the rule null (min_horizontal would skip it); a side of 0 is no picture.
        known = pl.when((width > 0) & (height > 0)).then(pl.lit(1))
        short = pl.min_horizontal(width, height) * known
        long = pl.max_horizontal(width, height) * known
        return short, long, long.cast(pl.Float64) / short

    def passes(self) -> dict[str, pl.Expr]:
        short, long, aspect = self._measures()
        rules = {"too_small": short >= self.min_side}
        if self.max_side is not None:
            rules["too_large"] = long <= self.max_side
        if self.max_aspect_ratio is not None:
            rules["too_elongated"] = aspect <= self.max_aspect_ratio
        return rules

    def shows(self, state: State) -> Shown:
        short, long, aspect = self._measures()
        found = []
        if self.min_side > 0:
            found.append(
                Measure("shorter side, pixels", short, at_least=("too_small", self.min_side))
            )
        if self.max_side is not None:
            found.append(Measure("longer side, pixels", long, at_most=("too_large", self.max_side)))
        if self.max_aspect_ratio is not None:
            limit = ("too_elongated", self.max_aspect_ratio)
            found.append(Measure("longer side / shorter side", aspect, at_most=limit))
        return Shown(self.needs(), {}, measures=tuple(found))
