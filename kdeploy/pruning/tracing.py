"""Follow a model's channels with torch-pruning: the graph of what reads what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from kdeploy.errors import ModelError
from kdeploy.pruning.axes import Axes, find_axes
from kdeploy.pruning.calls import Call, recording
from kdeploy.pruning.shuffles import Shuffle, find_shuffles
from kdeploy.torch_module.model_outputs import outputs_of
from kdeploy.torch_module.named_inputs import NamedTensors, call, each_of
from kdeploy.untrusted.user_code import described, hint_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGraph:
    """torch-pruning's dependency graph, and what it does not tell."""

    dependencies: Any
    sources: frozenset[Any]
    """The nodes of the model's inputs; token ids, which have no gradient, have none."""
    axes: Axes
    """Which dimension of each tensor the channels are."""
    shuffles: Sequence[Shuffle] = ()
    calls: Sequence[Call] = ()
    """What the model called, in order."""

    @property
    def nodes(self) -> list[Any]:
        return list(self.dependencies.module2node.values())

    def pruner(self, node: Any) -> Any:
        """Return torch-pruning's functions for the layer of a node."""
        return self.dependencies.get_pruner_of_module(node.module)

    def side(self, node: Any, function: Callable[..., Any]) -> str:
        """Return which side of a layer a pruning function is about; "out" if they are one."""
        return "out" if function == self.pruner(node).prune_out_channels else "in"

    def count(self, node: Any, side: str) -> int | None:
        """Return the channels of a side; None where there is no layer."""
        axis = self.axes.made.get(node)
        if node.type == OPTYPE.PARAMETER and axis is not None:
            size = int(node.module.shape[axis])
            return size if size > 1 else 0  # one for all channels is none of them
        graph = self.dependencies
        count = (graph.get_out_channels if side == "out" else graph.get_in_channels)(node)
        return None if count is None else int(count)


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode, with gradients for all its weights, while the block runs.

    Modes and the wish for gradients come back as they were, also to layers that got narrower.
    """
    modes = {module: module.training for module in model.modules()}
    asks = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asks[name])


def trace(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Return the graph of a `traceable` model.

    Raises:
        ModelError: the model does not run on the example, or cannot be followed.
    """
    x = _with_nodes(example)
    hint = "the data's shape and the model's input must fit"
    outputs_of(model, example, role="the model", hint=hint)
    try:
        forward = _all_outputs if _has_more(model, example) else _eval_output
        with recording(model) as calls:
            dependencies = _dependencies(model, x, forward)
    except Exception as error:
        raise ModelError(
            f"the channels of this model cannot be followed: {described(error, model)}",
            hint=hint_of(
                error, "compress it in another way, or rewrite the part that computes on shapes"
            ),
        ) from error
    nodes = list(dependencies.module2node.values())
    shuffles = find_shuffles(nodes)
    given = {tensor.grad_fn for _, tensor in each_of(x)} - {None}
    sources = frozenset(node for node in nodes if node.grad_fn in given)
    return ChannelGraph(
        dependencies=dependencies,
        sources=sources,
        axes=find_axes(nodes, sources, shuffles),
        shuffles=shuffles,
        calls=calls,
    )


def _with_nodes(example: Tensor) -> Tensor:
    """Return inputs whose floats come out of a product: what is added to them is found then."""
    one = torch.ones((), device=example.device, requires_grad=True)
    made = {name: t * one if t.is_floating_point() else t for name, t in each_of(example)}
    return made[""] if "" in made else cast("Tensor", NamedTensors(made))


@torch.no_grad()
def _has_more(model: nn.Module, example: Tensor) -> bool:
    try:
        return isinstance(_all_outputs(model, example), list | tuple)
    except Exception:  # it may not be meant for training at all
        return False


def _all_outputs(model: nn.Module, x: Tensor) -> Any:
    """Return also the outputs that the model has only while it is trained.

    What reads channels for them has to lose those channels as well, or it could not be trained.
    """
    model.training = True  # of the model alone: its layers compute as in eval mode
    try:
        return call(model, x)
    finally:
        model.training = False


def _eval_output(model: nn.Module, x: Tensor) -> Any:
    return call(model, x)


def _dependencies(model: nn.Module, x: Tensor, forward: Callable[..., Any]) -> Any:
    """Take the steps of `build_dependency` but its last: its numbering guesses at shapes."""
    graph = torch_pruning.DependencyGraph()
    graph.model, graph.verbose, graph.ignored_params = model, False, []
    graph._module2name = {module: name for name, module in model.named_modules()}
    graph._param_to_name, graph.unwrapped_parameters = graph._detect_unwrapped_parameters(None)
    graph.module2node = graph._trace(model, x, forward, output_transform=None)
    graph._build_dependency(graph.module2node)
    return graph
