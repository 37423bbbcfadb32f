"""What the fields of an ONNX file may hold: anyone can write anything there.

Every reader of a file asks for types, shapes, offsets and names; what none of them could use is
refused here, in one sentence each, before anything is allocated by it. The meaning of the fields is
in https://github.com/onnx/onnx/blob/main/docs/IR.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdeploy.onnx_graph.wire import Malformed

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MOST_NUMBERS = 2**28  # of one item or one constant: a gibibyte of float32
MOST_STORED = 2**33  # numbers of one stored tensor
# Of element types: the bits of one number, and the field that holds them where `raw_data` does not.
_INT32 = "int32_data"
_TYPES: Mapping[int, tuple[int, str]] = {
    1: (32, "float_data"), 2: (8, _INT32), 3: (8, _INT32), 4: (16, _INT32), 5: (16, _INT32),
    6: (32, _INT32), 7: (64, "int64_data"), 8: (0, "string_data"), 9: (8, _INT32),
    10: (16, _INT32), 11: (64, "double_data"), 12: (32, "uint64_data"), 13: (64, "uint64_data"),
    14: (64, "float_data"), 15: (128, "double_data"), 16: (16, _INT32), 17: (8, _INT32),
    18: (8, _INT32), 19: (8, _INT32), 20: (8, _INT32), 21: (4, _INT32), 22: (4, _INT32),
    23: (4, _INT32), 24: (8, _INT32), 25: (2, _INT32), 26: (2, _INT32),
}  # fmt: skip
_STRINGS, _COMPLEX = 8, (14, 15)
_ATTRIBUTE_TYPES = range(1, 15)
# The operators whose answer is as large as a number in the file says: which input says it.
_SIZES = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Reshape": 1, "Pad": 1}
_SIZED_BY_ATTRIBUTE = ("RandomNormal", "RandomUniform")

UNNAMED = -1
"""The size that PaddlePaddle's converter and others write for an axis that is open."""


