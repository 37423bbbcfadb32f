"""Narrow layers of a file: those whose channels do not fill a block of an integer kernel.

ONNX Runtime's integer kernels work on 16 output channels at once and on sums of 4 products, its
float kernels on 8 channels; below 16 channels on a side, and one by one in depthwise layers,
rounding costs more than the sums save.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

BLOCK = 16  # channels that ONNX Runtime's CPU kernels compute at once with AVX-512


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowLayer:
    """A convolution or linear layer, and how many channels it sums over and makes."""

    name: str
    inputs: int
    """Of one group."""
    outputs: int
    is_depthwise: bool = False

    def __str__(self) -> str:
        kind = ", depthwise" if self.is_depthwise else ""
        return f"`{self.name}` ({self.inputs} to {self.outputs}{kind})"


def narrow_layers(file: Path) -> tuple[list[NarrowLayer], int]:
    """Return the narrow layers of a float ONNX file, and of how many."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    layers = [_layer(node, shapes) for node in graph.node]
    known = [layer for layer in layers if layer is not None]
    narrow = [n for n in known if n.is_depthwise or min(n.inputs, n.outputs) < BLOCK]
    # What makes the answer has as many outputs as there are classes.
    is_head = bool(known) and known[-1] in narrow and known[-1].inputs >= BLOCK
    return (narrow[:-1] if is_head else narrow), len(known)


def _layer(node: NodeProto, shapes: dict[str, list[int]]) -> NarrowLayer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    shape = shapes.get(node.input[1])
    if shape is None or len(shape) < 2:
        return None
    name = node.input[1].removesuffix(".weight") if "." in node.input[1] else node.name
    if node.op_type == "Conv":
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        return NarrowLayer(
            name=name, inputs=shape[1], outputs=shape[0], is_depthwise=groups == shape[0] > 1
        )
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    outputs, inputs = shape[-2:] if turned else shape[-2:][::-1]
    return NarrowLayer(name=name, inputs=inputs, outputs=outputs)
