"""metadata_balance against MetaCLIP's algorithm taken literally, and what must not change it."""

import hashlib
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance
from filters import Batch, Counts, Unbound, structured
from filters._coins import coins
from filters._mixing import mixed
from filters._tails import tails
from filters.metadata_balance import MetadataBalance

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
LIST = pl.List(pl.UInt32)


def codes_of(texts):
    """[E] uint64, as a list of entries has them."""
    hashes = {text: hashlib.blake2b(text.encode(), digest_size=8).digest() for text in set(texts)}
    return np.frombuffer(b"".join(hashes[text] for text in texts), dtype="<u8")


def batch(lists, rows=None, texts=None, seed=0, languages=None):
    """Samples with these entries; `lists` of None where unknown, or several of them by step."""
    by_step = lists if isinstance(lists, dict) else {"concepts": lists}
    count = len(next(iter(by_step.values())))
    rows = np.arange(count) if rows is None else np.asarray(rows)
    uids = np.empty(count, dtype=UID)
    uids["f0"], uids["f1"] = mixed(rows.astype(np.uint64) + np.uint64(7)), rows
    most = max((max(one) for own in by_step.values() for one in own if one), default=-1)
    texts = texts or [f"entry {n}" for n in range(most + 1)]
    learnt = {
        "concepts.codes": codes_of(texts),
        "concepts.texts": pl.Series(texts, dtype=pl.String),
        "concepts.languages": pl.Series(languages or ["en"] * len(texts), dtype=pl.String),
    }
    series = {f"{name}.entries": pl.Series(own, dtype=LIST) for name, own in by_step.items()}
    draw = partial(chance.uniform, seed, "metadata_balance", uids)
    return Batch(structured(series, count), uids, rows.astype(np.uint64), draw, learnt.__getitem__)


def fit(step, batches):
    state = step.start(Counts(0, sum(one.frame.height for one in batches)))
    passes = 0
    while not step.finished(state):
        summary = None
        for one in batches:
            said = step.summarize(one, state)
            summary = said if summary is None else step.merge(summary, said)
        state = step.fit(summary, state)
        passes += 1
        assert passes < 30
    return state


def kept(step, *batches):
    """[N] bool over all batches, one after the other."""
    state = fit(step, batches)
    return np.concatenate([step.keep(one, state).copies for one in batches]) > 0


def step_of(**fields):
    return MetadataBalance(name="metadata_balance", **{"concepts": "concepts", **fields})


def long_tailed(count, entries, seed):
    """[count] lists of matched entries: a few everywhere, most hardly anywhere."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, entries + 1) ** 1.2
    sizes = rng.integers(0, 6, count)
    return [sorted(set(rng.choice(entries, n, p=p / p.sum()).tolist())) for n in sizes]


def literal(lists, t, entries, rng):
    """MetaCLIP's algorithm, word for word: one coin after the other until one succeeds."""
    counts = np.zeros(entries)
    for own in lists:
        counts[own] += 1
    p = t / np.maximum(counts, t)
    return np.array([any(rng.random() < p[e] for e in own) for own in lists])


def test_each_entry_keeps_as_many_as_the_published_algorithm():
    lists, entries, t = long_tailed(3000, 400, 1), 400, 20
    owner = np.repeat(np.arange(3000), [len(own) for own in lists])
    ids = np.concatenate([np.array(own, dtype=int) for own in lists])
    ours, theirs = np.zeros((50, entries)), np.zeros((50, entries))
    for seed in range(50):
        stays = kept(step_of(t=t), batch(lists, seed=seed))
        ours[seed] = np.bincount(ids[stays[owner]], minlength=entries)
        stays = literal(lists, t, entries, np.random.default_rng(seed))
        theirs[seed] = np.bincount(ids[stays[owner]], minlength=entries)
    counts = np.bincount(ids, minlength=entries)
    assert (ours[:, counts <= t] == counts[counts <= t]).all()
    chances = 1 - np.array([np.prod([1 - min(1, t / counts[e]) for e in own]) for own in lists])
    expected = np.bincount(ids, weights=chances[owner], minlength=entries)
    spread = np.sqrt(np.bincount(ids, weights=(chances * (1 - chances))[owner], minlength=entries))
    frequent = counts > t
    for found in (ours, theirs):
        off = (found.mean(axis=0) - expected)[frequent] / (spread[frequent] / np.sqrt(50))
        assert np.abs(off).max() < 4.5
        assert 0.6 < off.std() < 1.5  # neither too far from it, nor always the same samples
    between = ours.std(axis=0)[frequent] / spread[frequent]
    assert 0.8 < between.mean() < 1.2


