"""Subset algebra: as counting by hand says, in chunks of any size, and never wrong in silence."""

import json
import re
from collections import Counter
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import chance, cli, storage
from curate.errors import ConfigError, InputChanged, StorageError
from curate.sample import UID, format_uids, make_uids
from curate.subsets import algebra, sorted_files, subset, subset_file, subset_sample
from curate.subsets.sorted_files import NotSorted
from tests.object_store import object_store

# Few values, so that uids repeat; both halves decide; the largest numbers there are.
NUMBERS = st.one_of(
    st.integers(0, 4),
    st.integers(2**64 - 2, 2**64 + 2),
    st.integers(2**128 - 3, 2**128 - 1),
    st.integers(0, 2**128 - 1),
)
LISTS = st.lists(NUMBERS, max_size=40)
CHUNKS = st.sampled_from([1, 2, 7, 1000])


def uids_of(numbers):
    halves = [(n >> 64, n & (2**64 - 1)) for n in numbers]
    return np.array(halves, dtype=UID) if halves else np.zeros(0, dtype=UID)


def numbers_of(uids):
    return [(high << 64) + low for high, low in uids.tolist()]


@contextmanager
def chunks_of(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_files, "CHUNK", rows)
        patch.setattr(sorted_files, "LEAST", 1)
        yield patch


def saved(folder, *lists):
    """Files of numbers, sorted."""
    urls = []
    for number, numbers in enumerate(lists):
        urls.append(str(folder / f"{number}.npy"))
        np.save(urls[-1], uids_of(sorted(numbers)))  # flushes nothing, unlike our own
    return urls


def result_of(folder, lists, rule):
    urls = saved(folder, *lists)
    files = [subset_file.open_subset(url) for url in urls]
    out = str(folder / "out.npy")
    rows = subset_file.write(out, algebra.combined(files, rule))
    found = numbers_of(subset.load(out))
    assert rows == len(found)
    assert found == sorted(found)
    return Counter(found)


@settings(max_examples=60)
@given(lists=st.lists(LISTS, min_size=2, max_size=4), chunk=CHUNKS)
def test_every_operation_counts_as_counter_does(tmp_path_factory, lists, chunk):
    folder = tmp_path_factory.mktemp("sets")
    first, *others = counters = [Counter(numbers) for numbers in lists]
    union, total, common = Counter(), Counter(), first
    for each in counters:
        union, total, common = union | each, total + each, common & each
    without, each_less = first.copy(), first
    for other in others:
        without = Counter({uid: n for uid, n in without.items() if uid not in other})
        each_less = each_less - other
    with chunks_of(chunk):
        assert result_of(folder, lists, algebra.union("max")) == union
        assert result_of(folder, lists, algebra.union("sum")) == total
        assert result_of(folder, lists, algebra.intersect()) == common
        assert result_of(folder, lists, algebra.minus("all")) == without
        assert result_of(folder, lists, algebra.minus("each")) == each_less


@settings(max_examples=60)
@given(a=LISTS, b=LISTS, chunk=CHUNKS)
def test_a_comparison_counts_uids_and_rows(tmp_path_factory, a, b, chunk):
    files = [subset_file.open_subset(url) for url in saved(tmp_path_factory.mktemp("sets"), a, b)]
    with chunks_of(chunk):
        found = algebra.compare(*files)
    x, y = Counter(a), Counter(b)
    in_both = x.keys() & y.keys()
    assert found == algebra.Comparison(
        rows_a=len(a),
        rows_b=len(b),
        uids_a=len(x),
        uids_b=len(y),
        uids_in_both=len(in_both),
        uids_only_in_a=len(x.keys() - y.keys()),
        uids_only_in_b=len(y.keys() - x.keys()),
        uids_with_other_copies=sum(x[uid] != y[uid] for uid in in_both),
        rows_in_both=(x & y).total(),
        rows_in_either=(x | y).total(),
    )
    shares = found.shares()
    if a and b:
        assert shares["jaccard"] == len(in_both) / len(x | y)
        assert shares["a_in_b_rows"] == (x & y).total() / len(a)
    if not a:
        assert shares["a_in_b"] == shares["a_in_b_rows"] == 1  # the empty set is in every set
    if a and not b:
        assert shares["jaccard"] == shares["jaccard_rows"] == shares["a_in_b"] == 0


