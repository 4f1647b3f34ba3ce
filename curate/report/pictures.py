"""Small pictures of the samples that a report shows, read from their tars."""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from curate import storage
from curate.errors import CurateError
from curate.features import Picture, Unscorable
from curate.page import Place
from curate.page.galleries import OPEN_GROUPS
from curate.pools.pictures import load_tars
from curate.report.facts import Facts, public
from curate.runner import Runner
from curate.shards.shard import IMAGE_EXTENSIONS, picture, read_samples

SIDE = 96  # pixels of the longer side
QUALITY = 80  # of the JPEG: some 3 kB
MOST_BYTES = 7_000_000  # of the data URIs of a page, as often as they are shown
MOST_SHOWN = 4_000  # pictures of a page
MOST_TARS = 256  # that are read on this machine: the headers of 10,000 samples take 0.1 to 0.3 s
MOST_REMOTE_TARS = 32  # an object is read from its beginning to the last sample wanted
LEFT_OUT = ""  # in place of a picture that the page has no room for

Job = tuple[str, dict[str, list[Place]]]  # a tar, and who is wanted of it by key
Sample = dict[str, Any]


def samples_of(report: Mapping[str, Any]) -> Iterator[Sample]:
    """Every sample that a report shows, as often as it does; those first that matter most."""
    galleries: list[list[Sample]] = []
    tenths: list[list[Sample]] = []
    for gallery in report.get("examples", ()):
        (tenths if gallery.get("chosen") == "decile" else galleries).append(gallery["samples"])
    groups = [
        [
            [*([group["kept"]] if group["kept"] else []), *group["removed"]]
            for group in own["largest"]
        ]
        for own in report.get("duplicates", ())
    ]
    yield from _all(galleries)
    yield from _all(loss["examples"] for loss in report.get("losses", ()))
    for own in groups:
        yield from _all(own[:OPEN_GROUPS])
    for clusters in report.get("clusters", ()):
        yield from _all(
            card[side] for card in clusters["cards"] for side in ("central", "outlying")
        )
    yield from _all(tenths)
    for own in groups:
        yield from _all(own[OPEN_GROUPS:])


def _all(lists: Any) -> Iterator[Sample]:
    return itertools.chain.from_iterable(lists)


def load(facts: Facts, report: dict[str, Any], runner: Runner) -> dict[Place, str]:
    """{place: data URI}; whose picture is missing or cannot be decoded is left out.

    Where a page would have too many, or of too many tars, those that matter least are LEFT_OUT.
    """
    found: dict[Place, str] = {}
    jobs, beyond = _jobs(facts, report)
    for thumbnails in runner.map(_of_tar, sorted(jobs.items()), "report"):
        found.update(thumbnails)
    return {**within(report, found, MOST_BYTES), **dict.fromkeys(beyond, LEFT_OUT)}


def within(report: Mapping[str, Any], pictures: Mapping[Place, str], room: int) -> dict[Place, str]:
    """The pictures that fit into so many bytes of a page, the others LEFT_OUT.

    Those come first that matter most, and from the first on that does not fit none is shown.
    """
    times = Counter(_place(sample) for sample in samples_of(report))
    found: dict[Place, str] = {}
    for place, count in times.items():  # in the order in which each was first seen
        if place in pictures:
            room -= count * len(pictures[place])
            found[place] = pictures[place] if room >= 0 else LEFT_OUT
    return found


def fewer(
    report: Mapping[str, Any], pictures: Mapping[Place, str], too_many: int
) -> dict[Place, str]:
    """Pictures that take so many bytes less."""
    times = Counter(_place(sample) for sample in samples_of(report))
    taken = sum(times[place] * len(uri) for place, uri in pictures.items())
    return within(report, pictures, max(0, taken - too_many))


def _place(sample: Mapping[str, Any]) -> Place:
    return sample["shard"], sample["row"]


def _jobs(
    facts: Facts, report: Mapping[str, Any]
) -> tuple[dict[str, dict[str, list[Place]]], list[Place]]:
    """({tar: {key: places}}, places that there is no room for)."""
    samples: dict[Place, Sample] = {}
    times: Counter[Place] = Counter()
    for sample in samples_of(report):
        if sample["tar"] is not None:
            samples.setdefault(_place(sample), sample)
            times[_place(sample)] += 1
    tar_of, room = _finder(facts), MOST_SHOWN
    jobs: dict[str, dict[str, list[Place]]] = {}
    tars = {"here": MOST_TARS, "elsewhere": MOST_REMOTE_TARS}
    beyond = []
    for place, sample in samples.items():
        tar = tar_of(sample)
        where = "here" if storage.is_local(tar) else "elsewhere"
        room -= times[place]
        if room < 0 or (tar not in jobs and tars[where] == 0):
            beyond.append(place)
            continue
        tars[where] -= tar not in jobs
        jobs.setdefault(tar, {}).setdefault(sample["key"], []).append(place)
    return jobs, beyond


def _finder(facts: Facts) -> Callable[[Sample], str]:
    """What gives the URL of a sample's tar."""
    if facts.plan.download() is not None:
        return lambda sample: storage.join(facts.plan.work, sample["tar"])
    urls = dict(facts.pool.table.select("number", "url").iter_rows())
    tars = {public(tar): tar for tar in load_tars(facts.plan.work)["url"]}
    # A tar of the pool is found by its shard: the URL in the report lacks what may be secret.
    return lambda sample: tars.get(sample["tar"]) or urls[sample["shard"]]


def _of_tar(job: Job) -> dict[Place, str]:
    tar, wanted = job
    found: dict[Place, str] = {}
    try:
        for sample in read_samples(tar, set(wanted), IMAGE_EXTENSIONS):
            member = picture(sample)
            uri = _thumbnail(member[1]) if member is not None else None
            if uri is not None:
                found.update(dict.fromkeys(wanted[sample.key], uri))
    except CurateError:
        return found  # a tar that cannot be read, or not to its end: the page says `no picture`
    return found


def _thumbnail(body: memoryview) -> str | None:
    """A small JPEG as a data URI; None for what is no picture."""
    try:
        image = Picture(body).rgb
    except Unscorable:
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
