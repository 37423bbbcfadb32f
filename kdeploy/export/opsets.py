"""Write a graph in another version of ONNX's operators.

onnx's own converter does the work; what it refuses on the way down to opset 17, and what a graph
loses nothing by, is taken out first. https://github.com/onnx/onnx/blob/main/docs/VersionConverter.md
"""

from __future__ import annotations

import onnx
from onnx import ModelProto

from kdeploy.errors import ModelError
from kdeploy.onnx_checks import opset_of

# Attributes that came with opset 18, with the value that says nothing new.
_SAYING_NOTHING = {"noop_with_empty_axes": 0}


def in_opset(model: ModelProto, opset: int) -> ModelProto:
    """Return the model with the operators of `opset`; its properties stay.

    Raises:
        ModelError: an operator cannot be said in it.
    """
    if opset_of(model) == opset:
        return model
    if opset < 18:
        _drop_newer_attributes(model)
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter's C++ raises several types
        reason = str(error).strip().split("\n")[0].rpartition("failed: ")[2]
        raise ModelError(
            f"the model cannot be written in opset {opset}: {reason}",
            hint=f"opset {opset_of(model)} works",
        ) from error
    kept = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(converted, kept)
    converted.producer_name = model.producer_name
    return converted


def _drop_newer_attributes(model: ModelProto) -> None:
    for node in model.graph.node:
        said = {
            a.name
            for a in node.attribute
            if a.name in _SAYING_NOTHING and a.i == _SAYING_NOTHING[a.name]
        }
        if node.op_type == "Split" and len(node.input) == 1:
            said.add("num_outputs")  # before, as many equal parts as there are outputs
        kept = [a for a in node.attribute if a.name not in said]
        if said:
            del node.attribute[:]
            node.attribute.extend(kept)
