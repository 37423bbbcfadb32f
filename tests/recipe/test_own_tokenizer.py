"""Text takes the tokenizer of the teacher, wherever that comes from, and keeps it in artefacts."""

from __future__ import annotations

import json
import shutil

import pytest

from kdeploy.data.data_files import with_tokenizer
from kdeploy.data.load import DataReference
from kdeploy.data.text_tokens import check_same_tokens
from kdeploy.errors import ModelError
from kdeploy.pipeline.artifact_data import data_of
from kdeploy.pipeline.check import check
from kdeploy.recipe.resolve import parse
from kdeploy.store.artifact import open_artifact, write_manifest
from tests.tiny.language import write_tokenizer

pytest.importorskip("tokenizers", reason="pip install tokenizers")
BESIDE = {"task": "language_modeling", "export": []}


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path / "llama")
    (tmp_path / "llama" / "config.json").write_text("{}")
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_recipe_gives_text_the_teachers_tokenizer_and_does_not_train_it(folder):
    data = {"name": "python_topics", "tokens": 32}
    recipe = parse({"data": data, "teacher": "transformers:llama", **BESIDE}, folder=folder)
    assert recipe.data.parameters["tokenizer"] == (folder / "llama").resolve()
    assert recipe.teacher.training.epochs == 0
    trained = {"build": "transformers:llama", "train": {"epochs": 2}}
    assert parse(
        {"data": data, "teacher": trained, **BESIDE}, folder=folder
    ).teacher.training.epochs


def test_a_named_tokenizer_and_data_without_one_stay(folder):
    named = DataReference(name="python_topics", parameters={"tokenizer": "other"})
    assert with_tokenizer(named, folder) is named
    digits = DataReference(name="digits")
    assert with_tokenizer(digits, folder) is digits
    own = DataReference(name="data.py:mine")
    assert with_tokenizer(own, folder) is own


def test_an_artefact_finds_its_own_tokenizer_where_the_folder_is_gone(folder, tmp_path):
    given = {"tokens": 32, "tokenizer": str(folder / "llama")}
    reference = DataReference(name="python_topics", parameters=given, folder=folder)
    artefact = tmp_path / "artefact"
    shutil.copytree(folder / "llama", artefact)
    entry = {"name": "python_topics", "reference": json.loads(json.dumps(reference.to_dict()))}
    manifest = {"id": "0" * 12, "kind": "torch", "label": "a", "data": entry}
    write_manifest(artefact, manifest)
    assert data_of(open_artifact(artefact)) == reference
    shutil.rmtree(folder / "llama")
    found = data_of(open_artifact(artefact))
    assert found is not None
    assert found.parameters["tokenizer"] == artefact.resolve()


def test_a_student_of_another_tokenizer_is_refused_with_the_token(folder):
    same = shutil.copytree(folder / "llama", folder / "same")
    check_same_tokens(folder / "llama", same)
    known = json.loads((same / "tokenizer.json").read_text())
    vocabulary = known["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (same / "tokenizer.json").write_text(json.dumps(known))
    with pytest.raises(ModelError, match=r"2 tokens differ.*`a`"):
        check_same_tokens(folder / "llama", same)
    given = {
        "data": {"name": "python_topics", "tokens": 32},
        "teacher": "transformers:llama",
        "student": "transformers:same",
        "distill": {"epochs": 1},
        **BESIDE,
    }
    with pytest.raises(ModelError, match="another tokenizer"):
        check(parse(given, folder=folder))
