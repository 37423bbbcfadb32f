"""Remove the channels that a model would miss least, with all that depends on them.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900. Residual sums,
concatenations, splits, depthwise and grouped convolutions and channel shuffles are followed; the
model's output keeps its size. What is left is a plain, smaller model.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from kdeploy.channels.choice import Kept, Ranking, Rules, balance, choose, choose_to_budget
from kdeploy.channels.cost import cost_without
from kdeploy.channels.coupling import Slot, find_units
from kdeploy.channels.importance import magnitude, score, taylor
from kdeploy.channels.removal import all_channels, check_sizes, remove_checked
from kdeploy.channels.tracing import traceable
from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.errors import ModelError, OrderError, RecipeError, UnknownName
from kdeploy.quantization.contract import Wrapped

_LOG = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the target; a choice further off is reported
ROUNDING = 1e-2  # of the outputs' spread; sums in another order stay below 1e-4


@compressor(paper="arXiv:2301.12900", before={"int8_ptq", "int8_dynamic"}, ensures=check_sizes)
def prune_channels(
    model: nn.Module,
    context: CompressContext,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None,
    target: Mapping[Literal["macs", "parameters"], Annotated[float, Field(gt=0, lt=1)]]
    | None = None,
    importance: Literal["l1", "l2", "taylor"] = "l2",
    scope: Literal["global", "local"] = "global",
    round_to: Annotated[int, Field(ge=1)] = 8,
    max_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.9,
    ignore: tuple[str, ...] = (),
    batches: Annotated[int, Field(ge=1)] = 16,
    batch_size: Annotated[int, Field(ge=1)] = 32,
) -> nn.Module:
    """Return a narrower copy of the model.

    Args:
        model: Is left as it is.
        context: The example that is traced, and the batches that `taylor` looks at.
        ratio: Fraction of the channels that go. Give this or `target`; half the MACs are kept
            when neither is given.
        target: What to keep, e.g. `{macs: 0.5}` for half the multiply-accumulates, or
            `{parameters: 0.3}`; reached by bisection on the ratio.
        importance: What is missed least: least sum of absolute weights (`l1`), of squares (`l2`),
            or of the first-order change of the loss on training data (`taylor`).
        scope: Rank the channels of all layers together (`global`) or layer by layer (`local`).
        round_to: Layers keep a multiple of this, or fewer than this. Vector units compute
            channels in blocks, 8 on AVX2 and tensor cores, 16 on AVX-512 (there, 17 channels
            cost as much as 32); below one block time falls with each channel.
        max_ratio: The fraction of any one layer's channels that may go.
        ignore: Layers that keep all their outputs, by name or pattern, e.g. `[stem.*, fc]`.
        batches: Training batches that `taylor` looks at.
        batch_size: Items in each of them.

    Raises:
        OrderError: the model is quantized already.
        RecipeError: both a ratio and a target.
        ModelError: the model has recurrent layers, or channels that cannot be followed, or it
            takes token ids.
    """
    if ratio is not None and target is not None:
        raise RecipeError(
            f"prune_channels takes one aim, found ratio {ratio} and target {dict(target)}",
            hint="write `ratio: 0.5`, `target: {macs: 0.5}` or `target: {parameters: 0.5}`",
        )
    _check(model, ignore)
    if not context.example.is_floating_point():
        raise ModelError(
            f"prune_channels cannot follow channels from token ids (`{context.data.name}`)",
            hint="build the model narrower and distill it, or take `int8_ptq`",
        )
    twin = copy.deepcopy(model)
    with traceable(twin):
        units = find_units(
            twin, context.example, is_protected=lambda n: any(fnmatchcase(n, p) for p in ignore)
        )
        if importance == "taylor":
            values = taylor(twin, context.batches(context.data.train, batch_size, batches))
        else:
            values = magnitude(twin, power=1 if importance == "l1" else 2)
        units = balance(units, score(units, values))
        ranking = Ranking(units, score(units, values))
        rules = Rules(scope=scope, round_to=round_to, max_ratio=max_ratio)
        if ratio is not None:
            kept = choose(ranking, ratio, rules)
        else:
            kept = _choose_to_target(twin, context, ranking, rules, target or {"macs": 0.5})
        channels = all_channels(ranking.units(kept))
        _warn(channels, remove_checked(twin, channels, context.example))
    return twin


def _check(model: nn.Module, ignore: tuple[str, ...]) -> None:
    if isinstance(model, Wrapped):
        raise OrderError(
            f"channels cannot be removed from a quantized model (`{model.wrapper}`)",
            hint="put `prune_channels` before the INT8 step",
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise ModelError(
                f"`{name}` is a {type(module).__name__}: recurrent layers cannot be pruned, "
                "for their channels come back as their own input",
                hint="build the model with a smaller hidden size, and distill it",
            )
    names = [name for name, _ in model.named_modules()]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName.among("layer", pattern, names, where="prune_channels.ignore")


def _choose_to_target(
    model: nn.Module,
    context: CompressContext,
    ranking: Ranking,
    rules: Rules,
    target: Mapping[Literal["macs", "parameters"], float],
) -> Kept:
    if len(target) != 1:
        raise RecipeError(
            f"prune_channels takes one target, found {dict(target)}",
            hint="write `target: {macs: 0.5}` or `target: {parameters: 0.5}`",
        )
    [(what, fraction)] = target.items()
    cost = cost_without(model, context.example, what)
    whole = cost({})
    kept = choose_to_budget(
        ranking, rules, cost=lambda kept: cost(ranking.channels(kept)), budget=fraction * whole
    )
    reached = cost(ranking.channels(kept)) / whole
    is_close = abs(reached - fraction) <= TOLERANCE * fraction
    _LOG.log(
        logging.INFO if is_close else logging.WARNING,
        "prune_channels keeps %.1f %% of the %s; asked for %.1f %% (round_to %d, max_ratio %g)",
        *(reached * 100, what, fraction * 100, rules.round_to, rules.max_ratio),
    )
    return kept


def _warn(channels: Mapping[Slot, tuple[int, ...]], moved: float) -> None:
    if not channels:
        _LOG.warning("prune_channels: no channel may go by these rules; nothing has changed")
    if moved > ROUNDING:
        _LOG.warning(
            "prune_channels: an operation across channels (a layer norm, an attention) sees fewer "
            "of them: outputs moved by %.2g of their spread; recover by training",
            moved,
        )
