"""Turn one encoding of a quantized ONNX file into another: the same ranges, other codes.

`tensorrt` is int8 with zero point 0, float biases, and quantizers where TensorRT fuses. `cpu` is
uint8, with zero point 0 where a tensor cannot be negative and 128 elsewhere, and quantizers on all
outputs that ONNX Runtime needs for its integer kernels; `arm` is `cpu` moved by 128. Scales stay as
they are: a tensor with zero point 128 keeps its very codes, one with zero point 0 those above zero.
Only a tensor behind a Clip gets another scale, such that its codes end where the Clip does, which
ONNX Runtime then leaves out; and `cpu` codes without a sign, of which int8 has but half as many.

The codes of a tensor that cannot be negative stand for its ReLU too: in `tensorrt` it is written
out. What one encoding does not quantize and another does is kept in the file's properties
(`kdeploy.steps`), so that the way back is open.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.float_layers import guard_float_layers
from kdeploy.onnx_graph.graph import (
    add_constant,
    attribute,
    bypass,
    constant,
    first,
    input_of,
    maker,
    new_node,
    only_reader,
    scalar,
)
from kdeploy.onnx_graph.passes import GraphPass, drop_unused, graph_pass, sort
from kdeploy.onnx_graph.quantizers import (
    AVERAGES,
    PASS_THROUGH,
    Codes,
    Quantizer,
    add_quantizer,
    is_never_negative,
    quantizer_of,
    quantizers,
    remove_quantizer,
    write_codes,
)
from kdeploy.onnx_graph.rewrites import store_integer_biases
from kdeploy.untrusted.json_document import json_text

log = logging.getLogger(__name__)
SCALES = "kdeploy.steps"  # as files of earlier versions have it
PROFILE = "kdeploy.profile"
UNSIGNED, SIGNED = np.dtype(np.uint8), np.dtype(np.int8)
CODES: Mapping[str, Codes] = {
    "cpu": Codes(dtype=UNSIGNED, zero_point=0, zero_point_signed=128),
    "arm": Codes(dtype=SIGNED, zero_point=-128, zero_point_signed=0),
    "tensorrt": Codes(dtype=SIGNED, zero_point=0, zero_point_signed=0),
}
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ACTIVATIONS = frozenset({"Relu", "Clip"})


def profile_of(model: ir.Model) -> str | None:
    """Return the encoding of a file, None for one without quantizers of activations."""
    found = quantizers(model.graph)
    if not found:
        return None
    if any(q.dtype == UNSIGNED for q in found):
        return "cpu"
    return "arm" if any(q.zero_point for q in found) else "tensorrt"


def encoding_pass(profile: str) -> GraphPass:
    """Return the pass that writes a quantized model in the encoding of `profile`."""
    return replace(_encode.with_parameters(profile=profile), ensures=partial(_other, profile))


def _other(profile: str, model: ir.Model) -> str:
    """Return which quantizers of activations have not the codes of an encoding."""
    dtype = CODES[profile].dtype
    other = [q for q in quantizers(model.graph) if q.dtype != dtype]
    return ", ".join(f"`{q.tensor}` has codes of type {q.dtype}" for q in other)


@graph_pass()
def _encode(model: ir.Model, *, profile: str) -> None:
    before = profile_of(model)
    if before is None or before == profile:
        return
    scales = _stored_scales(model)
    graph = model.graph
    if profile == "tensorrt":
        # First: with zero point 0 the lowest value is no ReLU any more.
        _write_out_relus(graph)
        _into_int8(graph, scales)
        kept = _drop_unfused(graph)
        _make_biases_float(graph)
    elif before == "tensorrt":
        # Before any is written: these are the scales of int8, which the way back needs.
        kept = _of_unsigned(graph)
        _merge_equal(graph)
        _add_missing(graph, scales)
        _into(graph, CODES[profile])
        _quantize_before_activations(graph)
    else:
        kept = scales
        _move(graph, CODES[profile])
    sort(model)
    if profile != "tensorrt":
        store_integer_biases(model)
        guard_float_layers(model)
    drop_unused(model)
    properties = {
        **model.metadata_props,
        PROFILE: profile,
        SCALES: json.dumps(kept, sort_keys=True),
    }
    model.metadata_props.clear()
    model.metadata_props.update({k: v for k, v in sorted(properties.items()) if v != "{}"})


def _nothing_is_rounded(model: ir.Model) -> str:
    left = [q for q in quantizers(model.graph) if not _is_output(q)]
    return ", ".join(f"`{q.tensor}` still has a quantizer" for q in left)


@graph_pass(ensures=_nothing_is_rounded)
def without_rounding(model: ir.Model) -> None:
    """Take the quantizers of activations out: what is left rounds its weights alone."""
    encoding_pass("tensorrt")(model)
    for quantizer in quantizers(model.graph):
        if not _is_output(quantizer):
            remove_quantizer(model.graph, quantizer)
    drop_unused(model)


def _stored_scales(model: ir.Model) -> dict[str, float]:
    """Return the scales that the file's metadata have, which anyone may have written."""
    try:
        stored = json_text(model.metadata_props.get(SCALES, "{}"))
        scales = {str(name): float(scale) for name, scale in stored.items()}
        if not all(0 < scale < math.inf for scale in scales.values()):
            raise ValueError("a scale is no finite number above 0")
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"the file's metadata `{SCALES}` are not what was written there: {error}",
            hint="export the file again",
        ) from None
    return scales


