"""Models of token ids as ONNX files: int64 in, a dynamic batch, the same numbers out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.export.run import export
from tests.tiny.text import VOCABULARY, Classifier, Next, Recurrent, items, sequences


@pytest.mark.parametrize(
    ("build", "data"), [(Classifier, items), (Recurrent, items), (Next, sequences)]
)
def test_a_file_of_token_ids_computes_what_the_model_computes(build, data, tmp_path):
    torch.manual_seed(0)
    model = build().eval()
    result = export(model, "onnx", {}, data(), tmp_path / "model.onnx")
    assert result.max_abs < 1e-4
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(int64)"
    for batch_size in (1, 8):
        ids = torch.randint(VOCABULARY, (batch_size, 6))
        found = session.run(None, {"input": ids.numpy()})[0]
        np.testing.assert_allclose(found, model(ids).detach(), atol=1e-5)


def test_a_recurrent_layer_stays_one_operator(tmp_path):
    result = export(Recurrent().eval(), "onnx", {}, items(), tmp_path / "model.onnx")
    names = [node.op_type for node in onnx.load(result.path).graph.node]
    assert names.count("LSTM") == 1
    assert not {"Loop", "Scan"} & set(names)


def test_an_int8_model_of_token_ids_passes_the_parity_gate(tmp_path):
    data = items()
    model = int8_ptq(Classifier().eval(), CompressContext(data=data), batch_size=16)
    result = export(model, "onnx", {}, data, tmp_path / "model.onnx")
    assert result.cosine > 0.99
    names = [node.op_type for node in onnx.load(result.path).graph.node]
    assert "DequantizeLinear" in names
