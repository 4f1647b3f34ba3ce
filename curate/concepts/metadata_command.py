"""`curate metadata build`: a list of entries from word lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from curate.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from curate.concepts.build import Account, Built

MOST_LANGUAGES = 12  # of which the table shows each
_COLUMNS = "{:<12}  {:<8}{:>13}{:>13}  {}"

metadata_app = typer.Typer(
    name="metadata",
    help="""Make lists of entries: words and phrases, whose concepts are matched and counted.

    A list (MetaCLIP's "metadata") is a parquet file: entry, source, language, rank.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@metadata_app.callback()
def _group() -> None:
    """Keep `build` a command of its own, though it is the only one."""


def _repeatable(name: str, what: str) -> Any:  # typer says Any too
    return typer.Option(name, metavar="[LANGUAGE=]PATH", help=what)


@metadata_app.command()
def build(  # noqa: PLR0913 - one parameter is one option of the command
    out: Annotated[
        str, typer.Argument(help="The parquet file to write; replaced if there is one.")
    ],
    wordnet: Annotated[
        list[str] | None,
        _repeatable("--wordnet", "Folder of WordNet's data files: the first word of each synset."),
    ] = None,
    wordnet_tab: Annotated[
        list[str] | None,
        _repeatable("--wordnet-tab", "Open Multilingual Wordnet's .tab file: all lemmas."),
    ] = None,
    unigrams: Annotated[
        list[str] | None, _repeatable("--unigrams", "Text, `word count` per line.")
    ] = None,
    bigrams: Annotated[
        list[str] | None,
        _repeatable("--bigrams", "Text, `word word count` per line; needs --unigrams for the PMI."),
    ] = None,
    titles: Annotated[
        list[str] | None,
        _repeatable("--titles", "Text, `title views` per line; none with a colon."),
    ] = None,
    given: Annotated[
        list[str] | None,
        _repeatable("--given", "A list as it is: parquet, JSON list, or text, one per line."),
    ] = None,
    preset: Annotated[
        Literal["metaclip1", "metaclip2"],
        typer.Option(
            help="metaclip1: the thresholds below in all languages. metaclip2: these for English "
            "(en); of others the top 10 % of unigrams (at most 251,465), bigrams with PMI > "
            "--min-pmi (at most 100,646) and the top 76 % of titles (at most 61,235)."
        ),
    ] = "metaclip1",
    min_count: Annotated[int, typer.Option(min=0, help="Of a unigram.")] = 100,
    min_pmi: Annotated[
        float, typer.Option(min=-1000, max=1000, help="Of a bigram: log2, as in nltk.")
    ] = 30,
    min_views: Annotated[int, typer.Option(min=0, help="Of a title.")] = 70,
    bigram_share: Annotated[
        str | None,
        typer.Option(
            metavar="DECIMAL",
            help="metaclip2: no more bigrams than this share of the number of unigrams. Its docs "
            "say 0.4; its code has no such cap, nor has this command unless told.",
        ),
    ] = None,
    wordnet_heads: Annotated[
        Literal["whole", "cut"],
        typer.Option(help="cut: words end before their first full stop, as in MetaCLIP's code."),
    ] = "whole",
    *,
    no_numbers: Annotated[
        bool, typer.Option("--no-numbers", help="Do not begin with 0 to 99 in each language.")
    ] = False,
) -> None:
    """Build a list of entries, and say what became of every line of what it is made from.

    Sources follow each other as number, wordnet, unigram, bigram, title, given; in a language the
    first of equal entries stays. A LANGUAGE is Wikipedia's code (en, ja, zh_yue), English unless
    given; `=PATH` makes entries without a language. Bigrams of languages without blanks (zh, ja,
    th, ...) are joined without one. An option may be given several times: counts of the same word
    are added."""
    from curate.concepts.entry_list import write_entries
    from curate.concepts.presets import Thresholds
    from curate.concepts.word_files import Choice, WordFiles, build_list, word_file

    if math.isnan(min_pmi):
        raise ConfigError("--min-pmi must be a number")
    named = (wordnet, wordnet_tab, unigrams, bigrams, titles, given)
    files = WordFiles(*([word_file(text) for text in texts or ()] for texts in named))
    thresholds = Thresholds(min_count, min_pmi, min_views, _share(bigram_share, preset))
    numbers: Literal["0 to 99", "none"] = "none" if no_numbers else "0 to 99"
    built = build_list(files, Choice(preset, thresholds, wordnet_heads, numbers))
    write_entries(out, built.entries)
    for line in account_lines(out, built):
        typer.echo(line)


def _share(text: str | None, preset: str) -> Decimal | None:
    if text is None:
        return None
    if preset != "metaclip2":
        raise ConfigError("--bigram-share caps what `--preset metaclip2` takes: add that")
    with suppress(InvalidOperation):
        share = Decimal(text)
        if 0 < share <= 1:
            return share
    raise ConfigError(f"--bigram-share {text}: must be above 0 and at most 1")


def account_lines(out: str, built: Built) -> Iterator[str]:
    """The table of what became of every line, by language (all together where many) and source."""
    languages = sorted({account.language for account in built.accounts})
    many = f"all {len(languages)}" if len(languages) > MOST_LANGUAGES else None
    yield f"{out}: {len(built.entries):,} entries, sha256 {built.entries.digest[:12]}"
    yield _COLUMNS.format("language", "source", "lines", "entries", "left out").rstrip()
    groups: dict[tuple[str, str], list[Account]] = {}
    for account in built.accounts:
        groups.setdefault((many or account.language or "-", account.source), []).append(account)
    for (language, source), accounts in groups.items():
        yield _row(language, source, accounts)
    yield from unlikely_lines(built.entries.entries)


def unlikely_lines(entries: pl.Series) -> Iterator[str]:
    """What is said of entries that hardly a caption can match."""
    from curate.concepts.matching import hardly_match

    found = entries.gather(hardly_match(entries).nonzero()[0])
    if len(found):
        named = ", ".join(repr(entry) for entry in found.head(3))
        yield (
            f"{len(found):,} entries can hardly match, for a sign inside a word or a blank at an "
            f"end: {named}" + (", ..." if len(found) > 3 else "")
        )


def _row(language: str, source: str, accounts: Sequence[Account]) -> str:
    left_out: Counter[str] = Counter()
    for account in accounts:
        left_out.update(account.left_out)
    reasons = ", ".join(f"{name.replace('_', ' ')} {left_out[name]:,}" for name in sorted(left_out))
    lines = sum(account.lines for account in accounts)
    entries = sum(account.entries for account in accounts)
    return _COLUMNS.format(language, source, f"{lines:,}", f"{entries:,}", reasons).rstrip()
