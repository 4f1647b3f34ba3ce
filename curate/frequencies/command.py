"""`curate concepts`: what became of the concepts of a finished run, and of a list of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate import storage
from curate.errors import ConfigError, did_you_mean
from curate.frequencies.class_names import ClassNames, Vocabulary, read_classes, vocabulary
from curate.frequencies.frequency import Frequencies, class_frequencies
from curate.frequencies.word_forms import open_lexicon
from curate.parquet import read_parquet
from curate.report.concepts import counts_file
from curate.runner import Runner

FEW = 10  # samples below which a class is called rare
SIDES = ("before", "after", "copies")  # all usable samples of the pool, the kept ones, theirs
Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    step: str | None = None  # one `concepts` step; all if absent
    top: int = 30  # entries and classes of a list
    classes: str | None = None  # a file of class names, or `imagenet`
    wordnet: str | None = None  # WordNet's folder; looked for if absent


def answer(work: str, asked: Asked, runner: Runner) -> Json:
    """{"concepts": what the report says of each step, "classes": frequencies or None}.

    Raises:
        ConfigError: the run is not finished, or has no such step; the file of classes is wrong.
    """
    classes = read_classes(asked.classes) if asked.classes is not None else None
    sections = _sections(work, asked, need_one=classes is None)
    found: Json = {
        "concepts": [_with_top(work, section, asked.top) for section in sections],
        "classes": None,
    }
    if classes is not None:
        lexicon = open_lexicon(asked.wordnet)
        words = vocabulary(classes, lexicon)
        counted = class_frequencies(work, words, len(classes), runner)
        found["classes"] = {
            "of": asked.classes,
            "forms_by": lexicon.about,
            **_class_table(classes, words, counted),
        }
    return found


def _sections(work: str, asked: Asked, *, need_one: bool) -> list[Json]:
    url = storage.join(work, "report", "report.json")
    if not storage.exists(url):
        raise ConfigError(
            f"{work} has no report: no run was finished there. Give the folder that a pipeline "
            "file's `work:` names, and run that file first: curate run <file>"
        )
    if not storage.exists(storage.join(work, "manifest.json")):
        raise ConfigError(
            f"the run in {work} is not finished, so its counts may be those of an earlier one: "
            "finish it first: curate run <file>"
        )
    sections: list[Json] | None = storage.read_json(url).get("concepts")
    if sections is None:
        raise ConfigError(
            f"{url} was written before reports told of concepts: delete {work}/report and run the "
            "pipeline again, which takes seconds"
        )
    names = [section["step"] for section in sections]
    if asked.step is not None:
        if asked.step not in names:
            what = f"{work} has no `concepts` step"
            if not names:
                raise ConfigError(f"{what}: {_REMEDY}")
            raise ConfigError(f"--step: {did_you_mean(asked.step, names, what)}")
        return [section for section in sections if section["step"] == asked.step]
    if not sections and need_one:
        raise ConfigError(f"{work} has no `concepts` step: {_REMEDY}")
    return sections


_REMEDY = (
    "put `- concepts: {entries: <list>}` into the pipeline file and run it again; for class names "
    "alone, add --classes"
)


def _with_top(work: str, section: Json, top: int) -> Json:
    """A section with so many entries of the head: a report has a few, the file beside it all."""
    head = section["head"]
    if top > len(head) and section["stages"][0]["entries_hit"] > len(head):
        head = _head_of(work, section, top)
    return {**section, "head": head[:top]}


def _head_of(work: str, section: Json, top: int) -> list[Json]:
    frame = read_parquet(counts_file(work, section["step"]))
    stages = [f"after {stage['after']}" for stage in section["stages"]]
    order = np.argsort(-frame[stages[0]].to_numpy(), kind="stable")[:top]
    rows = frame[order].filter(pl.col(stages[0]) > 0)
    return [
        {
            "entry": row["entry"],
            **({"language": row["language"]} if row["language"] else {}),
            "samples": [row[stage] for stage in stages],
            "copies": row["copies"],
        }
        for row in rows.iter_rows(named=True)
    ]


def _class_table(classes: ClassNames, words: Vocabulary, counted: Frequencies) -> Json:
    """All that is known of the classes, as JSON."""
    own = dict(enumerate(counted.classes.T.tolist()))
    table = [
        {"class": name, **dict(zip(SIDES, own[number], strict=True)), "terms": terms}
        for number, (name, terms) in enumerate(
            zip(classes.names, _terms(classes, words, counted), strict=True)
        )
    ]
    return {
        "samples": dict(zip(SIDES, counted.samples.tolist(), strict=True)),
        "naming_a_class": dict(zip(SIDES, counted.named.tolist(), strict=True)),
        "without_caption": dict(zip(SIDES, counted.without_caption.tolist(), strict=True)),
        "classes": table,
        "none": {side: _names(table, side, 0, 0) for side in SIDES[:2]},
        "few": {side: _names(table, side, 1, FEW - 1) for side in SIDES[:2]},
        "unseen_terms": _unseen(classes, words, counted),
        "shared_terms": _shared(classes, words, counted),
    }


def _names(table: Sequence[Json], side: str, least: int, most: int) -> list[str]:
    return [row["class"] for row in table if least <= row[side] <= most]


def _terms(
    classes: ClassNames, words: Vocabulary, counted: Frequencies
) -> Iterator[dict[str, list[int]]]:
    """Of each class {text: samples before and after} of its terms, plurals and lemmas."""
    before, after, _ = counted.texts.tolist()
    texts = words.texts.to_list()
    for terms in classes.terms:
        forms = dict.fromkeys(form for term in terms for form in words.term_of[term])
        yield {texts[form]: [before[form], after[form]] for form in forms}


def _unseen(classes: ClassNames, words: Vocabulary, counted: Frequencies) -> list[Json]:
    """Terms that no caption of the pool has in any form, and whose they are."""
    before = counted.texts[0]
    found: dict[str, list[str]] = {}
    for name, terms in zip(classes.names, classes.terms, strict=True):
        for term in terms:
            if not before[list(words.term_of[term])].any():
                found.setdefault(term, []).append(name)
    return [{"term": term, "classes": names} for term, names in found.items()]


def _shared(classes: ClassNames, words: Vocabulary, counted: Frequencies) -> list[Json]:
    """Texts that count for several classes, the most frequent first."""
    shared = words.shared
    order = shared[np.argsort(-counted.texts[0, shared], kind="stable")]
    return [
        {
            "term": words.texts[text],
            "classes": [
                classes.names[number]
                for number in words.classes[words.offsets[text] : words.offsets[text + 1]].tolist()
            ],
            "before": int(counted.texts[0, text]),
        }
        for text in order.tolist()
    ]
