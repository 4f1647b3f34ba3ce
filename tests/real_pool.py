"""A pool of real pictures with planted faults, and what must become of each of its rows.

What must become is worked out here from the files and the faults alone: nothing of curate is asked.
"""

from __future__ import annotations

import hashlib
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from picture_server import HTML, SILENT, Answer, opted_out, redirect, truncated
from PIL import Image
from real_pictures import Pair, clipart, stamps

MAX_PIXELS = 89_478_485  # Pillow's limit, and the download's default
IMAGE_SIZE = 512
EACH = 5  # rows of every planted fault
ENDLESS_BYTES = 12_000_000  # the download's limit here; the largest real file has 4.3 MB
MAIL = re.compile(r"\S+@\S+")

Fate = tuple[str, str] | None  # (step, reason) of a removal

# What a host does that should have a picture: {fault: what it must lead to}.
FAULTS: Mapping[str, Fate] = {
    "forbidden": ("download", "http_403"),
    "gone": ("download", "http_410"),
    "broken": ("download", "http_500"),
    "slow": ("download", "too_slow"),
    "silent": ("download", "timeout"),
    "hangs_up": ("download", "truncated_body"),
    "endless": ("download", "too_many_bytes"),
    "cut": ("download", "undecodable"),
    "page": ("download", "not_an_image"),
    "empty": ("download", "not_an_image"),
    "opted_out": ("download", "opted_out"),
    "loop": ("download", "too_many_redirects"),
    "recovers": None,  # the download retries once
    "chunked": None,
    "moved": None,
}
# URLs that no answer of ours is behind: {fault: (the URL of a number, the reason)}.
NOWHERE: Mapping[str, tuple[str, str]] = {
    "dead": ("http://{host}/dead/{number}.png", "http_404"),
    "refused": ("http://127.0.0.1:{closed}/{number}.png", "connection_refused"),
    "credentials": ("http://169.254.169.254/{number}.png", "refused_address"),
    "local_file": ("file:///etc/hostname?{number}", "refused_scheme"),
}


@dataclass(frozen=True)
class Row:
    """One row of the URL list."""

    url: str
    caption: str
    origin: str  # stamps, clipart, or a planted fault
    path: Path | None = None  # the picture that the URL stands for
    planted: Fate = None  # what the fault in it must lead to

    @property
    def uid(self) -> str:
        """DataComp's: md5 of caption and URL."""
        return hashlib.md5((self.caption + self.url).encode()).hexdigest()

    @cached_property
    def body(self) -> bytes:
        assert self.path is not None, self
        return self.path.read_bytes()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """(width, height) by the file's header; None where the file is no picture."""
        assert self.path is not None, self
        if self.path.suffix == ".svg":
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                with Image.open(self.path) as image:
                    return image.size
            finally:
                Image.MAX_IMAGE_PIXELS = limit


@dataclass(frozen=True)
class RealPool:
    """What is served, and the rows that point at it."""

    answers: Mapping[str, Path | Answer]
    targets: Sequence[tuple[str, Pair, str, Fate]]  # (path, pair, origin, planted)
    repeated: Sequence[tuple[str, Pair]]  # rows whose URL another row has, under another caption

    def rows(self, host: str) -> list[Row]:
        """The rows, once it is known where the pictures are served."""
        rows = [
            Row(f"http://{host}{path}", pair.caption, origin, pair.path, planted)
            for path, pair, origin, planted in self.targets
        ]
        for path, pair in self.repeated:
            caption = f"{pair.caption} Seen again."
            rows.append(Row(f"http://{host}{path}", caption, "repeated", pair.path))
        return [*rows, *_nowhere(host)]


def real_pool(every: int = 1) -> RealPool:
    """All real pairs, or each `every`th; planted faults are as many whatever the share."""
    collections = {"stamps": stamps(every), "clipart": clipart(every)}
    answers: dict[str, Path | Answer] = {}
    targets: list[tuple[str, Pair, str, Fate]] = []
    for origin, pairs in collections.items():
        for pair in pairs:
            path = f"/{origin}/{quote(pair.name)}"
            answers[path] = pair.path
            targets.append((path, pair, origin, None))
    # Faults are planted in stamps, so that what is known of openclipart stays as it is.
    good = [pair for pair in collections["stamps"] if len(pair.caption.split()) > 2]
    good = [pair for pair in good if pair.path.suffix == ".png"]
    for number, pair in enumerate(good[:EACH]):
        for fault, answer in _faulty(pair, f"{number}.png").items():
            answers[f"/{fault}/{number}.png"] = answer
            targets.append((f"/{fault}/{number}.png", pair, fault, FAULTS[fault]))
    targets += _foreign(good, answers)
    repeated = [(f"/stamps/{quote(pair.name)}", pair) for pair in good[-2 * EACH :]]
    return RealPool(answers, targets, repeated)


