"""Keep as many samples of every concept, at every level of a hierarchy of clusters."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters import Available, Batch, Counts, Filter, Shown, State, Summary, Unbound, column
from filters._allocation import balanced, step_with, tally
from filters._quota import Learnt, QuotaFilter
from filters._top import exact_share


class ClusterBalance(QuotaFilter):
    """Keeps an exact share of all samples, as evenly as can be over a hierarchy of clusters.

    Hierarchical sampling (2405.15613, `ssl-data-curation`). From the coarsest level down, each
    cluster's number is divided among its own: n of each, or all where there are fewer, n the
    largest whole number with which the sum is not above the number; so many as are missing then
    come from those clusters that have more than n, one more each, the smaller cluster numbers first
    (the published code draws them at random). Of a finest cluster any samples stay (`random`, by a
    hash of the uid) or those `closest` to its centroid, ties by uid. Clusters of one level are
    divided just once.

    keep is a share of n rows with the unscored ones, floor(keep * n) of them; where fewer are
    scored all of them stay. No sample stays twice. A sample without a cluster is `unscored`, and by
    `closest` one without a distance.
    """

    example = "{clusters: coarse, keep: 0.5}"

    clusters: str | None = Field(None, description="the `clusters` step; the only one if absent")
    keep: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    keep_count: int | None = Field(None, ge=1, description="number of rows that stay")
    choice: Literal["random", "closest"] = Field(
        "random", description="who stays of a finest cluster: any, or the nearest to its centroid"
    )

    def problems(self) -> list[str]:
        if (self.keep is None) == (self.keep_count is None):
            return ["give one of keep and keep_count"]
        return []

    def bind(self, available: Available) -> Filter:
        step = step_with(available, ("cluster", "distance"), self.clusters, "clusters")
        return self.model_copy(update={"clusters": step})

    def balances(self) -> bool:
        return True

    def needs(self) -> tuple[str, ...]:
        fields = ("cluster",) if self.choice == "random" else ("cluster", "distance")
        return tuple(f"{self.clusters}.{field}" for field in fields)

    def learnt(self) -> tuple[str, ...]:
        """Clusters of each level, the finest first, and whose each but for the last level's is."""
        return (f"{self.clusters}.levels", f"{self.clusters}.parents")

    def group(self, batch: Batch) -> np.ndarray:
        known = pl.all_horizontal(column(name).is_not_null() for name in self.needs())
        number = pl.when(known).then(column(self.needs()[0]).cast(pl.Int64)).otherwise(-1)
        return batch.frame.select(number.alias("group")).to_series().to_numpy()

    def priority(self, batch: Batch) -> np.ndarray:
        if self.choice == "random":
            return batch.uniform("choice")
        distance = batch.frame.select(column(self.needs()[1]).cast(pl.Float64)).to_series()
        return -distance.fill_null(float("nan")).to_numpy()

    def summarize(self, batch: Batch) -> Summary:
        return tally(self.group(batch))

    def merge(self, left: Summary, right: Summary) -> Summary:
        return left + right

    def fit(self, summary: Summary | None, counts: Counts, learnt: Learnt) -> State:
        levels, parents = self._hierarchy(learnt)
        wanted = self.keep_count or exact_share(self.keep or 0.0, counts.survivors)
        seen = summary if summary is not None else tally(np.zeros(0, dtype=np.int64))
        if len(seen.keys) and seen.keys[-1] >= levels[0]:
            raise Unbound(
                f"{self.name}: {self.needs()[0]} holds {seen.keys[-1]}, and {self.learnt()[0]} "
                f"says {levels[0]} clusters: both must be of one step"
            )
        sizes = [np.zeros(levels[0], dtype=np.int64)]
        sizes[0][seen.keys] = seen.sums[:, 0]
        for count, parent in zip(levels[1:], parents, strict=True):
            above = np.zeros(count, dtype=np.int64)
            np.add.at(above, parent, sizes[-1])
            sizes.append(above)
        total = min(wanted, int(sizes[0].sum()))
        quota = np.array([total], dtype=np.int64)  # of all samples, then of each level's clusters
        of_whole = np.zeros_like(sizes[-1])
        for size, parent in zip(reversed(sizes), [of_whole, *reversed(parents)], strict=True):
            quota = balanced(size, parent, quota)
        alive = sizes[0] > 0
        return {
            "quota": quota.tolist(),
            "rows": counts.survivors,
            "scored": int(sizes[0].sum()),
            "wanted": wanted,
            "kept": total,
            "levels": len(levels),
            "clusters": int(alive.sum()),
            "clusters_kept_whole": int((quota == sizes[0])[alive].sum()),
            "most_of_a_cluster": int(quota.max(initial=0)),
        }

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {}, self.needs()[1:])

    def _hierarchy(self, learnt: Learnt) -> tuple[list[int], list[np.ndarray]]:
        """(clusters of each level, [K] the parents of each level's but the last), finest first."""
        names = self.learnt()
        levels = [int(count) for count in learnt[names[0]]]
        whole = learnt[names[1]].astype(np.int64)
        if len(whole) != sum(levels[:-1]):
            raise Unbound(
                f"{names[1]} are {len(whole)}, and {names[0]} {levels}: all levels but the last "
                f"have {sum(levels[:-1])} clusters"
            )
        parents = np.split(whole, np.cumsum(levels[:-1])[:-1]) if len(levels) > 1 else []
        for level, (count, parent) in enumerate(zip(levels[1:], parents, strict=True), 1):
            if len(parent) and not 0 <= parent.min() <= parent.max() < count:
                raise Unbound(
                    f"{names[1]} of level {level} are {parent.min()} to {parent.max()}, and the "
                    f"next level has {count} clusters"
                )
        return levels, parents
