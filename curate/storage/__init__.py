"""Files, wherever they are: list, read, and commit all-or-nothing, on a disk or an object store."""

from curate.storage.listing import (
    Entry,
    entries,
    entry,
    exists,
    folders,
    free_bytes,
    glob,
    names,
    size,
    unwritable,
)
from curate.storage.places import file_system, is_local, join, local_path
from curate.storage.reading import opened, read, read_array, read_json, read_rows, sha256
from curate.storage.writing import (
    commit,
    commit_array,
    commit_json,
    committing,
    create,
    move,
    remove,
    sweep,
)

__all__ = [
    "Entry",
    "commit",
    "commit_array",
    "commit_json",
    "committing",
    "create",
    "entries",
    "entry",
    "exists",
    "file_system",
    "folders",
    "free_bytes",
    "glob",
    "is_local",
    "join",
    "local_path",
    "move",
    "names",
    "opened",
    "read",
    "read_array",
    "read_json",
    "read_rows",
    "remove",
    "sha256",
    "size",
    "sweep",
    "unwritable",
]
