from __future__ import annotations

import json

import onnx
import pytest

from kdeploy.onnx_graph.quantizers import Graph, properties


def test_a_file_for_tensorrt_knows_the_steps_that_other_encodings_need(int8, exported):
    model, _ = int8("squeezing")
    file = onnx.load(exported("squeezing", profile="tensorrt"))
    steps = json.loads(properties(file)["kdeploy.steps"])
    graph = Graph(file)
    kinds = sorted(graph.makers[tensor].op_type for tensor in steps)
    # Outputs of convolutions before SiLU, a gate and hardswish, and two gates.
    assert kinds == ["Conv", "Conv", "Conv", "Sigmoid", "Sigmoid"]
    known = {max(-low, high) / 127 for low, high in model.ranges.values()}
    for step in steps.values():
        assert any(step == pytest.approx(other, rel=1e-5) for other in known)
    # None of them is quantized in the file itself, and no mark is left.
    assert not steps.keys() & {q.tensor for q in graph.quantizers()}
    assert {q.dtype.name for q in graph.quantizers()} == {"int8"}


def test_a_file_for_the_cpu_needs_none(exported):
    assert "kdeploy.steps" not in properties(onnx.load(exported("squeezing")))
