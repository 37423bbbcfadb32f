"""Put a model's codes into a decoder's ONNX file, in the places of the real weights that they are.

The file's matrices are compared with the model's row by row: so it does not matter how the writer
of the graph names them, or which of them it joins to one product. Products become `com.microsoft`
MatMulNBits at level 4, a table of codes GatherBlockQuantized; where both ends share a table, so
does the file. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.block_weights import FAST_LEVEL, OPERATOR
from kdeploy.onnx_graph.graph import Array, add_constant, constant, first, maker, new_node, second
from kdeploy.onnx_graph.passes import drop_unused
from kdeploy.torch_module.block_quantized import (
    BlockQuantizedEmbedding,
    BlockQuantizedLinear,
    block_quantized,
)

DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    layer: str
    place: int


def put_codes_in(graph_of: ir.Model, model: nn.Module) -> None:
    """Replace the real weights of a file by the codes that they were made of.

    Args:
        graph_of: A decoder with float weights, those that the model computes with.
        model: Has layers on codes; without any nothing is changed.

    Raises:
        ModelError: a layer's weights are not in the file as they are, or joined with others of
            another format.
    """
    layers = block_quantized(model)
    linears = {n: m for n, m in layers.items() if isinstance(m, BlockQuantizedLinear)}
    if not layers:
        return
    graph, rows = graph_of.graph, _rows_of(linears)
    found: set[str] = set()
    shared: dict[int, str] = {}
    for node in list(graph):
        if node.op_type == "MatMul" and (weight := constant(second(node))) is not None:
            found |= _code_product(graph, node, weight, linears, rows, shared)
    missing = [name for name in linears if name not in found]
    if missing:
        raise ModelError(
            f"the graph holds {len(missing)} of {len(linears)} layers in another form than the "
            f"model does (`{missing[0]}` first): their codes have no place in it",
            hint=f"leave them float: `int4_weights: {{ignore: [{missing[0]}]}}`",
        )
    for name, table in layers.items():
        if isinstance(table, BlockQuantizedEmbedding):
            _code_table(graph, name, table, shared)
    drop_unused(graph_of)
    graph_of.opset_imports[DOMAIN] = 1


def _rows_of(layers: Mapping[str, BlockQuantizedLinear]) -> dict[bytes, list[_Row]]:
    """Return where rows of weights stand, by what they are."""
    rows: dict[bytes, list[_Row]] = {}
    for name, layer in layers.items():
        for place, row in enumerate(layer.weight.cpu().numpy()):
            rows.setdefault(_digest(row), []).append(_Row(layer=name, place=place))
    return rows


def _digest(row: Array) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=12).digest()


def _code_product(
    graph: ir.Graph,
    node: ir.Node,
    weight: Array,
    layers: Mapping[str, BlockQuantizedLinear],
    rows: Mapping[bytes, list[_Row]],
    shared: dict[int, str],
) -> set[str]:
    """Write a product (.., inputs) x (inputs, outputs) on codes; return the layers in it."""
    chosen = _sources(weight.T, rows)
    if chosen is None:
        return set()
    names = list(dict.fromkeys(row.layer for row in chosen))
    forms = {(m.bits, m.block_size, m.symmetric) for m in (layers[n] for n in names)}
    if len(forms) > 1:
        raise ModelError(
            f"the graph joins {', '.join(f'`{n}`' for n in names)} to one product, and their codes "
            "are of different formats",
            hint="give them the same bits and blocks, or leave all of them float (`ignore`)",
        )
    ((bits, block_size, _),) = forms
    tensors = {key: _gathered(layers, names, chosen, key) for key in _TENSORS}
    base = str(second(node).name)
    inputs = [first(node), *(_constant(graph, f"{base}.{k}", v) for k, v in tensors.items())]
    made = new_node(
        OPERATOR,
        inputs if inputs[-1] is not None else inputs[:-1],
        f"{node.outputs[0].name}.coded",
        name=str(node.name),
        domain=DOMAIN,
        K=weight.shape[0],
        N=weight.shape[1],
        bits=bits,
        block_size=block_size,
        accuracy_level=FAST_LEVEL,
    )
    _replace(graph, node, made)
    if len(names) == 1:
        shared[layers[names[0]].codes.data_ptr()] = base
    return set(names)


def _sources(weight: Array, rows: Mapping[bytes, list[_Row]]) -> list[_Row] | None:
    """Return where each row of a matrix comes from, None where one of them is of no layer.

    Equal rows stand in several places: then it is the one behind the row before.
    """
    chosen: list[_Row] = []
    for row in weight:
        known = rows.get(_digest(row))
        if known is None:
            return None
        after = _Row(layer=chosen[-1].layer, place=chosen[-1].place + 1) if chosen else known[0]
        chosen.append(after if after in known else known[0])
    return chosen


_TENSORS = ("codes", "scales", "zero_points")


def _gathered(
    layers: Mapping[str, BlockQuantizedLinear], names: list[str], chosen: list[_Row], key: str
) -> Array | None:
    stored = [getattr(layers[name], key) for name in names]
    if stored[0] is None:
        return None
    starts = dict(zip(names, np.cumsum([0, *(len(s) for s in stored[:-1])]), strict=True))
    whole = np.concatenate([tensor.cpu().numpy() for tensor in stored])
    places = np.array([starts[row.layer] + row.place for row in chosen])
    taken: NDArray[Any] = whole[places]
    return taken.astype(np.float32) if key == "scales" else taken


def _constant(graph: ir.Graph, name: str, value: Array | None) -> ir.Value | None:
    return None if value is None else add_constant(graph, name, value)


def _code_table(
    graph: ir.Graph, name: str, table: BlockQuantizedEmbedding, shared: Mapping[int, str]
) -> None:
    """Read the rows of a table out of its codes, those of the product that shares them."""
    node = next((n for n in graph if _reads(n, table)), None)
    if node is None:
        raise ModelError(
            f"the graph has no table that is `{name}` as the model has it",
            hint="leave it float: `int4_weights: {embedding_bits: 32}`",
        )
    base = shared.get(table.codes.data_ptr(), f"{name}.table")
    whole = table.embedding_dim * table.bits // 8
    codes = table.codes.cpu().numpy()
    held = add_constant(graph, f"{base}.codes", codes)
    scales = add_constant(graph, f"{base}.scales", table.scales.float().cpu().numpy())
    shape = add_constant(graph, f"{name}.shape", np.array([len(codes), -1], np.int64))
    flat = new_node("Reshape", [held, shape], f"{name}.rows")
    inputs: list[ir.Value | None] = [flat.outputs[0], second(node), scales]
    if codes[0].size != whole:
        raise ModelError(
            f"the {table.embedding_dim} columns of `{name}` are no whole blocks of "
            f"{table.block_size}",
            hint="leave it float: `int4_weights: {embedding_bits: 32}`",
        )
    if table.zero_points is not None:
        inputs.append(add_constant(graph, f"{base}.zero_points", table.zero_points.cpu().numpy()))
    made = new_node(
        "GatherBlockQuantized",
        inputs,
        f"{node.outputs[0].name}.coded",
        name=str(node.name),
        domain=DOMAIN,
        bits=table.bits,
        block_size=table.block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    graph.insert_before(node, flat)
    _replace(graph, node, made)


def _reads(node: ir.Node, table: BlockQuantizedEmbedding) -> bool:
    if node.op_type != "Gather":
        return False
    turned = maker(first(node), "Transpose")
    held = constant(first(turned) if turned is not None else first(node))
    size = (table.num_embeddings, table.embedding_dim)
    if held is None or held.shape != (size[::-1] if turned is not None else size):
        return False
    return np.array_equal(held.T if turned is not None else held, table.weight.cpu().numpy())


def _replace(graph: ir.Graph, node: ir.Node, made: ir.Node) -> None:
    graph.insert_before(node, made)
    old, new = node.outputs[0], made.outputs[0]
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name = old.name
    graph.remove(node, safe=True)
    new.name = name
