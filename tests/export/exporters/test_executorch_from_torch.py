from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from kdeploy.compress.compressors.int8_dynamic import int8_dynamic
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.exporters.executorch_from_torch import executorch_from_torch
from kdeploy.export.run import export
from kdeploy.quantization import profiles
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime
from tests.export.conftest import built
from tests.tiny.text import Classifier, items

IS_HERE = importlib.util.find_spec("executorch") is not None
needs_it = pytest.mark.skipif(not IS_HERE, reason="pip install 'kdeploy[executorch]'")


@pytest.fixture(scope="module")
def files(int8, tmp_path_factory):
    """Return a function that writes a network, float or INT8, once: the model, the result."""

    @cache
    def write(kind, **parameters):
        model, noise = int8("concatenating") if kind == "int8" else built("concatenating")
        path = tmp_path_factory.mktemp(kind) / "m.pte"
        return model, noise, export(model, "executorch", parameters, noise, path)

    return write


@needs_it
def test_a_float_file_answers_as_the_model_and_runs_in_float_kernels(files):
    _, _, result = files("float")
    assert result.max_abs < 1e-5
    proof = proof_of(result.path)
    assert not proof.is_quantized
    assert (proof.integer, proof.eligible) == (0, 5)
    assert "Convolution (NHWC, F32) IGEMM" in proof.operators


@needs_it
def test_every_layer_of_an_int8_file_runs_in_an_integer_kernel(files):
    model, noise, result = files("int8")
    assert model.profile == "cpu"  # uint8, which XNNPACK fails at: it was written anew
    proof = proof_of(result.path)
    assert proof.is_quantized
    assert proof.integer == proof.eligible == 5
    assert proof.settings["threads"] == 1
    assert result.size_bytes < 20_000
    # The codes are those of our own graph: of few values one may fall to the other side of a half.
    expected = model.with_profile("xnnpack")(torch.from_numpy(noise.test.x[:32])).numpy()
    opened = open_runtime("executorch", result.path, threads=1)
    found = first(opened.infer(noise.test.x[:32]))
    assert (np.abs(found - expected) > 1e-6).mean() < 0.05


@needs_it
@pytest.mark.timeout(120)
def test_files_that_are_open_at_once_wait_for_no_threads_that_are_gone(files):
    _, noise, result = files("int8")
    x, open_now = noise.test.x[:2], []
    expected = first(open_runtime("executorch", result.path, threads=1).infer(x))
    for threads in (1, 2, 2, 1, 2):
        open_now.append(open_runtime("executorch", result.path, threads=threads))
        for opened in open_now * 20:
            np.testing.assert_allclose(first(opened.infer(x)), expected, atol=1e-6)


@needs_it
def test_a_file_of_one_batch_says_so_and_takes_no_other(files):
    _, noise, result = files("int8", max_batch=1)
    opened = open_runtime("executorch", result.path, threads=1)
    assert opened.inputs[0].shape == (1, 3, 12, 12)
    assert opened.outputs[0].shape == (1, 5)
    with pytest.raises(ModelError, match=r"\[2, 3, 12, 12\].*1,3,12,12") as caught:
        opened.infer(noise.test.x[:2])
    assert "max_batch" in caught.value.hint


@needs_it
def test_an_int8_layer_outside_xnnpack_is_refused(monkeypatch, int8, tmp_path):
    whole = profiles.PROFILES["xnnpack"]
    without_outputs = {**whole.rules, "linear": profiles.Rule(starts=True)}
    changed = {**profiles.PROFILES, "xnnpack": replace(whole, rules=without_outputs)}
    monkeypatch.setattr(profiles, "PROFILES", changed)
    model, noise = int8("concatenating")
    with pytest.raises(ModelError, match="leaves 1 quantizers outside") as caught:
        export(model, "executorch", {"max_batch": 1}, noise, tmp_path / "m.pte")
    assert "ignore" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_ranges_that_are_found_while_it_runs_are_refused(tmp_path):
    texts = items()
    model = int8_dynamic(Classifier().eval(), CompressContext(data=texts))
    with pytest.raises(ModelError, match="dynamic") as caught:
        executorch_from_torch(model, torch.from_numpy(texts.test.x[:2]), tmp_path / "m.pte")
    assert "int8_ptq" in caught.value.hint


def test_a_missing_library_is_one_error_with_the_command(monkeypatch, network, tmp_path):
    for name in ("executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    model, noise = network("concatenating")
    with pytest.raises(MissingDependency) as caught:
        executorch_from_torch(model, torch.from_numpy(noise.test.x[:2]), tmp_path / "m.pte")
    assert "kdeploy[executorch]" in caught.value.hint


def proof_of(path):
    opened = open_runtime("executorch", path, threads=1)
    return opened.proof_of_use()
