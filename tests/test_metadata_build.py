"""`curate metadata build`: what becomes an entry, in which order, and why the rest does not."""

import math
from collections import Counter
from decimal import Decimal

import polars as pl
import pytest
import word_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from curate.concepts import build
from curate.concepts.entry_list import read_entries, write_entries
from curate.concepts.metadata_command import metadata_app
from curate.concepts.presets import Cut, Rules, Thresholds, rules_of
from curate.concepts.sources import Counts, Words, read_counts, read_wordnet, read_wordnet_tab
from curate.concepts.word_files import Choice, WordFiles, build_list, word_file
from curate.errors import ConfigError

V1 = Choice("metaclip1", numbers="none")
V2 = Choice("metaclip2", numbers="none")


@pytest.fixture
def files(tmp_path):
    """A function that writes texts given as {`kind`: {language: text}}, and names them."""

    def write(**kinds):
        named = {}
        for kind, by_language in kinds.items():
            for language, text in by_language.items():
                path = tmp_path / f"{kind}-{language}.txt"
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
                named.setdefault(kind, []).append(word_file(f"{language}={path}"))
        return WordFiles(**named)

    return write


def lines(**counts):
    return "".join(f"{word} {count}\n" for word, count in counts.items())


def entries_of(built):
    return built.entries.entries.to_list()


def left_out(built):
    """{reason: lines} of all sources together."""
    whole = Counter()
    for account in built.accounts:
        whole.update(account.left_out)
    return dict(whole)


# thresholds


def test_the_thresholds_of_metaclip_1_are_met_at_their_edge(files):
    given = files(
        unigrams={"en": lines(enough=100, more=101, less=99)},
        titles={"en": "Seventy 70\nSixty-nine 69\nNew_York 71\nHelp:Contents 1000\n"},
    )
    built = build_list(given, V1)
    assert entries_of(built) == ["more", "enough", "New York", "Seventy"]
    assert left_out(built) == {"below_threshold": 2, "colon": 1}


# N = 64; PMI("new york") = log2(64 * 4 / (8 * 4)) = 3
PMI_WORDS = lines(new=8, york=4, cat=51, rare=1, never=0)
PMI_PAIRS = "new york 4\nnew cat 8\ncat rare 1\nnew dog 50\nnew never 9\n"


def pmi(count, first, second, total):
    """As nltk's BigramAssocMeasures.pmi has it."""
    return math.log2(count * total) - math.log2(first * second)


def bigrams_at(files, min_pmi):
    given = files(unigrams={"en": PMI_WORDS}, bigrams={"en": PMI_PAIRS})
    thresholds = Thresholds(min_count=1000, min_pmi=min_pmi)
    return build_list(given, Choice("metaclip1", thresholds, numbers="none"))


def test_the_pmi_is_that_of_all_unigrams(files):
    assert pmi(4, 8, 4, 64) == 3
    assert entries_of(bigrams_at(files, 3)) == ["new york"]
    with pytest.raises(ConfigError, match="no entry is left: lower the thresholds"):
        bigrams_at(files, 3.0001)
    low = bigrams_at(files, -100)
    by_hand = {
        "new york": pmi(4, 8, 4, 64), "new cat": pmi(8, 8, 51, 64), "cat rare": pmi(1, 51, 1, 64)
    }  # fmt: skip
    assert entries_of(low) == ["new york", "cat rare", "new cat"]  # of the last two it is one
    assert left_out(low) == {"below_threshold": 5, "word_not_counted": 2}
    for pair, expected in by_hand.items():
        assert pair in entries_of(bigrams_at(files, expected - 1e-9))
        if expected < 3:
            assert pair not in entries_of(bigrams_at(files, expected + 1e-9))


def test_a_pmi_of_30_is_enough_for_metaclip_1_and_not_for_2(files):
    def pair(total, language, choice):
        words = lines(hong=1, kong=1, rest=total - 2)
        given = files(unigrams={language: words}, bigrams={language: "hong kong 1\n"})
        with_owl = WordFiles(unigrams=given.unigrams, bigrams=given.bigrams, given=owl)
        return "hong kong" in entries_of(build_list(with_owl, choice))

    owl = files(given={"en": "owl\n"}).given
    assert pmi(1, 1, 1, 2**30) == 30
    assert pair(2**30, "de", V1)
    assert not pair(2**30 - 1, "de", V1)
    assert pair(2**30, "en", V2)
    assert not pair(2**30, "de", V2)
    assert pair(2**30 + 1, "de", V2)


