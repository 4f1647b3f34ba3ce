"""What a pipeline may say, and hardly means: told before a run, never refused."""

from __future__ import annotations

from curate.pipeline_file.schema import AnyOf, Config
from filters import Filter


def advice(config: Config) -> list[str]:
    """One line for each thing that works and is likely to disappoint."""
    found = []
    balanced: str | None = None
    for step in config.steps:
        filters = step.steps if isinstance(step, AnyOf) else (step,)
        for one in filters:
            if not isinstance(one, Filter):
                continue
            if balanced is not None and one.removes_duplicates:
                found.append(
                    f"{one.name} removes duplicates after {balanced!r} balanced with them: what is "
                    f"frequent was counted with its duplicates in. Move {one.name} before "
                    f"{balanced}"
                )
        if any(isinstance(one, Filter) and one.balances() for one in filters):
            balanced = step.name
    return found
