"""What steps learnt, or were given, for the filters after them that ask for it by name."""

from __future__ import annotations

from typing import Any

from curate.columns import artefact_folder
from curate.compiled import Compiled
from curate.errors import ConfigError
from curate.features import Feature


def learnt(plan: Compiled, asker: str, name: str) -> Any:
    """What the step `<owner>` has under the name `<owner>.<what>`: an array or a series.

    Raises:
        ConfigError: no such feature, or it has nothing of that name.
    """
    owner, _, what = name.rpartition(".")
    maker = next((one for one in plan.steps if one.name == owner), None)
    if not isinstance(maker, Feature):
        raise ConfigError(f"{asker} needs {name}, and {owner!r} is no step that learns it")
    try:
        return maker.learnt(artefact_folder(plan.work, owner), what)
    except KeyError as error:
        raise ConfigError(f"{asker} needs {name}: {error.args[0]}") from None
