"""The English list of entries, built from packages: kept in the tests' cache, never committed.

`python tests/word_lists.py` builds it, if it is not there, and says where it is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import real_pictures

from curate import concepts
from curate.concepts.entry_list import write_entries

SCRIPT = Path(__file__).parents[1] / "pipelines" / "english_entries.py"
_MODULES = ("build.py", "entry_list.py", "presets.py", "sources.py")


def wordnet_folder() -> Path:
    """WordNet 3.0's database files, from Debian's package.

    Raises:
        real_pictures.Unavailable: This system has no such package, or it cannot be fetched now.
    """
    real_pictures._made("wordnet-base", partial(real_pictures._unpack, "wordnet-base"))
    return real_pictures.cache_folder() / "wordnet-base/usr/share/wordnet"


def english_entries() -> Path:
    """The list that `pipelines/english_entries.py` builds, about 265,000 entries; built once.

    Raises:
        real_pictures.Unavailable: There is no WordNet on this machine.
    """
    path = real_pictures.cache_folder() / f"english-entries-{_key()}.parquet"
    if not path.exists():
        built = script().english_entries(str(wordnet_folder()))
        write_entries(str(path), built.entries)
    return path


def english_entries_or_skip() -> Path:
    """The list, or skip the test that asks, and say why; in CI it fails instead."""
    import pytest  # not needed where this file is a script

    try:
        return english_entries()
    except real_pictures.Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no English list here: {error}")


def script() -> ModuleType:
    """`pipelines/english_entries.py`, which is no package's."""
    spec = importlib.util.spec_from_file_location("english_entries", SCRIPT)
    assert spec is not None, SCRIPT
    assert spec.loader is not None, SCRIPT
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _key() -> str:
    """The packages that the list comes from, and the code that makes it."""
    packages = "-".join(f"{name}-{version(name)}" for name in ("wordfreq", "wordsegment"))
    folder = Path(concepts.__file__).parent
    files = [SCRIPT, *(folder / name for name in _MODULES)]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"{packages}-{code[:12]}"


if __name__ == "__main__":
    sys.stdout.write(f"{english_entries()}\n")
