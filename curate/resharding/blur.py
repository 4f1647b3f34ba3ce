"""Faces in a picture made unrecognisable, as img2dataset and DataComp do it."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin
from pydantic import BaseModel, ConfigDict, Field

Box = tuple[float, float, float, float]  # x1, y1, x2, y2, relative to the picture's sides

_MARGIN = 0.1  # of a box's longer side, added on each of its four sides
_SIGMA = 0.1  # of the longest side over all boxes of a picture
_LARGEST_SIGMA_PX = 32.0  # a wider blur is that of a smaller picture: it shows no detail anyway
_FARTHEST = 1.0  # how far outside the picture a relative coordinate may lie: pixels lie farther
_MOST_PIXELS = 89_478_485  # as many as Pillow opens without a warning
_QUALITY, _DATACOMP_WEBP_QUALITY = 95, 100
_ORIENTATION = 0x0112  # the one EXIF field that a picture needs to be shown the right way up
_BROKEN = (  # what Pillow's readers raise on bytes that are not what they claim to be
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class Blur(BaseModel):
    """Blur faces, and nothing else: only pictures with boxes change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1  # rises when the bytes written change

    format: Literal["keep", "webp"] = Field(
        "keep", description="keep: JPEG stays JPEG; webp: a .webp instead, as DataComp's resharder"
    )


class Unblurrable(Exception):
    """A picture with faces that cannot be blurred, and so must not go out; says why."""


def read_boxes(value: Any) -> list[Box]:
    """The boxes in a `face_bboxes` field: a list of four numbers each, or the JSON of one.

    What lies outside of the picture is cut off, and corners in the wrong order are put right.

    Raises:
        Unblurrable: `bad_boxes`: not four numbers each, NaN, or pixels: where the faces are is
            unknown.
    """
    try:
        boxes = json.loads(value) if isinstance(value, (str, bytes)) else value
        return [_box(box) for box in ([] if boxes is None else boxes)]
    except (ValueError, TypeError, RecursionError):
        raise Unblurrable("bad_boxes") from None


def _box(given: Any) -> Box:
    x1, y1, x2, y2 = (float(coordinate) for coordinate in given)
    if not all(-_FARTHEST <= c <= 1 + _FARTHEST for c in (x1, y1, x2, y2)):  # NaN neither
        raise ValueError(given)
    (x1, x2), (y1, y2) = sorted((_clamped(x1), _clamped(x2))), sorted((_clamped(y1), _clamped(y2)))
    return x1, y1, x2, y2


def _clamped(coordinate: float) -> float:
    return min(max(coordinate, 0.0), 1.0)


