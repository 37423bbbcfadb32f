"""What a model costs when channels go, without removing them: for a search over many choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE, module2type

from kdeploy.pruning.coupling import LayerDim
from kdeploy.pruning.removal import channel_count
from kdeploy.torch_module.complexity import count_macs
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.named_inputs import call

_TWO_SIDED = (OPTYPE.CONV, OPTYPE.LINEAR)
_ONE_SIDED = (
    OPTYPE.DEPTHWISE_CONV, OPTYPE.BN, OPTYPE.LN, OPTYPE.GN, OPTYPE.IN, OPTYPE.PRELU, OPTYPE.EMBED
)  # fmt: skip


class Term(NamedTuple):
    """A part of the cost that shrinks in proportion with the channels of some sides."""

    cost: float
    sides: tuple[LayerDim, ...]


def cost_without(
    model: nn.Module, example: Tensor, what: Literal["macs", "parameters", "size"]
) -> Callable[[Mapping[LayerDim, int]], float]:
    """Return a function of how many channels each side loses, that tells what the model costs.

    What no layer accounts for, such as products of two activations, counts as unchanged.

    Args:
        model: In eval mode.
        example: A batch that it can run on.
        what: Multiply-accumulates, parameters, or bytes of all tensors that are stored.
    """
    if what == "macs":
        terms = _mac_terms(model, example)
        fixed = count_macs(model, example) - sum(term.cost for term in terms)
    else:
        terms, fixed = _tensor_terms(model, is_size=what == "size"), 0.0
    sizes = {side: channel_count(model, side) for term in terms for side in term.sides}

    def cost(gone: Mapping[LayerDim, int]) -> float:
        left = {side: 1 - gone.get(side, 0) / size for side, size in sizes.items()}
        return fixed + sum(_shrunk(term, left) for term in terms)

    return cost


def _shrunk(term: Term, left: dict[LayerDim, float]) -> float:
    cost = term.cost
    for side in term.sides:
        # A convolution narrower on both sides shrinks by the product of both fractions.
        cost *= left[side]
    return cost


def _mac_terms(model: nn.Module, example: Tensor) -> list[Term]:
    """Run the model once; a layer that is used twice has two terms."""
    terms = []

    def record(name: str, layer: Any, given: Tensor, made: Tensor) -> None:
        # Each result of a layer takes one row of its weights; transposed, each input gives one.
        items = given if getattr(layer, "transposed", False) else made
        macs = items.numel() * layer.weight[0].numel() / len(example)
        terms.append(Term(macs, _sides(name, layer)))

    handles = (
        module.register_forward_hook(
            lambda layer, given, made, name=name: record(name, layer, given[0], made)
        )
        for name, module in model.named_modules()
        if module2type(module) in (*_TWO_SIDED, OPTYPE.DEPTHWISE_CONV)
    )
    with hooked(handles), torch.no_grad():
        call(model, example)
    return terms


def _tensor_terms(model: nn.Module, *, is_size: bool) -> list[Term]:
    terms = []
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        sides = _sides(owner, model.get_submodule(owner))
        sides = sides[:1] if parameter.dim() == 1 else sides  # a bias has outputs only
        raw = (LayerDim(name, f"dimension {d}") for d in range(parameter.dim()))
        number = parameter.nbytes if is_size else parameter.numel()
        terms.append(Term(number, sides or tuple(raw)))
    if is_size:
        stored = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            # Of those, only a norm's statistics have channels.
            owner = name.rpartition(".")[0]
            sides = _sides(owner, model.get_submodule(owner)) if buffer.dim() == 1 else ()
            terms += [Term(buffer.nbytes, sides[:1])] if name in stored else []
    return terms


def _sides(name: str, module: nn.Module) -> tuple[LayerDim, ...]:
    kind = module2type(module)
    if kind in _TWO_SIDED:
        return LayerDim(name, "out"), LayerDim(name, "in")
    return (LayerDim(name, "out"),) if kind in _ONE_SIDED else ()
