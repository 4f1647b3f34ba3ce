"""The files that a reshard reads, by what tells them apart, and the folder that it writes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curate import storage
from curate.errors import ConfigError, RecipeChanged
from curate.pools.pool_files import expand
from curate.resharding import membership
from curate.shards.shard_uids import companion
from curate.step import Recipe, differences, fingerprint
from curate.subsets import subset
from curate.subsets.sorted_files import write_header

_OURS = re.compile(
    r"\d{8}\.tar|\d{8}_stats\.json|(sizes|meta|manifest|recipe|reshard)\.json"
    r"|(sample_ids|missing)\.npy|lost\.jsonl"
)
_CHUNK = 4_000_000  # uids hashed at once
_DIGEST = re.compile(r"'([0-9a-f]{8})[0-9a-f]{56}'")
_MEANING = {
    "subset.sha256": "the subset holds other uids than sample_ids.npy there",
    "inputs": "the shards, or the parquet files beside them, have other names, sizes or times",
    "boxes": "the box tables have other names, sizes or times",
}


def tars(pattern: str) -> list[storage.Entry]:
    """The tars that a folder, path, glob or brace pattern names, in order."""
    return _files(pattern, ".tar")


def tables(pattern: str) -> list[storage.Entry]:
    """The parquet files that a folder, path, glob or brace pattern names, in order."""
    return _files(pattern, ".parquet")


def _files(pattern: str, suffix: str) -> list[storage.Entry]:
    urls = expand(pattern) if pattern.endswith(suffix) or set("*?[{") & set(pattern) else []
    if not urls:
        inside = [name for name in storage.names(pattern) if name.endswith(suffix)]
        urls = [storage.join(pattern, name) for name in inside]
    urls = [url for url in urls if url.endswith(suffix)]
    if not urls:
        raise ConfigError(f"{pattern}: no {suffix} file is there")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"{pattern}: {len(urls) - len(set(urls))} files are named more than once")
    return storage.entries(urls)


def companions(found: Sequence[storage.Entry]) -> list[storage.Entry]:
    """The parquet files that lie beside tars."""
    folders: dict[str, set[str]] = {}
    for tar in found:
        folder = tar.url.rpartition("/")[0]
        if folder.startswith("http"):  # a web server's listing is a page
            return storage.entries([c for c in map(_companion_of, found) if storage.exists(c)])
        if folder not in folders:
            folders[folder] = set(storage.names(folder or "."))
    beside = map(_companion_of, found)
    there = [url for url in beside if url.rpartition("/")[2] in folders[url.rpartition("/")[0]]]
    return storage.entries(there)


def _companion_of(tar: storage.Entry) -> str:
    return companion(tar.url)


def listing(found: Sequence[storage.Entry]) -> str:
    """64 hex digits for the names, sizes and versions of files, wherever they lie."""
    return fingerprint([[file.url.rpartition("/")[2], file.bytes, file.version] for file in found])


def content(url: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """What tells a subset from another: the SHA-256 of its rows, which is not taken twice.

    They are taken in order, behind the usual header, so that it is that of `sample_ids.npy`: a
    sorted copy is the same subset.

    Args:
        url: The file.
        known: What this said before, if it is remembered.
    """
    entry = storage.entry(url)
    version = hashlib.sha256(f"{entry.bytes} {entry.version}".encode()).hexdigest()
    if known is not None and known.get("version") == version:
        return known
    digest = _sorted_sha256(url)
    same = known is not None and known.get("sha256") == digest
    return known if same and known is not None else {"sha256": digest, "version": version}


def _sorted_sha256(url: str) -> str:
    uids = subset.load(url)
    if not membership.is_sorted(uids):
        uids = subset.sort(np.asarray(uids))
    header = io.BytesIO()
    write_header(header, len(uids))
    digest = hashlib.sha256(header.getvalue())
    for start in range(0, len(uids), _CHUNK):
        digest.update(uids[start : start + _CHUNK].tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Folder:
    """Where a reshard writes."""

    url: str

    def file(self, name: str) -> str:
        return storage.join(self.url, name)

    @property
    def work(self) -> str:
        """What is needed until all is written."""
        return self.file("work")

    def refuse_input(self, urls: Sequence[str]) -> None:
        """Refuse to write among the files that are read.

        Raises:
            ConfigError: the folder holds one of them.
        """
        inside = [url for url in urls if _folder(url) == _absolute(self.url)]
        if inside:
            raise ConfigError(f"{self.url} holds {inside[0]}, which is read; give another --out")

    def remembered(self) -> dict[str, Any] | None:
        """What the recipe there says of its subset file."""
        claimed = self.file("recipe.json")
        if not storage.exists(claimed):
            return None
        found: dict[str, Any] | None = storage.read_json(claimed).get("subset")
        return found

    def claim(
        self, recipe: Recipe, existing: Literal["refuse", "overwrite"]
    ) -> dict[str, Any] | None:
        """Make the folder this recipe's; its result where all of it was written before.

        Raises:
            RecipeChanged: it is another's, and `existing` is `refuse`.
        """
        claimed = self.file("recipe.json")
        before = storage.read_json(claimed) if storage.exists(claimed) else None
        if before == recipe and self._is_whole(fingerprint(recipe)):
            storage.remove(self.work)  # a run was killed at its very end
            found: dict[str, Any] = storage.read_json(self.file("reshard.json"))
            return found
        if before != recipe:
            others = [name for name in storage.names(self.url) if _OURS.fullmatch(name)]
            if others and existing == "refuse":
                self._refuse(before, recipe, others)
            # The recipe goes last: until then the folder is not taken for anything else.
            for name in sorted(others, key=lambda name: (name == "recipe.json", name)):
                storage.remove(self.file(name))
            storage.remove(self.work)
            storage.commit_json(claimed, recipe)
        storage.sweep(self.url)
        return None

    def _refuse(self, before: Recipe | None, recipe: Recipe, others: Sequence[str]) -> None:
        remedy = "Give another --out, or throw what is there away with `--overwrite`."
        if before is None:
            raise RecipeChanged(
                f"{self.url} holds {len(others)} files that were not written by this command, "
                f"{others[0]} for one.\n{remedy}"
            )
        lines = "\n".join(f"  {line}" for line in _said(differences(before, recipe)))
        raise RecipeChanged(f"{self.url} was written from something else:\n{lines}\n{remedy}")

    def _is_whole(self, wanted: str) -> bool:
        """Whether the sealed folder of a fingerprint has every tar, with its bytes."""
        manifest = self.file("manifest.json")
        if not storage.exists(manifest):
            return False
        sealed = storage.read_json(manifest)
        if sealed["fingerprint"] != wanted or not sealed["bytes"].keys() <= set(
            storage.names(self.url)
        ):
            return False
        found = storage.entries([self.file(name) for name in sealed["bytes"]])
        return [file.bytes for file in found] == list(sealed["bytes"].values())


def _said(lines: Sequence[str]) -> Iterator[str]:
    """Differences of recipes in words, where they are hashes."""
    for line in lines:
        field, _, values = line.partition(": ")
        if field in _MEANING:
            values = _DIGEST.sub(r"\1...", values)
            yield f"{_MEANING[field]} ({field} {values})"
        elif field != "subset.version":  # a time and a size: the sum tells it
            yield line


def _folder(url: str) -> str:
    return _absolute(url.rpartition("/")[0] or ".")


def _absolute(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url.rstrip("/")