def blurred(body: bytes | memoryview, boxes: Sequence[Box], spec: Blur) -> tuple[bytes, str | None]:
    """(a picture file with its boxes blurred, its new extension where it has one).

    Same size, mode where the format allows, colour profile and orientation; no other metadata, for
    an embedded thumbnail shows the faces too. Of an animation the first frame is left.

    Raises:
        Unblurrable: `undecodable`, `too_many_pixels`.
    """
    try:
        with Image.open(io.BytesIO(body)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise Unblurrable("too_many_pixels")
            pixels = np.array(_plain(image))
            changed = blur_boxes(pixels, boxes)
            if changed is pixels:  # boxes of less than a pixel
                return bytes(body), None
            return _encoded(Image.fromarray(changed), image, spec)
    except _BROKEN:
        raise Unblurrable("undecodable") from None


def _plain(image: Image.Image) -> Image.Image:
    """The picture in a mode whose values may be averaged."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        return image
    if image.mode == "1":
        return image.convert("L")
    see_through = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if see_through else "RGB")


def _encoded(changed: Image.Image, original: Image.Image, spec: Blur) -> tuple[bytes, str | None]:
    options: dict[str, Any] = {}
    kept = "JPEG" if original.format in ("JPEG", "MPO") else str(original.format)
    if spec.format == "webp":
        kept = "WEBP"
        options = {"quality": _DATACOMP_WEBP_QUALITY}
    elif kept == "JPEG":
        options = {"quality": _QUALITY}
        if original.mode == changed.mode:  # its own tables: what is not blurred hardly changes
            tables: Any = getattr(original, "quantization", None)
            sampling = max(JpegImagePlugin.get_sampling(original), 0)
            options = {"qtables": tables, "subsampling": sampling}
    elif kept == "WEBP":
        options = {"quality": _QUALITY}
    orientation = original.getexif().get(_ORIENTATION)
    if orientation is not None:
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        options["exif"] = exif
    if original.info.get("icc_profile") and original.mode == changed.mode:
        options["icc_profile"] = original.info["icc_profile"]
    if kept == "WEBP" and changed.mode not in ("RGB", "RGBA"):
        changed = changed.convert("RGBA" if changed.mode == "LA" else "RGB")
    stream = io.BytesIO()
    changed.save(stream, kept, **options)
    return stream.getvalue(), "webp" if spec.format == "webp" else None


def blur_boxes(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """A picture with its boxes blurred; outside of their soft edges no value changes.

    A box gets a margin of a tenth of its longer side; the Gaussian's sigma is a tenth of the
    longest side of all boxes (before the margin); the mask is blurred by the same Gaussian and
    blends the blurred picture in. Alpha stays. Source: img2dataset's blurrer in the version that
    DataComp pins, 1.40; a later one gives its kernel that size, which makes sigma a third of this.

    Args:
        pixels: [H, W] or [H, W, C], uint8 or uint16; with C of 2 or 4 the last channel is alpha.
        boxes: Relative to W and H, as `read_boxes` gives them.
    """
    height, width = pixels.shape[:2]
    rectangles, longest = _rectangles(boxes, width, height)
    if not rectangles:
        return pixels
    sigma = _SIGMA * longest
    return soften(pixels, rectangles, sigma, kernel_px=round(8 * sigma + 1) | 1)


Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels, ends not included


def _rectangles(boxes: Sequence[Box], width: int, height: int) -> tuple[list[Rectangle], int]:
    """(boxes with their margins, in pixels; the longest side without)."""
    found, longest = [], 0
    for x1, y1, x2, y2 in boxes:
        left, top, right, bottom = (
            int(x1 * width), int(y1 * height), int(x2 * width), int(y2 * height)
        )  # fmt: skip
        side = max(right - left, bottom - top)
        if side == 0:
            continue
        longest = max(longest, side)
        margin = _MARGIN * side
        found.append(
            (
                max(int(left - margin), 0),
                max(int(top - margin), 0),
                min(int(right + margin), width),
                min(int(bottom + margin), height),
            )
        )
    return found, longest


def soften(
    pixels: np.ndarray, rectangles: Sequence[Rectangle], sigma: float, *, kernel_px: int
) -> np.ndarray:
    """Blend a blurred picture in where the rectangles are; their edges are blurred as well.

    Args:
        pixels: [H, W] or [H, W, C].
        rectangles: At least one.
        sigma: Of the Gaussian, in pixels.
        kernel_px: Its width, odd: the Gaussian is cut off there.
    """
    mask = np.zeros(pixels.shape[:2], dtype=np.float32)  # [H, W]
    for left, top, right, bottom in rectangles:
        mask[top:bottom, left:right] = 1
    reach = 2 * (kernel_px // 2) + 1  # what the soft edge, and the blur under it, can see
    lefts, tops, rights, bottoms = zip(*rectangles, strict=True)
    window = (
        slice(max(min(tops) - reach, 0), max(bottoms) + reach),
        slice(max(min(lefts) - reach, 0), max(rights) + reach),
    )
    part = pixels[window].astype(np.float32)
    soft = _gaussian(mask[window], sigma, kernel_px)
    if part.ndim == 3:
        soft = np.repeat(soft[..., None], part.shape[2], axis=2)  # [h, w, C]
        if part.shape[2] in (2, 4):
            soft[..., -1] = 0
    part += (_gaussian(part, sigma, kernel_px) - part) * soft
    result = pixels.copy()
    result[window] = np.rint(part).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return result


def _gaussian(values: np.ndarray, sigma: float, kernel_px: int) -> np.ndarray:
    """[h, w] or [h, w, C] float32, blurred."""
    shape = values.shape
    shrink = math.ceil(sigma / _LARGEST_SIGMA_PX)
    if shrink == 1:
        return cv2.GaussianBlur(values, (kernel_px, kernel_px), sigma).reshape(shape)
    small = (max(shape[1] // shrink, 1), max(shape[0] // shrink, 1))
    kernel_px = (kernel_px // shrink) | 1
    less = cv2.resize(values, small, interpolation=cv2.INTER_AREA)
    less = cv2.GaussianBlur(less, (kernel_px, kernel_px), sigma / shrink)
    return cv2.resize(less, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR).reshape(shape)
