"""What a network's classifier sees: the features of losses that compare items, unless named.

It is the input of the last linear layer or 1x1 convolution that a forward pass runs, where that
makes the model's outputs. In a recipe it is written `{"head:input": "fc:input"}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.distill.feature_hooks import INPUT
from kdeploy.distill.loss_specs import LossSpec
from kdeploy.errors import ModelError


def with_layers(
    loss_specs: Sequence[LossSpec], student: nn.Module, teacher: nn.Module | None, example: Tensor
) -> tuple[tuple[LossSpec, ...], list[str]]:
    """Return the specs with the classifiers' inputs where no layers were named, and a sentence.

    Args:
        loss_specs: What is learned.
        student: Learns.
        teacher: Is asked; None for a file.
        example: Preprocessed items.

    Raises:
        ModelError: one of the two has no such classifier.
    """
    wanting = [loss_spec for loss_spec in loss_specs if loss_spec.wants_layers]
    if not wanting:
        return tuple(loss_specs), []
    if teacher is None:
        raise _file("teacher")
    own, other = (
        f"{classifier(model, example, role=role)}{INPUT}"
        for role, model in (("student", student), ("teacher", teacher))
    )
    layers = {own: other}
    names = ", ".join(f"`{loss_spec.name}`" for loss_spec in wanting)
    said = f"{names}: no `layers` named, so the classifier's input is compared: `{own}: {other}`"
    return tuple(replace(x, layers=layers) if x in wanting else x for x in loss_specs), [said]


def classifier(model: nn.Module, example: Tensor, *, role: str) -> str:
    """Return the path of the layer that makes a model's outputs out of one vector or map an item.

    Raises:
        ModelError: the last such layer makes something else, sees tokens, or there is none.
    """
    if next(model.children(), None) is None and next(model.parameters(), None) is None:
        raise _file(role)
    last: list[tuple[str, tuple[int, ...], Any]] = []

    def watched(path: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            del module
            last[:] = [(path, tuple(inputs[0].shape) if inputs else (), output)]

        return record

    was_training = model.training
    model.eval()
    try:
        with ExitStack() as hooks, torch.no_grad():
            for path, module in model.named_modules():
                if path and _is_pointwise(module):
                    hooks.enter_context(module.register_forward_hook(watched(path)))
            outputs = model(example)
    finally:
        model.train(was_training)
    if not last:
        raise _unknown(role, "it has no linear layer and no 1x1 convolution that runs")
    path, shape, made = last[0]
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


def _file(role: str) -> ModelError:
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
