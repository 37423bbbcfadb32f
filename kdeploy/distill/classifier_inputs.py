"""What a network's classifier sees: the features of losses that compare items, unless named.

It is the input of the last linear layer or 1x1 convolution that a forward pass runs, where that
makes the model's outputs. In a recipe it is written `{"head:input": "fc:input"}`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.named_inputs import call


def classifier(model: nn.Module, example: Tensor, *, role: str) -> str:
    """Return the path of the layer that makes a model's outputs out of one vector or map an item.

    Raises:
        ModelError: the last such layer makes something else, sees tokens, or there is none.
    """
    if is_file(model):
        raise no_layers_of_a_file(role)
    last: list[tuple[str, tuple[int, ...], Any]] = []

    def watched(path: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            del module
            # By the order in which layers run, not by that of `named_modules`.
            last[:] = [(path, tuple(inputs[0].shape) if inputs else (), output)]

        return record

    was_training = model.training
    model.eval()
    try:
        with ExitStack() as hooks, torch.no_grad():
            for path, module in model.named_modules():
                if path and _is_pointwise(module):
                    hooks.enter_context(module.register_forward_hook(watched(path)))
            outputs = call(model, example)
    finally:
        model.train(was_training)
    if not last:
        raise _unknown(role, "it has no linear layer and no 1x1 convolution that runs")
    path, shape, made = last[0]
    # Channels of a 1x1 convolution's map and features of a vector are both dimension 1.
    if made.numel() and made.shape[1] != outputs.shape[-1]:
        found = f"its last one, `{path}`, makes {tuple(made.shape)} of {tuple(shape)}"
        raise _unknown(role, f"{found}, and its outputs are {tuple(outputs.shape)}")
    if isinstance(model.get_submodule(path), nn.Linear) and len(shape) != 2:
        raise _unknown(role, f"`{path}` sees {tuple(shape)}, several vectors an item")
    return path


def _is_pointwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return isinstance(module, nn.Linear)
    return module.groups == 1 and set(module.kernel_size) == {1}


def is_file(model: nn.Module) -> bool:
    """Return whether a model has no layers that could be watched."""
    return next(model.children(), None) is None and next(model.parameters(), None) is None


def no_layers_of_a_file(role: str) -> ModelError:
    """Return the error that says so."""
    return ModelError(
        f"the {role} is a file, of which no inner layer can be compared",
        hint="use losses on outputs, e.g. `losses: [{kd: {}}]`, or a torch model",
    )


def _unknown(role: str, found: str) -> ModelError:
    return ModelError(
        f"which layer is the classifier of the {role} is not plain: {found}",
        hint='name what is compared: `layers: {"STUDENT.PATH": "TEACHER.PATH"}`, modules as '
        "`model.named_modules()` gives them",
    )
