"""What every part of a report is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a report; it has the fields that it says, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
