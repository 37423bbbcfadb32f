"""Data parallel training: each process has all weights, a share of each batch, and one device."""

from __future__ import annotations

from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DataParallel(DDPStrategy):  # type: ignore[misc]  # untyped
    """Fabric's, but batches stay where they are: given a device, DDP would move `rows` there."""

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Return the module with gradients that are averaged over all processes."""
        return DistributedDataParallel(module, **self._ddp_kwargs)
