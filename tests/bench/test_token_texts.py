from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.next_tokens import NEAR_TIE, DifferingToken, NextTokens
from kdeploy.bench.token_texts import differing_tokens
from kdeploy.data.contract import NOT_COUNTED, TaskReference
from kdeploy.data.load import DataReference
from tests.tiny.text import continued

CONFIGURATION = Configuration(runtime="fake", batch_size=1, threads=1)


def outcome(path, *examples, **changes):
    model = ModelUnderTest(artifact="a", label="int4", path=path, format="onnx", profile="cpu")
    found = NextTokens(num_tokens=9, num_differing=3, num_near_ties=1, examples=examples)
    return Outcome(model=model, configuration=CONFIGURATION, next_tokens=found, **changes)


def example(before, teacher, own, label):
    return DifferingToken(
        window=2,
        place=len(before) - 1,
        before=tuple(before),
        label=label,
        teacher_token=teacher,
        teacher_probability=0.75,
        teacher_probability_here=0.25,
        token=own,
        probability=0.5,
    )


@pytest.fixture
def words(tmp_path):
    """Return data of text with a tokenizer of bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "words").mkdir()
    for number in range(16):
        (tmp_path / f"words/{number}.txt").write_text(f"It is {number} o'clock. " * 4)
    reference = DataReference(
        name="text",
        parameters={"train": "words", "tokens": 8, "tokenizer": "tokenizer.json"},
        folder=tmp_path,
        task=TaskReference(name="language_modeling"),
    )
    return tokenizer, reference


def test_ids_are_the_text_of_the_tokenizer_of_the_data(words, tmp_path):
    tokenizer, reference = words
    before = tokenizer.encode("is <b>\n").ids
    one, other, right = (tokenizer.encode(text).ids[0] for text in ("5", " ", "6"))
    found = outcome(
        tmp_path,
        example(before, one, other, right),
        accuracy={"divergence.next_token": 0.125},
    )
    (line,) = differing_tokens([found], reference)
    assert line == {
        "label": "int4",
        "profile": "cpu",
        "runtime": "fake",
        "tokens": 9,
        "differing": 3,
        "near_ties": 1,
        "near_tie_margin": NEAR_TIE,
        "divergence_nats": 0.125,
        "examples": [
            {
                "window": 2,
                "place": len(before) - 1,
                "before": "is <b>\n",
                "teacher_token": "5",
                "teacher_probability": 0.75,
                "teacher_probability_here": 0.25,
                "token": " ",
                "probability": 0.5,
                "text_token": "6",
            }
        ],
    }


def test_a_part_of_a_character_is_shown_as_the_tokenizer_writes_it(words, tmp_path):
    tokenizer, reference = words
    first, last = tokenizer.encode("é").ids
    ids = tokenizer.encode("caf").ids
    found = outcome(tmp_path, example(ids, first, last, NOT_COUNTED))
    (shown,) = differing_tokens([found], reference)[0]["examples"]
    assert shown["text_token"] == ""
    assert (shown["teacher_token"], shown["token"]) == tuple(
        map(tokenizer.id_to_token, (first, last))
    )


def test_a_token_keeps_its_blank_where_the_decoder_drops_that_of_the_first(words, tmp_path):
    _, reference = words
    tokenizer = Tokenizer(models.WordLevel({"▁It": 0, "▁is": 1, "▁was": 2, "?": 3}, unk_token="?"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = outcome(tmp_path, example([0], 1, 2, 3))
    (shown,) = differing_tokens([found], reference)[0]["examples"]
    assert (shown["before"], shown["teacher_token"], shown["token"]) == ("It", " is", " was")
    assert shown["text_token"] == "?"


def test_without_a_tokenizer_they_are_names_of_classes_or_numbers(tmp_path):
    x, y = continued()
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=x, y=y)
    files = {part: f"{part}.npz" for part in ("train", "test")}
    task = TaskReference(name="language_modeling")
    reference = DataReference(name="arrays", parameters=files, folder=tmp_path, task=task)
    (line,) = differing_tokens([outcome(tmp_path, example([1, 2], 3, 90, 4))], reference)
    (shown,) = line["examples"]
    assert shown["before"] == "1 2"
    assert (shown["teacher_token"].strip(), shown["token"].strip()) == ("3", "90")


def test_what_was_not_compared_has_no_line(tmp_path, words):
    alone = Outcome(model=outcome(tmp_path).model, configuration=CONFIGURATION)
    assert differing_tokens([alone], words[1]) == []
