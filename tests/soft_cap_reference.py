"""Soft cap sampling as FLYT's paper describes it: batch after batch, over all scores."""

import numpy as np


def soft_cap(
    z: np.ndarray, draws: int, batch: int, alpha: float, rng: np.random.Generator
) -> np.ndarray:
    """[N] copies of each of [N] logits.

    A batch is `batch` distinct samples, drawn one after the other with odds e^z and not put back:
    those with the highest z + Gumbel noise, in that order. Each then loses `alpha`; of the last
    batch only the first count.
    """
    z = np.array(z, dtype=np.float64)
    copies = np.zeros(len(z), dtype=np.int64)
    left = draws
    while left:
        keys = z - np.log(rng.exponential(size=len(z)))
        drawn = np.argpartition(-keys, batch - 1)[:batch]
        if left < batch:
            drawn = drawn[np.argsort(-keys[drawn])][:left]
        copies[drawn] += 1
        z[drawn] -= alpha
        left -= len(drawn)
    return copies
