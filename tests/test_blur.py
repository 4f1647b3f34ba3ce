"""Faces blurred: as img2dataset does it, only where they are, whatever file and boxes come."""

import io
import math
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import real_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_clip import encoded, picture

from curate.errors import ConfigError
from curate.resharding import boxes
from curate.resharding.blur import Blur, Unblurrable, blur_boxes, blurred, read_boxes, soften
from curate.resharding.blur import _rectangles as rectangles_of
from curate.sample import format_uids, parse_uids
from curate.subsets import subset

FACE = [(0.25, 0.2, 0.55, 0.6)]


def pixels_of(body: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(body)))


def real(count: int) -> list[np.ndarray]:
    real_pictures.fetch_or_skip()
    pairs = real_pictures.clipart(900) + real_pictures.stamps(100)
    paths = [pair.path for pair in pairs if pair.path.suffix == ".png"][:count]
    return [np.array(Image.open(path).convert("RGBA").convert("RGB")) for path in paths]


@pytest.mark.real
@pytest.mark.slow
def test_given_their_kernel_the_blur_is_that_of_img2dataset():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset.blurrer import BoundingBoxBlurrer

        theirs = BoundingBoxBlurrer()
    detail = []  # ours removes more: that version's sigma is a third of what DataComp's had
    for pixels in real(12):
        for faces in ([(0.2, 0.2, 0.45, 0.5), (0.6, 0.55, 0.8, 0.8)], FACE):
            rectangles, longest = rectangles_of(faces, pixels.shape[1], pixels.shape[0])
            kernel = max(3, 2 * math.ceil(0.1 * longest) + 1)
            sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8  # what OpenCV makes of a kernel's size
            ours = soften(pixels, rectangles, sigma, kernel_px=kernel)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = theirs(pixels, faces)
            difference = np.abs(ours.astype(int) - expected)
            assert difference.max() <= 3  # theirs cuts fractions off; small kernels have a table
            assert difference.mean() < 0.25
            ways = (pixels, expected, blur_boxes(pixels, faces))
            detail.append([_detail(way) for way in ways])
    before, later, ours = np.mean(detail, axis=0)
    assert ours < 0.9 * later < 0.9 * before


def _detail(pixels: np.ndarray) -> float:
    """How much neighbours differ in the middle of the faces above."""
    height, width = pixels.shape[:2]
    face = pixels[int(0.25 * height) : int(0.45 * height), int(0.28 * width) : int(0.42 * width)]
    return float(np.abs(np.diff(face.astype(int), axis=1)).mean())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_only_the_box_and_its_soft_edge_change(mode):
    pixels = np.array(picture((120, 100), mode))
    changed = blur_boxes(pixels, FACE)
    assert changed.shape == pixels.shape
    assert changed.dtype == pixels.dtype
    different = changed != pixels
    if pixels.ndim == 3:
        if mode.endswith("A"):
            assert not different[..., -1].any()  # transparency stays
        different = different[..., 0]
    rows, columns = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    # A box of 36 x 40, a margin of 4, and 4 sigma of 4 pixels around it.
    assert (rows.min(), rows.max()) >= (0, 60)
    assert rows.max() <= 60 + 4 + 17
    assert columns.min() >= 30 - 4 - 17
    assert columns.max() <= 66 + 4 + 17
    within = (slice(24, 56), slice(34, 62), *([0] if pixels.ndim == 3 else []))
    assert changed[within].astype(float).std() < 0.3 * pixels[within].astype(float).std()


def test_a_face_at_the_border_is_blurred_to_the_last_pixel():
    pixels = np.array(picture((60, 60), "RGB"))
    changed = blur_boxes(pixels, [(0.5, 0.5, 1.0, 1.0)])
    assert (changed[-1, 40:] != pixels[-1, 40:]).mean() > 0.9
    assert (changed[40:, -1] != pixels[40:, -1]).mean() > 0.9


def test_a_large_face_is_blurred_as_a_small_one_is():
    small = np.array(picture((150, 150), "L"))
    large = np.kron(small, np.ones((8, 8), dtype=np.uint8))
    face = [(0.2, 0.2, 0.8, 0.8)]
    shrunk = blur_boxes(large, face).reshape(150, 8, 150, 8).mean(axis=(1, 3))
    assert np.abs(shrunk - blur_boxes(small, face)).mean() < 2.5


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"),
     ("PNG", "I;16"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB")],
)  # fmt: skip
def test_a_file_keeps_its_format(kind, mode):
    body = encoded(picture((64, 48), mode), kind)
    changed, extension = blurred(body, FACE, Blur())
    assert extension is None
    image = Image.open(io.BytesIO(changed))
    assert (image.format, image.size) == (kind, (64, 48))
    assert changed != body


def test_datacomps_way_is_webp():
    body = encoded(picture((64, 48)), "JPEG", quality=95)
    changed, extension = blurred(body, FACE, Blur(format="webp"))
    assert extension == "webp"
    assert Image.open(io.BytesIO(changed)).format == "WEBP"
    outside = np.abs(pixels_of(changed).astype(int) - pixels_of(body))[:, -10:]
    assert outside.mean() < 8  # noise is what these formats are worst at


