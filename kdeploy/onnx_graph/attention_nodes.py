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
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kdeploy.onnx_graph.attention_layout import BATCH_FIRST, NotFusable, Words, find_words
from kdeploy.onnx_graph.layout_tracing import Graph, Places, attribute, is_move, moved, places_of

DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The parts of an attention, by their names in the graph."""

    query: str
    key: str
    """Transposed."""
    value: str
    result: str
    scale: float
    masks: tuple[str, ...]
    """What is added to the scores."""
    is_causal: bool
    hidden: tuple[tuple[str, float, bool], ...]
    """Conditions, the number in the place of a score, and whether where it is true."""


class _End(NamedTuple):
    """Behind which operator a result stands by words, and how."""

    node: NodeProto
    is_batch_first: bool
    is_same_shape: bool
    """As the fused operator writes it, but for the order of batch and words."""


class AttentionWriter:
    """Collects the operators of fused attentions, each to stand before one that is there."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._before: dict[str, list[NodeProto]] = {}
        self._replaced: set[str] = set()
        self._written: dict[object, str] = {}
        self._constants: list[TensorProto] = []
        self._place: list[NodeProto] = []
        self._numbers = itertools.count()

    def write(self, attention: Attention, *, before: NodeProto) -> None:
        """Write an attention in the place of its second product.

        Raises:
            NotFusable: the operator has no kernel for such sizes or numbers.
        """
        query, key, value = sizes = self._sizes(attention)
        self._place = self._before.setdefault(before.output[0], [])
        names = (attention.query, attention.key, attention.value)
        words = [
            find_words(self._graph, name, size, role=role)
            for name, size, role in zip(names, sizes, ("query", "key", "value"), strict=True)
        ]
        batch, heads = words[0].batch, words[0].heads
        if any((w.batch, w.heads) != (batch, heads) for w in words):
            raise NotFusable("its queries, keys and values have not the same heads")
        operands = [
            self._by_words(w, heads * size[-1]) for w, size in zip(words, sizes, strict=True)
        ]
        bias = self._bias(attention, operands, (*query[:-1], key[-2]))
        end = self._end(attention.result, (batch, heads, query[-2], value[-1]), len(query))
        inputs = [*operands, *(["", "", bias] if bias else [])]
        scale = attention.scale * words[0].scale * words[1].scale
        fused = self._emit(
            "MultiHeadAttention",
            inputs,
            domain=DOMAIN,
            num_heads=heads,
            scale=scale,
            unidirectional=int(attention.is_causal),
        )
        if end is None:
            parts = self._emit("Reshape", [fused, self._integers(0, 0, heads, value[-1])])
            self._emit("Transpose", [parts], perm=[0, 2, 1, 3])
            self._take_over(attention.result)
            return
        if not end.is_batch_first:
            fused = self._emit("Transpose", [fused], perm=BATCH_FIRST)
        if end.is_same_shape:
            self._take_over(end.node.output[0])
        else:
            end.node.input[0] = fused

    def finish(self, model: ModelProto) -> None:
        """Put the operators into the graph, and what they replace out of it."""
        nodes = []
        for node in model.graph.node:
            nodes.extend(self._before.get(node.output[0], []))
            if node.output[0] not in self._replaced:
                nodes.append(node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(self._constants)
        if self._before and DOMAIN not in {o.domain for o in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))

    def _sizes(self, attention: Attention) -> list[tuple[int, ...]]:
        """Return the shapes of queries, keys and values by heads."""
        names = (attention.query, attention.key, attention.value)
        if any(self._graph.types.get(name) != TensorProto.FLOAT for name in names):
            raise NotFusable("its numbers are not float32")
        query, key, value = (self._graph.size(name) for name in names)
        if query is None or key is None or value is None:
            raise NotFusable("its sizes are not known")
        key = (*key[:-2], key[-1], key[-2])
        same_items = query[:-2] == key[:-2] == value[:-2] and len(query) in {3, 4}
        if not same_items or query[-1] != key[-1] or key[-2] != value[-2]:
            raise NotFusable("its queries, keys and values differ in items, heads, width or number")
        return [query, key, value]

    def _by_words(self, words: Words, width: int) -> str:
        """Return a tensor (batch, words, heads x width)."""
        name = words.name
        if words.perm is not None:
            name = self._once("Transpose", [name], perm=list(words.perm))
        if words.is_by_heads:
            name = self._once("Reshape", [name, self._integers(0, 0, width)])
        if words.first is not None:
            bounds = (words.first, words.first + width, 2)
            name = self._once("Slice", [name, *(self._integers(bound) for bound in bounds)])
        return name

    def _bias(self, attention: Attention, operands: list[str], scores: tuple[int, ...]) -> str:
        """Return what is added to the scores, (1 or batch, 1 or heads, queries, keys), or ""."""
        masks = list(attention.masks)
        shapes = [self._graph.shapes.get(mask) for mask in masks]
        for condition, number, is_where_true in attention.hidden:
            sides = [self._number(number), self._number(0)]
            masks.append(self._once("Where", [condition, *sides[:: 1 if is_where_true else -1]]))
            shapes.append(self._graph.shapes.get(condition))
        total, is_whole = "", False
        for mask, shape in zip(masks, shapes, strict=True):
            is_known = shape is not None and len(shape) <= len(scores)
            if shape is None or not is_known or (len(shape) == len(scores) == 3 and shape[0] != 1):
                raise NotFusable("its mask is not one of items, heads, queries and keys")
            if len(shape) < 4:
                axes = self._integers(*range(4 - len(shape)))
                mask = self._once("Unsqueeze", [mask, axes])
            total = self._once("Add", [total, mask]) if total else mask
            is_whole = is_whole or shape[-2:] == scores[-2:]
        return total if is_whole or not total else self._expanded(total, operands, scores[-2:])

    def _expanded(self, mask: str, operands: list[str], sizes: tuple[int, ...]) -> str:
        """Return a mask for every query: the operator repeats it over items and heads only."""
        key = ("a mask", mask, sizes)
        if key not in self._written:
            lengths = [self._once("Shape", [name], start=1, end=2) for name in operands[:2]]
            shape = self._once("Concat", [self._integers(1, 1), *lengths], axis=0)
            self._written[key] = self._once("Expand", [mask, shape])
        return self._written[key]

    def _end(self, result: str, sizes: tuple[int, int, int, int], rank: int) -> _End | None:
        """Return the operator that brings a result by heads into the order of words."""
        batch, heads, words, width = sizes
        wanted = places_of((batch, words, heads * width))
        places = wanted.reshape(batch, words, heads, width).swapaxes(1, 2)
        found: Places | None = places if rank == 4 else places.reshape(-1, words, width)
        node: NodeProto | None = self._graph.producers[result]
        name = result
        while node is not None and found is not None:
            is_free = node.op_type == "Reshape" and self._keeps_no_size(node)
            for is_batch_first, order in ((True, wanted), (False, wanted.swapaxes(0, 1))):
                is_same_shape = found.shape == order.shape
                is_same = np.array_equal(found.reshape(-1), order.reshape(-1))
                if is_same and (is_free or is_same_shape):
                    return _End(node, is_batch_first, is_same_shape)
            node = self._graph.only_reader(name)
            if node is not None and (len(node.output) > 1 or not is_move(self._graph, node)):
                break
            if node is not None:
                name = node.output[0]
                found = moved(self._graph, node, name, found)
        if rank == 3:
            raise NotFusable("how its heads are put together again is not known")
        return None

    def _take_over(self, name: str) -> None:
        """Let the operator written last make a tensor, in the place of the one that makes it."""
        self._place[-1].output[0] = name
        self._replaced.add(name)

    def _keeps_no_size(self, reshape: NodeProto) -> bool:
        """Say whether a Reshape makes the same of any input with the same numbers in a row."""
        target = self._graph.constants.get(reshape.input[1])
        return bool(attribute(reshape, "allowzero", 0)) or (target is not None and 0 not in target)

    def _once(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Write an operator, unless it is written already, and return its output."""
        key = (operator, tuple(inputs), repr(attributes))
        if key not in self._written:
            self._written[key] = self._emit(operator, inputs, **attributes)
        return self._written[key]

    def _emit(
        self, operator: str, inputs: list[str], *, output: str = "", **attributes: Any
    ) -> str:
        name = output or self._new_name()
        self._place.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, value: NDArray[Any]) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._written:
            self._written[key] = self._new_name()
            self._constants.append(numpy_helper.from_array(value, self._written[key]))
        return self._written[key]

    def _new_name(self) -> str:
        names = (f"kdeploy.attention.{number}" for number in self._numbers)
        known = self._graph.producers.keys() | self._graph.constants.keys()
        return next(name for name in names if name not in known)
