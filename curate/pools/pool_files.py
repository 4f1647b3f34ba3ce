"""The files that a pool is read from: found, and refused where they are not what they were."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import polars as pl

from curate import storage
from curate.errors import ConfigError, InputChanged
from curate.pipeline_file.schema import Source
from curate.pools import metadata, npz

REMEDY = (
    "Put the files back as they were, or start again in another `work:` folder; "
    "a pool may only grow."
)
_NAMED = 20  # files that one message names


def expand(pattern: str) -> list[str]:
    """Files that a path, glob or brace pattern names, sorted within each brace alternative."""
    if re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", pattern):
        from braceexpand import braceexpand

        alternatives = list(braceexpand(pattern))
    else:
        alternatives = [pattern]
    found: list[str] = []
    for alternative in alternatives:
        if any(character in alternative for character in "*?["):
            found += storage.glob(alternative)
        else:
            found.append(alternative)
    return found


def list_files(source: Source) -> list[storage.Entry]:
    """Every file of rows of a source, with size and version; errors name what is not there."""
    patterns = source.patterns()
    if source.metadata is not None:
        patterns = tuple(metadata.files_of(patterns))
    return _entries(source, patterns)


def list_pictures(source: Source) -> list[storage.Entry]:
    """Every tar that holds pictures of a metadata source's samples."""
    return _entries(source, source.picture_patterns())


def _entries(source: Source, patterns: Sequence[str]) -> list[storage.Entry]:
    urls: list[str] = []
    for pattern in patterns:
        found = expand(pattern)
        if not found:
            raise ConfigError(f"pool {source.name}: nothing matches {pattern}")
        urls += found
    repeated = len(urls) - len(set(urls))
    if repeated:
        raise ConfigError(f"pool {source.name}: {repeated} files are named more than once")
    return storage.entries(urls)


def list_arrays(sources: Iterable[Source]) -> dict[str, str]:
    """{file: version} of every array file beside the metadata of some sources."""
    found: list[str] = []
    folders: dict[str, set[str]] = {}  # each is listed once
    for source in sources:
        if source.metadata is None or source.arrays == "none":
            continue
        for file in list_files(source):
            for url in npz.files_beside(file.url):
                folder, _, name = url.rpartition("/")
                if folder not in folders:
                    folders[folder] = set(storage.names(folder or "."))
                if name in folders[folder]:
                    found.append(url)
    return {entry.url: entry.version for entry in storage.entries(found)}


def refuse_other_arrays(before: dict[str, str], now: dict[str, str]) -> None:
    """Raise InputChanged where an array file is gone or altered; new ones are welcome."""
    problems = [f"{url} is not there any more" for url in before if url not in now]
    problems += [
        f"{url} was modified since the pool was read"
        for url, version in before.items()
        if url in now and now[url] != version
    ]
    _refuse(problems)


def refuse_changes(table: pl.DataFrame, listed: dict[tuple[str, str], storage.Entry]) -> None:
    """Raise InputChanged where a file that was read is gone or altered."""
    problems = []
    for record in table.unique(["source", "url"], maintain_order=True).iter_rows(named=True):
        now = listed.get((record["source"], record["url"]))
        if now is None:
            problems.append(f"{record['url']} was in the pool and is not there any more")
        elif now.bytes != record["bytes"]:
            problems.append(f"{record['url']} had {record['bytes']} bytes and has {now.bytes}")
        elif now.version != record["version"]:
            problems.append(f"{record['url']} was modified since the pool was read")
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems[:_NAMED])
        raise InputChanged(
            f"the pool changed under this work folder ({len(problems)} files):\n{listing}\n{REMEDY}"
        )
