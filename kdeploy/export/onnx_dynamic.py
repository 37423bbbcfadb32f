"""Write the operators of a dynamically quantized model as those that ONNX Runtime fuses.

DynamicQuantizeLinear and MatMulInteger (ONNX, opset 11) become one DynamicQuantizeMatMul; an LSTM
is com.microsoft's DynamicQuantizeLSTM, which no other runtime knows.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.defs import OpSchema
from onnx.numpy_helper import from_array
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from kdeploy.quantization.dynamic import LINEAR, LSTM, TABLE

Parameter = OpSchema.FormalParameter
# ONNX's LSTM with codes for weights, their scales and zero points behind; onnx does not know it.
_LSTM = OpSchema(
    "DynamicQuantizeLSTM",
    "com.microsoft",
    1,
    inputs=[
        *(Parameter("X", "T"), Parameter("W", "C"), Parameter("R", "C"), Parameter("B", "T")),
        *(Parameter(n, "T", param_option=OpSchema.FormalParameterOption.Optional) for n in "shcp"),
        *(Parameter("W_scale", "T"), Parameter("W_zero_point", "C")),
        *(Parameter("R_scale", "T"), Parameter("R_zero_point", "C")),
    ],
    outputs=[Parameter("Y", "T")],
    type_constraints=[("T", ["tensor(float)"], ""), ("C", ["tensor(int8)"], "")],
    attributes=[
        OpSchema.Attribute("hidden_size", OpSchema.AttrType.INT),
        OpSchema.Attribute("direction", OpSchema.AttrType.STRING),
    ],
)
lstm = Op(Opset(_LSTM.domain, _LSTM.since_version), _LSTM.name, _LSTM)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's exporter shall write each operator."""
    return {LINEAR: _linear, LSTM: _lstm, TABLE: _table}


def _linear(x: Any, codes: Any, scales: Any, bias: Any = None) -> Any:
    rounded, scale, zero_point = op.DynamicQuantizeLinear(x)
    # Weights have zero point 0, so only the input's is given.
    sums = op.Cast(op.MatMulInteger(rounded, codes, zero_point), to=TensorProto.FLOAT)
    # The scales first, then the sums: the order of operands that ONNX Runtime's fusion looks for.
    product = op.Mul(sums, op.Mul(scale, scales))
    return product if bias is None else op.Add(product, bias)


def _table(codes: Any, scales: Any, ids: Any) -> Any:
    # Rows are picked before they become floats: the table stays of bytes in memory, too.
    return op.Mul(op.Cast(op.Gather(codes, ids), to=TensorProto.FLOAT), op.Gather(scales, ids))


def _lstm(
    x: Any, codes: Any, scales: Any, recurrent_codes: Any, recurrent_scales: Any, bias: Any
) -> Any:
    directions, hidden = recurrent_codes.shape[:2]
    zeros = op.Constant(value=from_array(np.zeros((directions, 4 * hidden), np.int8)))
    outputs = lstm(
        x,
        codes,
        recurrent_codes,
        bias,
        *(None, None, None, None),  # lengths, first states, peepholes
        *(scales, zeros, recurrent_scales, zeros),
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
    )
    # (time, directions, batch, hidden) -> (time, batch, directions x hidden)
    by_batch = op.Transpose(outputs, perm=[0, 2, 1, 3])
    shape = op.Constant(value_ints=[0, 0, directions * hidden])
    return op.Reshape(by_batch, shape)
