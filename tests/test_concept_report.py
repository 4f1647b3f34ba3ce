"""What a report says of concepts: every number must be that of a recount by hand."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import real_pictures
from metadata_pool import uid
from tiny_pool import Reported, draw, ledger_of, tar_pool, write_shards

from curate import chance
from curate.errors import ConfigError, CurateError
from curate.frequencies.class_names import imagenet
from curate.frequencies.command import Asked, answer
from curate.frequencies.text import lines_of
from curate.frequencies.word_forms import Lexicon, forms
from curate.runner import LocalRunner
from curate.sample import make_uids

WORDS = ["dog", "cat", "red", "red dog", "Cat", "sat", "mat", "12", "owl", "ibis", "yak", "zebra"]
NEVER = ["nobody says this", "a,b"]


def captions(count: int = 240, seed: int = 3) -> list[str | None]:
    """Captions in which few words are frequent; some name nothing, some are not there."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1) ** 1.3
    found: list[str | None] = []
    for number in range(count):
        words = rng.choice(WORDS, rng.integers(1, 5), p=share / share.sum()).tolist()
        found.append(f"{'a , ' if number % 7 else ''}{' '.join(words)} of {number % 50}.")
        if number % 11 == 3:
            found[-1] = f"nothing to see {number}"
        if number % 17 == 5:
            found[-1] = None
    return found


def pool_of(folder: Path, texts: list[str | None], rows: int) -> dict:
    """A pool of metadata in files, and so blocks, of some rows: caption n is that of `uid(n)`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(len(texts))
    frame = {
        "uid": [uid(n) for n in numbers],
        "url": [f"http://h/{n % 90}.jpg" for n in numbers],
        "text": texts,
        "other": texts[::-1],
        "number": list(numbers),
        "spoken": ["de" if n % 2 else "en" for n in numbers],
    }
    schema = {"text": pl.String, "other": pl.String}
    for part in pl.DataFrame(frame, schema_overrides=schema).iter_slices(rows):
        part.write_parquet(folder / f"pool-{part['number'][0]:05d}.parquet")
    return {"metadata": str(folder / "pool-*.parquet")}


def list_of(folder: Path, entries: list[str], name: str = "entries") -> dict:
    """The `concepts` step of a list."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{entry}\n" for entry in entries))
    return {"entries": str(path)}


def pipeline_of(
    folder: Path, texts: list[str | None], steps: list, rows: int = 64, **fields: object
) -> Reported:
    pipeline = Reported(folder, pool_of(folder, texts, rows), steps)
    return pipeline.where(rows_per_block=rows, **fields)


def sections_of(pipeline: Reported) -> list[dict]:
    return json.loads((pipeline.work / "report" / "report.json").read_text())["concepts"]


def matched(text: str | None, entries: list[str]) -> list[int]:
    """MetaCLIP's rule, read as it is written."""
    if text is None:
        return []
    spaced = " " + re.sub("[\t\n\r]", " ", text) + " "
    for sign in ",.;:?!`":
        spaced = spaced.replace(sign, f" {sign} ")
    return [n for n, entry in enumerate(entries) if f" {entry} " in spaced]


class Recount:
    """The counts of a `concepts` step, from the ledger and the captions alone."""

    def __init__(self, pipeline: Reported, step: str, entries: list[str]) -> None:
        names = [next(iter(one.items())) for one in pipeline.steps]
        self.names = [(value or {}).get("name", kind) for kind, value in names]
        self.at, self.entries = self.names.index(step), entries
        pool = pl.read_parquet(pipeline.pool["metadata"]).select("uid", "text")
        rows = ledger_of(pipeline.work).join(pool, on="uid").select("step", "copies", "text").rows()
        self.rows = [
            (len(self.names) if by is None else self.names.index(by), copies, text)
            for by, copies, text in rows
        ]
        own = [n for n in range(self.at + 1, len(self.names)) if self.names[n] not in FEATURES]
        self.stages = [self.at, *own]
        self.own = [matched(text, entries) for _, _, text in self.rows]

    def past(self, stage: int) -> list[tuple[int, str | None, list[int]]]:
        """(copies, caption, entries) of the rows that a step left in."""
        both = zip(self.rows, self.own, strict=True)
        return [(copies, text, own) for (by, copies, text), own in both if by > stage]

    def counts(self, stage: int) -> list[int]:
        found = Counter(entry for _, _, own in self.past(stage) for entry in own)
        return [found[entry] for entry in range(len(self.entries))]

    def order(self) -> list[int]:
        before = self.counts(self.at)
        hit = [entry for entry, count in enumerate(before) if count]
        return sorted(hit, key=lambda entry: (-before[entry], entry))


