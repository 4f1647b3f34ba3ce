"""What a work folder holds that its pipeline no longer uses."""

from __future__ import annotations

from curate import storage
from curate.compiled import is_scorer
from curate.downloads.download import Download
from curate.fates import START
from curate.lease import held
from curate.pipeline_file.schema import Config


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
    found += [storage.join(state, n) for n in storage.folders(state) if n not in {*names, START}]
    found += [
        storage.join(state, name)
        for name in storage.names(state)
        if name.endswith(".json") and name.removesuffix(".json") not in {*names, START}
    ]
    # No step made it, but somebody asked for it: a line of its own, not one for each sweep.
    found += [url for url in [storage.join(config.work, "sweep")] if storage.exists(url)]
    found += [storage.join(config.work, name) for name in _old_downloads(config.work, downloads)]
    return [(url, storage.size(url)) for url in sorted(found)]


def remove(config: Config) -> None:
    """Delete what is unused, while no run works in the folder."""
    with held(config.work, steal="refuse"):
        for url, _ in unused(config):
            storage.remove(url)


def _old_downloads(work: str, downloads: set[str]) -> list[str]:
    """Folders of pictures that a step of another name fetched: its recipe says that it did.

    Nothing else in a work folder is ours to offer; it may be the user's own.
    """
    found = []
    for name in storage.folders(storage.join(work, "features")):
        recipe = storage.join(work, "features", name, "recipe.json")
        if name in downloads or not storage.exists(recipe):
            continue
        if storage.read_json(recipe).get("kind") == Download.__name__:
            found.append(name)
    return [name for name in found if storage.exists(storage.join(work, name))]
