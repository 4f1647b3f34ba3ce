"""Keep so many samples of every domain, language, licence, class or whatever a column says."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from filters import Available, Batch, Counts, Filter, Shown, State, Summary, Unbound, column
from filters._allocation import Tally, tally
from filters._keep import Keep, columns_of, priority, refuse_text
from filters._quota import Learnt, QuotaFilter
from filters._shares import shared
from filters._top import exact_share

_LISTED = 20  # groups, in the report: the largest
_TEXTS = 1000  # groups whose text is remembered for that: those that are largest in some batch
_LONGEST = 200  # characters of a text
_NAME = (1 << 63) - 1  # the bits of a hash that are a group's name: int64, 0 or more
_WHOLE = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_KINDS = {"String", "Boolean", "Null", *_WHOLE}  # of columns that name groups, as polars prints it
# Of `scheme://user:password@host:port/path`: all between `//` and the path; and the host in that,
# in brackets where it is an address of IPv6.
_AUTHORITY = r"^[^/?#]*//([^/?#]+)"
_HOST = r"^(?:.*@)?(\[[^\]]*\]|[^:@]+)"


class BalancedBy(QuotaFilter):
    """Keeps at most so many samples of each group, or an exact number shared among the groups.

    A group is all samples with the same value of a column: text, a whole number or true/false; with
    `part: domain` of URLs, the same host in lower case, without `www.` (subdomains are groups of
    their own). `cap` alone keeps at most so many of each.

    With `keep` or `keep_count` an exact number is kept, floor(keep * n) of n rows with the unscored
    ones, or all there are. It is shared in proportion to size ** `power`: 0 gives every group as
    many (the default), 0.5 the square root of its size, 1 the same share. No group gives more than
    it has or than `cap`, or less than `floor` (or what it has); the others share the rest, still in
    proportion. Whole numbers are those of Webster's method, so raising `keep` removes nobody; nor
    does raising a `cap` alone. Equal claims go to the group whose name has the smaller hash. Where
    the number is too small for all floors it is shared equally, each at most its floor.

    Who stays of a group is drawn by a hash of the uid, or `choice` says: the best so many of each
    class are `{column: classes.name, cap: 100, choice: {highest: classes.similarity}}`.

    Groups go by a hash of 63 bits of their value; 16 bytes of memory a group, and up to ten times
    that for a moment. A missing value is `unscored`, or `missing: group` makes it a group.
    """

    example = "{column: url, part: domain, cap: 1000}"

    column: str = Field(description="the column whose values are the groups")
    part: Literal["domain"] | None = Field(
        None, description="what counts of a value: the host of a URL; else all of it"
    )
    cap: PositiveInt | None = Field(None, description="samples that stay of a group, at most")
    keep: float | None = Field(None, gt=0, le=1, description="share of the rows that stays")
    keep_count: PositiveInt | None = Field(None, description="number of rows that stay")
    power: float | None = Field(
        None,
        ge=0,
        le=1,
        description="with keep: of sizes, to which groups get in proportion; 0 unless given",
    )
    floor: PositiveInt | None = Field(
        None, description="with keep: samples that stay of a group before the rest is shared"
    )
    choice: Keep | None = Field(
        None,
        description="who stays: {highest: column} or {lowest: column}, those without a value last;"
        " else any",
    )
    missing: Literal["unscored", "group"] = Field(
        "unscored", description="what samples without a value are"
    )

    def problems(self) -> list[str]:
        if self.keep is not None and self.keep_count is not None:
            return ["give one of keep and keep_count"]
        if self.keep is not None or self.keep_count is not None:
            return self._problems_of_bounds()
        if self.cap is None:
            return ["give cap, keep or keep_count"]
        return [
            f"{field} says how a number is shared: it goes with keep or keep_count"
            for field in ("power", "floor")
            if getattr(self, field) is not None
        ]

    def _problems_of_bounds(self) -> list[str]:
        if self.cap is None or self.floor is None or self.floor <= self.cap:
            return []
        return [f"floor {self.floor} is above cap {self.cap}: a group cannot keep both"]

    def bind(self, available: Available) -> Filter:
        refuse_text(self.choice, available)
        held = available.get(self.column, "")
        if self.part == "domain" and held not in ("String", "Null", ""):
            raise Unbound(f"part: {self.column} holds {held}, and a domain is part of a text")
        if held:  # empty where the file was not read yet
            self._refuse(held)
        return self

    def _refuse(self, held: str) -> None:
        """Raise Unbound where a column's values name no groups."""
        if held not in _KINDS:
            raise Unbound(
                f"{self.column} holds {held}: groups are by text, whole numbers or true/false"
            )

    def balances(self) -> bool:
        return True

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.column, *columns_of(self.choice)]))

    def group(self, batch: Batch) -> np.ndarray:
        return self._named(*self._values(batch))

    def priority(self, batch: Batch) -> np.ndarray:
        return batch.uniform("choice") if self.choice is None else priority(self.choice, batch)

    def summarize(self, batch: Batch) -> Summary:
        raw, known = self._values(batch)
        sizes = tally(self._named(raw, known))
        largest = _largest(sizes)[:_TEXTS]
        found = pl.DataFrame({"name": sizes.keys[largest], "count": sizes.sums[largest, 0]})
        texts = known.select("name", pl.col("text").str.slice(0, _LONGEST)).unique("name")
        return _Seen(sizes, found.join(texts, on="name"))

    def merge(self, left: Summary, right: Summary) -> Summary:
        return _Seen(left.sizes + right.sizes, _joined(left.texts, right.texts))

    def fit(self, summary: Summary | None, counts: Counts, learnt: Learnt) -> State:
        none = np.zeros(0, dtype=np.int64)
        groups = summary.sizes if summary is not None else tally(none)
        sizes = groups.sums[:, 0]
        cap = self.cap or int(sizes.sum())
        quota, wanted = np.minimum(sizes, cap), {}
        if self.keep is not None or self.keep_count is not None:
            total = self.keep_count or exact_share(self.keep or 0.0, counts.survivors)
            quota = shared(sizes, total, self.power or 0.0, self.floor or 0, cap)
            wanted = {"wanted": total}
        return {
            "groups": groups.keys,
            "quota": quota,
            "rows": counts.survivors,
            "scored": int(sizes.sum()),
            **wanted,
            "kept": int(quota.sum()),
            "group_count": len(sizes),
            "groups_cut": int((quota < sizes).sum()),
            "groups_gone": int((quota == 0).sum()),
            "most_of_a_group": int(quota.max(initial=0)),
            "largest": _listed(summary, quota) if summary is not None else [],
        }

    def shows(self, state: State) -> Shown:
        return Shown(self.needs(), {}, columns_of(self.choice))

    def _values(self, batch: Batch) -> tuple[pl.Series, pl.DataFrame]:
        """([N] what counts of each value, and {raw, text, name} of those that differ)."""
        value = batch.frame.select(column(self.column).alias("text")).to_series()
        self._refuse(str(value.dtype))
        raw = value.cast(pl.String)
        if self.part == "domain":
            raw = raw.str.extract(_AUTHORITY, 1)
        distinct = raw.drop_nulls().unique()
        text = distinct if self.part is None else _domains(distinct)
        names = [None if each is None else _name(each) for each in text.to_list()]
        known = {"raw": distinct, "text": text, "name": pl.Series(names, dtype=pl.Int64)}
        return raw, pl.DataFrame(known)

    def _named(self, raw: pl.Series, known: pl.DataFrame) -> np.ndarray:
        """[N] int64 name of the group of each of [N] values, -1 for none."""
        found = raw.to_frame("raw").join(known, on="raw", how="left", maintain_order="left")
        return found["name"].fill_null(_NONE if self.missing == "group" else -1).to_numpy()


