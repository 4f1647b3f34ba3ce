"""Make a fetched picture fit: its header is read first, and bytes that need not change stay.

img2dataset's resizer decodes before it looks at the area, re-encodes what it could keep, turns
16-bit pictures white, and points the process's stdout at /dev/null while it works. The class here
decides from the header and gives img2dataset only the pictures that must change.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from curate.downloads.download import Download

# What is looked at at all: one format more is one more decoder that strangers may talk to.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_BROKEN = (  # what Pillow's readers raise on bytes that are not what they claim to be
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_KEPT = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_BAND_PIXELS = 1 << 20  # transparency is laid on white in bands: floats take 8 times the bytes

# (bytes, width, height, original width, original height, error): img2dataset's resizers give it
Resized = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]


def private_copy(name: str) -> Any:
    """A copy of an img2dataset module that is the caller's own: changing it changes nothing else.

    Takes seconds the first time in a process, for img2dataset imports much that it does not need.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the network on import
    spec = importlib.util.find_spec(f"img2dataset.{name}")
    assert spec is not None, name
    assert spec.loader is not None, name
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class _Header:
    format: str  # Pillow's name
    width: int
    height: int


class _Refused(Exception):
    """A picture that is not taken; the message is `kind: detail`."""


class Resize:
    """An img2dataset resizer for the pictures of strangers; one thread at a time."""

    def __init__(self, spec: Download) -> None:
        copy = private_copy("resizer")
        copy.SuppressStdoutStderr = contextlib.nullcontext
        self._cv2 = copy.cv2
        logs = self._cv2.utils.logging  # a line for every broken picture would drown our own
        logs.setLogLevel(logs.LOG_LEVEL_SILENT)
        copy.cv2 = _EightBit(self._cv2)
        self._spec = spec
        self._resizer = copy.Resizer(
            image_size=spec.image_size,
            resize_mode=spec.resize_mode,
            resize_only_if_bigger=spec.resize_only_if_bigger,
            encode_quality=spec.encode_quality,
        )

    def __call__(self, stream: io.BytesIO, _boxes: None = None) -> Resized:
        """The picture as it is to be stored; `error` is `kind: detail` where there is none."""
        try:
            header = _read_header(stream)
            self._check(header)
            body = stream.getvalue()
            pixels = _pixel_chunks(body) if header.format == "PNG" else body
            if self._stays(header):
                return (body, *self._size(pixels), None)
        except _Refused as refusal:
            return None, None, None, None, None, str(refusal)
        *found, error = self._resizer(io.BytesIO(pixels))
        if error is not None:
            kind = "undecodable" if error == "Image decoding error" else "resize_error"
            return None, None, None, None, None, f"{kind}: {error}"
        return (*found, None)

    def _check(self, header: _Header) -> None:
        shorter, longer = sorted((header.width, header.height))
        if shorter < max(1, self._spec.min_image_size):
            raise _Refused(f"image_too_small: {header.width} x {header.height}")
        ratio = self._spec.max_aspect_ratio
        if ratio is not None and longer / shorter > ratio:
            raise _Refused(f"aspect_ratio_too_large: {header.width} x {header.height}")
        pixels = header.width * header.height
        if self._by_shorter_side():  # a narrow picture enlarged by its shorter side is a bomb too
            enlarged = max(1.0, self._spec.image_size / shorter)
            pixels = int(pixels * (1.0 if self._spec.resize_only_if_bigger else enlarged**2))
        if pixels > self._spec.max_image_pixels:
            raise _Refused(f"too_many_pixels: {header.width} x {header.height}")

    def _by_shorter_side(self) -> bool:
        return self._spec.resize_mode in ("keep_ratio", "center_crop")

    def _stays(self, header: _Header) -> bool:
        """Whether a picture is stored byte for byte."""
        if _KEPT.get(header.format) not in self._spec.keep_formats:
            return False
        if self._spec.resize_mode == "no":
            return True
        side = (min if self._by_shorter_side() else max)(header.width, header.height)
        return self._spec.resize_only_if_bigger and side <= self._spec.image_size

    def _size(self, body: bytes) -> tuple[int, int, int, int]:
        """Width and height, twice, once img2dataset's decoder has read every pixel."""
        try:
            pixels = self._cv2.imdecode(np.frombuffer(body, np.uint8), self._cv2.IMREAD_UNCHANGED)
        except self._cv2.error as error:
            raise _Refused(f"undecodable: {error}") from None
        if pixels is None:
            raise _Refused("undecodable: the picture is cut or damaged")
        height, width = pixels.shape[:2]  # [H, W] or [H, W, C]
        return width, height, width, height


def _pixel_chunks(body: bytes) -> bytes:
    """A PNG without profiles and remarks: libpng prints a line for each that it dislikes."""
    parts, start, kind = [body[:8]], 8, b""
    while kind != b"IEND":
        kind = body[start + 4 : start + 8]
        stop = start + 12 + int.from_bytes(body[start : start + 4], "big")
        if stop > len(body):
            raise _Refused("undecodable: the file ends early")
        if kind in _PIXEL_CHUNKS:
            parts.append(body[start:stop])
        start = stop
    return b"".join(parts)


def _read_header(stream: io.BytesIO) -> _Header:
    """Format and size, without decoding a pixel.

    `Image.open` would warn of large pictures before we could refuse them.
    """
    from PIL import Image

    Image.init()
    prefix = stream.read(16)
    for name in _FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        try:
            if factory is None or accepts is None or accepts(prefix) is not True:
                continue
            stream.seek(0)
            with factory(stream, "") as image:
                return _Header(image.format or "", image.width, image.height)
        except Image.DecompressionBombError as error:
            raise _Refused(f"too_many_pixels: {error}") from None
        except _BROKEN:
            break  # it begins like a picture, and is none
    raise _Refused("not_an_image: no picture that is known here")


class _EightBit:
    """cv2 for img2dataset's resizer, except that what it decodes is 8-bit and opaque.

    The resizer cuts 16-bit values at 255 and needs 60 bytes a pixel to lay transparency on white.
    """

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cv2, name)

    def imdecode(self, body: np.ndarray, flags: int) -> np.ndarray | None:
        pixels: np.ndarray | None = self._cv2.imdecode(body, flags)
        if pixels is None:
            return None
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        if pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {pixels.dtype}")
        return _on_white(pixels) if pixels.shape[2:] == (4,) else pixels


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 4] -> [H, W, 3], by img2dataset's own formula and rounding."""
    height, width = pixels.shape[:2]
    flat = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for start in range(0, height, rows):
        band = pixels[start : start + rows]
        alpha = band[:, :, 3, np.newaxis]
        laid = alpha / 255 * band[..., :3] + 255 - alpha
        flat[start : start + rows] = np.rint(laid.clip(min=0, max=255)).astype(np.uint8)
    return flat
