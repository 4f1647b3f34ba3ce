"""Feature: which entries of a list a caption matches, such as MetaCLIP's metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field as Setting

from curate import storage
from curate.concepts.entry_list import EntryList, read_entries, write_entries
from curate.errors import ConfigError, CurateError
from curate.features import Columns, Feature, Field, Picture, Scorer
from curate.parquet import read_parquet
from filters import column

if TYPE_CHECKING:
    from curate.concepts.matching import Matcher

_LISTED = 5  # languages that a message names
_KEPT = "entries-"  # the list in the step's folder, and
_CODES = "codes-"  # a hash of each entry


class Concepts(Feature):
    """The entries of a list that a caption matches: ids ascending, each once.

    The list is made by `curate metadata build`, or given: parquet, text with an entry on each line,
    or MetaCLIP's `metadata.json`. An entry's id is its row there.

    By the rule `metaclip` (2309.16671) blanks are put around the caption and around each of
    `, . ; : ? ! ``, tabs and line ends become blanks, and an entry matches where it stands between
    two blanks. Case counts; blanks are neither taken off nor merged. The rule `metaclip2`
    (2507.22062) takes white space off the caption's ends and asks for no blank on a side of an
    entry that is a Chinese, Japanese, Thai, Lao, Burmese, Khmer or Tibetan character or a
    punctuation mark.

    With `language: language.code` a caption is matched against the entries of its language alone:
    the list's language of that code, whatever the script, else its `other`; the column
    `concepts.language` says which list that was.
    """

    version: ClassVar[int] = 1
    rows_per_second: ClassVar[int] = 800_000

    name: str = "concepts"
    entries: str = Setting(description="the list: a path, or a URL that fsspec opens")
    of: str = Setting("caption", description="the column of texts")
    rule: Literal["metaclip", "metaclip2"] = Setting("metaclip", description="what is a match")
    language: str | None = Setting(
        None, description="the column of languages that chooses among the list's, if it has several"
    )

    def __getstate__(self) -> dict[Any, Any]:
        """Without the list: each worker reads it, instead of getting it with each task.

        Its digest goes along, so that a file that was replaced meanwhile is noticed.
        """
        assert self._digest
        state = super().__getstate__()
        inside = {key: value for key, value in state["__dict__"].items() if key != "_list"}
        return {**state, "__dict__": inside}

    def needs(self) -> tuple[str, ...]:
        return (self.of,) if self.language is None else (self.of, self.language)

    def gives(self) -> tuple[Field, ...]:
        about = "ids of the entries, ascending; empty for no match, null without a caption"
        found = (Field("entries", "uint32s", about),)
        if self.language is None:
            return found
        about = "of the list, whose entries were looked for; null where it has none, or no caption"
        return (*found, Field("language", "string", about))

    def problems(self) -> list[str]:
        try:
            languages = self._list.language.unique().sort().to_list()
        except CurateError as error:
            return [f"entries: {error}"]
        if self.language is not None and languages == [""]:
            return [f"language: {self.entries} has no languages to choose from: leave it out"]
        if self.language is None and len(languages) > 1:
            listed = ", ".join(map(repr, languages[:_LISTED]))
            listed += ", ..." if len(languages) > _LISTED else ""
            return [
                f"entries: {self.entries} has {len(languages)} languages ({listed}): put "
                "`- language: {}` before this step and write `language: language.code`, or give a "
                "list of one language"
            ]
        return []

    def recipe(self) -> dict[str, Any]:
        """The list by its content."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {"entries": {"count": len(self._list), "sha256": self._digest}}

    def keeps(self, folder: str) -> None:
        """The list as parquet, and a hash of each entry's text."""
        codes, kept = (storage.join(folder, name) for name in self._files())
        if not storage.exists(codes):
            storage.commit_array(codes, _codes(self._list.entries))
        if not storage.exists(kept):
            write_entries(kept, self._list)

    def learnt(self, folder: str, name: str) -> Any:
        """`texts` and `languages` are [E] strings, `codes` [E] uint64: a hash of the text."""
        columns = {"texts": "entry", "languages": "language"}
        if name != "codes" and name not in columns:
            return super().learnt(folder, name)
        there = storage.names(folder)
        start = _CODES if name == "codes" else _KEPT
        file = next((one for one in there if one.startswith(start)), None)
        if file is None:
            raise KeyError(f"there is no {start}* in {folder}: run the pipeline")
        if name == "codes":
            return storage.read_array(storage.join(folder, file))
        return read_parquet(storage.join(folder, file), [columns[name]])[columns[name]]

    def open(self, device: str) -> Scorer:
        del device  # look-ups
        from curate.concepts.matching import Matcher

        whole = self._list
        if whole.digest != self._digest:  # a worker's own look at the file
            raise ConfigError(
                f"{self.entries} is another list than when the run began: leave it alone meanwhile"
            )
        if self.language is None:
            return ConceptsScorer(Matcher(whole.entries, self.rule), self.of)
        return ByLanguageScorer(whole, self)

    @cached_property
    def _list(self) -> EntryList:
        return _read(self.entries, storage.entry(self.entries))

    @cached_property
    def _digest(self) -> str:
        return self._list.digest

    def _files(self) -> tuple[str, str]:
        """The names of what `keeps` leaves."""
        start = self._list.digest[:12]
        return f"{_CODES}{start}.npy", f"{_KEPT}{start}.parquet"


@lru_cache(maxsize=2)
def _read(path: str, entry: storage.Entry) -> EntryList:
    """The list, read once for as long as its file stays as it is: a command compiles repeatedly."""
    del entry
    return read_entries(path)


def _codes(entries: pl.Series) -> np.ndarray:
    """[E] uint64: the first 8 bytes, little endian, of each entry's BLAKE2b."""
    hashes = b"".join(
        hashlib.blake2b(entry.encode(), digest_size=8).digest() for entry in entries.to_list()
    )
    return np.frombuffer(hashes, dtype="<u8")


class ConceptsScorer:
    """A list of entries, ready to be looked for."""

    batch = 65_536

    def __init__(self, matcher: Matcher, of: str) -> None:
        self._matcher = matcher
        self._of = of

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's entries need no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        captions = _texts(frame, self._of)
        absent = captions.is_null()
        entries = _lists(*self._matcher.match(captions), absent)
        if not absent.any():
            return Columns({"entries": entries})
        return Columns({"entries": entries}, errors=_reasons(absent, captions, captions))


class ByLanguageScorer:
    """The entries of each language, ready to be looked for in captions of that language."""

    batch = 65_536

    def __init__(self, entries: EntryList, feature: Concepts) -> None:
        from curate.concepts.matching import Matcher

        self._feature = feature
        frame = pl.DataFrame({"entry": entries.entries, "language": entries.language})
        self._rows: dict[str, np.ndarray] = {}  # {language: [E] uint32, ascending: the ids}
        self._matchers: dict[str, Matcher] = {}
        for (language,), part in frame.with_row_index("row").group_by("language"):
            self._rows[str(language)] = part["row"].to_numpy()
            self._matchers[str(language)] = Matcher(part["entry"], feature.rule)

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's entries need no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        assert self._feature.language is not None
        captions = _texts(frame, self._feature.of)
        labels = _texts(frame, self._feature.language)
        lists = self._lists_of(labels).set(captions.is_null(), None)
        absent = lists.is_null()
        scalars = {"entries": self._matched(captions, lists), "language": lists}
        if not absent.any():
            return Columns(scalars)
        return Columns(scalars, errors=_reasons(absent, captions, labels))

    def _lists_of(self, labels: pl.Series) -> pl.Series:
        """[N] the list's language for each label; null where it has none."""
        from curate.concepts._labels import list_of

        known = {
            label: list_of(label, self._rows) for label in labels.drop_nulls().unique().to_list()
        }
        return labels.replace_strict(known, default=None, return_dtype=pl.String)

    def _matched(self, captions: pl.Series, lists: pl.Series) -> pl.Series:
        """[N] lists of ids; null where there is no language."""
        counts = np.zeros(len(captions), dtype=np.int64)
        found = []
        for language in lists.drop_nulls().unique().to_list():
            rows = (lists == language).arg_true().to_numpy()
            offsets, ids = self._matchers[language].match(captions.gather(rows))
            counts[rows] = np.diff(offsets)
            found.append((rows, offsets, self._rows[language].take(ids)))
        starts = np.concatenate([[0], np.cumsum(counts)])
        whole = np.empty(starts[-1], dtype=np.uint32)
        for rows, offsets, ids in found:
            places = np.repeat(starts.take(rows) - offsets[:-1], np.diff(offsets))
            whole[places + np.arange(len(ids))] = ids
        return _lists(starts, whole, lists.is_null())


def _texts(frame: pl.DataFrame, name: str) -> pl.Series:
    """[N] strings of a column of the pool or of a step; nulls alone have no type."""
    return frame.select(column(name).cast(pl.String)).to_series()


def _reasons(absent: pl.Series, captions: pl.Series, labels: pl.Series) -> list[str | None]:
    """[N] why samples have no entries, null where they have."""
    kind = (
        pl.when("caption").then(pl.lit("no_caption"))
        .when("label").then(pl.lit("no_language"))
        .otherwise(pl.lit("no_list"))
    )  # fmt: skip
    lacking = {"absent": absent, "caption": captions.is_null(), "label": labels.is_null()}
    return pl.DataFrame(lacking).select(pl.when("absent").then(kind)).to_series().to_list()


def _lists(offsets: np.ndarray, ids: np.ndarray, absent: pl.Series) -> pl.Series:
    """[N] lists of uint32, null where one is absent; without a copy of the ids."""
    import pyarrow as pa

    lists = pa.LargeListArray.from_arrays(
        pa.array(offsets),
        pa.array(ids, type=pa.uint32()),
        mask=pa.array(absent.to_numpy()) if absent.any() else None,
    )
    return pl.Series("entries", lists, dtype=pl.List(pl.UInt32))
