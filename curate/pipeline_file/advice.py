"""What a pipeline may say, and hardly means: told before a run, never refused."""

from __future__ import annotations

from curate.pipeline_file.schema import Config
from filters import Filter


def advice(config: Config) -> list[str]:
    """One line for each thing that works and is likely to disappoint."""
    found = []
    balanced: str | None = None
    for step in config.steps:
        if not isinstance(step, Filter):
            continue
        if balanced is not None and step.removes_duplicates:
            found.append(
                f"{step.name} removes duplicates after {balanced!r} balanced with them: what is "
                f"frequent was counted with its duplicates in. Move {step.name} before {balanced}"
            )
        if step.balances:
            balanced = step.name
    return found