def test_counts_beyond_32_and_64_bits_are_exact():
    many = 20_000  # of 10^15 each: 2 * 10^19 is more than 64 bits hold
    words = pl.DataFrame({"entry": [f"w{n}" for n in range(many)], "count": [10**15] * many})
    counts = Counts(words, many, {})
    assert counts.total() == 2 * 10**19
    pairs = pl.DataFrame({"first": ["w1", "w2"], "second": ["w2", "w3"], "count": [10**15, 10**10]})
    rules = rules_of("metaclip1", "en", Thresholds(min_pmi=math.log2(many) - 1e-9))
    found = build.bigrams("en", Counts(pairs, 2, {}), counts, rules)
    assert found.entries.to_list() == ["w1 w2"]  # its PMI is log2(20,000)


# order


def test_sources_follow_each_other_and_the_first_of_equals_stays(files, tmp_path):
    write_wordnet(tmp_path / "wordnet", noun=["cat", "dog", "cat", "7"])
    given = files(
        unigrams={"en": lines(dog=500, bird=400, fish=300), "de": lines(cat=100)},
        titles={"en": "fish 100\nfox 90\n"},
        given={"en": "fox\nowl\n"},
    )
    given = WordFiles(
        wordnet=[word_file(str(tmp_path / "wordnet"))],
        unigrams=given.unigrams, titles=given.titles, given=given.given,
    )  # fmt: skip
    built = build_list(given, Choice())
    frame = built.entries.frame()
    numbers = [str(number) for number in range(100)]
    assert frame["language"].to_list() == ["de"] * 101 + ["en"] * 106
    assert entries_of(built) == [
        *numbers, "cat", *numbers, "cat", "dog", "bird", "fish", "fox", "owl"
    ]  # fmt: skip
    assert frame.filter(pl.col("language") == "en")[100:].rows() == [
        ("cat", "wordnet", "en", 0), ("dog", "wordnet", "en", 1), ("bird", "unigram", "en", 0),
        ("fish", "unigram", "en", 1), ("fox", "title", "en", 0), ("owl", "given", "en", 0),
    ]  # fmt: skip
    assert left_out(built) == {"repeated": 5}
    assert sum(account.lines for account in built.accounts) == len(built.entries) + 5


