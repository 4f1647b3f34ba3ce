"""Keep more samples of complex concepts than of simple ones, by cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, PositiveFloat, PositiveInt

from filters import Available, Batch, Counts, Filter, Shown, State, Summary, Unbound, column
from filters._allocation import Tally, allocate, by_number, step_with, tally
from filters._quota import Learnt, QuotaFilter
from filters._top import exact_share

_UNIT = 1 << 28  # distances are added up in its parts: 1.7e10 of the greatest, 2, fit into int64
_LEVELS = 1 << 12  # of a distance of 1: how finely distances of different clusters are compared
_KEYS = 4 * _LEVELS  # of one cluster
_QUANTUM = 1 << 24  # of a unit vector: whole numbers, whose products float64 holds exactly
_ROWS, _COLUMNS = 1024, 8192  # of one product of centroids: 64 MB


class ConceptPrune(QuotaFilter):
    """Keeps an exact share of all samples, divided among clusters by how complex each concept is.

    Density-Based Pruning (2401.04578). The complexity of a cluster is d_inter * d_intra: the mean
    distance from its centroid to the `neighbours` nearest others, times the mean distance of its
    survivors to their centroid (1 - cosine both). With P = softmax(complexity / temperature) over
    the clusters that have survivors, and N' samples to keep, the quotas minimise
    sum (x - P N')^2 where sum x = N' and floor <= x <= size, to the optimum among whole numbers;
    sizes are of the survivors at this step. A floor is min(m, size - 1), m = 1 where `balance` is 0
    and else int(N' / clusters * balance); there are none where N' is below their sum. Within a
    cluster those farthest from the centroid stay first (`hard`), ties by uid.

    The defaults are the paper's; its code has 0.5 for both `temperature` and `balance`. The paper
    has 500 clusters for 280 million samples.

    `allocation: size` keeps the same share of each cluster instead, and `distance` the hardest (or
    easiest) of all samples together, down to the floors: SSP-Pruning (2206.14486) as the paper
    compares with it. There, distances count in steps of 1/4096; a step that is not kept whole is
    divided in proportion.

    N' is floor(keep * n), n rows with the unscored ones; where fewer are scored all of them stay. A
    sample without a cluster or a distance is `unscored`.
    """

    example = "{clusters: coarse, keep: 0.5, temperature: 0.1}"

    clusters: str | None = Field(None, description="the `clusters` step; the only one if absent")
    keep: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    keep_count: int | None = Field(None, ge=1, description="number of rows that stay")
    allocation: Literal["density", "size", "distance"] = Field(
        "density", description="what decides how many of each cluster stay"
    )
    choice: Literal["hard", "easy", "random"] = Field(
        "hard", description="who stays of a cluster: the farthest from its centroid, nearest, any"
    )
    temperature: PositiveFloat = Field(
        0.1, description="of the softmax: the higher, the more equal the shares of clusters"
    )
    balance: float = Field(
        0.0, ge=0, le=1, description="share of an equal part that each cluster keeps at least"
    )
    neighbours: PositiveInt = Field(
        20, description="nearest other centroids over which their distance is averaged"
    )

    def problems(self) -> list[str]:
        found = []
        if (self.keep is None) == (self.keep_count is None):
            found.append("give one of keep and keep_count")
        if self.allocation == "distance" and self.choice == "random":
            found.append(
                "allocation: distance compares distances, and choice: random does not: write "
                "`choice: hard` or `choice: easy`, or leave out `allocation`"
            )
        return found

    def bind(self, available: Available) -> Filter:
        step = step_with(available, ("cluster", "distance"), self.clusters, "clusters")
        return self.model_copy(update={"clusters": step})

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        finder = before.get(str(self.clusters), {})
        measure = finder.get("assign") or finder.get("metric") or "cosine"
        if finder.get("parity") is None and measure == "cosine":
            return []
        said = "parity" if finder.get("parity") else "assign" if finder.get("assign") else "metric"
        return [
            f"the distances of {self.clusters!r} are by `{said}: {finder[said]}`, and here they "
            f"are 1 - cosine: cluster by `metric: cosine`, or add `assign: cosine` to that step"
        ]

    def needs(self) -> tuple[str, ...]:
        return (f"{self.clusters}.cluster", f"{self.clusters}.distance")

    def learnt(self) -> tuple[str, ...]:
        return (f"{self.clusters}.centroids",) if self.allocation == "density" else ()

    def group(self, batch: Batch) -> np.ndarray:
        return self._read(batch)[0]

    def priority(self, batch: Batch) -> np.ndarray:
        if self.choice == "random":
            return batch.uniform("choice")
        distance = self._read(batch)[1]
        return distance if self.choice == "hard" else -distance

    def summarize(self, batch: Batch) -> Summary:
        number, distance = self._read(batch)
        level = np.zeros(len(number), dtype=np.int64)
        if self.allocation == "distance":
            level = np.clip(distance * _LEVELS, 0, _KEYS - 1).astype(np.int64)
        key = np.where(number < 0, -1, number * _KEYS + level)
        return tally(key, np.rint(distance * _UNIT).astype(np.int64))

    def merge(self, left: Summary, right: Summary) -> Summary:
        return left + right

    def fit(self, summary: Summary | None, counts: Counts, learnt: Learnt) -> State:
        rows = counts.survivors
        wanted = self.keep_count or exact_share(self.keep or 0.0, rows)
        seen = summary if summary is not None else tally(*np.zeros((2, 0), dtype=np.int64))
        number, place = np.unique(seen.keys // _KEYS, return_inverse=True)
        sums = np.zeros((len(number), 2), dtype=np.int64)  # [K, 2] of clusters that have survivors
        np.add.at(sums, place, seen.sums)
        size = sums[:, 0]
        total = min(wanted, int(size.sum()))
        lower, floor = self._floors(size, total)
        described: dict[str, float] = {}
        if self.allocation == "distance":
            kept = self._hardest(Tally(place * _KEYS + seen.keys % _KEYS, seen.sums), lower, total)
        elif self.allocation == "size":
            kept = allocate(size * (total / max(int(size.sum()), 1)), lower, size, total)
        else:
            complexity = self._complexity(number, sums, learnt)
            kept = allocate(softmax(complexity, self.temperature) * total, lower, size, total)
            described = _range(complexity)
        return {
            "quota": by_number(number, kept).tolist(),
            "rows": rows,
            "scored": int(size.sum()),
            "wanted": wanted,
            "kept": total,
            "clusters": len(number),
            "clusters_kept_whole": int((kept == size).sum()),
            "clusters_at_floor": int(((kept == lower) & (kept < size)).sum()),
            "floor": floor,
            **described,
        }

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {}, self.needs()[1:])

    def _read(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """([N] int64 cluster or -1 where something is missing, [N] float64 distance or 0 there)."""
        number, distance = (
            batch.frame.select(column(name).cast(kind)).to_series()
            for name, kind in zip(self.needs(), (pl.Int64, pl.Float64), strict=True)
        )
        far = distance.fill_null(float("nan")).to_numpy()
        known = number.is_not_null().to_numpy() & np.isfinite(far)
        if (strange := known & ~((far > -0.01) & (far < 2.01))).any():
            raise Unbound(
                f"{self.name}: {self.needs()[1]} holds {far[strange][0]}, and a distance is "
                "1 - cosine, 0 to 2: name a `clusters` step that gives such distances"
            )
        return np.where(known, number.fill_null(-1).to_numpy(), -1), np.where(known, far, 0.0)

    def _floors(self, size: np.ndarray, total: int) -> tuple[np.ndarray, int]:
        """([K] what each cluster keeps at least, the number that this is meant to be)."""
        floor = int(total / max(len(size), 1) * self.balance) if self.balance else 1
        lower = np.minimum(floor, size - 1)
        if int(lower.sum()) > total:  # of 1, and fewer are kept than there are clusters
            lower, floor = np.zeros_like(size), 0
        return lower, floor

    def _complexity(self, number: np.ndarray, sums: np.ndarray, learnt: Learnt) -> np.ndarray:
        """[K] d_inter * d_intra; where that is not known, the mean of the others."""
        centroids = learnt[self.learnt()[0]]
        if len(number) and int(number[-1]) >= len(centroids):
            raise Unbound(
                f"{self.name}: {self.needs()[0]} holds {number[-1]}, and {self.learnt()[0]} are "
                f"{len(centroids)}: both must be of one step"
            )
        apart = distances_to_others(centroids, self.neighbours)[number]
        product = apart * (sums[:, 1] / (sums[:, 0] * float(_UNIT)))
        known = np.isfinite(product)
        return np.where(known, product, product[known].mean() if known.any() else 0.0)

    def _hardest(self, levels: Tally, lower: np.ndarray, total: int) -> np.ndarray:
        """[K] quotas of the hardest (or easiest) samples of all clusters, but for their floors."""
        cluster, level = levels.keys // _KEYS, levels.keys % _KEYS
        step = -level if self.choice == "hard" else level
        order = np.lexsort((step, cluster))
        cluster, step, count = cluster[order], step[order], levels.sums[order, 0]
        before = np.cumsum(count) - count
        before -= before[np.searchsorted(cluster, cluster)]  # of this cluster only
        more = np.maximum(lower[cluster], before + count) - np.maximum(lower[cluster], before)
        steps, place = np.unique(step, return_inverse=True)
        taken = np.zeros(len(steps), dtype=np.int64)
        np.add.at(taken, place, more)
        last = int(np.searchsorted(int(lower.sum()) + np.cumsum(taken), total))
        least, room = lower.copy(), np.zeros_like(lower)
        np.add.at(least, cluster[place < last], more[place < last])
        np.add.at(room, cluster[place == last], more[place == last])
        share = (total - int(least.sum())) / max(int(room.sum()), 1)
        return allocate(least + room * share, least, least + room, total)


def softmax(values: np.ndarray, temperature: float) -> np.ndarray:
    """[K] float64, 0 to 1 and 1 in sum, of [K] finite values and any temperature above 0."""
    with np.errstate(over="ignore"):  # what is further below the largest than floats go has none
        powers = np.exp((values - values.max(initial=-np.inf)) / temperature)
    return np.asarray(powers / powers.sum())


def _range(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = {"least": values.min(), "mean": values.mean(), "greatest": values.max()}
    return {f"{name}_complexity": float(value) for name, value in found.items()}


def distances_to_others(centroids: np.ndarray, neighbours: int) -> np.ndarray:
    """[K] float64: the mean of 1 - cosine to the nearest other centroids, by number of neighbours.

    Centroids are rounded to 2**-24 of length 1, so that products are exact: neither the machine nor
    its threads change a bit. It is NaN for one without a direction, and where there is no other.

    Args:
        centroids: [K, D]; one may be zero or not finite, and is nobody's neighbour then.
        neighbours: How many, or all others where there are fewer.
    """
    unit, known = _directions(centroids)
    wanted = min(neighbours, int(known.sum()) - 1)
    found = np.full(len(unit), np.nan)
    if wanted < 1:
        return found
    for start in range(0, len(unit), _ROWS):
        rows = unit[start : start + _ROWS].astype(np.float64)
        best = np.full((len(rows), wanted), -np.inf)
        for first in range(0, len(unit), _COLUMNS):
            # [R, D] @ [D, C] -> [R, C]
            products = rows @ unit[first : first + _COLUMNS].astype(np.float64).T
            products[:, ~known[first : first + _COLUMNS]] = -np.inf
            own = np.arange(start, start + len(rows)) - first
            inside = np.flatnonzero((own >= 0) & (own < products.shape[1]))
            products[inside, own[inside]] = -np.inf
            both = np.concatenate([best, products], axis=1)
            best = np.partition(both, both.shape[1] - wanted, axis=1)[:, -wanted:]
        real = known[start : start + len(rows)]
        total = best[real].astype(np.int64).sum(axis=1)
        found[start : start + len(rows)][real] = 1 - total / (wanted * float(_QUANTUM) ** 2)
    return found


def _directions(centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([K, D] float32 whole numbers, _QUANTUM long, 0 where unknown; [K] bool, who has one)."""
    unit = np.zeros(centroids.shape, dtype=np.float32)
    known = np.zeros(len(centroids), dtype=bool)
    for start in range(0, len(centroids), _ROWS):
        rows = centroids[start : start + _ROWS].astype(np.float64)
        # One after the other: sums in another order differ in the last bits.
        length = np.sqrt(np.cumsum(rows * rows, axis=1)[:, -1])
        real = np.isfinite(length) & (length > 0)
        known[start : start + len(rows)] = real
        whole = np.rint(rows[real] / length[real, None] * _QUANTUM)
        unit[start : start + len(rows)][real] = whole
    return unit, known
