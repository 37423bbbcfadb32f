"""Drop the blocks that a model would miss least, and keep the others as they are.

Depth pruning: Kim et al., Shortened LLaMA, arXiv:2402.02834; Men et al., ShortGPT,
arXiv:2403.03853; for residual networks: Veit et al., NeurIPS 2016, arXiv:1605.06431. A network
with fewer layers is faster at batch 1 on any device, where a narrower one may not be.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.blocks import check_lists
from kdeploy.compress.contract import CompressContext, Timing, compressor, refuse_integers
from kdeploy.compress.drop_search import Cost, Dropping
from kdeploy.errors import NotCalibrated, RecipeError
from kdeploy.runtimes.run import named
from kdeploy.tasks.contract import task_of
from kdeploy.torch_module.complexity import count_macs, count_parameters
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)


@compressor(
    paper="arXiv:2403.03853",
    before={
        "prune_channels",
        "low_rank",
        "tucker",
        "unstructured",
        "two_four",
        "int8_ptq",
        "int8_qat",
        "int8_dynamic",
        "int4_weights",
    },
    ensures=check_lists,
)
def drop_layers(
    model: nn.Module,
    context: CompressContext,
    *,
    count: Annotated[int, Field(ge=1)] | None = None,
    target: Mapping[
        Literal["macs", "parameters", "layers", "latency"], Annotated[float, Field(gt=0, lt=1)]
    ]
    | None = None,
    ignore: tuple[str, ...] = (),
    batches: Annotated[int, Field(ge=1)] = 4,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    runtime: str = "onnxruntime_cpu",
    latency_batch_size: Annotated[int, Field(ge=1)] = 1,
    threads: Annotated[int, Field(ge=1)] | None = None,
) -> nn.Module:
    """Return a copy of the model without some of its blocks.

    A block is a module that takes one tensor and gives back one of the same shape, such as a
    residual block and what is inside of it and does so too; or a member of a `ModuleList`, such
    as a transformer's layer. One after the other the block goes without which the answers change
    least, and the rest is measured again.

    Args:
        model: Is left as it is.
        context: The training data that the answers are measured on, the stopwatch, the report.
        count: How many blocks go. Give this or `target`; one goes when neither is given.
        target: What to keep, e.g. `{macs: 0.7}`, or `parameters`; blocks go until it is reached,
            least change for each part of the cost first. `{layers: 0.5}`: half of the blocks
            that are stacked in a list or sequence. `{latency: 0.7}` is measured after each block
            on `runtime`.
        ignore: Blocks that stay, by name or pattern, e.g. `[layers.0, stem.*]`.
        batches: Training batches that the answers are measured on.
        batch_size: Items in each of them.
        runtime: That a latency target is measured on.
        latency_batch_size: Items in a batch of it.
        threads: Of the runtime; all cores when left out.

    Raises:
        OrderError: the model is quantized already.
        RecipeError: both a count and a target.
        UnknownName: a pattern that names no module, or an unknown runtime.
        NotCalibrated: there was no data to measure on.
        ModelError: no block can go.
    """
    what, amount = _amount(count, target)
    _check(model, context)
    names = [name for name, _ in model.named_modules()]
    spared = set(matching(names, ignore, where="drop_layers.ignore"))
    named(runtime, where="drop_layers.runtime")
    timing = Timing(runtime=runtime, batch_size=latency_batch_size, threads=threads)
    twin = copy.deepcopy(model)
    modes = {module: module.training for module in twin.modules()}
    items = [x for x, _ in context.batches(context.data.train, batch_size, batches)]
    task, only_layers = task_of(context.data), what == "layers"
    dropping = Dropping(twin.eval(), items, task=task, spared=spared, only_layers=only_layers)
    if what in ("count", "layers"):
        _drop_number(dropping, what, amount)
    else:
        weigh = count_parameters if what == "parameters" else partial(_macs, context.example)
        cost = _latency(model, context, timing) if what == "latency" else weigh
        _drop_to_target(dropping, twin, amount, cost, weigh)
    context.report["layers"] = dropping.rows()
    for module in twin.modules():
        module.training = modes.get(module, model.training)
    return twin


def _drop_number(dropping: Dropping, what: str, amount: float) -> None:
    may_go = len(dropping.open())
    number = round(amount) if what == "count" else may_go - max(1, round(amount * may_go))
    gone = sum(dropping.drop_least() for _ in range(number))
    if gone < number:
        _LOG.warning("drop_layers dropped %d blocks of the %d asked for; no other can go",
                     gone, number)  # fmt: skip


def _drop_to_target(
    dropping: Dropping, model: nn.Module, amount: float, cost: Cost, weigh: Cost
) -> None:
    """Drop until `cost` is met; blocks are chosen by `weigh`, which is known without a device."""
    whole = cost(model)
    while (now := cost(model)) > amount * whole:
        if not dropping.drop_least(weigh):
            _LOG.warning(
                "drop_layers keeps %.1f %%; asked for %.1f %%, and no other block can go",
                *(100 * now / whole, 100 * amount),
            )
            break


def _amount(count: int | None, target: Mapping[Any, float] | None) -> tuple[str, float]:
    hint = "write `count: 2`, `target: {macs: 0.7}` or `target: {layers: 0.5}`"
    if count is not None and target is not None:
        found = f"count {count} and target {dict(target)}"
        raise RecipeError(f"drop_layers takes one target, found {found}", hint=hint)
    if target is None:
        return "count", count or 1
    if len(target) != 1:
        raise RecipeError(f"drop_layers takes one target, found {dict(target)}", hint=hint)
    [(what, fraction)] = target.items()
    return what, fraction


def _check(model: nn.Module, context: CompressContext) -> None:
    refuse_integers(model, "drop_layers")
    if not len(context.data.train):
        raise NotCalibrated(
            f"`{context.data.name}` has no training items to measure blocks on",
            hint="lower `data.validation_fraction`",
        )


def _macs(example: Tensor, model: nn.Module) -> float:
    return count_macs(model, example)


def _latency(model: nn.Module, context: CompressContext, timing: Timing) -> Cost:
    """Return what tells a model's latency, in that of the given one."""
    original, example = copy.deepcopy(model).cpu().eval(), context.example.cpu()

    def latency(pruned: nn.Module) -> float:
        candidate = copy.deepcopy(pruned).cpu().eval()
        whole, own = context.stopwatch([original, candidate], example, timing)
        return own / whole

    return latency