def test_ties_go_by_word(files):
    text = lines(b=200, é=200, a=200, B=200, z=201)
    assert entries_of(build_list(files(unigrams={"en": text}), V1)) == ["z", "B", "a", "b", "é"]
    assert entries_of(build_list(files(titles={"en": text}), V1)) == ["z", "B", "a", "b", "é"]
    words = lines(a=10, b=10, c=10, d=10)
    given = files(unigrams={"en": words}, bigrams={"en": "c d 5\nb a 5\na b 5\na c 6\n"})
    built = build_list(given, Choice("metaclip1", Thresholds(11, 0.0), numbers="none"))
    assert entries_of(built) == ["a c", "a b", "b a", "c d"]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.text("abc-", min_size=1, max_size=2), st.integers(0, 5)), min_size=1),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_lines_does_not_matter_and_none_vanishes(tmp_path_factory, counted, chance):
    folder = tmp_path_factory.mktemp("lists")
    rules = Rules(Cut(at_least=2, share=Decimal("0.6"), most=3), Cut(), Cut())
    built = []
    for name in ("a", "b"):
        chance.shuffle(counted)
        (folder / name).write_text("".join(f"{word} {count}\n" for word, count in counted))
        counts = read_counts([str(folder / name)], "unigram")
        found = [build.unigrams("en", counts, rules), build.given("en", pl.Series(["a", "zz"]))]
        built.append(build.put_together(found, {"en": rules}))
        write_entries(str(folder / f"{name}.parquet"), built[-1].entries)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    assert left_out(built[0]) == left_out(built[1])
    assert len(counted) + 2 == len(built[0].entries) + sum(left_out(built[0]).values())
    totals = Counter()
    for word, count in counted:
        totals[word] += count
    ranked = sorted(totals, key=lambda word: (-totals[word], word))
    enough = [word for word in ranked if totals[word] >= 2 and word != "-"]
    enough = enough[: min(3, len(totals) * 6 // 10)]
    assert entries_of(built[0]) == [*enough, *(w for w in ("a", "zz") if w not in enough)]


# MetaCLIP 2


def many(words, first):
    return "".join(f"w{n:07} {first - n}\n" for n in range(words))


def test_metaclip_2_takes_shares_of_each_language_but_english(files):
    given = files(
        unigrams={"de": many(29, 40), "fr": many(30, 40), "en": many(29, 128)},
        titles={"de": many(1000, 2000).replace("w", "t"), "en": many(25, 94).replace("w", "t")},
    )
    built = build_list(given, V2)
    counts = {(each.language, each.source): each.entries for each in built.accounts}
    assert counts == {
        ("de", "unigram"): 2, ("fr", "unigram"): 3, ("de", "title"): 760,
        ("en", "unigram"): 29, ("en", "title"): 25,
    }  # fmt: skip
    assert entries_of(built)[:2] == ["w0000000", "w0000001"]
    assert left_out(built) == {"beyond_cap": 27 + 27 + 240}


def test_the_caps_of_metaclip_2():
    rules = rules_of("metaclip2", "de", Thresholds())
    words = pl.DataFrame({"count": range(90_000)}).select(
        (pl.lit("w") + pl.col("count").cast(pl.String)).alias("entry"), "count"
    )
    views = build.titles("de", Counts(words, 90_000, {}), rules)
    assert len(build.put_together([views], {"de": rules}).entries) == 61_235
    words = words.with_columns(pl.lit(1, pl.Int64).alias("count"))
    counts = Counts(words, 90_000, {}, all_counted=2**40)
    pairs = pl.concat(
        words.select(pl.col("entry").alias("first"), pl.lit(second).alias("second"), "count")
        for second in ("w1", "w2")
    )
    pairs = Counts(pairs, 180_000, {})
    found = build.bigrams("de", pairs, counts, rules)
    assert len(build.put_together([found], {"de": rules}).entries) == 100_646
    docs = rules_of("metaclip2", "de", Thresholds(bigram_share=Decimal("0.4")))
    found = build.bigrams("de", pairs, counts, docs)
    assert len(build.put_together([found], {"de": docs}).entries) == 36_000


def test_a_cap_counts_what_a_source_adds():
    rules = Rules(Cut(most=2), Cut(), Cut())
    counts = Counts(pl.DataFrame({"entry": list("abcd"), "count": [4, 3, 2, 1]}), 4, {})
    found = [
        build.wordnet("de", Words(pl.Series(["a", "c"]), 2, {})),
        build.unigrams("de", counts, rules),
    ]
    assert entries_of(build.put_together(found, {"de": rules})) == ["a", "c", "b", "d"]


def test_pairs_of_languages_without_blanks_are_joined(files):
    words = dict.fromkeys(("ja", "ko"), "東 5\n京 5\n都 5\n東京 5\n京都 5\n")
    pairs = "東 京都 4\n東京 都 3\n都 東 2\n"
    given = files(unigrams=words, bigrams={"ja": pairs, "ko": pairs})
    built = build_list(given, Choice("metaclip2", Thresholds(min_pmi=0), numbers="none"))
    frame = built.entries.frame().filter(pl.col("source") == "bigram")
    by_language = frame.group_by("language", maintain_order=True).agg("entry").rows()
    assert by_language == [
        ("ja", ["東京都", "都東"]), ("ko", ["東 京都", "東京 都", "都 東"])
    ]  # fmt: skip


def test_punctuation_and_long_entries(files):
    odd = ["!", "...", "。。", "（）", "a.", "x" * 256, "y" * 257, "$9"]  # noqa: RUF001
    text = "".join(f"{word} 100\n" for word in odd)
    v1 = build_list(files(titles={"de": text}), V1)
    assert set(entries_of(v1)) == {*odd[1:]}
    assert left_out(v1) == {"punctuation": 1}
    v2 = build_list(files(titles={"de": text + many(12, 50)}), V2)
    assert set(odd) & set(entries_of(v2)) == {"a.", "x" * 256, "$9"}
    assert left_out(v2) == {"punctuation": 4, "too_long": 1}
    given = build_list(files(given={"de": "!\n" + "y" * 257}), V2)
    assert entries_of(given) == ["!", "y" * 257]  # a list as it is


# files


def test_counts_in_all_their_spellings(files):
    text = "\ufeffcat 100\r\n  dog\t100 \r\nan\u3000owl   200\n\n\t300\nc 1\ncat 5\n"
    text += "\u3000 7\n\xa0cat 1\nlast 100"
    found = files(unigrams={"en": text}).unigrams[0].path
    counts = read_counts([found], "unigram")
    assert dict(counts.frame.sort("entry").rows()) == {
        "an\u3000owl": 200, "c": 1, "cat": 106, "dog": 100, "last": 100
    }  # fmt: skip
    assert (counts.lines, counts.left_out) == (10, {"blank": 3, "repeated": 2})
    pairs = files(bigrams={"en": "new\tyork\t7\nnew york 5\nhong  kong\t1\n"}).bigrams[0].path
    rows = read_counts([pairs, pairs], "bigram").frame.sort("first").rows()
    assert rows == [("hong", "kong", 2), ("new", "york", 24)]
    titles = files(titles={"en": "New_York 1\nNew York\t2\n_ 500\nL'Aquila 3\n"}).titles[0].path
    assert dict(read_counts([titles], "title").frame.rows()) == {
        "New York": 3, "L'Aquila": 3, "": 500
    }  # fmt: skip


BAD_COUNTS = {
    "no_count": ("unigrams", "cat 100\ndog\n", ":2: not `word count`"),
    "two_words": ("unigrams", "cat 100\nNew York\t100\n", ": 'New York\\t100'"),
    "one_word": (
        "bigrams",
        "new york 3\ncat 100\n",
        ":2: not `word word count` with a whole number from 0 to 10^15: 'cat 100'",
    ),
    "three_words": ("bigrams", "new york city 3\n", ":1: not `word word count`"),
    "tabs_in_a_title": ("titles", "New\tYork\t100\n", ":1: not `title views`"),
    "word_for_count": ("unigrams", "cat 100\ndog many\n", ":2: not `word count` with a whole num"),
    "negative": ("unigrams", "cat 100\n\ndog -5\nfox -6\n", ":3: not `word count` with a whole "),
    "decimal": ("unigrams", "cat 1.5\n", ":1: not `word count` with a whole number"),
    "exponent": ("titles", "cat 1e5\n", ":1: not `title views` with a whole number"),
    "too_large": ("unigrams", f"cat {10**15 + 1}\n", ":1: not `word count` with a whole number"),
    "beyond_64_bits": ("unigrams", "cat 99999999999999999999\n", ":1: not `word count`"),
    "count_first": ("unigrams", "100\tcat\n", ":1: not `word count` with a whole number"),
    "latin_1": ("unigrams", "cat 100\nca\xf1on 100\n".encode("latin-1"), ":2: not UTF-8"),
    "utf_16": ("titles", "cat 100\n".encode("utf-16-be"), ":1: not UTF-8 (the byte 0x00)"),
    "empty": ("unigrams", "", "holds nothing"),
    "only_blanks": ("titles", " \n\n", "holds nothing"),
    "blank_entry": ("given", "cat\n\n", ":2: the entry is blank"),
    "repeated": ("given", "cat\ncat\n", ":2: the entry 'cat' stands in line 1 already"),
    "no_lemma": ("wordnet_tab", "# x\n1-n\tjpn:def\t0\tcat\n", " holds no lemmas"),
    "no_synset": ("wordnet_tab", "# x\n1-n\tlemma\tcat\n1-n\n", ":3: not `synset<TAB>lemma<TAB>"),
}


@pytest.mark.parametrize("name", BAD_COUNTS)
def test_bad_files_are_refused_by_file_and_line(name, files):
    kind, text, message = BAD_COUNTS[name]
    others = {"unigrams": {"en": "a 1\n"}} if kind == "bigrams" else {}
    named = files(**{kind: {"en": text}}, **others)
    with pytest.raises(ConfigError) as caught:
        build_list(named, V1)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(getattr(named, kind)[0].path))
    assert caught.value.exit_code == 2


def test_how_many_lines_are_wrong_is_told(files):
    with pytest.raises(ConfigError, match=r"'a' \(and 2 more lines\)"):
        build_list(files(unigrams={"en": "a\nb\nc\nd 1\n"}), V1)


# WordNet


def write_wordnet(folder, **parts):
    """Database files with synsets that begin with these words."""
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        synsets = "".join(
            f"{number:08d} 03 {part[0]} 02 {word} 0 other 0 000 | a gloss  \n"
            for number, word in enumerate(parts.get(part, []))
        )
        (folder / f"data.{part}").write_text("  1 This software and database  \n" + synsets)
    return str(folder)


def test_wordnet_gives_the_first_word_of_each_synset(tmp_path):
    folder = write_wordnet(
        tmp_path / "w", noun=["Eiffel_Tower", "U.S.", ".22"], verb=["run"],
        adj=["galore(ip)", "mere(a)", "able(p)", "a(b)c"], adv=["run"],
    )  # fmt: skip
    whole = ["eiffel tower", "u.s.", ".22", "run", "galore", "mere", "able", "a(b)c", "run"]
    assert read_wordnet(folder).words.to_list() == whole
    cut = build.wordnet("en", read_wordnet(folder, "cut"))
    rules = rules_of("metaclip1", "en", Thresholds())
    built = build.put_together([cut], {"en": rules})
    assert entries_of(built) == ["eiffel tower", "u", *whole[3:-1]]
    assert left_out(built) == {"blank": 1, "repeated": 1}


def test_what_is_no_wordnet_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"has no data\.noun: .* wordnet-base"):
        read_wordnet(str(tmp_path))
    folder = write_wordnet(tmp_path / "w")
    with pytest.raises(ConfigError, match="/w holds no synsets"):
        read_wordnet(folder)
    with (tmp_path / "w" / "data.adj").open("a") as file:
        file.write("not a synset\n")
    with pytest.raises(ConfigError, match=r"data\.adj:2: not a synset of WordNet: 'not a synset'"):
        read_wordnet(folder)


