"""Pairs on their way from the tasks that found them to a decision: against plain loops."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import pairs
from curate.groups import Grouping
from curate.pairs import PAIR, TWIN, lookup, opened, settle, write
from curate.shuffle import MEMBER
from filters import Batch
from filters._pairs import against_all, greedy
from filters.near_duplicates import NearDuplicates
from filters.semantic_duplicates import SemanticDuplicates

COUNT = 14


class Here:
    """Runs tasks one after the other."""

    def each(self, work: Callable, items: Iterable) -> Iterator:
        return map(work, items)


def address(number: int) -> int:
    """Samples lie in three blocks."""
    return (number % 3 << 32) + number


@dataclass(frozen=True)
class Alike:
    """Which of COUNT samples are alike: their group of twins, and values between groups."""

    twin: list[int]  # [COUNT] the first sample of each one's group
    values: dict[tuple[int, int], float]  # of groups, by their first samples

    def value(self, one: int, other: int) -> float | None:
        """The similarity of two samples, None where there is no pair of them."""
        first, second = self.twin[one], self.twin[other]
        if first == second:
            return 1.0
        return self.values.get((min(first, second), max(first, second)))

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        for one in range(COUNT):
            for other in range(one + 1, COUNT):
                if (value := self.value(one, other)) is not None:
                    yield one, other, value


@st.composite
def alikes(draw) -> Alike:
    twin: list[int] = []
    for number in range(COUNT):
        own = draw(st.sampled_from([number, number, max(0, number - 2)]))
        twin.append(number if own == number else twin[own])
    firsts = [n for n in range(COUNT) if twin[n] == n]
    ends = st.tuples(st.sampled_from(firsts), st.sampled_from(firsts))
    values = st.sampled_from([0.5, 0.75, 0.875, 1.0])
    found = draw(st.dictionaries(ends.filter(lambda pair: pair[0] < pair[1]), values, max_size=18))
    return Alike(twin, found)


def settled(folder: str, alike: Alike, tasks: int) -> dict[str, int]:
    """Let some tasks find it all, some of it twice, either way round."""
    found = [([], []) for _ in range(tasks)]
    for number, ((one, other), value) in enumerate(alike.values.items()):
        found[number % tasks][0].append((address(one), address(other), value))
        found[(number * 7 + 1) % tasks][0].append((address(other), address(one), value))
    for number, first in enumerate(alike.twin):
        if first != number:
            found[number % tasks][1].append((address(number), address(first)))
            found[first % tasks][1].append((address(number), address(first)))
    for task, (own, twins) in enumerate(found):
        write(folder, task, np.array(own, dtype=PAIR), np.array(twins, dtype=TWIN))
    return settle(Here(), folder, tasks, "highest")


@settings(max_examples=30)
@given(alike=alikes(), tasks=st.integers(1, 4), partition_bytes=st.sampled_from([40, 1 << 20]))
def test_what_is_said_of_each_sample_is_what_a_loop_over_all_pairs_says(
    tmp_path_factory, alike, tasks, partition_bytes
):
    folder = str(tmp_path_factory.mktemp("pairs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "partitions", lambda rows, _: max(1, -(-rows // partition_bytes)))
        made = settled(folder, alike, tasks)
    near: dict[int, dict[int, float]] = {n: {} for n in range(COUNT)}
    for one, other, value in alike.pairs():
        near[one][other] = near[other][one] = value
    look = lookup(folder)
    parts: dict[int, int] = {}
    for block in range(3):
        numbers = [n for n in range(COUNT) if n % 3 == block]
        said = look(np.array([address(n) for n in numbers], dtype=np.uint64))
        for number, one in zip(numbers, said, strict=True):
            assert one["count"] == len(near[number])
            if near[number]:
                assert one["nearest"] == max(near[number].values())
                parts[number] = int(one["part"])
    assert made["samples_with_neighbours"] == len(parts)
    assert made["parts"] == len(set(parts.values()))
    assert made["pairs"] == len(alike.values)
    for one, own in parts.items():
        seen, todo = {one}, [one]
        while todo:
            todo += (new := set(near[todo.pop()]) - seen)
            seen |= new
        assert {n for n in parts if parts[n] == own} == seen
        assert own == min(address(n) for n in seen)
    assert not (tmp_path_factory.getbasetemp() / folder / "found").exists()


PAIRS = st.lists(
    st.tuples(st.integers(0, 29), st.integers(0, 29)).filter(lambda p: p[0] < p[1]), max_size=80
)


@given(PAIRS)
def test_greedy_walks_from_the_best(found):
    better = np.array([one for one, _ in found], dtype=np.int64)
    worse = np.array([other for _, other in found], dtype=np.int64)
    kept, by = greedy(30, better, worse)
    stays: list[int] = []
    for number in range(30):
        like = [one for one in stays if (one, number) in found]
        assert kept[number] == (not like)
        assert by[number] == (min(like) if like else -1)
        stays += [number] if not like else []


def test_a_chain_of_a_million_is_walked_in_time():
    chain = np.arange(1_000_000)
    kept, by = greedy(1_000_001, chain, chain + 1)
    assert kept[::2].all()
    assert not kept[1::2].any()
    assert (by[1::2] == np.arange(0, 1_000_000, 2)).all()


@given(PAIRS)
def test_against_all_knows_no_mercy(found):
    better = np.array([one for one, _ in found], dtype=np.int64)
    worse = np.array([other for _, other in found], dtype=np.int64)
    kept, by = against_all(30, better, worse)
    for number in range(30):
        like = [one for one, other in found if other == number]
        assert kept[number] == (not like)
        assert by[number] == min(like, default=-1)


@dataclass(frozen=True)
class Pool:
    """What a filter sees of the samples: who is best, their labels, and who is there at all."""

    score: list[int]
    label: list[int]
    there: list[bool] = field(default_factory=list)


POOLS = st.builds(
    Pool,
    st.lists(st.integers(0, 3), min_size=COUNT, max_size=COUNT),
    st.lists(st.integers(0, 1), min_size=COUNT, max_size=COUNT),
    st.lists(st.booleans(), min_size=COUNT, max_size=COUNT),
)


def removed(ready: Grouping, folder: str, pool: Pool) -> dict[int, int]:
    """{sample: the one it goes for} of those in the pool; labels are those of a twin's group."""
    gone: dict[int, int] = {}
    look = lookup(folder)
    members = np.zeros(COUNT, dtype=MEMBER)
    for number in range(COUNT):
        said = look(np.array([address(number)], dtype=np.uint64))[0]
        members[number] = (
            (said["part"], pool.label[number]), 9 - pool.score[number], 0, number, address(number),
        )  # fmt: skip
        look = lookup(folder)
    travels = [n for n in range(COUNT) if pool.there[n]]
    there = members[travels]
    place = ready.reader(there, ready.readers(0, 0))
    for partition in range(ready.readers(0, 0)):
        for one in ready.decide(there[place == partition][::-1], partition):
            gone[int(one["address"]) & 0xFFFFFFFF] = int(one["first_f1"])
            assert one["copies"] == 0
    return gone