def _is_output(quantizer: Quantizer) -> bool:
    """Return whether what the codes stand for is an output of the graph."""
    return any(value.is_graph_output() for value in quantizer.results)


def _write_out_relus(graph: ir.Graph) -> None:
    """Write the ReLU that codes without a sign stood for, where nothing else says it."""
    for quantizer in quantizers(graph):
        if quantizer.is_unsigned and not is_never_negative(quantizer.value):
            node = new_node("Relu", [quantizer.value], f"{quantizer.tensor}_relu")
            quantizer.quantize.replace_input_with(0, node.outputs[0])
            graph.append(node)


def _into_int8(graph: ir.Graph, scales: Mapping[str, float]) -> None:
    """Write all quantizers with zero point 0; those that were so before get their scales back."""
    for quantizer in quantizers(graph):
        # With zero point 0 both ends are held by 127: -128 would hold the lower one alone.
        widest = max(-quantizer.lowest, quantizer.highest) / 127
        scale = quantizer.scale if quantizer.is_symmetric else widest
        scale = scales.get(quantizer.tensor.removesuffix("_relu"), scale)
        write_codes(graph, quantizer, scale, 0, SIGNED)


def _drop_unfused(graph: ir.Graph) -> dict[str, float]:
    """Remove the quantizers that TensorRT does not fuse; return the scale of each."""
    dropped = {}
    wanted = {id(q.quantize) for q in quantizers(graph) if _is_wanted(q)}
    for quantizer in quantizers(graph):
        if id(quantizer.quantize) not in wanted and not _is_output(quantizer):
            dropped[quantizer.tensor] = quantizer.scale
            remove_quantizer(graph, quantizer)
    for node in [n for n in graph if _is_guard(n)]:
        bypass(node, first(node))
    return dropped


def _is_wanted(quantizer: Quantizer) -> bool:
    """Return whether an operator that TensorRT runs on integers reads the codes."""
    for node, value in ((n, v) for v in quantizer.results for n in v.consumers()):
        if node.op_type in WEIGHTED:
            return True
        if node.op_type in PASS_THROUGH | AVERAGES and _is_result_wanted(node):
            return True
        if node.op_type == "Add" and _is_result_wanted(node):
            # A convolution is fused with the addition after it: one side stays as it is.
            fused = [given for given in node.inputs if _is_of_weighted(given)]
            if value not in fused[:1]:
                return True
    return False


def _is_result_wanted(node: ir.Node) -> bool:
    for reader in (reader for result in node.outputs for reader in result.consumers()):
        if reader.op_type in ACTIVATIONS | PASS_THROUGH and _is_result_wanted(reader):
            return True
        if reader.op_type in WEIGHTED:
            return True
        found = quantizer_of(reader)
        if found is not None and _is_wanted(found):
            return True
    return False


def _is_of_weighted(value: ir.Value | None) -> bool:
    """Return whether a tensor is what the codes of a convolution's own output stand for."""
    real = maker(value, "DequantizeLinear")
    codes = None if real is None else maker(first(real))
    is_alone = value is not None and len(value.consumers()) == 1
    return codes is not None and is_alone and maker(codes.inputs[0], *WEIGHTED) is not None


def _make_biases_float(graph: ir.Graph) -> None:
    """Store what an int32 bias stands for: TensorRT refuses the codes."""
    for node in list(graph):
        codes = constant(first(node)) if node.op_type == "DequantizeLinear" else None
        scale = constant(input_of(node, 1))
        if codes is not None and scale is not None and codes.dtype == np.int32:
            real = (codes * scale.astype(np.float64)).astype(np.float32)
            bypass(node, add_constant(graph, f"{node.outputs[0].name}_float", real))