def test_a_multilingual_wordnet_gives_its_lemmas(files):
    text = (
        "# Japanese Wordnet\tjpn\thttp://example.org\twordnet\n"
        "00001740-n\tjpn:lemma\t実体\n00001740-n\tjpn:def\t0\t知覚される物\n"
        "00001930-n\tlemma\tnew_york\n00002137-n\tcmn:lemma\t抽象+的\n"
        "00002137-n\tarb:lemma:root\tjrd\n\n00002137-n\tjpn:lemma\t実体\n"
    )
    named = files(wordnet_tab={"ja": text})
    assert read_wordnet_tab(named.wordnet_tab[0].path).words.to_list() == [
        "実体", "new york", "抽象的", "実体"
    ]  # fmt: skip
    built = build_list(named, V1)
    assert set(built.entries.language) == {"ja"}
    assert left_out(built) == {"not_a_lemma": 2, "repeated": 1}


# languages and lists as they are


def test_a_prefix_names_the_language():
    assert word_file("de=a/b.txt") == word_file("de=a/b.txt")
    assert [(word_file(text).language, word_file(text).path) for text in (
        "zh_yue=a.txt", "a.txt", "s3://a/b=c.txt", "data/x=1/a.txt", "=a.txt", "./de=a.txt",
        "de=s3://x/y=z",
    )] == [
        ("zh_yue", "a.txt"), (None, "a.txt"), (None, "s3://a/b=c.txt"), (None, "data/x=1/a.txt"),
        ("", "a.txt"), (None, "./de=a.txt"), ("de", "s3://x/y=z"),
    ]  # fmt: skip


