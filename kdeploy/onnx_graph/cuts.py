"""Cut an ONNX file into several that are run one after the other, each up to one more output.

A part takes what earlier ones have computed. Only tensors whose rows are items may go from part to
part, because whoever runs them may go on with some of the rows: all else (sizes, constants, and the
floats that are decoded from integer codes) is computed again where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import files_beside, read_onnx

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

# Decoded anew in each part, integers travel, and the part that reads them computes with them.
DECODES = "DequantizeLinear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a part takes and gives, by the names of the whole file."""

    takes: tuple[str, ...]
    """Inputs of the whole, and tensors of earlier parts."""
    gives: tuple[str, ...]
    """The output it ends at, then what later parts take."""


def cut(path: Path, outputs: Sequence[str], targets: Sequence[Path]) -> list[Piece]:
    """Write a file for each output, which holds what no earlier one computes.

    Args:
        path: The whole file.
        outputs: Of it, in the order in which they are computed.
        targets: The files to write.

    Raises:
        ModelError: weights lie in a file beside it, or an output takes nothing more to compute
            than the one before it.
    """
    import onnx

    model = read_onnx(path)
    if files_beside(model):
        raise ModelError(
            f"{path} keeps its weights in a file beside it, and a part is one file",
            hint="models of less than 2 GB can be saved as one file",
        )
    whole = _Whole(onnx.shape_inference.infer_shapes(onnx.load_model(path)))
    found = _nodes_of_parts(whole, outputs)
    pieces = _pieces(whole, outputs, found)
    for piece, nodes, target in zip(pieces, found, targets, strict=True):
        onnx.save_model(whole.part(piece, nodes, is_first=target == targets[0]), target)
    return pieces


class _Whole:
    """The graph, by the names of its tensors."""

    def __init__(self, model: ModelProto) -> None:
        graph: GraphProto = model.graph
        self.model, self.nodes = model, list(graph.node)
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {v.name: v for v in graph.input if v.name not in self.weights}
        known = [*graph.value_info, *graph.output, *graph.input]
        self.known: dict[str, ValueInfoProto] = {value.name: value for value in known}
        self._rows = {_first_size(value) for value in self.inputs.values()} - {None}

    def travels(self, name: str) -> bool:
        """Return whether a tensor has a row an item, and is worth taking along."""
        value, maker = self.known.get(name), self.nodes[self.maker[name]]
        is_known = value is not None and _first_size(value) in self._rows
        return is_known and maker.op_type != DECODES

    def part(self, piece: Piece, nodes: Sequence[int], *, is_first: bool) -> ModelProto:
        """Return the model of some of the nodes."""
        from onnx import helper

        own = [self.nodes[i] for i in nodes]
        used = {name for node in own for name in _taken(node)}
        graph = helper.make_graph(
            own,
            self.model.graph.name,
            [self.known[name] for name in piece.takes],
            [self.known[name] for name in piece.gives],
            [tensor for name, tensor in self.weights.items() if name in used],
        )
        made = helper.make_model(
            graph,
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
            functions=self.model.functions,
        )
        if is_first:  # they say what the whole takes
            kept = [p for p in self.model.metadata_props if p.key != "kdeploy.output"]
            made.metadata_props.extend(kept)
        return made


def _nodes_of_parts(whole: _Whole, outputs: Sequence[str]) -> list[list[int]]:
    """Return for each output the nodes that compute it from what earlier parts have."""
    done: set[int] = set()
    found = []
    for output in outputs:
        own: set[int] = set()
        waiting = [output]
        while waiting:
            name = waiting.pop()
            place = whole.maker.get(name)
            if place is None or place in own or (place in done and whole.travels(name)):
                continue
            own.add(place)
            waiting += _taken(whole.nodes[place])
        if not own - done:
            raise ModelError(
                f"the output `{output}` takes no more to compute than those before it",
                hint="name exits in the order of the forward pass, each once",
            )
        done |= own
        found.append(sorted(own))
    return found


def _pieces(whole: _Whole, outputs: Sequence[str], nodes: Sequence[Sequence[int]]) -> list[Piece]:
    made: list[set[str]] = []
    takes = []
    for own in nodes:
        given = {name for i in own for name in whole.nodes[i].output if name}
        used = [name for i in own for name in _taken(whole.nodes[i])]
        is_open = (n for n in used if n not in given and n not in whole.weights)
        takes.append(tuple(dict.fromkeys(is_open)))
        made.append(given)
    pieces = []
    for number, output in enumerate(outputs):
        later = [n for names in takes[number + 1 :] for n in names if n in made[number]]
        gives = tuple(dict.fromkeys([output, *later]))
        pieces.append(Piece(takes=takes[number], gives=gives))
    return pieces


def _taken(node: NodeProto) -> list[str]:
    """Return what a node reads, that of graphs inside it included."""
    inner = [name for graph in _graphs(node) for n in graph.node for name in _taken(n)]
    own = {name for graph in _graphs(node) for n in graph.node for name in n.output}
    own |= {t.name for graph in _graphs(node) for t in [*graph.initializer, *graph.input]}
    return [name for name in [*node.input, *(n for n in inner if n not in own)] if name]


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _first_size(value: Any) -> str | int | None:
    """Return the size of the first axis, a number or a name; None where nobody knows."""
    shape = value.type.tensor_type.shape
    if not value.type.tensor_type.HasField("shape") or not shape.dim:
        return None
    first = shape.dim[0]
    return first.dim_param or (first.dim_value if first.HasField("dim_value") else None) or None
