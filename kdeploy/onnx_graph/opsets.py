"""Write a graph in another version of ONNX's operators.

onnx's own converter does the work between opsets 18 and 21. From 18 down to 17 it refuses graphs
that lose nothing on the way, so that step is made here, from the changes that opset 18 brought:
https://github.com/onnx/onnx/blob/main/docs/Changelog.md#version-18-of-the-default-onnx-operator-set
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import ModelProto, defs, helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import opset_of
from kdeploy.onnx_graph.graph import constant, input_of

# Operators that only gained something in opset 18: inputs beyond these, attributes without effect.
_NUM_INPUTS = {"Pad": 3, "Resize": 4, "ScatterElements": 3, "ScatterND": 3, "Split": 2}
_NEW_ATTRIBUTES = frozenset(
    {"noop_with_empty_axes", "num_outputs", "antialias", "keep_aspect_ratio_policy"}
)
_WITHOUT_EFFECT = (0, "stretch")


def in_opset(model: ModelProto, opset: int) -> ModelProto:
    """Return the model with the operators of `opset`; its properties stay.

    Raises:
        ModelError: an operator cannot be said in it.
    """
    before = opset_of(model)
    try:
        converted = model
        # From 18 to 17 there is nothing for the converter to do, which would refuse.
        if before != opset and (before, opset) != (18, 17):
            converted = onnx.version_converter.convert_version(model, max(opset, 18))
        if opset < 18 <= before:
            converted = _lowered_to_17(converted)
        if before != opset:
            onnx.checker.check_model(converted)
    except Exception as error:  # the converter's C++ raises several types
        # What stands before is the C++ assertion that failed.
        reason = str(error).strip().split("\n")[0].rpartition("failed: ")[2]
        raise ModelError(
            f"the model cannot be written in opset {opset}: {reason}",
            hint=f"opset {before} works",
        ) from error
    kept = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(converted, kept)
    converted.producer_name = model.producer_name
    return converted


def _lowered_to_17(program: ModelProto) -> ModelProto:
    """Return what opset 18 says in other words as opset 17 did.

    Raises:
        ValueError: an operator that opset 17 does not have, or not so.
    """
    model = ir.from_proto(program)
    for node in model.graph:
        if node.domain in ("", "ai.onnx") and _is_new(node):
            axes = constant(input_of(node, 1))
            is_reduction = node.op_type.startswith("Reduce")
            if is_reduction and axes is not None:
                node.attributes.add(ir.AttrInt64s("axes", [int(a) for a in axes]))
                node.resize_inputs(1)
            elif not is_reduction and len(node.inputs) > _NUM_INPUTS.get(node.op_type, -1):
                message = f"{node.op_type} came with opset 18, or is used as opset 18 has it"
                raise ValueError(message)
            _drop_new_attributes(node)
    for domain in {"", "ai.onnx"} & model.graph.opset_imports.keys():
        model.graph.opset_imports[domain] = 17
    lowered: ModelProto = ir.to_proto(model)
    return lowered


def _is_new(node: ir.Node) -> bool:
    return bool(defs.get_schema(node.op_type, 18).since_version == 18)


def _drop_new_attributes(node: ir.Node) -> None:
    for name in _NEW_ATTRIBUTES & node.attributes.keys():
        attribute = node.attributes.pop(name)
        if name != "num_outputs" and attribute.value not in _WITHOUT_EFFECT:
            message = f"{node.op_type} with {name} came with opset 18"
            raise ValueError(message)
