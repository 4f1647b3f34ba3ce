"""Feature: how many tokens CLIP reads of a caption, and whether it is cut short."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field as Setting

from curate.errors import ConfigError
from curate.features import Columns, Feature, Field, Picture
from curate.features._tokens import TokenCounts

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


class TokenLength(Feature):
    """Length of a caption in tokens of CLIP, which reads 77 of them and no more.

    The tokenizer is open_clip's `SimpleTokenizer`, OpenAI's: it repairs broken encodings and HTML
    entities, joins white space, lower-cases, and cuts words into byte pairs. The start and the end
    count, so an empty caption has 2 tokens. A caption is `truncated` where it has more than
    `context`: the encoder sees the first `context` - 1 and the end; `where: "not
    token_length.truncated"` removes, and counts, them. Without a caption both are null.
    """

    version: ClassVar[int] = 1
    rows_per_second: ClassVar[int] = 100_000

    name: str = "token_length"
    context: int = Setting(77, ge=2, description="tokens that the text encoder reads, at most")

    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def gives(self) -> tuple[Field, ...]:
        return (
            Field("tokens", "uint32", "tokens with start and end, 2 or more; null: no caption"),
            Field("truncated", "bool", "whether there are more than `context`; null: no caption"),
        )

    def problems(self) -> list[str]:
        if _vocabulary().is_file():
            return []
        return [f"there is no file {_vocabulary()}: pip install open_clip_torch"]

    def recipe(self) -> dict[str, Any]:
        if problems := self.problems():
            raise ConfigError(problems[0])
        return {"vocabulary_sha256": hashlib.sha256(_vocabulary().read_bytes()).hexdigest()}

    def open(self, device: str) -> TokenLengthScorer:
        del device  # words and a table
        return TokenLengthScorer(self.context)


def _vocabulary() -> Path:
    found = importlib.util.find_spec("open_clip")
    folders = found.submodule_search_locations if found is not None else None
    return Path(folders[0] if folders else "open_clip", _VOCABULARY)


class TokenLengthScorer:
    """The tokenizer's tables, and the lengths of words so far."""

    batch = 50_000

    def __init__(self, context: int) -> None:
        from open_clip.tokenizer import SimpleTokenizer  # brings torch: seconds

        self._counts = TokenCounts(SimpleTokenizer())
        self._context = context

    def prepare(self, picture: Picture) -> None:
        raise NotImplementedError("a caption's tokens need no picture")

    def score(self, prepared: Sequence[Any], frame: pl.DataFrame) -> Columns:
        del prepared
        captions = frame["caption"].cast(pl.String)  # where all are null, the column has no type
        distinct = captions.drop_nulls().unique()  # captions of the web repeat each other
        counts = pl.Series(self._counts.of(distinct), dtype=pl.UInt32)
        known = pl.DataFrame({"caption": distinct, "tokens": counts})
        found = captions.to_frame("caption").join(
            known, on="caption", how="left", maintain_order="left"
        )
        tokens = found["tokens"]
        scalars = {"tokens": tokens, "truncated": tokens > self._context}
        if not tokens.null_count():
            return Columns(scalars)
        errors = pl.select(pl.when(tokens.is_null()).then(pl.lit("no_caption"))).to_series()
        return Columns(scalars, errors=errors.to_list())