def _is_guard(node: ir.Node) -> bool:
    """Return whether it is a LeakyRelu that changes nothing, see `float_layers`."""
    return node.op_type == "LeakyRelu" and bool(attribute(node, "alpha", 0.01) == 1.0)


def _of_unsigned(graph: ir.Graph) -> dict[str, float]:
    """Return the scales of tensors that get other codes than a shift: what the way back needs."""
    return {q.tensor: q.scale for q in quantizers(graph) if is_never_negative(q.value)}


def _merge_equal(graph: ir.Graph) -> None:
    """Leave one quantizer a tensor: some files have one for each reader."""
    seen: dict[tuple[str, float], Quantizer] = {}
    for quantizer in quantizers(graph):
        kept = seen.setdefault((quantizer.tensor, quantizer.scale), quantizer)
        if kept is not quantizer and kept.dequantize:
            for node in quantizer.dequantize:
                bypass(node, kept.dequantize[0].outputs[0])
            graph.remove(quantizer.quantize, safe=True)


def _add_missing(graph: ir.Graph, scales: Mapping[str, float]) -> None:
    """Quantize what only ONNX Runtime wants quantized, as far as the file knows its scales.

    Not before an activation that is quantized itself: its codes are those of both.
    """
    present = {quantizer.tensor for quantizer in quantizers(graph)}
    made = {value.name: value for node in graph for value in node.outputs}
    for tensor, scale in scales.items():
        value = made.get(tensor)
        if value is None or tensor in present or value.is_graph_output():
            continue
        reader = only_reader(value)
        is_before = (
            reader is not None
            and reader.op_type in ACTIVATIONS
            and reader.outputs[0].name in {*present, *scales}
        )
        if not is_before:
            add_quantizer(graph, value, scale, 0, SIGNED)


def _into(graph: ir.Graph, codes: Codes) -> None:
    """Write quantizers of zero point 0 in `codes`, and the scales of clipped ones finer."""
    found = quantizers(graph)
    ends = {q.scale: end for q in found if (end := _end_of_clip(q)) is not None}
    unsigned = {id(q.quantize) for q in found if is_never_negative(q.value)}
    for quantizer in found:
        if id(quantizer.quantize) not in unsigned:
            zero_point, scale = codes.zero_point_signed, quantizer.scale
        else:
            # Whatever carries the values of a clipped tensor has its scale, and gets the new one.
            end = ends.get(quantizer.scale)
            zero_point = codes.zero_point
            scale = quantizer.scale if end is None else end / 255
        write_codes(graph, quantizer, scale, zero_point, codes.dtype)


def _end_of_clip(quantizer: Quantizer) -> float | None:
    """Return where the Clip from zero before a quantizer ends, if int8 codes end there too."""
    node = maker(quantizer.value, "Clip")
    low, high = (None, None) if node is None else (scalar(input_of(node, n)) for n in (1, 2))
    if low is None or high is None or low != 0 or high > 2 * quantizer.highest:
        return None
    return min(high, quantizer.highest)


def _quantize_before_activations(graph: ir.Graph) -> None:
    """Quantize also before an activation that codes do not replace: only so it runs on integers."""
    for quantizer in quantizers(graph):
        node = maker(quantizer.value, *ACTIVATIONS)
        if node is None or _is_replaced(node, quantizer):
            continue
        before = first(node)
        if maker(before, *WEIGHTED) is not None and only_reader(before) is node:
            add_quantizer(graph, before, quantizer.scale, quantizer.zero_point, quantizer.dtype)


def _is_replaced(node: ir.Node, quantizer: Quantizer) -> bool:
    """Return whether an activation changes nothing that its quantizer's codes can tell."""
    if node.op_type == "Relu":
        return quantizer.is_unsigned
    low, high = (scalar(input_of(node, position)) for position in (1, 2))
    starts = low is None or low <= quantizer.lowest
    # 1e-6: `highest` is a product in float64 of a scale that was rounded to float32.
    return starts and (high is None or high >= quantizer.highest * (1 - 1e-6))


def _move(graph: ir.Graph, codes: Codes) -> None:
    """Write `cpu` codes as `arm` ones, or the other way round: the same, moved by 128."""
    for quantizer in quantizers(graph):
        moved = quantizer.zero_point + codes.lowest - int(np.iinfo(quantizer.dtype).min)
        write_codes(graph, quantizer, quantizer.scale, moved, codes.dtype)
