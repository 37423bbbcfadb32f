"""The ends of a model: names for all the tensors that it takes and returns.

A model of one tensor in and out has `input` and `output`. Several inputs are called as the
arguments of `forward` are; outputs by the way to each, see `torch_module.named_outputs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.model_faults import same
from kdeploy.torch_module.model_outputs import changes_its_input
from kdeploy.torch_module.named_inputs import NamedTensors, call, shape_in_words
from kdeploy.torch_module.named_outputs import OUTPUT, named_outputs
from kdeploy.untrusted.user_code import described

INPUT = "input"
Example: TypeAlias = tuple[Tensor, ...] | NamedTensors
"""All that `forward` takes, in its order, or by name."""
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

    def __init__(self, model: nn.Module, inputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        """By which the model is called; () to call it in order."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in the order of their names."""
        named = dict(zip(self.inputs, inputs, strict=False))
        return tuple(named_outputs(self.model(*inputs[len(named) :], **named)).values())


def ends_of(model: nn.Module, example: Example) -> IOSignature:
    """Return the names of a model's ends, found by running it once.

    Several inputs by name, `NamedTensors`, keep their names.

    Raises:
        ModelError: it does not take the example, or returns no tensor.
    """
    # The run may change them: a model that counts its calls is put back as it was.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    tensors = tensors_in(example)
    try:
        given = [x.clone() for x in tensors]
        with torch.no_grad():
            result = _called(model, example, given)
    except Exception as error:  # a model may raise anything
        shapes, reason = [list(x.shape) for x in tensors], described(error, model)
        raise ModelError(
            f"`{type(model).__name__}` cannot run inputs of shape {shapes}: {reason}",
            hint="the example must be what forward() takes: a tensor, or a tuple of all of them",
        ) from error
    for x, shown in zip(tensors, given, strict=True):
        if not same(x, shown):
            raise changes_its_input(model, x, role=f"`{type(model).__name__}`")
    _check_buffers(model, buffers)
    outputs = tuple(named_outputs(result))
    if not outputs:
        raise ModelError(
            f"`{type(model).__name__}` returns a {type(result).__name__} without a tensor",
            hint="wrap it in a module whose forward() returns tensors",
        )
    names = _input_names(model, len(tensors))
    if isinstance(example, NamedTensors):
        names = tuple(example.tensors)
    return IOSignature(inputs=names, outputs=outputs)


def tensors_in(example: Example) -> tuple[Tensor, ...]:
    """Return the tensors of an example in their order."""
    return tuple(example.tensors.values()) if isinstance(example, NamedTensors) else example


def _called(model: nn.Module, example: Example, tensors: Sequence[Tensor]) -> Any:
    if not isinstance(example, NamedTensors):
        return model(*tensors)
    return call(model, NamedTensors(dict(zip(example.tensors, tensors, strict=True))))


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


def num_rows(example: tuple[Tensor, ...]) -> int:
    """Return how many rows an example has: those of its first tensor that is no scalar."""
    return next((len(tensor) for tensor in example if tensor.dim()), 0)


def batch_axis(tensor: Tensor, rows: int) -> int:
    """Return which axis of an example holds its rows: the first of that size.

    A state of recurrent layers is (layers, batch, width). Where no axis has the size, it is the
    first.
    """
    return next((axis for axis, size in enumerate(tensor.shape) if size == rows), 0)


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


def open_axes_by_name(dynamic: tuple[str, ...], example: Any) -> dict[str, dict[int, str]]:
    """Return, of several inputs, the axes of each that are left open beside the batch.

    Images have height and width, signals and token ids a length; of a vector of floats no size is
    open. Axes of one name are of one size in a call.

    Raises:
        ModelError: no input has such an axis.
    """
    found: dict[str, dict[int, str]] = {name: {} for name in example.tensors}
    for name, tensor in example.tensors.items():
        is_vector = tensor.dim() == 2 and tensor.is_floating_point()
        for axis in () if is_vector else dynamic:
            if tensor.dim() in AXES[axis]:
                found[name][AXES[axis][tensor.dim()]] = axis
    known = {axis for axes in found.values() for axis in axes.values()}
    missing = [axis for axis in dynamic if axis not in known]
    if missing:
        raise ModelError(
            f"dynamic: of the inputs {shape_in_words(example)} none has a {missing[0]}",
            hint="images have `height` and `width`, signals and token ids have `length`",
        )
    return found


def _input_names(model: nn.Module, count: int) -> tuple[str, ...]:
    if count == 1:
        return (INPUT,)
    known = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in known if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    names += [f"input_{n}" for n in range(len(names), count)]
    return tuple(names[:count])