def test_coins_are_even_and_do_not_know_of_each_other():
    rng = np.random.default_rng(0)
    base = rng.integers(2**63, size=400, dtype=np.uint64)
    codes = rng.integers(2**63, size=300, dtype=np.uint64)
    found = coins(np.repeat(base, 300), np.tile(codes, 400)).reshape(400, 300)
    assert 0 <= found.min() < found.max() < 1
    assert abs(found.mean() - 0.5) < 4 * np.sqrt(1 / 12 / found.size)
    each = np.corrcoef(found)[np.triu_indices(400, 1)]
    assert abs(each.mean()) < 0.001
    assert np.abs(each).max() < 6 / np.sqrt(300)
    others = np.corrcoef(found.T)[np.triu_indices(300, 1)]
    assert np.abs(others).max() < 6 / np.sqrt(400)


@settings(max_examples=30)
@given(st.integers(0, 50), st.floats(0.5, 60), st.floats(0.5, 60))
def test_raising_t_removes_nobody(seed, one, other):
    seen = batch(long_tailed(200, 30, seed), seed=seed)
    low, high = kept(step_of(t=min(one, other)), seen), kept(step_of(t=max(one, other)), seen)
    assert not (low & ~high).any()


@settings(max_examples=20)
@given(st.integers(0, 50), st.sampled_from([{"t": 8}, {"count": 60}, {"fraction": 0.3}]))
def test_order_and_sharding_change_nothing(seed, fields):
    lists = long_tailed(200, 30, seed)
    texts = [f"entry {n}" for n in range(30)]
    whole = kept(step_of(**fields), batch(lists, texts=texts))
    order = np.random.default_rng(seed).permutation(200)
    parts = [
        batch([lists[row] for row in rows], rows, texts=texts)
        for rows in np.array_split(order, [17, 17, 90])
    ]
    assert kept(step_of(**fields), *parts)[np.argsort(order)].tolist() == whole.tolist()


def test_another_order_of_the_list_changes_nothing():
    lists, texts = long_tailed(400, 40, 3), [f"entry {n}" for n in range(40)]
    order = np.random.default_rng(0).permutation(55)  # a longer list, too
    place = np.argsort(order)
    longer = [*texts, *(f"new {n}" for n in range(15))]
    other = [sorted(int(place[e]) for e in own) for own in lists]
    there = batch(other, texts=[longer[n] for n in order])
    here = batch(lists, texts=texts)
    step = step_of(t=5)
    assert kept(step, here).tolist() == kept(step, there).tolist()
    said = [step.keep(one, fit(step, [one])).because.to_list() for one in (here, there)]
    assert said[0] == said[1]


def test_just_so_many_stay():
    seen = batch(long_tailed(500, 40, 2))
    matched = sum(1 for own in seen.frame["concepts"].struct.field("entries") if len(own))
    for count in (1, 2, 57, 300, matched, 10_000):
        stays = kept(step_of(count=count), seen)
        assert stays.sum() == min(count, matched)
    assert kept(step_of(fraction=0.29), seen).sum() == 145
    state = fit(step_of(count=57), [seen])
    assert kept(step_of(t=state["t"] * (1 + 1e-12)), seen).sum() == 57
    assert kept(step_of(t=state["t"]), seen).sum() == 56  # the last one is kept at just above it


