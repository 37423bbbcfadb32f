"""Run one compression step: check its parameters before, and its result after.

The given model stays as it is. A step that breaks the output or its own promise is an error that
names it, here and not three steps later.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.formats import check_takes_files
from kdeploy.errors import KdeployError, ModelError
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.registry import find, validate
from kdeploy.torch_module.model_outputs import outputs_of
from kdeploy.torch_module.reparametrized import computed_weights, with_plain_weights
from kdeploy.torch_module.transformers_configuration import fit_configuration
from kdeploy.untrusted.user_code import described, users_error

_LOG = logging.getLogger(__name__)


def compress(
    model: nn.Module, technique: str, parameters: Mapping[str, Any], context: CompressContext
) -> nn.Module:
    """Return a compressed copy of `model`, on the same device.

    Args:
        model: Is left as it is.
        technique: The name of a compressor, as `kdeploy list compressor` prints it.
        parameters: The technique's own parameters; those left out take their defaults.
        context: The data that it may look at, the seed, and the device to work on.

    Raises:
        UnknownName: no such technique or parameter.
        RecipeError: a parameter of the wrong type or out of range.
        ModelError: the step failed, changed the output's shape, made it infinite, or broke its
            promise.
    """
    found = find("compressor", technique)
    if isinstance(model, OnnxModel):
        check_takes_files(technique)
    resolved = validate(found.parameters, parameters, where=f"compress.{technique}")
    step = found.load()
    home = next(model.parameters(), torch.empty(0)).device
    twin = _plain_copy(model, technique).to(context.device)
    example = context.example
    before = _outputs(twin, example, technique)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        result = _run(step, twin, context, resolved, technique)
    fit_configuration(result)
    _check(before, _outputs(result, example, technique), technique)
    check_ensured(step, result, technique)
    return result.to(home)


def _plain_copy(model: nn.Module, name: str) -> nn.Module:
    """Return a copy without weight norm and its like: techniques change weights as they stand."""
    computed = computed_weights(model)
    if not computed:
        return copy.deepcopy(model)
    kinds = ", ".join(sorted(set(computed.values())))
    _LOG.info("%s: %s of %d weights is folded into them", name, kinds, len(computed))
    return with_plain_weights(model)


def _run(
    step: Any, model: nn.Module, context: CompressContext, given: Mapping[str, Any], name: str
) -> nn.Module:
    try:
        return step(model, context, **given)  # type: ignore[no-any-return]
    except KdeployError:
        raise
    except (Exception, SystemExit) as error:
        if (users := users_error(error)) is not None:
            raise ModelError(f"compress.{name}: {users.message}", hint=users.hint) from error
        raise ModelError(
            f"compress.{name} failed: {described(error)}",
            hint="the technique does not know this architecture; --debug shows where it stopped",
        ) from error


def _outputs(model: nn.Module, example: Tensor, name: str) -> Tensor:
    """Return what the model computes in eval mode; its modes are left as they were."""
    hint = "the data's shape and the model's input must fit"
    return outputs_of(model, example, role=f"compress.{name}: the model", hint=hint)


def _check(before: Tensor, after: Tensor, name: str) -> None:
    if after.shape != before.shape:
        raise ModelError(
            f"compress.{name} changed the output from {tuple(before.shape)} to "
            f"{tuple(after.shape)}",
            hint="protect the last layer, if the technique has an `ignore` parameter",
        )
    if not after.isfinite().all() and before.isfinite().all():
        raise ModelError(
            f"compress.{name} made the output infinite or not a number",
            hint="compress less in this step, or recover by training in between",
        )


def check_ensured(step: Any, model: nn.Module, name: str) -> None:
    """Raise ModelError unless the model holds what the technique promises."""
    ensures = step.facts.get("ensures")
    if ensures is None:
        return
    try:
        ensures(model)
    except AssertionError as error:
        raise ModelError(
            f"compress.{name} does not hold what it promises: {error}",
            hint="this is a fault of the technique; please report it with the recipe",
        ) from error
