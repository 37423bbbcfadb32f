"""Remove the channels that a model would miss least, with all that depends on them.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900. Residual sums,
concatenations, splits, depthwise and grouped convolutions and channel shuffles are followed; the
model's output keeps its size. Of multi-head attention whole heads go, or, where that is not
possible, the same channels of every head. What is left is a plain, smaller model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

from kdeploy.compress.channel_rounds import Pruning, Target
from kdeploy.compress.contract import CompressContext, Timing, compressor, refuse_integers
from kdeploy.errors import ModelError, RecipeError
from kdeploy.pruning.choice import Rules
from kdeploy.pruning.coupling import PruningGroup
from kdeploy.pruning.gradient_importance import MOST_ITEMS, hessian, taylor
from kdeploy.pruning.importance import (
    NOTHING,
    Values,
    batch_norm_scale,
    fpgm,
    knows,
    magnitude,
    score,
)
from kdeploy.pruning.removal import check_sizes
from kdeploy.runtimes.run import named
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)


@compressor(
    paper="arXiv:2301.12900",
    before={
        "low_rank",
        "tucker",
        "unstructured",
        "two_four",
        "int8_ptq",
        "int8_qat",
        "int8_dynamic",
        "int4_weights",
    },
    ensures=check_sizes,
)
def prune_channels(
    model: nn.Module,
    context: CompressContext,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None,
    target: Mapping[
        Literal["macs", "parameters", "size", "latency"], Annotated[float, Field(gt=0, lt=1)]
    ]
    | None = None,
    importance: Literal["l1", "l2", "bn_scale", "fpgm", "taylor", "hessian", "random"] = "l2",
    scope: Literal["global", "local", "isomorphic"] = "global",
    round_to: Annotated[int, Field(ge=1)] = 8,
    max_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.9,
    ignore: tuple[str, ...] = (),
    attention: Literal["heads", "width"] = "heads",
    iterations: Annotated[int, Field(ge=1)] = 1,
    regularize: Annotated[float, Field(ge=0)] = 0.0,
    batches: Annotated[int, Field(ge=1)] = 16,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    runtime: str = "onnxruntime_cpu",
    latency_batch_size: Annotated[int, Field(ge=1)] = 1,
    threads: Annotated[int, Field(ge=1)] | None = None,
) -> nn.Module:
    """Return a narrower copy of the model.

    Args:
        model: Is left as it is.
        context: The example that is traced, the batches that `taylor` and `hessian` look at, the
            stopwatch of a latency target, the training of `iterations` and `regularize`.
        ratio: Fraction of the channels that go. Give this or `target`; half the MACs are kept
            when neither is given.
        target: What to keep, e.g. `{macs: 0.5}` for half the multiply-accumulates; or
            `parameters`, or `size`, the bytes of all tensors; reached by bisection on the ratio.
            `{latency: 0.5}` is measured: candidates are exported and take turns with the model
            on `runtime`, until one takes 0.46 to 0.49 of its latency, ten at most.
        importance: What is missed least: least sum of absolute weights (`l1`), of squares (`l2`);
            smallest scale of the batch norm that the channel passes (`bn_scale`); nearest to the
            other filters of its layer (`fpgm`); first-order (`taylor`) or second-order change
            (`hessian`) of the loss on training data; or what the seed says (`random`).
        scope: Rank the channels of all layers together (`global`), layer by layer (`local`), or
            together in layers that are built alike (`isomorphic`); each ranking loses the same
            ratio.
        round_to: Layers keep a multiple of this, or fewer than this. Vector groups compute
            channels in blocks: 8 on AVX2 and on tensor cores in 16 bits, 16 on AVX-512 (there,
            17 channels cost as much as 32) and on tensor cores in INT8, 32 where INT8 and 2:4
            come together; below one block time falls with each channel.
        max_ratio: The fraction of any one layer's channels that may go.
        ignore: Layers that keep all their outputs, by name or pattern, e.g. `[stem.*, fc]`.
        attention: What goes of multi-head attention: whole heads, or a channel of every head; where
            one cannot be shown to compute the same without them, the other is tried.
        iterations: Reach the target in so many steps that keep the same fraction each, with a
            training as `recover` says between them.
        regularize: Train before, as `recover` says, and in each step shrink the weights of what
            goes together by a group lasso: their root mean square by this times the learning
            rate. 5e-4 takes 0.05 off in a thousand steps at 0.1.
        batches: Training batches that `taylor` and `hessian` look at.
        batch_size: Items in each of them. `hessian` takes them one at a time and no more than
            128: a backward pass each, and the memory of one gradient.
        runtime: That a latency target is measured on.
        latency_batch_size: Items in a batch of it.
        threads: Of the runtime; all cores when left out.

    Raises:
        OrderError: the model is quantized already.
        RecipeError: both a ratio and a target.
        UnknownName: a pattern that names no layer, or an unknown runtime.
        ModelError: the model has recurrent layers, or channels that cannot be followed, or it
            takes token ids; or training or a stopwatch is needed, and there is none.
    """
    parsed_target = _parsed_target(ratio, target)
    _check(model, context)
    names = [name for name, _ in model.named_modules()]
    spared = set(matching(names, ignore, where="prune_channels.ignore"))
    timing = Timing(runtime=runtime, batch_size=latency_batch_size, threads=threads)
    _check_timing(parsed_target, timing)
    pruning = Pruning(
        model,
        context,
        target=parsed_target,
        rules=Rules(scope=scope, round_to=round_to, max_ratio=max_ratio),
        rate=partial(
            _rating, context=context, importance=importance, batches=batches, batch_size=batch_size
        ),
        timing=timing,
        is_protected=spared.__contains__,
        attention=attention,
    )
    if regularize:
        pruning.regularize(regularize)
    for number in range(1, iterations + 1):
        pruning.prune(number / iterations)
        if number < iterations:
            pruning.train(f"iteration {number}")
    return pruning.pruned


def _parsed_target(ratio: float | None, target: Mapping[Any, float] | None) -> Target:
    hint = "write `ratio: 0.5`, `target: {macs: 0.5}` or `target: {latency: 0.5}`"
    if ratio is not None and target is not None:
        raise RecipeError(
            f"prune_channels takes one target, found ratio {ratio} and target {dict(target)}",
            hint=hint,
        )
    if ratio is not None:
        return Target(what="channels", fraction=1 - ratio)
    target = target or {"macs": 0.5}
    if len(target) != 1:
        raise RecipeError(f"prune_channels takes one target, found {dict(target)}", hint=hint)
    [(what, fraction)] = target.items()
    return Target(what=what, fraction=fraction)


def _check(model: nn.Module, context: CompressContext) -> None:
    refuse_integers(model, "prune_channels")
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise ModelError(
                f"`{name}` is a {type(module).__name__}: recurrent layers cannot be pruned, "
                "for their channels come back as their own input",
                hint="build the model with a smaller hidden size, and distill it",
            )
    _check_tied(model, context)


def _check_tied(model: nn.Module, context: CompressContext) -> None:
    """Refuse token ids whose table of embeddings is a layer's weight too: it would need two cuts.

    Raises:
        ModelError: with the names of the weight.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    named = [(n, id(p)) for n, p in model.named_parameters(remove_duplicate=False)]
    names = [name for name, at in named if at in tables and [i for _, i in named].count(at) > 1]
    if names:
        raise ModelError(
            f"prune_channels cannot follow the channels of token ids (`{context.data.name}`): "
            f"`{names[0]}` and `{names[1]}` are one weight",
            hint="build the model narrower and distill it, or take `int8_ptq`",
        )


