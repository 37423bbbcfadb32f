from __future__ import annotations

import pytest

from kdeploy.errors import ModelError, Unavailable
from kdeploy.runtimes.torch_artifact import count_layers, open_float, preprocessing_of
from kdeploy.store.artifact import open_artifact, write_manifest


def test_opens_the_model_in_evaluation_mode_and_knows_its_input(store_model, tiny_model, tiny_data):
    model, artifact = open_float(store_model(tiny_model()), "torch_compile")
    assert not model.training
    assert count_layers(model) == 8
    assert preprocessing_of(artifact) == tiny_data.preprocessing


def test_a_quantized_model_is_refused_by_the_name_of_the_runtime(tmp_path):
    entry = {"build": "build.py:net", "wrapper": {"name": "pt2e", "state": {}}}
    write_manifest(tmp_path, {"id": "0123456789ab", "kind": "torch", "label": "q", "model": entry})
    with pytest.raises(Unavailable, match="torch_compile would emulate the INT8"):
        open_float(tmp_path, "torch_compile")


def test_an_artefact_without_data_does_not_know_its_input(tmp_path):
    write_manifest(tmp_path, {"id": "0123456789ab", "kind": "torch", "label": "m", "data": None})
    with pytest.raises(ModelError, match="does not say what its input looks like"):
        preprocessing_of(open_artifact(tmp_path))