def test_those_without_an_entry_go_or_stay():
    lists = [[0], [], None, [0], []]
    step = step_of(t=1000)
    said = step.keep(batch(lists), fit(step, [batch(lists)]))
    assert said.copies.tolist() == [1, 0, 0, 1, 0]
    assert said.reason.to_list() == [None, "unmatched", "unscored", None, "unmatched"]
    assert said.because.to_list() == ["entry 0", None, None, "entry 0", None]
    assert kept(step_of(t=1000, unmatched="keep"), batch(lists)).tolist() == [1, 1, 0, 1, 1]
    assert kept(step_of(count=3, unmatched="keep"), batch(lists)).sum() == 3
    assert kept(step_of(count=1, unmatched="keep"), batch(lists)).tolist() == [0, 1, 0, 0, 1]


def test_the_ledger_names_an_entry_whose_coin_fell():
    lists = long_tailed(500, 40, 5)
    texts = [f"entry {n}" for n in range(40)]
    seen, step = batch(lists, texts=texts), step_of(t=6)
    state = fit(step, [seen])
    said = step.keep(seen, state)
    p = 6 / np.maximum(state["counts"], 6)
    base = (seen.uniform("coin") * 2.0**53).astype(np.uint64)
    base = (base << np.uint64(11)) * np.uint64(0xBF58476D1CE4E5B9)
    for row, own in enumerate(lists):
        fell = [e for e in own if coins(base[[row]], codes_of([texts[e]]))[0] < p[e]]
        assert bool(fell) == bool(said.copies[row])
        assert (said.because[row] in [texts[e] for e in fell]) == bool(fell)
        assert (said.reason[row] is None) == bool(fell)


def test_an_image_is_kept_once_whichever_caption_succeeds():
    lists = {"a": [[0], [0, 1], [], None, None], "concepts": [[0], [2], [1], [2], None]}
    step = step_of(t=1000, concepts=("concepts", "a"))
    seen = batch(lists, texts=["x", "y", "z"])
    state = fit(step, [seen])
    assert state["counts"].tolist() == [2, 2, 2]  # each once, whatever number of captions has it
    said = step.keep(seen, state)
    assert said.copies.tolist() == [1, 1, 1, 1, 0]
    assert said.reason[4] == "unscored"


