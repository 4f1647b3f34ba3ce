"""Pictures that samples are compared with: found in folders and tars, and scored by a feature."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import ValidationError

from curate import features, storage
from curate.errors import ConfigError, StorageError, did_you_mean
from curate.features import Columns, Feature, Picture, Scorer, Unscorable
from curate.features._given.array_files import identity, is_many, listed, within

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm",
)  # fmt: skip
MOST = 50_000  # pictures, which every worker embeds when it starts
THREADS = 8  # that decode


@dataclass(frozen=True)
class PictureFiles:
    """What a user gave: picture files, tars of them, folders or patterns of either."""

    given: tuple[str, ...]

    def problems(self, field: str) -> list[str]:
        """What is wrong, as far as can be told without decoding the pictures."""
        missing = [one for one in self.given if not is_many(one) and not storage.exists(one)]
        if missing:
            return [f"{field}: there is no file {one}" for one in missing]
        try:
            count = self.count()
        except (StorageError, ConfigError) as error:
            return [f"{field}: {error}"]
        if count == 0:
            return [f"{field}: there are no pictures in {', '.join(self.given)}"]
        if count > MOST:
            return [
                f"{field}: {count:,} pictures are more than the {MOST:,} that every worker embeds "
                "when it starts: embed them once by a pipeline of their own, and give the folder "
                "that it leaves, work/features/NAME"
            ]
        return []

    def recipe(self) -> list[dict[str, str | int]]:
        """Names and SHA-256."""
        return [identity(one, self._named(one)) for one in self.given]

    def count(self) -> int:
        """How many pictures there are."""
        return sum(len(_names_in(file)) if _is_tar(file) else 1 for _, file in self._all())

    def read(self) -> Iterator[tuple[str, bytes]]:
        """(name, picture file) of each, in order."""
        for name, file in self._all():
            if _is_tar(file):
                yield from ((f"{name}/{inner}", body) for inner, body in _tarred(file))
            else:
                yield name, storage.read(file)

    def _all(self) -> list[tuple[str, str]]:
        return [pair for one in self.given for pair in self._named(one)]

    def _named(self, one: str) -> list[tuple[str, str]]:
        """(name, URL) of each picture or tar that one of the given leads to."""
        files = [file for file in listed(one) if is_picture(file)] if is_many(one) else [one]
        return [(within(one, file), file) for file in files]


def is_picture(file: str) -> bool:
    """Whether a file's name is that of a picture, or of a tar."""
    return file.lower().endswith((*ENDINGS, ".tar"))


def holds_pictures(given: Sequence[str]) -> bool:
    """Whether what a user gave leads to pictures, not to arrays."""
    first = given[0] if given else ""
    return any(map(is_picture, listed(first) if is_many(first) else [first]))


def _is_tar(file: str) -> bool:
    return file.lower().endswith(".tar")


@contextmanager
def _members(tar: str) -> Iterator[tarfile.TarFile]:
    with storage.opened(tar) as handle:
        try:
            with tarfile.open(fileobj=handle, mode="r:") as members:
                yield members
        except tarfile.TarError as error:
            raise ConfigError(f"{tar} cannot be read as a tar: {error}") from None


def _names_in(tar: str) -> list[str]:
    with _members(tar) as members:
        return [member.name for member in members if _wanted(member)]


def _tarred(tar: str) -> Iterator[tuple[str, bytes]]:
    with _members(tar) as members:
        for member in members:
            held = members.extractfile(member) if _wanted(member) else None
            if held is not None:
                yield member.name, held.read()


def _wanted(member: tarfile.TarInfo) -> bool:
    return member.isfile() and member.name.lower().endswith(ENDINGS)


# --- how they are scored


By = Mapping[str, Mapping[str, Any]]  # {kind of step: its fields}


def feature_of(by: By) -> Feature:
    """The feature that a user says scores the pictures; ConfigError says what is wrong with it."""
    if len(by) != 1:
        raise ConfigError("by: name one kind of step, as in `by: {image_model: {model: ...}}`")
    ((kind, fields),) = by.items()
    if kind not in features.names():
        raise ConfigError(did_you_mean(kind, features.names(), "by: no feature"))
    chosen = features.find(kind)
    if not chosen.pictures:
        raise ConfigError(f"by: `{kind}` looks at no pictures")
    try:
        made = chosen(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("by", kind, *first["loc"])))
        raise ConfigError(f"{place}: {first['msg']}") from None
    if found := made.problems():
        raise ConfigError(f"by.{kind}: {found[0]}")
    return made


def identity_of(feature: Feature) -> dict[str, Any]:
    """All that a feature's numbers depend on, whatever its step is called."""
    fields = feature.model_dump(mode="json", exclude={"name"})
    return {"version": feature.version, **fields, **feature.recipe()}


class _Mirrored(Picture):
    """The same picture, left and right exchanged."""

    @cached_property
    def rgb(self) -> Image.Image:
        from PIL import ImageOps

        return ImageOps.mirror(super().rgb)


def score_pictures(
    scorer: Scorer, files: PictureFiles, made: Callable[[bytes], Picture]
) -> Iterator[tuple[list[str], Columns]]:
    """(names, columns) of the pictures, batch by batch, in order.

    Args:
        scorer: An opened feature that reads no column but the caption.
        files: The pictures.
        made: What is scored of a file: `Picture`, or `mirrored`.

    Raises:
        ConfigError: a picture cannot be scored, and would silently be no reference.
    """
    with ThreadPoolExecutor(THREADS, "references") as pool:

        def one(named: tuple[str, bytes]) -> Any:
            try:
                return scorer.prepare(made(named[1]))
            except Unscorable as error:
                raise ConfigError(
                    f"the reference {named[0]} cannot be read ({error.kind}): repair or remove it"
                ) from None

        for batch in _batches(files.read(), scorer.batch):
            prepared = list(pool.map(one, batch))
            frame = pl.DataFrame({"caption": pl.Series([None] * len(batch), dtype=pl.String)})
            yield [name for name, _ in batch], scorer.score(prepared, frame)


def mirrored(body: bytes) -> Picture:
    """A picture file with left and right exchanged."""
    return _Mirrored(body)


def _batches(named: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    while batch := list(islice(named, size)):
        yield batch
