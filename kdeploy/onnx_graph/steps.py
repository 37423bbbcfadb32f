"""Operators that are added to a graph one after the other, each reading what stands before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from kdeploy.onnx_graph.graph import Array, add_constant


class Steps:
    """A row of new operators of one output each, in no place of the graph yet."""

    def __init__(self, graph: ir.Graph, name: str) -> None:
        """Begin a row whose tensors are called `name` and a number."""
        self.nodes: list[ir.Node] = []
        self._graph, self._name = graph, name

    def add(
        self, kind: str, *inputs: ir.Value | Array | None, output: int = 0, **attributes: Any
    ) -> ir.Value:
        """Return what an operator makes of tensors and constants; None is an input left out.

        `output` says which of its outputs, those before it are made too.
        """
        name = f"{self._name}_{len(self.nodes)}_{kind}"
        read = [self._value(given, f"{name}_{i}") for i, given in enumerate(inputs)]
        made = [ir.Value(name=f"{name}_out{place}") for place in range(output + 1)]
        self.nodes.append(ir.node(kind, read, attributes, outputs=made, name=name))
        return made[output]

    def put_first(self) -> None:
        """Put the operators in front of all others."""
        self._graph.insert_before(self._graph[0], self.nodes)

    def put_last(self) -> None:
        """Put the operators behind all others."""
        self._graph.extend(self.nodes)

    def _value(self, given: ir.Value | Array | None, name: str) -> ir.Value | None:
        if isinstance(given, np.ndarray):
            return add_constant(self._graph, name, given)
        return given
