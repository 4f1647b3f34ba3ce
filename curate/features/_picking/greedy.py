"""ClipCov's order of a class: products of its images with its texts, some at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

SIDE = {"cpu": 1024, "cuda": 4096}  # rows of one product, and columns


class Similarities:
    """S, the cosines of m images with m texts, those below 0 taken as 0; by sums, of parts only.

    On a CPU each product runs in one thread, several at a time, so that the number of threads
    changes no bit.
    """

    def __init__(self, image: np.ndarray, text: np.ndarray, threads: ThreadPoolExecutor) -> None:
        """Bring [m, D] float32 images and texts, of length 1, to a GPU where there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._side = SIDE[device.type]
        self._image, self._text = (torch.from_numpy(rows).to(device) for rows in (image, text))
        self._threads = threads
        self.count = len(image)

    def own(self) -> np.ndarray:
        """[m] float64: the cosine of each pair, below 0 too."""
        with torch.inference_mode():
            found = torch.einsum("md,md->m", self._image, self._text).double()
        return np.asarray(found.cpu().numpy())

    def totals(self) -> np.ndarray:
        """[m] float64: sum_j S_ij + sum_j S_ji."""
        tiles = torch.split(self._text, self._side)
        total = torch.zeros(len(self._image), dtype=torch.float64, device=self._image.device)
        along = []
        work = partial(_both_sums, tiles)
        for rows, columns in self._threads.map(work, torch.split(self._image, self._side)):
            along.append(rows)
            total += columns  # in the order of the tiles, whichever is done first
        total += torch.cat(along)
        return np.asarray(total.cpu().numpy())

    def to(self, picks: np.ndarray) -> np.ndarray:
        """[m] float64: the sum over some picks j of S_ij + S_ji."""
        total = torch.zeros(len(self._image), dtype=torch.float64, device=self._image.device)
        for mine, others in ((self._image, self._text), (self._text, self._image)):
            work = partial(_row_sums, others[torch.from_numpy(picks).to(others.device)])
            total += torch.cat(list(self._threads.map(work, torch.split(mine, self._side))))
        return np.asarray(total.cpu().numpy())


def _both_sums(texts: tuple[Tensor, ...], images: Tensor) -> tuple[Tensor, Tensor]:
    """Of some rows of S: ([rows] their sums, [all columns] their share of the columns' sums)."""
    rows = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    columns = []
    with torch.inference_mode():
        for tile in texts:
            positive = (images @ tile.T).clamp_(min=0)  # [rows, columns of the tile]
            rows += positive.sum(dim=1)
            columns.append(positive.sum(dim=0))
        return rows, torch.cat(columns).double()


def _row_sums(chosen: Tensor, rows: Tensor) -> Tensor:
    with torch.inference_mode():
        return (rows @ chosen.T).clamp_(min=0).sum(dim=1).double()


def sequence(
    similarities: Similarities, label: np.ndarray, between: np.ndarray, every: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """In which order the greedy algorithm takes the members of one class, and at what value.

    Each value is the score at the time of the pick, or just below the one before where that is
    less: so values fall, and the best so many of all classes by value are those that the greedy
    algorithm over all classes takes.

    Args:
        similarities: Of the m members, in an order that settles ties.
        label: [m] float64 cosines of the texts with that of the class.
        between: [m] float64 similarity to other classes.
        every: Picks between updates; the first comes one pick earlier.
        count: How many to order, at most m.

    Returns:
        ([count] int64 members, [count] float64 falling values).
    """
    members = similarities.count
    within = similarities.totals() / members
    score = within + 2 * similarities.own() + label / 2 - between
    order = np.empty(count, dtype=np.int64)
    value = np.empty(count)
    done, step, of_picks = 0, max(every - 1, 1), 0.0
    while done < count:
        best = np.argsort(-score, kind="stable")[: min(step, count - done)]
        order[done : done + len(best)], value[done : done + len(best)] = best, score[best]
        done, step = done + len(best), every
        if done < count:
            of_picks += float(np.cumsum(within[best])[-1])
            labels = float(np.cumsum(label[best])[-1]) / 2
            score -= similarities.to(best) / members
            score -= of_picks / members
            score -= labels / members
            score[order[:done]] = -np.inf
    return order, _falling(value)


def _falling(values: np.ndarray) -> np.ndarray:
    """[N] float64, each the value or the next below the one before, whichever is less."""
    sizes = np.abs(values).view(np.int64)  # the bits of positive floats are in their order
    places = np.arange(len(values))
    keys = np.minimum.accumulate(np.where(values < 0, -sizes, sizes) + places) - places
    return np.asarray(np.copysign(np.abs(keys).view(np.float64), keys))


def open_threads() -> ThreadPoolExecutor:
    """As many threads as torch would use, each of which multiplies alone; one for a GPU."""
    count = 1 if torch.cuda.is_available() else torch.get_num_threads()
    return ThreadPoolExecutor(count, "clip_cov", initializer=torch.set_num_threads, initargs=(1,))
