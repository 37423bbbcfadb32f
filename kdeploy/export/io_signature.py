"""The ends of a model: names for all the tensors that it takes and returns.

A model of one tensor in and out has `input` and `output`. Several inputs are called as the
arguments of `forward` are; outputs by the way to each, see `torch_module.named_outputs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.model_faults import same
from kdeploy.torch_module.model_outputs import changes_its_input
from kdeploy.torch_module.named_outputs import OUTPUT, named_outputs
from kdeploy.untrusted.user_code import described

INPUT = "input"
AXES: Mapping[str, Mapping[int, int]] = {
    # By the number of the example's dimensions.
    "height": {4: 2},
    "width": {4: 3},
    "length": {2: 1, 3: 2},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IOSignature:
    """Names of the inputs and of the outputs, in their order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether there is one tensor in and one out, returned as such."""
        return self.inputs == (INPUT,) and self.outputs == (OUTPUT,)


class FlattenOutputs(nn.Module):
    """A model that returns its tensors as a tuple, whatever it returned them in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in the order of their names."""
        return tuple(named_outputs(self.model(*inputs)).values())


def ends_of(model: nn.Module, example: tuple[Tensor, ...]) -> IOSignature:
    """Return the names of a model's ends, found by running it once.

    Raises:
        ModelError: it does not take the example, or returns no tensor.
    """
    # The run may change them: a model that counts its calls is put back as it was.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        given = [x.clone() for x in example]
        with torch.no_grad():
            result = model(*given)
    except Exception as error:  # a model may raise anything
        shapes, reason = [list(x.shape) for x in example], described(error, model)
        raise ModelError(
            f"`{type(model).__name__}` cannot run inputs of shape {shapes}: {reason}",
            hint="the example must be what forward() takes: a tensor, or a tuple of all of them",
        ) from error
    for x, shown in zip(example, given, strict=True):
        if not same(x, shown):
            raise changes_its_input(model, x, role=f"`{type(model).__name__}`")
    _check_buffers(model, buffers)
    outputs = tuple(named_outputs(result))
    if not outputs:
        raise ModelError(
            f"`{type(model).__name__}` returns a {type(result).__name__} without a tensor",
            hint="wrap it in a module whose forward() returns tensors",
        )
    return IOSignature(inputs=_input_names(model, len(example)), outputs=outputs)


def _check_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a model that keeps something from call to call: torch's exporter drops it silently."""
    changed = [name for name, buffer in model.named_buffers() if not same(buffer, before[name])]
    if changed:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
        raise ModelError(
            f"`{type(model).__name__}` changes its buffer `{changed[0]}` when it is called: a file "
            "of it would forget that from call to call",
            hint="take the state as an argument of forward() and return it anew: "
            "`y, state = model(x, state)`",
        )


def open_axes(dynamic: tuple[str, ...], example: tuple[Tensor, ...]) -> dict[int, str]:
    """Return the axes that are left open beside the batch, with their names.

    Raises:
        ModelError: the input has no such axis.
    """
    dims = example[0].dim()
    missing = [name for name in dynamic if dims not in AXES[name]]
    if missing:
        raise ModelError(
            f"dynamic: inputs of shape {list(example[0].shape)} have no {missing[0]}",
            hint="images have `height` and `width`, signals and tokens have `length`",
        )
    return {AXES[name][dims]: name for name in dynamic}


def _input_names(model: nn.Module, count: int) -> tuple[str, ...]:
    if count == 1:
        return (INPUT,)
    known = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in known if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    names += [f"input_{n}" for n in range(len(names), count)]
    return tuple(names[:count])
