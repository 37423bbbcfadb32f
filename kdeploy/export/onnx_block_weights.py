"""Write layers on codes as standard ONNX: DequantizeLinear with blocks along axis 0, then MatMul.

PyTorch's exporter first writes each layer as one operator of a domain of ours. Opset 21 has int4
tensors and blocks; only a weight stored as (inputs, outputs) becomes ONNX Runtime's MatMulNBits
when a session opens. Embeddings gather codes and scales of their rows alone.
https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html#dequantizelinear-21
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch import nn

from kdeploy.onnx_graph.graph import Array, add_constant, attribute, constant, first, new_node
from kdeploy.onnx_graph.passes import graph_pass
from kdeploy.torch_module.block_quantized import EMBEDDING, LINEAR, block_quantized

LOWEST_OPSET = 21
DOMAIN = "kdeploy"
Parameter = OpSchema.FormalParameter
_OPTIONAL = OpSchema.FormalParameterOption.Optional


def _schema(name: str) -> OpSchema:
    return OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[
            *(Parameter("X", "A"), Parameter("codes", "B"), Parameter("scales", "H")),
            Parameter("zero_points", "B", param_option=_OPTIONAL),
            Parameter("bias", "F", param_option=_OPTIONAL),
        ],
        outputs=[Parameter("Y", "F")],
        type_constraints=[
            ("A", ["tensor(float)", "tensor(int64)", "tensor(int32)"], ""),
            ("B", ["tensor(uint8)"], ""),
            ("H", ["tensor(float16)"], ""),
            ("F", ["tensor(float)"], ""),
        ],
        attributes=[
            OpSchema.Attribute(key, OpSchema.AttrType.INT)
            for key in ("bits", "block_size", "columns")
        ],
    )


_LINEAR, _EMBEDDING = (
    Op(Opset(DOMAIN, 1), name, _schema(name)) for name in ("BlockLinear", "BlockEmbedding")
)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's exporter shall write the layers."""
    return {LINEAR: _linear, EMBEDDING: _embedding}


def needs_blocks(model: nn.Module) -> bool:
    """Return whether a model has layers that opset 21 alone can say."""
    return bool(block_quantized(model))


def _linear(
    x: Any, codes: Any, scales: Any, zero_points: Any, bias: Any, bits: int, block_size: int
) -> Any:
    shape = {"bits": bits, "block_size": block_size, "columns": int(x.shape[-1])}
    return _LINEAR(x, codes, scales, zero_points, bias, **shape)


def _embedding(
    ids: Any, codes: Any, scales: Any, zero_points: Any, bits: int, block_size: int, columns: int
) -> Any:
    shape = {"bits": bits, "block_size": block_size, "columns": columns}
    return _EMBEDDING(ids, codes, scales, zero_points, None, **shape)


def _none_is_left(model: ir.Model) -> str:
    return ", ".join(f"{n.name} is still of our domain" for n in model.graph if n.domain == DOMAIN)


@graph_pass(ensures=_none_is_left)
def spell_out_blocks(model: ir.Model) -> None:
    """Write our operators as those of opset 21."""
    for node in list(model.graph):
        if node.domain == DOMAIN:
            made = (_linear_nodes if node.op_type == "BlockLinear" else _embedding_nodes)(node)
            last = made[-1].outputs[0]
            last.type, last.shape = node.outputs[0].type, node.outputs[0].shape
            model.graph.insert_before(node, made)
            node.outputs[0].replace_all_uses_with(last, replace_graph_outputs=True)
            name = node.outputs[0].name
            model.graph.remove(node, safe=True)
            last.name = name
    model.graph.opset_imports.pop(DOMAIN, None)


def _linear_nodes(node: ir.Node) -> list[ir.Node]:
    graph, base = node.graph, str(node.outputs[0].name)
    assert isinstance(graph, ir.Graph), f"{node.name} is in no graph"
    bits, block_size = attribute(node, "bits", 4), attribute(node, "block_size", 32)
    codes, scales, points = _stored(node, bits)
    flat = codes.reshape(len(codes), -1)[:, : attribute(node, "columns", 0)]
    centred = points is None
    values = flat.astype(np.int16) - (2 ** (bits - 1) if centred else 0)
    names = [f"{value.name}_{base}" for value in node.inputs[1:4] if value is not None]
    given = [
        _integers(graph, names[0], values.T, bits, centred),
        add_constant(graph, names[1], _of_blocks(scales.astype(np.float32))),
    ]
    if points is not None:
        stored = _of_blocks(points.astype(np.int16))
        given.append(_integers(graph, names[2], stored, bits, centred))
    shape = {"axis": 0, "block_size": block_size} if scales.shape[1] > 1 else {"axis": 1}
    real = new_node("DequantizeLinear", given, f"{base}_weight", **shape)
    bias = node.inputs[4] if len(node.inputs) > 4 else None
    product = new_node(
        "MatMul", [first(node), real.outputs[0]], f"{base}_product" if bias else f"{base}_result"
    )
    if bias is None:
        return [real, product]
    return [real, product, new_node("Add", [product.outputs[0], bias], f"{base}_result")]


