"""Recognise multi-head attention in what a model calls, whatever its classes are.

Two products with a softmax between them, or PyTorch's fused function. Which channel of which layer
stands for which head and which place in it is found by running the calls between the layers and
the products (views, transpositions, chunks, rearrangements) again, on the channels' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.pruning.calls import Call, tensors_in

# By the name of the function: what only moves numbers, and what treats all numbers alike.
_MOVES = """
view reshape transpose permute flatten unflatten contiguous chunk split split_with_sizes unbind
__getitem__ __get__ squeeze unsqueeze movedim swapaxes swapdims select narrow clone to float
type_as view_as reshape_as tensor_split moveaxis t alias
"""
_ALIKE = "mul div __mul__ __truediv__ __rmul__ __imul__ dropout identity"
_BETWEEN = "add sub masked_fill masked_fill_ where softmax type __add__ __iadd__ add_ clamp"
# After the softmax: rows of only padding have no numbers.
_AFTER = "dropout type nan_to_num masked_fill masked_fill_ where"
_PRODUCTS = "matmul __matmul__ bmm"
FUSED = "scaled_dot_product_attention"
TORCHS_OWN = "multi_head_attention_forward"


class NotFollowed(Exception):
    """Why an attention stays whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTable:
    """Channels of a layer, numbered (heads, width)."""

    layer: str
    channels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayers:
    """The layers of an attention; queries, keys and values may be one layer's outputs."""

    module: str
    query: ChannelTable
    key: ChannelTable
    value: ChannelTable
    project: ChannelTable
    """Of the layer that reads the result: its input channels."""
    modules: frozenset[str]
    """In whose code the numbers of heads and channels stand."""

    @property
    def parts(self) -> tuple[ChannelTable, ChannelTable, ChannelTable]:
        return self.query, self.key, self.value


def find_attentions(
    calls: Sequence[Call], model: nn.Module, batch: int
) -> tuple[list[AttentionLayers], dict[str, str]]:
    """Return the attentions that are understood; and of others the module and the reason.

    Args:
        calls: Recorded while the model ran.
        model: That ran.
        batch: Items that it was given.
    """
    flow = _Flow(calls, model)
    found, reasons = [], {}
    for index, call in enumerate(calls):
        try:
            if call.name == TORCHS_OWN:
                raise NotFollowed("torch's own attention has one width for its inputs and heads")
            operands = _operands(flow, index, call)
            if operands is not None:
                found.append(_attention(flow, operands, batch))
        except NotFollowed as reason:
            reasons[call.module] = str(reason)
    return found, reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operands:
    """Tensors of an attention and where in the calls they are read."""

    index: int
    module: str
    query: Tensor
    key: Tensor
    value: Tensor
    result: Tensor
    is_key_turned: bool


class _Flow:
    """Which call made a tensor, and which call reads it."""

    def __init__(self, calls: Sequence[Call], model: nn.Module) -> None:
        self.calls = calls
        self.layers = {
            id(module.weight): name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        }
        self._made: dict[int, list[int]] = {}
        self._read: dict[int, list[int]] = {}
        for index, call in enumerate(calls):
            for tensor in call.results:
                self._made.setdefault(id(tensor), []).append(index)
            for tensor in call.tensors:
                self._read.setdefault(id(tensor), []).append(index)

    def maker(self, tensor: Tensor, before: int) -> int:
        """Return which call made a tensor that is read by the call `before`."""
        made = [index for index in self._made.get(id(tensor), []) if index < before]
        if not made:
            # A parameter, or a constant that the module made when it was built.
            raise NotFollowed("it reads a tensor that no call made")
        return made[-1]

    def reader(self, tensor: Tensor, after: int) -> int:
        """Return the one call that reads what the call `after` made."""
        read = [
            index
            for index in self._read.get(id(tensor), [])
            if index > after and not any(tensor is result for result in self.calls[index].results)
        ]
        if len(read) != 1:
            raise NotFollowed(f"{len(read)} operations read its result")
        return read[0]

    def layer(self, call: Call) -> str | None:
        """Return the name of the linear layer that a call is, if it is one."""
        is_linear = call.name == "linear" and len(call.args) > 1
        return self.layers.get(id(call.args[1])) if is_linear else None

    def numbered(self, tensor: Tensor, before: int, trail: set[str]) -> tuple[str, Tensor]:
        """Return the layer that a tensor comes from, and its channels' numbers in their places.

        The modules in which they are moved are added to `trail`.
        """
        index = self.maker(tensor, before)
        call = self.calls[index]
        layer = self.layer(call)
        if layer is not None:
            return layer, _numbers(tensor)
        if call.name not in (*_MOVES.split(), *_ALIKE.split()):
            raise NotFollowed(f"`{call.name}` stands between a layer and its products")
        source = call.tensors[0]
        if any(other.dim() for other in call.tensors[1:]):
            raise NotFollowed(f"`{call.name}` of two tensors stands between layer and product")
        layer, numbers = self.numbered(source, index, trail)
        if call.name in _ALIKE.split():
            return layer, numbers
        trail.add(call.module)
        made = list(tensors_in(_again(call, source, numbers)))
        place = next(i for i, result in enumerate(call.results) if result is tensor)
        return layer, made[place]

    def project(
        self, tensor: Tensor, numbers: Tensor, after: int, trail: set[str]
    ) -> tuple[str, Tensor]:
        """Return the layer that reads a tensor, and the numbers at its inputs."""
        while True:
            after = self.reader(tensor, after)
            call = self.calls[after]
            layer = self.layer(call)
            if layer is not None:
                return layer, numbers
            if call.name in _MOVES.split() and isinstance(call.result, Tensor):
                numbers = _again(call, tensor, numbers)
                trail.add(call.module)
            elif call.name != "dropout":
                raise NotFollowed(f"`{call.name}` stands between the products and a linear layer")
            tensor = call.result


