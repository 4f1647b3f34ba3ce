"""Web-scale curation of image-text data: one YAML from URLs to a curated training set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.resharding.loading import select

__version__ = "0.1.0"
__all__ = ["__version__", "select"]


def __getattr__(name: str) -> Any:
    if name == "select":  # numpy is loaded for who needs it
        from curate.resharding.loading import select

        return select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
