"""Build the English list of entries: `python pipelines/english_entries.py OUT.parquet`.

It stands in for MetaCLIP's own list, which is built from Wikipedia's dumps:

- the first word of each synset of WordNet 3.0 (`apt-get install wordnet-base`, or nltk's
  corpora/wordnet.zip unzipped; WordNet's licence, which allows any use that names it),
- the words of a to z and apostrophes that wordfreq's large list has with a Zipf frequency of 1.5 or
  more, which is 32 in 10^9 words (`pip install wordfreq`; code Apache-2.0, data CC-BY-SA-4.0),
- the pairs of words with a PMI of 5 or more in wordsegment's counts, which are Google's of the Web
  (`pip install wordsegment`; MIT).

These are read from where they are installed; nothing of them is kept here. Whoever passes the list
on passes on data under CC-BY-SA-4.0.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module, resources
from typing import Annotated

import polars as pl
import typer

from curate.concepts import build
from curate.concepts.build import Built
from curate.concepts.entry_list import write_entries
from curate.concepts.metadata_command import account_lines
from curate.concepts.presets import Thresholds, rules_of
from curate.concepts.sources import Counts, read_counts, read_wordnet
from curate.errors import CurateError
from curate.features._given.wordnet import find_folder

LANGUAGE = "en"
# Of 10^9 words: a Zipf frequency of 1.5 is 31.6, and wordfreq knows steps of 0.01.
THRESHOLDS = Thresholds(min_count=32, min_pmi=5.0)
_WORD = re.compile("[a-z][a-z']*")


def english_entries(wordnet: str | None = None) -> Built:
    """The list, from a folder of WordNet's database files and the installed packages."""
    rules = rules_of("metaclip1", LANGUAGE, THRESHOLDS)
    counted, pairs = wordsegment_counts()
    found = [
        build.numbers(LANGUAGE),
        build.wordnet(LANGUAGE, read_wordnet(str(find_folder(wordnet)))),
        build.unigrams(LANGUAGE, wordfreq_counts(), rules),
        build.bigrams(LANGUAGE, pairs, counted, rules),
    ]
    return build.put_together(found, {LANGUAGE: rules})


def wordsegment_counts() -> tuple[Counts, Counts]:
    """(words, pairs of words) of wordsegment: the most frequent of the 10^12 words of Google's."""
    wordsegment = import_module("wordsegment")
    with resources.as_file(resources.files(wordsegment)) as folder:
        words = read_counts([str(folder / "unigrams.txt")], "unigram")
        pairs = read_counts([str(folder / "bigrams.txt")], "bigram")
    return replace(words, all_counted=int(wordsegment.Segmenter.TOTAL)), pairs


def wordfreq_counts() -> Counts:
    """wordfreq's English words of a to z and apostrophes, and how many of 10^9 words they are."""
    wordfreq = import_module("wordfreq")
    frequencies = wordfreq.get_frequency_dict(LANGUAGE, wordlist="large")
    words = [word for word in frequencies if _WORD.fullmatch(word)]
    counts = [round(frequencies[word] * 1e9) for word in words]
    frame = pl.DataFrame({"entry": words, "count": counts})
    return Counts(frame, len(frequencies), {"not_a_to_z": len(frequencies) - len(words)})


def main(
    out: Annotated[str, typer.Argument(help="The parquet file to write.")],
    wordnet: Annotated[
        str | None, typer.Option(help="Folder of WordNet 3.0's database files.")
    ] = None,
) -> None:
    """Build the English list of entries from WordNet, wordfreq and wordsegment."""
    try:
        built = english_entries(wordnet)
        write_entries(out, built.entries)
    except ModuleNotFoundError as error:
        typer.echo(f"{error}: pip install wordfreq wordsegment", err=True)
        raise typer.Exit(2) from None
    except CurateError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.exit_code) from None
    for line in account_lines(out, built):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
