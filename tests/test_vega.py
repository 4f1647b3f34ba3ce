"""The scripts of the charts are made once for all processes of a user, and never taken on trust."""

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from curate.page import vega


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache folder of a user who has made no page yet."""
    folder = tmp_path / "cache" / "curate"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(folder))
    vega.bundle.cache_clear()
    yield folder
    vega.bundle.cache_clear()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions of those bundles that will be made."""
    made: list[str] = []
    monkeypatch.setattr(vega, "_made", lambda version: made.append(version) or "draw();\r\n")
    return made


def test_another_process_reads_what_one_has_made(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    scripts = []
    for _ in range(3):
        scripts.append(vega.bundle())
        vega.bundle.cache_clear()  # as another process begins
    assert scripts == ["draw();\r\n"] * 3
    assert len(made) == 1
    assert len(list(kept_in.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"steal();", b"\xff\xfe", b"0" * 64 + b"\ndraw();\r\n"])
def test_what_is_not_as_it_was_written_is_made_again(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    counted(monkeypatch)
    vega.bundle()
    (file,) = kept_in.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    vega.bundle.cache_clear()
    assert vega.bundle() == "draw();\r\n"
    assert file.read_bytes() == whole


def test_a_home_that_cannot_be_written_to_costs_time_only(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch)
    kept_in.parent.write_bytes(b"a file where the folder would be")
    assert vega.bundle() == "draw();\r\n"


@pytest.mark.parametrize("folder", ["~/.cache/curate", None])
def test_who_has_no_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    def found(_: str) -> str:
        if folder is None:
            raise RuntimeError("could not determine the home directory")
        return folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_dir", found)
    vega.bundle.cache_clear()
    made = counted(monkeypatch)
    assert vega.bundle() == "draw();\r\n"
    vega.bundle.cache_clear()
    assert len(made) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_real_script_survives_the_cache(kept_in: Path) -> None:
    made = vega.bundle()
    vega.bundle.cache_clear()
    assert vega.bundle() == made
    assert "vegaEmbed" in made
    assert list(kept_in.iterdir())