def _of_blocks(numbers: Array) -> Array:
    """Return (blocks, rows), or (rows,) of the only block: what is said of a whole row."""
    return numbers.T if numbers.shape[1] > 1 else numbers[:, 0]


def _embedding_nodes(node: ir.Node) -> list[ir.Node]:
    """Gather bytes, scales and zero points of the rows, and compute their numbers."""
    graph, base, ids = node.graph, str(node.outputs[0].name), first(node)
    assert isinstance(graph, ir.Graph), f"{node.name} is in no graph"
    bits, block_size = attribute(node, "bits", 8), attribute(node, "block_size", 32)
    columns = attribute(node, "columns", 0)
    codes, scales, points = _stored(node, bits)
    rows = codes.reshape(len(codes), -1)[:, :columns]
    made: list[ir.Node] = []

    def add(kind: str, inputs: list[ir.Value], name: str, **attributes: Any) -> ir.Value:
        made.append(new_node(kind, inputs, f"{base}_{name}", **attributes))
        return made[-1].outputs[0]

    def gathered(name: str, table: Array) -> ir.Value:
        return add("Gather", [add_constant(graph, f"{base}_{name}_table", table), ids], name)

    def wide(value: ir.Value, name: str) -> ir.Value:
        """Repeat a number of each block for all of its columns."""
        places = np.arange(columns, dtype=np.int64) // block_size
        index = add_constant(graph, f"{base}_places", places)
        return add("Gather", [value, index], name, axis=-1)

    # Two codes of 4 bits share a byte: as bytes they are looked up.
    found = gathered("bytes", rows if bits == 8 else _halves(rows))
    real = add("Cast", [found], "codes", to=int(ir.DataType.FLOAT))
    if bits == 4:
        real = _both_halves(add, real, graph, columns)
    if points is None:
        centre = add_constant(graph, f"{base}_centre", np.array(2 ** (bits - 1), np.float32))
    else:
        table = gathered("zero_points", points.astype(np.float32))
        centre = wide(table, "centre")
    shifted = add("Sub", [real, centre], "shifted")
    factor = wide(gathered("scales", scales.astype(np.float32)), "factor")
    add("Mul", [shifted, factor], "result")
    return made


def _halves(rows: Array) -> Array:
    """Return bytes that hold the first half of a row's codes low and the second one high."""
    half = -(-rows.shape[1] // 2)
    filled = np.pad(rows, ((0, 0), (0, 2 * half - rows.shape[1])))
    joined: Array = filled[:, :half] | (filled[:, half:] << 4)
    return joined


def _both_halves(
    add: Callable[..., ir.Value], found: ir.Value, graph: ir.Graph, columns: int
) -> ir.Value:
    """Return the codes of such bytes by arithmetic: OpenVINO 2026.4 shifts bytes wrongly."""
    sixteen = add_constant(graph, "sixteen", np.array(16, np.float32))
    high = add("Floor", [add("Div", [found, sixteen], "shifted_down")], "high")
    low = add("Sub", [found, add("Mul", [high, sixteen], "high_alone")], "low")
    both = add("Concat", [low, high], "both_halves", axis=-1)
    if columns % 2 == 0:
        return both
    index = add_constant(graph, f"first_{columns}", np.arange(columns, dtype=np.int64))
    return add("Gather", [both, index], "without_filling", axis=-1)


def _stored(node: ir.Node, bits: int) -> tuple[Array, Array, Array | None]:
    """Return codes (rows, blocks, block_size), scales and zero points (rows, blocks)."""
    tensors = [constant(node.inputs[n]) if len(node.inputs) > n else None for n in (1, 2, 3)]
    codes, scales, points = tensors
    assert codes is not None, f"{node.name} has no constant codes"
    assert scales is not None, f"{node.name} has no constant scales"
    return (
        _codes(codes, bits),
        scales,
        None if points is None else _codes(points, bits)[:, : scales.shape[1]],
    )


def _codes(stored: Array, bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return stored
    return np.stack((stored & 15, stored >> 4), axis=-1).reshape(*stored.shape[:-1], -1)


def _integers(graph: ir.Graph, name: str, values: Array, bits: int, centred: bool) -> ir.Value:
    """Return a tensor of 4- or 8-bit integers, signed where the centre has been taken off."""
    kinds = {
        (4, True): ir.DataType.INT4,
        (4, False): ir.DataType.UINT4,
        (8, True): ir.DataType.INT8,
        (8, False): ir.DataType.UINT8,
    }
    kind = kinds[bits, centred]
    numbers = np.ascontiguousarray(values).astype(kind.numpy())
    value = ir.Value(name=name, const_value=ir.Tensor(numbers, dtype=kind, name=name))
    value.dtype, value.shape = kind, ir.Shape(numbers.shape)
    graph.register_initializer(value)
    return value
