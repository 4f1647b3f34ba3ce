"""Keep samples by drawing with odds that fall at each draw, so that the best repeat, but softly."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from filters import Available, Batch, Counts, Filter, Shown, State, Unbound, one_of
from filters._draws import Draws, Weights, numbers, refuse_other_than_numbers
from filters._schedule import (
    MOST_BATCHES,
    Histogram,
    Lattice,
    Schedule,
    TooManyBatches,
    schedule,
)
from filters._top import exact_share

_BATCHES = 1280  # FLYT's: 128 million draws by 100,000


_LARGEST = 1e7  # of a logit: a draw must still change it, in float64


class SoftCap(Draws):
    """Draws samples in batches, by the softmax of their scores, each draw lowering a score.

    Soft cap sampling (FLYT, 2503.08805). z = score / temperature. A batch is so many distinct
    samples, drawn with odds e^z; each of them then loses `alpha` of its z (0.15: odds times 0.861),
    and the next batch is drawn, until there are exactly `draws` copies; of the last batch the first
    count. The scale of the scores decides how often the best repeat: FLYT's are logits as they are.
    Scores beyond 1e7 are an error.

    Here it is done in one pass, each sample by random numbers of its own: drawing without replacing
    is a race of exponential waits, and the time that each batch takes is solved once from a
    histogram of the scores, as the mean over samples. That is as exact as batches are large; in
    batches of 1 it is exact; in others the best may come once more than there are batches. The
    total is exact, ties go to the smaller uid, and more `draws` take
    no copy away as long as the batch is the same.

    Samples without a score are `unscored`, those that are not drawn `not_drawn`; a batch
    of more samples than there are is an error.
    """

    example = "{column: clip.similarity, draws_fraction: 0.5, temperature: 0.1}"
    makes_copies = True

    column: str | None = Field(None, description="the scores, logits; the only `.score` if absent")
    draws: int | None = Field(None, ge=1, description="number of copies")
    draws_fraction: float | None = Field(
        None, gt=0, description="number of copies as a share of the rows; may be above 1"
    )
    alpha: float = Field(0.15, gt=0, le=10, description="what a draw takes off a sample's z")
    batch: int | None = Field(
        None, ge=1, description="samples of a batch; absent: a 1280th of those scored, as FLYT's"
    )
    temperature: float = Field(1.0, gt=0, description="what scores are divided by")

    def problems(self) -> list[str]:
        if (self.draws is None) == (self.draws_fraction is None):
            return ["give one of draws and draws_fraction"]
        return []

    def bind(self, available: Available) -> Filter:
        found = [name for name in available if name.endswith(".score")]
        remedy = "name a column of scores with `column:`"
        chosen = self.column or one_of(found, "a score", remedy)
        refuse_other_than_numbers(chosen, available)
        return self.model_copy(update={"column": chosen})

    def needs(self) -> tuple[str, ...]:
        return (self.column or "",)

    def wanted(self, rows: int) -> int:
        return self.draws or exact_share(self.draws_fraction or 0.0, rows)

    def start(self, counts: Counts) -> State:
        scale = {"alpha": self.alpha, "temperature": self.temperature}
        return {**super().start(counts), **scale}

    def weights(self, batch: Batch, state: State) -> Weights:
        scores = numbers(batch, self.needs()[0])
        with np.errstate(over="ignore"):  # of a score that is too large for so small a temperature
            z = scores / self.temperature
        beyond = np.abs(z) > _LARGEST
        return Weights(np.where(beyond, np.inf, z), scores, beyond)

    def refusal(self, uid: str, value: float) -> str:
        return (
            f"the score {self.column} of {uid} is {value}, and divided by the temperature "
            f"{self.temperature} it is beyond {_LARGEST:g}, which is no logit: remove such rows "
            f'before, by `- where: "{self.column} between -1e6 and 1e6"`, say'
        )

    def lost_by_a_draw(self) -> float:
        return self.alpha

    def lattice(self, centre: float) -> Lattice:
        return Lattice(self.alpha, centre)

    def anchor(self, scored: int) -> int:
        return self._batch(scored)

    def prepared(self, scored: int, state: State) -> State:
        batch = self._batch(scored)
        if batch > scored:
            raise Unbound(
                f"batch {batch} is above the {scored} rows that have a score, and a batch is of "
                "distinct rows: give a smaller one, or leave it out for a 1280th of them"
            )
        return {**state, "batch": batch}

    def _batch(self, scored: int) -> int:
        return self.batch or -(-scored // _BATCHES)

    def planned(self, histogram: Histogram, state: State, until: float) -> Schedule:
        lattice = self.lattice(state["centre"])
        try:
            return schedule(lattice, histogram, state["batch"], until)
        except TooManyBatches:
            raise Unbound(
                f"{state['draws']} draws by {state['batch']} are more than {MOST_BATCHES} batches "
                "in which some row comes nearly each time: give a larger batch, fewer draws or a "
                f"higher temperature than {self.temperature}"
            ) from None

    def decides_others(self) -> bool:
        return True

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {}, self.needs())
