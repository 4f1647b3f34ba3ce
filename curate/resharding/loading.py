"""The samples of a subset picked, and repeated, while a training run loads a pool's shards."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from curate.errors import ConfigError, StorageError
from curate.resharding import membership
from curate.sample import parse_uid, uid_of
from curate.subsets import subset

_KEY = re.compile(r"([0-9a-fA-F]{32})(?:-(\d+))?")
_SPREAD = 1000
Sample = dict[str, Any]


class Select:
    """A webdataset stage: samples in, those of a subset out, as often as it holds their uid.

    Copies are given apart, `spread` samples between two of them where there are so many left. A
    sample that is a later copy already (`{uid}-1` in shards that `write` made) is passed over, for
    its first one is repeated.
    """

    def __init__(self, url: str, spread: int) -> None:
        self._url = url
        self._spread = spread
        self._halves: memoryview | None = None  # [2 N]: upper and lower 64 bits in turn
        if not membership.is_sorted(subset.load(url)):
            raise StorageError(
                f"{url} is not sorted, and would lose samples: sort it first "
                f"(`curate subset sort {url} --out sorted.npy`)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_halves": None}  # a worker maps the file itself

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The stage.

        Raises:
            ConfigError: a sample tells no uid.
        """
        waiting: list[tuple[int, int, Sample]] = []  # (when it is due, its number, a copy)
        given = made = 0
        for sample in samples:
            uid, nth = uid_in(sample)
            copies = self.copies(uid) if nth == 0 else 0
            for j in range(copies):
                copy = {**sample, "__key__": f"{uid:032x}-{j}"}
                made += 1
                heapq.heappush(waiting, (given + j * self._spread, made, copy))
            while waiting and waiting[0][0] <= given:
                yield heapq.heappop(waiting)[2]
                given += 1
        while waiting:
            yield heapq.heappop(waiting)[2]

    def copies(self, uid: int) -> int:
        """How often the subset holds a uid of 128 bits."""
        if self._halves is None:
            halves: Any = subset.load(self._url).view(np.uint64)  # a buffer, which stubs don't say
            self._halves = memoryview(halves)
        first = _first_not_less(self._halves, uid)
        return _first_not_less(self._halves, uid + 1) - first


def _first_not_less(halves: memoryview, uid: int) -> int:
    """The first of N sorted uids that is not less than one; N where there is none."""
    upper, lower = uid >> 64, uid & (2**64 - 1)
    low, high = 0, len(halves) // 2
    while low < high:
        middle = (low + high) // 2
        there = halves[2 * middle]
        if there < upper or (there == upper and halves[2 * middle + 1] < lower):
            low = middle + 1
        else:
            high = middle
    return low


def uid_in(sample: Sample) -> tuple[int, int]:
    """(the uid of a webdataset sample, which copy of it this is), by the rules of a pool of tars.

    The `uid` in its JSON, decoded or not; else the uid that is its key; else the hash of its
    caption and URL.

    Raises:
        ConfigError: it has none of them.
    """
    fields = _fields(sample)
    key = str(sample.get("__key__", ""))
    named = _KEY.fullmatch(key.rsplit("/", 1)[-1])
    nth = int(named[2] or 0) if named else 0
    given = fields.get("uid")
    if given is None and named is not None:
        given = named[1]
    if given is None and fields.get("url") is not None:
        text = sample.get("txt", fields.get("caption"))
        caption = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        given = uid_of(caption, fields["url"])
    try:
        upper, lower = parse_uid(str(given))
    except ValueError:
        raise ConfigError(
            f"sample {key!r} of {sample.get('__url__')} tells no uid (its JSON says {given!r}): a "
            "subset picks by uid; put this stage before the JSON is dropped or renamed"
        ) from None
    return (upper << 64) | lower, nth


def _fields(sample: Sample) -> dict[str, Any]:
    body = sample.get("json")
    try:
        found = json.loads(body) if isinstance(body, (bytes, str)) else body
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def select(subset: str, spread: int = _SPREAD) -> Select:
    """A stage for `webdataset` that keeps the samples of a subset, and repeats them.

    For `WebDataset(...).compose(curate.select("subset.npy"))`, or in a `DataPipeline` behind
    `tarfile_to_samples()` and before anything is decoded or shuffled. Keys become `{uid}-{copy}`,
    as in shards that `curate write` makes. Picklable; a local file is mapped, and so shared by all
    workers of a machine.

    Args:
        subset: The sorted `u8,u8` .npy.
        spread: Samples between two copies of one, 0 for none; that many are held in memory for
            each further copy. A shuffle buffer behind this stage takes them farther apart.

    Raises:
        StorageError: it is no subset, or not sorted.
    """
    return Select(subset, spread)
