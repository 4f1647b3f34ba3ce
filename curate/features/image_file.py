"""Feature: what a picture file says about itself, without decoding its pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, ClassVar

from curate.features import Columns, Feature, Field, Picture

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Facts:
    """One picture file: its fields in the order of `ImageFile.gives`."""

    width: int
    height: int
    format: str
    bytes: int
    sha256: str


class ImageFile(Feature):
    """Size, format, length and hash of the stored picture file; only its header is read."""

    version: ClassVar[int] = 1
    pictures: ClassVar[bool] = True

    name: str = "image_file"

    def needs(self) -> tuple[str, ...]:
        return ()

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("width", "uint32", "pixels, as stored (EXIF orientation is not applied)"),
            Field("height", "uint32", "pixels, as stored"),
            Field("format", "string", "JPEG, PNG, WEBP, ... as Pillow names it"),
            Field("bytes", "uint32", "length of the file"),
            Field("sha256", "string", "of the file, 64 lower-case hex digits"),
        )

    def open(self, device: str) -> ImageFileScorer:
        del device  # a header is read where it lies
        return ImageFileScorer()


class ImageFileScorer:
    """Reads headers in the decode threads; nothing is left to do for a batch."""

    batch = 64

    def prepare(self, picture: Picture) -> Facts:
        from curate.features._models.decoding import (
            read_header,  # Pillow loads only where pictures are
        )

        image = read_header(io.BytesIO(picture.body))
        return Facts(
            width=image.width,
            height=image.height,
            format=image.format or "",
            bytes=len(picture.body),
            sha256=hashlib.sha256(picture.body).hexdigest(),
        )

    def score(self, prepared: Sequence[Facts], frame: pl.DataFrame) -> Columns:
        del frame
        names = [given.name for given in ImageFile().gives()]
        columns = zip(*map(astuple, prepared), strict=True) if prepared else [()] * len(names)
        return Columns(dict(zip(names, map(list, columns), strict=True)))