def _check_timing(parsed_target: Target, timing: Timing) -> None:
    if parsed_target.what == "latency":
        named(timing.runtime, where="prune_channels.runtime")
    elif timing != Timing(runtime="onnxruntime_cpu"):
        _LOG.warning(
            "prune_channels: `runtime`, `latency_batch_size` and `threads` have no effect "
            "without `target: {latency: ...}`"
        )


def _rating(
    model: nn.Module,
    groups: Sequence[PruningGroup],
    *,
    context: CompressContext,
    importance: str,
    batches: int,
    batch_size: int,
) -> Callable[[Sequence[PruningGroup]], list[float]]:
    """Return a function that scores groups of the model."""
    part, otherwise = context.data.train, NOTHING
    match importance:
        case "random":
            return lambda groups: _random(len(groups), context.seed)
        case "taylor":
            values = taylor(model, context.labelled(part, batch_size, batches))
        case "hessian":
            values = hessian(
                model, context.labelled(part, 1, min(batch_size * batches, MOST_ITEMS))
            )
        case "bn_scale" | "fpgm":
            values = batch_norm_scale(model) if importance == "bn_scale" else fpgm(model)
            otherwise = magnitude(model, power=2)
            _warn_of_strangers(groups, values, importance)
        case _:
            values = magnitude(model, power=1 if importance == "l1" else 2)
    return partial(score, values=values, otherwise=otherwise)


def _random(count: int, seed: int) -> list[float]:
    numbers: list[float] = np.random.default_rng(seed).random(count).tolist()
    return numbers


def _warn_of_strangers(groups: Sequence[PruningGroup], values: Values, importance: str) -> None:
    count = sum(not knows(values, group) for group in groups)
    if count:
        _LOG.warning(
            "prune_channels: %d of %d units pass no layer that `%s` looks at; `l2` scores them",
            *(count, len(groups), importance),
        )
