"""Small pictures of the samples that a report shows, read from their tars."""

from __future__ import annotations

import base64
import io
from typing import Any

from curate import storage
from curate.errors import CurateError
from curate.features import Picture, Unscorable
from curate.page.render import Place
from curate.pools.pictures import load_tars
from curate.report.facts import Facts, public
from curate.runner import Runner
from curate.shards.shard import IMAGE_EXTENSIONS, picture, read_samples

SIDE = 96  # pixels of the longer side
QUALITY = 80  # of the JPEG: some 3 kB

Job = tuple[str, dict[str, list[Place]]]  # a tar, and who is wanted of it by key


def load(facts: Facts, report: dict[str, Any], runner: Runner) -> dict[Place, str]:
    """{place: data URI}; whose picture is missing or cannot be decoded is left out."""
    samples = [sample for gallery in report["examples"] for sample in gallery["samples"]]
    jobs: dict[str, dict[str, list[Place]]] = {}
    urls = dict(facts.pool.table.select("number", "url").iter_rows())
    tars = {public(tar): tar for tar in load_tars(facts.plan.work)["url"]}
    inside = facts.plan.download() is not None
    for sample in samples:
        if sample["tar"] is None:
            continue
        place = (sample["shard"], sample["row"])
        # A tar of the pool is found by its shard: the URL in the report lacks what may be secret.
        own = tars.get(sample["tar"]) or urls[sample["shard"]]
        tar = storage.join(facts.plan.work, sample["tar"]) if inside else own
        places = jobs.setdefault(tar, {}).setdefault(sample["key"], [])
        if place not in places:
            places.append(place)
    found: dict[Place, str] = {}
    for thumbnails in runner.map(_of_tar, sorted(jobs.items()), "report"):
        found.update(thumbnails)
    return found


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
