"""Lists of entries: read whatever wrote them, written and read again, and refused with a reason."""

import codecs
import gzip
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import storage
from curate.concepts.entry_list import EntryList, of_frame, read_entries, write_entries
from curate.errors import ConfigError, StorageError


def entry_list(*rows):
    """A list of (entry, source, language, rank)."""
    return of_frame(pl.DataFrame(rows, ["entry", "source", "language", "rank"], orient="row"))


TWO_LANGUAGES = entry_list(
    ("0", "number", "en", 0), ("Eis", "unigram", "de", 0), ("cat", "wordnet", "en", 0),
    ("Eis", "unigram", "en", 0), ("New York", "title", "en", 7),
)  # fmt: skip


def same(one: EntryList, other: EntryList) -> bool:
    return one.frame().equals(other.frame())


def test_a_list_comes_back_as_it_was_written(tmp_path):
    path = str(tmp_path / "list.parquet")
    write_entries(path, TWO_LANGUAGES)
    assert same(read_entries(path), TWO_LANGUAGES)
    assert len(read_entries(path)) == 5
    assert pl.read_parquet_schema(path) == {
        "entry": pl.String, "source": pl.String, "language": pl.String, "rank": pl.UInt32,
    }  # fmt: skip


def test_a_list_in_a_store_comes_back_too():
    write_entries("memory://lists/a.parquet", TWO_LANGUAGES)
    storage.commit("memory://lists/a.txt", b"cat\ndog\n")
    assert same(read_entries("memory://lists/a.parquet"), TWO_LANGUAGES)
    assert read_entries("memory://lists/a.txt").entries.to_list() == ["cat", "dog"]


ENTRIES = ["cat", "New York", " cat", "cat ", "Cat", "a\tb", "東京", "don't", '"', "é", "e\u0301"]


@pytest.fixture
def written(tmp_path):
    """The same entries in each form that is read: {name: path}."""
    forms = {
        "plain.txt": "\n".join(ENTRIES).encode(),
        "last_line_ended.txt": "".join(f"{entry}\n" for entry in ENTRIES).encode(),
        "windows.txt": codecs.BOM_UTF8 + "".join(f"{entry}\r\n" for entry in ENTRIES).encode(),
        "metadata.json": json.dumps(ENTRIES).encode(),
        "not_ascii.json": json.dumps(ENTRIES, ensure_ascii=False, indent=1).encode(),
    }
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
    pl.DataFrame({"entry": ENTRIES}).write_parquet(tmp_path / "bare.parquet")
    others = pl.DataFrame({"count": range(len(ENTRIES)), "entry": ENTRIES})
    others.with_columns(pl.col("entry").cast(pl.Categorical)).write_parquet(
        tmp_path / "no_such_ending"
    )
    return [tmp_path / name for name in (*forms, "bare.parquet", "no_such_ending")]


def test_all_forms_of_a_list_are_one(written):
    for path in written:
        found = read_entries(str(path))
        assert found.entries.to_list() == ENTRIES, path
        assert set(found.source) == {"given"}
        assert set(found.language) == {""}
        assert found.rank.to_list() == list(range(len(ENTRIES)))
    assert len({read_entries(str(path)).digest for path in written}) == 1


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\ufeff"))


