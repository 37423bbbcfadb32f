"""Put com.microsoft's MultiHeadAttention in the place of the operators of an attention.

It reads queries, keys and values as (batch, words, heads x width) and adds a mask (batch or 1,
heads or 1, queries, keys) to the scores. Where a graph holds them so already, they are read there;
torch's own layers hold (words, batch, width) and all three in one tensor, which costs a
Transpose and a Slice; else what is by heads is put back.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kdeploy.onnx_graph.attention_layout import BATCH_FIRST, NotFusable, Words, find_words
from kdeploy.onnx_graph.graph import (
    add_constant,
    attribute,
    constant,
    input_of,
    only_reader,
    remove_node,
)
from kdeploy.onnx_graph.layout_tracing import Places, Shapes, is_move, moved, places_of

DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The parts of an attention, as tensors of the graph."""

    query: ir.Value
    key: ir.Value
    """Transposed."""
    value: ir.Value
    result: ir.Value
    scale: float
    masks: tuple[ir.Value, ...]
    """What is added to the scores."""
    is_causal: bool
    hidden: tuple[tuple[ir.Value, float, bool], ...]
    """Conditions, the number in the place of a score, and whether where it is true."""


class _End(NamedTuple):
    """Behind which operator a result stands by words, and how."""

    node: ir.Node
    is_batch_first: bool
    is_same_shape: bool
    """As the fused operator writes it, but for the order of batch and words."""


