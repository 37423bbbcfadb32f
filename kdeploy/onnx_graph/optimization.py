"""Optimisers of ONNX graphs by others: what they make is kept only if nothing is lost by it.

An optimiser that folds constants may fold the weights of a quantized model back to floats. So its
result is taken only if every quantizer is still there; whether it computes the same is for the
parity gate to say. https://github.com/inisis/OnnxSlim
"""

from __future__ import annotations

import logging
from collections import Counter

import onnx
from onnx import ModelProto

from kdeploy.errors import MissingDependency
from kdeploy.onnx_graph.checks import opset_of

log = logging.getLogger(__name__)
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def slimmed(model: ModelProto) -> ModelProto:
    """Return the model after onnxslim, or itself, with a warning, if that loses something.

    Raises:
        MissingDependency: onnxslim is not installed.
    """
    try:
        import onnxslim
    except ImportError as error:
        raise MissingDependency.named(
            "onnxslim", needed_for="`optimize: onnxslim`", pip="'kdeploy[onnxslim]'"
        ) from error
    given = ModelProto()
    given.CopyFrom(model)  # it changes what it is given
    try:
        result: ModelProto = onnxslim.slim(given)
        onnx.checker.check_model(result)
    except Exception as error:  # an optimiser may fail in any way, and is not needed
        log.warning("onnxslim failed and is left out: %s", str(error).strip().split("\n")[0])
        return model
    if _facts(result) != _facts(model):
        log.warning("onnxslim would change quantizers, ends or opset, and is left out")
        return model
    return result


def _facts(model: ModelProto) -> object:
    counts = Counter(node.op_type for node in model.graph.node if node.op_type in QUANTIZERS)
    ends = [v.name for v in (*model.graph.input, *model.graph.output)]
    return counts, ends, opset_of(model)