@dataclass(frozen=True)
class _Seen:
    """What some batches have."""

    sizes: Tally  # samples of each group
    texts: pl.DataFrame  # {name, count, text} of the groups with the largest counts in one batch


def _name(text: str, kind: bytes = b"value") -> int:
    digest = blake2b(text.encode(), digest_size=8, person=kind).digest()
    return int.from_bytes(digest, "little") & _NAME


_NONE = _name("", b"missing")  # the group of missing values: no text's, not even the empty one's


def _domains(authorities: pl.Series) -> pl.Series:
    """[M] hosts of [M] texts like `user@WWW.Example.com:80`; null where there is none."""
    host = authorities.str.strip_chars().str.extract(_HOST, 1).str.to_lowercase()
    bare = host.str.strip_suffix(".").str.strip_prefix("www.")
    return bare.set(bare == "", None)


def _joined(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Those of both with the largest count in one batch: the same in whatever order they join."""
    both = pl.concat([left, right]).group_by("name").agg(pl.max("count"), pl.min("text"))
    return both.sort("count", "name", descending=[True, False]).head(_TEXTS)


def _largest(sizes: Tally) -> np.ndarray:
    """[M] places of groups, the largest first, of equals that with the smaller name."""
    return np.lexsort((sizes.keys, -sizes.sums[:, 0]))


def _listed(seen: _Seen, quota: np.ndarray) -> list[dict[str, Any]]:
    """The largest groups: their text, if it is known, how many samples they had and keep."""
    texts = dict(seen.texts.select("name", "text").iter_rows())
    found = []
    for place in _largest(seen.sizes)[:_LISTED].tolist():
        name, size = int(seen.sizes.keys[place]), int(seen.sizes.sums[place, 0])
        text = "(missing)" if name == _NONE else texts.get(name, f"(hash {name:016x})")
        found.append({"group": text, "samples": size, "kept": int(quota[place])})
    return found
