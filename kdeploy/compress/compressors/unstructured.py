"""Set the least important weights to zero, wherever they are: a smaller download, not faster.

Han et al., NeurIPS 2015, arXiv:1506.02626. Runtimes multiply with the zeros like with any other
number; what falls is the size behind a compressor, which the report states.
"""

from __future__ import annotations

import copy
import logging
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, StepTraining, compressor, refuse_integers
from kdeploy.compress.sparsification import NEVER_RAN, calibrating, tell
from kdeploy.errors import ModelError
from kdeploy.sparsity.choice import WeightRanking, input_norms, set_zeros
from kdeploy.sparsity.gradual import GradualZeros
from kdeploy.sparsity.layers import (
    first_to_run,
    is_depthwise,
    layers_with_weights,
    weight_of,
)
from kdeploy.sparsity.zeros import sparse_weights
from kdeploy.torch_module.input_gram import input_squares
from kdeploy.torch_module.layer_patterns import matching

LEAST = 0.05  # a sparsity below this pays nowhere
REACHED_AT = 0.75  # of the training; the rest heals what the last zeros broke
_LOG = logging.getLogger(__name__)


def is_sparse(model: nn.Module) -> None:
    """Raise AssertionError unless some layer is as sparse as the least that can be asked for."""
    # Half of it: where a part of few weights is taken, it is rounded.
    assert sparse_weights(model, least=LEAST / 2), "no layer has zeros in its weights"


@compressor(
    paper="arXiv:1506.02626",
    before={"two_four", "int8_ptq", "int8_qat", "int8_dynamic", "int4_weights"},
    sparse=True,
    ensures=is_sparse,
)
def unstructured(
    model: nn.Module,
    context: CompressContext,
    *,
    sparsity: Annotated[float, Field(ge=0.05, le=0.98)] = 0.5,
    scope: Literal["global", "local"] = "global",
    importance: Literal["magnitude", "wanda"] = "magnitude",
    schedule: Literal["one_shot", "gradual"] = "one_shot",
    reached_at: Annotated[float, Field(gt=0, le=1)] | None = None,
    spare: bool = True,
    ignore: tuple[str, ...] = (),
    batches: Annotated[int, Field(ge=1)] = 16,
    batch_size: Annotated[int, Field(ge=1)] = 32,
) -> nn.Module:
    """Return the model with zeros in its linear and convolution layers; its shape stays.

    Args:
        model: Is left as it is.
        context: The training data that `wanda` looks at; the training of `gradual`.
        sparsity: Fraction of zeros in the layers that are not kept dense, all together.
        scope: Rank the weights of all layers together (`global`, which leaves each at least 1 %
            of its weights), or of each layer (`local`; `wanda`: of each output, as published).
        importance: `magnitude`, or `wanda`: magnitude times the root mean square of the input that
            the weight is multiplied with (arXiv:2306.11695).
        schedule: `one_shot`: all at once; `gradual`: more and more along a training with the
            settings of `recover` (arXiv:1710.01878).
        reached_at: The part of that training at which all zeros are set; null: 0.75.
        spare: Keep the layer that runs first, and depthwise convolutions, dense: they hold few
            weights and each counts. The last layer is like any other.
        ignore: Layers that stay dense, by name or pattern, e.g. `[head, encoder.*]`.
        batches: Training batches that `wanda` looks at.
        batch_size: Items in each of them.

    Raises:
        OrderError: the model is quantized already.
        ModelError: no layer is left to set zeros in.
        NotCalibrated: there was no data to look at.
    """
    refuse_integers(model, "unstructured")
    if schedule == "one_shot" and reached_at is not None:
        _LOG.warning("unstructured: `reached_at` has no effect without `schedule: gradual`")
    twin = copy.deepcopy(model)
    dense = _kept_dense(twin, context, spare, ignore)
    layers = [name for name in layers_with_weights(twin) if name not in dense]
    norms = {}
    if importance == "wanda":
        seen = calibrating(context, batches=batches, batch_size=batch_size)
        squares = input_squares(twin, seen, layers)
        dense |= {name: NEVER_RAN for name in layers if name not in squares}
        layers = list(squares)
        for name, square in squares.items():
            norms[_weight(name)] = input_norms(square, weight_of(twin.get_submodule(name)))
    if not layers:
        raise ModelError(
            f"unstructured: no layer is left to set zeros in; kept dense: {_listed(dense)}",
            hint="shorten `ignore`, or set `spare: false`",
        )
    names = tuple(map(_weight, layers))
    choice = WeightRanking(scope=scope, norms=norms)
    if schedule == "gradual":
        zeros = GradualZeros(
            names, choice=choice, sparsity=sparsity, reached_at=reached_at or REACHED_AT
        )
        training = StepTraining(name="gradual", constraints=(zeros,), keep="last", is_last=True)
        context.train(twin, model, training)
        twin.to(context.device)
    # After a training as well: an average of its weights still holds some that went.
    set_zeros(twin, names, choice, sparsity)
    tell(context, model, twin, dense)
    return twin


def _kept_dense(
    model: nn.Module, context: CompressContext, spare: bool, ignore: tuple[str, ...]
) -> dict[str, str]:
    layers = layers_with_weights(model)
    reasons = {}
    if spare:
        reasons = {n: "depthwise convolution" for n, layer in layers.items() if is_depthwise(layer)}
        first = first_to_run(model, layers, context.example)
        if first is not None:
            reasons[first] = "runs first"
    named = matching(layers, ignore, where="unstructured.ignore")
    return reasons | dict.fromkeys(named, "named in `ignore`")


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _listed(dense: dict[str, str]) -> str:
    return "; ".join(f"`{name}` ({reason})" for name, reason in list(dense.items())[:3]) or "none"
