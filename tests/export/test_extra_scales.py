from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import pytest

from kdeploy.onnx_graph.facts import properties
from kdeploy.onnx_graph.quantizers import quantizers


def test_a_file_for_tensorrt_knows_the_steps_that_other_encodings_need(int8, exported):
    model, _ = int8("squeezing")
    file = onnx.load(exported("squeezing", profile="tensorrt"))
    steps = json.loads(properties(file)["kdeploy.steps"])
    makers = {name: node.op_type for node in file.graph.node for name in node.output}
    kinds = sorted(makers[tensor] for tensor in steps)
    # Outputs of convolutions before SiLU, a gate and hardswish, and two gates.
    assert kinds == ["Conv", "Conv", "Conv", "Sigmoid", "Sigmoid"]
    known = {max(-low, high) / 127 for low, high in model.ranges.values()}
    for step in steps.values():
        assert any(step == pytest.approx(other, rel=1e-5) for other in known)
    # None of them is quantized in the file itself, and no mark is left.
    found = quantizers(ir.from_proto(file).graph)
    assert not steps.keys() & {q.tensor for q in found}
    assert {q.dtype.name for q in found} == {"int8"}


def test_a_file_for_the_cpu_needs_none(exported):
    assert "kdeploy.steps" not in properties(onnx.load(exported("squeezing")))
