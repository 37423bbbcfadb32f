"""Data parallel training: each process has a share of each batch, and one device."""

from __future__ import annotations

from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DataParallel(DDPStrategy):  # type: ignore[misc]  # untyped
    """Each process has all weights: Fabric's, but batches stay where they are, and so do buffers.

    Buffers are averaged each epoch. Given a device, DDP would move `Batch.rows` there.
    """

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Return the module with gradients that are averaged over all processes."""
        parallel = DistributedDataParallel(module, **self._ddp_kwargs)
        parallel.broadcast_buffers = False  # the argument has another name since PyTorch 2.13
        return parallel


class ShardedParallel(DDPStrategy):  # type: ignore[misc]  # untyped
    """Each process has a share of all weights: `Sharding` divided the module, which stays so."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        """Return the module itself: its hooks average the gradients."""
        return module

    def module_to_device(self, module: nn.Module) -> None:
        """Do nothing: the shares are there."""
