"""Turn one encoding of a quantized ONNX file into another: the same ranges, other codes.

`tensorrt` is int8 with zero point 0, float biases, and quantizers where TensorRT fuses. `cpu` is
uint8, with zero point 0 where a tensor cannot be negative and 128 elsewhere, and quantizers on all
outputs that ONNX Runtime needs for its integer kernels; `arm` is `cpu` moved by 128. Steps stay as
they are: a tensor with zero point 128 keeps its very codes, one with zero point 0 those above zero.
Only a tensor behind a Clip gets other steps, such that its codes end where the Clip does, which
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

import numpy as np
from onnx import ModelProto, NodeProto, helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.float_layers import guard_float_layers
from kdeploy.onnx_graph.quantizers import AVERAGES, CARRIERS, Codes, Graph, Quantizer, properties
from kdeploy.onnx_graph.rewrites import drop_unused, store_integer_biases
from kdeploy.untrusted.json_document import json_text

log = logging.getLogger(__name__)
STEPS = "kdeploy.steps"
PROFILE = "kdeploy.profile"
UNSIGNED, SIGNED = np.dtype(np.uint8), np.dtype(np.int8)
CODES: Mapping[str, Codes] = {
    "cpu": Codes(dtype=UNSIGNED, zero_point=0, zero_point_signed=128),
    "arm": Codes(dtype=SIGNED, zero_point=-128, zero_point_signed=0),
    "tensorrt": Codes(dtype=SIGNED, zero_point=0, zero_point_signed=0),
}
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ACTIVATIONS = frozenset({"Relu", "Clip"})


def profile_of(model: ModelProto) -> str | None:
    """Return the encoding of a file, None for one without quantizers of activations."""
    graph = Graph(model)
    found = graph.quantizers()
    if not found:
        return None
    if any(q.dtype == UNSIGNED for q in found):
        return "cpu"
    return "arm" if any(q.zero_point for q in found) else "tensorrt"


def _told_steps(model: ModelProto) -> dict[str, float]:
    """Return the steps that the file's metadata tell, which anyone may have written."""
    try:
        told = json_text(properties(model).get(STEPS, "{}"))
        steps = {str(name): float(step) for name, step in told.items()}
        if not all(0 < step < math.inf for step in steps.values()):
            raise ValueError("a step is no finite number above 0")
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"the file's metadata `{STEPS}` are not what was written there: {error}",
            hint="export the file again",
        ) from None
    return steps


def encode(model: ModelProto, profile: str) -> None:
    """Write a quantized model in the encoding of `profile`, in place."""
    before = profile_of(model)
    if before is None or before == profile:
        return
    steps = _told_steps(model)
    graph = Graph(model)
    if profile == "tensorrt":
        _write_out_relus(graph)
        _into_int8(graph, steps)
        kept = _drop_unfused(graph)
        _make_biases_float(graph)
    elif before == "tensorrt":
        kept = _of_unsigned(graph)
        _merge_equal(graph)
        _add_missing(graph, steps)
        _into(graph, CODES[profile])
        _quantize_before_activations(graph)
    else:
        kept = steps
        _move(graph, CODES[profile])
    graph.write()
    if profile != "tensorrt":
        store_integer_biases(model)
        guard_float_layers(model)
    drop_unused(model)
    told = {**properties(model), PROFILE: profile, STEPS: json.dumps(kept, sort_keys=True)}
    helper.set_model_props(model, {k: v for k, v in sorted(told.items()) if v != "{}"})


def without_rounding(model: ModelProto) -> None:
    """Take the quantizers of activations out, in place: what is left rounds its weights alone."""
    encode(model, "tensorrt")
    graph = Graph(model)
    for quantizer in graph.quantizers():
        if not {o for n in quantizer.dequantize for o in n.output} & graph.outputs:
            graph.remove_quantizer(quantizer)
    graph.write()
    drop_unused(model)


