"""What can be read of a model without training or timing it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.store.references import ModelReference, source_text
from kdeploy.torch_module.complexity import count_macs, count_parameters
from kdeploy.torch_module.named_inputs import call

FEWEST_MACS_A_BYTE = 4.0
"""A layer that computes less for what it reads and writes waits for memory: cores do more."""
WIDTHS = ("width", "channels", "base_width", "hidden", "hidden_size", "dim", "features")
DEPTHS = ("depth", "layers", "num_layers", "blocks")
"""What the arguments of a function are called that make its model narrower and shallower."""
BLOCK = 8  # channels; odd widths are not faster than the next block


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model as it is."""

    parameters: int
    macs: int
    """Of one item."""
    num_layers: int
    """Convolutions and linear layers."""
    narrowest: int
    """The fewest output channels of these, the answer's own layer left out."""
    widest: int
    memory_bound: float
    """Share of the MACs in layers that wait for memory."""
    students: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arguments of smaller models of the same function, by how much smaller: `half`, `quarter`."""


def facts_of(model: nn.Module, example: Tensor, reference: ModelReference) -> ModelFacts:
    """Return the facts of a torch model.

    Args:
        model: In eval mode.
        example: One preprocessed item, (1, *shape).
        reference: What made it; where its function takes a width, smaller ones are proposed.
    """
    layers = _layers(model, example)
    total = sum(macs for macs, _, _ in layers) or 1
    waiting = sum(macs for macs, size, _ in layers if macs < FEWEST_MACS_A_BYTE * size)
    inner = [width for _, _, width in layers[:-1]] or [width for _, _, width in layers] or [0]
    return ModelFacts(
        parameters=count_parameters(model),
        macs=count_macs(model, example),
        num_layers=len(layers),
        narrowest=min(inner),
        widest=max(inner),
        memory_bound=waiting / total,
        students=_students(reference),
    )


def _layers(model: nn.Module, example: Tensor) -> list[tuple[int, int, int]]:
    """Return MACs, bytes moved in float32, and output channels of each layer that is run."""
    found: list[tuple[int, int, int]] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor), "a convolution or linear layer has a weight"
        places = output.numel() // weight.shape[0]
        moved = 4 * (inputs[0].numel() + output.numel() + weight.numel())
        found.append((places * weight.numel(), moved, int(weight.shape[0])))

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _students(reference: ModelReference) -> dict[str, dict[str, Any]]:
    """Return the arguments of smaller models, where the function's own say how to make them."""
    own = {**_defaults(reference), **reference.args}
    widths = [name for name in WIDTHS if _is_count(own.get(name))]
    depths = [name for name in DEPTHS if _is_count(own.get(name))]
    found: dict[str, dict[str, Any]] = {}
    for size, divisor in (("half", 2), ("quarter", 4)):
        smaller = {name: max(BLOCK, own[name] // divisor // BLOCK * BLOCK) for name in widths}
        smaller = {name: value for name, value in smaller.items() if value < own[name]}
        if smaller:
            shallower = {name: max(1, own[name] // divisor) for name in depths}
            found[size] = {**reference.args, **smaller, **shallower}
    if found.get("half") == found.get("quarter"):
        found.pop("quarter", None)
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 1


def _defaults(reference: ModelReference) -> dict[str, Any]:
    """Return the literal defaults of the function that a `build.py:function` names."""
    name = reference.build.rpartition(":")[2]
    text = source_text(reference) or ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _literals(node.args)
    return {}


def _literals(arguments: ast.arguments) -> dict[str, Any]:
    positional = [*arguments.posonlyargs, *arguments.args]
    ends = positional[len(positional) - len(arguments.defaults) :]
    pairs = [
        *zip(ends, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {a.arg: d.value for a, d in pairs if isinstance(d, ast.Constant)}