@given(numbers=LISTS, chunk=CHUNKS)
def test_info_counts(tmp_path_factory, numbers, chunk):
    (url,) = saved(tmp_path_factory.mktemp("sets"), numbers)
    with chunks_of(chunk):
        found = algebra.describe(subset_file.open_subset(url))
    counts = Counter(numbers)
    assert (found.rows, found.uids) == (len(numbers), len(counts))
    assert found.most_copies == max(counts.values(), default=0)
    assert found.unsorted_row is None
    ends = [f"{n:032x}" for n in (min(numbers), max(numbers))] if numbers else [None, None]
    assert [found.first_uid, found.last_uid] == ends


@settings(max_examples=60)
@given(a=LISTS, b=LISTS, chunk=CHUNKS)
def test_a_file_that_is_not_sorted_is_never_used(tmp_path_factory, a, b, chunk):
    folder = tmp_path_factory.mktemp("sets")
    first, second = uids_of(a), uids_of(sorted(b))
    urls = [str(folder / "mine.npy"), str(folder / "other.npy")]
    np.save(urls[0], first)
    np.save(urls[1], second)
    files = [subset_file.open_subset(url) for url in urls]
    wrong = next((i for i in range(1, len(a)) if a[i] < a[i - 1]), None)
    with chunks_of(chunk):
        assert algebra.describe(files[0]).unsorted_row == wrong
        for order in (files, files[::-1]):
            content = algebra.combined(order, algebra.union("max"))
            if wrong is None:
                assert subset_file.write(str(folder / "out.npy"), content) == len(
                    list((Counter(a) | Counter(b)).elements())
                )
                continue
            with pytest.raises(
                NotSorted, match=rf"mine\.npy is not sorted: row {wrong} "
            ) as caught:
                subset_file.write(str(folder / "never.npy"), content)
            assert f"{a[wrong]:032x}" in str(caught.value)
            assert "curate subset sort" in str(caught.value)
    assert not (folder / "never.npy").exists()


def test_a_long_file_in_the_wrong_order_is_not_taken_for_copies(tmp_path):
    np.save(tmp_path / "falling.npy", uids_of(range(1000, 0, -1)))
    with chunks_of(4) as patch:
        patch.setattr(sorted_files, "MOST_COPIES", 16)
        found = algebra.describe(subset_file.open_subset(str(tmp_path / "falling.npy")))
    assert found.unsorted_row == 1


