"""Batch norm over several processes: statistics of all items of a step, or else of each share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdeploy.training.processes import Processes


def synchronized(model: nn.Module) -> Callable[[], None]:
    """Let the batch norms of a model count the items of all processes; return what undoes it.

    On CUDA only: PyTorch has nothing of the kind for the CPU.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm)
    ]
    for parent, name, child in found:
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
        setattr(parent, name, shared)

    def undo() -> None:
        for parent, name, child in found:
            shared = getattr(parent, name)
            device = next((b.device for b in shared.buffers()), None)
            child.to(device).load_state_dict(shared.state_dict())
            setattr(parent, name, child.train(shared.training))

    return undo


@torch.no_grad()
def average_over(processes: Processes, buffers: Iterable[Tensor]) -> None:
    """Replace statistics by their means over all processes; counters are the same in all."""
    if processes.count == 1:
        return
    for buffer in buffers:
        if buffer.is_floating_point():
            processes.add_up(buffer).div_(processes.count)