def _write_out_relus(graph: Graph) -> None:
    """Write the ReLU that codes without a sign stood for, where nothing else says it."""
    for quantizer in graph.quantizers():
        tensor = quantizer.tensor
        if quantizer.is_unsigned and not graph.is_never_negative(tensor):
            node = helper.make_node("Relu", [tensor], [f"{tensor}_relu"], name=f"{tensor}_relu")
            quantizer.quantize.input[0] = node.output[0]
            graph.nodes.append(node)
            graph.index()


def _into_int8(graph: Graph, steps: Mapping[str, float]) -> None:
    """Write all quantizers with zero point 0; those that were so before get their steps back."""
    for quantizer in graph.quantizers():
        widest = max(-quantizer.lowest, quantizer.highest) / 127
        scale = quantizer.scale if quantizer.is_symmetric else widest
        scale = steps.get(quantizer.tensor.removesuffix("_relu"), scale)
        graph.encode(quantizer, scale, 0, SIGNED)


def _drop_unfused(graph: Graph) -> dict[str, float]:
    """Remove the quantizers that TensorRT does not fuse; return the step of each."""
    dropped = {}
    wanted = {id(q.quantize) for q in graph.quantizers() if _is_wanted(graph, q)}
    for quantizer in graph.quantizers():
        results = {o for n in quantizer.dequantize for o in n.output}
        if id(quantizer.quantize) not in wanted and not results & graph.outputs:
            dropped[quantizer.tensor] = quantizer.scale
            graph.remove_quantizer(quantizer)
    for node in [n for n in graph.nodes if _is_guard(n)]:
        graph.bypass(node, node.input[0])
    return dropped


def _is_wanted(graph: Graph, quantizer: Quantizer) -> bool:
    """Return whether an operator that TensorRT runs on integers reads the codes."""
    readers = [(n, d.output[0]) for d in quantizer.dequantize for n in graph.readers(d.output[0])]
    for node, tensor in readers:
        if node.op_type in WEIGHTED:
            return True
        if node.op_type in CARRIERS | AVERAGES and _is_result_wanted(graph, node):
            return True
        if node.op_type == "Add" and _is_result_wanted(graph, node):
            # A convolution is fused with the addition after it: one side stays as it is.
            fused = [name for name in node.input if _is_of_weighted(graph, name)]
            if tensor not in fused[:1]:
                return True
    return False


def _is_result_wanted(graph: Graph, node: NodeProto) -> bool:
    for result in node.output:
        for reader in graph.readers(result):
            if reader.op_type in ACTIVATIONS | CARRIERS and _is_result_wanted(graph, reader):
                return True
            if reader.op_type in WEIGHTED:
                return True
            found = graph.quantizer(reader)
            if found is not None and _is_wanted(graph, found):
                return True
    return False


def _is_of_weighted(graph: Graph, tensor: str) -> bool:
    """Return whether a tensor is what the codes of a convolution's own output stand for."""
    real = graph.makers.get(tensor)
    codes = graph.makers.get(real.input[0]) if real and real.op_type == "DequantizeLinear" else None
    maker = graph.makers.get(codes.input[0]) if codes is not None else None
    return maker is not None and maker.op_type in WEIGHTED and len(graph.readers(tensor)) == 1


def _make_biases_float(graph: Graph) -> None:
    """Store what an int32 bias stands for: TensorRT refuses the codes."""
    for node in list(graph.nodes):
        codes = graph.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == np.int32:
            real = (codes * graph.constants[node.input[1]].astype(np.float64)).astype(np.float32)
            graph.bypass(node, graph.add_constant(f"{node.output[0]}_float", real))


def _is_guard(node: NodeProto) -> bool:
    """Return whether it is a LeakyRelu that changes nothing, see `float_layers`."""
    return node.op_type == "LeakyRelu" and any(
        a.name == "alpha" and a.f == 1.0 for a in node.attribute
    )


def _of_unsigned(graph: Graph) -> dict[str, float]:
    """Return the steps of tensors that get other codes than a shift: what the way back needs."""
    return {q.tensor: q.scale for q in graph.quantizers() if graph.is_never_negative(q.tensor)}