@given(numbers=LISTS)
def test_the_file_is_that_of_np_save(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("sets")
    result_of(folder, [numbers, []], algebra.union("sum"))
    np.save(folder / "theirs.npy", uids_of(sorted(numbers)))
    assert (folder / "out.npy").read_bytes() == (folder / "theirs.npy").read_bytes()


@settings(max_examples=60)
@given(numbers=LISTS, chunk=CHUNKS, batch=st.sampled_from([1, 3, 1000]))
def test_sorting_files_of_any_size(tmp_path_factory, numbers, chunk, batch):
    folder = tmp_path_factory.mktemp("sets")
    subset.save(str(folder / "mixed.npy"), uids_of(numbers))
    uids_of(numbers).tofile(folder / "mixed")
    with chunks_of(chunk) as patch:
        patch.setattr(subset_file, "BATCH", batch)
        for name in ("mixed.npy", "mixed") if numbers else ("mixed.npy",):
            rows = subset_file.sort_listed(str(folder / name), str(folder / "out.npy"))
            assert numbers_of(np.load(folder / "out.npy")) == sorted(numbers)
            assert rows == len(numbers)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# Draws


def drawn(url, count, seed=0):
    out = f"{url}.part"
    subset_file.write(out, subset_sample.sample(subset_file.open_subset(url), count, seed))
    return Counter(numbers_of(subset.load(out)))


@settings(max_examples=40)
@given(numbers=LISTS, chunk=CHUNKS, window=st.sampled_from(["as it is", "empty"]))
def test_a_draw_is_exact_and_a_larger_one_contains_it(tmp_path_factory, numbers, chunk, window):
    (url,) = saved(tmp_path_factory.mktemp("sets"), numbers)
    with chunks_of(chunk) as patch:
        if window == "empty":  # as if the hashes were not uniform: a second pass finds the place
            patch.setattr(subset_sample, "_window", lambda count, rows: (1 << 60, 1 << 60))
        before = Counter()
        for count in range(len(numbers) + 1):
            found = drawn(url, count)
            assert found.total() == count
            assert not before - found
            assert not found - Counter(numbers)
            before = found


def test_a_draw_is_by_the_hash_of_uid_and_copy(tmp_path):
    numbers = [n * 2**100 + n for n in range(3000)] + [5 * 2**100 + 5] * 20
    (url,) = saved(tmp_path, numbers)
    uids = uids_of(sorted(numbers))
    value = chance.bits(7, "subset sample", uids)
    ranked = []
    seen = Counter()
    for uid, number in zip(uids, value, strict=True):
        copy = seen[uid.item()]
        seen[uid.item()] += 1
        if copy:
            own = make_uids(np.array([number]), np.array([copy], dtype=np.uint64))
            number = chance.bits(7, "subset sample", own, "copy")[0]
        ranked.append((int(number), uid.item(), copy))
    expected = Counter((high << 64) + low for _, (high, low), _ in sorted(ranked)[:1000])
    assert drawn(url, 1000, seed=7) == expected
    assert 0 < expected[5 * 2**100 + 5] < 21  # copies are drawn one by one
    assert drawn(url, 1000, seed=8) != expected


@pytest.mark.parametrize(
    ("fraction", "rows", "expected"),
    [("0.29", 100, 29), ("1", 7, 7), ("0", 7, 0), ("0.3", 9, 2), ("1e-1", 1000, 100)],
)
def test_a_fraction_is_the_decimal_as_written(fraction, rows, expected):
    assert subset_sample.rows_of(fraction, rows) == expected


@pytest.mark.parametrize("fraction", ["1.1", "-0.1", "nan", "a third", "inf"])
def test_what_is_no_fraction_is_refused(fraction):
    with pytest.raises(ConfigError, match=re.escape(f"--fraction {fraction}")):
        subset_sample.rows_of(fraction, 10)


def test_more_than_there_are_cannot_be_drawn(tmp_path):
    (url,) = saved(tmp_path, [1, 2])
    with pytest.raises(ConfigError, match=r"0\.npy has 2 rows, of which 3 cannot be drawn"):
        drawn(url, 3)


# Files as others make them


def test_bare_rows_are_read_as_the_resharder_maps_them(tmp_path):
    uids_of([1, 5, 2**100]).tofile(tmp_path / "subset.bin")
    file = subset_file.open_subset(str(tmp_path / "subset.bin"))
    assert numbers_of(file.read(0, 3)) == [1, 5, 2**100]
    assert subset_file.form_of(file.url) == "raw"


ROWS = uids_of([1, 2, 3])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            ROWS.astype(">u8,>u8"),
            r"holds \[\('f0', '>u8'\), \('f1', '>u8'\)\]; a subset is `u8,u8`",
        ),
        (ROWS.view("V16"), r"holds \|V16; a subset is `u8,u8`"),
        (ROWS.view([("hi", "<u8"), ("lo", "<u8")]), r"holds \[\('hi'"),
        (ROWS.view("u8").reshape(-1, 2), r"holds uint64 of shape \(3, 2\)"),
        (np.zeros(4), r"holds <f8; a subset"),
    ],
)
def test_another_array_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(StorageError, match=r"a\.npy " + message):
        subset_file.open_subset(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.npy has 0 bytes; an empty subset is"),
        (b"x" * 33, r"its 33 bytes are no whole number of rows of 16"),
        (b"\x93NUMPY\x01\x00", r"a\.npy is not an array"),
    ],
)
def test_what_is_no_subset_is_refused(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(StorageError, match=message):
        subset_file.open_subset(str(tmp_path / "a.npy"))


def test_a_truncated_file_is_refused_by_both_numbers(tmp_path):
    (url,) = saved(tmp_path, range(1000))
    whole = (tmp_path / "0.npy").read_bytes()
    (tmp_path / "0.npy").write_bytes(whole[:-17])
    with pytest.raises(StorageError, match=r"header promises 1,000 rows, it holds 998"):
        subset_file.open_subset(url)


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    (url,) = saved(tmp_path, range(1000))
    file = subset_file.open_subset(url)
    (tmp_path / "0.npy").write_bytes((tmp_path / "0.npy").read_bytes()[:5000])
    with pytest.raises(InputChanged, match="became shorter"):
        algebra.describe(file)


def test_zeros_where_a_download_failed_do_not_fill_the_memory(tmp_path):
    with (tmp_path / "holes").open("wb") as handle:
        handle.truncate(16 << 30)
    file = subset_file.open_subset(str(tmp_path / "holes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_files, "MOST_COPIES", 1 << 19)
        with pytest.raises(StorageError, match=r"repeats uid 0{32} from row 0 .* 524,288 times"):
            algebra.describe(file)


# Lists of uids


def written_as(folder, form, texts):
    path = folder / f"list.{form}"
    if form == "txt":
        path.write_text("".join(f"{text}\n" for text in texts))
    elif form == "csv":
        pl.DataFrame({"n": range(len(texts)), "uid": texts}).write_csv(path)
    else:
        pl.DataFrame({"uid": texts, "n": range(len(texts))}).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("form", ["txt", "csv", "parquet"])
def test_lists_of_uids_are_subsets(tmp_path, form):
    numbers = [2**127, 3, 3, 16, 2**70]
    url = written_as(tmp_path, form, [f"{n:X}" for n in numbers])
    with subset_file.opened([url]) as (file,):
        assert numbers_of(file.read(0, file.rows)) == sorted(numbers)
    assert numbers_of(np.concatenate(list(subset_file.listed(url, subset_file.form_of(url))))) == (
        numbers
    )


@pytest.mark.parametrize(
    ("form", "where"), [("txt", "line 3"), ("csv", "row 2"), ("parquet", "row 2")]
)
def test_a_wrong_line_is_named(tmp_path, form, where):
    url = written_as(tmp_path, form, ["0", "1f", "no uid", "2"])
    with (
        pytest.raises(ConfigError, match=rf"list\.{form}, {where}: 'no uid' is not a uid"),
        subset_file.opened([url]),
    ):
        pass


def test_a_list_without_uids_is_refused(tmp_path):
    url = written_as(tmp_path, "parquet", ["1", None])
    with pytest.raises(ConfigError, match="row 1: None is not a uid"), subset_file.opened([url]):
        pass
    for form in ("parquet", "csv"):
        url = written_as(tmp_path, form, ["1"])
        with (
            pytest.raises(ConfigError, match=r"'id'.*name the column with --column"),
            subset_file.opened([url], "id"),
        ):
            pass


def test_text_comes_back_as_it_was_written(tmp_path):
    uids = uids_of([0, 255, 2**64, 2**128 - 1])
    (tmp_path / "list").write_bytes(subset_file.hex_lines(uids))
    assert (tmp_path / "list").read_text().split() == format_uids(uids)
    assert subset_file.form_of(str(tmp_path / "list")) == "text"  # its name says nothing
    with subset_file.opened([str(tmp_path / "list")]) as (file,):
        assert (file.read(0, 4) == uids).all()


# Elsewhere, and from the command line


def test_an_object_store_gives_the_same_bytes(tmp_path):
    a, b = list(range(0, 3000, 2)), list(range(0, 3000, 3))
    local = saved(tmp_path, a, b)
    with object_store() as bucket, chunks_of(500):
        remote = [f"{bucket}/in/{number}.npy" for number in range(2)]
        for here, there in zip(local, remote, strict=True):
            storage.commit(there, storage.read(here))
        for urls, out in ((local, str(tmp_path / "out.npy")), (remote, f"{bucket}/out.npy")):
            with subset_file.opened(urls) as files:
                subset_file.write(out, algebra.combined(files, algebra.union("sum")))
        assert storage.read(f"{bucket}/out.npy") == (tmp_path / "out.npy").read_bytes()
        assert algebra.describe(subset_file.open_subset(remote[0])).uids == len(a)
        with subset_file.opened(remote) as (file, _):
            storage.commit(remote[0], storage.read(remote[0])[:4000])
            with pytest.raises(InputChanged, match="became shorter"):
                algebra.describe(file)
        with pytest.raises(StorageError, match=r"none\.npy cannot be read"):
            subset_file.open_subset(f"{bucket}/none.npy")


def curate(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["subset", *map(str, arguments)])
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


def test_the_commands(tmp_path, capsys):
    a, b = saved(tmp_path, [1, 1, 2, 3], [2, 2, 3, 9])
    out = tmp_path / "out.npy"
    for arguments, expected in (
        (["union", a, b], [1, 1, 2, 2, 3, 9]),
        (["union", a, b, "--copies", "sum"], [1, 1, 2, 2, 2, 3, 3, 9]),
        (["intersect", a, b], [2, 3]),
        (["minus", b, a], [9]),
        (["minus", b, a, "--copies", "each"], [2, 9]),
        (["sample", a, "--count", "4"], [1, 1, 2, 3]),
        (["sample", a, "--fraction", "0.5"], None),
        (["sort", a], [1, 1, 2, 3]),
    ):
        code, shown, _ = curate(capsys, *arguments, "--out", out)
        found = numbers_of(np.load(out))
        assert (code, shown) == (0, f"{out}: {len(found)} rows\n")
        assert len(found) == 2 if expected is None else found == expected
    assert curate(capsys, "intersect", a, b, "--text", "--out", out)[0] == 0
    assert out.read_text() == f"{2:032x}\n{3:032x}\n"
    only = tmp_path / "only.npy"
    code, shown, _ = curate(capsys, "diff", a, b, "--json", "--out-only-a", only)
    found = json.loads(shown)
    assert (found["uids_in_both"], found["rows_in_both"], found["jaccard"]) == (2, 2, 0.5)
    assert numbers_of(np.load(only)) == [1, 1]
    assert "Jaccard index               0.500000        0.333333" in curate(capsys, "diff", a, b)[1]


def test_info_for_people_and_machines(tmp_path, capsys):
    (url,) = saved(tmp_path, [1, 1, 2**127])
    found = json.loads(curate(capsys, "info", url, "--json")[1])
    expected = {"rows": 3, "uids": 2, "most_copies": 2, "sorted": True, "bytes": 176, "form": "npy"}
    assert found | expected == found
    subset.save(url, uids_of([2, 1]))
    shown = curate(capsys, "info", url)[1]
    assert "NO: row 1 belongs before" in shown
    assert f"curate subset sort {url} --out" in shown
    found = json.loads(curate(capsys, "info", url, "--json")[1])
    assert (found["sorted"], found["unsorted_row"], found["uids"]) == (False, 1, None)
    uids_of([1]).tofile(tmp_path / "bare")
    assert "without an .npy header" in curate(capsys, "info", tmp_path / "bare")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "a", "--out", "o"], "give either --count or --fraction"),
        (["sample", "a", "--out", "o", "--count", "1", "--fraction", "1"], "give either"),
        (["union", "a", "--out", "o"], "name two files at least"),
        (["union", "a", "b", "--copies", "min", "--out", "o"], "min"),
        (["info", "nowhere.npy"], "nowhere.npy cannot be read: No such file"),
        (["info", "."], "cannot be read: Is a directory"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_why(capsys, arguments, message):
    code, _, error = curate(capsys, *arguments)
    assert code == 2
    assert message in error
