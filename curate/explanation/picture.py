"""The picture of a sample: its original bytes, and a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from curate import columns, storage
from curate.errors import ConfigError, CurateError, first_line
from curate.explanation.finding import tar_of
from curate.explanation.row import Row
from curate.explanation.schema import PictureFile
from curate.pools.intake import PROBLEM
from curate.report.facts import public
from curate.shards.shard import IMAGE_EXTENSIONS, picture, read_samples


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture, or why there are none."""

    tar: str | None = None
    key: str | None = None
    extension: str = ""
    body: bytes | None = None
    why: str | None = None


def picture_of(row: Row) -> Picture:
    """What the tar of a sample has of it."""
    plan = row.facts.plan
    registry = plan.registries[-1]
    if "key" not in registry:
        return Picture(why="the pool has no pictures, and no download fetched any")
    why = _why_not_fetched(row)
    if why is not None:
        return Picture(why=why)
    key = row.values(registry, ["key"])["key"]
    if key is None:
        problem = columns.read_pool(plan.work, [PROBLEM], row.span)[PROBLEM][0]
        return Picture(why=f"the pool has none for it ({problem or 'no picture'})")
    return _in_tar(tar_of(plan, row.facts.pool.table, row.span, 0), key)


def _why_not_fetched(row: Row) -> str | None:
    """What a download has instead of a picture; None where it has one, or there is none."""
    plan = row.facts.plan
    download = plan.download()
    if download is None:
        return None
    names = [f"{download.name}.{field}" for field in ("status", "error")]
    status, error = row.values(plan.registries[-1], names).values()
    if status == "success":
        return None
    if status is not None:
        return f"it could not be fetched: {error or status}"
    if 0 <= row.stop < plan.index(download.name):
        return f"never fetched: removed before, by {plan.steps[row.stop].name}"
    return "never fetched"


def _in_tar(tar: str, key: str) -> Picture:
    shown = public(tar)
    try:
        sample = next(read_samples(tar, {key}, IMAGE_EXTENSIONS), None)
        if sample is None:
            return Picture(shown, key, why=f"{shown} has no sample {key!r} any more")
        member = picture(sample)
        if member is None:
            return Picture(shown, key, why="its sample in the tar has no picture")
        return Picture(shown, key, member[0], bytes(member[1]))
    except CurateError as error:
        said = first_line(error).replace(tar, shown)
        return Picture(shown, key, why=f"its tar cannot be read: {said}")


@dataclass(frozen=True)
class Wish:
    """Where pictures are to be written."""

    file: str | None = None  # absent: `<uid>.<extension>` in the current folder
    write: bool = True


def write_picture(found: Picture, stem: str, wish: Wish, taken: dict[str, bytes]) -> PictureFile:
    """Write a picture beside those that this command has written already.

    Args:
        found: The picture.
        stem: The name of the file without ending, unless the wish names one.
        wish: Where to.
        taken: {file: its bytes} of what was written; added to.

    Raises:
        ConfigError: another file has that name, or it cannot be written.
    """
    why = found.why if found.body is None else None if wish.write else "not asked for"
    if found.body is None or not wish.write:
        size = len(found.body) if found.body is not None else None
        return PictureFile(file=None, bytes=size, tar=found.tar, key=found.key, why=why)
    path = _free(Path(wish.file or f"{stem}.{found.extension}"), found.body, taken)
    taken[str(path)] = found.body
    _commit(path, found.body)
    size = len(found.body)
    return PictureFile(file=str(path), bytes=size, tar=found.tar, key=found.key, why=None)


def _free(path: Path, body: bytes, taken: Mapping[str, bytes]) -> Path:
    """The path, or one with a number where this command gave it to another picture."""
    number, wanted = 1, path
    while taken.get(str(wanted), body) != body:
        number += 1
        wanted = path.with_stem(f"{path.stem}-{number}")
    return wanted


def _commit(path: Path, body: bytes) -> None:
    remedy = "name another with --picture, or add --no-picture"
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: {remedy}")
    if path.exists():
        if path.read_bytes() != body:
            raise ConfigError(f"{path} is there and is another file: {remedy}")
        return
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for the picture: {remedy}")
    try:
        storage.commit(str(path), body)
    except (CurateError, OSError) as error:
        raise ConfigError(f"{path} cannot be written: {error}; {remedy}") from None
