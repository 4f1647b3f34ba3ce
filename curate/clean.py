"""What a work folder holds that its pipeline no longer uses."""

from __future__ import annotations

from curate import storage
from curate.compiled import is_scorer
from curate.config import Config
from curate.download import Download


def unused(config: Config) -> list[tuple[str, int]]:
    """(folder or file, bytes) that no step of the pipeline made or reads, sorted."""
    scorers = {step.name for step in config.steps if is_scorer(step)}
    names = {step.name for step in config.steps}
    downloads = {step.name for step in config.steps if isinstance(step, Download)}
    found = [
        storage.join(config.work, "features", name)
        for name in storage.folders(storage.join(config.work, "features"))
        if name not in scorers
    ]
    state = storage.join(config.work, "state")
    found += [storage.join(state, n) for n in storage.folders(state) if n not in {*names, "pool"}]
    found += [
        storage.join(state, name)
        for name in storage.names(state)
        if name.endswith(".json") and name.removesuffix(".json") not in names
    ]
    own = {"pool", "plugins", "features", "ledger", "state", "shards", "report", "records"}
    own |= downloads
    found += [storage.join(config.work, n) for n in storage.folders(config.work) if n not in own]
    return [(url, storage.size(url)) for url in sorted(found)]
