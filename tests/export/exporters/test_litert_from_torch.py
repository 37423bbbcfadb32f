from __future__ import annotations

import importlib.util
import sys
from functools import cache

import numpy as np
import pytest
import torch

from kdeploy.compress.compressors.int8_dynamic import int8_dynamic
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.exporters import litert_from_torch as module
from kdeploy.export.exporters.litert_from_torch import litert_from_torch
from kdeploy.export.run import export
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime
from tests.export.conftest import built
from tests.tiny.text import Classifier, items

ARE_HERE = all(map(importlib.util.find_spec, ("litert_torch", "ai_edge_litert")))
needs_it = pytest.mark.skipif(not ARE_HERE, reason="pip install 'kdeploy[litert]'")


@pytest.fixture(scope="module")
def files(int8, tmp_path_factory):
    """Return a function that writes a network, float or INT8, once: the model, the result."""

    @cache
    def write(kind, **parameters):
        model, noise = int8("concatenating") if kind == "int8" else built("concatenating")
        path = tmp_path_factory.mktemp(kind) / "m.tflite"
        return model, noise, export(model, "litert", parameters, noise, path)

    return write


def opened(result):
    return open_runtime("litert", result.path, threads=1)


@needs_it
def test_a_float_file_answers_as_the_model_and_runs_in_float(files):
    _, _, result = files("float")
    assert result.max_abs < 1e-5
    proof = opened(result).proof_of_use()
    assert not proof.is_quantized
    assert (proof.integer, proof.eligible) == (0, 5)


@needs_it
def test_every_layer_of_an_int8_file_runs_on_integers_and_takes_real_numbers(files):
    model, noise, result = files("int8")
    proof = opened(result).proof_of_use()
    assert proof.is_quantized
    assert proof.integer == proof.eligible == 5
    assert not any(name.endswith("float32") for name in proof.operators)
    assert [i.dtype for i in opened(result).inputs] == ["float32"]
    expected = model.with_profile("xnnpack")(torch.from_numpy(noise.test.x[:32])).numpy()
    found = first(opened(result).infer(noise.test.x[:32]))
    assert found.dtype == np.float32
    # Of few values one may fall to the other side of a half.
    assert (np.abs(found - expected) > 1e-6).mean() < 0.05


@needs_it
def test_a_file_of_one_batch_says_so_and_takes_no_other(files):
    _, noise, result = files("int8", max_batch=1)
    file = opened(result)
    assert (file.inputs[0].shape, file.outputs[0].shape) == ((1, 3, 12, 12), (1, 5))
    with pytest.raises(ModelError, match=r"\[2, 3, 12, 12\].*1,3,12,12"):
        file.infer(noise.test.x[:2])


@needs_it
def test_layers_that_became_float_in_silence_are_refused(monkeypatch, int8, tmp_path):
    monkeypatch.setattr(module, "_static_quantization", lambda: None)
    model, noise = int8("concatenating")
    with pytest.raises(ModelError, match="made 5 of 5 quantized layers float"):
        export(model, "litert", {"max_batch": 1}, noise, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_ranges_that_are_found_while_it_runs_are_refused(tmp_path):
    texts = items()
    model = int8_dynamic(Classifier().eval(), CompressContext(data=texts))
    with pytest.raises(ModelError, match="dynamic") as caught:
        litert_from_torch(model, torch.from_numpy(texts.test.x[:2]), tmp_path / "m.tflite")
    assert "int8_ptq" in caught.value.hint


def test_a_missing_converter_is_one_error_with_the_command(monkeypatch, network, tmp_path):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    model, noise = network("concatenating")
    with pytest.raises(MissingDependency) as caught:
        litert_from_torch(model, torch.from_numpy(noise.test.x[:2]), tmp_path / "m.tflite")
    assert "kdeploy[litert]" in caught.value.hint
