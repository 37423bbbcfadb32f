from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.facts import count_parameters
from kdeploy.quantization.dynamic import DynamicModel
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu
from tests.quantization.test_dynamic import made
from tests.tiny.weight_bits import is_reduced


@pytest.mark.parametrize("options", [{"bidirectional": True, "num_layers": 2}, {"bias": False}])
def test_an_lstm_runs_on_integers_and_computes_what_the_model_computes(options, tmp_path):
    model, x = made(**options)
    small = DynamicModel(model, x[:2], reduce_range=is_reduced())
    onnx_from_torch(small, x[:2], tmp_path / "m.onnx")
    session = OnnxruntimeCpu(threads=1)
    session.open(tmp_path / "m.onnx")
    for items in (x, x[:1]):
        np.testing.assert_allclose(
            first(session.infer(items.numpy())), small(items).numpy(), atol=1e-5
        )
    proof = session.proof_of_use()
    assert proof.operators["DynamicQuantizeLSTM"] == options.get("num_layers", 1)
    assert proof.operators["DynamicQuantizeMatMul"] == 1
    assert proof.integer_kernels == 1.0


def test_scales_are_no_parameters(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).eval()
    x = torch.randn(2, 6)
    onnx_from_torch(DynamicModel(model, x), x, tmp_path / "m.onnx")
    assert count_parameters(tmp_path / "m.onnx") == sum(p.numel() for p in model.parameters())