@settings(max_examples=30)
@given(alike=alikes(), pool=POOLS, threshold=st.sampled_from([0.5, 0.75, 1.0]))
def test_a_threshold_over_settled_pairs_is_the_greedy_rule(
    tmp_path_factory, alike, pool, threshold
):
    folder = str(tmp_path_factory.mktemp("pairs"))
    settled(folder, alike, 2)
    ready = Grouping(SemanticDuplicates(name="s", threshold=threshold), {}, opened(folder))
    order = sorted((n for n in range(COUNT) if pool.there[n]), key=lambda n: (-pool.score[n], n))
    label = [0] * COUNT
    gone = removed(ready, folder, Pool(pool.score, label, pool.there))
    stays: list[int] = []
    for number in order:
        like = [s for s in stays if (alike.value(s, number) or 0) >= threshold]
        assert (number in gone) == bool(like), (number, like, gone)
        if like:
            assert gone[number] in like
        stays += [number] if not like else []


@settings(max_examples=30)
@given(alike=alikes(), pool=POOLS, rule=st.sampled_from(["semdedup", "nemo_curator"]))
def test_parity_decides_within_clusters_against_all(tmp_path_factory, alike, pool, rule):
    folder = str(tmp_path_factory.mktemp("pairs"))
    settled(folder, alike, 2)
    step = SemanticDuplicates(name="s", threshold=0.75, parity=rule, clusters="fine")
    ready = Grouping(step, {}, opened(folder))
    label = [pool.label[alike.twin[n]] for n in range(COUNT)]  # twins have one cluster
    gone = removed(ready, folder, Pool(pool.score, label, pool.there))
    order = sorted((n for n in range(COUNT) if pool.there[n]), key=lambda n: (-pool.score[n], n))
    for place, number in enumerate(order):
        values = [alike.value(n, number) or 0 for n in order[:place] if label[n] == label[number]]
        most = max(values, default=0)
        assert (number in gone) == (most > 0.75 if rule == "semdedup" else most >= 0.75)


