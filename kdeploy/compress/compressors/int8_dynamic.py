"""INT8 without calibration: weights rounded once, activations rounded by the range of each call.

Gholami et al., A Survey of Quantization Methods, 2021, arXiv:2103.13630, section III-C. For linear
and LSTM layers: Transformers, and the recurrent networks that `int8_ptq` refuses. ONNX Runtime
runs them as DynamicQuantizeMatMul and DynamicQuantizeLSTM. Tables of embeddings are bytes with a
scale a row. A range holds for all items of a call, so that outputs depend, by a rounding, on what
else is in the batch.
"""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.compress.quantization_rules import weight_format
from kdeploy.errors import ModelError, OrderError
from kdeploy.quantization.contract import quantized_by
from kdeploy.quantization.dynamic import DynamicModel
from kdeploy.quantization.number_format import INT7

_LOG = logging.getLogger(__name__)


def is_dynamic(model: nn.Module) -> None:
    """Raise AssertionError unless layers of the model compute on int8 weights."""
    assert isinstance(model, DynamicModel), "the model is not quantized dynamically"
    assert model.layers(), "no layer is INT8"


@compressor(paper="arXiv:2103.13630", recoverable=False, makes="int8_dynamic", ensures=is_dynamic)
def int8_dynamic(
    model: nn.Module,
    context: CompressContext,
    *,
    ignore: tuple[str, ...] = (),
    reduce_range: bool | Literal["auto"] = "auto",
) -> nn.Module:
    """Return the model with its linear and LSTM layers, and embeddings, on 8-bit integers.

    Args:
        model: The float model.
        context: The example that is traced; no data is looked at.
        ignore: Layers that stay float, by name or pattern, e.g. `[head, layers.0.*]`.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 16-bit sums saturate;
            `auto` asks this machine.

    Raises:
        OrderError: the model is quantized already.
        ModelError: it has no linear or LSTM layer, nor table, that could become INT8.
    """
    if by := quantized_by(model):
        raise OrderError(
            f"the model is quantized already (`{by}`)",
            hint="leave one of the two steps out",
        )
    is_reduced = weight_format("cpu", reduce_range, context) is INT7
    small = DynamicModel(model, context.example, ignore=ignore, reduce_range=is_reduced)
    layers = small.layers()
    context.report["int8_dynamic"] = [
        *({"layer": name, "weights": "INT8", "reason": ""} for name in layers),
        *({"layer": n, "weights": "float", "reason": r} for n, r in small.declined.items()),
    ]
    if not layers:
        declined = "; ".join(f"`{name}`: {reason}" for name, reason in small.declined.items())
        raise ModelError(
            f"no layer of `{type(model).__name__}` can be quantized dynamically"
            + (f" ({declined})" if declined else ""),
            hint="`int8_ptq` quantizes convolutions; the others stay float",
        )
    if small.declined:
        _LOG.info("int8_dynamic: %d layers stay float", len(small.declined))
    return small
