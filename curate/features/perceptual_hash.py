"""Feature: hashes that change little when a picture is scaled, re-encoded or slightly altered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field as Setting

from curate.features import Columns, Feature, Field, Picture

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["phash", "dhash"]
_SIDES = {"phash": (32, 32), "dhash": (9, 8)}  # pixels: width, height of the reduced picture


class PerceptualHash(Feature):
    """64-bit hashes of the decoded picture, the bits of which are those of the ImageHash library.

    The picture in RGB (transparency is dropped, EXIF orientation is not applied) becomes grey by
    ITU-R 601 and is reduced by Pillow's Lanczos filter, in integers: the same on any machine.
    `phash` takes the DCT of 32 x 32 pixels; a bit says whether one of its 8 x 8 lowest frequencies
    is above their median. `dhash` takes 9 x 8 pixels; a bit says whether a pixel is brighter than
    the one on its left. Bits are read row by row from the top left; the first is the highest, so
    the number in 16 hex digits is what ImageHash prints.

    `mirrored` adds the hash of the reduced picture flipped left to right: x is like y mirrored
    where `phash` of x is near `phash_mirrored` of y.

    Neither says much of pictures without structure: every evenly coloured one has phash
    8000000000000000 (black: 0) and dhash 0. And where a picture is exactly symmetric, as logos are,
    half of what phash looks at is 0 but for rounding: encoded anew, such a picture is far away.
    """

    version: ClassVar[int] = 1
    pictures: ClassVar[bool] = True

    name: str = "perceptual_hash"
    hash: Kind | tuple[Kind, ...] = Setting("phash", description="phash, dhash or a list of both")
    mirrored: bool = Setting(
        default=False, description="whether the mirrored picture is hashed as well"
    )

    def kinds(self) -> tuple[Kind, ...]:
        """The hashes, each once."""
        given = (self.hash,) if isinstance(self.hash, str) else self.hash
        return tuple(dict.fromkeys(given))

    def needs(self) -> tuple[str, ...]:
        return ()

    def gives(self) -> tuple[Field, ...]:
        found = []
        for kind in self.kinds():
            found.append(Field(kind, "uint64", "64 bits; null where the picture is not decoded"))
            if self.mirrored:
                found.append(Field(f"{kind}_mirrored", "uint64", "of the mirrored picture"))
        return tuple(found)

    def problems(self) -> list[str]:
        return [] if self.kinds() else ["hash: the list is empty; write phash, dhash or both"]

    def open(self, device: str) -> PerceptualHashScorer:
        del device  # a reduced picture is too small for a GPU to gain anything
        return PerceptualHashScorer(self)


class PerceptualHashScorer:
    """Pictures are reduced in the decode threads; a batch is hashed at once."""

    batch = 256

    def __init__(self, feature: PerceptualHash) -> None:
        self._feature = feature

    def prepare(self, picture: Picture) -> list[np.ndarray]:
        """[H, W] uint8 of the reduced picture, for each kind of hash."""
        from PIL import Image  # Pillow loads only where pictures are

        grey = picture.rgb.convert("L")
        lanczos = Image.Resampling.LANCZOS
        return [np.asarray(grey.resize(_SIDES[kind], lanczos)) for kind in self._feature.kinds()]

    def score(self, prepared: Sequence[list[np.ndarray]], frame: pl.DataFrame) -> Columns:
        del frame
        found: dict[str, np.ndarray] = {}
        for place, kind in enumerate(self._feature.kinds()):
            width, height = _SIDES[kind]
            pixels = np.empty((len(prepared), height, width), dtype=np.uint8)
            for row, reduced in enumerate(prepared):
                pixels[row] = reduced[place]
            found[kind] = _HASHES[kind](pixels)
            if self._feature.mirrored:
                found[f"{kind}_mirrored"] = _HASHES[kind](pixels[:, :, ::-1])
        return Columns(found)


def phash(pixels: np.ndarray) -> np.ndarray:
    """[N] uint64 of [N, 32, 32] uint8."""
    from scipy.fft import dct  # a quarter of a second to load

    if not len(pixels):
        return np.empty(0, dtype=np.uint64)
    waves = dct(dct(pixels.astype(np.float64), axis=1), axis=2)  # [N, 32, 32]
    low = waves[:, :8, :8].reshape(len(pixels), 64)
    # The mean of the two in the middle, as `median` has it, which is slow on many short rows.
    middle = np.partition(low, (31, 32), axis=1)[:, 31:33].mean(axis=1)
    return _packed(low > middle[:, None])


def dhash(pixels: np.ndarray) -> np.ndarray:
    """[N] uint64 of [N, 8, 9] uint8."""
    return _packed((pixels[:, :, 1:] > pixels[:, :, :-1]).reshape(len(pixels), 64))


def _packed(bits: np.ndarray) -> np.ndarray:
    """[N] uint64 of [N, 64] bool, the first bit the highest."""
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


_HASHES = {"phash": phash, "dhash": dhash}