def test_a_distance_counts_downwards():
    near = NearDuplicates(name="n", distance=4)
    assert near.alike(np.array([0, 4, 5], dtype=np.float32)).tolist() == [True, True, False]


def test_what_a_step_does_not_look_for_cannot_be_asked():
    low = SemanticDuplicates(name="s", threshold=0.8, of="pairs").refusals(
        {"pairs": {"floor": 0.9}}
    )
    assert low == [
        "threshold 0.8 is below the floor 0.9 of pairs: pairs below it are not looked for; raise "
        "`threshold`, or lower that step's `floor`"
    ]
    assert (
        SemanticDuplicates(name="s", threshold=0.9, of="pairs").refusals({"pairs": {"floor": 0.9}})
        == []
    )
    high = SemanticDuplicates(name="s", threshold=0.999, of="pairs")
    assert high.refusals({"pairs": {"floor": 0.9, "same": 0.995}}) == [
        "threshold 0.999 is above `same: 0.995` of pairs, from which on samples of a crowded "
        "cluster count as one: raise `same`, or lower `threshold`"
    ]
    far = NearDuplicates(name="n", distance=8, of="pairs").refusals({"pairs": {"radius": 6}})
    assert far == [
        "distance 8 is above the radius 6 of pairs: pairs farther apart are not looked for; lower "
        "`distance`, or raise that step's `radius`"
    ]


def test_text_cannot_say_which_stays():
    ready = SemanticDuplicates(name="s", threshold=0.9, keep={"highest": "caption"})
    with pytest.raises(ValueError, match="caption holds text"):
        ready.bind({"caption": "String", "n.part": "UInt64", "n.floor": "Float32"})


def test_the_only_step_that_finds_such_pairs_is_taken():
    there = {"a.part": "UInt64", "a.floor": "Float32", "b.part": "UInt64"}
    assert SemanticDuplicates(name="s", threshold=0.9).bind(there).of == "a"
    assert NearDuplicates(name="n", distance=4).bind(there).of == "b"
    with pytest.raises(ValueError, match=r"of: b is no `neighbours` step .* there are: a"):
        SemanticDuplicates(name="s", threshold=0.9, of="b").bind(there)
    with pytest.raises(ValueError, match="no column gives pairs: put `- hash_neighbours"):
        NearDuplicates(name="n", distance=4).bind({"a.part": "", "a.floor": ""})
    both = {**there, "c.part": "UInt64", "c.floor": "Float32"}
    with pytest.raises(ValueError, match="several steps give pairs: a, c; name one with `of:`"):
        SemanticDuplicates(name="s", threshold=0.9).bind(both)


def test_who_has_no_pairs_stays_and_who_was_not_looked_at_is_unscored(tmp_path):
    settled(str(tmp_path), Alike(list(range(COUNT)), {}), 1)
    step = SemanticDuplicates(name="s", threshold=0.9, of="a")
    frame = pl.DataFrame({"part": [None, None], "count": [0, None], "nearest": [None, None]})
    batch = Batch(
        frame.cast({"part": pl.UInt64}).select(a=pl.struct(pl.all())),
        np.zeros(2, [("f0", "<u8"), ("f1", "<u8")]), np.arange(2, dtype=np.uint64), np.zeros,
    )  # fmt: skip
    ready = Grouping(step, {}, opened(str(tmp_path)))
    assert len(ready.members(batch)) == 0
    said = ready.verdict(batch, np.arange(2), np.empty(0, [("address", "u8"), ("copies", "u4")]))
    assert (said.copies.tolist(), said.reason.to_list()) == ([1, 0], [None, "unscored"])
