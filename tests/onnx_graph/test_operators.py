from __future__ import annotations

from kdeploy.onnx_graph.operators import integer_and_eligible, is_quantized


def test_counts_fused_and_integer_forms_and_nothing_else():
    executed = {"FusedConv": 2, "QLinearConv": 5, "QGemm": 1, "MatMul": 1, "QLinearAdd": 9}
    assert integer_and_eligible(executed) == (6, 9)


def test_a_file_with_quantizers_or_integer_operators_is_quantized():
    assert is_quantized({"DequantizeLinear": 1})
    assert is_quantized({"ConvInteger": 1})
    assert not is_quantized({"Conv": 3, "Relu": 2})