def test_a_list_with_languages_keeps_them(files, tmp_path):
    first = build_list(files(unigrams={"de": lines(Hund=100), "en": lines(dog=100)}), V1)
    path = str(tmp_path / "first.parquet")
    write_entries(path, first.entries)
    again = build_list(WordFiles(given=[word_file(path)]), V1)
    assert again.entries.digest == first.entries.digest
    assert set(again.entries.source) == {"given"}
    with pytest.raises(ConfigError, match="says the language of each entry: name it without `de="):
        build_list(WordFiles(given=[word_file(f"de={path}")]), V1)
    plain = files(given={"": "dog\n"})
    assert build_list(plain, V1).entries.language.to_list() == [""]


def test_what_cannot_be_built_says_so(files):
    with pytest.raises(ConfigError, match="nothing to build from: name --wordnet"):
        build_list(WordFiles(), V1)
    lonely = files(unigrams={"en": "a 1\n"}, bigrams={"de": "a b 1\n"})
    with pytest.raises(ConfigError, match=r"--unigrams de=FILE"):
        build_list(lonely, V1)


# the command


def metadata(*arguments):
    return CliRunner().invoke(metadata_app, ["build", *arguments])


def test_the_command_accounts_for_every_line(files, tmp_path):
    named = files(
        unigrams={"en": lines(cat=100, dog=99) + "! 100\n"}, titles={"de": "Hund 70\nHund 9\n"}
    )
    out = str(tmp_path / "out.parquet")
    paths = [named.unigrams[0].path, f"de={named.titles[0].path}"]
    done = metadata(out, "--unigrams", paths[0], "--titles", paths[1])
    assert done.exit_code == 0, done
    entries = read_entries(out)
    assert [line.split(maxsplit=4) for line in done.stdout.splitlines()] == [
        [f"{out}:", "202", "entries,", "sha256", entries.digest[:12]],
        ["language", "source", "lines", "entries", "left out"],
        ["de", "number", "100", "100"],
        ["de", "title", "2", "1", "repeated 1"],
        ["en", "number", "100", "100"],
        ["en", "unigram", "3", "1", "below threshold 1, punctuation 1"],
    ]
    done = metadata(out, "--unigrams", paths[0], "--min-count", "99", "--no-numbers")
    assert read_entries(out).entries.to_list() == ["cat", "dog"]


