from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto

from kdeploy.errors import ModelError
from kdeploy.export.exporters.onnx_fp16_from_onnx import onnx_fp16_from_onnx
from kdeploy.export.run import export
from kdeploy.onnx_graph.model import OnnxModel


def test_weights_are_halves_between_float32_inputs_and_outputs(network, tmp_path):
    model, items = network("concatenating")
    result = export(model, "onnx_fp16", {}, items, tmp_path / "m.onnx")
    file = onnx.load(result.path)
    onnx.checker.check_model(file, full_check=True)
    tensors = (t for t in file.graph.initializer if t.data_type != TensorProto.INT64)
    # A scalar is no weight: a `Min` may stay in float32, with the bound that it reads.
    learned = [t.data_type for t in tensors if t.dims]
    assert set(learned) == {TensorProto.FLOAT16}
    ends = (*file.graph.input, *file.graph.output)
    assert [v.type.tensor_type.elem_type for v in ends] == [TensorProto.FLOAT] * 2
    assert 1e-6 < result.max_abs < 1e-2


def test_operators_asked_for_stay_float32(exported_float, tmp_path):
    path = tmp_path / "m.onnx"
    onnx_fp16_from_onnx(OnnxModel(exported_float), torch.zeros(1), path, keep_float32=("Gemm",))
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    gemm = next(node for node in file.graph.node if node.op_type == "Gemm")
    types = {t.name: t.data_type for t in file.graph.initializer}
    assert [types[name] for name in gemm.input[1:]] == [TensorProto.FLOAT] * 2


def test_an_operator_that_is_not_there_cannot_be_kept(exported_float, tmp_path):
    with pytest.raises(ModelError, match="`Softmx`") as caught:
        onnx_fp16_from_onnx(
            OnnxModel(exported_float),
            torch.zeros(1),
            tmp_path / "m.onnx",
            keep_float32=("Softmx",),
        )
    assert "Gemm" in caught.value.hint


def test_a_quantized_model_is_refused(exported, tmp_path):
    file = OnnxModel(exported("squeezing"))
    with pytest.raises(ModelError, match="INT8 layers"):
        onnx_fp16_from_onnx(file, torch.zeros(1), tmp_path / "m.onnx")
