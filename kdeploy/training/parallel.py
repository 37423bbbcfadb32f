"""Data parallel training: each process has all weights, a share of each batch, and one device."""

from __future__ import annotations

from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DataParallel(DDPStrategy):  # type: ignore[misc]  # untyped
    """Fabric's, but batches stay where they are, and so do buffers: they are averaged each epoch.

    Given a device, DDP would move `Batch.rows` there.
    """

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Return the module with gradients that are averaged over all processes."""
        parallel = DistributedDataParallel(module, **self._ddp_kwargs)
        parallel.broadcast_buffers = False  # the argument has another name since PyTorch 2.13
        return parallel
