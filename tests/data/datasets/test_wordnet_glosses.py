from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.datasets import wordnet_glosses as module
from kdeploy.data.datasets.wordnet_glosses import KINDS, wordnet_glosses
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, MissingDependency, Unavailable

LICENCE = "  1 This software and database is being provided to you\n"
PER_KIND = 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small WordNet: a definition of a kind is its name and a number."""
    monkeypatch.setattr(module, "TEST_PER_KIND", 3)
    lines = [
        f'00001740 {number:02d} n 01 word 0 000 | {kind} {i} thing; "an example"'
        for number, kind in {3: "tops", **KINDS}.items()
        for i in range(PER_KIND)
    ]
    twice = "00001740 04 n 01 word 0 000 | said of two"
    lines += [twice, twice.replace(" 04 ", " 05 ")]
    (tmp_path / "data.noun").write_text(LICENCE + "\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def tokenizer(tmp_path):
    """Words of the small WordNet, in the form of a tokenizer.json."""
    tokenizers = pytest.importorskip("tokenizers", reason="pip install 'kdeploy[text]'")
    words = ["[PAD]", "[UNK]", "thing", "example", *KINDS.values(), *map(str, range(PER_KIND))]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_a_definition_has_the_kind_of_its_file(folder, tokenizer):
    parts = wordnet_glosses(per_kind=4, tokens=8, folder=folder, tokenizer=tokenizer)
    assert len(parts.train) == 4 * len(KINDS)
    assert len(parts.test) == 3 * len(KINDS)
    for split in (parts.train, parts.test):
        # The first word is the kind, whose ids follow those of the four words before.
        np.testing.assert_array_equal(split.x[:, 0] - 4, split.y)
        assert (split.x[:, 3:] == 0).all()  # padding; the example is left out


def test_no_definition_is_in_both_parts_nor_said_of_two_kinds(folder, tokenizer):
    parts = wordnet_glosses(per_kind=5, tokens=8, folder=folder, tokenizer=tokenizer)
    train, test = ({tuple(row) for row in s.x} for s in (parts.train, parts.test))
    assert len(train) == len(parts.train)
    assert not train & test
    assert not (parts.train.x == 1).any()  # an unknown word: `said`


def test_the_test_part_does_not_depend_on_how_much_is_learned(folder, tokenizer):
    few, many = (
        wordnet_glosses(per_kind=n, tokens=8, folder=folder, tokenizer=tokenizer) for n in (2, 5)
    )
    np.testing.assert_array_equal(few.test.x, many.test.x)


def test_without_wordnet_the_hint_names_the_package(tmp_path):
    parameters = {"folder": str(tmp_path / "nowhere")}
    with pytest.raises(Unavailable, match="WordNet is not on this machine") as caught:
        load(DataReference(name="wordnet_glosses", parameters=parameters))
    assert "apt install wordnet-base" in caught.value.hint


def test_without_a_tokenizer_the_hint_names_the_extra(folder, monkeypatch):
    monkeypatch.setattr(module, "TOKENIZER_PACKAGE", "no_such_package_here")
    with pytest.raises(MissingDependency) as caught:
        wordnet_glosses(folder=folder)
    assert "kdeploy[text]" in caught.value.hint


def test_half_a_wordnet_is_refused(folder, tokenizer):
    file = folder / "data.noun"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:40]))
    with pytest.raises(DataError, match="definitions of a kind"):
        wordnet_glosses(folder=folder, tokenizer=tokenizer)
