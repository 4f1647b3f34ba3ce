"""Keep the tail of the concepts whole, and flatten their head, as MetaCLIP does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters import (
    UNSCORED,
    Available,
    Batch,
    Counts,
    Filter,
    PoolFilter,
    Shown,
    State,
    Summary,
    Unbound,
    Verdict,
    _radix,
    one_of,
    reasons_of,
)
from filters._coins import NONE, Matches, bases, drawn, matches, thresholds
from filters._tails import Tails, tails
from filters._top import exact_share, words_of

_COUNTED = ("rows", "of", "counts", "matched", "unmatched", "entries_hit", "matches")
_LIST = "List(UInt32)"  # the dtype of a column of matched entries


class MetadataBalance(PoolFilter):
    """Keeps all samples of rare entries and a share of those of frequent ones.

    MetaCLIP's balancing (2309.16671, algorithm 1). The samples of each entry are counted, each
    once, over those that reach this step. An entry of a count c keeps a sample with
    p = min(1, t / c), each entry by a coin of its own, and one success is enough:
    1 - (1 - p1)(1 - p2)... in all. A coin is a hash of (seed, step, uid, the entry's text): the
    same for any order, and after the list is built anew. So raising t removes nobody. The ledger
    says by which entry a sample stays: the one that would keep it at the smallest t.

    `t` is 20,000 for MetaCLIP's 400 million and 170,000 for its 2.5 billion; or give `fraction` or
    `count`, and the t that keeps just so many rows is found, ties by uid; where fewer match
    anything, all of these stay. With `tail_share_of: en`, t is that of English and each other
    language gets the t below which lies the same share of its matches (MetaCLIP 2, 2507.22062).
    Samples that match nothing are `unmatched`.

    Of several captions an image has, each in a `concepts` step of its own, `any` may keep it, once
    (MetaCLIP 1), or only `one`, drawn by uid hash (MetaCLIP 2). Duplicates must be removed before.
    """

    example = "{t: 20000}"

    concepts: str | tuple[str, ...] | None = Field(
        None, description="the `concepts` step, or several; the only one if absent"
    )
    t: float | None = Field(None, gt=0, description="samples of an entry that are kept at least")
    fraction: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    count: int | None = Field(None, ge=1, description="number of rows that stay")
    tail_share_of: str | None = Field(
        None,
        description="the language whose t is `t`; that of others follows from its tail's share",
    )
    unmatched: Literal["drop", "keep"] = Field("drop", description="samples without any entry")
    texts: Literal["any", "one"] = Field(
        "any", description="which of several captions count for a sample: any, or one by hash"
    )

    def problems(self) -> list[str]:
        given = [name for name in ("t", "fraction", "count") if getattr(self, name) is not None]
        found = [] if len(given) == 1 else ["give one of t, fraction and count"]
        if self.tail_share_of is not None and self.t is None:
            found.append("tail_share_of goes with t: it is the t of that language")
        if self.concepts == () or len(set(self._steps)) < len(self._steps):
            found.append("concepts: name at least one step, and each once")
        if self.texts == "one" and len(self._steps) < 2:
            found.append("`texts: one` draws among several captions: name their `concepts` steps")
        return found

    def bind(self, available: Available) -> Filter:
        there = [n.removesuffix(".entries") for n, dtype in available.items() if dtype == _LIST]
        if self.concepts is None:
            remedy = "put `- concepts: {entries: ...}` before this step"
            return self.model_copy(
                update={"concepts": one_of(there, "matched entries", remedy, "concepts")}
            )
        for name in self._steps:
            if name not in there:
                listed = ", ".join(there) or "none"
                raise Unbound(f"concepts: {name} is no `concepts` step before this one: {listed}")
        return self

    def refusals(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        lists = {name: before[name].get("entries") for name in self._steps if name in before}
        if len(set(lists.values())) < 2:
            return []
        said = ", ".join(f"{name} has {given}" for name, given in lists.items())
        return [f"entries are counted over one list: {said}"]

    @property
    def _steps(self) -> tuple[str, ...]:
        """The `concepts` steps that it reads."""
        if self.concepts is None or isinstance(self.concepts, str):
            return (self.concepts,) if self.concepts else ()
        return self.concepts

    def balances(self) -> bool:
        return True

    def needs(self) -> tuple[str, ...]:
        return tuple(f"{step}.entries" for step in self._steps)

    def learnt(self) -> tuple[str, ...]:
        """A hash of each entry's text, the texts, and whose language each is."""
        return tuple(f"{self._steps[0]}.{name}" for name in ("codes", "texts", "languages"))

    def start(self, counts: Counts) -> State:
        return {"rows": counts.survivors}

    def again(self, learnt: State) -> State | None:
        if learnt.get("of") != self._counted or self.tail_share_of is not None:
            return None
        return self._decided({name: learnt[name] for name in _COUNTED}, None)

    @property
    def _counted(self) -> list[str]:
        """What the counts depend on, beside the rows."""
        return [*self._steps, self.texts]

    def finished(self, state: State) -> bool:
        return "counts" in state and ("cut" not in state or _radix.resolved(state["cut"]))

    def summarize(self, batch: Batch, state: State) -> Summary:
        own = self._own(batch)
        if "cut" in state:
            return self._look(batch, own, state)
        codes = batch.learnt(self.learnt()[0])
        counted = own if self.texts == "any" else matches(batch, self.needs())
        if len(own.ids) and own.ids.max() >= len(codes):
            raise Unbound(f"{self.needs()[0]} holds {own.ids.max()}: the list has {len(codes)}")
        languages = batch.learnt(self.learnt()[2]) if self.tail_share_of is not None else None
        return {
            "counts": np.bincount(counted.ids, minlength=len(codes)).astype(np.int64),
            "unmatched": int(((own.lengths == 0) & ~own.unscored).sum()),
            "unscored": int(own.unscored.sum()),
            "languages": languages,
        }

    def _own(self, batch: Batch) -> Matches:
        """The entries that may keep each sample."""
        return (matches if self.texts == "any" else drawn)(batch, self.needs())

    def _look(self, batch: Batch, own: Matches, state: State) -> Summary:
        least, _ = self._thresholds(batch, own, state)
        rows = np.flatnonzero(~np.isnan(least))
        keys = _radix.order(-least[rows])
        return _radix.look(state["cut"], keys, lambda c: words_of(batch, rows[c]), "float64")

    def merge(self, left: Summary, right: Summary) -> Summary:
        if not isinstance(left, dict):
            return _radix.add(left, right)
        total = {name: left[name] + right[name] for name in ("counts", "unmatched", "unscored")}
        return {**total, "languages": left["languages"]}

    def fit(self, summary: Summary | None, state: State) -> State:
        if "cut" in state:
            cut: _radix.Cut = {"all": True}
            if summary is not None:
                cut = _radix.narrow(state["cut"], summary, "float64", "cut")
            found = {"t": -_radix.value_of(cut["key"], "float64")} if "key" in cut else {}
            return {**state, "cut": cut, **found}
        if summary is None:
            nothing = {"counts": np.zeros(0, dtype=np.int64), "unmatched": 0, "unscored": 0}
            summary = {**nothing, "languages": None}
        counts = summary["counts"]
        known = {
            "rows": state["rows"],
            "of": self._counted,
            "counts": counts,
            "matched": state["rows"] - summary["unmatched"] - summary["unscored"],
            "unmatched": summary["unmatched"],
            "entries_hit": int((counts > 0).sum()),
            "matches": int(counts.sum()),
        }
        return self._decided(known, summary["languages"])

    def _decided(self, known: State, languages: pl.Series | None) -> State:
        """The state once everything is counted: its t, or the search for one."""
        if self.t is None:
            wanted = self.count or exact_share(self.fraction or 0.0, known["rows"])
            own = max(0, wanted - known["unmatched"]) if self.unmatched == "keep" else wanted
            return {**known, "wanted": wanted, "cut": _radix.search(own, known["rows"])}
        return {**known, **self._with_t(known["counts"], languages)}

    def _with_t(self, counts: np.ndarray, languages: pl.Series | None) -> State:
        assert self.t is not None
        if self.tail_share_of is None or languages is None:
            return {"t": self.t, "entries_above_t": int((counts > self.t).sum())}
        found: Tails = tails(counts, languages, self.tail_share_of, self.t)
        return {
            "t": self.t,
            "tail_share": found.share,
            "entries_above_t": int((counts > found.of_entries).sum()),
            "t_of_entries": found.of_entries,
            "languages": found.table,
        }

    def keep(self, batch: Batch, state: State) -> Verdict:
        own = self._own(batch)
        least, entry = self._thresholds(batch, own, state)
        if "cut" in state:

            def words(rows: np.ndarray) -> np.ndarray:
                return words_of(batch, rows)

            stays = _radix.inside(state["cut"], -least, words, "float64")
        else:
            stays = least < 1
        nothing = (own.lengths == 0) & ~own.unscored
        if self.unmatched == "keep":
            stays = stays | nothing
        removed = {UNSCORED: own.unscored, "unmatched": nothing & ~stays, "over_t": ~stays}
        return Verdict(stays.astype(np.uint32), reasons_of(removed), self._by(batch, stays, entry))

    def _thresholds(
        self, batch: Batch, own: Matches, state: State
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `thresholds` says, with counts as weights where t is yet to be found."""
        weights = state["counts"].astype(np.float64)
        if "cut" not in state:
            weights /= state.get("t_of_entries", state["t"])
        return thresholds(own, bases(batch), batch.learnt(self.learnt()[0]), weights)

    def _by(self, batch: Batch, stays: np.ndarray, entry: np.ndarray) -> pl.Series:
        """[N] the entry by which each sample stays."""
        texts: pl.Series = batch.learnt(self.learnt()[1])
        known = pl.Series(entry).set(pl.Series(~stays | (entry == NONE)), None)
        return texts.gather(known)

    def decides_others(self) -> bool:
        return True

    def shows(self, state: State) -> Shown:
        return Shown((), {})
