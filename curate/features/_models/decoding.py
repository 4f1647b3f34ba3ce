"""Picture files of strangers: their header, and their pixels, or the reason why there are none."""

from __future__ import annotations

import struct
import zlib
from typing import IO

from PIL import Image

from curate.features import Unscorable

MAX_PIXELS = 178_956_970  # where Pillow itself refuses; 537 MB in RGB

# Formats that web pages show, and no other: Pillow also knows formats that call programs (EPS) or
# that only stubs read. MPO is a JPEG with more than one picture, and is opened as one.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO", "JPEG2000", "PPM",
)  # fmt: skip

# What Pillow's readers raise on bytes that are not what they claim to be.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


def read_header(stream: IO[bytes]) -> Image.Image:
    """A picture whose size and format are known and whose pixels are not decoded yet.

    The readers are asked one by one, as `Image.open` does it: that function judges the size before
    we can, by a warning, and Python's warning filters cannot be set for one thread alone.

    Raises:
        Unscorable: `not_an_image` (it begins like none), `truncated_image` (it begins like one, and
            cannot be read) or `image_too_large` (where a reader itself refuses the size).
    """
    Image.init()
    prefix = stream.read(16)
    kind = "not_an_image"
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(prefix) is not True:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except Image.DecompressionBombError:
            raise Unscorable("image_too_large") from None
        except BROKEN:
            kind = "truncated_image"
    raise Unscorable(kind)


def decode_rgb(stream: IO[bytes], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame in RGB, as `Image.open(stream).convert("RGB")` gives it; EXIF is not applied.

    Raises:
        Unscorable: `not_an_image`, `truncated_image` (it begins like a picture, and cannot be read
            to its end) or `image_too_large` (more than `max_pixels`: nothing is decoded).
    """
    image = read_header(stream)
    if image.width * image.height > max_pixels:
        raise Unscorable("image_too_large")
    try:
        image.load()
        # Alpha in a palette changes no colour of RGB, and only makes Pillow warn.
        image.info.pop("transparency", None)
        return image.convert("RGB")
    except Image.DecompressionBombError:  # a frame larger than the header says
        raise Unscorable("image_too_large") from None
    except BROKEN:
        raise Unscorable("truncated_image") from None
