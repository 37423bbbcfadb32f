from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.export.fp16_reference import HalfRounded
from kdeploy.onnx_graph.model import OnnxModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(6, 3).eval()


def rounded(x):
    return x.astype(np.float16).astype(np.float64)


def test_weights_and_inputs_are_those_that_float16_holds(model):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    weight, bias = (p.detach().numpy() for p in model.parameters())
    expected = rounded(x) @ rounded(weight).T + rounded(bias)
    with torch.no_grad():
        found = HalfRounded(model)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(model(torch.from_numpy(x)).detach().numpy() - expected).max() > 1e-5


def test_a_file_is_rounded_as_the_model_that_it_was_made_of(model, tmp_path):
    path = tmp_path / "m.onnx"
    x = torch.randn(2, 6)
    onnx_from_torch(model, x, path)
    with torch.no_grad():
        of_file, of_model = HalfRounded(OnnxModel(path))(x), HalfRounded(model)(x)
    np.testing.assert_allclose(of_file.numpy(), of_model.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_too_large_for_float16_becomes_its_largest_number(model):
    with torch.no_grad():
        model.bias.fill_(1e6)
        assert HalfRounded(model)(torch.zeros(1, 6)).tolist() == [[65504.0] * 3]


def test_token_ids_stay_as_they_are():
    table = nn.Embedding(9000, 2)
    ids = torch.tensor([[8191]])  # float16 has no such number
    torch.testing.assert_close(HalfRounded(table)(ids), table(ids).half().float())
