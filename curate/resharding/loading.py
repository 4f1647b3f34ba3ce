"""The samples of a subset picked, and repeated, while a training run loads a pool's shards."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from curate import chance
from curate.errors import ConfigError, StorageError
from curate.resharding import membership
from curate.sample import UID, parse_uid, uid_of
from curate.subsets import subset

_KEY = re.compile(r"([0-9a-fA-F]{32})(?:-(\d+))?")
_SPREAD = 1000
Sample = dict[str, Any]


class _Count:
    """How often a sorted subset file holds a uid."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._halves: memoryview | None = None  # [2 N]: upper and lower 64 bits in turn
        if not membership.is_sorted(subset.load(url)):
            raise StorageError(
                f"{url} is not sorted, and would lose samples: sort it first "
                f"(`curate subset sort {url} --out sorted.npy`)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_halves": None}  # a worker maps the file itself

    def __call__(self, uid: int) -> int:
        if self._halves is None:
            halves: Any = subset.load(self._url).view(np.uint64)  # a buffer, which stubs don't say
            self._halves = memoryview(halves)
        first = _first_not_less(self._halves, uid)
        return _first_not_less(self._halves, uid + 1) - first


class Select:
    """A webdataset stage: samples in, those of a subset out, as often as it holds their uid.

    Copies are given apart, `spread` samples between two of them where there are so many left. A
    sample that is a later copy already (`{uid}-1` in shards that `write` made) is passed over, for
    its first one is repeated. With `bearers` it is a sample as any other, and has its share.
    """

    def __init__(self, url: str, spread: int, bearers: str | None = None) -> None:
        self._spread = spread
        self._bearers_url = bearers
        self._asked = _Count(url)
        self._bearers = _Count(bearers) if bearers is not None else None

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The stage.

        Raises:
            ConfigError: a sample tells no uid, or `bearers` lacks one that the subset holds.
        """
        waiting: list[tuple[int, int, Sample]] = []  # (when it is due, its number, a copy)
        given = made = 0
        for sample in samples:
            uid, nth = uid_in(sample)
            for j in range(self._share(sample, uid, nth)):
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
        return self._asked(uid)

    def _share(self, sample: Sample, uid: int, nth: int) -> int:
        """How many copies of a sample are given."""
        if self._bearers is None:
            return self._asked(uid) if nth == 0 else 0
        asked = self._asked(uid)
        if not asked:
            return 0
        bearers = self._bearers(uid)
        if not bearers:
            raise ConfigError(
                f"sample {sample.get('__key__')!r} of {sample.get('__url__')} has uid {uid:032x}, "
                f"which {self._bearers_url} has not: `bearers` holds the uid of every sample of "
                "the shards, once for each"
            )
        share, rest = divmod(asked, bearers)
        return share + (rest > 0 and _drawn(sample, uid) * bearers < rest)


def _drawn(sample: Sample, uid: int) -> float:
    """A number in [0, 1) by uid, tar and key: the same in every epoch, process and folder."""
    tar = str(sample.get("__url__", "")).rpartition("/")[2]
    row = np.array([(uid >> 64, uid & (2**64 - 1))], dtype=UID)
    return float(chance.uniform(0, "select", row, salt=f"{tar}/{sample.get('__key__')}")[0])


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


def select(subset: str, spread: int = _SPREAD, bearers: str | None = None) -> Select:
    """A stage for `webdataset` that keeps the samples of a subset, and repeats them.

    For `WebDataset(...).compose(curate.select("subset.npy"))`, or in a `DataPipeline` behind
    `tarfile_to_samples()` and before anything is decoded or shuffled. Keys become `{uid}-{copy}`,
    as in shards that `curate write` makes. Picklable; a local file is mapped, and so shared by all
    workers of a machine.

    Where several samples share a uid, a stream cannot tell how many there are. By default each of
    the m bearers of a uid is given all n copies that the subset holds: n m, not n. A subset that
    `curate run` made from such a pool holds the uid once for each bearer it kept, so that all of
    them kept would come m times as often as selected. Give `bearers` then: each bearer is given
    n // m copies, and one more by a draw of chance (n % m) / m, from a hash of uid, tar and key.
    That is exact where m divides n, as where all bearers were kept once, and n on average else:
    the number of a uid's copies may be off by up to m - 1, the same in every epoch. Bearers number
    their copies from 0 each: their keys are not unique. `curate write` shares copies out exactly,
    and numbers them.

    Args:
        subset: The sorted `u8,u8` .npy.
        spread: Samples between two copies of one, 0 for none; that many are held in memory for
            each further copy. A shuffle buffer behind this stage takes them farther apart.
        bearers: A sorted `u8,u8` .npy of the uids of all samples in the shards, once for each
            sample: the subset that a pipeline without filters makes of them, or what `curate
            subset union --copies sum` makes of their metadata, had all of it been downloaded.
            Copies in shards that `curate write` made count as samples, and none is passed over.

    Raises:
        StorageError: a file is no subset, or not sorted.
    """
    return Select(subset, spread, bearers)
