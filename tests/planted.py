"""Real pictures with planted duplicates, and what each method makes of them: precision and recall.

`python tests/planted.py [pictures]` prints a table for each collection. Every original (a real
picture, shown on white as a page shows it) is there with copies: the same bytes, re-encoded,
scaled, cropped, mirrored and with a watermark; and with a look-alike, which is no copy: of many
other pictures the one that is nearest to it by a small CLIP. Of those whose every pixel is nearly
the original's (the collections have duplicates of their own) none is taken.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import real_pictures
from PIL import Image, ImageDraw, ImageFont, ImageOps
from real_pictures import Pair
from tiny_pool import Drawn, Pipeline, ledger_of, tar_pool, write_shards

from curate.features.clip import Clip
from curate.score import open_features, score_samples

SIDES = (100, 900)  # pixels: of a side of an original, at least and at most
OTHERS = 500  # pictures that look-alikes are chosen from, at most
NEARLY_THE_SAME = 0.06  # mean difference of 24 x 24 pixels, where 1 is from black to white
ORIGINAL, LOOK_ALIKE = "original", "look-alike"


@dataclass(frozen=True)
class Sample:
    """One picture of the pool, and what it is known to be."""

    family: int  # of the original that it was made from
    kind: str  # original, look-alike, or what was done to it
    body: bytes

    @property
    def drawn(self) -> Drawn:
        key = f"{self.family:05d}{[*KINDS].index(self.kind):02d}"
        # uids are hashes of this, so that copies and originals come in any order.
        about = {"url": f"http://h/{key}.png", "original": float(self.kind not in CHANGES)}
        return Drawn(key, f"picture {self.family}, {self.kind}", about, self.body)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, share: float) -> Image.Image:
    """Without so much of its width and of its height, off all four sides in unequal parts."""
    rng = np.random.default_rng(image.width * 10_000 + image.height)
    left, top = (int(share * side * rng.random()) for side in image.size)
    width, height = (round(side * (1 - share)) for side in image.size)
    return image.crop((left, top, left + width, top + height))


def _watermarked(image: Image.Image) -> Image.Image:
    """With half-transparent letters across its middle, two thirds of its width."""
    font = ImageFont.load_default(size=image.width / 8)
    veil = Image.new("RGBA", image.size)
    middle = (image.width / 2, image.height / 2)
    ImageDraw.Draw(veil).text(
        middle, "© example", anchor="mm", font=font, fill=(255, 255, 255, 128),
        stroke_width=1, stroke_fill=(0, 0, 0, 128),
    )  # fmt: skip
    return Image.alpha_composite(image.convert("RGBA"), veil).convert("RGB")


CHANGES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "same bytes": _png,
    "jpeg 90": lambda image: _jpeg(image, 90),
    "jpeg 60": lambda image: _jpeg(image, 60),
    "jpeg 30": lambda image: _jpeg(image, 30),
    "scaled 0.5": lambda image: _png(_scaled(image, 0.5)),
    "scaled 2": lambda image: _png(_scaled(image, 2)),
    "cropped 5 %": lambda image: _png(_cropped(image, 0.05)),
    "cropped 10 %": lambda image: _png(_cropped(image, 0.1)),
    "mirrored": lambda image: _png(ImageOps.mirror(image)),
    "watermark": lambda image: _png(_watermarked(image)),
}
KINDS = (ORIGINAL, LOOK_ALIKE, *CHANGES)


def pool(pairs: Sequence[Pair], originals: int) -> list[Sample]:
    """So many originals of a collection, with their copies and look-alikes."""
    images = _real_images(pairs, originals + OTHERS)
    chosen, others = images[:originals], images[originals:]
    samples = []
    for family, (image, nearest) in enumerate(zip(chosen, _alike(chosen, others), strict=True)):
        samples.append(Sample(family, ORIGINAL, _png(image)))
        samples += [Sample(family, kind, change(image)) for kind, change in CHANGES.items()]
        if nearest is not None:
            samples.append(Sample(family, LOOK_ALIKE, _png(nearest)))
    return samples


def _real_images(pairs: Sequence[Pair], count: int) -> list[Image.Image]:
    """Some pictures on white, no two with the same pixels; chosen by the hash of their names."""
    found: dict[bytes, Image.Image] = {}
    for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.name.encode()).digest()):
        if len(found) == count:
            break
        if pair.path.suffix == ".svg" or pair.path.stat().st_size > 300_000:
            continue
        with Image.open(pair.path) as opened:
            if not SIDES[0] <= min(opened.size) <= max(opened.size) <= SIDES[1]:
                continue
            image = opened.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        shown = Image.alpha_composite(white, image).convert("RGB")
        found.setdefault(hashlib.sha256(shown.tobytes()).digest(), shown)
    return list(found.values())


def _embedded(images: Sequence[Image.Image]) -> np.ndarray:
    """[N, D] of length 1, by the small CLIP of the quickstart."""
    opened = open_features([Clip(model="quickstart")], "cpu")
    frame = pl.DataFrame({"caption": [""] * len(images)})
    columns = score_samples(opened, map(_png, images), frame, threads=2)
    return columns["clip"].arrays["image"].astype(np.float32)


def _alike(
    chosen: Sequence[Image.Image], others: Sequence[Image.Image]
) -> Iterator[Image.Image | None]:
    """Of each the nearest of the others that is not the same picture, and each of those once."""
    products = _embedded(chosen) @ _embedded(others).T
    small = [_small(image) for image in others]
    taken: set[int] = set()
    for image, row in zip(chosen, products, strict=True):
        own = _small(image)
        candidates = (int(place) for place in np.argsort(-row)[:20])
        free = (
            place
            for place in candidates
            if place not in taken and np.abs(small[place] - own).mean() > NEARLY_THE_SAME
        )
        place = next(free, None)
        if place is not None:
            taken.add(place)
        yield None if place is None else others[place]


def _small(image: Image.Image) -> np.ndarray:
    """[24, 24, 3] in 0..1."""
    return np.asarray(image.resize((24, 24), Image.Resampling.BOX), dtype=np.float32) / 255


# --- what becomes of them ------------------------------------------------------------------------

KEEP = {"highest": "original"}  # so that no original goes for the sake of a copy
HASH = {"perceptual_hash": {"hash": ["phash", "dhash"], "mirrored": True}}
DISTANCES = (0, 2, 4, 6, 8, 10, 12)
THRESHOLDS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85)


def _by_hash(of: str, **more: object) -> list[dict]:
    pairs = {"of": f"perceptual_hash.{of}", "radius": DISTANCES[-1], **more}
    return [HASH, {"hash_neighbours": pairs}]


def _near(distance: float) -> dict:
    return {"near_duplicates": {"distance": distance, "keep": KEEP}}


def _semantic(threshold: float) -> dict:
    return {"semantic_duplicates": {"threshold": threshold, "keep": KEEP}}


def _exact(_: float) -> dict:
    return {"exact_duplicates": {"by": ["image_file.sha256"], "keep": KEEP}}


@dataclass(frozen=True)
class Method:
    """A way to find duplicates, at several thresholds."""

    features: Sequence[dict]
    decide: Callable[[float], dict]
    thresholds: Sequence[float]


METHODS: Mapping[str, Method] = {
    "sha256": Method([{"image_file": {}}], _exact, [0]),
    "phash": Method(_by_hash("phash"), _near, DISTANCES),
    "dhash": Method(_by_hash("dhash"), _near, DISTANCES),
    "phash or mirrored": Method(
        _by_hash("phash", mirrored="perceptual_hash.phash_mirrored"), _near, DISTANCES
    ),
    "clip": Method(
        [
            {"clip": {"model": "quickstart"}},
            {"neighbours": {"of": "clip.image", "floor": THRESHOLDS[-1]}},
        ],
        _semantic,
        THRESHOLDS,
    ),
}


@dataclass(frozen=True)
class Found:
    """What a method at a threshold did."""

    method: str
    threshold: float
    recall: Mapping[str, float]  # {change: share of copies removed for the sake of their family}
    originals: float  # share of originals removed, all of them wrongly
    look_alikes: float  # share of look-alikes removed, all of them wrongly
    precision: float  # share of the removed that went for the sake of their family


def measured(
    folder: Path, samples: Sequence[Sample], methods: Mapping[str, Method] = METHODS
) -> Iterator[Found]:
    """Run a pipeline for every method and threshold; features are computed once for a method."""
    write_shards(folder / "pool", [sample.drawn for sample in samples], 3)
    known = {sample.drawn.uid: (sample.family, sample.kind) for sample in samples}
    for name, method in methods.items():
        for threshold in method.thresholds:
            steps = [*method.features, method.decide(threshold)]
            made = Pipeline(folder / name.replace(" ", "-"), tar_pool(folder / "pool"), steps)
            outcome = made.run()
            assert outcome.exit_code == 0, outcome
            ledger = ledger_of(made.work)
            yield _judged(name, threshold, ledger, known)


def _judged(
    method: str, threshold: float, ledger: pl.DataFrame, known: Mapping[str, tuple[int, str]]
) -> Found:
    right = dict.fromkeys(KINDS, 0)
    wrong = dict.fromkeys(KINDS, 0)
    total = dict.fromkeys(KINDS, 0)
    for uid, fate, because in ledger.select("uid", "fate", "because").iter_rows():
        family, kind = known[uid]
        total[kind] += 1
        if fate == "removed":
            same = known[because][0] == family and known[because][1] != LOOK_ALIKE
            told = right if same and kind in CHANGES else wrong
            told[kind] += 1
    removed = sum(right.values()) + sum(wrong.values())
    return Found(
        method,
        threshold,
        {kind: right[kind] / total[kind] for kind in CHANGES},
        wrong[ORIGINAL] / total[ORIGINAL],
        wrong[LOOK_ALIKE] / total[LOOK_ALIKE],
        sum(right.values()) / removed if removed else 1.0,
    )


def table(found: Iterator[Found]) -> Iterator[str]:
    """Lines of a Markdown table, in percent."""
    heads = ["method", "threshold", *CHANGES, "all copies", "precision", ORIGINAL, LOOK_ALIKE]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for one in found:
        recall = list(one.recall.values())
        shares = [*recall, sum(recall) / len(recall), one.precision, one.originals, one.look_alikes]
        cells = [one.method, f"{one.threshold:g}", *(f"{100 * share:.1f}" for share in shares)]
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    real_pictures.fetch()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    collections = {"stamps": real_pictures.stamps(), "openclipart": real_pictures.clipart()}
    for title, pairs in collections.items():
        planted = pool(pairs, count)
        sys.stdout.write(f"{title}: {len(planted):,} pictures\n")
        with tempfile.TemporaryDirectory() as scratch:
            for line in table(measured(Path(scratch), planted)):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
