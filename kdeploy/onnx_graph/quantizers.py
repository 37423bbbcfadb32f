"""The quantizers of an ONNX graph, found, moved and written in other codes.

A quantizer is a QuantizeLinear on a real tensor and the DequantizeLinear behind it, with one scale
for the whole tensor. Those of weights, constants with a scale a channel, are none here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

CARRIERS = frozenset(
    {
        *("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"),
        *("Concat", "Gather", "Expand", "Identity", "Pad"),
    }
)
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool"})
# Operators whose results are not negative, whatever goes in.
NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Eight bits, and the zero points of tensors that cannot be negative and of all others."""

    dtype: np.dtype[Any]
    zero_point: int
    zero_point_signed: int

    @property
    def lowest(self) -> int:
        return int(np.iinfo(self.dtype).min)


@dataclass(slots=True, kw_only=True)
class Quantizer:
    """A QuantizeLinear and what reads it."""

    quantize: NodeProto
    dequantize: list[NodeProto]
    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    @property
    def tensor(self) -> str:
        """The real tensor."""
        return str(self.quantize.input[0])

    @property
    def lowest(self) -> float:
        """The lowest number that has a code."""
        return float((int(np.iinfo(self.dtype).min) - self.zero_point) * self.scale)

    @property
    def highest(self) -> float:
        return float((int(np.iinfo(self.dtype).max) - self.zero_point) * self.scale)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the middle code."""
        return self.zero_point == (128 if self.dtype == np.uint8 else 0)

    @property
    def is_unsigned(self) -> bool:
        """Whether zero is the lowest code: the quantizer is a ReLU as well."""
        return self.zero_point == int(np.iinfo(self.dtype).min)


class Graph:
    """The nodes of a model with what reads and makes each tensor; `write` puts them back."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.outputs = {o.name for o in model.graph.output}
        self.constants: dict[str, NDArray[Any]] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.index()

    def index(self) -> None:
        """Find makers and readers anew, after the graph was changed."""
        self.makers: dict[str, NodeProto] = {o: n for n in self.nodes for o in n.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def readers(self, tensor: str) -> list[NodeProto]:
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str) -> NodeProto | None:
        """Return what alone reads a tensor, None where the caller reads it or several do."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def quantizers(self) -> list[Quantizer]:
        """Return those of activations, each with one scale."""
        return [q for node in self.nodes if (q := self.quantizer(node)) is not None]

    def quantizer(self, node: NodeProto) -> Quantizer | None:
        """Return the quantizer that a node begins, None for any other."""
        if node.op_type != "QuantizeLinear" or node.input[0] in self.constants:
            return None
        scale, zero = (self.constants.get(name) for name in node.input[1:3])
        if scale is None or zero is None or scale.size != 1:
            return None
        readers = self.readers(node.output[0])
        return Quantizer(
            quantize=node,
            dequantize=[n for n in readers if n.op_type == "DequantizeLinear"],
            scale=float(scale.item()),
            zero_point=int(zero.item()),
            dtype=zero.dtype,
        )

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Return the name of a tensor that the graph shall hold; an equal one is used again."""
        known = self.constants.get(name)
        if known is None:
            self.model.graph.initializer.append(numpy_helper.from_array(value, name))
            self.constants[name] = value
        elif known.dtype != value.dtype or not np.array_equal(known, value):
            return self.add_constant(f"{name}_", value)
        return name

    def encode(
        self, quantizer: Quantizer, scale: float, zero_point: int, dtype: np.dtype[Any]
    ) -> None:
        """Write a quantizer in other codes."""
        stem = quantizer.tensor
        step = self.add_constant(f"{stem}_step", np.asarray(scale, np.float32))
        zero = self.add_constant(f"{stem}_zero", np.asarray(zero_point, dtype))
        for node in (quantizer.quantize, *quantizer.dequantize):
            node.input[1:] = [step, zero]

    def add_quantizer(
        self, tensor: str, scale: float, zero_point: int, dtype: np.dtype[Any]
    ) -> None:
        """Put a quantizer on a tensor: all that read it then read what the codes stand for."""
        readers = self.readers(tensor)
        step = self.add_constant(f"{tensor}_step", np.asarray(scale, np.float32))
        zero = self.add_constant(f"{tensor}_zero", np.asarray(zero_point, dtype))
        codes, real = f"{tensor}_codes", f"{tensor}_real"
        made = [
            helper.make_node("QuantizeLinear", [tensor, step, zero], [codes], name=codes),
            helper.make_node("DequantizeLinear", [codes, step, zero], [real], name=real),
        ]
        for node in readers:
            _replace(node, tensor, real)
        self.nodes.extend(made)
        self.index()

    def remove_quantizer(self, quantizer: Quantizer) -> None:
        """Let all read the real tensor that read what the codes stand for."""
        for node in quantizer.dequantize:
            self.bypass(node, quantizer.tensor)
        self.nodes.remove(quantizer.quantize)
        self.index()

    def bypass(self, node: NodeProto, tensor: str) -> None:
        """Take a node out: what read its result reads `tensor`."""
        for reader in self.readers(node.output[0]):
            _replace(reader, node.output[0], tensor)
        self.nodes.remove(node)
        self.index()

    def is_never_negative(self, tensor: str) -> bool:
        """Return whether the operators before say that a tensor cannot be negative."""
        node = self.makers.get(tensor)
        if node is None:
            value = self.constants.get(tensor)
            return value is not None and bool((value >= 0).all())
        if node.op_type in NEVER_NEGATIVE:
            return True
        if node.op_type == "Clip":
            lowest = self.constants.get(node.input[1]) if len(node.input) > 1 else None
            return lowest is not None and bool((lowest >= 0).all())
        if node.op_type == "QuantizeLinear":
            zero = self.constants.get(node.input[2])
            is_lowest = zero is not None and bool((zero == np.iinfo(zero.dtype).min).all())
            return is_lowest or self.is_never_negative(node.input[0])
        if node.op_type in ("Add", "Mul", "Concat"):
            return all(self.is_never_negative(name) for name in node.input)
        if node.op_type in CARRIERS | AVERAGES | {"DequantizeLinear"}:
            return self.is_never_negative(node.input[0])
        return False

    def write(self) -> None:
        """Put the nodes back into the model, makers before readers."""
        placed: set[str] = set()
        made = {o for n in self.nodes for o in n.output}
        waiting, sorted_nodes = self.nodes, []
        while waiting:
            ready: list[NodeProto] = []
            later: list[NodeProto] = []
            for node in waiting:
                is_ready = all(name in placed or name not in made for name in _inputs(node))
                (ready if is_ready else later).append(node)
                placed.update(node.output if is_ready else ())
            assert ready, "the graph has a cycle"
            sorted_nodes += ready
            waiting = later
        copies = [NodeProto.FromString(n.SerializeToString()) for n in sorted_nodes]
        del self.model.graph.value_info[:]  # the types in it are those of the old codes
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)


def properties(model: ModelProto) -> Mapping[str, str]:
    """Return what a file says of itself."""
    return {p.key: p.value for p in model.metadata_props}


def _inputs(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, in the graphs inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)


def _replace(node: NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new