def _operands(flow: _Flow, index: int, call: Call) -> _Operands | None:
    """Return what an attention multiplies when the call is its fused function, or its softmax."""
    if call.name == FUSED:
        names = ("query", "key", "value")
        given = dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
        query, key, value = (given[name] for name in names)
        return _Operands(
            index=index,
            module=call.module,
            query=query,
            key=key,
            value=value,
            result=call.result,
            is_key_turned=False,
        )
    if call.name != "softmax":
        return None
    try:
        first = _scores(flow, index, call)
        second, at = _weighted(flow, index, call)
    except NotFollowed:
        return None  # a softmax, but no attention
    return _Operands(
        index=at,
        module=second.module,
        query=flow.calls[first].args[0],
        key=flow.calls[first].args[1],
        value=second.args[1],
        result=second.result,
        is_key_turned=True,
    )


def _scores(flow: _Flow, index: int, call: Call) -> int:
    """Return the product that a softmax is of."""
    while call.name not in _PRODUCTS.split():
        passing = (*_ALIKE.split(), *_BETWEEN.split(), *_MOVES.split())
        if call.name not in passing:
            raise NotFollowed(call.name)
        index = flow.maker(call.tensors[0], index)
        call = flow.calls[index]
    return index


def _weighted(flow: _Flow, index: int, call: Call) -> tuple[Call, int]:
    """Return the product that reads a softmax's result."""
    tensor = call.result
    while call.name not in _PRODUCTS.split():
        index = flow.reader(tensor, index)
        call = flow.calls[index]
        tensor = call.result
        if call.name not in (*_PRODUCTS.split(), *_MOVES.split(), *_AFTER.split()):
            raise NotFollowed(call.name)
    return call, index


def _attention(flow: _Flow, found: _Operands, batch: int) -> AttentionLayers:
    trail = {found.module}
    tables = []
    for tensor, is_turned in (
        (found.query, False),
        (found.key, found.is_key_turned),
        (found.value, False),
    ):
        layer, numbers = flow.numbered(tensor, found.index, trail)
        turned = numbers.transpose(-1, -2) if is_turned else numbers
        tables.append(ChannelTable(layer=layer, channels=_table(turned, batch)))
    shape = tables[2].channels.shape
    places = torch.arange(shape.numel()).view(shape)
    given = found.result
    # (1, ..., heads, 1, width): every item and token has the same channel numbers.
    at = places.view(*(1,) * (given.dim() - 3), -1, 1, shape[1])
    at = at.repeat(batch, 1, 1) if given.dim() == 3 else at
    layer, numbers = flow.project(given, at.expand(given.shape).contiguous(), found.index, trail)
    columns = _rows_alike(numbers)
    if sorted(columns.tolist()) != places.flatten().tolist():
        raise NotFollowed("the layer after it does not read each channel of each head once")
    return AttentionLayers(
        module=found.module,
        query=tables[0],
        key=tables[1],
        value=tables[2],
        project=ChannelTable(layer=layer, channels=columns.argsort().view(shape)),
        modules=frozenset(trail),
    )


def _table(numbers: Tensor, batch: int) -> Tensor:
    """Return (heads, width) of numbers (batch, ..., heads, tokens, width), alike for all else."""
    if numbers.dim() == 3:
        numbers = numbers.view(batch, -1, *numbers.shape[1:])
    if numbers.dim() < 4:
        raise NotFollowed("its products are not of heads, tokens and channels")
    heads, width = numbers.shape[-3], numbers.shape[-1]
    flat = numbers.reshape(-1, heads, numbers.shape[-2], width)
    table = flat[0, :, 0]
    if not torch.equal(flat, table[None, :, None].expand_as(flat)):
        raise NotFollowed("its heads are not channels of one layer")
    if len(set(table.flatten().tolist())) != table.numel():
        raise NotFollowed("several heads read the same channel")
    return table


def _rows_alike(numbers: Tensor) -> Tensor:
    row = numbers.reshape(-1, numbers.shape[-1])[0]
    if not torch.equal(numbers, row.expand_as(numbers)):
        raise NotFollowed("the layer after it reads heads as tokens")
    return row


def _numbers(tensor: Tensor) -> Tensor:
    return torch.arange(tensor.shape[-1]).expand(tensor.shape).contiguous()


def _again(call: Call, old: Tensor, new: Tensor) -> Any:
    """Run a call that moves numbers on others."""
    function: Callable[..., Any] = call.function
    arguments = [new if argument is old else argument for argument in call.args]
    # Numbers of channels are integers: a cast to half would round those above 2048.
    if call.name in ("to", "float", "type_as"):
        return new
    return function(*arguments, **call.kwargs)
