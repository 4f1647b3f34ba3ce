"""What a barrier left in `state/`, so that the next run takes it over: the seal of a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np

from curate import storage

_ARRAY = "array"  # {"array": file} in JSON stands for an array in a file of its own


def _file(work: str, after: str) -> str:
    return storage.join(work, "state", f"{after}.json")


def seal(work: str, after: str, value: dict[str, Any]) -> None:
    """Commit what a verdict rests on: `chain`, `counts`, and `states` of filters with arrays.

    The arrays go first: the JSON file is the proof of them.
    """
    states = {
        name: {key: _put(work, f"{after}.{name}.{key}", one) for key, one in state.items()}
        for name, state in value["states"].items()
    }
    storage.commit_json(_file(work, after), {**value, "states": states})


def _put(work: str, name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    storage.commit_array(storage.join(work, "state", f"{name}.npy"), value)
    return {_ARRAY: f"{name}.npy"}


def sealed(work: str, after: str) -> dict[str, Any] | None:
    """What was sealed after a step, or None."""
    url = _file(work, after)
    if not storage.exists(url):
        return None
    value: dict[str, Any] = storage.read_json(url)
    for state in value["states"].values():
        for key, one in state.items():
            if isinstance(one, dict) and list(one) == [_ARRAY]:
                state[key] = storage.read_array(storage.join(work, "state", one[_ARRAY]))
    return value


def unseal(work: str, after: str) -> None:
    """Forget a verdict before it is made anew, so that half of it is never taken for all."""
    storage.remove(_file(work, after))