def test_many_languages_are_shown_together(files, tmp_path):
    named = files(unigrams={f"l{chr(n)}": lines(cat=100, dog=9) for n in range(97, 112)})
    options = [
        each for file in named.unigrams for each in ("--unigrams", f"{file.language}={file.path}")
    ]
    done = metadata(str(tmp_path / "out.parquet"), *options, "--no-numbers")
    assert done.stdout.splitlines()[2].split(maxsplit=5) == [
        "all", "15", "unigram", "30", "15", "below threshold 15"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bigram-share", "0.4"], "add that"),
        (["--preset", "metaclip2", "--bigram-share", "40%"], "--bigram-share 40%: must be above 0"),
        (["--preset", "metaclip2", "--bigram-share", "nan"], "must be above 0 and at most 1"),
        ([], "nothing to build from"),
    ],
)
def test_bad_options(options, message, tmp_path):
    done = metadata(str(tmp_path / "out.parquet"), *options)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert not (tmp_path / "out.parquet").exists()


# the real English list


@pytest.mark.real
def test_the_english_list_from_packages():
    """Real data: WordNet 3.0, wordfreq 3.1 and wordsegment 1.3."""
    entries = read_entries(str(word_lists.english_entries_or_skip()))
    assert Counter(entries.source) == {
        "number": 100, "wordnet": 86_571, "unigram": 131_140, "bigram": 47_274
    }  # fmt: skip
    found = set(entries.entries)
    assert {"7", "eiffel tower", "cat", "women's", "new york", "t shirts"} <= found


@pytest.mark.real
def test_wordnet_and_numbers_are_as_many_as_metaclip_published():
    word_lists.english_entries_or_skip()
    words = read_wordnet(str(word_lists.wordnet_folder()), "cut")
    rules = rules_of("metaclip1", "en", Thresholds())
    found = [build.numbers("en"), build.wordnet("en", words)]
    assert len(build.put_together(found, {"en": rules}).entries) == 86_654