def test_a_jpeg_loses_little_where_there_is_no_face():
    for quality in (50, 95):
        body = encoded(picture((8, 8)).resize((512, 512)), "JPEG", quality=quality)
        changed, _ = blurred(body, [(0.1, 0.1, 0.2, 0.2)], Blur())
        far = np.abs(pixels_of(changed).astype(int) - pixels_of(body))[256:, 256:]
        assert far.mean() < 0.7
        assert len(changed) < 1.05 * len(body)


def test_a_thumbnail_goes_and_the_orientation_stays():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "holiday"
    body = encoded(picture((64, 48)), "JPEG", exif=exif, icc_profile=b"profile")
    changed, _ = blurred(body, FACE, Blur())
    image = Image.open(io.BytesIO(changed))
    assert dict(image.getexif()) == {0x0112: 6}
    assert image.info["icc_profile"] == b"profile"


def test_a_box_of_less_than_a_pixel_changes_no_byte():
    body = encoded(picture((64, 48)), "JPEG")
    assert blurred(body, [(0.5, 0.5, 0.501, 0.501)], Blur()) == (body, None)


@pytest.mark.parametrize(
    "body", [b"", b"no picture", encoded(picture((64, 48)), "JPEG")[:500], b"\x89PNG\r\n\x1a\n"]
)
def test_what_cannot_be_decoded_is_refused(body):
    with pytest.raises(Unblurrable, match="undecodable"):
        blurred(body, FACE, Blur())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, []),
        ([], []),
        ("[[0.1, 0.2, 0.3, 0.4]]", [(0.1, 0.2, 0.3, 0.4)]),
        ([[-0.05, 0, 1.2, 1]], [(0, 0, 1, 1)]),
        ([[0.9, 0.8, 0.1, 0.2]], [(0.1, 0.2, 0.9, 0.8)]),
        (np.array([[0, 0, 1, 1]]), [(0, 0, 1, 1)]),
    ],
)
def test_boxes_are_put_right(given, expected):
    assert read_boxes(given) == expected


@pytest.mark.parametrize(
    "given",
    [[[0.1, 0.2, 0.3]], [[0.1, 0.2, 0.3, float("nan")]], [[10, 20, 300, 400]], "not json", 7,
     [["a", "b", "c", "d"]], [0.1, 0.2, 0.3, 0.4], [[0, 0, 1, float("inf")]], {"x1": 0}, [None]],
)  # fmt: skip
def test_boxes_that_say_nothing_are_refused(given):
    with pytest.raises(Unblurrable, match="bad_boxes"):
        read_boxes(given)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    given_boxes=st.lists(st.lists(st.floats(-1, 2), min_size=4, max_size=4), max_size=4),
)
def test_any_box_on_any_picture_is_blurred_or_left(size, given_boxes):
    pixels = np.array(picture(size, "RGB"))
    changed = blur_boxes(pixels, read_boxes(given_boxes))
    assert changed.shape == pixels.shape


def table(file: Path, rows: list[tuple[str | None, object]]) -> str:
    pl.DataFrame(
        {"uid": [uid for uid, _ in rows], "face_bboxes": [value for _, value in rows]},
        strict=False,
    ).write_parquet(file)
    return str(file)


def test_boxes_are_joined_by_uid(tmp_path):
    names = [f"{n:032x}" for n in (5, 9, 2**127, 77, 3)]
    wanted = subset.sort(parse_uids([*names[:4], names[0]]))
    first = table(
        tmp_path / "a.parquet",
        [(names[4], [[0.0, 0.0, 1.0, 1.0]]), (names[2].upper(), [[0.1, 0.1, 0.2, 0.2], [0.5] * 4]),
         (names[1], []), (None, [[0.0] * 4]), ("5", [[0.3, 0.3, 0.4, 0.4]])],
    )  # fmt: skip
    second = table(
        tmp_path / "b.parquet", [(names[0], [[0.6, 0.6, 0.7, 0.7]]), (names[3], [[0.1, 0.2]])]
    )
    assert boxes.gather([first, second], wanted, str(tmp_path)) == 5
    found = boxes.load(str(tmp_path)).of(parse_uids([names[i] for i in (2, 1, 0, 4)]))
    assert found[0] == [(0.1, 0.1, 0.2, 0.2), (0.5,) * 4]
    assert found[1] == []
    assert sorted(found[2]) == [(0.3, 0.3, 0.4, 0.4), (0.6, 0.6, 0.7, 0.7)]
    assert found[3] == []  # not of the subset
    with pytest.raises(Unblurrable):
        read_boxes(boxes.load(str(tmp_path)).of(parse_uids([names[3]]))[0])
    assert format_uids(boxes.load(str(tmp_path)).uids) == sorted(
        [names[0], *names[:1], *names[2:4]]
    )


def test_a_table_without_boxes_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    pl.DataFrame({"uid": ["00"]}).write_parquet(file)
    with pytest.raises(ConfigError, match=r"a\.parquet lacks `uid` or `face_bboxes`"):
        boxes.gather([str(file)], parse_uids(["00"]), str(tmp_path))
    file.write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet cannot be read"):
        boxes.gather([str(file)], parse_uids(["00"]), str(tmp_path))
