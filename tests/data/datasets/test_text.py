"""Text of files as windows of tokens: nothing padded, no document in two parts, counted openly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.datasets.python_topics import python_topics
from kdeploy.data.datasets.text import text
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, FileMissing, KdeployError
from tests.tiny.language import write_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(f"document {number:02} says nothing new. " * 3)
    return folder


def decoded(ids, tokenizer):
    known = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return known.decode(ids.ravel().tolist())


def numbers_in(split, tokenizer):
    found = decoded(split.x, tokenizer)
    return {found[i + 9 : i + 11] for i in range(len(found) - 11) if found[i:].startswith("docum")}


def test_windows_follow_one_another_and_labels_are_the_next_tokens(documents, tokenizer):
    parts = text(train=documents, tokens=16, tokenizer=tokenizer)
    x, y = parts.train.x, parts.train.y
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
    assert (y[:, -1] == NOT_COUNTED).all()
    whole = decoded(x, tokenizer)
    assert "says nothing new. \ndocument" in whole
    assert parts.preprocessing.vocabulary == 257
    assert parts.preprocessing.shape == (16,)


def test_no_document_lies_in_two_parts(documents, tokenizer):
    parts = text(train=documents, tokens=8, tokenizer=tokenizer)
    assert parts.validation is not None
    seen = [numbers_in(s, tokenizer) for s in (parts.train, parts.validation, parts.test)]
    assert all(seen)
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_lines_of_json_are_documents_and_windows_can_be_few(tmp_path, documents, tokenizer):
    lines = [json.dumps({"body": f"line {number} of the file"}) for number in range(9)]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n")
    given = {"train": documents, "test": tmp_path / "some.jsonl", "key": "body"}
    parts = text(**given, tokens=8, tokenizer=tokenizer, test_windows=2)
    assert decoded(parts.test.x, tokenizer) == "line 0 of the fi"
    said = parts.notes[0]
    assert "2 disjoint windows of 8 tokens" in said
    assert "counted (14)" in said


@pytest.mark.parametrize(
    ("content", "given", "say"),
    [
        ('{"text": 1}', {}, "no text under `text`"),
        ("[1]", {}, "no object"),
        ("{", {}, "no JSON"),
        ('{"text": " "}', {}, "no text in"),
        ('{"text": "short"}', {"tokens": 64}, "not one window"),
        ('{"text": "a b c d e"}', {"test": None}, "too few"),
        ('{"text": "a b c d e"}', {"tokenizer": None}, "the model has none"),
    ],
)
def test_what_cannot_be_text_is_one_error(tmp_path, tokenizer, content, given, say):
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    usual = {"train": file, "test": file, "tokens": 8, "tokenizer": tokenizer}
    with pytest.raises(DataError, match=say) as raised:
        text(**{**usual, **given})
    assert raised.value.hint


def test_files_that_are_not_there_or_not_utf8_are_named(tmp_path, tokenizer):
    with pytest.raises(FileMissing, match="nowhere"):
        text(train=tmp_path / "nowhere" / "*.txt", tokenizer=tokenizer)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Grüße".encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        text(train=latin, tokenizer=tokenizer)
    with pytest.raises(FileMissing, match="no tokenizer"):
        python_topics(tokens=16, tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="no tokenizer"):
        python_topics(tokens=16, tokenizer=tmp_path)


def test_topics_are_tokens_where_a_tokenizer_is_named(tokenizer):
    parts = python_topics(tokens=64, tokenizer=tokenizer, test_windows=3)
    assert parts.test.x.shape == (3, 64)
    assert parts.validation is not None
    characters = python_topics(tokens=64)
    begins = decoded(parts.test.x[0], tokenizer)
    assert begins.split()[:3] == decoded_characters(characters.test.x[0]).split()[:3]


def decoded_characters(ids):
    from kdeploy.data.datasets.python_topics import CHARACTERS

    return "".join(CHARACTERS[number] for number in ids)


def test_data_load_and_a_model_with_too_few_logits_is_told(documents, tokenizer):
    from kdeploy.tasks.contract import task_of

    given = {"train": documents, "tokens": 16, "tokenizer": tokenizer}
    data = load(DataReference(name="text", parameters=given))
    assert data.num_classes == 0
    answer = np.zeros((2, 16, 256))
    with pytest.raises(KdeployError, match="256 tokens, the tokenizer of text has 257"):
        task_of(data).check_answer(answer, data, who="the teacher")
    task_of(data).check_answer(np.zeros((2, 16, 300)), data, who="the teacher")


def prose(seed):
    draws = np.random.default_rng(seed).integers(0, 26, (200, 6)) + ord("a")
    return " ".join(bytes(row.tolist()).decode() for row in draws)


def test_documents_that_share_passages_lie_in_one_part(tmp_path, tokenizer):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(40):  # twenty, each in two editions
        (folder / f"{number:02}.txt").write_text(f"{prose(number // 2)} edition {number % 2}")
    parts = text(train=folder, tokens=8, tokenizer=tokenizer)
    runs = [
        {split.x.ravel()[at : at + 64].tobytes() for at in range(0, split.x.size - 64, step)}
        for split, step in ((parts.train, 1), (parts.validation, 1), (parts.test, 64))
    ]
    assert not runs[2] & (runs[0] | runs[1])
    assert not any("too:" in note for note in parts.notes)


def test_tells_of_a_test_that_was_there_to_learn(tmp_path, tokenizer):
    (tmp_path / "train.txt").write_text(prose(0) + prose(1))
    (tmp_path / "test.txt").write_text(prose(1) + prose(2))
    given = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    parts = text(**given, tokens=8, tokenizer=tokenizer)
    (told,) = (note for note in parts.notes if "stand in the training part too" in note)
    share = int(told.partition("%")[0])
    assert 40 < share < 60
    assert "of the test part" in told


def test_documents_that_are_all_one_are_refused(tmp_path, tokenizer):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(16):
        (folder / f"{number:02}.txt").write_text(prose(0))
    with pytest.raises(DataError, match="too few to hold some out"):
        text(train=folder, tokens=8, tokenizer=tokenizer)