def _merge_equal(graph: Graph) -> None:
    """Leave one quantizer a tensor: some files have one for each reader."""
    first: dict[tuple[str, float], Quantizer] = {}
    for quantizer in graph.quantizers():
        kept = first.setdefault((quantizer.tensor, quantizer.scale), quantizer)
        if kept is not quantizer and kept.dequantize:
            for node in quantizer.dequantize:
                graph.bypass(node, kept.dequantize[0].output[0])
            graph.nodes.remove(quantizer.quantize)
            graph.index()


def _add_missing(graph: Graph, steps: Mapping[str, float]) -> None:
    """Quantize what only ONNX Runtime wants quantized, as far as the file knows its steps.

    Not before an activation that is quantized itself: its codes are those of both.
    """
    present = {quantizer.tensor for quantizer in graph.quantizers()}
    for tensor, step in steps.items():
        reader = graph.only_reader(tensor)
        is_before = (
            reader is not None
            and reader.op_type in ACTIVATIONS
            and reader.output[0] in {*present, *steps}
        )
        is_known = is_before or tensor in present or tensor in graph.outputs
        if tensor in graph.makers and not is_known:
            graph.add_quantizer(tensor, step, 0, SIGNED)


def _into(graph: Graph, codes: Codes) -> None:
    """Write quantizers of zero point 0 in `codes`, and the steps of clipped ones finer."""
    ends = {q.scale: end for q in graph.quantizers() if (end := _end_of_clip(graph, q)) is not None}
    unsigned = {id(q.quantize) for q in graph.quantizers() if graph.is_never_negative(q.tensor)}
    for quantizer in graph.quantizers():
        if id(quantizer.quantize) not in unsigned:
            zero_point, scale = codes.zero_point_signed, quantizer.scale
        else:
            # Whatever carries the values of a clipped tensor has its step, and gets the new one.
            end = ends.get(quantizer.scale)
            zero_point = codes.zero_point
            scale = quantizer.scale if end is None else end / 255
        graph.encode(quantizer, scale, zero_point, codes.dtype)


def _end_of_clip(graph: Graph, quantizer: Quantizer) -> float | None:
    """Return where the Clip from zero before a quantizer ends, if int8 codes end there too."""
    node = graph.makers.get(quantizer.tensor)
    if node is None or node.op_type != "Clip" or len(node.input) < 3:
        return None
    low, high = (graph.constants.get(name) for name in node.input[1:3])
    if low is None or high is None or float(low) != 0 or float(high) > 2 * quantizer.highest:
        return None
    return min(float(high), quantizer.highest)


def _quantize_before_activations(graph: Graph) -> None:
    """Quantize also before an activation that codes do not replace: only so it runs on integers."""
    for quantizer in graph.quantizers():
        node = graph.makers.get(quantizer.tensor)
        if node is None or node.op_type not in ACTIVATIONS or _is_replaced(graph, node, quantizer):
            continue
        maker = graph.makers.get(node.input[0])
        is_alone = graph.only_reader(node.input[0]) is node
        if maker is not None and maker.op_type in WEIGHTED and is_alone:
            graph.add_quantizer(
                node.input[0], quantizer.scale, quantizer.zero_point, quantizer.dtype
            )


def _is_replaced(graph: Graph, node: NodeProto, quantizer: Quantizer) -> bool:
    """Return whether an activation changes nothing that its quantizer's codes can tell."""
    if node.op_type == "Relu":
        return quantizer.is_unsigned
    low, high = (graph.constants.get(name) for name in [*node.input, "", ""][1:3])
    starts = low is None or float(low) <= quantizer.lowest
    return starts and (high is None or float(high) >= quantizer.highest * (1 - 1e-6))


def _move(graph: Graph, codes: Codes) -> None:
    """Write `cpu` codes as `arm` ones, or the other way round: the same, moved by 128."""
    for quantizer in graph.quantizers():
        moved = quantizer.zero_point + codes.lowest - int(np.iinfo(quantizer.dtype).min)
        graph.encode(quantizer, quantizer.scale, moved, codes.dtype)
