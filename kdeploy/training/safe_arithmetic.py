"""Settle, before a training, how it computes: what was chosen for speed is tried out first.

Layout, precision and threads choose between kernels, and a kernel may never have been tried on the
shapes to come. So the calls of all batch sizes to come are recorded, tried in a process that may
die of them, and avoided where they fail: by one layer, or else by the whole training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from kdeploy.torch_module.named_inputs import call
from kdeploy.training.arithmetic import Arithmetic, Layers, applied
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.contract import Batch
from kdeploy.training.kernel_calls import Record, can_record, recorded
from kdeploy.training.kernel_check import Finding, findings
from kdeploy.training.kernel_faults import is_channels_last
from kdeploy.training.validation import validation_batches

ROUNDS = 6
LOW_TYPES = frozenset({"bfloat16", "float16"})
logger = logging.getLogger(__name__)


def settled(
    asked: Arithmetic,
    layers: Layers,
    steps: Callable[[], Sequence[Callable[[], object]]],
    *,
    lay_out: Callable[[Arithmetic], None],
    device: torch.device,
) -> Arithmetic:
    """Return the arithmetic that is safe, with the reasons where it is not as asked for.

    Args:
        asked: What is fastest, or was settled on before the training was interrupted.
        layers: Of the training, in the layout that is asked for.
        steps: Makes what is going to be computed, one for each batch size; in another process.
        lay_out: Puts models and batches into the layout.
        device: Only a CPU is tried: what the kernels of a GPU do wrong does not end the process.
    """
    if asked.is_plain or not can_record(device):
        return asked
    current = asked
    for _ in range(ROUNDS):
        lay_out(current)
        with applied(current, layers, device.type):
            record = recorded(steps, layers, is_cast=current.precision == "bf16")
        changed = _without(record, current, layers)
        if changed == current:
            _tell(current, asked)
            return current
        current = changed
        if current.is_plain:
            break
    current = current.plain()
    lay_out(current)
    _tell(current, asked)
    return current


def _without(record: Record, current: Arithmetic, layers: Layers) -> Arithmetic:
    """Return the arithmetic without what was found to be wrong with it."""
    if record.died:
        why = f"a forward pass ended the process that tried it ({record.died})"
        return _plain(current, why)
    if record.error:
        return _after_error(record, current, layers)
    found, _ = findings(record.calls, threads=current.threads)
    # One change a layer and round: what is bad in the plain layout too shows in the next round.
    for finding in {finding.layer: finding for finding in reversed(found)}.values():
        current = _avoiding(finding, current, layers)
    return current


def _after_error(record: Record, current: Arithmetic, layers: Layers) -> Arithmetic:
    """Return float32 for the layer that fails; the same where it failed in float32 already."""
    name = record.layer
    is_float32 = current.precision == "fp32" or name in current.float32_layers
    if is_float32:
        # Then the training itself says what is wrong, at the same place.
        return current
    return _in_float32(name, record.error, current, layers)


def _avoiding(finding: Finding, current: Arithmetic, layers: Layers) -> Arithmetic:
    tensors = [v["tensor"] for v in finding.call["args"] if isinstance(v, dict) and "tensor" in v]
    is_laid_out = any(is_channels_last(shape, stride) for shape, stride, _, _ in tensors)
    is_low = any(dtype in LOW_TYPES for _, _, dtype, _ in tensors)
    name, fault = finding.layer, finding.message
    if is_laid_out and current.channels_last and name not in current.contiguous_layers:
        if layers.is_whole(name):
            why = f"{_place(name)} and with it all layers keep the plain layout: {fault}"
            return _because(replace(current, channels_last=False, contiguous_layers=()), why)
        kept = (*current.contiguous_layers, str(name))
        return _because(
            replace(current, contiguous_layers=kept),
            f"{_place(name)} keeps the plain layout: {fault}",
        )
    if is_low and name not in current.float32_layers:
        return _in_float32(name, fault, current, layers)
    return current if not (is_laid_out or is_low) else _plain(current, fault)


def _in_float32(name: str | None, fault: str, current: Arithmetic, layers: Layers) -> Arithmetic:
    if layers.is_whole(name):
        why = f"{_place(name)} and with it all layers compute in float32: {fault}"
        return _because(replace(current, precision="fp32", float32_layers=()), why)
    kept = (*current.float32_layers, str(name))
    why = f"{_place(name)} computes in float32: {fault}"
    return _because(replace(current, float32_layers=kept), why)


def _plain(current: Arithmetic, why: str) -> Arithmetic:
    return _because(current.plain(), f"all layers keep float32 and the plain layout: {why}")


def _place(name: str | None) -> str:
    return f"`{name}`" if name else "the model"


def _because(current: Arithmetic, why: str) -> Arithmetic:
    return current if why in current.because else replace(current, because=(*current.because, why))


def _tell(current: Arithmetic, asked: Arithmetic) -> None:
    new = [why for why in current.because if why not in asked.because]
    if not new:
        return
    more = f" (and {len(new) - 1} more, see the manifest)" if len(new) > 1 else ""
    logger.warning("%s%s (torch %s)", new[0], more, torch.__version__)


def modules_asked(objective: nn.Module) -> Sequence[nn.Module]:
    """Return the models that an objective asks without training them."""
    teacher = getattr(objective, "teacher", None)
    return tuple(getattr(teacher, "models", ()))


def passes_to_come(
    objective: nn.Module, batches: TrainingBatches, *, seed: int
) -> Sequence[Callable[[], object]]:
    """Return the forward passes of a training, one of each size, as they are in it."""
    student = objective.get_submodule("student")
    first = next(batches.epoch([seed, 0]))
    parts = [
        Batch(x=first.x[:n], labels=first.labels[:n], rows=first.rows[:n], progress=0.5)
        for n in batches.part_sizes()
    ]
    objective.train()

    @torch.no_grad()
    def validate(x: Tensor) -> None:
        call(student.eval(), x)

    found = validation_batches(batches.data, batches.device, batches.processes)
    return [partial(objective, part) for part in parts] + [partial(validate, x) for x in found]