class AttentionWriter:
    """Puts the operators of fused attentions into a graph, each before one that is there."""

    def __init__(self, graph: ir.Graph, shapes: Shapes) -> None:
        self._graph = graph
        self._shapes = shapes
        self._before: ir.Node | None = None
        self._written: dict[object, ir.Value] = {}
        self._numbers = itertools.count()
        self._known = {value.name for node in graph for value in node.outputs}
        self._known |= graph.initializers.keys()

    def write(self, attention: Attention, *, before: ir.Node) -> None:
        """Write an attention in the place of its second product.

        Raises:
            NotFusable: the operator has no kernel for such sizes or numbers.
        """
        query, key, value = sizes = self._sizes(attention)
        self._before = before
        operands = (attention.query, attention.key, attention.value)
        words = [
            find_words(self._shapes, operand, size, role=role)
            for operand, size, role in zip(operands, sizes, ("query", "key", "value"), strict=True)
        ]
        batch, heads = words[0].batch, words[0].heads
        if any((w.batch, w.heads) != (batch, heads) for w in words):
            raise NotFusable("its queries, keys and values have not the same heads")
        given = [self._by_words(w, heads * size[-1]) for w, size in zip(words, sizes, strict=True)]
        bias = self._bias(attention, given, (*query[:-1], key[-2]))
        end = self._end(attention.result, (batch, heads, query[-2], value[-1]), len(query))
        fused = self._emit(
            "MultiHeadAttention",
            # Inputs 3 and 4 are the bias of the projections and the key padding mask.
            [*given, *([] if bias is None else [None, None, bias])],
            domain=DOMAIN,
            num_heads=heads,
            scale=attention.scale * words[0].scale * words[1].scale,
            unidirectional=int(attention.is_causal),
        )
        self._graph.opset_imports.setdefault(DOMAIN, 1)
        if end is None:
            parts = self._emit("Reshape", [fused, self._integers(0, 0, heads, value[-1])])
            _take_over(self._emit("Transpose", [parts], perm=[0, 2, 1, 3]), attention.result)
            return
        if not end.is_batch_first:
            fused = self._emit("Transpose", [fused], perm=BATCH_FIRST)
        if end.is_same_shape:
            _take_over(fused, end.node.outputs[0])
        else:
            end.node.replace_input_with(0, fused)

    def _sizes(self, attention: Attention) -> list[tuple[int, ...]]:
        """Return the shapes of queries, keys and values by heads."""
        operands = (attention.query, attention.key, attention.value)
        if not all(map(self._shapes.is_float, operands)):
            raise NotFusable("its numbers are not float32")
        query, key, value = map(self._shapes.size, operands)
        if query is None or key is None or value is None:
            raise NotFusable("its sizes are not known")
        key = (*key[:-2], key[-1], key[-2])  # (..., width, keys) as the product reads them
        same_items = query[:-2] == key[:-2] == value[:-2] and len(query) in {3, 4}
        if not same_items or query[-1] != key[-1] or key[-2] != value[-2]:
            raise NotFusable("its queries, keys and values differ in items, heads, width or number")
        return [query, key, value]

    def _by_words(self, words: Words, width: int) -> ir.Value:
        """Return a tensor (batch, words, heads x width)."""
        value = words.value
        if words.perm is not None:
            value = self._once("Transpose", [value], perm=list(words.perm))
        if words.is_by_heads:
            value = self._once("Reshape", [value, self._integers(0, 0, width)])
        if words.first is not None:
            bounds = (words.first, words.first + width, 2)
            value = self._once("Slice", [value, *(self._integers(bound) for bound in bounds)])
        return value

    def _bias(
        self, attention: Attention, operands: list[ir.Value], scores: tuple[int, ...]
    ) -> ir.Value | None:
        """Return what is added to the scores, (1 or batch, 1 or heads, queries, keys)."""
        masks = list(attention.masks)
        shapes = [self._shapes.of(mask) for mask in masks]
        for condition, number, is_where_true in attention.hidden:
            sides = [self._number(number), self._number(0)]
            masks.append(self._once("Where", [condition, *sides[:: 1 if is_where_true else -1]]))
            shapes.append(self._shapes.of(condition))
        total: ir.Value | None = None
        is_whole = False
        for mask, shape in zip(masks, shapes, strict=True):
            is_known = shape is not None and len(shape) <= len(scores)
            if shape is None or not is_known or (len(shape) == len(scores) == 3 and shape[0] != 1):
                raise NotFusable("its mask is not one of items, heads, queries and keys")
            if len(shape) < 4:
                axes = self._integers(*range(4 - len(shape)))
                mask = self._once("Unsqueeze", [mask, axes])
            total = mask if total is None else self._once("Add", [total, mask])
            # Add broadcasts: one mask of full size among them makes the sum one.
            is_whole = is_whole or shape[-2:] == scores[-2:]
        return total if is_whole or total is None else self._expanded(total, operands, scores[-2:])

    def _expanded(
        self, mask: ir.Value, operands: list[ir.Value], sizes: tuple[int, ...]
    ) -> ir.Value:
        """Return a mask for every query: the operator repeats it over items and heads only."""
        key = ("a mask", mask, sizes)
        if key not in self._written:
            # Read from the tensors: the sizes known here may be primes that stand for open ones.
            lengths = [self._once("Shape", [value], start=1, end=2) for value in operands[:2]]
            shape = self._once("Concat", [self._integers(1, 1), *lengths], axis=0)
            self._written[key] = self._once("Expand", [mask, shape])
        return self._written[key]

    def _end(self, result: ir.Value, sizes: tuple[int, int, int, int], rank: int) -> _End | None:
        """Return the operator that brings a result by heads into the order of words."""
        batch, heads, words, width = sizes
        wanted = places_of((batch, words, heads * width))
        places = wanted.reshape(batch, words, heads, width).swapaxes(1, 2)
        found: Places | None = places if rank == 4 else places.reshape(-1, words, width)
        node = result.producer()
        value = result
        while node is not None and found is not None:
            is_free = node.op_type == "Reshape" and _keeps_no_size(node)
            for is_batch_first, order in ((True, wanted), (False, wanted.swapaxes(0, 1))):
                is_same_shape = found.shape == order.shape
                is_same = np.array_equal(found.reshape(-1), order.reshape(-1))
                if is_same and (is_free or is_same_shape):
                    return _End(node, is_batch_first, is_same_shape)
            node = only_reader(value)
            if node is not None and (len(node.outputs) > 1 or not is_move(node)):
                break
            if node is not None:
                value = node.outputs[0]
                found = moved(self._shapes, node, value, found)
        if rank == 3:
            raise NotFusable("how its heads are put together again is not known")
        return None

    def _once(self, operator: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        """Write an operator, unless it is written already, and return its output."""
        key = (operator, tuple(inputs), repr(attributes))
        if key not in self._written:
            self._written[key] = self._emit(operator, inputs, **attributes)
        return self._written[key]

    def _emit(self, operator: str, inputs: list[Any], *, domain: str = "", **more: Any) -> ir.Value:
        name = self._new_name()
        made = ir.node(
            operator, inputs, more, domain=domain, outputs=[ir.Value(name=name)], name=name
        )
        assert self._before is not None, "`write` says before which operator"
        self._graph.insert_before(self._before, made)
        return made.outputs[0]

    def _integers(self, *values: int) -> ir.Value:
        return self._constant(np.array(values, np.int64))

    def _number(self, value: float) -> ir.Value:
        return self._constant(np.array(value, np.float32))

    def _constant(self, value: NDArray[Any]) -> ir.Value:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._written:
            self._written[key] = add_constant(self._graph, self._new_name(), value)
        return self._written[key]

    def _new_name(self) -> str:
        names = (f"kdeploy.attention.{number}" for number in self._numbers)
        return next(name for name in names if name not in self._known)


def _take_over(made: ir.Value, replaced: ir.Value) -> None:
    """Let a tensor have the name and the readers of another one, which nothing reads then."""
    made.type, made.shape = replaced.type, replaced.shape
    name, node = replaced.name, replaced.producer()
    assert node is not None, "it is made in the graph"
    replaced.replace_all_uses_with(made, replace_graph_outputs=True)
    remove_node(node)
    # At last: two tensors of one name must not be in a graph at once.
    made.name = name


def _keeps_no_size(reshape: ir.Node) -> bool:
    """Say whether a Reshape makes the same of any input with the same numbers in a row."""
    target = constant(input_of(reshape, 1))
    return bool(attribute(reshape, "allowzero", 0)) or (target is not None and 0 not in target)