def test_one_caption_is_drawn_of_each_image():
    count = 4000
    lists = {
        "concepts": [[0]] * count,
        "a": [[1]] * (count // 2) + [None] * (count // 2),
        "b": [[]] * (count // 4) + [None] * (3 * count // 4),
    }
    step = step_of(t=1e9, concepts=("concepts", "a", "b"), texts="one")
    seen = batch(lists)
    state = fit(step, [seen])
    assert state["counts"].tolist() == [count, count // 2]  # of all texts, drawn or not
    by = pl.Series(step.keep(seen, state).because)
    first, second, rest = by[: count // 4], by[count // 4 : count // 2], by[count // 2 :]
    thirds = [(first == "entry 0").sum(), (first == "entry 1").sum(), first.null_count()]
    assert all(abs(n - 1000 / 3) < 75 for n in thirds)  # 5 sigma
    assert abs((second == "entry 0").sum() - 500) < 80
    assert (rest == "entry 0").all()


def test_each_language_has_the_tail_that_english_has():
    counts = np.array([1, 2, 3, 94, 10, 10, 30, 950, 5, 0])
    languages = pl.Series(["en"] * 4 + ["fr"] * 4 + ["ja", "ja"])
    found = tails(counts, languages, "en", 4)
    assert found.share == 6 / 100
    # fr, sorted: 10 20 50 1000 of 1000 in all: 0.01 0.02 0.05 1; the nearest to 0.06 is that of 30.
    assert found.of_entries.tolist() == [4] * 4 + [30] * 4 + [5, 5]
    assert [row["language"] for row in found.table] == ["fr", "en", "ja"]
    assert found.table[0] == {"language": "fr", "t": 30.0, "entries": 4, "matches": 1000}
    with pytest.raises(Unbound, match="no entries of 'de'; it has en, fr, ja"):
        tails(counts, languages, "de", 4)
    with pytest.raises(Unbound, match="no sample matched an entry of 'ja'"):
        tails(np.where(languages.to_numpy() == "ja", 0, counts), languages, "ja", 4)


def test_languages_are_balanced_by_their_own_t():
    lists = [[0]] * 200 + [[1]] * 20 + [[2]] * 5 + [[3]] * 400 + [[4]] * 30
    languages = ["en", "en", "en", "fr", "fr"]
    step = step_of(t=20.5, tail_share_of="en")
    seen = batch(lists, languages=languages)
    state = fit(step, [seen])
    assert state["tail_share"] == 25 / 225
    assert state["t_of_entries"].tolist() == [20.5, 20.5, 20.5, 30, 30]  # 30/430 is nearer than 1
    stays = kept(step, seen)
    assert stays[200:225].all()
    assert stays[625:].all()
    assert abs(stays[:200].sum() - 20.5) < 22
    assert abs(stays[225:625].sum() - 30) < 27


def test_counts_beyond_32_bits_are_exact():
    step = step_of(t=20_000)
    one = step.summarize(batch([[0], [0, 1]]), step.start(Counts(0, 0)))
    for _ in range(40):
        one = step.merge(one, one)
    state = step.fit(one, step.start(Counts(0, 2**41)))
    assert state["counts"].tolist() == [2**41, 2**40]
    assert state["matches"] == 2**41 + 2**40
    said = step.keep(batch([[0]] * 1000), {**state, "counts": np.array([2**41])})
    assert said.copies.sum() == 0  # 9e-9 each


def test_more_entries_than_fit_at_once():
    rng = np.random.default_rng(0)
    lists = [[0], sorted(rng.choice(900_000, 600_000, replace=False).tolist()), [], [5, 9], [7]]
    seen, step = batch(lists, texts=[str(n) for n in range(10)] + ["x"] * 899_990), step_of(t=1)
    assert kept(step, seen).tolist()[1] == 1
    wide = kept(step, seen)
    lone = kept(step, batch([lists[1]], [1], texts=[str(n) for n in range(10)] + ["x"] * 899_990))
    assert lone[0] == wide[1]


@pytest.mark.parametrize("lists", [[], [[]], [None], [[], None, []]])
def test_nobody_matches_anything(lists):
    for fields in ({"t": 5}, {"count": 3}):
        step = step_of(**fields)
        seen = batch(lists, texts=["a"])
        assert not kept(step, seen).any()
    assert step_of(t=1).fit(None, step_of(t=1).start(Counts(0, 0)))["counts"].tolist() == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give one of t, fraction and count"),
        ({"t": 5, "count": 5}, "give one of"),
        ({"count": 5, "tail_share_of": "en"}, "tail_share_of goes with t"),
        ({"t": 5, "texts": "one"}, "name their `concepts` steps"),
        ({"t": 5, "concepts": ()}, "name at least one step, and each once"),
        ({"t": 5, "concepts": ("a", "a"), "texts": "one"}, "name at least one step, and each once"),
    ],
)
def test_what_is_wrong_is_said(fields, said):
    assert said in " ".join(MetadataBalance(**fields).problems())


@pytest.mark.parametrize("t", [0, -1, float("nan"), float("inf")])
def test_t_is_a_positive_number(t):
    with pytest.raises(ValueError, match=r"greater than 0|finite"):
        MetadataBalance(t=t)


def test_the_step_that_matches_is_found():
    there = {"concepts.entries": "List(UInt32)", "caption": "String", "x.entries": "String"}
    assert MetadataBalance(t=1).bind(there).needs() == ("concepts.entries",)
    with pytest.raises(Unbound, match=r"put `- concepts: \{entries: ...\}` before this step"):
        MetadataBalance(t=1).bind({"caption": "String"})
    with pytest.raises(Unbound, match="name one with `concepts:`"):
        MetadataBalance(t=1).bind({**there, "titles.entries": "List(UInt32)"})
    with pytest.raises(Unbound, match="x is no `concepts` step before this one"):
        MetadataBalance(t=1, concepts="x").bind(there)
    two = MetadataBalance(t=1, concepts=("a", "b"))
    before = {"a": {"entries": "one.parquet"}, "b": {"entries": "two.parquet"}}
    assert "counted over one list: a has one.parquet" in two.refusals(before)[0]


def test_an_entry_that_the_list_lacks_is_refused():
    seen = batch([[0], [7]], texts=["only"])
    with pytest.raises(Unbound, match=r"concepts\.entries holds 7: the list has 1"):
        fit(step_of(t=1), [seen])