@settings(max_examples=40)
@given(st.lists(texts.filter(str.strip), min_size=1, unique=True))
def test_any_entries_come_back(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("lists")
    (folder / "a.txt").write_text("\n".join(entries), encoding="utf-8", newline="")
    (folder / "a.json").write_text(json.dumps(entries))
    read = read_entries(str(folder / "a.txt"))
    write_entries(str(folder / "a.parquet"), read)
    assert read.entries.to_list() == entries
    assert same(read_entries(str(folder / "a.json")), read)
    assert same(read_entries(str(folder / "a.parquet")), read)


def test_rank_is_the_place_within_source_and_language_unless_given(tmp_path):
    frame = TWO_LANGUAGES.frame().drop("rank")
    frame.write_parquet(tmp_path / "a.parquet")
    assert read_entries(str(tmp_path / "a.parquet")).rank.to_list() == [0, 0, 0, 0, 0]
    frame.drop("source").write_parquet(tmp_path / "b.parquet")
    assert read_entries(str(tmp_path / "b.parquet")).rank.to_list() == [0, 0, 1, 2, 3]


def test_the_digest_is_of_entries_and_languages_in_order():
    digest = entry_list(("ab", "given", "en", 0), ("c", "given", "en", 1)).digest
    # Pinned: it stands in the names and recipes of what was matched.
    assert digest == "4cf2fe4902fc5170f7261be28e14ebc82339b06dd5e72ed0b6a5ad9d85098165"
    assert entry_list(("ab", "title", "en", 5), ("c", "number", "en", 6)).digest == digest
    others = [
        entry_list(("c", "given", "en", 0), ("ab", "given", "en", 1)),
        entry_list(("a", "given", "en", 0), ("bc", "given", "en", 1)),
        entry_list(("ab", "given", "de", 0), ("c", "given", "en", 1)),
        entry_list(("ab", "given", "", 0), ("c", "given", "", 1)),
        entry_list(("ab", "given", "en", 0)),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


BAD_TEXTS = {
    "empty": (b"", "a.txt holds no entries"),
    "only_a_mark": (codecs.BOM_UTF8, "a.txt holds no entries"),
    "blank_line": (b"cat\n\ndog\n", "a.txt:2: the entry is blank"),
    "blanks": ("cat\ndog\n\u3000 \n".encode(), "a.txt:3: the entry is blank"),
    "repeated": (
        b"cat\ndog\ncat\ndog\n",
        "a.txt:3: the entry 'cat' stands in line 1 already: remove it (2 repeats in all)",
    ),
    "latin_1": ("cat\nca\xf1on\n".encode("latin-1"), "a.txt:2: not UTF-8 (the byte 0xf1)"),
    "utf_16": ("cat\ndog\n".encode("utf-16-le"), "a.txt:1: not UTF-8 (the byte 0x00)"),
    "utf_16_with_mark": ("東京\n".encode("utf-16"), "a.txt:1: not UTF-8 (the byte 0xff)"),
    "big5": ("cat\n東京\n".encode("big5"), "a.txt:2: not UTF-8"),
    "half_a_letter": (codecs.BOM_UTF8 + "cat\né".encode()[:-1], "a.txt:2: not UTF-8"),
    "gzip": (gzip.compress(b"cat\n"), "a.txt is compressed: unpack it first"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_text_is_refused(name, tmp_path):
    data, message = BAD_TEXTS[name]
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_entries(str(tmp_path / "a.txt"))
    assert message in str(caught.value)


BAD_JSON = {
    "empty": ("[]", "a.json holds no entries"),
    "a_dict": ('{"cat": 1}', "not a JSON list of strings, but dict"),
    "a_number": ('["cat", 7]', "item 2 is not a string: 7"),
    "null": ('["cat", null]', "item 2 is not a string: None"),
    "blank": ('["cat", " "]', "item 2: the entry is blank"),
    "repeated": ('["cat", "a", "cat"]', "item 3: the entry 'cat' stands in item 1 already"),
    "broken": ('["cat",\n"dog"', "a.json:2: not JSON"),
    "surrogate": ('["cat", "\\ud83d"]', "item 2 has half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused(name, tmp_path):
    text, message = BAD_JSON[name]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_entries(str(tmp_path / "a.json"))
    assert message in str(caught.value)


BAD_COLUMNS = {
    "none": ({"entry": pl.Series([], dtype=pl.String)}, "holds no entries"),
    "no_entry": ({"word": ["cat"], "n": [1]}, "needs a column `entry`; it has word, n"),
    "numbers": ({"entry": [1, 2]}, "the column `entry` must hold strings, not Int64"),
    "null": ({"entry": ["cat", None]}, "row 2: the entry is blank"),
    "repeated": (
        {"entry": ["a", "cat", "cat", "cat"], "language": ["en", "en", "de", "en"]},
        "row 4: the entry 'cat' stands in row 2 already in the language 'en': remove it (1 repeat",
    ),
    "no_language": ({"entry": ["cat"], "language": [None]}, "must hold strings, not Null"),
    "half_a_language": ({"entry": ["a", "b"], "language": ["en", None]}, "row 2: no language"),
    "source": ({"entry": ["cat"], "source": ["wiki"]}, "row 1: the source 'wiki' is none of num"),
    "rank": ({"entry": ["cat"], "rank": [-1]}, "row 1: the rank -1 is no uint32"),
    "rank_of_text": ({"entry": ["cat"], "rank": ["1"]}, "`rank` must hold whole numbers"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_bad_parquet_is_refused(name, tmp_path):
    columns, message = BAD_COLUMNS[name]
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError) as caught:
        read_entries(str(tmp_path / "a.parquet"))
    assert message in str(caught.value)


def test_a_damaged_or_absent_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    write_entries(str(path), TWO_LANGUAGES)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"a\.parquet cannot be read as parquet"):
        read_entries(str(path))
    with pytest.raises(StorageError, match=r"none\.txt cannot be read"):
        read_entries(str(tmp_path / "none.txt"))


def test_a_long_entry_is_shown_in_part(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 100_000 + "\n" + "a" * 100_000)
    with pytest.raises(ConfigError) as caught:
        read_entries(str(tmp_path / "a.txt"))
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