FEATURES = ("concepts", "first", "second", "language", "write")


def check(section: dict, again: Recount) -> None:
    """Compare a section with what was recounted."""
    order, every = again.order(), [again.counts(stage) for stage in again.stages]
    assert section["list"]["entries"] == len(again.entries)
    assert sum(section["list"]["sources"].values()) == len(again.entries)
    for stage, counts, said in zip(again.stages, every, section["stages"], strict=True):
        rows = again.past(stage)
        assert said["after"] == again.names[stage]
        assert said["samples"] == len(rows)
        assert said["matched"] == sum(bool(own) for _, _, own in rows)
        assert said["unscored"] == sum(text is None for _, text, _ in rows)
        assert said["samples"] == said["matched"] + said["unscored"] + said["unmatched"]
        assert said["unmatched_share"] == ratio(said["unmatched"], len(rows) - said["unscored"])
        assert said["matches"] == sum(counts)
        assert said["entries_hit"] == sum(count > 0 for count in counts)
        top = sorted(counts)[-max(1, len(order) // 100) :] if order else []
        assert said["top_share"] == ratio(sum(top), sum(counts))
    last = again.past(again.stages[-1])
    copied = Counter(entry for copies, _, own in last for entry in own for _ in range(copies))
    assert section["copies"] == {
        "samples": sum(copies for copies, _, _ in last),
        "matches": sum(copied.values()),
    }
    assert section["head"] == [
        {
            "entry": again.entries[entry],
            "samples": [counts[entry] for counts in every],
            "copies": copied[entry],
        }
        for entry in order[:30]
    ]
    check_tail(section["tail"], again, every)
    gone = [entry for entry in order if every[-1][entry] == 0]
    assert section["vanished"] == {
        "entries": len(gone),
        "most_frequent": [
            {"entry": again.entries[entry], "before": every[0][entry]} for entry in gone[:50]
        ],
    }
    ranks = section["curve"]["ranks"]
    assert ranks == sorted(set(ranks))
    assert ranks[:1] + ranks[-1:] == ([1, len(order)] if order else [])
    assert len(ranks) <= 60
    for counts, said in zip(every, section["curve"]["samples"], strict=True):
        assert said == [sorted(counts)[-rank] for rank in ranks]


def check_tail(said: dict, again: Recount, every: list[list[int]]) -> None:
    order = again.order()
    tail = order[len(order) - max(1, len(order) // 5) :] if order else []
    assert said["entries"] == len(tail)
    assert said["most_frequent"] == max((every[0][entry] for entry in tail), default=0)
    assert said["matches"] == [sum(counts[entry] for entry in tail) for counts in every]
    assert said["hit"] == [sum(counts[entry] > 0 for entry in tail) for counts in every]
    have = [
        sum(any(entry in tail for entry in own) for _, _, own in again.past(stage))
        for stage in again.stages
    ]
    assert said["samples"] == have
    rows = [len(again.past(stage)) for stage in again.stages]
    matches = [sum(counts) for counts in every]
    assert said["sample_share"] == [ratio(a, b) for a, b in zip(have, rows, strict=True)]
    pairs = zip(said["matches"], matches, strict=True)
    assert said["match_share"] == [ratio(a, b) for a, b in pairs]


def ratio(some: int, of: int) -> float | None:
    return round(some / of, 6) if of else None


STEPS = [
    {"caption": {"name": "long", "min_characters": 12}},
    {"concepts": {}},
    {"exact_duplicates": {"name": "same_url", "by": ["url"]}},
    {"metadata_balance": {"t": 6}},  # one entry has just so many
    {"random_sample": {"fraction": 0.15, "of": "survivors"}},
]


def run_balanced(folder: Path, **fields: object) -> Reported:
    """A run whose balancing must flatten the head."""
    steps = [dict(step) for step in STEPS]
    steps[1] = {"concepts": list_of(folder, WORDS + NEVER)}
    pipeline = pipeline_of(folder, captions(), steps, **fields)
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    return run_balanced(tmp_path_factory.mktemp("balanced"))


def test_every_number_is_that_of_a_recount(balanced):
    [section] = sections_of(balanced)
    check(section, Recount(balanced, "concepts", WORDS + NEVER))
    assert section["stages"][0]["unmatched"] > 0
    assert section["vanished"]["entries"] > 0


def test_every_count_is_in_the_file_beside_the_report(balanced):
    again = Recount(balanced, "concepts", WORDS + NEVER)
    frame = pl.read_parquet(balanced.work / "report" / "concepts-concepts.parquet")
    assert frame["entry"].to_list() == WORDS + NEVER
    for stage in again.stages:
        assert frame[f"after {again.names[stage]}"].to_list() == again.counts(stage)
    assert frame["copies"].to_list() == again.counts(len(again.names) - 1)


def test_the_head_shrinks_and_the_tail_stays(balanced):
    [section] = sections_of(balanced)
    [own] = section["balances"]
    again = Recount(balanced, "concepts", WORDS + NEVER)
    place = again.names.index("metadata_balance")
    before, after = again.counts(place - 1), again.counts(place)
    above = [entry for entry, count in enumerate(before) if count > 6]
    assert own["t"] == [6, 6]
    assert own["head"]["entries"] == len(above) > 3
    assert own["head"]["matches"] == [sum(side[e] for e in above) for side in (before, after)]
    pairs = zip(own["head"]["matches"], (sum(before), sum(after)), strict=True)
    assert own["head"]["match_share"] == [ratio(a, b) for a, b in pairs]
    assert own["head"]["matches"][1] < own["head"]["matches"][0] / 1.5
    assert 6 in before
    small = [entry for entry, count in enumerate(before) if count <= 6]
    assert [after[entry] for entry in small] == [before[entry] for entry in small]
    chances = [min(1.0, 6 / count) for count in sorted(before, reverse=True) if count]
    assert own["p"]["ranks"] == list(range(1, len(chances) + 1))
    assert own["p"]["chances"] == [round(chance, 6) for chance in chances]
    rows = again.past(place - 1)
    missed = [np.prod([1 - min(1.0, 6 / before[entry]) for entry in own]) for _, _, own in rows]
    assert own["expected"] == pytest.approx(len(rows) - sum(missed), abs=1e-3)
    assert own["in"] == len(rows)
    assert own["kept"] == len(again.past(place))
    assert abs(own["kept"] - own["expected"]) < 5 * len(rows) ** 0.5


def test_unmatched_samples_that_stay_are_expected_to(tmp_path):
    steps = [
        {"concepts": list_of(tmp_path, WORDS)},
        {"metadata_balance": {"count": 100, "unmatched": "keep"}},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    [section] = sections_of(pipeline)
    [own] = section["balances"]
    assert own["kept"] == 100
    assert own["expected"] == pytest.approx(100, abs=15)
    first, last = section["stages"]
    assert last["unmatched"] == first["unmatched"] > 0
    check(section, Recount(pipeline, "concepts", WORDS))


@pytest.mark.parametrize("texts", ["any", "one"])
def test_what_is_expected_of_several_captions(tmp_path, texts):
    entries = list_of(tmp_path, WORDS)
    steps = [
        {"concepts": {"name": "first", **entries}},
        {"concepts": {"name": "second", "of": "other", **entries}},
        {"metadata_balance": {"concepts": ["first", "second"], "t": 6, "texts": texts}},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    first, second = sections_of(pipeline)
    check(first, Recount(pipeline, "first", WORDS))
    assert second["balances"] == []
    [said] = first["balances"]
    both = list(zip(captions(), captions()[::-1], strict=True))
    every = [sorted({n for text in pair for n in matched(text, WORDS)}) for pair in both]
    counts = Counter(entry for own in every for entry in own)
    if texts == "one":
        halves = [[int(uid(n)[:16], 16), int(uid(n)[16:], 16)] for n in range(240)]
        uids = make_uids(*np.array(halves, np.uint64).T)
        draws = chance.uniform(0, "metadata_balance", uids, "text")
        there = [[text for text in pair if text is not None] for pair in both]
        pairs = zip(draws, there, strict=True)
        every = [matched(own[int(u * len(own))] if own else None, WORDS) for u, own in pairs]
    missed = [np.prod([1 - min(1.0, 6 / counts[entry]) for entry in own]) for own in every]
    assert said["expected"] == pytest.approx(240 - sum(missed), abs=1e-3)
    kept = set(ledger_of(pipeline.work).filter(pl.col("fate") == "kept")["uid"])
    stayed = [n for n in range(240) if uid(n) in kept]
    assert (said["in"], said["kept"]) == (240, len(stayed))
    after = Counter(
        entry for n in stayed for entry in {e for text in both[n] for e in matched(text, WORDS)}
    )
    above = [entry for entry, count in counts.items() if count > 6]
    assert said["head"]["matches"] == [sum(side[e] for e in above) for side in (counts, after)]


def test_a_balance_among_others_is_told_without_what_was_kept(tmp_path):
    balance = {"metadata_balance": {"t": 6}}
    steps = [
        {"concepts": list_of(tmp_path, WORDS)},
        {"any_of": {"steps": [balance, {"where": {"name": "odd", "sql": "number % 2 = 1"}}]}},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    [section] = sections_of(pipeline)
    check(section, Recount(pipeline, "concepts", WORDS))
    [own] = section["balances"]
    assert (own["in"], own["kept"]) == (240, None)
    before = section["stages"][0]["samples"]
    assert 0 < own["expected"] < before
    assert "expected" in "\n".join(lines_of(asked(pipeline), 3))


def test_copies_are_counted_apart(tmp_path):
    odd = {"where": {"name": "odd", "sql": "number % 2 = 1"}}
    third = {"where": {"name": "third", "sql": "number % 3 = 0"}}
    steps = [
        {"concepts": list_of(tmp_path, WORDS)},
        {"any_of": {"copies": "sum", "steps": [odd, third]}},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    [section] = sections_of(pipeline)
    check(section, Recount(pipeline, "concepts", WORDS))
    assert section["copies"]["samples"] > section["stages"][-1]["samples"]
    found = asked(pipeline, classes=class_file(tmp_path, "owl"))["classes"]
    texts = zip(range(240), captions(), strict=True)
    owls = [n for n, text in texts if re.search("owl", text or "")]
    copies = sum((n % 2 == 1) + (n % 3 == 0) for n in owls)
    kept = sum(n % 2 == 1 or n % 3 == 0 for n in owls)
    [row] = found["classes"]
    assert (row["before"], row["after"], row["copies"]) == (len(owls), kept, copies)
    assert copies > kept > 0


def test_rows_that_only_the_probe_looked_at_count_nowhere(tmp_path):
    steps = [
        {"caption": {"min_words": 5}},
        {"concepts": list_of(tmp_path, WORDS)},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps, probe=0.5)
    pipeline.run()
    scored = sum(
        pl.read_parquet(file).height for file in (pipeline.work / "features").rglob("block-*")
    )
    [section] = sections_of(pipeline)
    assert section["stages"][0]["samples"] < scored
    check(section, Recount(pipeline, "concepts", WORDS))


def test_several_lists_have_a_section_each(tmp_path):
    steps = [
        {"concepts": {"name": "first", **list_of(tmp_path, WORDS)}},
        {"caption": {"min_words": 5}},
        {"concepts": {"name": "second", **list_of(tmp_path, ["of", "dog", "yak"], "others")}},
        {"metadata_balance": {"concepts": "second", "t": 9}},
    ]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    first, second = sections_of(pipeline)
    check(first, Recount(pipeline, "first", WORDS))
    check(second, Recount(pipeline, "second", ["of", "dog", "yak"]))
    assert [len(one["balances"]) for one in (first, second)] == [0, 1]
    assert [stage["after"] for stage in second["stages"]] == ["second", "metadata_balance"]
    pipeline.where(steps=steps[:2]).run()
    files = {file.name for file in (pipeline.work / "report").iterdir()}
    assert files >= {"concepts-first.parquet", "report.json"}
    assert "concepts-second.parquet" not in files


def test_a_sample_with_all_of_the_tail_counts_once(tmp_path):
    entries = [f"w{n}" for n in range(10)]
    texts = [f"w{n % 8} in {n}" for n in range(24)] + ["w8 w9", "w9 and w8"]
    pipeline = pipeline_of(tmp_path, texts, [{"concepts": list_of(tmp_path, entries)}])
    pipeline.run()
    [section] = sections_of(pipeline)
    check(section, Recount(pipeline, "concepts", entries))
    assert (section["tail"]["matches"], section["tail"]["samples"]) == ([4], [2])


def test_a_list_that_nothing_matches(tmp_path):
    steps = [{"concepts": list_of(tmp_path, NEVER)}, {"metadata_balance": {"t": 3}}]
    pipeline = pipeline_of(tmp_path, captions(), steps)
    pipeline.run()
    [section] = sections_of(pipeline)
    check(section, Recount(pipeline, "concepts", NEVER))
    assert section["stages"][0]["top_share"] is None
    assert section["head"] == section["curve"]["ranks"] == []
    assert section["balances"][0]["expected"] == section["balances"][0]["kept"] == 0
    assert any("concepts: 2 entries" in line for line in lines_of(asked(pipeline), 3))


def test_the_section_does_not_depend_on_blocks(balanced, tmp_path):
    other = run_balanced(tmp_path, rows=17)
    blocks = [len(list((one.work / "ledger").iterdir())) for one in (balanced, other)]
    assert blocks == [4, 15]
    assert sections_of(other) == sections_of(balanced)


def test_a_long_list_is_cut_in_the_report_and_whole_in_the_file(tmp_path):
    entries = [f"{'very ' * 40}long {n}" for n in range(40)] + [f"w{n}" for n in range(90)]
    texts = [f"{entries[n % 130]} of x{n}" for n in range(400)]
    pipeline = pipeline_of(tmp_path, texts, [{"concepts": list_of(tmp_path, entries)}])
    pipeline.run()
    [section] = sections_of(pipeline)
    assert len(section["head"]) == 30
    assert all(len(row["entry"]) <= 100 for row in section["head"])
    [section] = asked(pipeline, top=100)["concepts"]
    assert len(section["head"]) == 100
    assert section["head"][99]["samples"] == [3]


# The command


def asked(pipeline: Reported, **more: object) -> dict:
    return answer(str(pipeline.work), Asked(**more), LocalRunner())


def test_the_tables_say_what_the_report_does(balanced):
    [section] = sections_of(balanced)
    text = "\n".join(lines_of(asked(balanced, top=3), 3))
    first, last = section["stages"][0], section["stages"][-1]
    assert re.search(rf"after concepts +{first['samples']} ", text)
    assert f"{last['matches']:,}" in text
    assert [row["entry"] in text for row in section["head"][:3]] == [True] * 3
    assert section["head"][4]["entry"] not in text.split("samples of the entry")[0].split("\n")
    [own] = section["balances"]
    assert f"t 6; {own['kept']} of {own['in']} samples kept" in text
    assert f"vanished: {section['vanished']['entries']} of" in text


def test_an_entry_says_its_language_where_there_are_several(tmp_path):
    rows = {"entry": ["dog", "dog", "hund"], "language": ["en", "de", "de"]}
    several, one = str(tmp_path / "several.parquet"), str(tmp_path / "one.parquet")
    pl.DataFrame(rows).write_parquet(several)
    pl.DataFrame(rows)[1:].write_parquet(one)
    steps = [
        {"concepts": {"name": "first", "entries": several, "language": "spoken"}},
        {"concepts": {"name": "second", "entries": one}},
    ]
    pipeline = pipeline_of(tmp_path, ["a dog", "dog hund", "dog", None], steps, 2)
    pipeline.run()
    first, second = sections_of(pipeline)
    assert first["list"]["languages"] == {"de": 2, "en": 1}
    assert second["list"]["languages"] == {"de": 2}
    assert first["head"] == [
        {"entry": "dog", "language": "en", "samples": [2], "copies": 2},
        {"entry": "dog", "language": "de", "samples": [1], "copies": 1},
        {"entry": "hund", "language": "de", "samples": [1], "copies": 1},
    ]
    assert second["head"][0] == {"entry": "dog", "language": "de", "samples": [3], "copies": 3}
    text = "\n".join(lines_of(asked(pipeline), 3))
    assert (text.count("dog [en]"), text.count("dog [de]")) == (1, 1)
    with_more = asked(pipeline, top=3, step="first")["concepts"][0]["head"]
    assert with_more == first["head"]


def test_texts_of_strangers_do_nothing_to_a_terminal(tmp_path):
    pipeline = pipeline_of(
        tmp_path,
        ["a \x1b[31mred\x07 b"] * 3,
        [{"concepts": list_of(tmp_path, ["\x1b[31mred\x07"])}],
    )
    pipeline.run()
    text = "\n".join(lines_of(asked(pipeline), 3))
    assert "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in text
    assert "\x1b" not in text


def test_what_cannot_be_answered_is_told_with_a_remedy(balanced, tmp_path):
    with pytest.raises(ConfigError, match=r"no run was finished there.*curate run") as caught:
        answer(str(tmp_path), Asked(), LocalRunner())
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="did you mean 'concepts'"):
        asked(balanced, step="concept")
    assert asked(balanced, step="concepts")["concepts"][0]["step"] == "concepts"


def test_a_run_without_the_step_is_told_of_it(tmp_path):
    pipeline = pipeline_of(tmp_path, captions(30), [{"caption": {"min_words": 2}}])
    pipeline.run()
    assert sections_of(pipeline) == []
    for more in ({}, {"step": "concepts"}):
        with pytest.raises(ConfigError, match="no `concepts` step: put `- concepts:"):
            asked(pipeline, **more)
    (tmp_path / "classes").write_text("dog\n")
    found = asked(pipeline, classes=str(tmp_path / "classes"))
    assert found["classes"]["samples"]["before"] == 30


def test_an_unfinished_run_is_refused(tmp_path):
    steps = [{"concepts": list_of(tmp_path, WORDS)}, {"caption": {"min_words": 2}}]
    pipeline = pipeline_of(tmp_path, captions(30), steps)
    pipeline.run()
    stopped = replace(pipeline, steps=[steps[0], {"where": {"sql": "cast(caption as int) > 3"}}])
    with pytest.raises(CurateError):  # after it has begun: no caption is a number
        stopped.run()
    with pytest.raises(ConfigError, match=r"is not finished.*finish it first: curate run"):
        asked(pipeline)


# Classes


def class_file(folder: Path, *lines: str) -> str:
    path = folder / "classes.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_planted_classes_are_counted_exactly(tmp_path):
    texts = (
        ["Two DOGS and a dog."] * 12
        + ["hot-dog_stand"] * 3  # word-aligned: a dog, and the hot dog
        + ["doggy bag, category"] * 4  # neither dog nor cat
        + ["A cat/tabby"] * 5  # both terms of one class: once
        + ["wolves & a wolf, a Crane!"] * 2
        + ["owls at night"] * 10
        + [None] * 4
        + ["photo of a derrick crane"]
    )
    keep = [{"where": {"name": "some", "sql": "number % 2 = 0"}}]
    pipeline = pipeline_of(tmp_path, texts, keep)
    pipeline.run()
    lines = ["dog, hound", "hot dog", "cat, tabby", "wolf", "bird, crane", "derrick, crane", "Yeti"]
    lines += ["owl"]  # of which captions have the plural only
    found = asked(pipeline, classes=class_file(tmp_path, *lines))["classes"]
    counts = {row["class"]: (row["before"], row["after"]) for row in found["classes"]}
    assert counts == {
        "dog": (15, 8),
        "hot dog": (3, 2),
        "cat": (5, 2),
        "wolf": (2, 1),
        "bird": (3, 2),
        "derrick": (3, 2),
        "Yeti": (0, 0),
        "owl": (10, 5),
    }
    assert found["samples"] == {"before": 41, "after": 21, "copies": 21}
    assert found["without_caption"]["before"] == 4
    assert found["naming_a_class"]["before"] == 12 + 3 + 5 + 2 + 10 + 1
    assert found["none"] == {"before": ["Yeti"], "after": ["Yeti"]}
    assert found["few"]["before"] == ["hot dog", "cat", "wolf", "bird", "derrick"]
    assert found["few"]["after"] == ["dog", "hot dog", "cat", "wolf", "bird", "derrick", "owl"]
    assert [row["term"] for row in found["unseen_terms"]] == ["hound", "bird", "yeti"]
    shared = {row["term"]: (row["classes"], row["before"]) for row in found["shared_terms"]}
    assert shared == {"crane": (["bird", "derrick"], 3), "cranes": (["bird", "derrick"], 0)}
    assert found["classes"][0]["terms"]["dogs"] == [12, 6]
    text = "\n".join(lines_of({"concepts": [], "classes": found}, 2))
    assert "3 terms that no caption has in any form:\n  hound, bird, yeti" in text
    assert "crane 3 (bird | derrick)" in text


def test_rows_outside_the_pool_count_for_no_class(tmp_path):
    drawn = draw(60)
    pool = tar_pool(write_shards(tmp_path / "in", drawn, 3))
    pipeline = Reported(tmp_path, pool, [{"where": "caption <> 'x'"}])
    asks = Asked(classes=class_file(tmp_path, "drawn thing"))
    pipeline.run()
    found = asked(pipeline, classes=asks.classes)["classes"]
    usable = [one for one in drawn if one.jpeg is not None]
    things = [one for one in usable if "thing" in (one.caption or "")]
    assert 0 < len(things) < len(usable) < len(drawn)
    assert found["samples"]["before"] == len(usable)
    assert found["classes"][0]["before"] == len(things)
    pipeline.run(limit=20)  # leaves that many of the pool, by a step of its own
    found = answer(f"{pipeline.work}-limit-20", asks, LocalRunner())["classes"]
    assert found["samples"]["before"] == 20


def spelt(texts: list[str]) -> list[str]:
    """Texts word by word, with a blank around each."""
    return [re.sub("[^0-9a-z\u00df-\u00ff]+", " ", f" {text} ".lower()) for text in texts]


@pytest.mark.real
def test_imagenet_in_the_titles_of_openclipart(tmp_path):
    real_pictures.fetch_or_skip()
    titles = [pair.caption for pair in real_pictures.clipart(every=12)]
    steps = [{"caption": {"min_words": 3}}, {"random_sample": {"fraction": 0.5, "of": "survivors"}}]
    pipeline = pipeline_of(tmp_path, titles, steps, rows=1_000)
    pipeline.run()
    found = asked(pipeline, classes="imagenet")["classes"]
    stayed = set(ledger_of(pipeline.work).filter(pl.col("fate") == "kept")["uid"])
    pools = spelt(titles), spelt([text for n, text in enumerate(titles) if uid(n) in stayed])
    classes = imagenet()
    for row, name, terms in zip(found["classes"], classes.names, classes.terms, strict=True):
        assert row["class"] == name
        assert set(terms) <= set(row["terms"])
        if row["before"] or name in ("tench", "goldfish"):
            padded = [f" {term} " for term in row["terms"]]
            counts = [sum(any(term in text for term in padded) for text in own) for own in pools]
            assert [row["before"], row["after"]] == counts
    whole = "\n".join(pools[0])
    assert found["none"]["before"] == [
        row["class"]
        for row in found["classes"]
        if not any(f" {term} " in whole for term in row["terms"])
    ]
    assert 10 < 1000 - len(found["none"]["before"]) < 200
    own = {term: forms(term, Lexicon()) for terms in classes.terms for term in terms}
    listed = {row["term"] for row in found["unseen_terms"]}
    seen = {term for term, forms_ in own.items() if any(f" {form} " in whole for form in forms_)}
    assert seen & listed <= {"clogs", "drumstick"}  # rules alone know other lemmas than WordNet
    assert listed | seen == set(own)