def _faulty(pair: Pair, file: str) -> dict[str, Answer]:
    body = pair.path.read_bytes()
    return {
        "forbidden": Answer(status=403),
        "gone": Answer(status=410),
        "broken": Answer(status=500),
        "slow": Answer(body, drip_s=0.5),
        "silent": SILENT,
        "hangs_up": truncated(body),
        "endless": Answer(body, endless=True),
        "cut": Answer(body[: len(body) * 9 // 10]),
        "page": HTML,
        "empty": Answer(b""),
        "opted_out": opted_out(body),
        "loop": redirect(f"/loop/{file}"),
        "recovers": Answer(body, failures=1),
        "chunked": Answer(body, chunked="whole"),
        "moved": redirect(f"/stamps/{quote(pair.name)}"),
    }


def _foreign(
    pairs: Sequence[Pair], answers: dict[str, Path | Answer]
) -> Iterator[tuple[str, Pair, str, Fate]]:
    """The same pictures under captions in scripts that cannot be taken for English."""
    for locale in ("ru", "el"):
        told = [pair for pair in pairs if len(pair.translations.get(locale, "").split()) > 1]
        for number, pair in enumerate(told[: 4 * EACH]):
            path = f"/{locale}/{number}.png"
            answers[path] = pair.path
            caption = pair.translations[locale]
            yield path, Pair(pair.name, pair.path, caption), locale, ("english", "false")


def _nowhere(host: str) -> Iterator[Row]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]  # free again when this ends: nobody listens there
    for fault, (pattern, reason) in NOWHERE.items():
        for number in range(EACH):
            url = pattern.format(host=host, closed=port, number=number)
            yield Row(url, f"a picture that is {fault}", fault, None, ("download", reason))


def fates(rows: Sequence[Row], languages: Mapping[str, str]) -> dict[str, Fate]:
    """{uid: fate} after every step but the last, which needs a CLIP.

    Args:
        rows: The whole pool.
        languages: {caption: ISO 639 code}.
    """
    found: dict[str, Fate] = {}
    left = sorted(rows, key=lambda row: row.uid)
    steps: tuple[Callable[[Row], Fate], ...] = (
        _first_of(lambda row: row.url, "same_url"),
        _mail,
        _caption,
        _download,
        _image_size,
        lambda row: None if languages[row.caption] == "en" else ("english", "false"),
        _first_of(lambda row: row.sha256, "same_image"),
    )
    for step in steps:
        said = {row.uid: step(row) for row in left}
        found.update(said)
        left = [row for row in left if said[row.uid] is None]
    return found


def _first_of(key: Callable[[Row], str], step: str) -> Callable[[Row], Fate]:
    """Rows come in the order of their uids: the first with a key stays."""
    seen: set[str] = set()

    def fate(row: Row) -> Fate:
        if key(row) in seen:
            return step, "duplicate"
        seen.add(key(row))
        return None

    return fate


def _mail(row: Row) -> Fate:
    return ("no_mail", "false") if MAIL.fullmatch(row.caption) else None


def _caption(row: Row) -> Fate:
    return ("caption", "too_few_words") if len(row.caption.split()) < 2 else None


def _download(row: Row) -> Fate:
    if row.planted is not None and row.planted[0] == "download":
        return row.planted
    if row.size is None:
        return "download", "not_an_image"
    width, height = row.size
    return ("download", "too_many_pixels") if width * height > MAX_PIXELS else None


def _image_size(row: Row) -> Fate:
    assert row.size is not None, row
    shorter, longer = sorted(row.size)
    if shorter < 32:
        return "image_size", "too_small"
    return ("image_size", "too_elongated") if longer / shorter > 4 else None