def check_fields(model: ModelProto) -> None:
    """Raise `Malformed` when a field holds what no reader could use."""
    _check_opsets(model)
    for tensor in tensors_of_model(model):
        _check_tensor(tensor)
    graph = model.graph
    if not graph.output:
        raise Malformed("its graph has no output")
    stored = {tensor.name for tensor in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        _check_names(kind, [value.name for value in values])
        for value in values:
            _check_value(value, kind, is_needed=value.name not in stored)
    for node in nodes_of_model(model):
        for attribute in node.attribute:
            _check_attribute(node, attribute)
    _check_sizes(graph)


def _check_opsets(model: ModelProto) -> None:
    for opset in model.opset_import:
        if not 0 < opset.version < 2**31:
            raise Malformed(f"its opset is {opset.version}")
    named = {(o.domain if o.domain != "ai.onnx" else "", o.version) for o in model.opset_import}
    domains = [domain for domain, _ in named]
    if len(set(domains)) != len(domains):
        raise Malformed(f"it names two opsets of one domain: {told(sorted(named))}")
    if "" not in domains and any(node.domain in ("", "ai.onnx") for node in model.graph.node):
        raise Malformed("it does not name the opset of its operators")


def tensors_of_model(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor, also of functions and of sparse ones."""
    yield from tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def nodes_of_model(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node: of the graph, of the graphs inside its nodes, of functions."""
    yield from nodes(model.graph.node)
    for function in model.functions:
        yield from nodes(function.node)


def nodes(found: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of the graphs inside them."""
    for node in found:
        yield node
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from nodes(inner.node)


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every stored tensor: of the graph, of its nodes, of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for inner in _graphs(attribute):
            yield from tensors(inner)


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def num_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the numbers of a tensor take, as its shape and type say."""
    return int(-(-math.prod(tensor.dims) * _TYPES[tensor.data_type][0] // 8))


def _check_tensor(tensor: TensorProto) -> None:
    what = f"its tensor {told(tensor.name)}"
    if tensor.data_type not in _TYPES:
        raise Malformed(f"{what} is of the type {tensor.data_type}, which ONNX does not have")
    count = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims) or count > MOST_STORED or len(tensor.dims) > 64:
        raise Malformed(f"{what} has the shape {told(list(tensor.dims))}")
    if tensor.HasField("segment"):
        raise Malformed(f"{what} is a segment of one, which no runtime reads")
    if tensor.data_location == tensor.EXTERNAL:
        if tensor.HasField("raw_data"):
            raise Malformed(f"{what} has data in the file and in another one")
        return
    bits, field = _TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        if bits and len(tensor.raw_data) != num_bytes(tensor):
            raise Malformed(
                f"{what} of shape {told(list(tensor.dims))} has {len(tensor.raw_data)} bytes "
                f"of data; {num_bytes(tensor)} are needed"
            )
        return
    wanted = count * (2 if tensor.data_type in _COMPLEX else 1)  # real and imaginary part
    # Of 2 or 4 bits a byte's worth shares one number of the field.
    if bits in (2, 4):
        wanted = math.ceil(count * bits / 8)
    found = len(getattr(tensor, field))
    if found != wanted:
        shape = told(list(tensor.dims))
        raise Malformed(f"{what} of shape {shape} has {found} numbers; {wanted} are needed")


def _check_names(kind: str, names: Sequence[str]) -> None:
    if "" in names:
        raise Malformed(f"an {kind} of it has no name")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"two {kind}s of it are called {told(twice)}")


def _check_value(value: ValueInfoProto, kind: str, *, is_needed: bool) -> None:
    what = f"its {kind} {told(value.name)}"
    which = value.type.WhichOneof("value")
    if which is None and is_needed and kind == "input":
        raise Malformed(f"{what} has no type")
    if which != "tensor_type":
        return
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES and (is_needed or tensor.elem_type):
        raise Malformed(f"{what} is of the type {tensor.elem_type}, which ONNX does not have")
    sizes = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
    if any(size < UNNAMED for size in sizes):
        raise Malformed(f"{what} has an axis of size {min(sizes)}; an open axis has a name")
    if math.prod(sizes) > MOST_NUMBERS or len(tensor.shape.dim) > 64:
        raise Malformed(
            f"{what} has the shape {told(sizes)}: more than {MOST_NUMBERS} numbers an item"
        )


def _check_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type not in _ATTRIBUTE_TYPES or not attribute.name:
        raise Malformed(
            f"an attribute {told(attribute.name)} of its node {told(node.name or node.op_type)} "
            "has no type or no name"
        )


def _check_sizes(graph: GraphProto) -> None:
    """Refuse answers that a constant in the file makes larger than any that a device could hold."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and len(node.attribute) == 1:
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        where = _SIZES.get(node.op_type)
        asked: list[int] = []
        if where is not None and where < len(node.input) and node.input[where] in constants:
            asked = _integers(constants[node.input[where]])
        elif node.op_type in _SIZED_BY_ATTRIBUTE:
            asked = [n for a in node.attribute if a.name == "shape" for n in a.ints]
        # abs: -1 in a Reshape means what is left.
        if math.prod(max(1, abs(n)) for n in asked) > MOST_NUMBERS:
            raise Malformed(
                f"its node {told(node.name or node.op_type)} makes a tensor of {told(asked)}, "
                f"more than {MOST_NUMBERS} numbers"
            )


def _integers(tensor: TensorProto) -> list[int]:
    """Return the numbers of a constant of 64-bit integers that is kept in the file itself."""
    if tensor.data_type != 7 or tensor.data_location == tensor.EXTERNAL:
        return []
    if len(tensor.dims) != 1 or tensor.dims[0] > 64:
        return []
    raw = tensor.raw_data
    if not raw:
        return list(tensor.int64_data)
    return [int.from_bytes(raw[n : n + 8], "little", signed=True) for n in range(0, len(raw), 8)]


def told(value: Any) -> str:
    """Return foreign text or numbers as a message may hold them: short, and in one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def open_unnamed(model: ModelProto) -> None:
    """Make axes of size -1 what ONNX has for them: axes without a size."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == UNNAMED:
                dim.ClearField("dim_value")
