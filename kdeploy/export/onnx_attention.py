"""Write attention of other than four axes, (batch, length, width) above all, as ONNX operators.

`scaled_dot_product_attention` of torch takes any number of leading axes, and torch's exporter knows
exactly (batch, heads, length, width): a model of one head was refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from onnx.numpy_helper import from_array
from onnxscript import opset18 as op

USUAL_RANK = 4
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's exporter shall write attention; nothing where its own is not found."""
    try:
        from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
    except ImportError:
        return {}

    def attention(query: Any, key: Any, value: Any, *given: Any, **options: Any) -> Any:
        if len(query.shape) == USUAL_RANK or options.get("enable_gqa"):
            return aten_scaled_dot_product_attention(query, key, value, *given, **options)
        return _attention(query, key, value, *given, **options)

    return {ATTENTION: attention}


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Return softmax(query key^T scale + mask) value; dropout is of training alone."""
    del dropout_p, enable_gqa
    factor = int(query.shape[-1]) ** -0.5 if scale is None else scale
    rank = len(key.shape)
    transposed = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(query, op.CastLike(_constant(factor), query)), transposed)
    mask = _causal(query, key) if is_causal else attn_mask
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    if is_causal or str(mask.dtype).upper().endswith("BOOL"):
        mask = op.Where(mask, _constant(0.0), _constant(-np.inf))
    shares = op.Softmax(op.Add(scores, op.CastLike(mask, query)), axis=-1)
    # As torch has it: a row that sees nothing answers zero.
    seen = op.Where(op.IsNaN(shares), op.CastLike(_constant(0.0), query), shares)
    return op.MatMul(seen, value)


def _causal(query: Any, key: Any) -> Any:
    """Return (queries, keys): true where a position is seen, those before it and itself."""
    lengths = op.Concat(op.Shape(query, start=-2, end=-1), op.Shape(key, start=-2, end=-1), axis=0)
    ones = op.ConstantOfShape(lengths, value=from_array(np.ones(1, np.int64)))
    return op.Cast(op.Trilu(ones, upper=0), to=TensorProto.BOOL)


def _constant(number: float) -> Any:
    return op.Constant(value=from_array(np.array(number, np.float32)))
