"""Class names from files and from open_clip, the forms that captions have, and how often."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.errors import ConfigError, StorageError
from curate.frequencies.class_names import (
    ClassNames,
    imagenet,
    read_classes,
    vocabulary,
    words_of,
)
from curate.frequencies.word_forms import Lexicon, forms, open_lexicon

RULES = Lexicon()


def write(folder: Path, text: str | bytes, name: str = "classes.txt") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_line_is_a_class_and_commas_part_its_synonyms(tmp_path):
    found = read_classes(write(tmp_path, "Tench, Tinca_tinca\r\nT-shirt,tee  shirt, T shirt\n犬"))
    assert found.names == ("Tench", "T-shirt", "犬")
    assert found.terms == (("tench", "tinca tinca"), ("t shirt", "tee shirt"), ("犬",))


@pytest.mark.parametrize(
    "value",
    [
        {"Tench": ["Tinca_tinca"], "cup": "mug, beaker", "owl": []},
        ["Tench, Tinca_tinca", ["cup", "mug", "beaker"], "owl"],
    ],
)
def test_json_may_be_an_object_or_a_list(tmp_path, value):
    found = read_classes(write(tmp_path, json.dumps(value), "classes.json"))
    assert found.names == ("Tench", "cup", "owl")
    assert found.terms == (("tench", "tinca tinca"), ("cup", "mug", "beaker"), ("owl",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "classes.txt holds no classes"),
        ("dog\n\ncat\n", "classes.txt:2: blank"),
        ("dog\n \t \ncat\n", "classes.txt:2: blank"),
        ("dog\ncat\nDOG, hound\n", r"classes.txt:3: the class 'DOG' is that of .*txt:1 already"),
        ("black-cat\nblack cat\n", r"classes.txt:2: the class 'black cat' is that of .*txt:1"),
        ("dog\ncat,, kitty\n", "classes.txt:2: '' has no letter or digit"),
        ("dog\n!?\n", r"classes.txt:2: '!\?' has no letter or digit"),
        ("dog\nÜhu\n".encode("latin-1"), "classes.txt:2: not UTF-8 .*0xdc"),
        ("dog\ncat\n".encode("utf-16"), "classes.txt:1: not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_text_is_told_with_its_line(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_classes(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no classes"),
        ("{}", "holds no classes"),
        ('{"a": []\n"b": []}', "classes.json:2: not JSON"),
        ('"dog"', r"not an object \{class: \[synonyms\]\}"),
        ('["dog", 3]', "item 2: 3 is neither text nor a list of texts"),
        ('["dog", []]', r"item 2: \[\] is neither"),
        ('{"dog": {"hound": 1}}', "item 1: .* is neither"),
        ('{"dog": ["hound"], "dog": ["puppy"]}', "item 2: the class 'dog' is that of .*item 1"),
        ('["dog", "\\ud800"]', "item 2: .* is neither"),
        ('{"\\ud800": ["hound"]}', "item 1: .* is neither"),
        ('{"dog": null}', "item 1: .* is neither"),
        ('{"dog": [["hound"]]}', "item 1: .* is neither"),
        ("[" * 100_000, "not class names"),
    ],
)
def test_what_is_wrong_with_json_is_told_with_its_place(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_classes(write(tmp_path, text, "classes.json"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"none\.txt"):
        read_classes(str(tmp_path / "none.txt"))


def test_words_are_what_stands_between_other_signs():
    texts = ["Black-footed_Ferret (USA)!", "  \t", None, "A.B", "हिन्दी भाषा", "Cafe\u0301", "№ 5"]
    found = words_of(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == ["black footed ferret usa", "", None, "a b", "हिन्दी भाषा", "café", "5"]


@pytest.mark.parametrize(
    ("term", "others"),
    [
        ("dog", {"dogs"}),
        ("dogs", {"dog"}),
        ("box", {"boxes"}),
        ("berry", {"berries"}),
        ("boy", {"boys"}),
        ("potato", {"potatos", "potatoes"}),
        ("pandas", {"panda"}),
        ("wolf", {"wolves"}),
        ("fireman", {"firemen"}),
        ("german shepherd", {"german shepherds"}),
        ("german", {"germans"}),
        ("bird of paradise", {"birds of paradise"}),
        ("school bus", {"school buses"}),
        ("lens", {"lenses"}),
        ("tights", set()),
        ("swim trunks", set()),
        ("specimen", {"specimens"}),
        ("犬", set()),
        ("route 66", set()),
        ("x", set()),
    ],
)
def test_rules_know_plurals_and_lemmas(term, others):
    assert set(forms(term, RULES)) == {term, *others}


def wordnet(folder: Path) -> str:
    """A few lines as WordNet's files have them."""
    write(folder, "  1 licence\nbox n 1\njack-in-the-box n 1\nmenu n 2\nibex n 1\n", "index.noun")
    write(folder, "ibices ibex\njacks-in-the-box jack-in-the-box\n", "noun.exc")
    return str(folder)


