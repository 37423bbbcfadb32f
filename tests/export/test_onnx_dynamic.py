from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.facts import count_parameters
from kdeploy.quantization.dynamic import DynamicModel, dynamic
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


class Words(nn.Module):
    """The mean of embeddings, through a linear layer; any number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.table(ids)).mean(1))


def test_a_table_of_embeddings_stays_bytes(tmp_path):
    torch.manual_seed(0)
    model, ids = Words().eval(), torch.randint(0, 50, (4, 7))
    small = DynamicModel(model, ids[:2], reduce_range=is_reduced())
    assert small.layers() == ["table", "head"]
    assert not small.declined
    file = tmp_path / "m.onnx"
    onnx_from_torch(small, ids[:2], file, dynamic=("length",))
    session = OnnxruntimeCpu(threads=1)
    session.open(file)
    for items in (ids, ids[:1], torch.randint(0, 50, (2, 30))):
        found = first(session.infer(items.numpy()))
        np.testing.assert_allclose(found, small(items).numpy(), atol=1e-5)
        assert (small(items) - model(items)).abs().max() < 0.02
    assert session.proof_of_use().integer_kernels == 1.0
    stored = {t.name: t for t in onnx.load(file).graph.initializer}
    assert [t.data_type for t in stored.values() if list(t.dims) == [50, 16]] == [TensorProto.INT8]
    assert count_parameters(file) == sum(p.numel() for p in model.parameters())


def test_a_table_can_stay_float_and_does_where_an_older_artefact_does_not_say():
    model, ids = Words().eval(), torch.randint(0, 50, (4, 7))
    small = DynamicModel(model, ids, ignore=["table"])
    assert small.declined == {"table": "ignored, as asked"}
    older = {k: v for k, v in DynamicModel(model, ids).state().items() if k != "tables"}
    assert dynamic(model, older, ids).layers() == ["head"]
    assert dynamic(model, DynamicModel(model, ids).state(), ids).layers() == ["table", "head"]
