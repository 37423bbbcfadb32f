"""What a model is called with: one tensor, or several by the names of `forward`'s parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from kdeploy.errors import ModelError
from kdeploy.named_arrays import by_name, names_by_place


class NamedTensors:
    """Stands in for a tensor (batch, ...) wherever a batch is passed on, cut or moved.

    All of its tensors have the batch as their first axis.
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, rows: Any) -> NamedTensors:
        return self.mapped(lambda tensor: tensor[rows])

    @property
    def shape(self) -> torch.Size:
        """The batch alone: what else there is differs from tensor to tensor."""
        return self._first.shape[:1]

    @property
    def device(self) -> torch.device:
        return self._first.device

    @property
    def _version(self) -> int:
        return sum(tensor._version for tensor in self.tensors.values())

    def is_floating_point(self) -> bool:
        return any(tensor.is_floating_point() for tensor in self.tensors.values())

    def to(self, *args: Any, **kwargs: Any) -> NamedTensors:
        return self.mapped(lambda tensor: tensor.to(*args, **kwargs))

    def cpu(self) -> NamedTensors:
        return self.mapped(Tensor.cpu)

    def clone(self) -> NamedTensors:
        return self.mapped(Tensor.clone)

    def detach(self) -> NamedTensors:
        return self.mapped(Tensor.detach)

    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._first.new_zeros(*args, **kwargs)

    def tensor_split(self, count: int) -> list[NamedTensors]:
        cut = {name: tensor.tensor_split(count) for name, tensor in self.tensors.items()}
        return [NamedTensors({name: parts[i] for name, parts in cut.items()}) for i in range(count)]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> NamedTensors:
        """Return what a function makes of each tensor."""
        return NamedTensors({name: function(tensor) for name, tensor in self.tensors.items()})

    @property
    def _first(self) -> Tensor:
        return next(iter(self.tensors.values()))


def call(model: Callable[..., Any], x: Any) -> Any:
    """Return what a model answers: several inputs are its keywords, or in order without names."""
    arguments, keywords = arguments_of(x)
    return model(*arguments, **keywords)


def arguments_of(x: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return what stands in the brackets of a call: by place, and by name."""
    if not isinstance(x, NamedTensors):
        return (x,), {}
    if list(x.tensors) == names_by_place(len(x.tensors)):
        return tuple(x.tensors.values()), {}
    return (), x.tensors


def each_of(x: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with its name; a tensor alone is called ""."""
    yield from x.tensors.items() if isinstance(x, NamedTensors) else (("", x),)


def tensors_of(arrays: Any) -> Tensor:
    """Return arrays of a model's input, one or several by name, as tensors with their memory."""
    found = {name: torch.from_numpy(array) for name, array in by_name(arrays)}
    return found[""] if "" in found else cast("Tensor", NamedTensors(found))


def in_graph_order(graph_module: GraphModule, x: Any) -> list[Tensor]:
    """Return the tensors in the order in which a graph of `torch.export` takes them."""
    arguments, keywords = arguments_of(x)
    places = graph_module.graph.find_nodes(op="placeholder")
    return [*arguments, *(keywords[str(p.target)] for p in places if str(p.target) in keywords)]


def hold_example(module: nn.Module, example: Tensor) -> None:
    """Keep the inputs that a module was made with as its `example`, which no state has."""
    copied: object = example.detach().clone()
    if isinstance(copied, Tensor):
        module.register_buffer("example", copied, persistent=False)
    else:
        object.__setattr__(module, "example", copied)


def shape_in_words(x: Any) -> str:
    """Return the shape of an item of a batch, of several inputs of each."""
    shapes = [f"`{name}` {tuple(tensor.shape[1:])}" for name, tensor in each_of(x) if name]
    return ", ".join(shapes) or str(tuple(x.shape[1:]))


def check_parameters(model: nn.Module, x: Any, *, role: str) -> None:
    """Refuse a model whose `forward` does not take these inputs by name.

    Raises:
        ModelError: it has no such parameter, or needs another one.
    """
    if type(model).forward is nn.Module.forward:
        raise ModelError(
            f"{role} has no `forward`: {type(model).__name__} does not define it",
            hint="write `def forward(self, x):` into the class, indented as `__init__` is",
        )
    _, given = arguments_of(x)
    if not given:
        _check_one(model, x, role)
        return
    own = getattr(model, "input_names", None)
    if own is not None:  # a file
        _check_names(given, own, own, role)
        return
    parameters = inspect.signature(model.forward).parameters.values()
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters if p.kind in by_keyword]
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needed = [p.name for p in parameters if p.name in names and p.default is p.empty]
    _check_names(given, [*names, *given] if is_open else names, needed, role)


def _check_one(model: nn.Module, x: Any, role: str) -> None:
    """Refuse a model that needs more than the one input that the data have."""
    if isinstance(x, NamedTensors) or hasattr(model, "input_names"):
        return
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # code without a signature is called, and says it then
        return
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty]
    more = [p.name for p in needed if p.kind in by_place][1:]
    more += [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
    if more:
        raise ModelError(
            f"the `forward` of {role} needs {_listed(dict.fromkeys(more))} too, and the data have"
            " one input",
            hint=f"give the parameter a default, `{more[0]}=None`, or the data an array of each"
            " name in the place of `x`",
        )


def _check_names(
    given: Mapping[str, Any], names: Sequence[str], needed: Sequence[str], role: str
) -> None:
    unknown = [name for name in given if name not in names]
    missing = [name for name in needed if name not in given]
    if unknown:
        raise ModelError(
            f"{role} is given the input `{unknown[0]}`, and its `forward` takes {_listed(names)}",
            hint="call the arrays of the data as `forward` calls them, or leave that one out",
        )
    if missing:
        raise ModelError(
            f"the `forward` of {role} needs `{missing[0]}`, and the data have {_listed(given)}",
            hint=f"add an array `{missing[0]}` to the data, or give the parameter a default",
        )


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing by name"