def test_wordnet_adds_irregular_forms_and_knows_which_lemmas_there_are(tmp_path):
    lexicon = open_lexicon(wordnet(tmp_path))
    assert set(forms("ibices", lexicon)) == {"ibices", "ibex"}
    assert set(forms("ibex", lexicon)) == {"ibex", "ibices", "ibexes"}
    assert set(forms("menus", lexicon)) == {"menus", "menu"}
    assert set(forms("jack in the box", lexicon)) >= {"jacks in the box"}
    assert "triceratop" in forms("triceratops", RULES)  # nothing says that this is no word
    assert "triceratop" not in forms("triceratops", lexicon)
    assert str(tmp_path) in lexicon.about
    assert RULES.about == "English rules"


def test_a_folder_that_is_not_wordnet_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no index\.noun"):
        open_lexicon(str(tmp_path))


def test_a_text_of_several_classes_counts_for_each():
    classes = ClassNames(("crane", "derrick"), (("crane", "bird"), ("derrick", "crane")))
    words = vocabulary(classes, RULES)
    texts = words.texts.to_list()
    assert texts == ["crane", "cranes", "bird", "birds", "derrick", "derricks"]
    assert [texts[text] for text in words.shared] == ["crane", "cranes"]
    owners = np.split(words.classes, words.offsets[1:-1])
    assert [own.tolist() for own in owners] == [[0, 1], [0, 1], [0], [0], [1], [1]]
    assert words.term_of["bird"] == (2, 3)


def test_a_class_has_a_text_once_however_many_of_its_terms_lead_to_it():
    words = vocabulary(ClassNames(("cat",), (("cat", "cats"),)), RULES)
    assert words.texts.to_list() == ["cat", "cats"]
    assert words.offsets.tolist() == [0, 1, 2]


def test_imagenet_has_a_thousand_classes_with_names_of_their_own():
    found = imagenet()
    assert len(found) == len(set(found.names)) == 1000
    assert found.names[:2] == ("tench", "goldfish")
    terms = dict(zip(found.names, found.terms, strict=True))
    assert terms["missile"] == terms["missile (744)"] == ("missile",)
    assert terms["kite (bird of prey)"] == ("kite bird of prey", "kite")
    assert terms["traffic or street sign"][1:] == ("traffic sign", "street sign")
    assert terms["gas mask or respirator"][1:] == ("gas mask", "respirator")
    assert terms["swim trunks / shorts"][1:] == ("swim trunks", "swim shorts")
    assert read_classes("imagenet") == found


def test_neither_names_nor_frequencies_import_torch():
    code = (
        "import sys; from curate.frequencies.class_names import imagenet; imagenet();"
        "import curate.frequencies.command, curate.frequencies.text;"
        "print(sorted({'torch', 'open_clip', 'ray', 'scipy', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
