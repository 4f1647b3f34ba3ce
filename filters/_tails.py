"""A threshold for each language, so that all have the same share of matches in their tails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from filters import Unbound


@dataclass(frozen=True)
class Tails:
    """What MetaCLIP 2 (2507.22062, section 3.3) derives from one language's threshold."""

    share: float  # of that language's matches that are of entries below its t
    of_entries: np.ndarray  # [E] float64: the threshold of each entry's language
    table: list[dict[str, Any]]  # language, t, entries that are hit, matches; by matches


def tails(counts: np.ndarray, languages: pl.Series, reference: str, t: float) -> Tails:
    """The thresholds of all languages, given that of one.

    A language's t is the count at which the share of its matches that are of entries counted so
    often or less is nearest to the reference's share below its own t; of two the smaller. A
    language that matches nothing has that of the reference.

    Args:
        counts: [E] int64, samples of each entry.
        languages: [E] whose entry each is.
        reference: The language that `t` is of.
        t: Its threshold.

    Raises:
        Unbound: no entry is of the reference language, or nothing matched one.
    """
    names = languages.unique().sort()
    if reference not in names:
        listed = ", ".join(names.head(10).to_list()) or "none"
        raise Unbound(f"tail_share_of: the list has no entries of {reference!r}; it has {listed}")
    own = counts[(languages == reference).to_numpy()]
    if not own.any():
        raise Unbound(
            f"tail_share_of: no sample matched an entry of {reference!r}, so that its tail has no "
            "share; give the most frequent language, or leave it out"
        )
    share = float(own[own < t].sum() / own.sum())
    of_entries = np.full(len(counts), float(t))
    table = []
    codes = languages.cast(pl.Enum(names)).to_physical().to_numpy()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for number, name in enumerate(names.to_list()):
        places = order[bounds[number] : bounds[number + 1]]
        here = counts[places]
        if name != reference and here.any():
            of_entries[places] = _threshold(here, share)
        own_t = float(of_entries[places[0]])
        said = {"language": name, "t": own_t, "entries": int((here > 0).sum())}
        table.append({**said, "matches": int(here.sum())})
    table.sort(key=lambda row: (-row["matches"], row["language"]))
    return Tails(share, of_entries, table)


def _threshold(counts: np.ndarray, share: float) -> float:
    """The count at which the sorted counts' running share of their sum is nearest to a share."""
    ordered = np.sort(counts[counts > 0])
    running = np.cumsum(ordered) / ordered.sum()
    return float(ordered[np.argmin(np.abs(running - share))])
